"""Runs that follow one another in the worker process, each into one workspace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer, Signal  # type: ignore[attr-defined]

from napari_mrsr.errors import InputError, MrsrError
from napari_mrsr.gui import results
from napari_mrsr.gui.dock import cut, in_background
from napari_mrsr.gui.live_result import LiveResult
from napari_mrsr.gui.provenance import noise_sentence
from napari_mrsr.gui.session import Run, Session
from napari_mrsr.gui.worker_client import WorkerClient
from napari_mrsr.inference import RunOptions
from napari_mrsr.networks import MapInfo
from napari_mrsr.volume import Volume


@dataclass(frozen=True, eq=False)
class Task:
    """One run: its options, its input, its reference, what is known of its maps."""

    options: RunOptions
    source: Volume
    reference: Volume | None
    infos: dict[str, MapInfo]


class RunQueue(QObject):
    """Carries out runs one after the other and shows each; one that fails is told and left out, the others go on.

    Attributes
    ----------
    waiting : list of Task
        What has not begun.

    Signals
    -------
    changed()
        A run began or ended, or the queue did.
    told(str)
        How it stands, as text for the dock.
    progressed(float, object)
        Fraction of the present run and seconds left (None: unknown); a negative fraction stands for work that cannot be measured.
    refused(str)
        One sentence about a run that failed.
    resting(bool)
        The present run rests, or goes on.
    """

    changed = Signal()
    told = Signal(str)
    progressed = Signal(float, object)
    refused = Signal(str)
    resting = Signal(bool)

    def __init__(self, session: Session, client: WorkerClient, parent: QObject) -> None:
        super().__init__(parent)
        self._session, self._client = session, client
        self.waiting: list[Task] = []
        self._task: Task | None = None
        self._total = 0
        self._kept: list[str] = []
        self._problems: list[str] = []
        self._plan = ""
        self._live = LiveResult(session, client, self)
        self._answers = (
            (client.started, self._started),
            (client.progress, self._progress),
            (client.noticed, self._noticed),
            (client.rested, self._rested),
            (client.done, self._done),
            (client.cancelled, self._stopped),
            (client.failed, self._failed),
        )
        for signal, slot in self._answers:
            signal.connect(slot)

    @property
    def busy(self) -> bool:
        """Whether a run is under way."""
        return self._task is not None

    def start(self, tasks: Sequence[Task]) -> None:
        """Begin.

        Raises
        ------
        RunError
            If the process is busy with another dock's run, or the first volume cannot be handed over.
        """
        first, *waiting = tasks
        self._client.run(first.source, first.options, first.reference, look=self._live.look())
        self.waiting, self._task, self._total = waiting, first, len(tasks)
        self._kept, self._problems = [], []
        self._announce()

    def skip(self) -> None:
        """Stop the present run and go on with the next; nothing of the stopped one is kept."""
        if self._client.busy:
            self._client.cancel()
        elif self.busy:  # maps and scores are being computed: nobody waits for them any more
            self._stopped()

    def pause(self, rest: bool) -> None:
        """Let the present run rest, which frees the device, or go on."""
        self._client.pause(rest)

    def cancel(self) -> None:
        """Stop the present run and begin none of those that wait; finished ones stay."""
        self.waiting.clear()
        self.skip()

    def detach(self) -> None:
        """Stop listening, and the run under way; call before the dock goes. Touches no Qt object of its own."""
        cut(*self._answers)
        self._live.detach()
        if self.busy:
            self._client.cancel()

    def _announce(self) -> None:
        self._plan = ""
        self._tell("Starting...")
        self.progressed.emit(-1.0, None)
        self.changed.emit()

    def _tell(self, text: str) -> None:
        assert self._task is not None
        number = self._total - len(self.waiting)
        head = f"{number} of {self._total}: {self._task.options.model}\n" if self._total > 1 else ""
        self.told.emit(head + "\n".join(part for part in (self._plan, text) if part))

    def _started(self, event: dict[str, Any]) -> None:
        if self.busy:
            self._plan = "\n".join([event["plan"], *event["warnings"]])
            self._tell("")
            self.progressed.emit(0.0, None)

    def _progress(self, event: dict[str, Any]) -> None:
        if self.busy:
            self.progressed.emit(event["fraction"], event["seconds_left"])

    def _noticed(self, sentence: str) -> None:
        if self.busy:
            self._plan += f"\n{sentence}"
            self._tell("")

    def _rested(self, resting: bool) -> None:
        if self.busy:
            self._tell("Paused; the device is free." if resting else "")
            self.resting.emit(resting)

    def _done(self, volume: Volume, seconds: float, maps: list[Volume]) -> None:
        task = self._task
        if task is None:
            return
        # The worker knows nothing of files: header facts come from the volume that was sent.
        volume = volume.replace(source=task.source.source)
        self._tell(f"Done in {seconds:.1f} s; computing maps and scores...")
        self.progressed.emit(-1.0, None)
        try:
            truth = results.truth_volume(self._session)
        except InputError as error:
            truth = None
            self.refused.emit(str(error))
        in_background(
            results.find,
            volume,
            truth,
            maps,
            task.infos,
            results.truth_gradient_layer(self._session) is None,
            done=partial(self._show, task, seconds),
            failed=partial(self._without_truth, task, seconds, volume, maps),
            owner=self,
        )

    def _without_truth(self, task: Task, seconds: float, volume: Volume, maps: list[Volume], sentence: str) -> None:
        """The result itself is never lost because its ground truth does not fit."""
        self.refused.emit(sentence)
        self._show(task, seconds, results.find(volume, None, maps, task.infos))

    def _show(self, task: Task, seconds: float, findings: results.Findings) -> None:
        self._add(task, seconds, findings, results.adding(self._session, findings, task.options.model_dump(mode="json")))

    def _add(self, task: Task, seconds: float, findings: results.Findings, layers: Iterator[Run], run: Run | None = None) -> None:
        """One layer each turn of the window's loop."""
        if not isalive(self):
            return
        if task is not self._task:  # given up in the meantime
            if run is not None:
                self._session.take_away(run)
            return
        run = next(layers, None)
        if run is not None:
            QTimer.singleShot(0, partial(self._add, task, seconds, findings, layers, run))
            return
        self._live.end()
        self._kept.append(task.options.model)
        self._tell(f"Done in {seconds:.1f} s. {noise_sentence(findings.result.record['run'])}".rstrip())
        self._next()

    def _stopped(self) -> None:
        if self._task is None:
            return
        self._live.end()
        self._problems.append(f"{self._task.options.model} was stopped; nothing of it was kept.")
        if self._total == 1:
            self.told.emit("Stopped; nothing of the run was kept.")
        self._next()

    def _failed(self, sentence: str) -> None:
        if self._task is None:
            return
        self._live.end()
        self._problems.append(f"{self._task.options.model} was left out: {sentence}")
        if self._total == 1:
            self.told.emit("")
        self.refused.emit(sentence)
        self._next()

    def _next(self) -> None:
        self._task = None
        while self.waiting and self._task is None:
            task = self.waiting.pop(0)
            try:
                self._client.run(task.source, task.options, task.reference, look=self._live.look())
                self._task = task
            except MrsrError as error:
                self._problems.append(f"{task.options.model} was left out: {error}")
                self.refused.emit(str(error))
        if self._task is not None:
            self._announce()
            return
        if self._total > 1:
            self.told.emit("\n".join([f"{len(self._kept)} of {self._total} done: {', '.join(self._kept) or 'none'}.", *self._problems]))
        self.changed.emit()
