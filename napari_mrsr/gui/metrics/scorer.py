"""What is measured in the background: everything a table needs, with as little of it as possible done anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event

from napari_mrsr.errors import Cancelled, InputError
from napari_mrsr.evaluation.align import align
from napari_mrsr.evaluation.brain import brain_mask
from napari_mrsr.evaluation.comparison import Comparison, Dice
from napari_mrsr.evaluation.frame import Frame, prepare
from napari_mrsr.evaluation.measured import Measured, measure, same_volume
from napari_mrsr.evaluation.tissue import tissue_dice
from napari_mrsr.volume import Box, Volume


@dataclass(frozen=True, eq=False)
class Request:
    """What the dock asks to be measured; setting `stop` ends the work soon."""

    truth: Volume
    candidates: tuple[Volume, ...]
    convention: str
    mask: Volume | None
    roi: Box | None
    stop: Event = field(default_factory=Event)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was measured.

    Attributes
    ----------
    request : Request
    measured : Measured
        Of the candidates that could be measured.
    comparison : Comparison
        With intervals.
    places : tuple of int
        Index in the request of each candidate in `measured`.
    problems : dict of int to str
        The others, and why.
    """

    request: Request
    measured: Measured
    comparison: Comparison
    places: tuple[int, ...]
    problems: dict[int, str]


class Scorer:
    """Answers requests one after the other; remembers the last answer for the whole volume and for a region."""

    def __init__(self) -> None:
        self._kept: dict[bool, Outcome] = {}

    def forget(self) -> None:
        """Let go of the images of earlier answers."""
        self._kept.clear()

    def __call__(self, request: Request) -> Outcome | None:
        """Measure; None where the request was stopped.

        Raises
        ------
        InputError
            If nothing can be measured.
        """
        places, problems = tuple(range(len(request.candidates))), dict[int, str]()
        try:
            frame = self._frame(request, places)
        except InputError:
            problems = {i: sentence for i in places if (sentence := _problem(request.truth, request.candidates[i]))}
            places = tuple(i for i in places if i not in problems)
            if not problems:
                raise
            if not places:
                raise InputError("No candidate can be measured: " + " ".join(problems.values())) from None
            frame = self._frame(request, places)
        whole = request.roi is None
        former = self._kept.get(whole)
        try:
            measured = measure(frame, request.roi, known=former.measured if former else None, stopped=request.stop.is_set)
        except Cancelled:
            return None
        self._kept[whole] = Outcome(request, measured, measured.comparison(bootstrap=True), places, problems)
        return self._kept[whole]

    def _frame(self, request: Request, places: tuple[int, ...]) -> Frame:
        candidates = [request.candidates[i] for i in places]
        for former in self._kept.values():
            if self._matches(former, request, candidates):
                return former.measured.frame
        return prepare(request.truth, candidates, request.convention, request.mask)

    @staticmethod
    def _matches(last: Outcome, request: Request, candidates: list[Volume]) -> bool:
        """Whether the last frame serves again: only the region has changed."""
        frame, before = last.measured.frame, last.request
        pairs = zip((request.truth, *candidates), (frame.reference, *frame.candidates), strict=False)
        same = len(candidates) == len(frame.candidates) and all(same_volume(a, b) and a.name == b.name for a, b in pairs)
        return same and before.convention == request.convention and before.mask is request.mask


def _problem(truth: Volume, candidate: Volume) -> str:
    try:
        align(truth, [candidate])
    except InputError as error:
        return str(error)
    return ""


def classify(frame: Frame, brain: Volume | None, stopped: Callable[[], bool]) -> list[Dice] | None:
    """Dice of tissue classes; None where it was stopped. The brain is found where no mask is given.

    Raises
    ------
    InputError
        As :func:`~napari_mrsr.evaluation.tissue.tissue_dice`.
    """
    try:
        return tissue_dice(frame, brain_mask(frame.reference) if brain is None else brain, stopped)
    except Cancelled:
        return None
