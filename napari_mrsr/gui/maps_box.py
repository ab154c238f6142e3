"""Choosing which internal maps of the network a run keeps."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QListWidget, QListWidgetItem
from superqt import QCollapsible

from napari_mrsr.gui.dock import note
from napari_mrsr.gui.map_layers import map_infos
from napari_mrsr.networks import MapInfo

TITLE = "Maps"
ROWS = 6
"""List entries shown without scrolling."""


class MapsBox(QCollapsible):
    """Collapsible list of the dense maps that a model can show; ticks outlast a change of model."""

    def __init__(self) -> None:
        super().__init__(TITLE, expandedIcon=QIcon(), collapsedIcon=QIcon())
        for layout in (self.layout(), self.content().layout()):
            if layout is not None:
                layout.setContentsMargins(0, 0, 0, 0)
        self.infos: dict[str, MapInfo] = {}
        self._ticked: set[str] = set()
        self.entries = QListWidget()
        self.entries.setObjectName("maps")
        self.entries.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.entries.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.about = note(name="map description")
        self.addWidget(self.entries)
        self.addWidget(self.about)
        self.entries.itemChanged.connect(self._changed)
        self.entries.currentItemChanged.connect(lambda item, _: self._explain(item))
        self.toggled.connect(lambda _: self._retitle())
        self.wait("")

    def wait(self, model: str) -> None:
        """The maps of another model are being asked for."""
        self._fill({}, f"Asking which maps {model} can show..." if model else "", "")

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
        self._fill(dense, text)

    def chosen(self) -> tuple[str, ...]:
        """Names of the ticked maps."""
        return tuple(name for name in self.infos if name in self._ticked)

    def _fill(self, infos: dict[str, MapInfo], text: str, empty: str = " (none)") -> None:
        self.infos, self._text, self._empty = infos, text, empty
        self.entries.blockSignals(True)
        self.entries.clear()
        for info in infos.values():
            item = QListWidgetItem(info.title, self.entries)
            item.setData(Qt.ItemDataRole.UserRole, info.name)
            item.setToolTip(f"<p><b>{info.title}.</b> {info.description}</p>")
            item.setCheckState(Qt.CheckState.Checked if info.name in self._ticked else Qt.CheckState.Unchecked)
        self.entries.blockSignals(False)
        height = self.entries.sizeHintForRow(0) * min(len(infos), ROWS) + 2 * self.entries.frameWidth() + 4 if infos else 0
        self.entries.setFixedHeight(height)
        self.entries.setVisible(bool(infos))
        self.about.setText(text)
        self._retitle()
        self._fit()

    def _fit(self) -> None:
        """The height of what is unfolded follows its content."""
        if self.isExpanded():
            self.expand(animate=False)

    def _changed(self, item: QListWidgetItem) -> None:
        name = item.data(Qt.ItemDataRole.UserRole)
        (self._ticked.add if item.checkState() == Qt.CheckState.Checked else self._ticked.discard)(name)
        self._retitle()

    def _retitle(self) -> None:
        # The arrows of superqt are drawn in the colour of the default palette, which napari's themes do not keep.
        arrow = "\u25be" if self.isExpanded() else "\u25b8"
        count = f" ({len(self.chosen())} of {len(self.infos)})" if self.infos else self._empty
        self.setText(f"{arrow} {TITLE}{count}")

    def _explain(self, item: QListWidgetItem | None) -> None:
        info = self.infos.get(item.data(Qt.ItemDataRole.UserRole)) if item is not None else None
        self.about.setText(f"<b>{info.title}.</b> {info.description}" if info else self._text)
        self._fit()
