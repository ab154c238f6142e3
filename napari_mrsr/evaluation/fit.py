"""How two lattices lie on each other, and interpolation from one onto the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_mrsr.degradation import apply_along_axes
from napari_mrsr.degradation.matrices import bspline_matrix
from napari_mrsr.grid import lattice_offset
from napari_mrsr.volume import Volume

Index = tuple[int, int, int]
Mask = NDArray[np.bool_]

FADED = 1e-7
"""Weights of samples that are left out of a slice."""
SLACK = 0.01
"""Voxels by which positions may miss an outer voxel edge or a straight axis: headers store affines in float32."""


@dataclass(frozen=True, eq=False)
class Fit:
    """How a candidate lies on the reference.

    Attributes
    ----------
    offset : tuple of int or None
        Whole-voxel offset; None where the lattices differ.
    matrix : (4, 4) array
        Reference voxel index to candidate voxel index.
    straight : bool
        Whether the two sets of axes are parallel.
    shape : tuple of int
        Candidate's shape.
    """

    offset: Index | None
    matrix: NDArray[np.float64]
    straight: bool
    shape: Index

    @classmethod
    def of(cls, reference: Volume, candidate: Volume) -> Fit:
        """Find out how a candidate lies on a reference."""
        offset = lattice_offset(reference.affine, candidate.affine, candidate.shape)
        matrix: NDArray[np.float64] = np.linalg.inv(candidate.affine) @ reference.affine
        turned = matrix[:3, :3] - np.diag(np.diag(matrix[:3, :3]))
        straight = bool((np.abs(turned) * reference.shape).max() < SLACK)
        return cls(offset, matrix, straight, candidate.shape)

    def block(self, shape: Index) -> tuple[slice, ...]:
        """Block of reference voxels that may be covered; exact unless the candidate is rotated. Slices may be empty."""
        if self.offset is not None:
            return tuple(_between(o, o + m, n) for o, m, n in zip(self.offset, self.shape, shape, strict=True))
        bounds = np.array([[-0.5, n - 0.5] for n in self.shape])
        corners = np.stack(np.meshgrid(*bounds, indexing="ij"), -1).reshape(-1, 3)
        inverse = np.linalg.inv(self.matrix)
        corners = corners @ inverse[:3, :3].T + inverse[:3, 3]
        lower, upper = np.ceil(corners.min(0) - SLACK).astype(int), np.floor(corners.max(0) + SLACK).astype(int) + 1
        return tuple(_between(int(a), int(b), n) for a, b, n in zip(lower, upper, shape, strict=True))

    def source_block(self, block: Sequence[slice]) -> tuple[slice, ...]:
        """Move the block into a coinciding candidate's own indices."""
        assert self.offset is not None
        return tuple(slice(s.start - o, s.stop - o) for s, o in zip(block, self.offset, strict=True))

    def covers(self, block: Sequence[slice]) -> Mask | None:
        """Tell which voxels of the block have their centre inside the candidate; None for all (the block is exact)."""
        if self.straight or self.offset is not None:
            return None
        grids = np.ogrid[tuple(block)]
        inside = np.ones([s.stop - s.start for s in block], bool)
        for row, size in zip(self.matrix[:3], self.shape, strict=True):
            index = row[3] + sum(weight * grid for weight, grid in zip(row[:3], grids, strict=True))
            inside &= (index >= -0.5 - SLACK) & (index <= size - 0.5 + SLACK)
        return None if inside.all() else inside


def resample(data: NDArray[Any], matrix: NDArray[np.float64], shape: Index, straight: bool) -> NDArray[np.float32]:
    """Cubic B-spline interpolation, mirrored about the outer voxel edges.

    Parameters
    ----------
    data : (x, y, z) array
        Samples.
    matrix : (4, 4) array
        Output voxel index to input voxel index.
    shape : tuple of int
        Output shape.
    straight : bool
        Whether the matrix only scales and shifts; small separable products then replace the general and much slower path.

    Returns
    -------
    (X, Y, Z) float32 array, units of `data`
    """
    if straight:
        weights = spline_weights(matrix, shape, data.shape)
        return np.asarray(apply_along_axes(data.astype(np.float32, copy=False), weights), np.float32)
    result = np.empty(shape, np.float32)
    ndimage.affine_transform(data.astype(np.float32, copy=False), matrix[:3, :3], matrix[:3, 3], output=result, order=3, mode="reflect")
    return result


def spline_weights(matrix: NDArray[np.float64], shape: Index, samples: Sequence[int]) -> tuple[NDArray[np.float32], ...]:
    """Weights of the samples in every output voxel, axis by axis, for lattices with parallel axes.

    Parameters
    ----------
    matrix : (4, 4) array
        Output voxel index to input voxel index.
    shape : three ints
        Output shape.
    samples : three ints
        Input shape.

    Returns
    -------
    three (output, input) float32 arrays
        Of cubic B-spline interpolation, mirrored about the outer voxel edges.
    """
    positions = [matrix[i, i] * np.arange(n) + matrix[i, 3] for i, n in enumerate(shape)]
    return tuple(bspline_matrix(p, n).astype(np.float32) for p, n in zip(positions, samples, strict=True))


def spline_slice(data: NDArray[Any], weights: Sequence[NDArray[np.float32]], axis: int, index: int) -> NDArray[np.float32]:
    """One slice of what :func:`resample` gives, without the rest of it.

    Parameters
    ----------
    data : (x, y, z) array
        Samples.
    weights : three arrays
        :func:`spline_weights`.
    axis, index : int
        Axis across the slice, and its number in the output.

    Returns
    -------
    2D float32 array
        The two other axes in their order.
    """
    row = weights[axis][index]
    # Weights of a spline fade fast: samples further away than a dozen voxels count for nothing in float32.
    near = np.flatnonzero(np.abs(row) > FADED)
    part = data[(slice(None),) * axis + (slice(near[0], near[-1] + 1),)]
    flat = np.tensordot(row[near[0] : near[-1] + 1], part.astype(np.float32, copy=False), (0, axis))
    first, second = (w for a, w in enumerate(weights) if a != axis)
    return np.asarray(first @ flat @ second.T, np.float32)


def _between(lower: int, upper: int, size: int) -> slice:
    start = min(max(0, lower), size)
    return slice(start, max(start, min(size, upper)))


def is_empty(block: Sequence[slice]) -> bool:
    """Whether a block holds no voxel."""
    return any(s.stop <= s.start for s in block)


def extents(*volumes: Volume) -> str:
    """Where volumes lie, in words and mm, for messages about volumes that do not overlap."""

    def corner(values: Sequence[float]) -> str:
        return "(" + ", ".join(f"{v:.1f}" for v in values) + ")"

    return ", ".join(f"{v.name} spans {corner(v.box().lower)} to {corner(v.box().upper)} mm" for v in volumes)
