"""The engine: a generator that super-resolves a volume tile by tile and can be stopped at any moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_mrsr.errors import RunError
from napari_mrsr.evaluation.align import resample_onto
from napari_mrsr.grid import lattice_offset
from napari_mrsr.inference.background import busy_mask, enlarge
from napari_mrsr.inference.control import Control, Look
from napari_mrsr.inference.ensemble import SPREAD, Ensemble, mirrors
from napari_mrsr.inference.events import Event, Progress, RunDone, RunStarted
from napari_mrsr.inference.feed import Feed
from napari_mrsr.inference.journal import Journal, fingerprint
from napari_mrsr.inference.loop import Pace, TileLoop
from napari_mrsr.inference.monitor import Monitor
from napari_mrsr.inference.options import RunOptions
from napari_mrsr.inference.plan import Plan, make_plan
from napari_mrsr.inference.precision import choose
from napari_mrsr.inference.process import free_memory
from napari_mrsr.inference.setup import Setup, set_up
from napari_mrsr.inference.store import Store
from napari_mrsr.networks import get_architecture
from napari_mrsr.volume import Volume

CALIBRATION_VOXELS = 300_000
"""Runs over fewer LR voxels end before the time of each layer would be known."""
SLAB = 16
"""Slices that are filled at a time."""

log = logging.getLogger(__name__)


def run(
    volume: Volume,
    options: RunOptions,
    reference: Volume | None = None,
    like: Volume | None = None,
    control: Control | None = None,
    folder: Path | None = None,
    keep: Path | None = None,
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
    control : Control, optional
        Stops the run between layers of the network, lets it rest, says what is on the screen.
    folder : Path, optional
        Let the result grow in a file there, which another process may map.
    keep : Path, optional
        Folder in which finished tiles are kept until the run is finished: the same run goes on from them after an interruption. Runs with a
        self-ensemble keep none.

    Yields
    ------
    RunStarted, then TileDone, Progress, Noticed and Rested as it goes, and RunDone

    Raises
    ------
    InputError
        Before anything is computed, where the input or the options do not fit.
    RunError
        If the device and the CPU run out of memory, or the computation fails.
    Cancelled
        If `control` says so.
    """
    started, control = time.perf_counter(), control or Control()
    setup = set_up(volume, options, reference, like, lambda: control.cancelled)
    setup.require_maps(options.maps, ("dense",))
    setup.feed.precision = choose(setup.feed, setup.job.card.sha256) if options.precision == "auto" else options.precision
    passes = _passes(setup, volume, options, control.focus)
    with _place(setup, volume, options, (reference, like), folder, keep) as place:
        summary = passes[0][2].summary + (f", {len(passes)} times" if options.ensemble else "")
        live = _result(volume, setup, summary, options, place.arrays[""])
        try:
            if not place.resumed:
                _begin(setup, volume, place.arrays[""])
            notes = setup.notes + ((f"{place.resumed} tiles of an interrupted run are done already.",) if place.resumed else ())
            tiles = sum(len(plan.tiles) for _, _, plan in passes)
            yield RunStarted(summary, str(setup.device), tiles, notes, setup.job.card.name, live)
            ensemble = yield from _work(setup, passes, place, control, Ensemble(live.shape) if options.ensemble else None)
        except RuntimeError as error:
            raise RunError(f"{setup.job.card.name} failed on {setup.device}: {(str(error) or 'no reason given').splitlines()[0]}") from error
        finally:
            free_memory(setup.device)
    outs = dict(place.arrays)
    if ensemble is not None:
        outs |= {"": ensemble.mean, SPREAD.name: ensemble.spread}
    seconds = time.perf_counter() - started
    result = _result(volume, setup, summary, options, outs.pop(""), seconds)
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
        Fields of :class:`RunOptions`: scale, protocol, axis, noise, voxel, orientations, register_reference, roi, device, tile, ensemble, exact,
        skip_air.

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


Pass = tuple[tuple[int, ...], Feed, Plan]
"""Axes that are turned round, and what runs on the volume turned so."""


def _passes(setup: Setup, volume: Volume, options: RunOptions, look: Look | None) -> list[Pass]:
    """Looks at the volume: one, or one for every mirror image."""
    job, card = setup.job, setup.job.card
    busy = busy_mask(volume.data, volume.voxel_size, job.noise_sigma) if card.learned and options.skip_air else None
    architecture = get_architecture(card.architecture)
    turns = mirrors(job, planes=architecture.tiling == "planes") if options.ensemble else [()]
    passes = []
    for axes in turns:
        feed = setup.feed.mirrored(axes)
        turned = None if busy is None else np.flip(busy, axes)
        plan = make_plan(feed.job, setup.network, setup.device, options.tile, turned, None if options.ensemble else look)
        passes.append((axes, feed, replace(plan, precision=feed.precision)))
    return passes


def _place(
    setup: Setup, volume: Volume, options: RunOptions, others: tuple[Volume | None, ...], folder: Path | None, keep: Path | None
) -> Store | Journal:
    """Where the result grows."""
    shape = tuple(b.stop - b.start for b in setup.job.block)
    names = ("", *options.maps)
    if keep is None or options.ensemble:
        return Store(shape, names, folder)
    return Journal(keep, fingerprint(volume, options, setup.job.card.sha256, *others), shape, names)


def _begin(setup: Setup, volume: Volume, out: NDArray[np.float32]) -> None:
    """Fill the block by linear interpolation: what is seen at first, and what stays where there is only air."""
    job = setup.job
    if not job.card.learned:
        return
    # Slab by slab, so that nothing of the result's size is held beside the result.
    for start in range(0, out.shape[0], SLAB):
        part = slice(start, min(start + SLAB, out.shape[0]))
        x = slice(job.block[0].start + part.start, job.block[0].start + part.stop)
        out[part] = enlarge(volume.data, job.grid, (x, job.block[1], job.block[2]))


def _work(
    setup: Setup, passes: list[Pass], place: Store | Journal, control: Control, ensemble: Ensemble | None
) -> Generator[Event, None, Ensemble | None]:
    """Carry out the passes; gives the ensemble back."""
    total = sum(t.voxels for _, _, plan in passes for t in plan.tiles)
    count, before = sum(len(plan.tiles) for _, _, plan in passes), 0
    monitor = Monitor(setup.network, control, rests_inside=setup.device.type == "cpu")
    with ThreadPoolExecutor(1) as pool, monitor:
        per_voxel = None
        if get_architecture(setup.job.card.architecture).tiling == "halo" and total >= CALIBRATION_VOXELS:
            per_voxel = pool.submit(monitor.calibrate, partial(_forward_cube, setup.network, setup.device)).result()
        pace = Pace(total, per_voxel)
        for axes, feed, plan in passes:
            # Internal maps are those of the volume as it is; so is what is shown while it grows.
            outs = place.arrays if not axes else {"": np.array(np.flip(place.arrays[""], axes))}
            loop = TileLoop(feed, plan, outs, control, monitor, pool, pace, not axes, place if isinstance(place, Journal) else None)
            for event in loop:
                if isinstance(event, float):
                    inside = monitor.fraction * loop.under_way if event else 0.0
                    fraction = min(1.0, (pace.done + inside) / pace.total)
                    yield Progress(fraction, pace.seconds_left(inside, event), before + loop.tiles_done, count)
                else:
                    yield event
            before += loop.tiles_done
            if ensemble is not None:
                ensemble.add(np.flip(outs[""], axes))
    return ensemble


def _forward_cube(network: nn.Module, device: torch.device, edge: int) -> None:
    with torch.inference_mode():
        network(torch.zeros(1, 1, edge, edge, edge, device=device))


def _result(volume: Volume, setup: Setup, plan: str, options: RunOptions, data: NDArray[np.float32], seconds: float | None = None) -> Volume:
    job = setup.job
    affine = job.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([b.start for b in job.block], float)
    record = setup.record() | {
        "options": options.model_dump(mode="json"),
        "input": volume.name,
        "plan": plan,
        **({} if seconds is None else {"seconds": round(seconds, 2)}),
    }
    return volume.replace(data=data, affine=affine, name=f"{volume.name} {job.card.name}").with_record(run=record)


def _map_volume(result: Volume, name: str, data: NDArray[np.float32]) -> Volume:
    """Map on the result's lattice; its record says of what run."""
    return result.replace(data=data, name=f"{name} of {result.name}").with_record(map={"name": name})
