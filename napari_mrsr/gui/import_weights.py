"""Importing weights made elsewhere: a small dialog, and the command line that does it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QCheckBox, QComboBox, QDialog, QDialogButtonBox, QFileDialog, QFormLayout, QLineEdit, QPushButton, QWidget

from napari_mrsr.errors import RunError
from napari_mrsr.gui.dock import in_background, note

FILTER = "Weights (*.pth *.pt *.ckpt *.safetensors);;All files (*)"
BY_FILE = "as the file tells"
PATIENCE = 600
"""Seconds after which an import is given up."""
_LAST_LINE = "model: "


@dataclass(frozen=True)
class WeightsImport:
    """What to import.

    Attributes
    ----------
    path : str
        Weights file.
    name : str
        For the model list; empty: the file's.
    scale : int or None
        Factor, where the file does not tell it.
    overwrite : bool
        Replace a model of that name.
    """

    path: str
    name: str = ""
    scale: int | None = None
    overwrite: bool = False

    def arguments(self) -> list[str]:
        """For the command line."""
        words = ["models", "import"]
        if self.name:
            words += ["--name", self.name]
        if self.scale is not None:
            words += ["--scale", str(self.scale)]
        if self.overwrite:
            words.append("--overwrite")
        return [*words, "--", self.path]


def import_weights(wanted: WeightsImport) -> str:
    """Import weights with the command line, so that this process needs no torch.

    Returns
    -------
    str
        Name of the new model.

    Raises
    ------
    RunError
        With the sentence that the command line gave.
    """
    command = [sys.executable, "-m", "napari_mrsr", *wanted.arguments()]
    hidden = getattr(subprocess, "CREATE_NO_WINDOW", 0)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE, stdin=subprocess.DEVNULL, creationflags=hidden)
    except OSError as error:
        raise RunError(f"The import could not be started ({sys.executable}): {error.strerror}.") from None
    except subprocess.TimeoutExpired:
        raise RunError(f"The import of {Path(wanted.path).name} took more than {PATIENCE // 60} minutes and was given up.") from None
    said = done.stdout.strip().splitlines()
    if done.returncode == 0 and said and said[-1].startswith(_LAST_LINE):
        return said[-1].removeprefix(_LAST_LINE)
    problems = done.stderr.strip().splitlines()
    sentence = problems[-1].removeprefix("napari-mrsr: ").removeprefix("Error: ") if problems else f"it ended with code {done.returncode}."
    raise RunError(sentence if done.returncode == 2 else f"{Path(wanted.path).name} could not be imported: {sentence}")


class ImportDialog(QDialog):
    """Asks for what a weights file may not tell."""

    def __init__(self, path: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Import weights")
        self._path = path
        self.name = QLineEdit()
        self.name.setPlaceholderText("the file's")
        self.name.setToolTip("Name in the model list: small letters, digits, dots and dashes")
        self.scale = QComboBox()
        self.scale.addItems([BY_FILE, "2", "3", "4", "5", "6", "7", "8"])
        self.scale.setToolTip("Factor the weights were trained for; public checkpoints of DCAMSR and TransMRSR do not tell it")
        self.overwrite = QCheckBox("Replace a model of that name")
        buttons = QDialogButtonBox()
        buttons.addButton(QDialogButtonBox.StandardButton.Ok)
        buttons.addButton(QDialogButtonBox.StandardButton.Cancel)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        form = QFormLayout(self)
        form.addRow(note(f"Weights from {Path(path).name} become a model in your list. Public checkpoints do not tell their factor: choose it."))
        form.addRow("Name", self.name)
        form.addRow("Factor", self.scale)
        form.addRow(self.overwrite)
        form.addRow(buttons)

    def wanted(self) -> WeightsImport:
        """What was chosen."""
        scale = self.scale.currentText()
        return WeightsImport(self._path, self.name.text().strip(), None if scale == BY_FILE else int(scale), self.overwrite.isChecked())


class ImportButton(QPushButton):
    """Asks for a file and what it may not tell, and imports it away from the GUI thread.

    Signals
    -------
    imported(str), failed(str)
        Name of the new model, or one sentence.
    """

    imported = Signal(str)
    failed = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.setToolTip("Add weights made elsewhere to the models")
        self.clicked.connect(self._ask)
        self._set_busy(False)

    def _ask(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Import weights", "", FILTER)
        if not path:
            return
        dialog = ImportDialog(path, self)
        if dialog.exec() == QDialog.DialogCode.Accepted:
            self._set_busy(True)
            in_background(import_weights, dialog.wanted(), done=self._done, failed=self._failed, owner=self)

    def _set_busy(self, busy: bool) -> None:
        self.setEnabled(not busy)
        self.setText("Importing..." if busy else "Import weights...")

    def _done(self, name: str) -> None:
        self._set_busy(False)
        self.imported.emit(name)

    def _failed(self, sentence: str) -> None:
        self._set_busy(False)
        self.failed.emit(sentence)
