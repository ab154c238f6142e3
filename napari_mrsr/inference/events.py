"""What a run reports while it works; small, frozen, ready for JSON except for the result."""

from __future__ import annotations

from dataclasses import dataclass

from napari_mrsr.volume import Volume


@dataclass(frozen=True)
class RunStarted:
    """The plan in one line, the device, the number of tiles, what the user should know first, the model that really runs.

    `live` is the result as it grows: its array is filled in while the run goes on (linear interpolation until a tile is done).
    """

    plan: str
    device: str
    tiles: int
    warnings: tuple[str, ...] = ()
    model: str = ""
    live: Volume | None = None


@dataclass(frozen=True)
class TileDone:
    """A block of the result (voxels of `live`: start and stop along R, A, S) has got new values; a preview is replaced later."""

    block: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    preview: bool = False


@dataclass(frozen=True)
class Noticed:
    """Something the run had to change to go on, in a sentence."""

    message: str


@dataclass(frozen=True)
class Rested:
    """The run has paused, and the device is free; or it has gone on."""

    resting: bool


@dataclass(frozen=True)
class Progress:
    """Share of the work done (0 to 1), seconds left (None until it can be told), tiles done."""

    fraction: float
    seconds_left: float | None
    tile: int
    tiles: int


@dataclass(frozen=True)
class RunDone:
    """The super-resolved volume, the seconds it took, and the network's internal maps that were asked for, on the result's lattice."""

    volume: Volume
    seconds: float
    maps: tuple[Volume, ...] = ()


Event = RunStarted | TileDone | Progress | Noticed | Rested | RunDone
