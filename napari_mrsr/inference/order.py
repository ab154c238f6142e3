"""Which tile comes next: the one nearest to what is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from napari_mrsr.inference.tiles import Tile

Focus = Callable[[], Sequence[float] | None]
"""Gives the point looked at in voxels of the tiles' lattice, or None where nobody looks."""


class TileQueue:
    """Tiles that are left to do.

    The order is asked anew for every tile, so that it follows the eye; without a point to look at it is that of the list, which makes runs
    without a viewer repeat themselves exactly.

    Parameters
    ----------
    tiles : iterable of Tile
    focus : callable
    """

    def __init__(self, tiles: Iterable[Tile], focus: Focus = lambda: None) -> None:
        self._left, self._focus = list(tiles), focus

    def __len__(self) -> int:
        return len(self._left)

    def pop(self, most: int = 1) -> list[Tile]:
        """Take the next tile, nearest to the focus and among equals the first of the list, and the next ones of its size up to `most` in all."""
        taken = [self._left.pop(self._next())]
        while len(taken) < most and (alike := [i for i, tile in enumerate(self._left) if tile.size == taken[0].size]):
            taken.append(self._left.pop(self._next(alike)))
        return taken

    def peek(self) -> Tile:
        """The next tile, left where it is."""
        return self._left[self._next()]

    def take_all(self) -> list[Tile]:
        """Take all tiles that are left, in the order of the list."""
        left, self._left = self._left, []
        return left

    def drop_inside(self, tile: Tile) -> list[Tile]:
        """Take out tiles whose whole core another one has covered."""
        covered = [_within(t, tile) for t in self._left]
        dropped = [t for t, gone in zip(self._left, covered, strict=True) if gone]
        self._left = [t for t, gone in zip(self._left, covered, strict=True) if not gone]
        return dropped

    def push(self, tiles: Iterable[Tile]) -> None:
        """Put tiles in front of the list, for example the parts of one that was too large."""
        self._left[:0] = tiles

    def _next(self, among: Sequence[int] | None = None) -> int:
        at = self._focus()
        places = range(len(self._left)) if among is None else among
        return places[0] if at is None else min(places, key=lambda i: distance(self._left[i], at))


def distance(tile: Tile, at: Sequence[float]) -> float:
    """Squared distance of a tile's core from a point, in voxels; of stacks of planes only across the planes."""
    axes = range(3) if tile.stack is None else (tile.stack,)
    gaps = (float(max(tile.core[a].start - 0.5 - at[a], 0.0, at[a] - (tile.core[a].stop - 0.5))) for a in axes)
    return sum(gap * gap for gap in gaps)


def _within(tile: Tile, outer: Tile) -> bool:
    return all(o.start <= c.start and c.stop <= o.stop for o, c in zip(outer.core, tile.core, strict=True))
