"""Watching a network layer by layer, so that a pass can be stopped and its progress told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from napari_mrsr.errors import Cancelled
from napari_mrsr.inference.control import Control

CALIBRATION_EDGES = (16, 40)
REST = 0.2
"""Seconds between looks at whether the owner is still there while a run rests."""


class Interrupted(Exception):
    """A pass was left because the run is to rest."""


class Monitor:
    """How far a forward pass is, and whether it should stop or rest; used as a context around the run.

    Parameters
    ----------
    network : Module
    control : Control
        Asked after every layer.
    rests_inside : bool
        Whether a run that is to rest waits within the pass, which keeps its memory; else the pass is left, to be done again.
    inside : bool
        False asks only between passes: a translated network must not call back.
    """

    def __init__(self, network: nn.Module, control: Control, rests_inside: bool = True, inside: bool = True) -> None:
        leaves = [m for m in network.modules() if not any(True for _ in m.children())] if inside else []
        self._control, self._rests_inside, self._abandoned = control, rests_inside, False
        self._clock, self._called = list[float](), set[nn.Module]()
        self._started, self._rested = 0.0, 0.0
        self._resting: float | None = None
        self._shares = [(i + 1) / len(leaves) for i in range(len(leaves))]
        self._handles = [m.register_forward_hook(self._passed) for m in leaves]
        self._within = self._told = 0.0
        self._long = [m for m in network.modules() if hasattr(m, "on_chunk")] if inside else []
        for module in self._long:
            module.on_chunk = self._advanced  # type: ignore[assignment]

    @property
    def fraction(self) -> float:
        """Share of the pass under way that is done; never less than before."""
        self._told = max(self._told, self._estimate())
        return self._told

    def _estimate(self) -> float:
        if not self._shares:
            return 0.0
        seen, last = len(self._clock), len(self._shares) - 1
        if not seen:
            return self._within * self._shares[0]
        done, at = self._shares[min(seen - 1, last)], self._clock[-1]
        gap = self._shares[min(seen, last)] - done
        # Between two layers as fast as so far.
        return done + (self._within * gap if self._within else min(gap, done * (self._elapsed() / at - 1) if at else 0.0))

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of the last whole pass that was done after each of its layers."""
        if not self._clock:
            return ()
        # Work after the last layer belongs to it.
        return tuple(round(t / self._clock[-1], 4) for t in self._clock)

    def expect(self, shares: Sequence[float]) -> None:
        """Take the shares of an earlier pass for those of passes to come."""
        self._shares = list(shares) or self._shares

    def calibrate(self, forward: Callable[[int], Any]) -> float:
        """Learn what share of the time each layer takes from passes over small cubes (the first one only warms up); gives seconds per voxel."""
        for edge in CALIBRATION_EDGES:
            self.restart()
            forward(edge)
            total = self._elapsed()
        self.expect(self.shares)
        return total / edge**3

    def restart(self) -> None:
        """A new pass begins."""
        self._within = self._told = 0.0
        self._clock.clear()
        self._called.clear()
        self.check()
        self._started, self._rested = time.perf_counter(), 0.0

    def check(self) -> None:
        """Stop, or give the device free, if that is wanted.

        Raises
        ------
        Cancelled
            If the run is to stop.
        Interrupted
            If it is to rest: what is under way is done again later.
        """
        if self._abandoned:
            raise Cancelled("The run was stopped; nothing was kept.")
        while self._control.paused and self._rests_inside and not self._abandoned:
            self._resting = time.perf_counter()
            self._control.wait(REST)
            self._rested, self._resting = self._rested + time.perf_counter() - self._resting, None
        self._control.check()
        if self._control.paused:
            raise Interrupted

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        # Whatever ended the run (an interrupt, a closed generator) also ends the pass that is still under way in the other thread.
        self._abandoned = kind is not None
        if kind is None:
            for handle in self._handles:
                handle.remove()
            for module in self._long:
                module.on_chunk = None  # type: ignore[assignment]

    def _advanced(self, share: float) -> None:
        """A part of the network that takes long says how much of it is done."""
        self._within = share
        self.check()

    def _passed(self, layer: nn.Module, *_: Any) -> None:
        if layer not in self._called:  # one in a loop counts once
            self._called.add(layer)
            self._within = 0.0  # first, or a look in between would take it for that of the next layer
            self._clock.append(self._elapsed())
        self.check()

    def _elapsed(self) -> float:
        """Seconds of the pass under way, rests left out."""
        now = time.perf_counter() if self._resting is None else self._resting
        return now - self._started - self._rested
