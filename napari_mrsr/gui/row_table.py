"""Tables of numbers per image: read-only, one row chosen, as high as their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qtpy.QtCore import Qt
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

NOTHING = "–"
MOST_ROWS = 8
"""Rows shown without scrolling."""
LONGEST_NAME = 16


class ReadTable(QTableWidget):
    """Base of the tables: rows named on the left, nothing to edit."""

    def __init__(self, resize: QHeaderView.ResizeMode) -> None:
        super().__init__()
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setTabKeyNavigation(False)
        across, down = self.horizontalHeader(), self.verticalHeader()
        assert across is not None
        assert down is not None
        self.across, self.down = across, down
        across.setSectionResizeMode(resize)
        across.setSectionsClickable(False)
        down.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)  # type: ignore[arg-type]

    def fit(self, below: int = 0) -> None:
        """As high as its rows, up to :data:`MOST_ROWS`, and a few px `below` them."""
        shown = sum(self.rowHeight(row) for row in range(min(self.rowCount(), MOST_ROWS)))
        self.setFixedHeight(self.across.sizeHint().height() + shown + 2 * self.frameWidth() + below)


def short(name: str) -> str:
    """Name cut in the middle where it is long: both ends tell images apart."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"


class RowTable(ReadTable):
    """A few fixed columns that share the width.

    Parameters
    ----------
    columns : mapping of str to str
        Titles and their tooltips.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        super().__init__(QHeaderView.ResizeMode.Stretch)
        self._abouts = tuple(columns.values())
        self.setColumnCount(len(columns))
        self.setWordWrap(False)
        for column, (title, about) in enumerate(columns.items()):
            item = QTableWidgetItem(title)
            item.setToolTip(about)
            self.setHorizontalHeaderItem(column, item)

    def fill(self, names: Sequence[str], cells: Sequence[Sequence[str]], problems: Sequence[str], icons: Sequence[QIcon] = ()) -> None:
        """Show rows; the chosen one stays chosen.

        Parameters
        ----------
        names : sequence of str
            Images; long ones are cut in the middle and whole in the tooltip.
        cells : sequence of sequences of str
            Row by row; an empty row shows dashes, as a single cell may.
        problems : sequence of str
            Why there are dashes: their tooltip.
        icons : sequence of QIcon, optional
            Beside the names.
        """
        self.blockSignals(True)
        current = max(0, self.currentRow())
        self.setRowCount(len(names))
        for row, (name, texts, problem) in enumerate(zip(names, cells, problems, strict=True)):
            head = QTableWidgetItem(short(name))
            head.setToolTip(name)
            if icons:
                head.setIcon(icons[row])
            self.setVerticalHeaderItem(row, head)
            for column, (text, about) in enumerate(zip(texts or [NOTHING] * len(self._abouts), self._abouts, strict=True)):
                item = QTableWidgetItem(text)
                item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                item.setToolTip(problem if text == NOTHING and problem else about)
                self.setItem(row, column, item)
        if names:
            self.setCurrentCell(min(current, len(names) - 1), 0)
        self.blockSignals(False)
        self.fit()
