"""Where low-resolution samples sit between high-resolution ones: the one owner of sampling geometry.

Degradations, upsampling, tiles and output affines all ask a :class:`SamplingGrid`; nothing else in the package computes half voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from napari_mrsr.errors import InputError

Alignment = Literal["edges", "kspace", "corners"]
"""How coarse samples lie on the fine lattice.

``edges``: outer voxel edges coincide (box of r fine voxels per coarse voxel). ``kspace``: where a centred crop of the spectrum leaves the
samples, DC kept at ``n // 2``. ``corners``: first and last voxel centres coincide (``scipy.ndimage.zoom``'s default).
"""


@dataclass(frozen=True)
class AxisSampling:
    """Coarse samples on a fine axis: coarse sample ``i`` lies at fine index ``start + step * i``.

    Attributes
    ----------
    fine, coarse : int
        Number of samples on either lattice.
    step : float
        Fine voxels per coarse sample (equals the scale for ``edges``).
    start : float
        Fine index of coarse sample 0.
    """

    fine: int
    coarse: int
    step: float
    start: float

    @classmethod
    def from_fine(cls, fine: int, scale: float, alignment: Alignment) -> AxisSampling:
        """Coarse lattice of ``floor(fine / scale)`` samples under a given fine one.

        Raises
        ------
        InputError
            If the axis is shorter than the scale.
        """
        if scale == 1:
            return cls(fine, fine, 1.0, 0.0)
        coarse = math.floor(fine / scale + 1e-9)
        if coarse < 1:
            raise InputError(f"An axis of {fine} voxels cannot be reduced by a factor of {scale:g}: use a smaller scale or a larger volume.")
        return cls._place(fine, coarse, scale, alignment, fine / coarse)

    @classmethod
    def from_coarse(cls, coarse: int, scale: float, alignment: Alignment) -> AxisSampling:
        """Fine lattice of ``scale * coarse`` samples over a given coarse one."""
        if scale == 1:
            return cls(coarse, coarse, 1.0, 0.0)
        fine = math.floor(coarse * scale + 1e-9)
        return cls._place(fine, coarse, scale, alignment, scale)

    @classmethod
    def _place(cls, fine: int, coarse: int, scale: float, alignment: Alignment, kspace_step: float) -> AxisSampling:
        if alignment == "edges":
            return cls(fine, coarse, float(scale), (scale - 1) / 2)
        if alignment == "kspace":
            return cls(fine, coarse, float(kspace_step), fine // 2 - kspace_step * (coarse // 2))
        covered = math.floor(coarse * scale + 1e-9)
        return cls(fine, coarse, (covered - 1) / (coarse - 1) if coarse > 1 else float(scale), 0.0)

    def mirrored(self) -> AxisSampling:
        """The same samples counted from the other end: sample ``coarse - 1 - i`` at fine index ``fine - 1 - position``."""
        return AxisSampling(self.fine, self.coarse, self.step, self.fine - 1 - (self.start + self.step * (self.coarse - 1)))

    def fine_positions(self) -> NDArray[np.float64]:
        """Coarse index of every fine sample, shape (fine,)."""
        return np.asarray((np.arange(self.fine) - self.start) / self.step, np.float64)

    def coarse_positions(self) -> NDArray[np.float64]:
        """Fine index of every coarse sample, shape (coarse,)."""
        return np.asarray(self.start + self.step * np.arange(self.coarse), np.float64)


@dataclass(frozen=True)
class SamplingGrid:
    """Coarse and fine lattices of a volume, axis by axis (R, A, S).

    Attributes
    ----------
    axes : tuple of AxisSampling
        One per axis.
    scale : tuple of float
        Nominal factor per axis; 1 where the axis is kept.
    alignment : {"edges", "kspace", "corners"}
        How the samples were placed.
    """

    axes: tuple[AxisSampling, AxisSampling, AxisSampling]
    scale: tuple[float, float, float]
    alignment: Alignment

    @classmethod
    def from_fine(cls, shape: Sequence[int], scale: Sequence[float], alignment: Alignment) -> SamplingGrid:
        """Grid whose fine (HR) shape is known: ``n = floor(N / r)`` coarse samples per degraded axis."""
        return cls._build(AxisSampling.from_fine, shape, scale, alignment)

    @classmethod
    def from_coarse(cls, shape: Sequence[int], scale: Sequence[float], alignment: Alignment) -> SamplingGrid:
        """Grid whose coarse (LR) shape is known: ``N = r * n`` fine samples per enlarged axis."""
        return cls._build(AxisSampling.from_coarse, shape, scale, alignment)

    @classmethod
    def _build(cls, place, shape: Sequence[int], scale: Sequence[float], alignment: Alignment) -> SamplingGrid:  # type: ignore[no-untyped-def]
        if alignment not in get_args(Alignment):
            raise InputError(f"Unknown alignment {alignment!r}: use one of {', '.join(get_args(Alignment))}.")
        if len(shape) != 3 or len(scale) != 3 or any(not math.isfinite(s) or s < 1 for s in scale):
            raise InputError(f"A grid needs three sizes and three scales of at least 1, got sizes {tuple(shape)} and scales {tuple(scale)}.")
        axes = tuple(place(int(n), s, alignment) for n, s in zip(shape, scale, strict=True))
        return cls(axes, (scale[0], scale[1], scale[2]), alignment)

    def mirrored(self, axes: Sequence[int]) -> SamplingGrid:
        """Grid of the volume turned round along some axes."""
        x, y, z = (axis.mirrored() if i in axes else axis for i, axis in enumerate(self.axes))
        return SamplingGrid((x, y, z), self.scale, self.alignment)

    @property
    def fine_shape(self) -> tuple[int, int, int]:
        """Shape of the fine lattice."""
        a, b, c = self.axes
        return a.fine, b.fine, c.fine

    @property
    def coarse_shape(self) -> tuple[int, int, int]:
        """Shape of the coarse lattice."""
        a, b, c = self.axes
        return a.coarse, b.coarse, c.coarse

    def coarse_to_fine(self) -> NDArray[np.float64]:
        """4x4 matrix from coarse voxel indices to fine voxel indices."""
        matrix = np.diag([*(a.step for a in self.axes), 1.0])
        matrix[:3, 3] = [a.start for a in self.axes]
        return matrix

    def coarse_affine(self, fine_affine: NDArray[np.float64]) -> NDArray[np.float64]:
        """Voxel-to-mm affine of the coarse lattice."""
        return fine_affine @ self.coarse_to_fine()

    def fine_affine(self, coarse_affine: NDArray[np.float64]) -> NDArray[np.float64]:
        """Voxel-to-mm affine of the fine lattice."""
        return coarse_affine @ np.linalg.inv(self.coarse_to_fine())


def lattice_offset(
    affine: NDArray[np.float64], other: NDArray[np.float64], shape: Sequence[int], tolerance: float = 0.01
) -> tuple[int, int, int] | None:
    """Whole-voxel offset between two lattices, or None where they do not coincide.

    Parameters
    ----------
    affine, other : (4, 4) arrays
        Voxel-to-mm affines.
    shape : sequence of int
        Shape of the volume that belongs to `other`; the lattices must agree over all of it.
    tolerance : float
        Largest accepted deviation in voxels anywhere in that volume.

    Returns
    -------
    tuple of int or None
        Index in `affine`'s lattice of `other`'s voxel (0, 0, 0).
    """
    relative = np.linalg.solve(affine, other)
    corners = np.array([[i, j, k, 1.0] for i in (0, shape[0] - 1) for j in (0, shape[1] - 1) for k in (0, shape[2] - 1)])
    mapped = corners @ relative.T
    offset = np.round(relative[:3, 3])
    if np.abs(mapped[:, :3] - corners[:, :3] - offset).max() > tolerance:
        return None
    return int(offset[0]), int(offset[1]), int(offset[2])
