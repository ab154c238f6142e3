"""The table of candidates and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qtpy.QtCore import QSize, Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QFont
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidgetItem

from napari_mrsr.evaluation.comparison import Comparison, Result
from napari_mrsr.evaluation.export import DICE
from napari_mrsr.evaluation.metrics import METRICS
from napari_mrsr.evaluation.tissue import NOTE
from napari_mrsr.gui.metrics.style import SAMPLE, icon
from napari_mrsr.gui.row_table import NOTHING, ReadTable, short

BEST = "★"


@dataclass(frozen=True)
class Row:
    """One candidate: its name, what is said about it, what keeps it from being measured, its place in the comparison."""

    name: str
    about: str
    problem: str = ""
    place: int | None = None


class ScoreTable(ReadTable):
    """Candidates x metrics, best values bold with a star.

    Signals
    -------
    chosen(int)
        The user went to another row.
    """

    chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__(QHeaderView.ResizeMode.ResizeToContents)
        self.setObjectName("scores")
        self.setToolTip("Going to a row makes its layer the active one")
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setIconSize(QSize(*SAMPLE))
        self.down.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.across.setDefaultAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)  # type: ignore[arg-type]
        self.currentCellChanged.connect(self._moved)

    def fill(self, rows: Sequence[Row], comparison: Comparison | None, intervals: bool) -> None:
        """Show rows; those without a place in the comparison have dashes."""
        self.blockSignals(True)
        current = self.currentRow()
        with_dice = comparison is not None and any(r.dice for r in comparison.results)
        columns = [(m.title.replace(" [", "\n["), m.text) for m in METRICS.values()]
        columns += [(f"Dice\n{title}", NOTE) for title in DICE.values()] if with_dice else []
        self.clear()
        self.setColumnCount(len(columns))
        self.setRowCount(len(rows))
        for column, (title, text) in enumerate(columns):
            item = QTableWidgetItem(title)
            item.setToolTip(f"<p>{text}</p>")
            self.setHorizontalHeaderItem(column, item)
        for number, row in enumerate(rows):
            self._fill_row(number, row, comparison, intervals)
        if 0 <= current < len(rows):
            self.selectRow(current)
        self.blockSignals(False)
        bar = self.horizontalScrollBar()
        self.fit(bar.sizeHint().height() if bar is not None else 0)

    def _fill_row(self, number: int, row: Row, comparison: Comparison | None, intervals: bool) -> None:
        result = None if comparison is None or row.place is None else comparison.results[row.place]
        title = short(row.name) + ("\n(resampled)" if result and result.resampled else "\n(not measured)" if row.problem else "")
        head = QTableWidgetItem(icon(number), title)
        head.setToolTip("\n".join(part for part in (row.name, row.problem, row.about) if part))
        self.setVerticalHeaderItem(number, head)
        for column in range(self.columnCount()):
            text, tip, best = _cell(comparison, result, row.place, column, intervals)
            item = QTableWidgetItem(f"{BEST} {text}" if best else text)
            item.setToolTip(row.problem or tip)
            item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            font = QFont(self.font())
            font.setBold(best)
            item.setFont(font)
            self.setItem(number, column, item)

    def _moved(self, row: int, _column: int, former: int, _former_column: int) -> None:
        if row >= 0 and row != former:
            self.chosen.emit(row)


def _cell(comparison: Comparison | None, result: Result | None, place: int | None, column: int, intervals: bool) -> tuple[str, str, bool]:
    """Text, tooltip, and whether it is the best of its column."""
    if comparison is None or result is None:
        return NOTHING, "", False
    names = list(METRICS)
    if column >= len(names):
        tissue = list(DICE)[column - len(names)]
        values = [getattr(r.dice, tissue) if r.dice else -1.0 for r in comparison.results]
        own = values[place or 0]
        return (f"{own:.3f}" if result.dice else NOTHING), "", result.dice is not None and len(values) > 1 and own == max(values)
    name = names[column]
    text = result.cell(name) if intervals else METRICS[name].format(result.value(name))
    return text, _interval_text(comparison, result, name), comparison.best(name) == place


def _interval_text(comparison: Comparison, result: Result, metric: str) -> str:
    interval, form, best = result.intervals.get(metric), METRICS[metric].format, comparison.best(metric)
    if interval is None:
        return ""
    lines = [f"95 % over slices: {form(interval.low)} to {form(interval.high)}"]
    if interval.behind_low is not None and interval.behind_high is not None and best is not None:
        lines.append(f"minus {comparison.results[best].name}, same slices: {form(interval.behind_low)} to {form(interval.behind_high)}")
    return "\n".join(lines)
