"""How a run is cut up: device, tile size, margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_mrsr.errors import InputError, RunError
from napari_mrsr.inference.background import LEAST_SAVING, bounds
from napari_mrsr.inference.control import Look
from napari_mrsr.inference.options import Job
from napari_mrsr.inference.process import list_devices
from napari_mrsr.inference.tiles import Tile, make_planes, make_tiles, slabs
from napari_mrsr.networks import get_architecture

if TYPE_CHECKING:
    import torch

Block = tuple[slice, slice, slice]

MEMORY_SHARE = 0.5
"""Part of the free memory a tile may take."""
SMALLEST_TILE = 16
PLANES_AT_ONCE = 4
"""Slices given to a 2D network together; more gain nothing on a CPU and make progress coarse."""


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
        Expected memory of the largest tile.
    air : float
        Share of the voxels asked for that are empty air and not computed.
    precision : str
        Numbers the network computes in.
    """

    device: str
    tiles: tuple[Tile, ...]
    halo: int
    peak_bytes: int
    air: float = 0.0
    precision: str = "float32"

    @property
    def summary(self) -> str:
        """One line for people."""
        rest = f"{self.precision}, about {self.peak_bytes / 2**30:.1f} GiB, on {self.device}" + (
            f", {100 * self.air:.0f} % air left out" if self.air else ""
        )
        largest = max(self.tiles, key=lambda t: t.voxels)
        if largest.stack is not None:
            planes = sum(t.core[t.stack].stop - t.core[t.stack].start for t in self.tiles if t.stack is not None)
            return f"{planes} slices in {len(self.tiles)} groups, {rest}"
        core = "x".join(str(c.stop - c.start) for c in largest.core)
        several = "s of up to" if len({_size(t) for t in self.tiles}) > 1 else "s of" if len(self.tiles) > 1 else " of"
        return f"{len(self.tiles)} tile{several} {core} voxels, margin {self.halo}, {rest}"


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
    job: Job, network: Any, device: torch.device, tile: int | None = None, busy: NDArray[np.bool_] | None = None, look: Look | None = None
) -> Plan:
    """Largest tiles that fit half of the free memory.

    Parameters
    ----------
    job : Job
    network : Module
    device : torch.device
    tile : int, optional
        Largest core edge in LR voxels, overriding the memory model.
    busy : (X, Y, Z) bool array, optional
        LR voxels that are not air (:func:`~napari_mrsr.inference.background.busy_mask`); the rest is left out where that saves anything.
    look : Look, optional
        What is on the screen: volumes are cut so that the slice that shows it can be done within a quarter of the work.

    Raises
    ------
    RunError
        If not even the smallest tile fits.
    """
    architecture = get_architecture(job.card.architecture)
    shape = job.grid.coarse_shape
    per_voxel = architecture.bytes_per_voxel(network)
    if architecture.tiling == "whole":
        whole = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
        return Plan(str(device), (Tile(whole, whole),), 0, per_voxel * math.prod(job.grid.fine_shape))
    free = next(entry["free"] for entry in list_devices() if entry["name"] == str(device))
    if architecture.tiling == "planes":
        return _plan_planes(job, per_voxel, architecture.pre_interpolated, str(device), free, tile, busy)
    asked = lr_region(job)
    region, air = _without_air(asked, busy)
    halo = margin(job, network)
    blocks = [region]
    if look is not None and tile is None:
        blocks = slabs(region, look.axis, lr_position(job, look.at)[look.axis], halo, architecture.size_multiple)
    tiles: list[Tile] = []
    for block in blocks:
        edges = [min(s.stop - s.start, tile) if tile else s.stop - s.start for s in block]
        tiles += _fitting(block, shape, edges, halo, architecture.size_multiple, tile is not None, per_voxel, free, str(device))
    return Plan(str(device), tuple(tiles), halo, per_voxel * max(t.voxels for t in tiles), air)


def margin(job: Job, network: Any) -> int:
    """Margin around tiles in LR voxels: as measured for the model, else what its architecture says."""
    architecture = get_architecture(job.card.architecture)
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


def _fitting(
    block: Block, shape: Sequence[int], edges: list[int], halo: int, multiple: int, fixed: bool, per_voxel: int, free: int, device: str
) -> list[Tile]:
    """Tiles of a block, halved along their longest edge until each fits."""
    while True:
        tiles = make_tiles(block, shape, edges, halo, multiple)
        peak = per_voxel * max(t.voxels for t in tiles)
        if fixed or peak <= MEMORY_SHARE * free:
            return tiles
        longest = max(range(3), key=lambda a: edges[a])
        if edges[longest] <= SMALLEST_TILE:
            raise RunError(f"The smallest tile needs {peak / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free on {device}; close other programs.")
        edges[longest] = max(SMALLEST_TILE, math.ceil(edges[longest] / 2))


def _plan_planes(job: Job, per_voxel: int, pre_interpolated: bool, device: str, free: int, count: int | None, busy: NDArray[np.bool_] | None) -> Plan:
    """Whole slices, as many at once as are wanted and fit; those of air alone are left out."""
    shape = job.grid.fine_shape if pre_interpolated else job.grid.coarse_shape
    tiles: list[Tile] = []
    peak = asked = 0
    for stack in job.stacks:
        plane = per_voxel * math.prod(shape) // shape[stack]
        if plane > MEMORY_SHARE * free:
            raise RunError(f"One slice needs {plane / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free on {device}; close other programs.")
        most = count or min(PLANES_AT_ONCE, int(MEMORY_SHARE * free / plane))
        part = job.block[stack]
        asked += part.stop - part.start
        group = make_planes(_busy_planes(part, stack, shape, busy), shape, stack, most)
        peak = max(peak, plane * max(t.core[stack].stop - t.core[stack].start for t in group))
        tiles += group
    done = sum(t.core[t.stack].stop - t.core[t.stack].start for t in tiles if t.stack is not None)
    return Plan(device, tuple(tiles), 0, peak, 1 - done / asked)


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


def _size(tile: Tile) -> tuple[int, ...]:
    return tuple(s.stop - s.start for s in tile.core)
