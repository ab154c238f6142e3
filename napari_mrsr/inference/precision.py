"""Numbers of fewer bits where they change nothing that counts: tried on one tile against float32, remembered for this device and program."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_mrsr.inference.feed import Feed
from napari_mrsr.inference.remembered import cache_file, circumstances, keep, recall
from napari_mrsr.inference.tiles import Tile
from napari_mrsr.zoo import Card

PSNR, ABOVE_CARD = 40.0, 3.0
"""dB of a good result: so much, or so much more than the best on the model's card. At its error, what is added may cost..."""
COST = 0.02
"""...at most so many dB."""
GAIN = 1.1
"""A precision that is not this much faster is not worth it."""
PROBE = 32
"""Edge in LR voxels of the tile that is tried, for networks that see volumes."""

FORCE = "NAPARI_MRSR_PRECISION"
"""Environment variable with the precision to take in place of the automatic choice."""

log = logging.getLogger(__name__)


def verdicts_file() -> Path:
    """Where verdicts are remembered."""
    return cache_file("precision.json")


def candidates(device: torch.device) -> tuple[str, ...]:
    """Reduced precisions that a device computes fast, best first.

    Half precision keeps three more bits than bfloat16; on CPUs without instructions for bfloat16 both are slower than float32.
    """
    if device.type == "cuda":
        return ("float16", "bfloat16")
    if device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)():
        return ("bfloat16",)
    return ()


def choose(feed: Feed, key: str) -> str:
    """Fastest precision whose result on one tile costs less than 0.02 dB.

    Parameters
    ----------
    feed : Feed
        Of the run.
    key : str
        Stands for the network's weights.

    Returns
    -------
    {"float32", "float16", "bfloat16"}
    """
    options = candidates(feed.device)
    if not options or not feed.job.card.learned or os.environ.get(FORCE):
        return os.environ.get(FORCE) or "float32"
    key = f"{key}|{circumstances(feed.device)}"
    known = recall(verdicts_file())
    if known.get(key) not in ("float32", *options):
        known[key] = _try(feed, options)
        keep(verdicts_file(), known)
    return str(known[key])


def added_cost(reference: NDArray[Any], image: NDArray[Any], gain: float, psnr: float = PSNR) -> float:
    """What a deviation costs a result that lies `psnr` dB from the truth, in dB; infinite where it is not finite."""
    if not np.isfinite(image).all():
        return float("inf")
    error = float(np.mean((np.asarray(image, np.float64) - reference) ** 2)) / gain**2
    return float(10 * np.log10(1 + error * 10 ** (psnr / 10)))


def expected_psnr(card: Card) -> float:
    """What a model reaches at best, with something to spare."""
    reached = [value for row in card.quality for value in row.own(card.name).values()]
    return max(reached) + ABOVE_CARD if reached else PSNR


def _try(feed: Feed, options: tuple[str, ...]) -> str:
    tile, before = probe_tile(feed), feed.precision
    try:
        times, images = {}, {}
        for precision in ("float32", *options):
            feed.precision = precision
            feed.run(tile)  # the first pass chooses kernels
            started = time.perf_counter()
            images[precision] = feed.run(tile)[""]
            times[precision] = time.perf_counter() - started
    except RuntimeError as error:
        log.info("Reduced precision was not tried to its end: %s", error)
        return "float32"
    finally:
        feed.precision = before
    faster = [p for p in options if times["float32"] > GAIN * times[p]]
    psnr = expected_psnr(feed.job.card)
    good = [p for p in faster if added_cost(images["float32"], images[p], feed.job.gain, psnr) < COST]
    return min(good, key=lambda p: times[p]) if good else "float32"


def probe_tile(feed: Feed) -> Tile:
    """A piece from the middle of the volume."""
    grid = feed.job.grid
    shape = grid.fine_shape if feed.architecture.pre_interpolated else grid.coarse_shape
    stack = feed.job.stacks[0] if feed.architecture.tiling == "planes" else None
    sizes = [1 if a == stack else n if stack is not None else min(PROBE, n) for a, n in enumerate(shape)]
    multiple = feed.architecture.size_multiple if stack is None else 1
    starts = [(n - size) // 2 // multiple * multiple for n, size in zip(shape, sizes, strict=True)]
    x, y, z = (slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
    return Tile((x, y, z), (x, y, z), stack)
