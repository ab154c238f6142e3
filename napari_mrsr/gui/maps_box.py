"""Choosing which internal maps of the network a run keeps."""

from __future__ import annotations

from typing import Any

from napari_mrsr.gui.map_layers import map_infos
from napari_mrsr.gui.tick_list import Entry, TickList
from napari_mrsr.networks import MapInfo


class MapsBox(TickList):
    """Collapsible list of the dense maps that a model can show."""

    def __init__(self) -> None:
        super().__init__("Maps", "maps")
        self.setToolTip("Maps of the inside of the network, to be kept beside the result")
        self.infos: dict[str, MapInfo] = {}

    def wait(self, model: str) -> None:
        """The maps of another model are being asked for."""
        self._list({}, f"Asking which maps {model} can show..." if model else "", "")

    def show_description(self, description: dict[str, Any]) -> None:
        """Offer the maps of a model, as the worker described it."""
        infos = map_infos(description)
        dense = {name: info for name, info in infos.items() if info.kind == "dense"}
        if description["problem"]:
            text = f"The maps of {description['model']} are not known: {description['problem']}"
        elif dense:
            text = "Ticked maps are kept beside the result, hidden at first."
        elif infos:
            text = f"{description['model']} has no maps of the whole volume; the attention probe shows those of a chosen voxel."
        else:
            text = f"{description['model']} has no internal maps."
        self._list(dense, text)

    def _list(self, infos: dict[str, MapInfo], text: str, empty: str = " (none)") -> None:
        self.infos = infos
        self.offer([Entry(i.name, i.title, f"<b>{i.title}.</b> {i.description}") for i in infos.values()], text, empty)
