"""Maps to look at: where a candidate errs, and where an image changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.align import align
from napari_mrsr.evaluation.metrics import ssim_map
from napari_mrsr.intensity import intensity_range
from napari_mrsr.volume import AXES, Volume

GradientKind = Literal["physical", "cohft"]
Array = NDArray[Any]

COHFT_EPSILON = 1e-6
SAMPLES = 128
"""Values per axis that limits are taken from."""
EXTREME = 99.5
"""Percentile beyond which values may leave the colour range."""


@dataclass(frozen=True)
class Difference:
    """A way to show how a candidate differs from a reference.

    Attributes
    ----------
    name : str
        Name in commands and records.
    title : str
        For people.
    unit : str
        Of its values; empty where they have none.
    signed : bool
        Whether its colours are symmetric about 0.
    flat : str
        Title of its form for one slice: another one where the volume's map looks across slices, which a slice alone cannot.
    compute : callable
        (reference, candidate, mm between samples along each axis, range R) to the map; arrays of one shape, two or three axes, scanner units.
    """

    name: str
    title: str
    unit: str
    signed: bool
    flat: str
    compute: Callable[[Array, Array, tuple[float, ...], float], Array]


DIFFERENCES: Mapping[str, Difference] = MappingProxyType(
    {
        d.name: d
        for d in (
            Difference("signed", "signed error", "scanner units", True, "signed error", lambda y, x, *_: x - y),
            Difference("absolute", "absolute error", "scanner units", False, "absolute error", lambda y, x, *_: np.abs(x - y)),
            Difference("squared", "squared error", "scanner units squared", False, "squared error", lambda y, x, *_: np.square(x - y)),
            Difference("ssim", "local SSIM", "", False, "in-plane local SSIM", lambda y, x, _, data_range: ssim_map(y, x, data_range)),
            Difference(
                "gradient", "gradient error", "scanner units per mm", True, "in-plane gradient error",
                lambda y, x, spacing, _: physical_gradient(x, spacing) - physical_gradient(y, spacing),
            ),
        )
    }
)  # fmt: skip
"""Kinds of difference maps by name; signed ones are candidate minus reference, `gradient` that of :func:`physical_gradient`."""


def difference_slice(kind: str, reference: Array, candidate: Array, spacing: tuple[float, float], data_range: float) -> NDArray[np.float32]:
    """Difference map of one slice.

    Parameters
    ----------
    kind : str
        Name in :data:`DIFFERENCES`. Errors are those of the volume's map exactly; `ssim` and `gradient` are their in-plane forms (windows and
        slopes within the slice).
    reference, candidate : (W, H) arrays
        The same slice of two images on one lattice, scanner units.
    spacing : two floats
        mm between samples along each axis of the arrays.
    data_range : float
        R of the convention in scanner units; `ssim` alone uses it.

    Returns
    -------
    (W, H) float32 array
        Unit as in :data:`DIFFERENCES`.

    Raises
    ------
    InputError
        Unknown kind, or a slice smaller than the window of SSIM.
    """
    truth, image = np.asarray(reference, np.float32), np.asarray(candidate, np.float32)
    return np.asarray(_difference(kind).compute(truth, image, spacing, data_range), np.float32)


def shared_limits(maps: Sequence[Array], signed: bool) -> tuple[float, float]:
    """One colour range for several maps that few extreme values do not spoil.

    Parameters
    ----------
    maps : sequence of arrays
        Any shapes; values that are not finite do not count.
    signed : bool
        Whether the range is symmetric about 0.

    Returns
    -------
    low, high : float
        Low is at most 0 and high above it. Half a percent of the values of the widest map may lie outside.
    """
    ranges = [_limits(values, signed) for values in maps]
    low, high = min((a for a, _ in ranges), default=0.0), max((b for _, b in ranges), default=1.0)
    return (low, high) if high > low else (low, low + 1.0)


def _limits(values: Array, signed: bool) -> tuple[float, float]:
    thin = np.asarray(values[tuple(slice(None, None, max(1, n // SAMPLES)) for n in values.shape)], np.float64)
    thin = thin[np.isfinite(thin)]
    if not thin.size:
        return 0.0, 0.0
    if signed:
        size = np.abs(thin)
        span = float(np.percentile(size, EXTREME)) or float(size.max())
        return -span, span
    low, high = (float(v) for v in np.percentile(thin, (100 - EXTREME, EXTREME)))
    return min(0.0, low), high if high > 0 else float(thin.max())


def _difference(kind: str) -> Difference:
    try:
        return DIFFERENCES[kind]
    except KeyError:
        raise InputError(f"Unknown error map {kind!r}: use one of {', '.join(DIFFERENCES)}.") from None


def error_map(reference: Volume, candidate: Volume, kind: str = "signed", data_range: float | None = None) -> Volume:
    """Difference map of a candidate, voxel by voxel.

    Parameters
    ----------
    reference, candidate : Volume
        Scanner units; aligned exactly as :func:`~napari_mrsr.evaluation.compare.compare` does.
    kind : str
        Name in :data:`DIFFERENCES`; ``signed`` is candidate minus reference.
    data_range : float, optional
        R for ``ssim``; that of ``mrsr-1`` from the whole reference where missing.

    Returns
    -------
    Volume
        float32 on the common block of the reference's lattice, unit as in :data:`DIFFERENCES`; 0 in voxels of the block that a rotated
        candidate does not cover.

    Raises
    ------
    InputError
        Unknown kind, volumes that cannot be aligned, or a region too small for SSIM.
    """
    difference = _difference(kind)
    aligned = align(reference, [candidate])
    entry: dict[str, Any] = {"kind": difference.title, "unit": difference.unit, "reference": reference.name, "candidate": candidate.name}
    if kind == "ssim":
        data_range = intensity_range(reference.data) if data_range is None else data_range
        entry["data_range"] = data_range
    values = difference.compute(aligned.reference.data, aligned.candidates[0].data, aligned.reference.voxel_size, data_range or 1.0)
    data = np.asarray(values, np.float32)
    if aligned.covered is not None:
        data[~aligned.covered] = 0
    record = {**candidate.record, "map": {**entry, "resampled": aligned.resampled[0]}}
    return aligned.reference.replace(data=data, name=f"{candidate.name} {difference.title}", record=record)


def gradient_map(volume: Volume, kind: GradientKind = "physical", slice_axis: int | None = None) -> Volume:
    """Gradient magnitude.

    Parameters
    ----------
    volume : Volume
        Scanner units.
    kind : {"physical", "cohft"}
        ``physical``: ``sqrt(gx^2 + gy^2 + gz^2)`` of central differences per mm along the volume's three axes, one-sided at the edges
        (0 along an axis of one voxel). ``cohft``: the operator of Cohf-T and SPSR (NETWORKS 4.1) in every slice,
        ``sqrt(gx^2 + gy^2 + 1e-6)`` with ``gx(i) = x(i + 1) - x(i - 1)``, zeros outside the slice, no factor 1/2, voxel size ignored.
    slice_axis : int, optional
        Axis across slices for ``cohft``; :meth:`Volume.slice_axis` where None.

    Returns
    -------
    Volume
        float32, same lattice; scanner units per mm, or scanner units for ``cohft``.

    Raises
    ------
    InputError
        Unknown kind.
    """
    if kind == "physical":
        data, entry = physical_gradient(volume.data, volume.voxel_size), {"unit": "scanner units per mm"}
    elif kind == "cohft":
        axis = volume.slice_axis() if slice_axis is None else slice_axis
        data, entry = cohft_gradient(volume.data, axis), {"unit": "scanner units", "slice_axis": AXES[axis]}
    else:
        raise InputError(f"Unknown gradient map {kind!r}: use physical or cohft.")
    return volume.replace(data=data, name=f"{volume.name} {kind} gradient").with_record(map={"kind": f"{kind} gradient", **entry})


def physical_gradient(data: Array, spacing: tuple[float, ...]) -> NDArray[np.float32]:
    """Gradient magnitude per mm of an array with that many mm between samples, axis by axis; any number of axes."""
    image = np.asarray(data, np.float32)
    total = np.zeros_like(image)
    for axis, (size, step) in enumerate(zip(image.shape, spacing, strict=True)):
        if size > 1:
            total += np.gradient(image, step, axis=axis) ** 2
    return np.sqrt(total)


def cohft_gradient(data: Array, slice_axis: int) -> NDArray[np.float32]:
    """Gradient magnitude of each slice across `slice_axis` by the operator of Cohf-T; (X, Y, Z) to the same shape."""
    image = np.asarray(data, np.float32)
    total = np.full_like(image, COHFT_EPSILON)
    for axis in range(3):
        if axis != slice_axis:
            padded = np.pad(image, [(1, 1) if a == axis else (0, 0) for a in range(3)])
            total += (np.take(padded, range(2, padded.shape[axis]), axis) - np.take(padded, range(padded.shape[axis] - 2), axis)) ** 2
    return np.sqrt(total)
