"""Flat views of volumes: anatomical planes, pictures with their place in mm, sections of volumes on any grid."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.linalg import polar

from napari_mrsr.volume import Box, Volume

LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))
"""Ends of the array axes, low index first."""
STRAIGHT_DEGREES = 0.01
"""Smaller rotations are header rounding."""
STRAIGHT_VOXELS = 0.05
"""Axes count as parallel where they part by less than this over the whole volume."""


@dataclass(frozen=True)
class Plane:
    """A way to cut a volume.

    Attributes
    ----------
    name : str
        axial, coronal or sagittal.
    slice_axis, across, up : int
        Array axes: perpendicular, horizontal and vertical in the picture.
    """

    name: str
    slice_axis: int
    across: int
    up: int


PLANES: Mapping[str, Plane] = MappingProxyType({p.name: p for p in (Plane("axial", 2, 0, 1), Plane("coronal", 1, 0, 2), Plane("sagittal", 0, 1, 2))})


def edge_letters(plane: Plane, radiological: bool) -> tuple[str, str, str, str]:
    """Anatomical letters at the left, right, bottom and top of a picture; radiological: the patient's right, or front, is on the left."""
    low, high = LETTERS[plane.across]
    left, right = (high, low) if radiological else (low, high)
    return left, right, *LETTERS[plane.up]


@dataclass(frozen=True)
class Rect:
    """A rectangle in a picture's plane, mm from an origin that goes with the picture."""

    left: float
    right: float
    bottom: float
    top: float

    @property
    def width(self) -> float:
        """Size across, mm."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Size upwards, mm."""
        return self.top - self.bottom

    def with_ratio(self, low: float, high: float) -> Rect:
        """Enlarge about the centre until height / width lies within the two limits."""
        width, height = max(self.width, self.height / high), max(self.height, self.width * low)
        x, y = (self.left + self.right) / 2, (self.bottom + self.top) / 2
        return Rect(x - width / 2, x + width / 2, y - height / 2, y + height / 2)


@dataclass(frozen=True, eq=False)
class Picture:
    """A flat image: (across, up) array in scanner units and the rectangle its voxels fill."""

    data: NDArray[Any]
    place: Rect


@dataclass(frozen=True, eq=False)
class Space:
    """Three perpendicular axes, close to R, A, S, along which volumes are cut.

    Attributes
    ----------
    rotation : (3, 3) array
        Columns: the axes in world coordinates.
    angle : float
        Largest angle in degrees between an axis and its anatomical axis; 0 for the world's own axes.
    """

    rotation: NDArray[np.float64] = field(default_factory=lambda: np.eye(3))
    angle: float = 0.0

    @classmethod
    def of(cls, volume: Volume | None) -> Space:
        """Space of a volume's own axes (made perpendicular where they are sheared); of the world where it is not oblique."""
        if volume is None or volume.obliquity < STRAIGHT_DEGREES:
            return cls()
        rotation, _ = polar(volume.affine[:3, :3] / volume.voxel_size)
        return cls(rotation, volume.obliquity)

    def matrix(self, volume: Volume) -> NDArray[np.float64]:
        """(4, 4): voxel index of a volume to coordinates in this space, mm."""
        turn = np.eye(4)
        turn[:3, :3] = self.rotation.T
        return np.asarray(turn @ volume.affine)

    def coordinates(self, point: ArrayLike) -> NDArray[np.float64]:
        """World point in this space's coordinates, mm from the world's origin."""
        return np.asarray(self.rotation.T @ np.asarray(point, float))

    def world(self, coordinates: ArrayLike) -> tuple[float, float, float]:
        """World point of coordinates in this space."""
        x, y, z = self.rotation @ np.asarray(coordinates, float)
        return float(x), float(y), float(z)

    def follows(self, volume: Volume) -> bool:
        """Whether the axes are parallel to a volume's, so that its slices can be shown as they are."""
        matrix = self.matrix(volume)[:3, :3]
        return bool((np.abs(matrix - np.diag(np.diag(matrix))) * volume.shape).max() < STRAIGHT_VOXELS * min(volume.voxel_size))

    def box(self, volume: Volume) -> Box:
        """Box around a volume's outer voxel edges, along these axes."""
        lower, upper = self.extent(volume)
        return Box(tuple(lower), tuple(upper), tuple(self.rotation.ravel()))

    def extent(self, volume: Volume) -> NDArray[np.float64]:
        """(2, 3): lowest and highest coordinates of a volume's outer voxel edges."""
        matrix = self.matrix(volume)
        ends = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in volume.shape], indexing="ij"), -1).reshape(-1, 3)
        corners = ends @ matrix[:3, :3].T + matrix[:3, 3]
        return np.stack([corners.min(0), corners.max(0)])


@dataclass(frozen=True, eq=False)
class Section:
    """Where a plane cuts a volume.

    Attributes
    ----------
    picture : Picture
        Values, and their place in the space's coordinates.
    index : int or None
        Slice of the volume; None where the plane crosses its slices at an angle and values were interpolated.
    """

    picture: Picture
    index: int | None


def cut(volume: Volume, space: Space, plane: Plane, depth: float) -> Section | None:
    """Cut a volume.

    A volume whose axes are parallel to the space's shows its own voxels of the slice that holds `depth`, at their own size and place. Any
    other is interpolated linearly in the plane, at its finest voxel size; NaN outside it.

    Parameters
    ----------
    volume : Volume
        Any grid.
    space : Space
        Axes to cut along.
    plane : Plane
        Which way.
    depth : float
        Coordinate along the plane's slice axis, mm.

    Returns
    -------
    Section or None
        None where the plane misses the volume.
    """
    matrix = space.matrix(volume)
    if space.follows(volume):
        return _own_voxels(volume, matrix, plane, depth)
    return _interpolated(volume, matrix, plane, depth, space.extent(volume))


def _own_voxels(volume: Volume, matrix: NDArray[np.float64], plane: Plane, depth: float) -> Section | None:
    step, origin = np.diag(matrix)[:3], matrix[:3, 3]
    axis = plane.slice_axis
    # The slack is far below what is visible and above what arithmetic loses on a boundary between two slices.
    index = int(np.floor((depth - origin[axis]) / step[axis] + 0.5 + 1e-9))
    if not 0 <= index < volume.shape[axis]:
        return None
    low, high = origin - step / 2, origin + step * (np.array(volume.shape) - 0.5)
    place = Rect(*(float(v[a]) for a in (plane.across, plane.up) for v in (low, high)))
    # Remaining axes keep their order, and across comes before up in every plane.
    return Section(Picture(volume.data[(slice(None),) * axis + (index,)], place), index)


def _interpolated(volume: Volume, matrix: NDArray[np.float64], plane: Plane, depth: float, extent: NDArray[np.float64]) -> Section | None:
    axis, spacing = plane.slice_axis, min(volume.voxel_size)
    if not extent[0, axis] <= depth <= extent[1, axis]:
        return None
    low = extent[0] + spacing / 2
    low[axis] = depth
    shape = np.maximum(1, np.round((extent[1] - extent[0]) / spacing)).astype(int)
    shape[axis] = 1
    inverse = np.linalg.inv(matrix)
    start = inverse[:3, :3] @ low + inverse[:3, 3]
    data = volume.data if volume.data.dtype.kind == "f" else volume.data.astype(np.float32)
    values = ndimage.affine_transform(data, inverse[:3, :3] * spacing, start, tuple(shape), np.float32, order=1, cval=np.nan)
    ends = ((float(low[a]) - spacing / 2, float(low[a]) + spacing * (int(shape[a]) - 0.5)) for a in (plane.across, plane.up))
    place = Rect(*itertools.chain(*ends))
    return Section(Picture(np.take(values, 0, axis), place), None)
