"""What the owner of a run says to it while it works: stop, pause, go on, look here."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from napari_mrsr.errors import Cancelled


@dataclass(frozen=True)
class Look:
    """What is on the screen.

    Attributes
    ----------
    at : three floats
        World point in mm (RAS).
    axis : {0, 1, 2}
        World axis across the slice that shows it.
    """

    at: tuple[float, float, float]
    axis: int


class Control:
    """Strings from the owner of a run to the run; any thread may pull them."""

    def __init__(self) -> None:
        self._cancel, self._go = threading.Event(), threading.Event()
        self._go.set()
        self._look: Look | None = None

    def cancel(self) -> None:
        """Stop the run for good."""
        self._cancel.set()
        self._go.set()

    def pause(self) -> None:
        """Let the run rest and free the device."""
        if not self._cancel.is_set():
            self._go.clear()

    def resume(self) -> None:
        """Let the run go on."""
        self._go.set()

    def look(self, at: Sequence[float] | None, axis: int = 2) -> None:
        """Say what is on the screen, so that it is computed first; None for nobody looking."""
        self._look = None if at is None else Look((float(at[0]), float(at[1]), float(at[2])), axis)

    @property
    def cancelled(self) -> bool:
        """Whether the run is to stop."""
        return self._cancel.is_set()

    @property
    def paused(self) -> bool:
        """Whether the run is to rest."""
        return not self._go.is_set()

    @property
    def focus(self) -> Look | None:
        """What is on the screen."""
        return self._look

    def wait(self, seconds: float) -> None:
        """Rest until the run may go on, at most so long."""
        self._go.wait(seconds)

    def check(self) -> None:
        """Stop if that is wanted.

        Raises
        ------
        Cancelled
        """
        if self.cancelled:
            raise Cancelled("The run was stopped; nothing was kept.")
