"""The engine: a generator that super-resolves a volume tile by tile and can be stopped at any moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_mrsr.errors import RunError
from napari_mrsr.evaluation.align import resample_onto
from napari_mrsr.grid import lattice_offset
from napari_mrsr.inference.events import Event, Progress, RunDone, RunStarted
from napari_mrsr.inference.feed import Feed
from napari_mrsr.inference.monitor import Monitor
from napari_mrsr.inference.options import RunOptions
from napari_mrsr.inference.plan import Plan, make_plan
from napari_mrsr.inference.setup import Setup, set_up
from napari_mrsr.inference.tiles import Tile
from napari_mrsr.networks import get_architecture
from napari_mrsr.networks.blocks.recording import Recorder
from napari_mrsr.volume import Volume

REPORT_EVERY = 0.25
"""Seconds between progress events inside a tile."""
CALIBRATION_VOXELS = 300_000
"""Runs over fewer LR voxels end before the time of each layer would be known."""

log = logging.getLogger(__name__)


def run(
    volume: Volume,
    options: RunOptions,
    reference: Volume | None = None,
    like: Volume | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Super-resolve a volume.

    Parameters
    ----------
    volume : Volume
        Low-resolution input, scanner units.
    options : RunOptions
    reference : Volume, optional
        Second contrast of the same person on any grid, for networks that use one; resampled through world coordinates.
    like : Volume, optional
        Put the result onto this volume's lattice (nothing is resampled where it lies on it already).
    cancelled : callable
        Asked between layers of the network; True stops the run at once.

    Yields
    ------
    RunStarted, Progress, RunDone

    Raises
    ------
    InputError
        Before anything is computed, where the input or the options do not fit.
    RunError
        If the device runs out of memory or the computation fails.
    Cancelled
        If `cancelled` answered True.
    """
    started = time.perf_counter()
    setup = set_up(volume, options, reference, like, cancelled)
    setup.require_maps(options.maps, ("dense",))
    job, device, network = setup.job, setup.device, setup.network
    plan = make_plan(job, network, device, options.tile)
    yield RunStarted(plan.summary, str(device), len(plan.tiles), setup.notes, job.card.name)
    shape = tuple(b.stop - b.start for b in job.block)
    outs = {name: np.zeros(shape, np.float32) for name in ("", *options.maps)}
    monitor = Monitor(network, cancelled)
    total = sum(t.voxels for t in plan.tiles)
    done = 0
    try:
        with ThreadPoolExecutor(1) as pool, monitor:
            if get_architecture(job.card.architecture).tiling == "halo" and total >= CALIBRATION_VOXELS:
                pool.submit(monitor.calibrate, partial(_forward_cube, network, device)).result()
            for index, tile in enumerate(plan.tiles):
                monitor.restart()
                future = pool.submit(_run_tile, setup.feed, tile, options.maps, outs)
                while True:
                    try:
                        future.result(timeout=REPORT_EVERY)
                        break
                    except FutureTimeout:
                        yield _progress(started, (done + tile.voxels * monitor.fraction) / total, index, len(plan.tiles))
                done += tile.voxels
                monitor.check()
                yield _progress(started, done / total, index + 1, len(plan.tiles))
    except (torch.OutOfMemoryError, MemoryError):
        raise RunError(f"{device} ran out of memory with {plan.summary}; choose a smaller tile or another device.") from None
    except RuntimeError as error:
        raise RunError(f"{job.card.name} failed on {device}: {(str(error) or 'no reason given').splitlines()[0]}") from error
    finally:
        del network
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if not all(np.isfinite(out).all() for out in outs.values()):
        raise RunError(f"{job.card.name} gave values that are not finite; nothing was kept.")
    seconds = time.perf_counter() - started
    result = _result(volume, setup, plan, options, outs.pop(""), seconds)
    maps = [_map_volume(result, name, data) for name, data in outs.items()]
    if like is not None and lattice_offset(like.affine, result.affine, result.shape) is None:
        result, *maps = (resample_onto(like, v) for v in (result, *maps))
    yield RunDone(result, seconds, tuple(maps))


def super_resolve(volume: Volume, model: str = "cftn-x2", *, reference: Volume | None = None, like: Volume | None = None, **options: Any) -> Volume:
    """Super-resolve a volume and return the result.

    Parameters
    ----------
    volume : Volume
        Low-resolution input, scanner units.
    model : str
        Name from :func:`napari_mrsr.list_models`.
    reference, like : Volume, optional
        See :func:`run`.
    **options
        Fields of :class:`RunOptions`: scale, protocol, axis, noise, voxel, orientations, register_reference, roi, device, tile.

    Returns
    -------
    Volume
        float32, scanner units, on the exact finer lattice; with `roi` the sub-block of the whole result.

    Raises
    ------
    InputError, RunError
        As :func:`run`.
    """
    for event in run(volume, RunOptions.create(model=model, **options), reference, like):
        if isinstance(event, RunStarted):
            for warning in event.warnings:
                log.warning("%s", warning)
        if isinstance(event, RunDone):
            return event.volume
    raise RunError("The run ended without a result.")


def _run_tile(feed: Feed, tile: Tile, maps: tuple[str, ...], outs: dict[str, NDArray[np.float32]]) -> None:
    _paste(feed, tile, feed.run(tile, Recorder(maps) if maps else None), outs)


def _forward_cube(network: nn.Module, device: torch.device, edge: int) -> None:
    with torch.inference_mode():
        network(torch.zeros(1, 1, edge, edge, edge, device=device))


def _paste(feed: Feed, tile: Tile, pieces: dict[str, NDArray[np.float32]], outs: dict[str, NDArray[np.float32]]) -> None:
    """Put the part of a tile's core that was asked for into the block; planes of several orientations are averaged."""
    job = feed.job
    covered, core = feed.covers(tile), feed.covers(Tile(tile.core, tile.core, tile.stack))
    source, target = [], []
    for axis in range(3):
        start, stop = max(core[axis].start, job.block[axis].start), min(core[axis].stop, job.block[axis].stop)
        source.append(slice(start - covered[axis].start, stop - covered[axis].start))
        target.append(slice(start - job.block[axis].start, stop - job.block[axis].start))
    for name, piece in pieces.items():
        outs[name][tuple(target)] += piece[tuple(source)] / np.float32(len(job.stacks) if tile.stack is not None else 1)


def _progress(started: float, fraction: float, tile: int, tiles: int) -> Progress:
    seconds = time.perf_counter() - started
    return Progress(fraction, seconds / fraction - seconds if fraction > 0.02 else None, tile, tiles)


def _result(volume: Volume, setup: Setup, plan: Plan, options: RunOptions, data: NDArray[np.float32], seconds: float) -> Volume:
    job = setup.job
    affine = job.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([b.start for b in job.block], float)
    record = setup.record() | {
        "options": options.model_dump(mode="json"),
        "input": volume.name,
        "plan": plan.summary,
        "seconds": round(seconds, 2),
    }
    return volume.replace(data=data, affine=affine, name=f"{volume.name} {job.card.name}").with_record(run=record)


def _map_volume(result: Volume, name: str, data: NDArray[np.float32]) -> Volume:
    """Map on the result's lattice; its record says of what run."""
    return result.replace(data=data, name=f"{name} of {result.name}").with_record(map={"name": name})
