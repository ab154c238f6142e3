"""How fast a run goes: work done, the time it took, the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable

TRUSTED = 0.02
"""Share of the work after which its own speed is believed rather than what was expected."""


class Pace:
    """Work in voxels that the network sees, and the time it takes; rests do not count.

    Parameters
    ----------
    total : float
        All work.
    seconds_per_voxel : float, optional
        Speed expected before enough is measured.
    clock : callable
        Seconds.

    Attributes
    ----------
    total, done : float
        Both may be changed while the run goes on: smaller tiles with margins of their own are more work.
    """

    def __init__(self, total: float, seconds_per_voxel: float | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        self.total, self.done = float(total), 0.0
        self._expected, self._clock = seconds_per_voxel, clock
        self._measured = self._spent = self._under_way = 0.0
        self._began: float | None = None
        self._rests: float | None = None

    def begin(self, voxels: float) -> None:
        """A piece of work begins."""
        self._under_way, self._began, self._rests = float(voxels), self._clock(), None

    def rest(self, resting: bool) -> None:
        """The piece under way rests, or goes on."""
        if resting:
            self._rests = self._clock()
        elif self._rests is not None and self._began is not None:
            self._began += self._clock() - self._rests
            self._rests = None

    def end(self) -> None:
        """The piece is done."""
        self.done += self._under_way
        self._measured += self._under_way
        self._spent += self._elapsed()
        self.give_up()

    def give_up(self) -> None:
        """The piece will be done anew, or not at all."""
        self._under_way, self._began = 0.0, None

    def change_speed(self) -> None:
        """What was measured so far says nothing about what comes (another device)."""
        self._measured = self._spent = 0.0
        self._expected = None

    @property
    def spent(self) -> float:
        """Seconds in work that is done."""
        return self._spent

    @property
    def seconds_per_voxel(self) -> float | None:
        """Measured speed of what is done; None before anything is."""
        return self._spent / self._measured if self._measured else None

    def fraction(self, inside: float = 0.0) -> float:
        """Share of the work that is done, 0 to 1, when the share `inside` of the piece under way is."""
        return min(1.0, (self.done + inside * self._under_way) / self.total) if self.total else 1.0

    def seconds_left(self, inside: float = 0.0) -> float | None:
        """Time left when the share `inside` of the piece under way is done; None until it can be told."""
        begun = inside * self._under_way
        left = max(0.0, self.total - self.done - begun)
        if self._measured + begun > TRUSTED * self.total:
            return left * (self._spent + self._elapsed()) / (self._measured + begun)
        return left * self._expected if self._expected is not None else None

    def _elapsed(self) -> float:
        if self._began is None:
            return 0.0
        return (self._clock() if self._rests is None else self._rests) - self._began
