"""What is kept of the runs: removing the last one, saving it as a volume, saving a figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QFileDialog, QGridLayout, QPushButton, QWidget

from napari_mrsr.errors import InputError, MrsrError
from napari_mrsr.gui import results
from napari_mrsr.gui.dock import in_background
from napari_mrsr.gui.open_files import FOLDER
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.gui.settings import recall, remember
from napari_mrsr.volume import Volume

IN_FIGURE = 4
"""How many of the last results a figure shows."""
NO_TRUTH = "A figure needs a low-resolution volume and a ground truth; choose their layers."
NO_RUN = "There is no result yet: press Run first."


class SaveBox(QWidget):
    """Buttons over the runs of a session.

    Signals
    -------
    told(str), failed(str)
        What was written, or one sentence.
    """

    told = Signal(str)
    failed = Signal(str)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.save_button, self.figure_button = QPushButton("Save volume..."), QPushButton("Save figure...")
        self.remove_button = QPushButton("Remove last run")
        self._tips = {
            self.remove_button: "Take the layers of the last run out of the viewer",
            self.save_button: "Write the last result to a file, with its exact geometry",
            self.figure_button: "Write a figure of low resolution, the last results and ground truth",
        }
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(self.save_button, 0, 0)
        grid.addWidget(self.figure_button, 0, 1)
        grid.addWidget(self.remove_button, 1, 0, 1, 2)
        for button, action in ((self.remove_button, self._remove), (self.save_button, self._save_volume), (self.figure_button, self._save_figure)):
            button.setObjectName(button.text().rstrip(".").lower())
            button.clicked.connect(self._guarded(action))
        self.refresh()

    def refresh(self) -> None:
        """Offer what there is something for."""
        there = bool(self._session.runs)
        judged = all(self._session.layer(role) is not None for role in (Role.LOW_RESOLUTION, Role.GROUND_TRUTH))
        for button, tip in self._tips.items():
            possible = there and (judged or button is not self.figure_button)
            button.setEnabled(possible)
            button.setToolTip(tip if possible else NO_RUN if not there else NO_TRUTH)

    def _guarded(self, action: Callable[[], None]) -> Callable[..., None]:
        def run(*_: object) -> None:
            try:
                action()
            except MrsrError as error:
                self.failed.emit(str(error))

        return run

    def _remove(self) -> None:
        self._session.remove_run(self._session.runs[-1])

    def _ask(self, title: str, name: str, kinds: str) -> str:
        path, _ = QFileDialog.getSaveFileName(self, title, str(Path(recall(FOLDER, "")) / name), kinds)
        if path:
            remember(FOLDER, str(Path(path).parent))
        return str(path)

    def _save_volume(self) -> None:
        from napari_mrsr.figures.report import file_stem

        volume = self._session.volume(self._session.runs[-1].result)
        path = self._ask("Save volume", f"{file_stem(volume.name)}.nii.gz", "MR volume (*.nii.gz *.nii *.mgz)")
        if path:
            self.told.emit("Saving...")
            in_background(_write, volume, path, done=self._saved, failed=self._not_saved, owner=self)

    def _save_figure(self) -> None:
        low, truth = self._session.layer(Role.LOW_RESOLUTION), results.truth_volume(self._session)
        if low is None or truth is None:
            raise InputError(NO_TRUTH)
        path = self._ask("Save figure", "figure.png", "Figure (*.png *.pdf *.svg)")
        if path:
            candidates = [self._session.volume(run.result) for run in self._session.runs[-IN_FIGURE:]]
            self.told.emit("Drawing the figure...")
            in_background(_draw, self._session.volume(low), candidates, truth, path, done=self._saved, failed=self._not_saved, owner=self)

    def _saved(self, names: str) -> None:
        self.told.emit(f"Saved: {names}")

    def _not_saved(self, sentence: str) -> None:
        self.told.emit("")
        self.failed.emit(sentence)


def _write(volume: Volume, path: str) -> str:
    from napari_mrsr.io import write_volume

    written = write_volume(volume, path, overwrite=True, description=f"napari-mrsr {volume.name}")
    return ", ".join(p.name for p in written)


def _draw(low: Volume, candidates: list[Volume], truth: Volume, path: str) -> str:
    from napari_mrsr.figures import comparison_figure, save_figure

    return str(save_figure(comparison_figure(low, candidates, truth), path, overwrite=True))
