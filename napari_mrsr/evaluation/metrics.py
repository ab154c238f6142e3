"""PSNR, SSIM, NMSE and MAE: plain functions on arrays; conventions (mask, range) are decided in ``conventions.py``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

Array = NDArray[Any]
Mask = NDArray[np.bool_]


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
    """
    options = {"data_range": data_range, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    reference, image = np.asarray(reference, np.float32), np.asarray(image, np.float32)
    short = [axis for axis, n in enumerate(reference.shape) if n < 11]
    if slice_axis is None and not short:
        return np.asarray(structural_similarity(reference, image, **options)[1], np.float32)
    axis = slice_axis if slice_axis is not None else short[0]
    pairs = zip(np.moveaxis(reference, axis, 0), np.moveaxis(image, axis, 0), strict=True)
    slices = [structural_similarity(a, b, **options)[1] for a, b in pairs]
    return np.asarray(np.moveaxis(np.stack(slices), 0, axis), np.float32)
