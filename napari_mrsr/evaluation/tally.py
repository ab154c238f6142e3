"""Adding up errors slice by slice: one pass over the images, in slabs, from which every score of every slice and region follows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mrsr.errors import Cancelled
from napari_mrsr.evaluation.frame import Frame
from napari_mrsr.evaluation.maps import physical_gradient
from napari_mrsr.evaluation.metrics import LOG_RADIUS, Array, Mask, Sum, Values, laplacian_of_gaussian, ssim_map

SLAB = 64
"""Slices per task: bounds the memory and the time until a stop is heard."""
THREADS = 2
"""scipy's filters run without the interpreter's lock; more would take the processor from the window."""
MARGIN = LOG_RADIUS
"""Voxels around a region that its widest filter sees."""

Block = tuple[slice, slice, slice]
Sums = tuple[Values, Values, Values]
"""Along R, A and S: (slices, sums) arrays."""


def tally(frame: Frame, block: Block, which: Sequence[int], stopped: Callable[[], bool]) -> list[Sums]:
    """Sums of every slice of a block, along all three axes, for some candidates.

    Filters see the voxels around the block, so that a voxel counts the same whatever region it is part of.

    Parameters
    ----------
    frame : Frame
    block : three slices
        In the common block's voxels.
    which : sequence of int
        Indices of candidates.
    stopped : callable
        Asked before every slab.

    Returns
    -------
    list of Sums
        One per index; units as :class:`~napari_mrsr.evaluation.metrics.Sum` says, in scanner units and mm.

    Raises
    ------
    Cancelled
        If it was stopped.
    """
    slabs = [(slice(start, min(start + SLAB, block[0].stop)), *block[1:]) for start in range(block[0].start, block[0].stop, SLAB)]
    shape = tuple(s.stop - s.start for s in block)
    totals = [tuple(np.zeros((n, len(Sum))) for n in shape) for _ in which]

    def add(slab: Block) -> list[Sums]:
        if stopped():
            raise Cancelled("Measuring was stopped.")
        return _slab(frame, slab, which)

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for slab, parts in zip(slabs, pool.map(add, slabs), strict=True):
            rows = slice(slab[0].start - block[0].start, slab[0].stop - block[0].start)
            for (across, *others), (own, *rest) in zip(totals, parts, strict=True):
                across[rows] = own
                for total, part in zip(others, rest, strict=True):
                    total += part
    return totals  # type: ignore[return-value]


def _slab(frame: Frame, slab: Block, which: Sequence[int]) -> list[Sums]:
    near, core = _around(slab, frame.aligned.reference.shape, max(2 * LOG_RADIUS + 1, frame.rules.window.taps))
    cut = partial(_cut, block=slab)
    inside, covered = cut(frame.inside), cut(frame.aligned.covered)
    windows = _whole_windows(frame, slab, inside)
    spacing, axis, reach = frame.reference.voxel_size, frame.plane, frame.data_range
    truth = frame.rules.prepare(frame.aligned.reference.data[near], reach)
    edges, structure = physical_gradient(truth, spacing), laplacian_of_gaussian(truth, axis)
    known = {
        Sum.VOXELS: _spread(None, inside, slab),
        Sum.POWER: _spread(truth[core] ** 2, inside, slab),
        Sum.EDGES: _spread(edges[core] ** 2, inside, slab),
        Sum.STRUCTURE: _spread(structure[core] ** 2, inside, slab),
        Sum.WINDOWS: _spread(None, windows, slab),
        Sum.BOX_VOXELS: _spread(None, covered, slab),
    }

    def candidate(data: Array) -> Sums:
        image = frame.rules.prepare(data[near], reach)
        error = image - truth
        square = error[core] ** 2
        found = known | {
            Sum.SQUARE: _spread(square, inside, slab),
            Sum.ABSOLUTE: _spread(np.abs(error[core]), inside, slab),
            Sum.GRADIENT: _spread((physical_gradient(image, spacing) - edges)[core] ** 2, inside, slab),
            # The filter is linear: that of the error is the difference of both.
            Sum.LOG: _spread(laplacian_of_gaussian(error, axis)[core] ** 2, inside, slab),
            Sum.SSIM: _spread(ssim_map(truth, image, reach, axis, frame.rules.window)[core], windows, slab),
            Sum.BOX_SQUARE: _spread(square, covered, slab),
        }
        first, second, third = (np.stack([found[key][axis] for key in Sum], -1) for axis in range(3))
        return first, second, third

    return [candidate(frame.aligned.candidates[index].data) for index in which]


def _cut(mask: Mask | None, block: Block) -> Mask | None:
    return None if mask is None else mask[block]


def _spread(values: NDArray[Any] | None, mask: Mask | None, block: Block) -> Sums:
    """Sums of values (ones where None) inside a mask, of each slice along each axis."""
    shape = tuple(s.stop - s.start for s in block)
    if values is None:
        counted: NDArray[Any] = np.ones(shape, np.float32) if mask is None else mask
    else:
        counted = values if mask is None else np.where(mask, values, np.float32(0))
    columns = counted.sum(2, dtype=np.float64)
    return columns.sum(1), columns.sum(0), counted.sum(0, dtype=np.float64).sum(0)


def _whole_windows(frame: Frame, slab: Block, inside: Mask | None) -> Mask | None:
    """Voxels whose SSIM counts: those of the mask, less those whose window leaves the common block where the convention wants it whole."""
    if not frame.rules.window.valid:
        return inside
    shape, radius = frame.aligned.reference.shape, frame.rules.window.taps // 2
    axes = frame.rules.window.axes(shape, frame.plane)
    whole = np.ones([s.stop - s.start for s in slab], bool) if inside is None else inside.copy()
    for axis in axes:
        index = np.arange(slab[axis].start, slab[axis].stop)
        outside = (index < radius) | (index >= shape[axis] - radius)
        whole[(slice(None),) * axis + (outside,)] = False
    return whole


def _around(block: Block, shape: Sequence[int], shortest: int) -> tuple[Block, Block]:
    """Block with its margin, and the block within that; never cut below the length of a window, or that axis would lose its window."""

    def ends() -> Iterator[tuple[slice, slice]]:
        for part, size in zip(block, shape, strict=True):
            lower = max(0, min(part.start - MARGIN, size - shortest))
            upper = min(size, max(part.stop + MARGIN, lower + shortest))
            yield slice(lower, upper), slice(part.start - lower, part.stop - lower)

    (x, u), (y, v), (z, w) = ends()
    return (x, y, z), (u, v, w)
