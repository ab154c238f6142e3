"""One pass of a network over a volume, tile by tile: what is looked at first, smaller tiles where memory runs out, rest where it is asked for."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from napari_mrsr.errors import RunError
from napari_mrsr.inference.control import Control
from napari_mrsr.inference.events import Noticed, Rested, TileDone
from napari_mrsr.inference.feed import Feed
from napari_mrsr.inference.journal import Journal
from napari_mrsr.inference.monitor import Interrupted, Monitor
from napari_mrsr.inference.order import TileQueue
from napari_mrsr.inference.pace import Pace
from napari_mrsr.inference.plan import SMALLEST_TILE, Plan, lr_position
from napari_mrsr.inference.process import free_memory
from napari_mrsr.inference.tiles import Tile, halves, make_tiles
from napari_mrsr.networks.blocks.recording import Recorder

REPORT_EVERY = 0.25
"""Seconds between progress events inside a tile."""
PREVIEW_HALO = 2
"""Margin in LR voxels of previews."""
PREVIEW_SHARE = 0.05
"""Largest part of the work that a preview may take."""

T = TypeVar("T")
Pieces = dict[str, NDArray[np.float32]]
Outs = Mapping[str, NDArray[np.float32]]

log = logging.getLogger(__name__)


class TileLoop:
    """Fills arrays of the asked block with what a network makes of a volume.

    Parameters
    ----------
    feed : Feed
    plan : Plan
    outs : mapping of (X, Y, Z) float32 arrays
        ``""`` and the maps that are wanted; filled in.
    control : Control
    monitor : Monitor
        Of the network.
    pool : ThreadPoolExecutor
        One thread, on which the network runs.
    pace : Pace
        Goes on over several passes.
    shown : bool
        Whether somebody watches the arrays grow: previews are made then.
    journal : Journal, optional
        Knows tiles that are done, and is told of every further one.
    """

    def __init__(
        self,
        feed: Feed,
        plan: Plan,
        outs: Outs,
        control: Control,
        monitor: Monitor,
        pool: ThreadPoolExecutor,
        pace: Pace,
        shown: bool = False,
        journal: Journal | None = None,
    ) -> None:
        self._feed, self._plan, self._outs, self._control, self._monitor, self._pool = feed, plan, outs, control, monitor, pool
        self._pace, self._shown, self._journal = pace, shown, journal
        self._batch = plan.batch
        self._previewed: list[slice] = []
        self._ready: list[tuple[Tile, Pieces, int]] = []
        self.tiles_done, self.shrunk = 0, False
        """Tiles done, and whether memory ran out on the way."""

    def __iter__(self) -> Iterator[TileDone | Noticed | Rested | float]:
        """Run; numbers are the share of the pass under way that is done (progress)."""
        try:
            # Planes of a second orientation are averaged into those of the first, so they come after them.
            for turn, stack in enumerate(dict.fromkeys(tile.stack for tile in self._plan.tiles)):
                queue = TileQueue(self._left(turn, stack), self._focus)
                while len(queue):
                    yield from self._rest()
                    if self._shown and stack is None:
                        yield from self._preview(queue)
                    yield from self._do(queue.pop(self._batch), turn, queue)
            yield from self._put_down()
        finally:
            for _ in self._put_down():  # what is finished stays, also of a run that is stopped
                pass

    def _left(self, turn: int, stack: int | None) -> list[Tile]:
        """Tiles of a turn that an earlier run has not done."""
        tiles = [t for t in self._plan.tiles if t.stack == stack]
        if self._journal is None or not self._journal.resumed:
            return tiles
        done = self._journal.done(self._shape, turn)
        left = [tile for tile in tiles if not done[tile.core].all()]
        self._pace.total -= sum(t.voxels for t in tiles) - sum(t.voxels for t in left)
        self.tiles_done += len(tiles) - len(left)
        return left

    @property
    def _shape(self) -> tuple[int, int, int]:
        """Lattice that the tiles are cut from."""
        grid = self._feed.job.grid
        return grid.fine_shape if self._feed.architecture.pre_interpolated else grid.coarse_shape

    def _do(self, tiles: list[Tile], turn: int, queue: TileQueue) -> Iterator[TileDone | Noticed | Rested | float]:
        try:
            found = yield from self._run(tiles)
        except Interrupted:
            queue.push(tiles)
            return
        except (torch.OutOfMemoryError, MemoryError) as error:
            yield from self._shrink(tiles, queue, error)
            return
        except RuntimeError as error:
            # What torch says where the host itself has no memory left.
            if "can't allocate memory" not in str(error):
                raise
            yield from self._shrink(tiles, queue, error)
            return
        self._ready = [(tile, pieces, turn) for tile, pieces in zip(tiles, found, strict=True)]
        self._pace.end()
        # Where the eye moved on before the slab made for it was begun, a larger tile may have covered it.
        covered = [t for tile in tiles for t in queue.drop_inside(tile)] if self._shown else []
        self._pace.total -= sum(t.voxels for t in covered)
        self.tiles_done += len(tiles) + len(covered)
        yield 0.0

    def _put_down(self) -> Iterator[TileDone]:
        """Write finished tiles to where the result grows; done while the network is at work on the next ones."""
        while self._ready:
            tile, pieces, turn = self._ready.pop(0)
            if self._journal is not None:
                self._journal.begin(tile, turn)
            block = paste(self._feed, tile, pieces, self._outs, turn)
            if self._journal is not None:
                self._journal.end(tile, turn)
            if block is not None:
                yield TileDone(block)

    def _run(self, tiles: list[Tile]) -> Generator[float | Rested | TileDone, None, list[Pieces]]:
        maps = tuple(name for name in self._outs if name)
        self._monitor.restart()
        self._pace.begin(sum(t.voxels for t in tiles))
        try:
            future = self._pool.submit(self._feed.run_batch, tiles, Recorder(maps) if maps else None)
            yield from self._put_down()
            yield from self._wait(future)
            return future.result()
        except Exception:
            self._pace.give_up()
            raise

    def _wait(self, future: Future[Any]) -> Iterator[float | Rested]:
        resting = False
        while True:
            try:
                future.exception(timeout=REPORT_EVERY)
            except FutureTimeout:
                if self._control.paused != resting:
                    resting = not resting
                    self._pace.rest(resting)
                    yield Rested(resting)
                yield self._monitor.fraction
                continue
            if resting:
                self._pace.rest(False)
                yield Rested(False)
            return

    def _rest(self) -> Iterator[Rested | TileDone]:
        """Between tiles the device can be given free altogether."""
        self._control.check()
        if not self._control.paused:
            return
        yield from self._put_down()
        self._feed.leave_device()
        yield Rested(True)
        while self._control.paused:
            self._control.wait(REPORT_EVERY)
        self._control.check()
        self._feed.return_to_device()
        yield Rested(False)

    def _shrink(self, tiles: list[Tile], queue: TileQueue, error: Exception) -> Iterator[Noticed]:
        """Go on with fewer at once, smaller tiles, then on the CPU; what is done stays."""
        feed = self._feed
        log.warning("Out of memory: %s", error)
        free_memory(feed.device)
        self.shrunk = True
        if len(tiles) > 1:
            self._batch = -(-len(tiles) // 2)
            queue.push(tiles)
            yield Noticed(f"{feed.device} ran out of memory; going on with {self._batch} tile{'s' * (self._batch > 1)} at once.")
            return
        (tile,) = tiles
        multiple, shape = feed.architecture.size_multiple, self._shape
        parts = halves(tile, shape, self._plan.halo, multiple, SMALLEST_TILE) if feed.architecture.tiling != "whole" else []
        if parts:
            # Tiles as large as this one would fail as well.
            rest = queue.take_all()
            cut = [piece for t in rest for piece in (halves(t, shape, self._plan.halo, multiple, SMALLEST_TILE) if t.voxels >= tile.voxels else [t])]
            self._pace.total += sum(t.voxels for t in [*parts, *cut]) - sum(t.voxels for t in [tile, *rest])
            queue.push([*parts, *cut])
            size = "x".join(str(s.stop - s.start) for s in parts[0].core)
            yield Noticed(f"{feed.device} ran out of memory; going on with tiles of {size} voxels.")
        elif feed.device.type != "cpu":
            queue.push([tile])
            message = f"{feed.device} has no memory left even for the smallest tile; going on on the CPU."
            feed.move(torch.device("cpu"))
            self._pace.change_speed()
            yield Noticed(message)
        else:
            raise RunError(f"{feed.device} ran out of memory with {self._plan.summary}; choose a smaller region, or close other programs.") from None

    def _focus(self) -> tuple[float, float, float] | None:
        look = self._control.focus
        if look is None:
            return None
        job = self._feed.job
        at = lr_position(job, look.at)
        if self._feed.architecture.pre_interpolated:
            x, y, z = (axis.start + axis.step * p for p, axis in zip(at, job.grid.axes, strict=True))
            return x, y, z
        return at

    def _preview(self, queue: TileQueue) -> Iterator[TileDone | Rested | float]:
        """The slice on the screen, with a small margin, where its exact tile would take long; replaced when that is done."""
        look, at = self._control.focus, self._focus()
        if look is None or at is None or not len(queue):
            return
        ahead = queue.peek()
        index = round(at[look.axis])
        core = ahead.core[look.axis]
        seen = any(s.start <= index < s.stop for s in self._previewed)
        if seen or not core.start <= index < core.stop or ahead.voxels < 4 / PREVIEW_SHARE:
            return
        x, y, z = (slice(index, index + 1) if a == look.axis else s for a, s in enumerate(ahead.core))
        shape = self._feed.job.grid.coarse_shape
        (tile,) = make_tiles((x, y, z), shape, [s.stop - s.start for s in (x, y, z)], PREVIEW_HALO, 1)
        if tile.voxels > PREVIEW_SHARE * self._pace.total:
            return
        self._pace.total += tile.voxels
        try:
            (pieces,) = yield from self._run([tile])
        except (Interrupted, RuntimeError, MemoryError):
            # The exact tile says what is wrong; a preview is not worth a word.
            self._pace.total -= tile.voxels
            return
        block = paste(self._feed, tile, {"": pieces[""]}, self._outs, 0)
        self._pace.end()
        self._previewed.append((x, y, z)[look.axis])
        if block is not None:
            yield TileDone(block, preview=True)


def answer(future: Future[T]) -> T:
    """What another thread found out; unlike an endless wait, this one hears an interrupt on every system."""
    while not future.done():
        wait((future,), REPORT_EVERY)
    return future.result()


def paste(feed: Feed, tile: Tile, pieces: Pieces, outs: Outs, turn: int) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None:
    """Put the part of a tile's core that was asked for into the block; planes of a further orientation are averaged in.

    Returns
    -------
    three (start, stop) or None
        Where, in voxels of the block; None where nothing of the core was asked for.

    Raises
    ------
    RunError
        If the network gave values that are not finite.
    """
    job = feed.job
    covered, core = feed.covers(tile), feed.covers(Tile(tile.core, tile.core, tile.stack))
    source, target = [], []
    for axis in range(3):
        start, stop = max(core[axis].start, job.block[axis].start), min(core[axis].stop, job.block[axis].stop)
        if stop <= start:
            return None
        source.append(slice(start - covered[axis].start, stop - covered[axis].start))
        target.append(slice(start - job.block[axis].start, stop - job.block[axis].start))
    for name, piece in pieces.items():
        part, place = piece[tuple(source)], outs[name][tuple(target)]
        if not np.isfinite(part).all():
            raise RunError(f"{job.card.name} gave values that are not finite; nothing was kept.")
        if turn == 0:
            place[...] = part
        else:
            place += (part - place) / np.float32(turn + 1)
    x, y, z = ((s.start, s.stop) for s in target)
    return x, y, z
