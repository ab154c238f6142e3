"""PSNR, SSIM, NMSE and MAE: plain functions on arrays; conventions (mask, range) are decided in ``conventions.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_mrsr.errors import InputError

Array = NDArray[Any]
Mask = NDArray[np.bool_]

WINDOW = 11
"""Taps of the Gaussian SSIM window."""
_SIGMA, _RADIUS = 1.5, WINDOW // 2


def _difference(reference: Array, image: Array, mask: Mask | None) -> Array:
    if mask is None:
        return np.asarray(image, np.float64).ravel() - np.asarray(reference, np.float64).ravel()
    return np.asarray(image[mask], np.float64) - np.asarray(reference[mask], np.float64)


def psnr(reference: Array, image: Array, data_range: float, mask: Mask | None = None) -> float:
    """Peak signal-to-noise ratio ``10 log10(R^2 / mean((x - y)^2))`` in dB; infinite for equal images.

    Parameters
    ----------
    reference, image : (X, Y, Z) arrays
        Same units.
    data_range : float
        R, same units.
    mask : (X, Y, Z) bool array, optional
        Voxels that count; all where missing.
    """
    error = float(np.mean(_difference(reference, image, mask) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(data_range**2 / error))


def nmse(reference: Array, image: Array, mask: Mask | None = None) -> float:
    """Normalised mean squared error ``||x - y||^2 / ||y||^2`` (y the reference)."""
    truth = np.asarray(reference if mask is None else reference[mask], np.float64)
    return float(np.sum(_difference(reference, image, mask) ** 2) / np.sum(truth**2))


def mae(reference: Array, image: Array, mask: Mask | None = None) -> float:
    """Mean absolute error, in the units of the images."""
    return float(np.mean(np.abs(_difference(reference, image, mask))))


def window_axes(shape: Sequence[int], slice_axis: int | None = None) -> tuple[int, ...]:
    """Axes along which the SSIM window extends: all but `slice_axis` and those shorter than the window.

    Raises
    ------
    InputError
        If fewer than two remain: local structure cannot be told then.
    """
    axes = tuple(axis for axis, n in enumerate(shape) if axis != slice_axis and n >= WINDOW)
    if len(axes) < 2:
        size = " x ".join(map(str, shape))
        raise InputError(f"SSIM needs at least {WINDOW} voxels along two axes, the region has {size}; compare a larger region.")
    return axes


def ssim_map(reference: Array, image: Array, data_range: float, slice_axis: int | None = None) -> NDArray[np.float32]:
    """Local structural similarity (Wang et al. 2004): Gaussian window sigma 1.5, 11 taps, population moments, K1 = 0.01, K2 = 0.03.

    Parameters
    ----------
    reference, image : (X, Y, Z) arrays
    data_range : float
        Same units.
    slice_axis : int, optional
        Windows lie within slices across this axis (2D SSIM); 3D windows where None. Axes shorter than the window have none of their own.

    Returns
    -------
    (X, Y, Z) float32 array, at most 1

    Raises
    ------
    InputError
        If fewer than two axes are as long as the window.
    """
    axes = window_axes(reference.shape, slice_axis)
    a, b = np.asarray(reference, np.float32), np.asarray(image, np.float32)
    mean_a, mean_b = _blur(a, axes), _blur(b, axes)
    luminance = mean_a * mean_b
    covariance = _blur(a * b, axes) - luminance
    # Both variances are needed only as a sum, which saves one of the five filters of the textbook form.
    power = mean_a * mean_a + mean_b * mean_b
    variances = _blur(a * a + b * b, axes) - power
    c1, c2 = np.float32((0.01 * data_range) ** 2), np.float32((0.03 * data_range) ** 2)
    result = (2 * luminance + c1) * (2 * covariance + c2)
    result /= (power + c1) * (variances + c2)
    return np.asarray(np.minimum(result, np.float32(1)), np.float32)


def ssim(reference: Array, image: Array, data_range: float, mask: Mask | None = None, slice_axis: int | None = None) -> float:
    """Mean of :func:`ssim_map` over a mask (all voxels where missing).

    Parameters
    ----------
    reference, image : (X, Y, Z) arrays
    data_range : float
        Same units.
    mask : (X, Y, Z) bool array, optional
        Voxels that count; their windows see voxels outside it.
    slice_axis : int, optional
        As in :func:`ssim_map`.
    """
    if mask is None:
        return float(np.mean(ssim_map(reference, image, data_range, slice_axis), dtype=np.float64))
    window_axes(reference.shape, slice_axis)
    near = _surroundings(mask)
    return float(np.mean(ssim_map(reference[near], image[near], data_range, slice_axis)[mask[near]], dtype=np.float64))


def _blur(array: Array, axes: tuple[int, ...]) -> Array:
    sigma = [_SIGMA if axis in axes else 0.0 for axis in range(array.ndim)]
    return np.asarray(ndimage.gaussian_filter(array, sigma, radius=_RADIUS, mode="reflect"))


def _surroundings(mask: Mask) -> tuple[slice, ...]:
    """Block around a mask in which its windows see exactly what they see in the whole array."""
    block = []
    for axis, size in enumerate(mask.shape):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        # The margin is never cut below the window's length, or that axis would lose its window.
        lower = max(0, min(inside[0] - _RADIUS, size - WINDOW))
        block.append(slice(int(lower), int(min(size, max(inside[-1] + 1 + _RADIUS, WINDOW)))))
    return tuple(block)
