"""Cutting a lattice into tiles with margins, or into stacks of planes: geometry only."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """One piece of work, in LR voxels.

    Attributes
    ----------
    core : tuple of slice
        Part whose result is kept.
    padded : tuple of slice
        Part the network sees; starts on a multiple of the network's lattice.
    stack : int or None
        Axis along which planes are stacked, for networks that see slices.
    """

    core: tuple[slice, slice, slice]
    padded: tuple[slice, slice, slice]
    stack: int | None = None

    @property
    def voxels(self) -> int:
        """LR voxels the network sees."""
        return math.prod(s.stop - s.start for s in self.padded)

    def inside(self) -> tuple[slice, slice, slice]:
        """The core in the coordinates of the padded tile."""
        x, y, z = (slice(c.start - p.start, c.stop - p.start) for c, p in zip(self.core, self.padded, strict=True))
        return x, y, z


def make_tiles(region: Sequence[slice], shape: Sequence[int], edge: Sequence[int], halo: int, multiple: int) -> list[Tile]:
    """Cover `region` of a lattice of `shape` with tiles.

    Parameters
    ----------
    region : sequence of slice
        Part to cover.
    shape : sequence of int
        Whole lattice; tiles never reach beyond it.
    edge : sequence of int
        Largest core edge per axis; cores are split evenly.
    halo : int
        Margin around each core.
    multiple : int
        Padded starts are multiples of this, so that windows inside the network fall on the same voxels in every tile.

    Returns
    -------
    list of Tile
        In R-major order; the cores partition the region.
    """
    per_axis = []
    for part, size, largest in zip(region, shape, edge, strict=True):
        count = math.ceil((part.stop - part.start) / largest)
        bounds = [part.start + (part.stop - part.start) * i // count for i in range(count + 1)]
        pieces = []
        for start, stop in itertools.pairwise(bounds):
            low = max(0, (start - halo) // multiple * multiple)
            high = min(size, -(-(stop + halo) // multiple) * multiple)
            pieces.append((slice(start, stop), slice(low, high)))
        per_axis.append(pieces)
    return [Tile((a[0], b[0], c[0]), (a[1], b[1], c[1])) for a, b, c in itertools.product(*per_axis)]


def halves(tile: Tile, shape: Sequence[int], halo: int, multiple: int, smallest: int) -> list[Tile]:
    """The same work in two smaller tiles; none where a tile cannot be cut any more.

    Parameters
    ----------
    tile : Tile
    shape : sequence of int
        Whole lattice.
    halo, multiple : int
        As of :func:`make_tiles`.
    smallest : int
        Shortest core edge that is still cut, in voxels; stacks are cut down to one plane.
    """
    axis = max(range(3), key=lambda a: tile.core[a].stop - tile.core[a].start) if tile.stack is None else tile.stack
    size = tile.core[axis].stop - tile.core[axis].start
    if size < 2 or (tile.stack is None and size <= smallest):
        return []
    if tile.stack is not None:
        return make_planes(tile.core[axis], shape, axis, -(-size // 2))
    edges = [s.stop - s.start for s in tile.core]
    edges[axis] = -(-size // 2)
    return make_tiles(tile.core, shape, edges, halo, multiple)


def slabs(region: Sequence[slice], axis: int, at: float, halo: int, multiple: int) -> list[tuple[slice, slice, slice]]:
    """Cut a region across an axis so that the slab that holds a position is at most a quarter of the work, margins included.

    Parameters
    ----------
    region : sequence of slice
    axis : int
    at : float
        Position along the axis, in voxels.
    halo, multiple : int
        As of :func:`make_tiles`.

    Returns
    -------
    list of blocks
        The slab first; the region alone where margins leave no room for one.
    """
    start, stop = region[axis].start, region[axis].stop
    thickness = ((stop - start) // 4 - 2 * halo) // multiple * multiple
    if thickness < 2:
        return [(region[0], region[1], region[2])]
    low = int(at - thickness / 2) // multiple * multiple
    low = min(max(low, start), stop - thickness)
    parts = [slice(low, low + thickness), slice(start, low), slice(low + thickness, stop)]
    blocks = []
    for part in parts:
        if part.stop > part.start:
            x, y, z = (part if a == axis else r for a, r in enumerate(region))
            blocks.append((x, y, z))
    return blocks


def make_planes(part: slice, shape: Sequence[int], stack: int, count: int) -> list[Tile]:
    """Cover `part` of the planes along axis `stack` with groups of whole planes.

    Parameters
    ----------
    part : slice
        Planes to cover.
    shape : sequence of int
        Whole lattice.
    stack : int
        Axis across the planes.
    count : int
        Most planes in a group; groups are split evenly.
    """
    groups = math.ceil((part.stop - part.start) / count)
    bounds = [part.start + (part.stop - part.start) * i // groups for i in range(groups + 1)]
    tiles = []
    for start, stop in itertools.pairwise(bounds):
        x, y, z = (slice(start, stop) if axis == stack else slice(0, n) for axis, n in enumerate(shape))
        tiles.append(Tile((x, y, z), (x, y, z), stack))
    return tiles
