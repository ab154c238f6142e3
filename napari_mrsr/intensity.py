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
PATCH = 3
CALM_SHARE, CALM_PATCHES, MOST_PATCHES = 0.03, 6_000, 60_000
"""Share of the tissue whose patches tell the noise, and the fewest and the most of them."""


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
    # Nearly always a few voxels tell.
    few = data[tuple(slice(None, None, max(1, n // 16)) for n in data.shape)]
    if data.size == 0 or (few.min() == few.max() and data.min() == data.max()):
        raise InputError(f"{name}: all voxels have the same value; a constant or empty volume cannot be super-resolved or compared.")


def estimate_noise(data: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> float:
    """Standard deviation of the noise in foreground tissue, in scanner units.

    Smallest eigenvalues of the covariance of 3 x 3 x 3 patches from the calmest tissue (after Pyatykh et al., IEEE TIP 2013): anatomy lives in few
    directions of patch space, noise in all of them alike, so the directions with least variance hold noise alone. Patches are chosen by the
    slope of the smoothed image, not by their own variance, which would pick places of low noise. Foreground no brighter than background of the
    noise found so far is dropped, and the estimate repeated. Within 20 % for 1 to 5 % of noise where the image itself has no more than that
    (``tests/test_intensity.py``); fine detail of strongly undersampled images (x3, x4, T2 in plane) counts as noise below about 2 %.

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
    inside = _whole_patches(mask)
    smooth = ndimage.uniform_filter(image, 3)
    slope = ndimage.gaussian_gradient_magnitude(image, 1.5)
    patches = np.lib.stride_tricks.sliding_window_view(image, [min(PATCH, n) if n >= PATCH else 1 for n in image.shape])
    sigma = 0.0
    for _ in range(NOISE_ITERATIONS):
        # The mean of pure Rician background is 1.25 sigma: what lies near it is not tissue.
        places = np.argwhere(inside & (smooth > 3 * sigma))
        if len(places) < MIN_NOISE_SAMPLES:
            break
        previous, sigma = sigma, _patch_noise(patches, places, slope)
        if abs(sigma - previous) <= 0.02 * sigma:
            break
    return sigma


def _whole_patches(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Places well inside the foreground whose patch lies in the image."""
    eroded = ndimage.binary_erosion(mask, iterations=2)
    inside = eroded if eroded.sum() >= MIN_NOISE_SAMPLES else mask.copy()
    for axis, n in enumerate(mask.shape):
        if n >= PATCH:
            inside[(slice(None),) * axis + ([0, -1],)] = False
    return np.asarray(inside)


def _patch_noise(patches: NDArray[np.float32], places: NDArray[np.int_], slope: NDArray[np.float32]) -> float:
    steep = slope[tuple(places.T)]
    count = max(min(len(places), CALM_PATCHES), int(CALM_SHARE * len(places)))
    calm = places[np.argpartition(steep, count - 1)[:count]] if count < len(places) else places
    calm = calm[:: max(1, len(calm) // MOST_PATCHES)]
    corner = calm - [(n > 1) for n in patches.shape[3:]]
    rows = patches[tuple(corner.T)].reshape(len(calm), -1).astype(np.float64)
    rows -= rows.mean(1, keepdims=True)
    # The mean is gone, and with it one direction.
    variances = np.linalg.eigvalsh(rows.T @ rows / len(rows))[1:]
    if not len(variances):
        return 0.0
    return float(np.sqrt(max(0.0, variances[: max(1, len(variances) // 9)].mean())))
