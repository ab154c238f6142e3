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
    def size(self) -> tuple[int, int, int]:
        """Shape that the network sees."""
        x, y, z = (s.stop - s.start for s in self.padded)
        return x, y, z

    @property
    def voxels(self) -> int:
        """LR voxels the network sees."""
        return math.prod(self.size)

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
        return [narrowed(piece, tile.core) for piece in make_planes(tile.core[axis], shape, axis, -(-size // 2))]
    edges = [s.stop - s.start for s in tile.core]
    edges[axis] = -(-size // 2)
    return make_tiles(tile.core, shape, edges, halo, multiple)


def slab(region: Sequence[slice], axis: int, at: float, multiple: int) -> tuple[slice, slice, slice] | None:
    """The thinnest block of a region across an axis that holds a position and whose tile wastes nothing.

    Parameters
    ----------
    region : sequence of slice
    axis : int
    at : float
        Position along the axis, in voxels.
    multiple : int
        As of :func:`make_tiles`: tiles end on it, so a thinner block costs as much.

    Returns
    -------
    block or None
        None where the position lies outside the region.
    """
    index, part = round(at), region[axis]
    if not part.start <= index < part.stop:
        return None
    low = index // multiple * multiple
    inside = slice(max(low, part.start), min(low + multiple, part.stop))
    x, y, z = (inside if a == axis else r for a, r in enumerate(region))
    return x, y, z


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


def narrowed(planes: Tile, region: Sequence[slice]) -> Tile:
    """The same planes, cut in plane to `region`."""
    x, y, z = (own if axis == planes.stack else part for axis, (own, part) in enumerate(zip(planes.core, region, strict=True)))
    return Tile((x, y, z), (x, y, z), planes.stack)
