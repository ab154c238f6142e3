"""Scores as quotients of sums over voxels, and the maps that are summed; what is counted is decided in ``conventions.py``.

Every score follows from a few sums over the voxels that count (:class:`Sum`). Sums of slices add up to sums of regions, so tables, curves
over slices and bootstrap intervals all come from one pass over the images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_mrsr.errors import InputError

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Values = NDArray[np.float64]

LOG_SIGMA, LOG_RADIUS = 1.5, 7
"""Laplacian of Gaussian of HFEN in voxels: 15 taps."""


class Sum(IntEnum):
    """What is summed over voxels, y the reference and x the image; last axis of every array of sums."""

    VOXELS = 0
    SQUARE = 1
    """(x - y)^2"""
    ABSOLUTE = 2
    """|x - y|"""
    POWER = 3
    """y^2"""
    GRADIENT = 4
    """(|grad x| - |grad y|)^2"""
    EDGES = 5
    """|grad y|^2"""
    LOG = 6
    """(LoG x - LoG y)^2"""
    STRUCTURE = 7
    """(LoG y)^2"""
    WINDOWS = 8
    """voxels whose SSIM counts"""
    SSIM = 9
    BOX_VOXELS = 10
    """voxels without the mask"""
    BOX_SQUARE = 11
    """(x - y)^2 without the mask"""


@dataclass(frozen=True)
class Metric:
    """A score.

    Attributes
    ----------
    name : str
        Field of :class:`~napari_mrsr.evaluation.comparison.Result`.
    title : str
        Column heading, unit included.
    form : str
        Format of a value.
    higher : bool
        Whether more is better.
    text : str
        Definition for tooltips.
    function : callable
        (..., sums) array and range R to (...) values; NaN where no voxel counts.
    """

    name: str
    title: str
    form: str
    higher: bool
    text: str
    function: Callable[[Values, float], Values]

    def format(self, value: float) -> str:
        """A value in words."""
        return format(value, self.form)

    def best(self, values: Sequence[float]) -> int | None:
        """Index of the best of several values; None where fewer than two are numbers or the first two are equal."""
        known = sorted((i for i, v in enumerate(values) if not np.isnan(v)), key=lambda i: values[i], reverse=self.higher)
        return known[0] if len(known) > 1 and values[known[0]] != values[known[1]] else None


def decibels(mean_square: Any, data_range: float) -> Values:
    """``10 log10(R^2 / mean square)``; infinite for 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(10 * np.log10(data_range**2 / np.asarray(mean_square, np.float64)))


def _quotient(sums: Values, over: Sum, under: Sum) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(sums[..., under] > 0, sums[..., over] / sums[..., under], np.nan))


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        m.name: m
        for m in (
            Metric(
                "psnr", "PSNR [dB]", ".2f", True, "Peak signal-to-noise ratio 10 log10(R² / mean (x − y)²)",
                lambda s, r: decibels(_quotient(s, Sum.SQUARE, Sum.VOXELS), r),
            ),
            Metric("ssim", "SSIM", ".4f", True, "Structural similarity (Wang et al. 2004)", lambda s, _: _quotient(s, Sum.SSIM, Sum.WINDOWS)),
            Metric("nmse", "NMSE", ".5f", False, "‖x − y‖² / ‖y‖², y the truth", lambda s, _: _quotient(s, Sum.SQUARE, Sum.POWER)),
            Metric("mae", "MAE", ".4g", False, "Mean |x − y| in scanner units", lambda s, _: _quotient(s, Sum.ABSOLUTE, Sum.VOXELS)),
            Metric(
                "gradient_error", "Grad. error", ".4f", False,
                "Error of the gradient magnitude (central differences per mm): √(Σ(|∇x| − |∇y|)² / Σ|∇y|²), no unit; 0: edges as in the truth",
                lambda s, _: np.sqrt(_quotient(s, Sum.GRADIENT, Sum.EDGES)),
            ),
            Metric(
                "hfen", "HFEN", ".4f", False,
                "High-frequency error norm ‖LoG(x − y)‖ / ‖LoG y‖, Laplacian of Gaussian of sigma 1.5 and 15 taps (Ravishankar & Bresler 2011)",
                lambda s, _: np.sqrt(_quotient(s, Sum.LOG, Sum.STRUCTURE)),
            ),
            Metric(
                "psnr_box", "PSNR box [dB]", ".2f", True, "PSNR of all voxels of the region, without the mask",
                lambda s, r: decibels(_quotient(s, Sum.BOX_SQUARE, Sum.BOX_VOXELS), r),
            ),
        )
    }
)  # fmt: skip


@dataclass(frozen=True)
class Window:
    """Window in which SSIM looks at local structure; K1 = 0.01, K2 = 0.03.

    Attributes
    ----------
    taps : int
        Voxels along each axis.
    sigma : float
        Of a Gaussian, in voxels; 0 for a uniform window.
    sample : bool
        Sample moments (divided by n - 1) instead of population moments.
    valid : bool
        Only windows that lie within the compared block count.
    """

    taps: int = 11
    sigma: float = 1.5
    sample: bool = False
    valid: bool = False

    @property
    def text(self) -> str:
        """The window in words."""
        kind = f"Gaussian window sigma {self.sigma:g}, {self.taps} taps" if self.sigma else f"uniform window, {self.taps} taps"
        return f"{kind}, {'sample' if self.sample else 'population'} moments{', whole windows only' if self.valid else ''}"

    def axes(self, shape: Sequence[int], slice_axis: int | None = None) -> tuple[int, ...]:
        """Axes along which the window extends: all but `slice_axis` and those shorter than it.

        Raises
        ------
        InputError
            If fewer than two remain: local structure cannot be told then.
        """
        axes = tuple(axis for axis, n in enumerate(shape) if axis != slice_axis and n >= self.taps)
        if len(axes) < 2:
            size = " x ".join(map(str, shape))
            raise InputError(f"SSIM needs at least {self.taps} voxels along two axes, the region has {size}; compare a larger region.")
        return axes

    def mean(self, array: Array, axes: tuple[int, ...]) -> Array:
        """Local mean; mirrored at the edges."""
        if self.sigma:
            sigma = [self.sigma if axis in axes else 0.0 for axis in range(array.ndim)]
            return np.asarray(ndimage.gaussian_filter(array, sigma, radius=self.taps // 2, mode="reflect"))
        return np.asarray(ndimage.uniform_filter(array, [self.taps if axis in axes else 1 for axis in range(array.ndim)], mode="reflect"))


GAUSSIAN = Window()


def psnr(reference: Array, image: Array, data_range: float, mask: Mask | None = None) -> float:
    """Peak signal-to-noise ratio ``10 log10(R^2 / mean((x - y)^2))`` in dB; infinite for equal images.

    Parameters
    ----------
    reference, image : arrays
        Same shape and units.
    data_range : float
        R, same units.
    mask : bool array, optional
        Voxels that count; all where missing.
    """
    inside = ... if mask is None else mask
    return float(decibels(np.mean((np.asarray(image[inside], np.float64) - np.asarray(reference[inside], np.float64)) ** 2), data_range))


def ssim_map(reference: Array, image: Array, data_range: float, slice_axis: int | None = None, window: Window = GAUSSIAN) -> NDArray[np.float32]:
    """Local structural similarity (Wang et al. 2004).

    Parameters
    ----------
    reference, image : (X, Y, Z) arrays
    data_range : float
        Same units.
    slice_axis : int, optional
        Windows lie within slices across this axis (2D SSIM); 3D windows where None. Axes shorter than the window have none of their own.
    window : Window
        Size and weights.

    Returns
    -------
    (X, Y, Z) float32 array, at most 1

    Raises
    ------
    InputError
        If fewer than two axes are as long as the window.
    """
    axes = window.axes(reference.shape, slice_axis)
    a, b = np.asarray(reference, np.float32), np.asarray(image, np.float32)
    mean_a, mean_b = window.mean(a, axes), window.mean(b, axes)
    luminance = mean_a * mean_b
    covariance = window.mean(a * b, axes) - luminance
    # Both variances are needed only as a sum, which saves one of the five filters of the textbook form.
    power = mean_a * mean_a + mean_b * mean_b
    variances = window.mean(a * a + b * b, axes) - power
    if window.sample:
        count = window.taps ** len(axes)
        covariance *= np.float32(count / (count - 1))
        variances *= np.float32(count / (count - 1))
    c1, c2 = np.float32((0.01 * data_range) ** 2), np.float32((0.03 * data_range) ** 2)
    result = (2 * luminance + c1) * (2 * covariance + c2)
    result /= (power + c1) * (variances + c2)
    return np.asarray(np.minimum(result, np.float32(1)), np.float32)


def laplacian_of_gaussian(image: Array, slice_axis: int | None = None) -> NDArray[np.float32]:
    """Laplacian of Gaussian of HFEN: sigma 1.5 voxels, 15 taps, mirrored at the edges.

    Parameters
    ----------
    image : (X, Y, Z) array
    slice_axis : int, optional
        Filter slices across this axis alone; all axes where None. Axes of one voxel are left out.

    Returns
    -------
    (X, Y, Z) float32 array, units of `image` per voxel squared
    """
    axes = tuple(axis for axis, n in enumerate(image.shape) if axis != slice_axis and n > 1)
    data = np.asarray(image, np.float32)
    return np.asarray(ndimage.gaussian_laplace(data, LOG_SIGMA, radius=LOG_RADIUS, mode="reflect", axes=axes), np.float32)
