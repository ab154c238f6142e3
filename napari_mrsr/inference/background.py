"""Empty air around the head: where it is, and what stands there in place of a network's answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_mrsr.grid import AxisSampling, SamplingGrid
from napari_mrsr.inference.tiles import Tile
from napari_mrsr.intensity import FOREGROUND_FRACTION, RANGE_PERCENTILE

MARGIN_MM = 6.0
"""Air this near to the head is computed like the head."""
NOISE_REACH = 1.8
"""Means over 27 voxels of Rician noise stay below this multiple of its sigma (mean 1.25, four standard errors 0.5)."""
LEAST_SAVING = 0.05
"""A smaller share of air is not worth a different treatment."""


def busy_mask(data: NDArray[Any], voxel_size: Sequence[float], noise_sigma: float = 0.0) -> NDArray[np.bool_]:
    """Voxels that are, or lie near, anything but air.

    Tissue is where the mean over 3 x 3 x 3 voxels exceeds 5 % of the 99.9th percentile, and what noise alone can reach (so that noisy air does
    not count but thin skin does), with everything it encloses, seen along any of the three axes, and 6 mm around.

    Parameters
    ----------
    data : (X, Y, Z) array
        Low resolution, scanner units.
    voxel_size : three floats
        mm.
    noise_sigma : float
        Noise in scanner units, 0 where unknown.

    Returns
    -------
    (X, Y, Z) bool array
        All true where there is no air to be told apart.
    """
    image = np.asarray(data, np.float32)
    threshold = max(FOREGROUND_FRACTION * float(np.percentile(image, RANGE_PERCENTILE)), NOISE_REACH * noise_sigma)
    tissue: NDArray[np.bool_] = np.asarray(ndimage.uniform_filter(image, 3) > threshold)
    if not tissue.any():
        return np.ones(image.shape, bool)
    reach = [math.ceil(MARGIN_MM / size) for size in voxel_size]
    near: NDArray[np.bool_] = ndimage.maximum_filter(tissue.view(np.uint8), [2 * r + 1 for r in reach]).astype(bool)
    # What lies between tissue on both sides along any axis is inside the head: sinuses, the ear's canal, the mouth.
    for axis in range(3):
        before = np.logical_or.accumulate(near, axis)
        after = np.flip(np.logical_or.accumulate(np.flip(near, axis), axis), axis)
        near |= before & after
    return near


def skip_air(tiles: Sequence[Tile], busy: NDArray[np.bool_]) -> tuple[list[Tile], list[Tile]]:
    """Part tiles (of the low-resolution lattice) into those with something in their core and those of air alone."""
    kept = [tile for tile in tiles if busy[tile.core].any()]
    empty = [tile for tile in tiles if not busy[tile.core].any()]
    return kept, empty


def bounds(busy: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Smallest block that holds everything that is not air."""
    x, y, z = ndimage.find_objects(busy.view(np.uint8))[0]
    return x, y, z


def enlarge(data: NDArray[Any], grid: SamplingGrid, block: Sequence[slice]) -> NDArray[np.float32]:
    """Low resolution by linear interpolation on a block of the fine lattice: what is shown of air.

    Parameters
    ----------
    data : (X, Y, Z) array
        Low resolution, scanner units.
    grid : SamplingGrid
        From its lattice to the fine one.
    block : three slices
        Of the fine lattice.

    Returns
    -------
    float32 array of the block's shape
    """
    image = np.asarray(data)
    for axis, (sampling, part) in enumerate(zip(grid.axes, block, strict=True)):
        image = _linear(image, axis, sampling, part)
    return np.asarray(image, np.float32)


def _linear(image: NDArray[Any], axis: int, sampling: AxisSampling, part: slice) -> NDArray[np.float32]:
    at = np.clip(sampling.fine_positions()[part], 0, sampling.coarse - 1)
    low = np.minimum(at.astype(int), max(0, sampling.coarse - 2))
    high = np.minimum(low + 1, sampling.coarse - 1)
    weight = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    first, second = (np.take(image, index, axis).astype(np.float32) for index in (low, high))
    return np.asarray(first + weight * (second - first), np.float32)
