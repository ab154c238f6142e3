"""Looking into a network while it runs: what was asked for is kept; when nothing is asked, layers pay one comparison.

A layer that has something to show says so::

    if recorder := wanted("safm"):
        recorder.keep("safm", gate)

and whoever wants to see it runs the network inside ``with Recorder(("safm",)) as recorder:``. Nothing changes in the network's result.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Self

from torch import Tensor

_active: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


@dataclass(frozen=True, eq=False)
class Recorded:
    """One internal map.

    Attributes
    ----------
    values : (B, C, ...) tensor
        On a regular lattice of the output's dimension (tables: (B, rows, columns)).
    stride : int
        Output pixels per map pixel: pixel i covers output pixels ``offset + stride * i`` up to ``offset + stride * (i + 1)``.
    offset : tuple of int
        Output pixel where the map begins; zeros where empty.
    """

    values: Tensor
    stride: int = 1
    offset: tuple[int, ...] = ()


class Complete(Exception):
    """Everything asked for is recorded and the rest of the forward pass is not needed."""


class Recorder:
    """Keeps internal maps of the networks that run inside its ``with`` block, in the thread that entered it.

    Parameters
    ----------
    names : iterable of str
        Maps to keep.
    query : sequence of int, optional
        Output pixel (voxel) whose attention is asked for, in the coordinates of the network's output.
    channel : int, optional
        Channel shown by maps of many channels; None: mean absolute value over all.
    only : bool
        Leave the network with :class:`Complete` once all names are there.
    local : bool
        Only what the query's surroundings show is wanted: networks that work in windows may leave out all but the nearest one.
    """

    def __init__(
        self, names: Iterable[str], query: Iterable[int] | None = None, channel: int | None = None, only: bool = False, local: bool = False
    ) -> None:
        self.names = frozenset(names)
        self.query = None if query is None else tuple(query)
        self._channel, self.only, self.local = channel, only, local
        self.channel_asked = False
        """Whether a map looked at `channel`: those that have none to choose from do not."""
        self.item = 0
        """Batch item that the query belongs to."""
        self.found: dict[str, Recorded] = {}
        self._token: Token[Recorder | None] | None = None

    @property
    def channel(self) -> int | None:
        """Channel (or head) to show; None: all of them together."""
        self.channel_asked = True
        return self._channel

    def __enter__(self) -> Self:
        self._token = _active.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        assert self._token is not None
        _active.reset(self._token)
        return kind is Complete

    def keep(self, name: str, values: Tensor, stride: int = 1, offset: tuple[int, ...] = ()) -> None:
        """Record a map; see :class:`Recorded`. Called by the network.

        Raises
        ------
        Complete
            If nothing else is wanted and `only` was asked for.
        """
        self.found[name] = Recorded(values.detach().float(), stride, offset)
        if self.only and self.names <= self.found.keys():
            raise Complete

    def pixel(self, stride: int = 1) -> tuple[int, ...]:
        """The query on a lattice of `stride` output pixels.

        Raises
        ------
        ValueError
            If there is no query.
        """
        if self.query is None:
            raise ValueError("This map needs a chosen voxel.")
        return tuple(q // stride for q in self.query)

    def one_channel(self, values: Tensor) -> Tensor:
        """(B, C, ...) to (B, 1, ...): the chosen channel, or the mean absolute value over all.

        Raises
        ------
        ValueError
            If there is no such channel.
        """
        channel = self.channel
        if channel is None:
            return values.abs().mean(1, keepdim=True)
        if not 0 <= channel < values.shape[1]:
            raise ValueError(f"Channel {channel} is not there; this map has channels 0 to {values.shape[1] - 1}.")
        return values[:, channel : channel + 1]


def wanted(name: str) -> Recorder | None:
    """The recorder at work that asks for `name`; None almost always."""
    recorder = _active.get()
    return recorder if recorder is not None and name in recorder.names else None


def active() -> Recorder | None:
    """The recorder at work, whatever it asks for."""
    return _active.get()
