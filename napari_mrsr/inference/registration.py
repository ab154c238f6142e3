"""Rigid registration of one contrast to another, by mutual information (SimpleITK)."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_mrsr.errors import Cancelled, InputError
from napari_mrsr.evaluation.align import require_finite
from napari_mrsr.evaluation.fit import Fit, extents, resample
from napari_mrsr.grid import SamplingGrid
from napari_mrsr.intensity import foreground_mask, require_content
from napari_mrsr.volume import AXES, Volume

Floats = NDArray[np.float64]
Start = Literal["world", "centres"]

LARGE_SHIFT_MM = 10.0
LARGE_ANGLE_DEG = 10.0
UNNOTICED = 1.0
"""A rejected motion below this many mm and degrees is no cause for a warning: the volumes fit already."""
MIN_VOXELS = 4

LEVELS = (8.0, 4.0, 2.0, 1.0)
"""Working voxels, coarse to fine, in mm for heads (in proportion for smaller objects)."""
REGION_VOXEL = 4.0
"""Voxels of the foreground, likewise."""
HEAD_MM = 200.0
"""Size of the field of view of a head."""
OUTER, INNER = 8.0, 15.0
"""mm for heads. The coarsest level looks this far around the object, the others only this deep inside it: skin moves, fat is displaced between
contrasts (chemical shift), and a brain mask leaves edges of its own."""
SAMPLES = 50_000
BINS = 48
SPREAD = 0.9
"""Spacing of the points compared, in working voxels: no simple ratio, so that they fall everywhere between the samples of both volumes."""

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""RAS to LPS (SimpleITK's world) and back."""


@dataclass(frozen=True, eq=False)
class Registration:
    """A rigid motion that brings one volume onto another.

    Attributes
    ----------
    matrix : (4, 4) float64 array
        RAS world mm to RAS world mm: takes a point of the moving volume to where it belongs in the fixed volume.
    shift_mm : float
        How far the moving volume travels at the centre of the fixed volume's foreground, mm.
    shift_vector : tuple of float
        The same as a vector to the right, front and top, mm.
    angle_deg : float
        Angle of the rotation, degrees.
    metric_before, metric_after : float
        Mutual information (nats, larger fits better) inside the fixed volume's foreground, at the positions of the files and after the motion.
    seconds : float
        Time taken.
    warning : str
        A sentence where the user should look at the result before trusting it, else empty.
    """

    matrix: Floats
    shift_mm: float
    shift_vector: tuple[float, float, float]
    angle_deg: float
    metric_before: float
    metric_after: float
    seconds: float
    warning: str = ""

    @property
    def summary(self) -> str:
        """What was done, in one sentence."""
        if np.array_equal(self.matrix, np.eye(4)):
            return "The reference was not moved: no other position fits the input better."
        return f"The reference was moved by {self.shift_mm:.1f} mm and turned by {self.angle_deg:.1f} degrees to fit the input."

    @property
    def record(self) -> dict[str, Any]:
        """JSON-ready provenance."""
        return {
            "matrix": self.matrix.tolist(),
            "shift_mm": self.shift_mm,
            "angle_deg": self.angle_deg,
            "metric_before": self.metric_before,
            "metric_after": self.metric_after,
            "warning": self.warning,
        }


def moved(reference: Volume, registration: Registration) -> Volume:
    """Reference at its registered position: its affine changes, its voxels do not; the record tells how it was moved."""
    return reference.replace(affine=registration.matrix @ reference.affine).with_record(registration=registration.record)


def register_rigid(
    moving: Volume,
    fixed: Volume,
    *,
    start: Start = "world",
    threads: int = 1,
    seed: int = 1,
    cancelled: Callable[[], bool] = lambda: False,
) -> Registration:
    """Find the rigid motion that brings one contrast onto another of the same person.

    Mattes mutual information, three rotations about the centre of the fixed volume's foreground and three shifts, regular-step descent over
    four resolutions (about 8, 4, 2 and 1 mm for heads), linear interpolation; motions of heads up to about 30 mm and 20 degrees are found.
    Points are compared on a lattice unlike either volume's, because mutual information prefers positions at which slices of equal spacing are
    interpolated alike. If the motion found fits no better than the files' own positions, those are kept. Equal inputs give equal results (with
    one thread, exactly).

    Parameters
    ----------
    moving, fixed : Volume
        Any contrasts, grids and orientations, slices of any thickness; scanner units. The reference is the moving one, the low-resolution
        input the fixed one.
    start : {"world", "centres"}
        Begin at the files' world positions, or with the centres of the two foregrounds on each other.
    threads : int
        Threads for SimpleITK.
    seed : int
        Of the points compared.
    cancelled : callable
        Asked in every iteration; True stops the registration.

    Returns
    -------
    Registration

    Raises
    ------
    InputError
        If a volume is constant, not finite or has fewer than 4 voxels along an axis, or the volumes have too little in common in space.
    Cancelled
        If `cancelled` answered True.
    """
    began = time.perf_counter()
    if start not in get_args(Start):
        raise InputError(f"Unknown start {start!r}: use one of {', '.join(get_args(Start))}.")
    for volume in (moving, fixed):
        _require_registrable(volume)
    if start == "world" and _apart(moving, fixed):
        raise InputError(f"{moving.name} and {fixed.name} do not overlap: {extents(moving, fixed)}; start from their centres or repair a header.")
    moving_image, fixed_image = _without_shear(moving), _without_shear(fixed)
    unit = min(1.0, float(np.prod(_extent(fixed_image))) ** (1 / 3) / HEAD_MM)
    coarse = _shrunk(fixed_image, REGION_VOXEL * unit)
    foreground = _foreground(coarse)
    centre = _centre(coarse)
    offset = _centre(_shrunk(moving_image, REGION_VOXEL * unit)) - centre if start == "centres" else np.zeros(3)
    motion = _Motion(centre, offset)
    try:
        with _threads(threads):
            for level, voxel in enumerate(LEVELS):
                region = coarse.replace(data=_region(coarse, foreground, unit, whole=level == 0))
                search = _Search(_shrunk(fixed_image, voxel * unit), _shrunk(moving_image, voxel * unit), region, voxel * unit, seed)
                search.run(motion, 1e-3 * unit, cancelled)
            before, after = search.information(None), search.information(motion)
    except RuntimeError as error:
        reason = "they share too little space, or one of them has no contrast there"
        raise InputError(f"{moving.name} could not be registered to {fixed.name}: {reason}.") from error
    return _conclude(motion.matrix(), centre, before, after, time.perf_counter() - began)


class _Motion:
    """A rigid motion as SimpleITK's transform (fixed to moving points in LPS), and as a matrix from moving to fixed points in RAS."""

    def __init__(self, centre: Floats, offset: Floats) -> None:
        sitk = _simpleitk()

        self.transform = sitk.Euler3DTransform()
        self.transform.SetCenter((_LPS[:3, :3] @ centre).tolist())
        self.transform.SetTranslation((_LPS[:3, :3] @ offset).tolist())

    def matrix(self) -> Floats:
        centre, shift = np.array(self.transform.GetCenter()), np.array(self.transform.GetTranslation())
        to_moving = np.eye(4)
        to_moving[:3, :3] = np.reshape(self.transform.GetMatrix(), (3, 3))
        to_moving[:3, 3] = centre + shift - to_moving[:3, :3] @ centre
        return np.asarray(np.linalg.inv(_LPS @ to_moving @ _LPS), np.float64)


class _Search:
    """One resolution level."""

    def __init__(self, fixed: Volume, moving: Volume, region: Volume, voxel: float, seed: int) -> None:
        self.fixed, self.voxel, self.seed = fixed, voxel, seed
        self.share = float(region.data.mean())
        self.images = _image(_clipped(fixed)), _image(_clipped(moving))
        sitk = _simpleitk()
        self.method = sitk.ImageRegistrationMethod()
        self.method.SetMetricAsMattesMutualInformation(BINS)
        self.method.SetInterpolator(sitk.sitkLinear)
        # By default the metric's derivative comes from images blurred by the slice thickness: the search then ends beside the optimum.
        self.method.SetMetricUseFixedImageGradientFilter(False)
        self.method.SetMetricUseMovingImageGradientFilter(False)
        self.method.SetMetricFixedMask(_image(region))

    def run(self, motion: _Motion, precision: float, cancelled: Callable[[], bool]) -> None:
        """Move towards more mutual information, in steps from one working voxel down to `precision` mm."""
        stopped = cancelled()

        def ask() -> None:
            nonlocal stopped
            if cancelled():
                stopped = True
                self.method.StopRegistration()

        if not stopped:
            points = self._compare_at(self.voxel * SPREAD)
            self.method.SetMetricSamplingStrategy(self.method.RANDOM)
            self.method.SetMetricSamplingPercentage(min(1.0, SAMPLES / (self.share * points)), self.seed)
            self.method.SetOptimizerAsRegularStepGradientDescent(self.voxel, precision, 100, 0.6, 1e-6)
            self.method.SetOptimizerScalesFromPhysicalShift()
            self.method.SetInitialTransform(motion.transform, True)
            self.method.AddCommand(_simpleitk().sitkIterationEvent, ask)
            self.method.Execute(*self.images)
        if stopped:
            raise Cancelled("The registration was stopped; nothing was moved.")

    def information(self, motion: _Motion | None) -> float:
        """Mutual information at evenly spread points of the region; None for the files' own positions, 0 where nothing overlaps there."""
        self._compare_at(float(np.prod(_extent(self.fixed)) * self.share / (4 * SAMPLES)) ** (1 / 3))
        self.method.SetInitialTransform(motion.transform if motion else _simpleitk().Euler3DTransform(), True)
        try:
            return -float(self.method.MetricEvaluate(*self.images))
        except RuntimeError:
            if motion:
                raise
            return 0.0

    def _compare_at(self, spacing: float) -> int:
        """Compare at the points of a lattice that fills the fixed volume; their number is returned."""
        counts = np.maximum(1, _extent(self.fixed) // spacing).astype(int)
        lattice = self.fixed.affine.copy()
        lattice[:3, :3] *= spacing / np.array(self.fixed.voxel_size)
        lattice[:3, 3] += (lattice[:3, :3] - self.fixed.affine[:3, :3]).sum(1) / 2
        size, origin, direction = _geometry(lattice)
        self.method.SetVirtualDomain(counts.tolist(), origin, size, direction)
        return int(counts.prod())


def _conclude(matrix: Floats, centre: Floats, before: float, after: float, seconds: float) -> Registration:
    shift, vector, angle = _size(matrix, centre)
    if after > before:
        large = shift > LARGE_SHIFT_MM or angle > LARGE_ANGLE_DEG
        warning = f"The reference had to be moved by {shift:.1f} mm and turned by {angle:.1f} degrees: check that it fits the input." if large else ""
        return Registration(matrix, shift, vector, angle, before, after, seconds, warning)
    lost = shift > UNNOTICED or angle > UNNOTICED
    warning = "Registration found no position that fits better; the reference stays where its file puts it: check that it fits." if lost else ""
    return Registration(np.eye(4), 0.0, (0.0, 0.0, 0.0), 0.0, before, before, seconds, warning)


def _size(matrix: Floats, centre: Floats) -> tuple[float, tuple[float, float, float], float]:
    """Length and vector of the travel that ends at `centre`, and the angle turned."""
    x, y, z = (float(v) for v in centre - np.linalg.solve(matrix, [*centre, 1])[:3])
    turn = matrix[:3, :3]
    # The arc tangent keeps its precision at small angles, the arc cosine of the trace alone does not.
    sine = np.linalg.norm([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    return float(np.linalg.norm([x, y, z])), (x, y, z), float(np.degrees(np.arctan2(sine, np.trace(turn) - 1)))


def _geometry(affine: Floats) -> tuple[list[float], list[float], list[float]]:
    """Spacing, origin and direction in SimpleITK's sense."""
    matrix = _LPS @ affine
    sizes = np.linalg.norm(matrix[:3, :3], axis=0)
    return sizes.tolist(), matrix[:3, 3].tolist(), (matrix[:3, :3] / sizes).ravel().tolist()


def _image(volume: Volume) -> Any:
    sitk = _simpleitk()

    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.data.T))
    spacing, origin, direction = _geometry(volume.affine)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return image


def _clipped(volume: Volume) -> Volume:
    """Few very bright voxels would leave the histogram of mutual information with a few bins for all others."""
    low, high = np.percentile(volume.data, (0.1, 99.8))
    return volume.replace(data=np.clip(volume.data, low, high)) if low < high else volume


def _shrunk(volume: Volume, voxel: float) -> Volume:
    """Means of blocks of about `voxel` mm, float32; axes keep 8 voxels where they have as many."""
    factors = [max(1, min(round(voxel / size), n // 8)) for size, n in zip(volume.voxel_size, volume.shape, strict=True)]
    grid = SamplingGrid.from_fine(volume.shape, factors, "edges")
    (a, b, c), (i, j, k) = grid.coarse_shape, factors
    blocks = volume.data[: a * i, : b * j, : c * k].reshape(a, i, b, j, c, k)
    return volume.replace(data=blocks.mean((1, 3, 5), dtype=np.float32), affine=grid.coarse_affine(volume.affine))


def _region(volume: Volume, foreground: NDArray[np.bool_], unit: float, whole: bool) -> NDArray[np.uint8]:
    """Where volumes are compared: the object and its surroundings, or its inside as deep as leaves a fair part of it."""
    if foreground.all():
        return foreground.view(np.uint8)
    if whole:
        near = ndimage.distance_transform_edt(~foreground, volume.voxel_size) <= OUTER * unit
        return np.asarray(near).view(np.uint8)
    depth = ndimage.distance_transform_edt(foreground, volume.voxel_size)
    for margin in (INNER, INNER / 2, INNER / 4):
        inside = np.asarray(depth > margin * unit)
        if inside.sum() >= foreground.sum() / 4:
            return inside.view(np.uint8)
    return foreground.view(np.uint8)


def _foreground(volume: Volume) -> NDArray[np.bool_]:
    mask = foreground_mask(volume.data)
    # Empty where the numbers are mostly negative: everything counts then.
    return mask if mask.any() else ~mask


def _centre(volume: Volume) -> Floats:
    return np.asarray(volume.affine[:3, :3] @ np.argwhere(_foreground(volume)).mean(0) + volume.affine[:3, 3])


def _extent(volume: Volume) -> Floats:
    return np.array(volume.shape) * volume.voxel_size


def _apart(one: Volume, other: Volume) -> bool:
    a, b = one.box(), other.box()
    return any(p >= s or r >= q for p, q, r, s in zip(a.lower, a.upper, b.lower, b.upper, strict=True))


def _require_registrable(volume: Volume) -> None:
    require_finite(volume)
    require_content(volume.data, volume.name)
    for letter, n in zip(AXES, volume.shape, strict=True):
        if n < MIN_VOXELS:
            raise InputError(f"{volume.name} has only {n} voxels along {letter}; at least {MIN_VOXELS} are needed to register it.")


def _without_shear(volume: Volume) -> Volume:
    """Volume on a lattice of right angles (SimpleITK's derivatives need them): itself, or resampled where its axes are sheared."""
    sizes = np.array(volume.voxel_size)
    axes = volume.affine[:3, :3] / sizes
    if np.abs(axes.T @ axes - np.eye(3)).max() < 1e-3:
        return volume
    left, _, right = np.linalg.svd(axes)
    straight = left @ right
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (np.array(volume.shape) - 1)
    along = (corners @ volume.affine[:3, :3].T + volume.affine[:3, 3]) @ straight
    affine = np.eye(4)
    affine[:3, :3] = straight * sizes
    affine[:3, 3] = straight @ along.min(0)
    shape = np.ceil(np.ptp(along, axis=0) / sizes - 1e-6).astype(int) + 1
    frame = Volume(np.broadcast_to(np.float32(0), shape), affine, name=volume.name)
    fit = Fit.of(frame, volume)
    data = resample(volume.data, fit.matrix, frame.shape, straight=False)
    inside = fit.covers([slice(0, n) for n in frame.shape])
    return frame.replace(data=data if inside is None else np.where(inside, data, np.float32(0)))


def _simpleitk() -> Any:
    """Imported on first use: it takes a fifth of a second."""
    return importlib.import_module("SimpleITK")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Threads of all SimpleITK; a registration's own setting does not reach its metric, and sums of several threads vary in their last digits."""
    process = _simpleitk().ProcessObject
    usual = process.GetGlobalDefaultNumberOfThreads()
    process.SetGlobalDefaultNumberOfThreads(count)
    try:
        yield
    finally:
        process.SetGlobalDefaultNumberOfThreads(usual)
