"""A list that folds away, of things to tick."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QListWidget, QListWidgetItem
from superqt import QCollapsible

from napari_mrsr.gui.dock import note

ROWS = 6
"""List entries shown without scrolling."""


@dataclass(frozen=True)
class Entry:
    """One line of the list: what it stands for, its title, what is said about it (rich text)."""

    key: Hashable
    title: str
    about: str = ""


class TickList(QCollapsible):
    """Collapsible list of things to tick; ticks outlast a change of what is listed.

    Attributes
    ----------
    entries : QListWidget
    about : QLabel
        Explains the current entry, or the whole list.

    Signals
    -------
    changed()
        The user ticked or unticked an entry.
    """

    changed = Signal()

    def __init__(self, title: str, name: str) -> None:
        super().__init__(title, expandedIcon=QIcon(), collapsedIcon=QIcon())
        for layout in (self.layout(), self.content().layout()):
            if layout is not None:
                layout.setContentsMargins(0, 0, 0, 0)
        self._title, self._text, self._empty = title, "", " (none)"
        self._entries: tuple[Entry, ...] = ()
        self._ticked: set[Hashable] = set()
        self.entries = QListWidget()
        self.entries.setObjectName(name)
        self.entries.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.entries.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.about = note(name=f"{name} description")
        self.addWidget(self.entries)
        self.addWidget(self.about)
        self.entries.itemChanged.connect(self._toggled)
        self.entries.currentItemChanged.connect(lambda item, _: self._explain(item))
        self.toggled.connect(lambda _: self._retitle())
        self.offer(())

    def offer(self, entries: Sequence[Entry], text: str = "", empty: str = " (none)") -> None:
        """List other entries.

        Parameters
        ----------
        entries : sequence of Entry
        text : str
            Said about the whole list.
        empty : str
            Follows the title where nothing is listed.
        """
        self._entries, self._text, self._empty = tuple(entries), text, empty
        self.entries.blockSignals(True)
        self.entries.clear()
        for entry in self._entries:
            item = QListWidgetItem(entry.title, self.entries)
            item.setToolTip(f"<p>{entry.about}</p>" if entry.about else "")
            item.setCheckState(Qt.CheckState.Checked if entry.key in self._ticked else Qt.CheckState.Unchecked)
        self.entries.blockSignals(False)
        height = self.entries.sizeHintForRow(0) * min(len(entries), ROWS) + 2 * self.entries.frameWidth() + 4 if entries else 0
        self.entries.setFixedHeight(height)
        self.entries.setVisible(bool(entries))
        self._say(text)
        self._retitle()

    def chosen(self) -> tuple[Hashable, ...]:
        """What is ticked, of what is listed, in the order of the list."""
        return tuple(entry.key for entry in self._entries if entry.key in self._ticked)

    def tick(self, keys: Iterable[Hashable]) -> None:
        """Tick these, and nothing else."""
        self._ticked = set(keys)
        self.offer(self._entries, self._text, self._empty)

    def _say(self, text: str) -> None:
        self.about.setText(text)
        self.about.setVisible(bool(text))
        # The height of what is unfolded follows its content.
        if self.isExpanded():
            self.expand(animate=False)

    def _toggled(self, item: QListWidgetItem) -> None:
        key = self._entries[self.entries.row(item)].key
        (self._ticked.add if item.checkState() == Qt.CheckState.Checked else self._ticked.discard)(key)
        self._retitle()
        self.changed.emit()

    def _retitle(self) -> None:
        # The arrows of superqt are drawn in the colour of the default palette, which napari's themes do not keep.
        arrow = "\u25be" if self.isExpanded() else "\u25b8"
        count = f" ({len(self.chosen())} of {len(self._entries)})" if self._entries else self._empty
        self.setText(f"{arrow} {self._title}{count}")

    def _explain(self, item: QListWidgetItem | None) -> None:
        about = self._entries[self.entries.row(item)].about if item is not None else ""
        self._say(about or self._text)
