"""The engine: a generator that super-resolves a volume tile by tile and can be stopped at any moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_mrsr.errors import RunError
from napari_mrsr.evaluation.align import resample_onto
from napari_mrsr.grid import lattice_offset
from napari_mrsr.inference.attention import require_attention, survey, survey_bytes
from napari_mrsr.inference.background import busy_mask, enlarge
from napari_mrsr.inference.compiled import is_translated, translate
from napari_mrsr.inference.control import Control, Look
from napari_mrsr.inference.costs import Cost, cost_key, known_cost, remember_cost
from napari_mrsr.inference.ensemble import SPREAD, Ensemble, mirrors
from napari_mrsr.inference.events import Event, Progress, RunDone, RunStarted
from napari_mrsr.inference.feed import Feed
from napari_mrsr.inference.journal import Journal, fingerprint
from napari_mrsr.inference.loop import TileLoop, answer
from napari_mrsr.inference.monitor import Interrupted, Monitor
from napari_mrsr.inference.options import RunOptions
from napari_mrsr.inference.pace import Pace
from napari_mrsr.inference.plan import Plan, duration, make_plan
from napari_mrsr.inference.precision import choose
from napari_mrsr.inference.process import free_memory, peak_since, start_peak
from napari_mrsr.inference.setup import Setup, set_up
from napari_mrsr.inference.store import Store
from napari_mrsr.networks import get_architecture
from napari_mrsr.volume import Volume

CALIBRATION_VOXELS = 500_000
"""Runs over fewer LR voxels end soon after the time of each layer is known."""
WORTH_KEEPING = 1.0
"""Seconds from which on a run tells what its network costs."""
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
    # All of torch happens on one thread: a second one that uses all cores would slow the first.
    with ThreadPoolExecutor(1, "network") as pool:
        setup, problem = _prepared(pool, volume, options, reference, like, control)
        key = _cost_key(setup, options)
        passes = _passes(setup, volume, options, control.focus, known_cost(key))
        with _place(setup, volume, options, (reference, like), folder, keep) as place:
            plan = passes[0][2]
            live = _result(volume, setup, plan, options, place.arrays[""])
            try:
                if not place.resumed:
                    _begin(setup, volume, place.arrays[""])
                notes = setup.notes + ((f"{place.resumed} tiles of an interrupted run are done already.",) if place.resumed else ())
                notes += (problem,) if problem else ()
                tiles = sum(len(plan.tiles) for _, _, plan in passes)
                line = f"{plan.summary}, {duration(plan.seconds)}" + (f", result grows in {place.spilled}" if place.spilled else "")
                yield RunStarted(line, str(setup.device), tiles, notes, setup.job.card.name, live)
                with _failures_told(setup):
                    ensemble = yield from _work(setup, passes, place, control, key, Ensemble(live.shape) if options.ensemble else None, pool)
            finally:
                pool.shutdown()  # a pass that is left ends first
                free_memory(setup.device)
    outs = dict(place.arrays)
    if ensemble is not None:
        outs |= {"": ensemble.mean, SPREAD.name: ensemble.spread}
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
        Fields of :class:`RunOptions`: scale, protocol, axis, noise, voxel, orientations, register_reference, roi, device, tile, halo, batch,
        precision, ensemble, exact, skip_air, compile.

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


@contextmanager
def _failures_told(setup: Setup) -> Iterator[None]:
    """What torch cannot do becomes a sentence."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error) or "no reason given").splitlines()[0]
        remedy = "" if setup.device.type == "cpu" else "; try the device cpu"
        raise RunError(f"{setup.job.card.name} failed on {setup.device}: {reason}{remedy}") from error


def _prepared(
    pool: ThreadPoolExecutor, volume: Volume, options: RunOptions, reference: Volume | None, like: Volume | None, control: Control
) -> tuple[Setup, str]:
    """A run that can start, and why its network could not be translated (empty: it was, or was not to be)."""
    try:
        return answer(pool.submit(_prepare, volume, options, reference, like, control))
    except KeyboardInterrupt:
        control.cancel()  # nobody waits for more than the step under way
        raise


def _prepare(volume: Volume, options: RunOptions, reference: Volume | None, like: Volume | None, control: Control) -> tuple[Setup, str]:
    try:
        setup = set_up(volume, options, reference, like, lambda: control.cancelled)
    except MemoryError as error:
        raise RunError(f"There is too little memory to prepare {volume.name} ({error}); crop it, or close other programs.") from None
    except RuntimeError as error:  # a device that went after it was listed
        reason = (str(error) or "no reason given").splitlines()[0]
        raise RunError(f"The run cannot start on the device {options.device}: {reason}; choose another one.") from error
    setup.require_maps(options.maps, ("dense",))
    require_attention(setup.feed, options)
    with _failures_told(setup):
        control.check()
        setup.feed.precision = choose(setup.feed, setup.job.card.sha256) if options.precision == "auto" else options.precision
        control.check()
        return setup, translate(setup.feed) if options.compile and setup.job.card.learned else ""


def _cost_key(setup: Setup, options: RunOptions) -> str:
    """Under what a network's cost is remembered."""
    card = setup.job.card
    kind = " translated" if is_translated(setup.network) else ""
    if options.attention == "global":  # every voxel costs as much as there is to look at
        kind += f" attention over {'x'.join(map(str, setup.job.grid.coarse_shape))}"
    return cost_key(f"{card.sha256 or card.name}{kind} x{setup.job.scale}", setup.device, setup.feed.precision)


def _passes(setup: Setup, volume: Volume, options: RunOptions, look: Look | None, cost: Cost | None) -> list[Pass]:
    """Looks at the volume: one, or one for every mirror image."""
    job, card = setup.job, setup.job.card
    busy = busy_mask(volume.data, volume.voxel_size, job.noise_sigma) if card.learned and options.skip_air else None
    architecture = get_architecture(card.architecture)
    turns = mirrors(job, planes=architecture.tiling == "planes") if options.ensemble else [()]
    passes = []
    for axes in turns:
        feed = setup.feed.mirrored(axes)
        turned = None if busy is None else np.flip(busy, axes)
        seen = None if options.ensemble else look
        batch = 1 if options.attention == "global" else options.batch
        plan = make_plan(feed.job, setup.network, setup.device, options.tile, turned, seen, batch, cost)
        plan = replace(plan, precision=feed.precision, times=len(turns), attention=options.attention)
        passes.append((axes, feed, plan if plan.attention == "window" else replace(plan, peak_bytes=plan.peak_bytes + survey_bytes(feed))))
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
    setup: Setup, passes: list[Pass], place: Store | Journal, control: Control, key: str, ensemble: Ensemble | None, pool: ThreadPoolExecutor
) -> Generator[Event, None, Ensemble | None]:
    """Carry out the passes; gives the ensemble back."""
    total, known = sum(plan.voxels for _, _, plan in passes), known_cost(key)
    count, before, shrunk = sum(len(plan.tiles) for _, _, plan in passes), 0, False
    inside = not is_translated(setup.network)
    monitor = Monitor(setup.network, control, rests_inside=setup.device.type == "cpu", inside=inside)
    surveyed = passes[0][2].attention == "global"
    # Voxels that look at the whole volume take long.
    least = CALIBRATION_VOXELS // 4 if surveyed else CALIBRATION_VOXELS
    with monitor:
        if surveyed:
            yield from survey(passes[0][1], passes[0][2], control, monitor, pool)
        per_voxel = known.seconds if known else None
        if known and known.shares:
            monitor.expect(known.shares)
        elif inside and get_architecture(setup.job.card.architecture).tiling == "halo" and total >= least:
            with suppress(Interrupted):  # to rest: without a trial then
                tried = answer(pool.submit(monitor.calibrate, partial(_forward_cube, setup.feed)))
                per_voxel = per_voxel or tried
        pace = Pace(total, per_voxel)
        used = start_peak(setup.device)
        for turn, (axes, feed, plan) in enumerate(passes):
            if surveyed and turn:
                yield from survey(feed, plan, control, monitor, pool)
            # Internal maps are those of the volume as it is; so is what is shown while it grows.
            outs = place.arrays if not axes else {"": np.array(np.flip(place.arrays[""], axes))}
            loop = TileLoop(feed, plan, outs, control, monitor, pool, pace, not axes, place if isinstance(place, Journal) else None)
            for event in loop:
                if isinstance(event, float):
                    yield Progress(pace.fraction(event), pace.seconds_left(event), before + loop.tiles_done, count)
                else:
                    yield event
            before, shrunk = before + loop.tiles_done, shrunk or loop.shrunk
            if ensemble is not None:
                ensemble.add(np.flip(outs[""], axes))
    if not shrunk and pace.spent >= WORTH_KEEPING and pace.seconds_per_voxel is not None:
        largest = max(plan.batch * max(t.voxels for t in plan.tiles) for _, _, plan in passes)
        shares = monitor.shares if setup.device.type == "cpu" else ()  # other devices hand layers over without waiting for them
        remember_cost(key, Cost(pace.seconds_per_voxel, peak_since(setup.device, used) // largest, shares))
    return ensemble


def _forward_cube(feed: Feed, edge: int) -> None:
    with torch.inference_mode(), feed.computing():
        feed.network(torch.zeros(1, 1, edge, edge, edge, device=feed.device))


def _result(volume: Volume, setup: Setup, plan: Plan, options: RunOptions, data: NDArray[np.float32], seconds: float | None = None) -> Volume:
    job = setup.job
    affine = job.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([b.start for b in job.block], float)
    record = setup.record() | {
        "options": options.model_dump(mode="json"),
        "input": volume.name,
        "plan": plan.summary,
        "planned": plan.record(),
        **({} if seconds is None else {"seconds": round(seconds, 2)}),
    }
    return volume.replace(data=data, affine=affine, name=f"{volume.name} {job.card.name}").with_record(run=record)


def _map_volume(result: Volume, name: str, data: NDArray[np.float32]) -> Volume:
    """Map on the result's lattice; its record says of what run."""
    return result.replace(data=data, name=f"{name} of {result.name}").with_record(map={"name": name})
