"""What counts as foreground, how bright it is, and how noisy: shared by degradation, training and metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_mrsr.errors import InputError

FOREGROUND_FRACTION = 0.05
RANGE_PERCENTILE = 99.9
NOISE_ITERATIONS = 5
MIN_NOISE_SAMPLES = 100


def foreground_mask(data: NDArray[Any]) -> NDArray[np.bool_]:
    """Mask M of the ``mrsr-1`` convention: brighter than 5 % of the 99.9th percentile of all voxels, holes filled.

    Parameters
    ----------
    data : (X, Y, Z) array
        Reference image in scanner units.

    Returns
    -------
    (X, Y, Z) bool array
    """
    mask = np.asarray(data > FOREGROUND_FRACTION * np.percentile(data, RANGE_PERCENTILE))
    # A hole is background not connected (by faces) to the outside: one labelling is far faster than iterated dilation.
    padded = np.pad(~mask, 1, constant_values=True)
    labels, _ = ndimage.label(padded)
    return np.asarray((labels != labels[0, 0, 0])[1:-1, 1:-1, 1:-1])


def intensity_range(data: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> float:
    """Range R of the ``mrsr-1`` convention: the 99.9th percentile of the reference inside M (lower end 0).

    Raises
    ------
    InputError
        If the volume is empty or constant, so that no range exists.
    """
    mask = foreground_mask(data) if mask is None else mask
    value = float(np.percentile(data[mask], RANGE_PERCENTILE)) if mask.any() else 0.0
    if value <= 0:
        raise InputError("The image has no positive intensities to measure against (empty or constant volume).")
    return value


def require_content(data: NDArray[Any], name: str) -> None:
    """Refuse volumes on which no network or metric can say anything.

    Raises
    ------
    InputError
        If all voxels are equal.
    """
    if data.size == 0 or data.min() == data.max():
        raise InputError(f"{name}: all voxels have the same value; a constant or empty volume cannot be super-resolved or compared.")


def estimate_noise(data: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> float:
    """Standard deviation of the noise in foreground tissue, in scanner units.

    Donoho's estimator on one level of 3D Haar details: median absolute value of the all-high-pass band, divided by 0.6745, over the half of
    the foreground where the coarse image changes least; axes of one voxel are left out. Foreground no brighter than background of the noise
    found so far is dropped, and the estimate repeated.

    Parameters
    ----------
    data : (X, Y, Z) array
        Image in scanner units.
    mask : (X, Y, Z) bool array, optional
        Foreground; :func:`foreground_mask` where missing.

    Returns
    -------
    float
        0 where the foreground is too small to tell.
    """
    image = np.asarray(data, dtype=np.float32)
    mask = foreground_mask(image) if mask is None else mask
    smooth = ndimage.uniform_filter(image, 3)
    sigma = 0.0
    for _ in range(NOISE_ITERATIONS):
        previous, sigma = sigma, _detail_noise(image, mask)
        if abs(sigma - previous) <= 0.02 * sigma:
            break
        # The mean of pure Rician background is 1.25 sigma: what lies near it is not tissue.
        mask = mask & (smooth > 2.5 * sigma)
    return sigma


def _detail_noise(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    detail, coarse, inside = image, image, mask
    for axis, size in enumerate(image.shape):
        if size < 2:
            continue
        even, odd = _pairs(detail, axis)
        detail = (even - odd) / np.float32(np.sqrt(2))
        low, high = _pairs(coarse, axis)
        coarse = (low + high) / np.float32(2)
        a, b = _pairs(inside, axis)
        inside = a & b
    eroded = ndimage.binary_erosion(inside, iterations=2)
    inside = eroded if eroded.sum() >= MIN_NOISE_SAMPLES else inside
    if inside.sum() < MIN_NOISE_SAMPLES:
        return 0.0
    # Calm by its coarse structure, not by the detail itself, which would pick places of low noise.
    slope = ndimage.gaussian_gradient_magnitude(coarse, 1.0)
    calm = inside & (slope <= np.median(slope[inside]))
    return float(np.median(np.abs(detail[calm])) / 0.6745)


def _pairs(array: NDArray[Any], axis: int) -> tuple[NDArray[Any], NDArray[Any]]:
    even = np.take(array, np.arange(0, array.shape[axis] - 1, 2), axis)
    odd = np.take(array, np.arange(1, array.shape[axis], 2), axis)
    return even, odd
