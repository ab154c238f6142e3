"""Window and level: what is black and what is white, for one image or for all that can share it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from napari.experimental import unlink_layers
from napari.layers import Layer

from napari_mrsr.errors import InputError
from napari_mrsr.gui.compare.view import Content, View
from napari_mrsr.gui.layers import robust_limits
from napari_mrsr.gui.session import Role
from napari_mrsr.gui.windows import LINKED, link_windows
from napari_mrsr.volume import Volume

Limits = tuple[float, float]
DRAG_PIXELS = 300.0
"""Drag of this many pixels doubles the width, or moves the level by half of it."""
SAME_UNITS = 4.0
"""Images whose bright ends differ by more than this factor are not in the same units."""

STANDARD = "Standard"
"""Preset of the automatic window."""


def _percentiles(low: float, high: float) -> Callable[[Volume], Limits]:
    def limits(volume: Volume) -> Limits:
        sample = volume.data[::2, ::2, ::2]
        inside = sample[sample > 0.02 * float(sample.max())]
        a, b = (float(v) for v in np.percentile(inside if inside.size else sample, (low, high)))
        return (a, b) if b > a else (a, a + 1.0)

    return limits


def _full(volume: Volume) -> Limits:
    low, high = float(volume.data.min()), float(volume.data.max())
    return (low, high) if high > low else (low, low + 1.0)


PRESETS: dict[str, tuple[Callable[[Volume], Limits], str]] = {
    STANDARD: (robust_limits, "0 (or the 1st percentile where negative) to 1.1 times the 99.5th percentile of the central half"),
    "Full range": (_full, "Lowest to highest voxel"),
    "Tissue": (_percentiles(2, 98), "2nd to 98th percentile of the voxels above 2 % of the maximum"),
    "Dark half": (_percentiles(0, 50), "Lower half of the tissue's intensities: fluid on T1, white matter on T2"),
    "Bright half": (_percentiles(50, 100), "Upper half of the tissue's intensities"),
}
"""Name: limits of a volume, and what they are."""


class Windows:
    """Windows of the images of a view, and of the maps made of them.

    The window of an image is its layer's contrast limits, so napari's own controls show the same; linked images share theirs through
    napari's layer links. Maps have one window per kind, for all images.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._maps: dict[str, Limits] = {}
        self._bright: weakref.WeakKeyDictionary[Layer, tuple[Volume, float]] = weakref.WeakKeyDictionary()
        self._linked: weakref.WeakSet[Layer] = weakref.WeakSet()
        self._state: tuple[Any, ...] = ()

    def kind(self) -> str:
        """Name of the map on view; empty for images."""
        look = self._view.look
        return "" if look.content is Content.IMAGE else look.difference if look.content is Content.DIFFERENCE else "gradient"

    def map_limits(self, automatic: Callable[[], Limits]) -> Limits:
        """Window of the map on view: chosen by hand, else automatic."""
        chosen = self._maps.get(self.kind())
        return chosen if chosen is not None else automatic()

    def set_map(self, limits: Limits | None) -> None:
        """Choose the window of the map on view; None for the automatic one."""
        if limits is None:
            self._maps.pop(self.kind(), None)
        else:
            self._maps[self.kind()] = limits
        self._view.changed.emit()

    def group(self, layer: Layer) -> list[Layer]:
        """Layers that share the window of a layer: itself alone, or all of its kind and units."""
        if not self._view.look.linked:
            return [layer]
        images, reference = self._view.images(), self._view.session.layer(Role.REFERENCE)
        if layer is reference or layer not in images:
            return [layer]
        return [other for other in images if other is layer or (other is not reference and self._same_units(layer, other))]

    def set(self, layer: Layer, limits: Limits) -> None:
        """Give a layer, and those linked to it, a window; sliders are widened to hold it."""
        group = self.group(layer)
        for one in group:
            low, high = one.contrast_limits_range
            one.contrast_limits_range = (min(low, limits[0]), max(high, limits[1]))
            one.contrast_limits = limits
        self._view.changed.emit()

    def drag(self, start: Limits, right: float, up: float, symmetric: bool = False) -> Limits:
        """Window after a drag of so many pixels from one: right widens it, up makes the image brighter (a symmetric one keeps its middle)."""
        width, level = start[1] - start[0], (start[0] + start[1]) / 2
        level -= 0.0 if symmetric else 0.5 * width * up / DRAG_PIXELS
        width *= 2.0 ** (right / DRAG_PIXELS)
        return level - width / 2, level + width / 2

    def preset(self, layer: Layer, name: str) -> None:
        """Give a layer, and those linked to it, the window of a preset of :data:`PRESETS` (of its own values)."""
        with suppress(InputError):  # its pane says what is wrong with it
            self.set(layer, PRESETS[name][0](self._view.session.volume(layer)))

    def link(self) -> None:
        """Make napari's own links agree with the view, where its images have changed: one window for all, or each its own."""
        main, reference = self._view.main, self._view.session.layer(Role.REFERENCE)
        state = self._view.look.linked, id(main), id(reference), *map(id, self._view.images())
        if state == self._state:
            return
        self._state = state
        self.unlink()
        group = [] if main is None else self.group(main)
        if main is not None and len(group) > 1:
            link_windows(group, tuple(main.contrast_limits))
            self._linked.update(group)

    def unlink(self) -> None:
        """Take away the links made here."""
        if len(self._linked) > 1:
            unlink_layers(self._linked, LINKED)
        self._linked.clear()

    def _same_units(self, one: Layer, other: Layer) -> bool:
        try:
            a, b = self._bright_end(one), self._bright_end(other)
        except InputError:
            return False
        return a > 0 and b > 0 and 1 / SAME_UNITS <= a / b <= SAME_UNITS

    def _bright_end(self, layer: Layer) -> float:
        """Upper end of a layer's robust window."""
        volume = self._view.session.volume(layer)
        known = self._bright.get(layer)
        if known is None or known[0].data is not volume.data:
            known = self._bright[layer] = volume, robust_limits(volume)[1]
        return known[1]
