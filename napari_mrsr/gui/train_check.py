"""A look at the data before a training starts, in a process of its own: what is wrong, how much there is, how long it will take."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from napari_mrsr.errors import RunError
from napari_mrsr.gui.dock import WARNING, in_background, note
from napari_mrsr.gui.train_data import write_copies
from napari_mrsr.io import make_folder, write_text
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.training.runs import runs_folder
from napari_mrsr.volume import Volume

PATIENCE = 900
"""Seconds after which a check is given up."""
FINE = "#009e73"
MOST_SENTENCES = 5
"""Problems, or warnings, told one by one."""


def draft_folder() -> Path:
    """Where copies of layers lie while they are checked."""
    return runs_folder() / f".draft-{os.getpid()}"


def check_recipe(recipe: Recipe, volumes: Sequence[tuple[str, Volume]], folder: Path, device: str) -> dict[str, Any]:
    """Check a recipe and its data in a process of its own, so that this one needs no torch.

    Returns
    -------
    dict
        ``problems``, ``warnings``, ``facts`` and ``devices``, each a list of sentences or names.

    Raises
    ------
    OutputError
        If the copies cannot be written.
    RunError
        If the check could not be carried out.
    """
    try:
        make_folder(folder)
        write_copies(volumes, folder)
        path = write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), folder / "draft.yaml", overwrite=True)
        command = [sys.executable, "-m", "napari_mrsr.training.process", "--check", str(path), device]
        hidden = getattr(subprocess, "CREATE_NO_WINDOW", 0)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE, stdin=subprocess.DEVNULL, creationflags=hidden)
    except subprocess.TimeoutExpired:
        raise RunError(f"The check took more than {PATIENCE // 60} minutes and was given up.") from None
    except OSError as error:
        raise RunError(f"The check could not be started ({sys.executable}): {error.strerror}.") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        said = done.stderr.strip().splitlines()
        raise RunError(f"The check ended with code {done.returncode}: {said[-1] if said else 'it said nothing'}") from None
    return found


class CheckPane(QWidget):
    """Button and findings.

    Signals
    -------
    asked()
        The user wants a check.
    devices(list)
        Names of the devices that were found.
    """

    asked = Signal()
    devices = Signal(list)

    def __init__(self) -> None:
        super().__init__()
        self.button = QPushButton("Check")
        self.button.setObjectName("check training")
        self.button.setToolTip("Read the data and try a few steps, without starting anything")
        self.button.clicked.connect(lambda: self.asked.emit())
        self.findings = note(name="check findings")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.button)
        column.addWidget(self.findings)
        self._number = 0
        self.forget()

    def start(self, recipe: Recipe, volumes: Sequence[tuple[str, Volume]], folder: Path, device: str) -> None:
        """Check something; the findings are shown when they come."""
        self._number += 1
        number = self._number
        self.button.setEnabled(False)
        self.button.setText("Checking...")
        in_background(
            check_recipe,
            *(recipe, list(volumes), folder, device),
            done=lambda found: self._done(number, found),
            failed=lambda sentence: self._done(number, {"problems": [sentence]}),
            owner=self,
        )

    def forget(self) -> None:
        """What was found is of another choice."""
        self._number += 1
        self.findings.setText("")
        self.findings.setVisible(False)

    def _done(self, number: int, found: dict[str, Any]) -> None:
        self.button.setEnabled(True)
        self.button.setText("Check")
        if found.get("devices"):
            self.devices.emit(found["devices"])
        if number == self._number:
            self._show(found)

    def _show(self, found: dict[str, Any]) -> None:
        sign = f"<span style='color:{WARNING}'>&#9888;</span> "
        lines = [f"{sign}<b>{escape(text)}</b>" for text in _first(found.get("problems", []))]
        if not lines:
            lines = [f"<span style='color:{FINE}'>&#10003;</span> Ready to start."]
        lines += [sign + escape(text) for text in _first(found.get("warnings", []))]
        lines += [escape(text[0].upper() + text[1:]) + "." for text in found.get("facts", [])]
        self.findings.setText("<br>".join(lines))
        self.findings.setVisible(True)


def _first(sentences: Sequence[str]) -> list[str]:
    """The first few of many sentences, and how many follow."""
    rest = len(sentences) - MOST_SENTENCES
    return [*sentences[:MOST_SENTENCES], *([f"... and {rest} more."] if rest > 0 else [])]
