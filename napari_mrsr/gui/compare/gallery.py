"""Images ready to be drawn: the slice on view of each layer, windowed and coloured."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.layers import Labels, Layer
from napari.utils import Colormap
from napari.utils.colormaps import ensure_colormap
from numpy.typing import NDArray
from qtpy.QtCore import QObject
from qtpy.QtGui import QImage

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.maps import DIFFERENCES, physical_gradient
from napari_mrsr.gui.compare.differences import Differences
from napari_mrsr.gui.compare.view import Content, View
from napari_mrsr.gui.compare.windowing import Limits, Windows
from napari_mrsr.gui.layers import layer_affine
from napari_mrsr.gui.map_layers import ERROR_COLOURS
from napari_mrsr.planes import Picture, Plane, Rect, Section, cut
from napari_mrsr.volume import Volume

KEPT = 64
"""Images that are kept for drawing again."""
UNSIGNED_COLOURS, GRADIENT_COLOURS = "inferno", "cividis"
MASK_COLOURS = Colormap([[0, 0, 0, 0], [0.25, 0.85, 0.75, 0.5]], name="mask")


NOWHERE = Rect(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A slice as it is drawn, or the sentence that stands in its place."""

    image: QImage | None = None
    place: Rect = NOWHERE
    index: int | None = None
    message: str = ""


class Gallery:
    """Draws the slice on view of any layer.

    Only slices on view are ever computed, and the last few are kept, so memory stays small whatever the size of the volumes.
    """

    def __init__(self, view: View, windows: Windows, parent: QObject) -> None:
        self._view, self._windows = view, windows
        self.differences = Differences(view.session, view.changed.emit, parent)
        self._kept: OrderedDict[tuple[Any, ...], tuple[Any, Drawn]] = OrderedDict()
        self._limits: dict[tuple[Any, ...], Limits] = {}

    def drawn(self, layer: Layer, plane: Plane) -> Drawn:
        """A layer's slice on view, as image, gradient or difference."""
        content = self._view.look.content
        try:
            volume = self._view.session.volume(layer)
        except InputError as error:
            return Drawn(message=str(error))
        if content is Content.DIFFERENCE:
            return self._difference(layer, plane)
        if content is Content.IMAGE:
            return self._image(layer, volume, plane)
        look = (self.limits(layer, plane), self.colours(), 1.0)
        return self._coloured(volume, plane, "gradient", look, lambda: self._gradient(volume, plane, self._depth(plane)))

    def overlay(self, layer: Layer, plane: Plane) -> Drawn:
        """A map or mask to be laid over the images, in its own colours."""
        if isinstance(layer, Labels):
            return self._labels(layer, plane)
        try:
            return self._image(layer, self._view.session.volume(layer), plane)
        except InputError as error:
            return Drawn(message=str(error))

    def limits(self, layer: Layer, plane: Plane) -> Limits:
        """Window of what is on view of a layer."""
        if self._view.look.content is Content.IMAGE:
            low, high = layer.contrast_limits
            return float(low), float(high)
        return self._windows.map_limits(lambda: self._automatic(plane))

    def colours(self) -> Any:
        """Colormap of the map on view."""
        if self._view.look.content is Content.GRADIENT:
            return ensure_colormap(GRADIENT_COLOURS)
        return ERROR_COLOURS if DIFFERENCES[self._view.look.difference].signed else ensure_colormap(UNSIGNED_COLOURS)

    def unit(self) -> str:
        """Unit of the map on view."""
        return "units per mm, in plane" if self._view.look.content is Content.GRADIENT else DIFFERENCES[self._view.look.difference].unit

    def forget(self) -> None:
        """Layers have changed: draw anew."""
        self._kept.clear()
        self._limits.clear()
        self.differences.forget()

    def _depth(self, plane: Plane) -> float:
        return float(self._view.space.coordinates(self._view.session.position)[plane.slice_axis])

    def _image(self, layer: Layer, volume: Volume, plane: Plane) -> Drawn:
        low, high = (float(v) for v in layer.contrast_limits)
        look = ((low, high), layer.colormap, float(layer.gamma))
        return self._coloured(volume, plane, "image", look, lambda: cut(volume, self._view.space, plane, self._depth(plane)))

    def _gradient(self, volume: Volume, plane: Plane, depth: float) -> Section | None:
        section = cut(volume, self._view.space, plane, depth)
        if section is None:
            return None
        values, place = section.picture.data, section.picture.place
        spacing = place.width / values.shape[0], place.height / values.shape[1]
        return Section(Picture(physical_gradient(values, spacing), place), section.index)

    def _difference(self, layer: Layer, plane: Plane) -> Drawn:
        against, kind = self._view.against, self._view.look.difference
        if against is None:
            return Drawn(message="No ground truth: choose an image under Against.")
        if layer is against:
            return Drawn(message="Differences are taken against this image.")
        pair = self.differences.pair(against, layer, self._view.space)
        if pair.candidate is None:
            return Drawn(message=pair.problem or f"Putting {layer.name} on the grid of {against.name}...")
        if self._difference_limits(plane) is None:
            return Drawn(message="Finding the range of the maps...")
        look = (self.limits(layer, plane), self.colours(), 1.0)
        make = lambda: self.differences.section(pair, kind, self._view.space, plane, self._depth(plane))  # noqa: E731
        try:
            return self._coloured(pair.candidate, plane, f"{kind} {id(pair.reference)}", look, make)
        except InputError as error:
            return Drawn(message=str(error))

    def _automatic(self, plane: Plane) -> Limits:
        """Window of a map over all images on view; found once, so that it stays the same from slice to slice."""
        look, shown = self._view.look, self._view.shown()
        if look.content is Content.DIFFERENCE:
            return self._difference_limits(plane) or ((-1.0, 1.0) if DIFFERENCES[look.difference].signed else (0.0, 1.0))
        key = (plane.name, *(id(layer) for layer in shown))
        if key not in self._limits:
            self._limits[key] = self._gradient_limits(shown, plane)
        return self._limits[key]

    def _difference_limits(self, plane: Plane) -> Limits | None:
        view, against = self._view, self._view.against
        pairs = [self.differences.pair(against, layer, self._view.space) for layer in view.shown() if against is not None and layer is not against]
        return self.differences.limits(pairs, view.look.difference, view.space, plane)

    def _gradient_limits(self, shown: list[Layer], plane: Plane) -> Limits:
        space, highest = self._view.space, 0.0
        for layer in shown:
            try:
                volume = self._view.session.volume(layer)
            except InputError:
                continue
            middle = float(space.extent(volume)[:, plane.slice_axis].mean())
            section = self._gradient(volume, plane, middle)
            if section is not None:
                highest = max(highest, float(np.nanpercentile(section.picture.data, 99.5)))
        return 0.0, highest or 1.0

    def _labels(self, layer: Labels, plane: Plane) -> Drawn:
        if layer.ndim != 3:
            return Drawn(message=f"{layer.name} is not 3D.")
        section = cut(Volume(layer.data, layer_affine(layer), name=layer.name), self._view.space, plane, self._depth(plane))
        if section is None:
            return Drawn()
        picture = section.picture
        # Labels are painted in place, so nothing of them is kept.
        return Drawn(paint(picture.data != 0, (0.0, 1.0), MASK_COLOURS, 1.0, self._view.look.radiological), picture.place, section.index)

    def _coloured(self, volume: Volume, plane: Plane, what: str, look: tuple[Limits, Any, float], make: Callable[[], Section | None]) -> Drawn:
        """Colour what `make` gives, or give what it gave before."""
        limits, colours, gamma = look
        space, mirrored = self._view.space, self._view.look.radiological
        # Kept entries hold their volume's array, so that no other array can take its identity.
        key = (
            id(volume.data),
            volume.affine.tobytes(),
            what,
            plane.name,
            self._depth(plane),
            space.rotation.tobytes(),
            limits,
            colours.name,
            gamma,
            mirrored,
        )
        if key not in self._kept:
            section = make()
            drawn = Drawn() if section is None else _drawn(section, limits, colours, gamma, mirrored)
            self._kept[key] = volume.data, drawn
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key][1]


def _drawn(section: Section, limits: Limits, colours: Any, gamma: float, mirrored: bool) -> Drawn:
    return Drawn(paint(section.picture.data, limits, colours, gamma, mirrored), section.picture.place, section.index)


def paint(data: NDArray[Any], limits: Limits, colours: Any, gamma: float = 1.0, mirrored: bool = True) -> QImage:
    """Colour a slice.

    Parameters
    ----------
    data : (across, up) array
        Values; NaN is left clear.
    limits : tuple of float
        Values of the first and the last colour.
    colours : napari Colormap
        Colours.
    gamma : float
        Exponent of values scaled to 0..1.
    mirrored : bool
        Whether the first column lies at the right.

    Returns
    -------
    QImage
        (up) x (across) pixels with the last row of `data` at the top.
    """
    turned = data.T[::-1, ::-1] if mirrored else data.T[::-1]
    values = np.asarray(turned, np.float32)
    low, high = limits
    steps = (values - np.float32(low)) * np.float32(255.0 / ((high - low) or 1.0))
    empty = np.isnan(steps)
    steps[empty] = 0
    # One look-up of 32-bit pixels, which QImage reads in the machine's own byte order.
    pixels = np.take(_table(colours, gamma), np.clip(steps, 0, 255).astype(np.uint8))
    pixels[empty] = 0
    rows, columns = pixels.shape
    return QImage(pixels.tobytes(), columns, rows, 4 * columns, QImage.Format.Format_ARGB32).copy()


def _table(colours: Any, gamma: float) -> NDArray[np.uint32]:
    rgba = np.round(255 * np.asarray(colours.map(np.linspace(0, 1, 256) ** gamma))).astype(np.uint32)
    return np.asarray(rgba[:, 3] << 24 | rgba[:, 0] << 16 | rgba[:, 1] << 8 | rgba[:, 2], np.uint32)
