"""Maps to look at: where a candidate errs, and where an image changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.align import align
from napari_mrsr.volume import AXES, Volume

ErrorKind = Literal["signed", "absolute", "squared"]
GradientKind = Literal["physical", "cohft"]
Array = NDArray[Any]

COHFT_EPSILON = 1e-6

ERROR_KINDS: Mapping[str, tuple[Callable[[Array], Array], str]] = MappingProxyType(
    {"signed": (lambda d: d, "scanner units"), "absolute": (np.abs, "scanner units"), "squared": (np.square, "scanner units squared")}
)
"""Function of candidate minus reference, and unit."""


def error_map(reference: Volume, candidate: Volume, kind: ErrorKind = "signed") -> Volume:
    """Error of a candidate, voxel by voxel.

    Parameters
    ----------
    reference, candidate : Volume
        Scanner units; aligned exactly as :func:`~napari_mrsr.evaluation.compare.compare` does.
    kind : {"signed", "absolute", "squared"}
        ``signed`` is candidate minus reference.

    Returns
    -------
    Volume
        float32 on the common block of the reference's lattice, scanner units (their square for ``squared``); 0 in voxels of the block
        that a rotated candidate does not cover.

    Raises
    ------
    InputError
        Unknown kind, or volumes that cannot be aligned.
    """
    if kind not in ERROR_KINDS:
        raise InputError(f"Unknown error map {kind!r}: use one of {', '.join(ERROR_KINDS)}.")
    function, unit = ERROR_KINDS[kind]
    aligned = align(reference, [candidate])
    data = np.asarray(function(aligned.candidates[0].data - aligned.reference.data), np.float32)
    if aligned.covered is not None:
        data[~aligned.covered] = 0
    entry = {"kind": f"{kind} error", "unit": unit, "reference": reference.name, "candidate": candidate.name, "resampled": aligned.resampled[0]}
    return aligned.reference.replace(data=data, name=f"{candidate.name} {kind} error", record={**candidate.record, "map": entry})


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
