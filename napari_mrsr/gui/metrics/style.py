"""How a candidate looks in curve and table: one colour and one dash pattern each."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QColor, QIcon, QPainter, QPen, QPixmap

COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#0072b2")
"""Okabe and Ito's colours that show on dark and on light ground."""
DASHES = (Qt.PenStyle.SolidLine, Qt.PenStyle.DashLine, Qt.PenStyle.DotLine, Qt.PenStyle.DashDotLine, Qt.PenStyle.DashDotDotLine)
WIDTH = 2
SAMPLE = (32, 12)


def pen(index: int) -> Any:
    """Line of a candidate: no two of the first thirty are alike."""
    line = QPen(QColor(COLOURS[index % len(COLOURS)]))
    line.setWidth(WIDTH)
    line.setCosmetic(True)
    line.setStyle(DASHES[index % len(DASHES)])
    return line


def icon(index: int) -> QIcon:
    """A short piece of a candidate's line."""
    width, height = SAMPLE
    pixmap = QPixmap(width, height)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setPen(pen(index))
    painter.drawLine(0, height // 2, width, height // 2)
    painter.end()
    return QIcon(pixmap)
