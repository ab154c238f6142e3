"""Volumes to napari layers and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Image, Layer

from napari_mrsr.errors import InputError
from napari_mrsr.gui import _compat
from napari_mrsr.volume import Volume

KEY = "napari_mrsr"
"""Entry of a layer's metadata that is ours: the Volume, its role, its run."""
SNAP_DEGREES = 0.01
"""Rotations smaller than this are header rounding; napari would treat them as oblique slicing."""


def volume_to_layer(volume: Volume, **options: Any) -> tuple[Any, dict[str, Any], str]:
    """Layer data tuple of a volume.

    Parameters
    ----------
    volume : Volume
        RAS+ array, so no axis-permuting affine ever reaches napari.
    **options
        Keyword arguments of ``viewer.add_image`` that replace the defaults; `metadata` entries join ours.

    Returns
    -------
    tuple
        (data, options, "image") with affine in mm, contrast limits of the robust range, and the volume itself in the metadata.
    """
    extra = options.pop("metadata", {})
    settings: dict[str, Any] = {
        "name": volume.name,
        "affine": display_affine(volume),
        "units": "mm",
        "axis_labels": ("R", "A", "S"),
        "contrast_limits": robust_limits(volume),
        "metadata": {KEY: {"volume": volume, **extra}},
    }
    return volume.data, {**settings, **options}, "image"


def display_affine(volume: Volume) -> np.ndarray:
    """Affine for the viewer: the volume's own, freed of rotations below 0.01 degrees."""
    affine = volume.affine.copy()
    if 0 < volume.obliquity < SNAP_DEGREES:
        centre = (np.array(volume.shape) - 1) / 2
        middle = affine[:3, :3] @ centre
        straight = np.diag(volume.voxel_size)
        affine[:3, 3] += middle - straight @ centre
        affine[:3, :3] = straight
    return affine


def robust_limits(volume: Volume) -> tuple[float, float]:
    """Contrast limits: 0 (or the 1st percentile where it is negative) to 1.1 times the 99.5th percentile of a central, thinned sample."""
    inner = volume.data[tuple(slice(n // 4, max(n // 4 + 1, n - n // 4), max(1, n // 64)) for n in volume.shape)]
    low, high = (float(v) for v in np.percentile(inner, (1, 99.5)))
    low, high = min(0.0, low), high + 0.1 * abs(high)
    if high <= low:
        high = float(volume.data.max())
    return (low, high) if high > low else (low, low + 1.0)


def layer_to_volume(layer: Layer) -> Volume:
    """Volume of an image layer; our own layers give back the volume they were made from, header facts included.

    Raises
    ------
    InputError
        If the layer is not a 3D single-channel image.
    """
    if not isinstance(layer, Image):
        raise InputError(f"{layer.name} is not an image layer.")
    if layer.rgb:
        raise InputError(f"{layer.name} is a colour image; a grey-scale volume is needed.")
    if layer.multiscale:
        raise InputError(f"{layer.name} is a multiscale image; load the full-resolution volume.")
    if layer.ndim != 3:
        raise InputError(
            f"{layer.name} has {layer.ndim} dimensions; a 3D volume is needed" + (" (split the stack first)." if layer.ndim > 3 else ".")
        )
    known = layer.metadata.get(KEY, {}).get("volume")
    affine = layer_affine(layer)
    if isinstance(known, Volume) and known.data is layer.data and np.allclose(display_affine(known), affine, atol=1e-4):
        return known
    data = np.asarray(layer.data)
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        raise InputError(f"{layer.name} holds NaN or infinite values; replace them before use.")
    return Volume(data, affine, name=layer.name)


def layer_affine(layer: Layer) -> np.ndarray:
    """Voxel index to world mm of a layer with three dimensions, whatever its scale, shift and affine are made of."""
    origin = np.array(layer.data_to_world((0.0, 0.0, 0.0)))
    affine = np.eye(4)
    affine[:3, 3] = origin
    for axis in range(3):
        affine[:3, axis] = np.array(layer.data_to_world(np.eye(3)[axis])) - origin
    return affine


def sliced_axis(viewer: Any) -> int:
    """World axis across the slice on screen."""
    dims = viewer.dims
    # Volumes lie along the last three axes; one of those may be a slider that was turned into a side of the screen.
    return max(0, int(dims.order[-3]) - (dims.ndim - 3)) if dims.ndim >= 3 else 0


def face_axial(viewer: Any) -> None:
    """Show axial slices the radiological way: patient's front up, right side on the left."""
    viewer.dims.order = (2, 1, 0) if viewer.dims.ndim == 3 else viewer.dims.order
    _compat.camera(viewer).orientation2d = ("up", "left")
    viewer.dims.axis_labels = ("R", "A", "S") if viewer.dims.ndim == 3 else viewer.dims.axis_labels
    bar = _compat.scale_bar(viewer)
    bar.visible = True
