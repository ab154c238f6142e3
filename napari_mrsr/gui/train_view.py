"""One run, as it is seen: what it does, how far it is, its curves, and what can be done with it."""

from __future__ import annotations

from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_mrsr.gui.dock import note, warn
from napari_mrsr.gui.train_plots import LossPlot, ScorePlot
from napari_mrsr.gui.train_watch import RunWatch
from napari_mrsr.training.history import History
from napari_mrsr.training.runs import ALIVE, State, Wish

GO_ON = (State.STOPPED, State.FAILED, State.LOST, State.NEW)
"""States that a run can go on from."""
LOST = "The training process is gone: it was ended, or the system ran out of memory. 'Resume' goes on from the last validation."
BROKEN = "The training process could not work: {}"


class RunView(QWidget):
    """Shows the run that a watch follows.

    Signals
    -------
    resumed(), deleted(), used(str)
        The user wants the run to go on in a new process, to be deleted, or its model to be used.
    """

    resumed = Signal()
    deleted = Signal()
    used = Signal(str)

    def __init__(self, watch: RunWatch) -> None:
        super().__init__()
        self._watch = watch
        self._steps = 0
        self.title, self.status, self.problem = note(name="run title"), note(name="run status"), note(name="run problem")
        self.progress = QProgressBar()
        self.pause, self.stop, self.resume = QPushButton("Pause"), QPushButton("Stop"), QPushButton("Resume")
        self.use, self.delete = QPushButton("Use it"), QPushButton("Delete...")
        self.losses, self.scores = LossPlot(), ScorePlot()
        self.log = QCheckBox("Logarithmic loss")
        self.slice, self.caption = QCheckBox("Show the validation slice"), note(name="slice caption")
        self._arrange()
        self.pause.clicked.connect(self._pause)
        self.stop.clicked.connect(self._stop)
        self.resume.clicked.connect(self._resume)
        self.delete.clicked.connect(self.deleted.emit)
        self.use.clicked.connect(lambda: self.used.emit(self._watch.history.model if self._watch.history else ""))
        self.log.toggled.connect(self.losses.set_log)
        watch.changed.connect(self.refresh)
        self.refresh()

    def set_theme(self, name: str) -> None:
        """Take over the colours of a napari theme."""
        for plot in (self.losses, self.scores):
            plot.set_theme(name)

    def follow(self, steps: int) -> None:
        """Another run is followed, of so many steps."""
        self._steps = steps

    def refresh(self) -> None:
        """Show what the run has told."""
        history, state = self._watch.history, self._watch.state
        self.setVisible(history is not None)
        if history is None:
            return
        alive, resting = state in ALIVE, state is State.PAUSED
        self.title.setText(f"<b>{history.run.name}</b>")
        self.status.setText(self._sentence(history, state))
        warn(self.problem, " ".join([*history.notices[-1:], self._trouble(history, state)]).strip())
        self.pause.setVisible(alive and not resting)
        self.stop.setVisible(alive)
        self.stop.setEnabled(not history.finishing and history.run.wish() is not Wish.STOP)
        self.pause.setEnabled(self.stop.isEnabled())
        self.resume.setVisible(resting or state in GO_ON)
        self.use.setVisible(bool(history.model) and not alive)
        self.delete.setVisible(not alive)
        self.progress.setVisible(alive)
        self.progress.setRange(0, self._length(history) if history.step and not history.finishing else 0)
        self.progress.setValue(history.step)
        self.losses.draw(history.losses)
        self.scores.draw(history.scores, history.started.get("classic", {}))

    def _trouble(self, history: History, state: State) -> str:
        """Why a run ended that did not end well; empty for others."""
        if state is State.LOST:
            words = history.run.last_words()
            return BROKEN.format(words) if words else LOST
        return history.message if state is State.FAILED else ""

    def _length(self, history: History) -> int:
        return history.stage_steps or self._steps

    def _sentence(self, history: History, state: State) -> str:
        """What the run is doing, or what became of it."""
        best = history.best
        scored = f" Best validation: {best.psnr:.2f} dB at step {best.step}." if best is not None else f" {history.stage_score}".rstrip()
        if state not in ALIVE:
            return history.message if state in (State.DONE, State.STOPPED) else f"{state.capitalize()} at step {history.step}.{scored}"
        if history.run.wish() is Wish.STOP and not history.finishing:
            return "Stopping after this step; the best weights are kept..."
        if history.finishing:
            return "Writing the model with its card..."
        if state is State.PAUSED:
            return f"{'Paused' if history.resting else 'Pausing'} at step {history.step}.{scored}"
        if not history.step:
            return f"{history.stage.capitalize() + ': r' if history.stage else 'R'}eading the volumes..."
        left = history.seconds_left(self._length(history))
        stage = f"{history.stage}: " if history.stage else ""
        done = f"{stage}step {history.step} of {self._length(history)}{f', {duration(left)} left' if left is not None else ''}.{scored}"
        return done[0].upper() + done[1:]

    def _arrange(self) -> None:
        self.pause.setToolTip("Let the training rest; its memory stays in use")
        self.stop.setToolTip("End the training after this step; the best weights so far become a model")
        self.resume.setToolTip("Go on where the training rests, or from its last validation")
        self.use.setToolTip("Choose the new model in the Super-resolve dock")
        self.delete.setToolTip("Delete the folder of this run: curves, checkpoint and copies of volumes; its model stays in the list")
        self.slice.setToolTip("One slice of the validation volume as each validation predicted it, and its error, with a slider over the validations")
        self.slice.setChecked(True)
        for name in ("pause", "stop", "resume", "use", "delete"):
            getattr(self, name).setObjectName(f"{name} training")
        self.log.setObjectName("log scale")
        self.slice.setObjectName("show slice")
        self.progress.setFormat("%p %")
        buttons = QWidget()
        line = QHBoxLayout(buttons)
        line.setContentsMargins(0, 0, 0, 0)
        for button in (self.pause, self.resume, self.stop, self.use, self.delete):
            line.addWidget(button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for part in (self.title, self.status, self.problem, self.progress, buttons, self.scores, self.losses, self.log, self.slice, self.caption):
            column.addWidget(part)

    def _pause(self) -> None:
        self._ask(Wish.PAUSE)

    def _stop(self) -> None:
        self._ask(Wish.STOP)

    def _resume(self) -> None:
        if self._watch.state is State.PAUSED:
            self._ask(Wish.RUN)
        else:
            self.resumed.emit()

    def _ask(self, wish: Wish) -> None:
        if self._watch.run is not None:
            self._watch.run.ask(wish)
            self._watch.poll()
            self.refresh()


def duration(seconds: float) -> str:
    """A time span for people: one unit, two where the first is small."""
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{hours:.1f} h"
