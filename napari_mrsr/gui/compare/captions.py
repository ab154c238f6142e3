"""What is written in a pane's corners."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from napari.layers import Layer

from napari_mrsr.errors import InputError
from napari_mrsr.gui.compare.arrangement import Pane
from napari_mrsr.gui.compare.gallery import Gallery
from napari_mrsr.gui.compare.overlays import figures
from napari_mrsr.gui.compare.view import Content, Mode, View
from napari_mrsr.planes import Plane
from napari_mrsr.volume import Volume

NARROW = 230.0
"""Panes of less px have no room for a second column of text."""


def captions(view: View, gallery: Gallery, pane: Pane) -> tuple[list[str], list[str]]:
    """Lines for the upper left and the upper right corner of a pane."""
    look = view.look
    if len(pane.layers) == 1:
        layer = pane.layers[0]
        narrow = pane.frame.pane.width() < NARROW
        return [layer.name, *_facts(view, layer, pane.plane)], [] if narrow else _window(view, gallery, layer, pane.plane)
    first, second = pane.layers
    if look.mode is Mode.SWIPE:
        return [first.name, *_facts(view, first, pane.plane)], [second.name, *_facts(view, second, pane.plane)]
    if look.mode is Mode.FLICKER:
        layer = pane.layers[look.flipped]
        return [f"{'B' if look.flipped else 'A'}: {layer.name}", *_facts(view, layer, pane.plane)], _window(view, gallery, layer, pane.plane)
    if look.mode is Mode.BLEND:
        return [first.name, f"{100 * (1 - look.blend):.0f} %"], [second.name, f"{100 * look.blend:.0f} %"]
    return [first.name, f"fields of {look.tile:g} mm"], [second.name]


def slice_text(view: View, layer: Layer, plane: Plane) -> str:
    """Number of the slice of a layer's own that is on view, from 1; empty where it has none there."""
    try:
        volume = view.session.volume(layer)
    except InputError:
        return ""
    index = voxel(volume, view.session.position)
    number, count = index[plane.slice_axis] + 1, volume.shape[plane.slice_axis]
    return f"slice {number}/{count}" if 1 <= number <= count else "no slice here"


def voxel(volume: Volume, point: Sequence[float]) -> tuple[int, int, int]:
    """Index of the voxel that holds a world point; it may lie outside the volume."""
    inverse = np.linalg.inv(volume.affine)
    x, y, z = (int(v) for v in np.floor(inverse[:3, :3] @ np.asarray(point, float) + inverse[:3, 3] + 0.5 + 1e-9))
    return x, y, z


def _facts(view: View, layer: Layer, plane: Plane) -> list[str]:
    lines = [slice_text(view, layer, plane)]
    caption = view.session.caption(layer)
    return [*lines, caption] if caption else lines


def _window(view: View, gallery: Gallery, layer: Layer, plane: Plane) -> list[str]:
    if view.look.content is not Content.IMAGE:
        return []
    low, high = gallery.limits(layer, plane)
    return [f"W {figures(high - low)}", f"L {figures((low + high) / 2)}"]
