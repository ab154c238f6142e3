"""The list of runs: earlier ones and those under way."""

from __future__ import annotations

import time

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QListWidget, QListWidgetItem

from napari_mrsr.training.runs import ALIVE, RunFolder, State, list_runs

ROWS = 4
"""Runs shown without scrolling."""
SIGNS = {State.RUNNING: "▶", State.PAUSED: "⏸", State.DONE: "✓", State.STOPPED: "■", State.FAILED: "✗", State.LOST: "✗", State.NEW: "·"}


class RunList(QListWidget):
    """Runs, the newest first.

    Signals
    -------
    chosen(object)
        Another RunFolder, or None, is the current one.
    """

    chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("training runs")
        self.setToolTip("Trainings go on when this dock or the viewer is closed, and are found again here")
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self._runs: list[RunFolder] = []
        self.currentRowChanged.connect(self._choose)

    @property
    def runs(self) -> tuple[RunFolder, ...]:
        """What is listed."""
        return tuple(self._runs)

    def refresh(self, wanted: RunFolder | None = None) -> None:
        """List the runs anew, and make one of them the current one; without it the present one stays."""
        before = self._current()
        wanted = wanted or before
        self._runs = list_runs()
        self.blockSignals(True)
        self.clear()
        for run in self._runs:
            state = run.state()
            item = QListWidgetItem(f"{SIGNS[state]} {run.name}", self)
            item.setToolTip(f"{run.name}: {state}\nbegun {time.strftime('%d %B %Y, %H:%M', time.localtime(run.created))}\n{run.path}")
        row = self._runs.index(wanted) if wanted in self._runs else 0 if self._runs else -1
        self.setCurrentRow(row)
        self.blockSignals(False)
        rows = max(1, min(ROWS, len(self._runs)))
        self.setFixedHeight(max(self.sizeHintForRow(0), self.fontMetrics().height()) * rows + 2 * self.frameWidth() + 4)
        if self._current() != before:
            self.chosen.emit(self._current())

    def busy(self) -> RunFolder | None:
        """The newest run that is under way."""
        return next((run for run in self._runs if run.state() in ALIVE), None)

    def _current(self) -> RunFolder | None:
        return self._runs[self.currentRow()] if 0 <= self.currentRow() < len(self._runs) else None

    def _choose(self, row: int) -> None:
        self.chosen.emit(self._runs[row] if 0 <= row < len(self._runs) else None)
