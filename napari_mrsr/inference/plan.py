"""How a run is cut up: device, tile size, margin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_mrsr.errors import InputError, RunError
from napari_mrsr.inference.options import Job
from napari_mrsr.inference.process import list_devices
from napari_mrsr.inference.tiles import Tile, make_planes, make_tiles
from napari_mrsr.networks import get_architecture

if TYPE_CHECKING:
    import torch

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
    """

    device: str
    tiles: tuple[Tile, ...]
    halo: int
    peak_bytes: int

    @property
    def summary(self) -> str:
        """One line for people."""
        first = self.tiles[0]
        core = "x".join(str(c.stop - c.start) for c in first.core)
        if first.stack is not None:
            planes = sum(t.core[t.stack].stop - t.core[t.stack].start for t in self.tiles if t.stack is not None)
            return f"{planes} slices in {len(self.tiles)} groups, float32, about {self.peak_bytes / 2**30:.1f} GiB, on {self.device}"
        count = f"{len(self.tiles)} tile{'s' if len(self.tiles) > 1 else ''} of {core} voxels"
        return f"{count}, margin {self.halo}, float32, about {self.peak_bytes / 2**30:.1f} GiB, on {self.device}"


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


def make_plan(job: Job, network: Any, device: torch.device, tile: int | None = None) -> Plan:
    """Largest tiles that fit half of the free memory.

    Parameters
    ----------
    job : Job
    network : Module
    device : torch.device
    tile : int, optional
        Largest core edge in LR voxels, overriding the memory model.

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
        return _plan_planes(job, per_voxel, architecture.pre_interpolated, str(device), free, tile)
    region = lr_region(job)
    halo = job.card.halo if job.card.halo is not None else architecture.halo(network) or 0
    extent = [r.stop - r.start for r in region]
    edges = [min(n, tile) if tile else n for n in extent]
    while True:
        tiles = make_tiles(region, shape, edges, halo, architecture.size_multiple)
        peak = per_voxel * max(t.voxels for t in tiles)
        if tile or peak <= MEMORY_SHARE * free:
            return Plan(str(device), tuple(tiles), halo, peak)
        longest = max(range(3), key=lambda a: edges[a])
        if edges[longest] <= SMALLEST_TILE:
            raise RunError(f"The smallest tile needs {peak / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free on {device}; close other programs.")
        edges[longest] = max(SMALLEST_TILE, math.ceil(edges[longest] / 2))


def _plan_planes(job: Job, per_voxel: int, pre_interpolated: bool, device: str, free: int, count: int | None) -> Plan:
    """Whole slices, as many at once as are wanted and fit."""
    shape = job.grid.fine_shape if pre_interpolated else job.grid.coarse_shape
    tiles: list[Tile] = []
    peak = 0
    for stack in job.stacks:
        plane = per_voxel * math.prod(shape) // shape[stack]
        if plane > MEMORY_SHARE * free:
            raise RunError(f"One slice needs {plane / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free on {device}; close other programs.")
        most = count or min(PLANES_AT_ONCE, int(MEMORY_SHARE * free / plane))
        group = make_planes(job.block[stack], shape, stack, most)
        peak = max(peak, plane * max(t.core[stack].stop - t.core[stack].start for t in group))
        tiles += group
    return Plan(device, tuple(tiles), 0, peak)
