"""Volume and Box: an image with its geometry, and a region in world millimetres."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as dataclass_replace
from typing import Any

import numpy as np
from nibabel.orientations import aff2axcodes, apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import ArrayLike, NDArray

from napari_mrsr.errors import InputError

AXES = "RAS"
"""Names of the three array axes of every Volume: they grow to the patient's right, front (anterior) and top (superior)."""

WORLD = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
"""Axes of the world, row by row."""
_IDENTITY_ORNT = np.array([[0, 1], [1, 1], [2, 1]], dtype=float)


def axis_index(letter: str) -> int:
    """Array axis of an anatomical axis name.

    Parameters
    ----------
    letter : str
        R (or L), A (or P), S (or I), any case.

    Raises
    ------
    InputError
        For any other letter.
    """
    try:
        return {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[letter.upper()]
    except KeyError:
        raise InputError(f"Unknown axis {letter!r}: use R, A or S.") from None


@dataclass(frozen=True)
class Source:
    """Where a volume came from, kept so that results are written the way the source was.

    Attributes
    ----------
    orientation : (3, 2) array
        nibabel orientation array of the stored data (axis order and flips).
    path : str
        File, or empty.
    header : object
        nibabel header of the file (a copy), or None.
    geometry : str
        Which affine was taken, for example ``sform (code 1)``.
    """

    orientation: NDArray[np.float64] = field(default_factory=_IDENTITY_ORNT.copy)
    path: str = ""
    header: Any = None
    geometry: str = ""

    @property
    def axcodes(self) -> str:
        """Stored axis order as letters, for example ``LPS``."""
        letters = ("LR", "PA", "IS")
        return "".join(letters[int(axis)][int(flip > 0)] for axis, flip in self.orientation)


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image in RAS+ axis order with its position in the scanner.

    Whatever axis order the given array and affine have, `data` and `affine` are the closest RAS+ view of it (no copy, no resampling);
    the stored order is remembered in `source` and restored by :meth:`to_storage`.

    Attributes
    ----------
    data : (X, Y, Z) array
        Real numbers in scanner units (masks as uint8); axes grow to the patient's right, anterior, superior.
    affine : (4, 4) float64 array
        Voxel index (voxel centre) to RAS world millimetres.
    name : str
        Short name for labels and tables.
    source : Source
        Stored orientation, file and header.
    record : mapping
        JSON-ready provenance: how these numbers were made (degradation, model, options).

    Raises
    ------
    InputError
        If the array is not 3D, not of real numbers, or the affine is not finite and invertible.
    """

    data: NDArray[Any]
    affine: NDArray[np.float64]
    name: str = "volume"
    source: Source = field(default_factory=Source)
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        data = np.asanyarray(self.data)
        affine = check_affine(self.affine, self.name)
        if data.ndim != 3:
            raise InputError(f"{self.name}: a 3D volume is needed, this one has {data.ndim} dimensions {data.shape}.")
        if min(data.shape) < 1:
            raise InputError(f"{self.name}: the volume is empty (shape {data.shape}).")
        if data.dtype.kind not in "buif":
            raise InputError(f"{self.name}: voxel type {data.dtype} is not a real number; export a magnitude image.")
        if data.dtype == np.bool_:
            data = data.view(np.uint8)
        orientation = io_orientation(affine)
        source = self.source
        if not np.array_equal(orientation, _IDENTITY_ORNT):
            shape = data.shape
            data = apply_orientation(data, orientation)
            affine = affine @ inv_ornt_aff(orientation, shape)
            source = dataclass_replace(source, orientation=orientation)
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "source", source)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along R, A, S."""
        x, y, z = self.data.shape
        return x, y, z

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Spacing along R, A, S in mm (column norms of the affine)."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def obliquity(self) -> float:
        """Largest angle in degrees between a voxel axis and its anatomical axis."""
        cosines = np.abs(np.diag(self.affine[:3, :3])) / np.array(self.voxel_size)
        return float(np.degrees(np.arccos(np.clip(cosines, 0, 1))).max())

    def slice_axis(self) -> int:
        """Array axis perpendicular to the slices: the one with the coarsest spacing; where spacings tie, S (axial slices)."""
        sizes = np.round(self.voxel_size, 3)
        coarsest = np.flatnonzero(sizes >= sizes.max() * (1 - 1e-3))
        return 2 if 2 in coarsest else int(coarsest[-1])

    def replace(self, **changes: Any) -> Volume:
        """Copy with some attributes changed; `data` and `affine` must stay in RAS+ order."""
        return dataclass_replace(self, **changes)

    def with_record(self, **entries: Any) -> Volume:
        """Copy with entries added to the provenance record."""
        return self.replace(record={**self.record, **entries})

    def box(self) -> Box:
        """Bounding box in mm, voxel edges included."""
        corners = _corners(np.full(3, -0.5), np.array(self.shape) - 0.5) @ self.affine[:3, :3].T + self.affine[:3, 3]
        return Box(tuple(corners.min(0)), tuple(corners.max(0)))

    def crop(self, slices: Sequence[slice]) -> Volume:
        """Sub-block with the affine moved along (a view, no copy)."""
        starts = [s.indices(n)[0] for s, n in zip(slices, self.shape, strict=True)]
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.array(starts, float)
        return self.replace(data=self.data[tuple(slices)], affine=affine)

    def to_storage(self) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Array and affine in the axis order and flips of the source file."""
        back = ornt_transform(_IDENTITY_ORNT, self.source.orientation)
        return apply_orientation(self.data, back), self.affine @ inv_ornt_aff(back, self.shape)


@dataclass(frozen=True)
class Box:
    """A region in millimetres, with its edges along the world's axes or along those of an oblique volume.

    Attributes
    ----------
    lower, upper : tuple of float
        Smallest and largest coordinate along each axis, mm from the world's origin.
    axes : tuple of 9 float
        Row by row, the (3, 3) matrix whose columns are the axes in RAS world coordinates, perpendicular and of unit length.
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    axes: tuple[float, ...] = WORLD

    def __post_init__(self) -> None:
        values, rotation = np.array([self.lower, self.upper], float), np.array(self.axes, float)
        if values.shape != (2, 3) or not np.isfinite(values).all():
            raise InputError(f"A region needs six finite numbers in mm, got {self.lower} to {self.upper}.")
        if (values[1] <= values[0]).any():
            raise InputError(f"The region is empty: its upper corner {self.upper} mm must exceed its lower corner {self.lower} mm on every axis.")
        if rotation.shape != (9,) or not np.allclose(rotation.reshape(3, 3).T @ rotation.reshape(3, 3), np.eye(3), atol=1e-4):
            raise InputError(f"The axes of a region must be nine numbers of three perpendicular directions, got {self.axes}.")
        object.__setattr__(self, "lower", tuple(float(v) for v in values[0]))
        object.__setattr__(self, "upper", tuple(float(v) for v in values[1]))
        object.__setattr__(self, "axes", tuple(float(v) for v in rotation))

    @property
    def rotation(self) -> NDArray[np.float64]:
        """(3, 3) array: the axes as columns."""
        return np.array(self.axes).reshape(3, 3)

    @property
    def tilt(self) -> float:
        """Largest angle in degrees between an axis and its anatomical axis."""
        return float(np.degrees(np.arccos(np.clip(np.diag(self.rotation), -1, 1))).max())

    def along(self, rotation: ArrayLike) -> Box:
        """The smallest box along other axes (columns of a (3, 3) array) that holds this one; this one where the axes are the same."""
        matrix = np.asarray(rotation, float)
        if np.allclose(matrix, self.rotation, atol=1e-9):
            return self
        corners = _corners(np.array(self.lower), np.array(self.upper)) @ (matrix.T @ self.rotation).T
        return Box(tuple(corners.min(0)), tuple(corners.max(0)), tuple(matrix.ravel()))

    @classmethod
    def parse(cls, text: str) -> Box:
        """Read ``x0,y0,z0,x1,y1,z1`` in mm; the two corners may come in any order.

        Raises
        ------
        InputError
            If the text is not six numbers.
        """
        try:
            numbers = np.array([float(part) for part in text.split(",")]).reshape(2, 3)
        except ValueError:
            raise InputError(f"ROI {text!r} is not six numbers: write x0,y0,z0,x1,y1,z1 in mm.") from None
        return cls(tuple(numbers.min(0)), tuple(numbers.max(0)))

    def to_slices(self, volume: Volume) -> tuple[slice, slice, slice]:
        """Voxel block of `volume` that holds every voxel whose centre lies in the box.

        Exact where the box lies along the volume's axes. All eight corners are mapped, so any other box over an oblique volume gives the block
        that contains it; the block is clipped to the volume.

        Raises
        ------
        InputError
            If the box and the volume do not overlap.
        """
        inverse = np.linalg.inv(volume.affine)
        corners = _corners(np.array(self.lower), np.array(self.upper)) @ (inverse[:3, :3] @ self.rotation).T + inverse[:3, 3]
        lower = np.maximum(np.ceil(corners.min(0) - 1e-6), 0).astype(int)
        upper = np.minimum(np.floor(corners.max(0) + 1e-6) + 1, volume.shape).astype(int)
        if (upper <= lower).any():
            box = volume.box()
            extent = f"{_mm(box.lower)} to {_mm(box.upper)} mm"
            raise InputError(f"The region {_mm(self.lower)} to {_mm(self.upper)} mm lies outside {volume.name}, which spans {extent}.")
        x, y, z = (slice(int(a), int(b)) for a, b in zip(lower, upper, strict=True))
        return x, y, z


def check_affine(affine: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return `affine` as float64 after checking that it can place voxels.

    Raises
    ------
    InputError
        If it is not 4x4, not finite, or singular.
    """
    matrix = np.array(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError(f"{name}: the voxel-to-world matrix is not a finite 4x4 matrix; repair the header's sform or qform.")
    if not np.allclose(matrix[3], (0, 0, 0, 1)):
        raise InputError(f"{name}: the last row of the voxel-to-world matrix is {matrix[3].tolist()}, it must be [0, 0, 0, 1].")
    sizes = np.linalg.norm(matrix[:3, :3], axis=0)
    if (sizes <= 0).any() or abs(np.linalg.det(matrix[:3, :3])) < 1e-6 * sizes.prod():
        raise InputError(f"{name}: the voxel-to-world matrix is singular (voxel axes missing or parallel); repair the header's sform or qform.")
    return matrix


def axcodes(affine: NDArray[np.float64]) -> str:
    """Anatomical axis order of an affine as letters, for example ``LPS``."""
    return "".join(aff2axcodes(affine))


def _corners(lower: NDArray[Any], upper: NDArray[Any]) -> NDArray[np.float64]:
    return np.array(list(itertools.product(*zip(lower, upper, strict=True))), float)


def _mm(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:.1f}" for v in values) + ")"
