"""Keeps the scores of a session up to date: what is measured follows layers, roles, region and mask; stale work is stopped and dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any

from napari.layers import Layer
from qtpy.QtCore import QObject, QTimer, Signal  # type: ignore[attr-defined]

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.comparison import Dice
from napari_mrsr.gui.dock import in_background
from napari_mrsr.gui.mask_box import mask_volume
from napari_mrsr.gui.metrics.scorer import Outcome, Request, Scorer, classify
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.volume import Volume

DEBOUNCE_MS = 300
NO_TRUTH = "There is nothing to measure against: choose the ground truth (in Super-resolve)."
NO_CANDIDATE = "There is nothing to measure yet: run a model, or make a layer a candidate."


@dataclass(frozen=True)
class Choice:
    """What the user chose to be measured."""

    convention: str
    in_roi: bool = False
    in_mask: bool = False


@dataclass(frozen=True, eq=False)
class Scores:
    """What was measured, row by row.

    Attributes
    ----------
    layers : tuple of Layer
        Candidates, then the low resolution.
    outcome : Outcome
    places : dict of int to int
        Row to place in the outcome's comparison.
    problems : dict of int to str
        Rows that could not be measured, and why.
    dice : list of Dice or None
        Once it was asked for.
    """

    layers: tuple[Layer, ...]
    outcome: Outcome
    places: dict[int, int]
    problems: dict[int, str]
    dice: list[Dice] | None = None


@dataclass(frozen=True, eq=False)
class _Job:
    request: Request
    layers: tuple[Layer, ...]
    rows: tuple[int, ...]
    refused: dict[int, str] = field(default_factory=dict)

    def scores(self, outcome: Outcome) -> Scores:
        """Rows of the answer."""
        places = {self.rows[index]: place for place, index in enumerate(outcome.places)}
        problems = self.refused | {self.rows[index]: sentence for index, sentence in outcome.problems.items()}
        return Scores(self.layers, outcome, places, problems)


class LiveScores(QObject):
    """Scores of a session.

    Attributes
    ----------
    scores : Scores or None
    sentence : str
        What goes on, or why there is nothing; empty where all is well.

    Signals
    -------
    changed()
        Of either.
    """

    changed = Signal()

    def __init__(self, session: Session, parent: QObject) -> None:
        super().__init__(parent)
        self._session = session
        self._scorer = Scorer()
        self._choice = Choice("mrsr-1")
        self._running: _Job | None = None
        self._waiting: _Job | None = None
        self._tissue: Event | None = None
        self._mask: tuple[Layer, Volume] | None = None
        self._watched: list[Any] = []
        self.scores: Scores | None = None
        self.sentence = ""
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.timeout.connect(self.refresh)
        for signal, slot in self._links():
            signal.connect(slot)
        self._mask_changed()

    def _links(self) -> list[tuple[Any, Callable[..., None]]]:
        s = self._session
        follows = [(signal, self.soon) for signal in (s.roles_changed, s.layers_changed, s.runs_changed)]
        return [*follows, (s.roi_changed, self._roi_changed), (s.mask_changed, self._mask_changed)]

    def disconnect_session(self) -> None:
        """Stop listening and working."""
        for signal, slot in self._links():
            signal.disconnect(slot, missing_ok=True)
        self._watch([])
        for stop in (self._running.request.stop if self._running else None, self._tissue):
            if stop is not None:
                stop.set()

    def choose(self, choice: Choice) -> None:
        """Measure something else."""
        if choice != self._choice:
            self._choice = choice
            self.soon()

    def soon(self, *_: Any) -> None:
        """Measure anew once things have come to rest."""
        self._later.start(DEBOUNCE_MS)

    # --- measuring --------------------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Measure what the session holds now."""
        self._later.stop()
        if self._running is not None:
            self._running.request.stop.set()
        try:
            job = self._job()
        except InputError as error:
            self._waiting = None
            self._scorer.forget()
            self._fail(str(error))
            return
        if self._running is not None:
            self._waiting = job
        else:
            self._start(job)

    def _job(self) -> _Job:
        truth, low = self._session.layer(Role.GROUND_TRUTH), self._session.layer(Role.LOW_RESOLUTION)
        if truth is None:
            raise InputError(NO_TRUTH)
        wanted = dict.fromkeys([*self._session.candidates, *([] if low is None else [low])])
        layers = tuple(layer for layer in wanted if layer is not truth)
        if not layers:
            raise InputError(NO_CANDIDATE)
        volumes, refused = {}, {}
        for row, layer in enumerate(layers):
            try:
                volumes[row] = self._session.volume(layer)
            except InputError as error:
                refused[row] = str(error)
        if not volumes:
            raise InputError("No candidate can be measured: " + " ".join(refused.values()))
        choice, roi = self._choice, self._session.roi
        mask = self._mask_volume() if choice.in_mask else None
        request = Request(self._session.volume(truth), tuple(volumes.values()), choice.convention, mask, roi if choice.in_roi else None)
        return _Job(request, layers, tuple(volumes), refused)

    def _start(self, job: _Job) -> None:
        self._running = job
        self._say("Measuring...")
        in_background(self._scorer, job.request, done=self._done, failed=self._failed, owner=self)

    def _done(self, outcome: Outcome | None) -> None:
        job = self._next()
        if job is None or outcome is None:
            return
        former, scores = self.scores, job.scores(outcome)
        if former is not None and former.outcome.measured.frame is outcome.measured.frame:
            scores = replace(scores, dice=former.dice)
        self.scores = scores
        self._say(" ".join(dict.fromkeys(scores.problems.values())))

    def _failed(self, sentence: str) -> None:
        if self._next() is not None:
            self._fail(sentence)

    def _next(self) -> _Job | None:
        """The job that was answered; None where it is stale, and a newer one has begun."""
        job, waiting = self._running, self._waiting
        self._running = self._waiting = None
        if waiting is not None:
            self._start(waiting)
        return job if job is not None and not job.request.stop.is_set() else None

    def _fail(self, sentence: str) -> None:
        self.scores = None
        self._say(sentence)

    def _say(self, sentence: str) -> None:
        self.sentence = sentence
        self.changed.emit()

    # --- region and mask --------------------------------------------------------------------------------------------------------------

    def _roi_changed(self) -> None:
        if self._choice.in_roi:
            self.soon()

    def _mask_changed(self, *_: Any) -> None:
        mask = self._session.mask
        self._watch([] if mask is None else [getattr(mask.events, name) for name in ("labels_update", "data") if hasattr(mask.events, name)])
        self._mask_edited()

    def _watch(self, emitters: list[Any]) -> None:
        """Listen to edits of the mask, and to none before."""
        for emitter in self._watched:
            emitter.disconnect(self._mask_edited)
        self._watched = emitters
        for emitter in emitters:
            emitter.connect(self._mask_edited)

    def _mask_edited(self, *_: Any) -> None:
        self._mask = None
        if self._choice.in_mask:
            self.soon()

    def _mask_volume(self) -> Volume | None:
        """Mask as it is now; the same object until it is edited, by which the scorer knows it."""
        layer = self._session.mask
        if layer is None:
            return None
        if self._mask is None or self._mask[0] is not layer:
            self._mask = layer, mask_volume(layer)
        return self._mask[1]

    # --- tissue -----------------------------------------------------------------------------------------------------------------------

    @property
    def classifying(self) -> bool:
        """Whether tissues are being told apart."""
        return self._tissue is not None

    def classify(self) -> None:
        """Add the Dice of tissue classes to the present scores, or stop doing so."""
        if self._tissue is not None:
            self._tissue.set()
            return
        assert self.scores is not None
        frame, self._tissue = self.scores.outcome.measured.frame, Event()

        def done(found: list[Dice] | None) -> None:
            self._tissue = None
            if found is not None and self.scores is not None and self.scores.outcome.measured.frame is frame:
                self.scores = replace(self.scores, dice=found)
            self._say("")

        def failed(sentence: str) -> None:
            self._tissue = None
            self._say(sentence)

        brain = self._mask_volume() if self._choice.in_mask else None
        in_background(classify, frame, brain, self._tissue.is_set, done=done, failed=failed, owner=self)
        self._say("Telling tissues apart...")
