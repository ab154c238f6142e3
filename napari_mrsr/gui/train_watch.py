"""Following a training that runs elsewhere: its events are read as they come, by a timer."""

from __future__ import annotations

from qtpy.QtCore import QObject, QTimer, Signal  # type: ignore[attr-defined]

from napari_mrsr.training.history import History
from napari_mrsr.training.runs import ALIVE, RunFolder, State

POLL_MS = 500


class RunWatch(QObject):
    """Follows one run at a time.

    Attributes
    ----------
    history : History or None
        What the run has told; None where none is followed.
    state : State
        What has become of it.

    Signals
    -------
    changed()
        The run told something, its state changed, or another run is followed.
    ended()
        The run that was under way has come to an end.
    """

    changed = Signal()
    ended = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.history: History | None = None
        self.state = State.NEW
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self.poll)

    @property
    def run(self) -> RunFolder | None:
        """The run that is followed."""
        return self.history.run if self.history is not None else None

    def follow(self, run: RunFolder | None) -> None:
        """Follow another run, or none; what it has told already is read at once."""
        self._timer.stop()
        self.history, self.state = None, State.NEW
        if run is not None:
            self.history = History(run)
            self.history.read()
            self.state = run.state()
            if self.state in ALIVE:
                self._timer.start()
        self.changed.emit()

    def poll(self) -> None:
        """Look now."""
        if self.history is None:
            return
        before, self.state = self.state, self.history.run.state()
        # In this order: a run that has ended tells no more.
        told = self.history.read()
        if self.state not in ALIVE:
            self._timer.stop()
        elif not self._timer.isActive():
            self._timer.start()
        if told or self.state is not before:
            self.changed.emit()
        if before in ALIVE and self.state not in ALIVE:
            self.ended.emit()
