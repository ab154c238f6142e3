"""Which panes there are, which images each holds, and where they lie on the board."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from napari.layers import Layer
from numpy.typing import NDArray
from qtpy.QtCore import QRectF

from napari_mrsr.errors import InputError
from napari_mrsr.gui.compare.frame import Frame, cells, fitting_zoom, grid
from napari_mrsr.gui.compare.view import Mode, View
from napari_mrsr.planes import Plane, Rect


@dataclass(frozen=True, eq=False)
class Pane:
    """One pane: an image, or two that are compared in it, cut along one plane."""

    layers: tuple[Layer, ...]
    plane: Plane
    frame: Frame


def arrange(view: View, area: QRectF) -> list[Pane]:
    """Panes of a view that fill an area of the board; none where there is nothing to show.

    All panes have the same zoom: that of the view, or the largest at which every plane of every image fits.
    """
    entries = _entries(view)
    bounds = _bounds(view)
    if not entries or bounds is None:
        return []
    planes = view.planes
    ratio = max(_place(bounds, plane).height / _place(bounds, plane).width for plane in planes)
    rows, columns, by_plane = _shape(len(entries), len(planes), area, ratio)
    places = cells(rows, columns, area)
    zoom = view.look.zoom or min(fitting_zoom(places[0], _place(bounds, plane)) for plane in planes)
    middle = bounds.mean(0) if view.centre is None else view.space.coordinates(view.centre)
    panes = []
    for number, layers in enumerate(entries):
        for p, plane in enumerate(planes):
            where = p * columns + number if by_plane else number * len(planes) + p
            frame = Frame(places[where], (float(middle[plane.across]), float(middle[plane.up])), zoom, view.look.radiological)
            panes.append(Pane(layers, plane, frame))
    return panes


def _entries(view: View) -> list[tuple[Layer, ...]]:
    if view.look.mode is Mode.PANES:
        return [(layer,) for layer in view.shown()]
    return [view.pair] if view.pair is not None else []


def _shape(images: int, planes: int, area: QRectF, ratio: float) -> tuple[int, int, bool]:
    """Rows, columns, and whether rows are planes (else, with several planes, rows are images)."""
    if planes == 1:
        rows, columns = grid(images, area.width(), area.height(), ratio)
        return rows, columns, False

    def size(rows: int, columns: int) -> float:
        return min(area.width() / columns, area.height() / rows / ratio)

    by_plane = size(planes, images) >= size(images, planes)
    return (planes, images, True) if by_plane else (images, planes, False)


def _bounds(view: View) -> NDArray[np.float64] | None:
    """(2, 3): lowest and highest coordinates of what is shown."""
    extents = []
    for layer in view.shown() or view.images():
        try:
            extents.append(view.space.extent(view.session.volume(layer)))
        except InputError:
            continue
    if not extents:
        return None
    lower, upper = np.min([e[0] for e in extents], 0), np.max([e[1] for e in extents], 0)
    return np.stack([lower, upper])


def _place(bounds: NDArray[np.float64], plane: Plane) -> Rect:
    return Rect(bounds[0, plane.across], bounds[1, plane.across], bounds[0, plane.up], bounds[1, plane.up])
