"""How a run is cut up: device, tile size, margin, how many at once, what memory and time that takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_mrsr.errors import InputError, RunError
from napari_mrsr.inference.background import LEAST_SAVING, bounds
from napari_mrsr.inference.control import Look
from napari_mrsr.inference.options import Job
from napari_mrsr.inference.process import list_devices
from napari_mrsr.inference.tiles import Tile, make_planes, make_tiles, narrowed, slab
from napari_mrsr.networks import Architecture, get_architecture

if TYPE_CHECKING:
    import torch

    from napari_mrsr.inference.costs import Cost

Block = tuple[slice, slice, slice]

MEMORY_SHARE = 0.5
"""Part of the free memory that the planner gives to a tile."""
SMALLEST_TILE = 16
VISIBLE_SHARE = 0.25
"""Largest part of the work before the slice on the screen is exact."""
FEW_PLANES, FEW_PLANES_BYTES = 4, 2**29
"""Slices given to a 2D network together on a CPU, and the memory that they may take if they are several: more gains nothing there..."""
MANY_PLANES = 32
"""...but keeps other devices busy."""
PLANES_IN_BLOCK = 8
"""Neighbouring slices that share a rectangle around the head, for networks that cut slices into windows."""
PLANES_SHARE = 0.05
"""Largest part of the slices that are given together while somebody watches."""
PASS_VOXELS = 64**3
"""Tiles smaller than this are given together to devices that would idle."""


@dataclass(frozen=True)
class Plan:
    """Where and in which pieces a run happens.

    Attributes
    ----------
    device : str
        torch device name.
    tiles : tuple of Tile
    halo : int
        Margin in LR voxels.
    peak_bytes : int
        Expected memory of the largest pass: one tile, or as many as are given together.
    air : float
        Share of the voxels asked for that are empty air and not computed.
    precision : str
        Numbers the network computes in.
    batch : int
        Tiles of one size given to the network together.
    times : int
        Times that all tiles are computed (self-ensemble).
    attention : {"window", "global"}
        What the network's attention across scales sees, where it has one.
    expected : float or None
        Seconds that all tiles take once; None where this network was never measured here.
    """

    device: str
    tiles: tuple[Tile, ...]
    halo: int
    peak_bytes: int
    air: float = 0.0
    precision: str = "float32"
    batch: int = 1
    times: int = 1
    attention: str = "window"
    expected: float | None = None

    @property
    def seconds(self) -> float | None:
        """Expected time of the whole run."""
        return None if self.expected is None else self.expected * self.times

    @property
    def voxels(self) -> int:
        """All work: voxels that the network sees, margins included."""
        return sum(t.voxels for t in self.tiles)

    @property
    def summary(self) -> str:
        """Pieces and memory in one line for people."""
        rest = f"{self.precision}, {size(self.peak_bytes)} on {self.device}" + (f", {100 * self.air:.0f} % air left out" if self.air else "")
        rest += f", {self.times} times" if self.times > 1 else ""
        rest += ", attention over the whole volume" if self.attention == "global" else ""
        largest = max(self.tiles, key=lambda t: t.voxels)
        if largest.stack is not None:
            planes = sum(t.core[t.stack].stop - t.core[t.stack].start for t in self.tiles if t.stack is not None)
            return f"{planes} slices in {len(self.tiles)} groups, {rest}"
        core = "x".join(str(c.stop - c.start) for c in largest.core)
        several = "s of up to" if len({_core_size(t) for t in self.tiles}) > 1 else "s of" if len(self.tiles) > 1 else " of"
        together = f", {self.batch} at once" if self.batch > 1 else ""
        return f"{len(self.tiles)} tile{several} {core} voxels{together}, margin {self.halo}, {rest}"

    def record(self) -> dict[str, Any]:
        """JSON-ready facts for the provenance."""
        largest = max(self.tiles, key=lambda t: t.voxels)
        facts = {"device": self.device, "tiles": len(self.tiles), "largest_tile": list(largest.size), "halo": self.halo, "batch": self.batch}
        return facts | {"precision": self.precision, "peak_bytes": self.peak_bytes, "air": round(self.air, 4), "attention": self.attention}


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.0f} MiB"


def duration(seconds: float | None) -> str:
    """Expected time for people."""
    if seconds is None:
        return "first run: time not known yet"
    if seconds < 1:
        return "about a second"
    if seconds < 90:
        return f"about {float(f'{seconds:.2g}'):.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 90 * 60 else f"about {seconds / 3600:.1f} h"


def pick_device(name: str) -> torch.device:
    """Device for a name; ``auto`` takes the first of :func:`~napari_mrsr.inference.process.list_devices`.

    Raises
    ------
    InputError
        If the device is not there.
    """
    import torch

    known = [entry["name"] for entry in list_devices()]
    if name == "auto":
        return torch.device(known[0])
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in known:
        raise InputError(f"Device {name!r} is not available here; use auto or one of {', '.join(known)}.")
    return torch.device(wanted)


def lr_region(job: Job) -> tuple[slice, slice, slice]:
    """LR voxels whose enlarged images hold the asked block."""
    ranges = []
    for part, axis, scale in zip(job.block, job.grid.axes, job.grid.scale, strict=True):
        if part == slice(0, axis.fine):
            ranges.append(slice(0, axis.coarse))
        else:
            ranges.append(slice(int(part.start // scale), min(axis.coarse, math.ceil(part.stop / scale))))
    return ranges[0], ranges[1], ranges[2]


def make_plan(
    job: Job,
    network: Any,
    device: torch.device,
    tile: int | None = None,
    busy: NDArray[np.bool_] | None = None,
    look: Look | None = None,
    batch: int | None = None,
    cost: Cost | None = None,
) -> Plan:
    """Largest tiles that fit half of the free memory.

    Where the slice on the screen would be exact only after more than a quarter of the work, a slab around it, as thin as the network's lattice
    allows and over the whole slice, is put in front of the other tiles and computed again with them: the result is the same wherever somebody
    looks. With a margin of h voxels and a lattice of m the slab is 2 h + m slices of extra work (rounded up to the lattice): for CFTN 24 of
    then n + 24, a tenth more from 240 low-resolution slices on and a third more at 72; with fewer there is no slab, only the preview, for the
    slab would be more than a quarter itself.

    Parameters
    ----------
    job : Job
    network : Module
    device : torch.device
    tile : int, optional
        Largest core edge in LR voxels, overriding the memory model (networks that are cut by margins).
    busy : (X, Y, Z) bool array, optional
        LR voxels that are not air (:func:`~napari_mrsr.inference.background.busy_mask`); the rest is left out where that saves anything.
    look : Look, optional
        What is on the screen.
    batch : int, optional
        Slices, or tiles of one size, that the network is given together.
    cost : Cost, optional
        What the network was measured to cost here; else its architecture's figure for memory, and no time.

    Raises
    ------
    RunError
        If not even the smallest tile fits.
    InputError
        If the tile or batch asked for does not fit, or the network takes none.
    """
    architecture = get_architecture(job.card.architecture)
    shape = job.grid.coarse_shape
    memory = _Memory((cost.bytes if cost else 0) or architecture.bytes_per_voxel(network), _free(device), str(device))
    halo, air, at_once = 0, 0.0, 1
    if architecture.tiling == "whole":
        whole = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
        tiles, peak = [Tile(whole, whole)], memory.per_voxel * math.prod(job.grid.fine_shape)
        if peak > memory.free:
            raise RunError(f"{job.card.name} needs {size(peak)}, {size(memory.free)} are free on {device}; crop the input.")
    elif architecture.tiling == "planes":
        if tile is not None:
            raise InputError(f"{job.card.name} sees whole slices; give the number at once (batch) in place of a tile size.")
        tiles, peak, air = _planes(job, memory, architecture, batch, busy, look is not None)
    else:
        halo = margin(job, network)
        asked = lr_region(job)
        region, air = _without_air(asked, busy)
        cut = partial(_fitting, shape=shape, halo=halo, multiple=architecture.size_multiple, memory=memory)
        tiles = cut(region, tile=tile)
        if look is not None and tile is None:
            at = lr_position(job, look.at)[look.axis]
            first = slab(region, look.axis, at, architecture.size_multiple)
            tiles = _seen_early(tiles, cut(first) if first else [], look.axis, at)
        largest = max(t.voxels for t in tiles)
        at_once = batch or _together(largest, len(tiles), memory)
        peak = memory.require(largest * min(at_once, len(tiles)), "The tiles asked for need", batch is not None)
    expected = cost.seconds * sum(t.voxels for t in tiles) if cost else None
    return Plan(str(device), tuple(tiles), halo, peak, air, batch=at_once, expected=expected)


@dataclass(frozen=True)
class _Memory:
    """Bytes that each voxel takes, and bytes that are free on a device."""

    per_voxel: int
    free: int
    device: str

    def fits(self, voxels: int) -> bool:
        return self.per_voxel * voxels <= MEMORY_SHARE * self.free

    def require(self, voxels: int, what: str, asked: bool) -> int:
        """Bytes of so many voxels, which must be free where somebody asked for them by hand."""
        need = self.per_voxel * voxels
        if asked and need > self.free:
            raise InputError(f"{what} {size(need)}, {size(self.free)} are free on {self.device}; choose a smaller number, or leave it out.")
        return need


def _free(device: torch.device) -> int:
    found = {entry["name"]: int(entry["free"]) for entry in list_devices()}
    if str(device) not in found:
        raise RunError(f"{device} is not there any more; choose another device.")
    return found[str(device)]


def _together(largest: int, count: int, memory: _Memory) -> int:
    """How many small tiles keep a device busy; on a CPU one does."""
    if memory.device == "cpu" or largest >= PASS_VOXELS:
        return 1
    most = min(PASS_VOXELS // largest, count)
    return max(1, min(most, int(MEMORY_SHARE * memory.free / (memory.per_voxel * largest))))


def _seen_early(tiles: list[Tile], first: list[Tile], axis: int, at: float) -> list[Tile]:
    """The tiles, with those of a slab in front where these show the slice within a quarter of the work and the others alone do not."""
    work, extra = sum(t.voxels for t in tiles), sum(t.voxels for t in first)
    showing = sum(t.voxels for t in tiles if t.core[axis].start <= round(at) < t.core[axis].stop)
    return [*first, *tiles] if showing > VISIBLE_SHARE * work and 0 < extra <= VISIBLE_SHARE * (work + extra) else tiles


def margin(job: Job, network: Any) -> int:
    """Margin around tiles in LR voxels: as asked for, else as measured for the model, else what its architecture says."""
    architecture = get_architecture(job.card.architecture)
    if job.halo is not None:
        return job.halo
    if job.card.halo is not None and not job.exact:
        return job.card.halo
    return job.card.full_halo or job.card.halo or architecture.halo(network) or 0


def lr_position(job: Job, at: Sequence[float]) -> tuple[float, float, float]:
    """World point in LR voxels."""
    inverse = np.linalg.inv(job.affine)
    fine = inverse[:3, :3] @ np.asarray(at, float) + inverse[:3, 3]
    x, y, z = ((f - axis.start) / axis.step for f, axis in zip(fine, job.grid.axes, strict=True))
    return float(x), float(y), float(z)


def _without_air(region: Block, busy: NDArray[np.bool_] | None) -> tuple[Block, float]:
    """Part of a region that holds anything but air, and the share that is left out."""
    if busy is None or not busy[region].any():
        return region, 0.0
    inner = bounds(busy[region])
    x, y, z = (slice(r.start + i.start, r.start + i.stop) for r, i in zip(region, inner, strict=True))
    air = 1 - math.prod(s.stop - s.start for s in (x, y, z)) / math.prod(s.stop - s.start for s in region)
    return ((x, y, z), air) if air >= LEAST_SAVING else (region, 0.0)


def _fitting(block: Block, shape: Sequence[int], halo: int, multiple: int, memory: _Memory, tile: int | None = None) -> list[Tile]:
    """Tiles of a block: with the edge asked for, else halved along their longest edge until each fits."""
    edges = [min(s.stop - s.start, tile or s.stop - s.start) for s in block]
    while True:
        tiles = make_tiles(block, shape, edges, halo, multiple)
        largest = max(t.voxels for t in tiles)
        if tile is not None:
            memory.require(largest, f"A tile of {tile} voxels with its margin of {halo} needs", asked=True)
        if tile is not None or memory.fits(largest):
            return tiles
        longest = max(range(3), key=lambda a: edges[a])
        if edges[longest] <= SMALLEST_TILE:
            need = size(memory.per_voxel * largest)
            raise RunError(f"The smallest tile needs {need}, {size(memory.free)} are free on {memory.device}; close other programs.")
        edges[longest] = max(SMALLEST_TILE, math.ceil(edges[longest] / 2))


def _planes(
    job: Job, memory: _Memory, architecture: Architecture, batch: int | None, busy: NDArray[np.bool_] | None, watched: bool
) -> tuple[list[Tile], int, float]:
    """Whole slices, as many at once as are wanted and fit; those of air alone are left out. Gives tiles, peak bytes, share of air.

    What networks that cut slices into windows would see of air around the head is left out as well.
    """
    shape = job.grid.fine_shape if architecture.pre_interpolated else job.grid.coarse_shape
    asked = sum(job.block[stack].stop - job.block[stack].start for stack in job.stacks)
    largest_plane = max(math.prod(shape) // shape[stack] for stack in job.stacks)
    few = max(1, min(FEW_PLANES, FEW_PLANES_BYTES // (memory.per_voxel * largest_plane)))
    most = batch or (few if memory.device == "cpu" else MANY_PLANES)
    if watched and batch is None:
        most = max(1, min(most, int(PLANES_SHARE * asked)))
    tiles: list[Tile] = []
    largest = 0
    for stack in job.stacks:
        plane = math.prod(shape) // shape[stack]
        if not memory.fits(plane):
            need = size(memory.per_voxel * plane)
            raise RunError(f"One slice needs {need}, {size(memory.free)} are free on {memory.device}; close other programs.")
        count = most if batch else min(most, int(MEMORY_SHARE * memory.free / (memory.per_voxel * plane)))
        planes = _busy_planes(job.block[stack], stack, shape, busy)
        group = make_planes(planes, shape, stack, count) if busy is None or not architecture.windowed else _blocks(planes, shape, stack, count, busy)
        largest = max(largest, *(t.voxels for t in group))
        tiles += group
    peak = memory.require(largest, f"{most} slices at once need", batch is not None)
    whole = sum(math.prod(shape) // shape[stack] * (job.block[stack].stop - job.block[stack].start) for stack in job.stacks)
    return tiles, peak, 1 - sum(t.voxels for t in tiles) / whole


def _blocks(planes: slice, shape: Sequence[int], stack: int, count: int, busy: NDArray[np.bool_]) -> list[Tile]:
    """Planes of the finer lattice, each cut in plane to what is not air in its block of planes.

    Blocks lie where they lie, whatever part of the planes is asked for and however many fit at once, so that the result does not depend on it.
    """
    factor = [n / m for n, m in zip(shape, busy.shape, strict=True)]
    tiles: list[Tile] = []
    for start in range(planes.start // PLANES_IN_BLOCK * PLANES_IN_BLOCK, planes.stop, PLANES_IN_BLOCK):
        block = [slice(start, min(start + PLANES_IN_BLOCK, n)) if axis == stack else slice(0, n) for axis, n in enumerate(shape)]
        x, y, z = (slice(int(s.start / f), math.ceil(s.stop / f)) for s, f in zip(block, factor, strict=True))
        region, _ = _without_air((x, y, z), busy)
        region_fine = [slice(int(s.start * f), min(n, math.ceil(s.stop * f))) for s, f, n in zip(region, factor, shape, strict=True)]
        part = slice(max(start, planes.start), min(start + PLANES_IN_BLOCK, planes.stop))
        tiles += [narrowed(tile, region_fine) for tile in make_planes(part, shape, stack, count)]
    return tiles


def _busy_planes(part: slice, stack: int, shape: Sequence[int], busy: NDArray[np.bool_] | None) -> slice:
    """Slices of a range from the first to the last that holds anything but air; the range itself where that saves too little."""
    if busy is None:
        return part
    some: NDArray[np.bool_] = np.any(busy, axis=tuple(a for a in range(3) if a != stack))
    # Slices of a finer lattice lie within those of the low resolution.
    some = some[np.minimum(np.arange(shape[stack]) * len(some) // shape[stack], len(some) - 1)]
    inside = part.start + np.flatnonzero(some[part])
    if inside.size == 0 or inside.size > (1 - LEAST_SAVING) * (part.stop - part.start):
        return part
    return slice(int(inside[0]), int(inside[-1]) + 1)


def _core_size(tile: Tile) -> tuple[int, ...]:
    return tuple(s.stop - s.start for s in tile.core)
