"""What is written and drawn over the images: letters, names, cross-hair, bars, boxes and lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QFont, QFontMetricsF, QImage, QLinearGradient, QPainter, QPen

from napari_mrsr.gui.compare.frame import Frame
from napari_mrsr.planes import Plane, Rect, Space, edge_letters
from napari_mrsr.volume import Box

INK, SHADE = QColor(255, 255, 255), QColor(0, 0, 0, 200)
CROSS, BOX, LINE, DIVIDER = QColor(86, 180, 233, 200), QColor(240, 228, 66), QColor(230, 159, 0), QColor(255, 255, 255, 220)
"""Colours of Okabe and Ito, told apart by all common kinds of colour vision."""
NICE = (1, 2, 5, 10, 20, 50, 100, 200)
"""Lengths of scale bars, mm."""
HANDLE = 3.0


def write(painter: QPainter, at: QRectF, flags: Any, text: str, size: float = 9.0, bold: bool = False) -> None:
    """Write a line in a rectangle, white with a dark rim, cut off at its end where it does not fit."""
    font = _font(painter, size, bold)
    painter.setFont(font)
    short = QFontMetricsF(font).elidedText(text, Qt.TextElideMode.ElideRight, at.width())
    painter.setPen(SHADE)
    for x, y in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        painter.drawText(at.translated(x, y), int(flags), short)
    painter.setPen(INK)
    painter.drawText(at, int(flags), short)


def figures(value: float) -> str:
    """A number of three digits, or whole below 100,000: no powers of ten where people would write none."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e5 else f"{value:.3g}"


def letters(painter: QPainter, frame: Frame, plane: Plane, lower: float) -> None:
    """Anatomical letters at the four edges of a pane, the top one `lower` px below its edge."""
    left, right, bottom, top = edge_letters(plane, frame.mirrored)
    pane = frame.pane.adjusted(4, 2, -4, -2)
    align = Qt.AlignmentFlag
    for text, flags in (
        (left, align.AlignLeft | align.AlignVCenter),
        (right, align.AlignRight | align.AlignVCenter),
        (bottom, align.AlignHCenter | align.AlignBottom),
        (top, align.AlignHCenter | align.AlignTop),
    ):
        write(painter, pane.adjusted(0, lower, 0, 0) if text == top else pane, flags, text, bold=True)


def title(painter: QPainter, pane: QRectF, lines: Sequence[str], halved: int, right: bool = False) -> int:
    """Lines in a pane's upper left (or right) corner; returns how many there are.

    The first one, a name, is bold and cut off at its end. The others are numbers: where one does not fit it is broken at its double space,
    or left out. The first `halved` lines leave room for what else stands at their height.
    """
    align = Qt.AlignmentFlag
    side = align.AlignRight if right else align.AlignLeft
    row = 0
    for number, line in enumerate(lines):
        # The letter in the middle of the upper edge keeps its place.
        width = pane.width() / 2 - 15 if number < halved else pane.width() - 10
        for text in _unbroken(painter, line, width) if number else [line]:
            at = QRectF(pane.right() - 5 - width if right else pane.left() + 5, pane.top() + 3 + 14 * row, width, 15)
            write(painter, at, side | align.AlignTop, text, 8.0 if number else 9.0, number == 0)
            row += 1
    return row


def scale_bar(painter: QPainter, frame: Frame) -> None:
    """A bar of a round number of mm in the lower left corner."""
    fitting = [mm for mm in NICE if mm * frame.zoom <= frame.pane.width() / 3]
    if not fitting:
        return
    length = fitting[-1] * frame.zoom
    x, y = frame.pane.left() + 8, frame.pane.bottom() - 8
    painter.fillRect(QRectF(x - 1, y - 1, length + 2, 5), SHADE)
    painter.fillRect(QRectF(x, y, length, 3), INK)
    align = Qt.AlignmentFlag
    write(painter, QRectF(x, y - 16, max(length, 60), 14), align.AlignLeft | align.AlignBottom, f"{fitting[-1]} mm", 8.0)


def crosshair(painter: QPainter, frame: Frame, plane: Plane, space: Space, position: Sequence[float]) -> None:
    """Lines through the position, open in the middle."""
    coordinates = space.coordinates(position)
    at = frame.point(coordinates[plane.across], coordinates[plane.up])
    painter.setPen(QPen(CROSS, 1))
    pane, gap = frame.pane, 8.0
    if pane.left() <= at.x() <= pane.right():
        painter.drawLine(QPointF(at.x(), pane.top()), QPointF(at.x(), at.y() - gap))
        painter.drawLine(QPointF(at.x(), at.y() + gap), QPointF(at.x(), pane.bottom()))
    if pane.top() <= at.y() <= pane.bottom():
        painter.drawLine(QPointF(pane.left(), at.y()), QPointF(at.x() - gap, at.y()))
        painter.drawLine(QPointF(at.x() + gap, at.y()), QPointF(pane.right(), at.y()))


def box_outline(frame: Frame, plane: Plane, space: Space, box: Box, position: Sequence[float]) -> tuple[QRectF, bool]:
    """Rectangle of a box in a pane (of the one around it where its axes are not the space's), and whether the slice on view passes through it."""
    shown, depth = box.along(space.rotation), space.coordinates(position)[plane.slice_axis]
    return frame.rect(flat_box(shown, plane)), bool(shown.lower[plane.slice_axis] <= depth <= shown.upper[plane.slice_axis])


def flat_box(box: Box, plane: Plane) -> Rect:
    """A box seen from across a plane."""
    (left, right), (bottom, top) = ((box.lower[a], box.upper[a]) for a in (plane.across, plane.up))
    return Rect(left, right, bottom, top)


def box(painter: QPainter, outline: QRectF, inside: bool, editable: bool) -> None:
    """A region of interest: full where the slice passes through it, dashed where it lies before or behind."""
    pen = QPen(BOX, 1.5 if inside else 1.0)
    pen.setStyle(Qt.PenStyle.SolidLine if inside else Qt.PenStyle.DashLine)
    painter.setPen(pen)
    painter.setBrush(Qt.BrushStyle.NoBrush)
    painter.drawRect(outline)
    if editable and inside:
        for x in (outline.left(), outline.center().x(), outline.right()):
            for y in (outline.top(), outline.center().y(), outline.bottom()):
                if (x, y) != (outline.center().x(), outline.center().y()):
                    painter.fillRect(QRectF(x - HANDLE, y - HANDLE, 2 * HANDLE, 2 * HANDLE), BOX)


def line(painter: QPainter, frame: Frame, plane: Plane, space: Space, ends: Sequence[Sequence[float]]) -> None:
    """A profile line, seen from across the slice."""
    painter.setPen(QPen(LINE, 1.5))
    places = [frame.point(c[plane.across], c[plane.up]) for c in (space.coordinates(end) for end in ends)]
    painter.drawLine(*places)
    painter.setBrush(LINE)
    for place in places:
        painter.drawEllipse(place, HANDLE, HANDLE)
    painter.setBrush(Qt.BrushStyle.NoBrush)


def divider(painter: QPainter, frame: Frame, x: float) -> None:
    """The swipe's divider with its handle."""
    painter.setPen(QPen(DIVIDER, 1.5))
    painter.drawLine(QPointF(x, frame.pane.top()), QPointF(x, frame.pane.bottom()))
    painter.setBrush(DIVIDER)
    painter.drawEllipse(QPointF(x, frame.pane.bottom() - 40), 5, 12)
    painter.setBrush(Qt.BrushStyle.NoBrush)


def colour_bar(painter: QPainter, area: QRectF, colours: Any, limits: tuple[float, float], unit: str) -> None:
    """A vertical bar with its two ends, the middle and the unit."""
    bar = QRectF(area.left() + 6, area.top() + 18, 12, area.height() - 36)
    fill = QLinearGradient(bar.bottomLeft(), bar.topLeft())
    for share in np.linspace(0, 1, 33):
        r, g, b, a = (float(v) for v in np.asarray(colours.map([share]))[0])
        fill.setColorAt(float(share), QColor.fromRgbF(r, g, b, a))
    painter.fillRect(bar, fill)
    painter.setPen(INK)
    painter.drawRect(bar)
    align = Qt.AlignmentFlag
    low, high = limits
    for share, value in ((0.0, low), (0.5, (low + high) / 2), (1.0, high)):
        place = QRectF(bar.right() + 4, bar.bottom() - share * bar.height() - 8, area.right() - bar.right() - 4, 16)
        write(painter, place, align.AlignLeft | align.AlignVCenter, figures(value), 8.0)
    painter.save()
    painter.translate(area.right() - 4, bar.center().y())
    painter.rotate(-90)
    write(painter, QRectF(-bar.height() / 2, -14, bar.height(), 14), align.AlignHCenter | align.AlignBottom, unit, 8.0)
    painter.restore()


def message(painter: QPainter, pane: QRectF, text: str) -> None:
    """A sentence in the middle of a pane."""
    painter.setPen(INK)
    align = Qt.AlignmentFlag
    painter.drawText(pane.adjusted(12, 30, -12, -30), int(align.AlignCenter) | int(Qt.TextFlag.TextWordWrap), text)


def picture(painter: QPainter, frame: Frame, image: QImage, place: Any) -> None:
    """A slice at its place in mm."""
    painter.drawImage(frame.rect(place), image)


def _font(painter: QPainter, size: float, bold: bool = False) -> QFont:
    font = QFont(painter.font())
    font.setPointSizeF(size)
    font.setBold(bold)
    return font


def _unbroken(painter: QPainter, line: str, width: float) -> list[str]:
    """A line of numbers whole, else in two at its double space, else not at all."""
    metrics = QFontMetricsF(_font(painter, 8.0))
    forms = ([line], line.split("  "))
    return next((parts for parts in forms if all(metrics.horizontalAdvance(part) <= width for part in parts)), [])
