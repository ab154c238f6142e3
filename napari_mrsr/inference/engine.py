"""The engine: a generator that super-resolves a volume tile by tile and can be stopped at any moment."""

from __future__ import annotations

import logging
import platform
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

import napari_mrsr
from napari_mrsr.errors import Cancelled, RunError
from napari_mrsr.evaluation.align import resample_onto
from napari_mrsr.grid import lattice_offset
from napari_mrsr.inference.events import Event, Progress, RunDone, RunStarted
from napari_mrsr.inference.options import Job, RunOptions, prepare
from napari_mrsr.inference.plan import Plan, make_plan, pick_device
from napari_mrsr.inference.tiles import Tile
from napari_mrsr.networks import create, get_architecture
from napari_mrsr.volume import AXES, Volume
from napari_mrsr.zoo import load_network

REPORT_EVERY = 0.25
"""Seconds between progress events inside a tile."""
CALIBRATION_EDGES = (16, 40)
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
        Second contrast, for networks that use one.
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
    job = prepare(volume, options, like, reference)
    device = pick_device(options.device)
    network = _network(job).to(device)
    plan = make_plan(job, network, device, options.tile)
    yield RunStarted(plan.summary, str(device), len(plan.tiles), job.warnings)
    out = np.empty(tuple(b.stop - b.start for b in job.block), np.float32)
    monitor = _Monitor(network, cancelled)
    total = sum(t.voxels for t in plan.tiles)
    done = 0
    try:
        with ThreadPoolExecutor(1) as pool, monitor:
            if job.card.learned and total >= CALIBRATION_VOXELS:
                pool.submit(monitor.calibrate, partial(_forward_cube, network, job, device)).result()
            for index, tile in enumerate(plan.tiles):
                monitor.restart()
                future = pool.submit(_run_tile, network, volume, job, tile, device, out)
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
    if not np.isfinite(out).all():
        raise RunError(f"{job.card.name} gave values that are not finite; nothing was kept.")
    result = _result(volume, job, plan, options, out, time.perf_counter() - started)
    if like is not None and lattice_offset(like.affine, result.affine, result.shape) is None:
        result = resample_onto(like, result)
    yield RunDone(result, time.perf_counter() - started)


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
        Fields of :class:`RunOptions`: scale, protocol, axis, noise, roi, device, tile.

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


class _Monitor:
    """Watches a network layer by layer: how far a forward pass is, and whether it should stop."""

    def __init__(self, network: nn.Module, cancelled: Callable[[], bool]) -> None:
        leaves = [m for m in network.modules() if not any(True for _ in m.children())]
        self._cancelled, self._abandoned, self._seen = cancelled, False, 0
        self._clock: list[float] = []
        self._shares = [(i + 1) / len(leaves) for i in range(len(leaves))]
        self._handles = [m.register_forward_hook(self._passed) for m in leaves]

    @property
    def fraction(self) -> float:
        return self._shares[min(self._seen, len(self._shares)) - 1] if self._seen else 0.0

    def calibrate(self, forward: Callable[[int], Any]) -> None:
        """Learn what share of the time each layer takes from passes over small cubes (the first one only warms up)."""
        for edge in CALIBRATION_EDGES:
            self.restart()
            started = time.perf_counter()
            forward(edge)
        # Work after the last layer belongs to it.
        total = time.perf_counter() - started
        if self._clock:
            self._shares = [*((t - started) / total for t in self._clock[:-1]), 1.0]

    def restart(self) -> None:
        self._seen = 0
        self._clock.clear()
        self.check()

    def check(self) -> None:
        if self._abandoned or self._cancelled():
            raise Cancelled("The run was stopped; nothing was kept.")

    def __enter__(self) -> _Monitor:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        # Whatever ended the run (an interrupt, a closed generator) also ends the pass that is still under way in the other thread.
        self._abandoned = kind is not None
        if kind is None:
            for handle in self._handles:
                handle.remove()

    def _passed(self, *_: Any) -> None:
        self._seen += 1
        self._clock.append(time.perf_counter())
        self.check()


def _network(job: Job) -> nn.Module:
    if job.card.learned:
        return load_network(job.card)
    return create(job.card.architecture, job.scale, protocol=job.protocol.name, slice_axis=job.slice_axis, grid=job.grid)


def _run_tile(network: nn.Module, volume: Volume, job: Job, tile: Tile, device: torch.device, out: NDArray[np.float32]) -> None:
    gain = job.gain if get_architecture(job.card.architecture).normalization == "range" else 1.0
    with torch.inference_mode():
        data = np.ascontiguousarray(volume.data[tile.padded], dtype=np.float32) / np.float32(gain)
        sr = _forward(network, torch.from_numpy(data)[None, None].to(device), job, gain)[0, 0]
        # The part of this tile's core that was asked for, in the tile's and in the block's coordinates.
        source, target = [], []
        for axis in range(3):
            core, low = _fine(tile.core[axis], job, axis), _fine(tile.padded[axis], job, axis).start
            start, stop = max(core.start, job.block[axis].start), min(core.stop, job.block[axis].stop)
            source.append(slice(start - low, stop - low))
            target.append(slice(start - job.block[axis].start, stop - job.block[axis].start))
        out[tuple(target)] = sr[tuple(source)].float().cpu().numpy() * np.float32(gain)


def _forward(network: nn.Module, lr: torch.Tensor, job: Job, gain: float = 1.0) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = network(lr, noise_level=job.noise_sigma / gain)
    return result


def _forward_cube(network: nn.Module, job: Job, device: torch.device, edge: int) -> None:
    _forward(network, torch.zeros(1, 1, edge, edge, edge, device=device), job)


def _fine(part: slice, job: Job, axis: int) -> slice:
    sampling, scale = job.grid.axes[axis], job.grid.scale[axis]
    stop = sampling.fine if part.stop == sampling.coarse else round(part.stop * scale)
    return slice(round(part.start * scale), stop)


def _progress(started: float, fraction: float, tile: int, tiles: int) -> Progress:
    seconds = time.perf_counter() - started
    return Progress(fraction, seconds / fraction - seconds if fraction > 0.02 else None, tile, tiles)


def _result(volume: Volume, job: Job, plan: Plan, options: RunOptions, data: NDArray[np.float32], seconds: float) -> Volume:
    affine = job.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([b.start for b in job.block], float)
    record = {
        "program": f"napari-mrsr {napari_mrsr.__version__}",
        "options": options.model_dump(mode="json"),
        "model": job.card.name,
        "weights_sha256": job.card.sha256,
        "input": volume.name,
        "protocol": job.protocol.name,
        "scale": list(job.grid.scale),
        "axis": None if job.protocol.pattern == "3d" else AXES[job.slice_axis],
        "noise_sigma": job.noise_sigma,
        "noise_source": job.noise_source,
        "input_range": job.gain,
        "plan": plan.summary,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seconds": round(seconds, 2),
        "warnings": list(job.warnings),
    }
    return volume.replace(data=data, affine=affine, name=f"{volume.name} {job.card.name}").with_record(run=record)
