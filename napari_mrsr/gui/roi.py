"""The region to work on: whole volume, slice on screen, or a box drawn in the viewer; always a box in world mm."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Shapes

from napari_mrsr.errors import InputError
from napari_mrsr.volume import AXES, Box, Volume

BOX_LAYER = "ROI box"


def sliced_axis(viewer: Any) -> int:
    """World axis across the slice on screen."""
    return int(viewer.dims.order[0])


def slice_box(viewer: Any, volume: Volume) -> Box:
    """Slab of one LR slice around the position on screen, as wide as the volume.

    Raises
    ------
    InputError
        If the slice on screen lies outside the volume.
    """
    axis = sliced_axis(viewer)
    position, half = float(viewer.dims.point[axis]), volume.voxel_size[axis] / 2
    whole = volume.box()
    if not whole.lower[axis] <= position <= whole.upper[axis]:
        raise InputError(f"The slice on screen ({AXES[axis]} = {position:.1f} mm) lies outside {volume.name}; move to a slice that shows it.")
    lower, upper = list(whole.lower), list(whole.upper)
    lower[axis], upper[axis] = position - half, position + half
    return Box(tuple(lower), tuple(upper))


def start_drawing(viewer: Any) -> Shapes:
    """Shapes layer in world mm, ready to draw a rectangle; an earlier one is used again."""
    layer = next((x for x in viewer.layers if isinstance(x, Shapes) and x.name == BOX_LAYER), None)
    if layer is None:
        layer = viewer.add_shapes(ndim=3, name=BOX_LAYER, edge_color="yellow", face_color=[1, 1, 0, 0.08], edge_width=0.6, units="mm")
    viewer.layers.selection.active = layer
    layer.mode = "add_rectangle"
    return layer


def drawn_box(viewer: Any, depth: float) -> Box:
    """Box of the last rectangle drawn, `depth` mm thick around the slice it was drawn on.

    Raises
    ------
    InputError
        If nothing was drawn yet.
    """
    layer = next((x for x in viewer.layers if isinstance(x, Shapes) and x.name == BOX_LAYER), None)
    if layer is None or len(layer.data) == 0:
        raise InputError("No box is drawn yet: press Draw box and drag a rectangle over the image.")
    corners = np.array([layer.data_to_world(point) for point in layer.data[-1]])
    lower, upper = corners.min(0), corners.max(0)
    flat = int(np.argmin(upper - lower))
    middle = (lower[flat] + upper[flat]) / 2
    lower[flat], upper[flat] = middle - depth / 2, middle + depth / 2
    if (upper - lower).min() <= 0:
        raise InputError("The drawn box is empty: drag a rectangle over the image.")
    return Box(tuple(lower), tuple(upper))
