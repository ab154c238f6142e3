"""The layers of the attention probe: one map laid over the image it belongs to, and a ring around the chosen voxel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from napari.layers import Image, Layer, Points

from napari_mrsr.gui.layers import KEY, volume_to_layer
from napari_mrsr.gui.map_layers import MAP_OPACITY, attention_sentence, explain, map_limits, overlay_settings
from napari_mrsr.gui.session import Session
from napari_mrsr.networks import MapInfo
from napari_mrsr.volume import Volume

MARKER = "probed voxel"
MARKER_VOXELS, MARKER_PIXELS = 4, (0, 60)
"""Diameter of the ring in LR voxels, and its bounds on the screen. With a least size napari draws a dot at the world's origin on all other slices."""
MARKER_COLOUR = "#00e5ff"
MAP, RING = "map", "ring"


class ProbeOverlay:
    """At most one map layer and one marker layer in the viewer of a session, found again by their metadata."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def map(self) -> Image | None:
        """The map's layer, if it is there."""
        return self._find(MAP)

    @property
    def marker(self) -> Points | None:
        """The marker's layer, if it is there."""
        return self._find(RING)

    def show(self, volume: Volume, info: MapInfo, name: str, target: Layer | None) -> str:
        """Put a map above the image it belongs to, in place of the last one.

        Parameters
        ----------
        volume, info : Volume, MapInfo
            The map.
        name : str
            Of its layer.
        target : Layer or None
            Image it belongs to; None: on top.

        Returns
        -------
        str
            What can be said of it in a sentence.
        """
        limits = map_limits(volume.data, info)
        data, meta, _ = volume_to_layer(
            volume, name=name, metadata={"overlay": MAP, "map": info.name, "description": info.description}, **overlay_settings(info, limits)
        )
        with self._same_selection():
            layer = self.map
            if layer is None:
                layer = self._session.viewer.add_image(data, **meta)
            else:
                self._refill(layer, data, meta)
            explain(layer, info, volume.data)
            self._put_above(layer, target)
        return attention_sentence(volume, info)

    def mark(self, at: Sequence[float], voxel_size: Sequence[float]) -> None:
        """Put the ring around a world position; it shows on slices up to half a voxel away."""
        data = np.array(at)[None] / np.array(voxel_size)
        with self._same_selection():
            marker = self.marker
            if marker is None:
                self._session.viewer.add_points(
                    data,
                    name=MARKER,
                    scale=voxel_size,
                    units="mm",
                    axis_labels=("R", "A", "S"),
                    symbol="disc",
                    size=MARKER_VOXELS,
                    canvas_size_limits=MARKER_PIXELS,
                    face_color="transparent",
                    border_color=MARKER_COLOUR,
                    border_width=0.15,
                    metadata={KEY: {"overlay": RING}},
                )
            else:
                marker.scale = voxel_size
                marker.data = data
                self._put_above(marker, None)

    def clear_map(self) -> None:
        """Take the map out of the viewer."""
        self._remove(self.map)

    def clear(self) -> None:
        """Take map and marker out of the viewer."""
        self._remove(self.map)
        self._remove(self.marker)

    def cover_sentence(self, target: Layer | None) -> str:
        """What keeps the map from being seen on its image; empty where nothing does."""
        layers, layer = self._session.viewer.layers, self.map
        if layer is None or target is None:
            return ""
        above = list(layers)[layers.index(layer) + 1 :]
        opaque = [x for x in above if isinstance(x, Image) and x.visible and x.opacity > MAP_OPACITY and x.blending != "additive"]
        if opaque:
            return f"It lies on {target.name}, beneath {opaque[-1].name}."
        return "" if target.visible else f"It lies on {target.name}, which is hidden."

    def show_alone(self, target: Layer | None) -> None:
        """Hide all layers but map, marker and the image they lie on."""
        if self.map is None:
            return
        kept = [x for x in (self.map, self.marker, target) if x is not None]
        for layer in self._session.viewer.layers:
            layer.visible = any(layer is x for x in kept)

    def _find(self, part: str) -> Any:
        found = [layer for layer in self._session.viewer.layers if layer.metadata.get(KEY, {}).get("overlay") == part]
        return found[0] if found else None

    def _remove(self, layer: Layer | None) -> None:
        if layer is not None:
            with self._same_selection():
                self._session.viewer.layers.remove(layer)

    @staticmethod
    def _refill(layer: Image, data: Any, meta: dict[str, Any]) -> None:
        """Another map into the layer that is there; what the user changed of its look stays while it shows the same map."""
        same = layer.metadata[KEY]["map"] == meta["metadata"][KEY]["map"]
        layer.data = data
        layer.affine = meta["affine"]
        layer.metadata = meta["metadata"]
        layer.name = meta["name"]
        low, high = meta["contrast_limits"]
        layer.contrast_limits_range = (low, high)
        layer.contrast_limits = (low, high)
        if not same:
            layer.colormap = meta["colormap"]
            layer.visible = True

    def _put_above(self, layer: Layer, target: Layer | None) -> None:
        layers = self._session.viewer.layers
        wanted = layers.index(target) + 1 if target is not None and target in layers else len(layers)
        if layers.index(layer) != wanted:
            layers.move(layers.index(layer), wanted)

    @contextmanager
    def _same_selection(self) -> Iterator[None]:
        """The layer that the user works with stays the selected one."""
        layers = self._session.viewer.layers
        selected = set(layers.selection)
        try:
            yield
        finally:
            layers.selection.clear()
            layers.selection.update({x for x in selected if x in layers})
