"""References on any grid: a second contrast, registered where wanted, on the result's lattice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage

from napari_mrsr.degradation import apply_along_axes
from napari_mrsr.degradation.matrices import bspline_matrix
from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.align import require_finite
from napari_mrsr.evaluation.fit import Fit, extents, is_empty
from napari_mrsr.inference.registration import Registration, Start, moved, register_rigid
from napari_mrsr.volume import Volume

__all__ = ["Registration", "Start", "moved", "register_rigid", "resample_reference"]

FINER = 1.3
"""Reference voxels per voxel of the result beyond which the reference is low-passed first."""
VOXEL_SIGMA = 1 / np.sqrt(8 * np.log(2))
"""Standard deviation of a Gaussian as wide at half maximum as one voxel."""
CHUNK = 1_000_000
"""Voxels interpolated at a time."""


def resample_reference(reference: Volume, shape: Sequence[int], affine: ArrayLike) -> tuple[NDArray[np.float32], float]:
    """Put a second contrast onto the super-resolved lattice.

    Cubic B-spline interpolation through world coordinates; where the two lattices coincide up to whole voxels the voxels are only copied.

    Where the reference is finer than the lattice by more than a factor of 1.3, it is low-passed first, so that nothing aliases: along every
    such direction (oblique ones too) by the Gaussian that widens a reference voxel's profile to that of a voxel of the lattice
    (full width at half maximum of one voxel).

    Outside the reference its outermost values are carried on. Zeros would be right for air, but a slab that ends inside the head would get a
    step there that a network reads as an edge, and slices of zeros have no contrast to normalise by. What lies out there is no measurement;
    the returned share says how much of the lattice is one.

    Parameters
    ----------
    reference : Volume
        On any grid, scanner units.
    shape : three int
        Shape of the lattice.
    affine : (4, 4) array
        Voxel index to RAS world mm of the lattice, in any axis order.

    Returns
    -------
    (X, Y, Z) float32 array, float
        The reference on the lattice, within the reference's own smallest and largest value; and the share (0 to 1) of the lattice's voxels
        whose centre lies within the reference's outer voxel edges.

    Raises
    ------
    InputError
        If the reference holds NaN or infinite values, or covers no voxel of the lattice.
    """
    require_finite(reference)
    frame = Volume(np.broadcast_to(np.float32(0), tuple(shape)), np.asarray(affine, np.float64), name="the result")
    fit = Fit.of(frame, reference)
    share = _covered(fit, frame.shape)
    if share == 0:
        raise InputError(f"{reference.name} covers no part of the result: {extents(frame, reference)}.")
    if fit.offset is not None:
        near = [np.clip(np.arange(n) - o, 0, m - 1) for n, o, m in zip(frame.shape, fit.offset, fit.shape, strict=True)]
        data = reference.data[np.ix_(*near)].astype(np.float32)
    else:
        data = _interpolated(_without_alias(reference.data.astype(np.float32), fit.matrix), fit, frame.shape)
        np.clip(data, np.float32(reference.data.min()), np.float32(reference.data.max()), out=data)
    stored, _ = frame.replace(data=data).to_storage()
    return np.ascontiguousarray(stored), share


def _covered(fit: Fit, shape: Sequence[int]) -> float:
    block = fit.block((shape[0], shape[1], shape[2]))
    if is_empty(block):
        return 0.0
    inside = fit.covers(block)
    count = np.prod([s.stop - s.start for s in block]) if inside is None else inside.sum()
    return float(count / np.prod(shape))


def _without_alias(data: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """Low-pass samples for the lattice whose indices `matrix` takes to theirs.

    A voxel of that lattice is an ellipsoid here, with the singular vectors as axes; along those longer than one sample by enough, variances
    add up to the ellipsoid's.
    """
    axes, lengths, _ = np.linalg.svd(matrix[:3, :3])
    missing = np.where(lengths > FINER, lengths**2 - 1, 0.0) * VOXEL_SIGMA**2
    if not missing.any():
        return data
    covariance = axes * missing @ axes.T
    reach = np.ceil(4 * np.sqrt(np.diag(covariance))).astype(int)
    padded = np.pad(data, [(r, r) for r in reach], mode="symmetric")
    shape = [fft.next_fast_len(n, real=True) for n in padded.shape]
    spectrum = fft.rfftn(padded, shape)
    waves = np.meshgrid(*(np.fft.fftfreq(n) for n in shape[:2]), np.fft.rfftfreq(shape[2]), indexing="ij", sparse=True)
    exponent = sum(covariance[i, j] * waves[i] * waves[j] for i in range(3) for j in range(3))
    spectrum *= np.exp(-2 * np.pi**2 * exponent).astype(np.float32)
    smooth = fft.irfftn(spectrum, shape)
    return np.ascontiguousarray(smooth[tuple(slice(r, r + n) for r, n in zip(reach, data.shape, strict=True))], np.float32)


def _interpolated(data: NDArray[np.float32], fit: Fit, shape: Sequence[int]) -> NDArray[np.float32]:
    """Cubic B-spline, mirrored about the outer voxel edges (flat there); beyond these the value at the edge."""
    if fit.straight:
        positions = [
            np.clip(fit.matrix[i, i] * np.arange(n) + fit.matrix[i, 3], -0.5, m - 0.5) for i, (n, m) in enumerate(zip(shape, data.shape, strict=True))
        ]
        matrices = [bspline_matrix(p, n).astype(np.float32) for p, n in zip(positions, data.shape, strict=True)]
        return np.asarray(apply_along_axes(data, matrices), np.float32)
    weights = ndimage.spline_filter(data, 3, output=np.float32, mode="reflect")
    result = np.empty(tuple(shape), np.float32)
    rows = max(1, CHUNK // (shape[1] * shape[2]))
    for first in range(0, shape[0], rows):
        part = slice(first, min(first + rows, shape[0]))
        grids = np.ogrid[part, : shape[1], : shape[2]]
        where = np.stack([row[3] + sum(w * g for w, g in zip(row[:3], grids, strict=True)) for row in fit.matrix[:3]])
        for axis, n in enumerate(data.shape):
            np.clip(where[axis], -0.5, n - 0.5, out=where[axis])
        ndimage.map_coordinates(weights, where, output=result[part], order=3, mode="reflect", prefilter=False)
    return result
