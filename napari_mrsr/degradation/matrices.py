"""One-axis linear maps between fine and coarse lattices, as small dense matrices.

Everything that resamples along an axis (degradations, classic upsamplers, a network's global skip) is a product with one of these, so
exactness, adjoints and speed come from plain matrix algebra. Shapes are (samples out, samples in).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_mrsr.grid import AxisSampling

Matrix = NDArray[np.float64]
Kernel = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def keys_kernel(x: NDArray[np.float64], a: float = -0.5) -> NDArray[np.float64]:
    """Cubic convolution kernel (Keys 1981), support |x| < 2."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def lanczos_kernel(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lanczos-3 windowed sinc, support |x| < 3."""
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


def kernel_matrix(positions: NDArray[np.float64], size: int, kernel: Kernel, support: float, width: float = 1.0) -> Matrix:
    """Weights that read a signal of `size` samples at `positions`.

    Parameters
    ----------
    positions : (m,) array
        Where to read, in sample indices.
    size : int
        Samples of the signal; beyond its ends the signal is mirrored about the outer sample edges.
    kernel : callable
        Interpolation kernel of unit spacing.
    support : float
        Half-width of the kernel.
    width : float
        Stretch of the kernel (the antialiasing factor when reducing).

    Returns
    -------
    (m, size) array
        Rows sum to 1.
    """
    reach = int(np.ceil(support * width)) + 1
    taps = np.floor(positions).astype(int)[:, None] + np.arange(-reach, reach + 2)
    weights = kernel((positions[:, None] - taps) / width)
    folded = _mirror(taps, size)
    matrix = np.zeros((len(positions), size))
    np.add.at(matrix, (np.arange(len(positions))[:, None], folded), weights)
    return np.asarray(matrix / matrix.sum(1, keepdims=True))


def bspline_matrix(positions: NDArray[np.float64], size: int) -> Matrix:
    """Cubic B-spline interpolation, mirrored about the outer sample edges (scipy's mode ``reflect``)."""
    # Solving for the coefficients is exact for axes of any length; scipy's recursive prefilter is not for very short ones.
    at_samples = _basis_matrix(np.arange(float(size)), size)
    return np.asarray(np.linalg.solve(at_samples.T, _basis_matrix(positions, size).T).T)


def _basis_matrix(positions: NDArray[np.float64], size: int) -> Matrix:
    taps = np.floor(positions).astype(int)[:, None] + np.arange(-1, 3)
    x = np.abs(positions[:, None] - taps)
    weights = np.where(x < 1, 2 / 3 - x * x + x**3 / 2, np.where(x < 2, (2 - x) ** 3 / 6, 0.0))
    matrix = np.zeros((len(positions), size))
    np.add.at(matrix, (np.arange(len(positions))[:, None], _mirror(taps, size)), weights)
    return matrix


def nearest_matrix(positions: NDArray[np.float64], size: int) -> Matrix:
    """Value of the nearest sample; ties go to the lower index."""
    index = np.clip(np.ceil(positions - 0.5 - 1e-9).astype(int), 0, size - 1)
    return np.asarray(np.eye(size)[index])


def dirichlet_matrix(positions: NDArray[np.float64], size: int) -> Matrix:
    """Band-limited (zero-filled k-space) interpolation of a periodic signal; an even spectrum's Nyquist term is split evenly."""
    x = positions[:, None] - np.arange(size)
    top = (size - 1) // 2
    matrix = np.ones_like(x)
    for k in range(1, top + 1):
        matrix += 2 * np.cos(2 * np.pi * k * x / size)
    if size % 2 == 0:
        matrix += np.cos(np.pi * x)
    return np.asarray(matrix / size)


def gaussian_matrix(size: int, sigma: float, radius: int) -> Matrix:
    """Sampled, normalised Gaussian blur with taps -radius..radius, mirrored about the outer sample edges."""
    return np.asarray(ndimage.gaussian_filter1d(np.eye(size), sigma, axis=0, mode="reflect", radius=radius))


@cache
def gaussian_sampling(axis: AxisSampling, width: float = 1.0) -> Matrix:
    """Protocol ``gaussian``: blur of sigma 1 voxel (radius 4), then B-spline sampling at the coarse positions (NETWORKS 0.6, edges aligned).

    `width` makes the blur wider or narrower by a factor, here and below.
    """
    return np.asarray(bspline_matrix(axis.coarse_positions(), axis.fine) @ gaussian_matrix(axis.fine, width, ceil(4 * width)))


@cache
def zoom_sampling(axis: AxisSampling, width: float = 1.0) -> Matrix:
    """Protocol ``gaussian-zoom``: blur, crop to a multiple of the factor, then ``scipy.ndimage.zoom`` itself (NETWORKS 0.6, literal)."""
    covered = round(axis.step * (axis.coarse - 1)) + 1 if axis.coarse > 1 else axis.fine
    # Mode "mirror" differs from the default only where rounding puts the last sample past the end, which the default makes 0.
    sampled = ndimage.zoom(np.eye(covered), (axis.coarse / covered, 1), order=3, mode="mirror")
    matrix = np.zeros((axis.coarse, axis.fine))
    matrix[:, :covered] = sampled
    return np.asarray(matrix @ gaussian_matrix(axis.fine, width, ceil(4 * width)))


@cache
def slice_profile_sampling(axis: AxisSampling, width: float = 1.0) -> Matrix:
    """Protocol ``slice-profile``: Gaussian with FWHM of one slice, 2 round(r) + 1 taps, then B-spline sampling (NETWORKS 0.5)."""
    sigma = width * axis.step / (2 * np.sqrt(2 * np.log(2)))
    return np.asarray(bspline_matrix(axis.coarse_positions(), axis.fine) @ gaussian_matrix(axis.fine, sigma, round(width * axis.step)))


@cache
def bicubic_sampling(axis: AxisSampling) -> Matrix:
    """Protocol ``bicubic``: Keys kernel (a = -0.5) stretched by the factor, voxel edges aligned (antialiased imresize)."""
    return kernel_matrix(axis.coarse_positions(), axis.fine, keys_kernel, 2.0, axis.step)


@cache
def kspace_sampling(axis: AxisSampling) -> NDArray[np.complex128]:
    """Protocol ``kspace``: centred FFT, centre crop, inverse FFT, in units of the fine image (NETWORKS 0.1, divided by the amplitude gain).

    Complex: a centre crop of even size keeps one Nyquist term, so the coarse image of a real one is not exactly real.
    """
    fine, coarse = axis.fine, axis.coarse
    spectrum = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(np.eye(fine), axes=0), axis=0), axes=0)
    # DC sits at fine // 2 and must land on coarse // 2.
    low = fine // 2 - coarse // 2
    cropped = spectrum[low : low + coarse]
    image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(cropped, axes=0), axis=0), axes=0)
    return np.asarray(image * (coarse / fine))


def _mirror(index: NDArray[np.int_], size: int) -> NDArray[np.int_]:
    folded = np.mod(index, 2 * size)
    return np.where(folded < size, folded, 2 * size - 1 - folded)
