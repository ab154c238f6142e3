"""Attention over the whole volume: a pass of its own gathers what the tiles of the run then look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_mrsr.errors import InputError, RunError
from napari_mrsr.inference.control import Control
from napari_mrsr.inference.events import Noticed, Rested
from napari_mrsr.inference.feed import Feed
from napari_mrsr.inference.loop import TileLoop, answer
from napari_mrsr.inference.monitor import Monitor
from napari_mrsr.inference.options import RunOptions
from napari_mrsr.inference.pace import Pace
from napari_mrsr.inference.plan import Plan
from napari_mrsr.inference.process import list_devices
from napari_mrsr.inference.tiles import Tile, make_tiles
from napari_mrsr.networks.blocks.recording import Recorder


def require_attention(feed: Feed, options: RunOptions) -> None:
    """Refuse attention over the whole volume where a network has none, or where it cannot be had with the other options.

    Raises
    ------
    InputError
    """
    if options.attention == "window":
        return
    if not feed.architecture.attention(feed.network):
        raise InputError(f"{feed.job.card.name} has no attention that could look at the whole volume; leave attention at window.")
    if options.compile:
        raise InputError("A translated network attends in windows only; leave out compile, or attention global.")
    if (options.batch or 1) > 1:
        raise InputError(f"Tiles that look at the whole volume go one at a time, not {options.batch}; leave the number at once (batch) out.")


def survey(feed: Feed, plan: Plan, control: Control, monitor: Monitor, pool: ThreadPoolExecutor) -> Iterator[Noticed | Rested]:
    """Let the network's attention see the whole volume from every tile.

    The network runs on tiles of the whole volume up to each of its attentions in turn (the later ones behind the earlier ones' global
    result); what comes there, some channels per LR voxel, is kept, and keys and values are made of it.

    Parameters
    ----------
    feed : Feed
        Of the run.
    plan : Plan
        Of the run: tiles of the same size and margin are used.
    control, monitor, pool
        As of :class:`TileLoop`.

    Raises
    ------
    RunError
        If keys and values do not fit into memory.
    """
    parts = feed.architecture.attention(feed.network)
    _require_room(feed)
    tiles = _cover(feed, plan)
    yield Noticed("Gathering what the attention looks at, over the whole volume.")
    for part in parts:
        part.forget()
        scout = _Scout(feed, part.entrance)
        pace = Pace(sum(tile.voxels for tile in tiles))
        loop = TileLoop(cast(Feed, scout), replace(plan, tiles=tiles, batch=1), {}, control, monitor, pool, pace)
        for event in loop:
            if isinstance(event, (Noticed, Rested)):
                yield event
        answer(pool.submit(_survey, feed, part, scout.gathered))


def _survey(feed: Feed, part: Any, gathered: Tensor) -> None:
    with torch.inference_mode(), feed.computing():
        part.survey(gathered.to(feed.device))
        part.start = (0, 0, 0)


def survey_bytes(feed: Feed) -> int:
    """Device memory that a survey keeps."""
    return sum(part.survey_bytes(feed.job.grid.coarse_shape) for part in feed.architecture.attention(feed.network))


class _Scout:
    """Stands in for a feed: runs the network up to one attention and keeps what comes there, in place of a result."""

    def __init__(self, feed: Feed, entrance: str) -> None:
        self._feed, self._entrance = feed, entrance
        self.gathered: Tensor = torch.empty(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._feed, name)

    def run_batch(self, tiles: Sequence[Tile], recorder: Recorder | None = None) -> list[dict[str, NDArray[np.float32]]]:
        """Nothing to paste."""
        for tile in tiles:
            recorder = Recorder((self._entrance,), only=True)
            self._feed.look(tile, recorder)
            found = recorder.found[self._entrance].values.cpu()
            if not self.gathered.numel():
                self.gathered = found.new_zeros(*found.shape[:2], *self._feed.job.grid.coarse_shape)
            self.gathered[(..., *tile.core)] = found[(..., *tile.inside())]
        return [{} for _ in tiles]


def _cover(feed: Feed, plan: Plan) -> tuple[Tile, ...]:
    """Tiles of the whole volume, air and all, as large as the largest of the run."""
    shape = feed.job.grid.coarse_shape
    largest = max(plan.tiles, key=lambda tile: tile.voxels)
    edges = [part.stop - part.start for part in largest.core]
    return tuple(make_tiles([slice(0, n) for n in shape], shape, edges, plan.halo, feed.architecture.size_multiple))


def _require_room(feed: Feed) -> None:
    need = survey_bytes(feed)
    free = next((int(entry["free"]) for entry in list_devices() if entry["name"] == str(feed.device)), need)
    if need > free:
        raise RunError(
            f"Attention over the whole volume keeps {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free on {feed.device}; "
            "take attention window, or crop the input."
        )
