"""Where millimetres lie on the screen: placement of panes on the board and of pictures in panes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qtpy.QtCore import QPointF, QRectF

from napari_mrsr.planes import Rect

GAP = 3.0
"""Pixels between panes."""
MARGIN = 0.96
"""Share of a pane that fitted images fill."""


@dataclass(frozen=True)
class Frame:
    """How a plane lies in a pane.

    Attributes
    ----------
    pane : QRectF
        The pane on the board, px.
    centre : tuple of float
        In-plane coordinates (across, up) in the middle of the pane, mm.
    zoom : float
        px per mm, the same both ways: aspect is always physical.
    mirrored : bool
        Whether coordinates across grow to the left.
    """

    pane: QRectF
    centre: tuple[float, float]
    zoom: float
    mirrored: bool

    def point(self, across: float, up: float) -> QPointF:
        """Place of in-plane coordinates on the board."""
        side = -1 if self.mirrored else 1
        middle = self.pane.center()
        return QPointF(middle.x() + side * self.zoom * (across - self.centre[0]), middle.y() - self.zoom * (up - self.centre[1]))

    def coordinates(self, at: QPointF) -> tuple[float, float]:
        """In-plane coordinates (across, up) of a place on the board."""
        side = -1 if self.mirrored else 1
        middle = self.pane.center()
        return self.centre[0] + side * (at.x() - middle.x()) / self.zoom, self.centre[1] - (at.y() - middle.y()) / self.zoom

    def rect(self, place: Rect) -> QRectF:
        """Rectangle in mm as one on the board."""
        return QRectF(self.point(place.left, place.bottom), self.point(place.right, place.top)).normalized()


def fitting_zoom(pane: QRectF, place: Rect) -> float:
    """Zoom (px per mm) at which a rectangle just fits into a pane."""
    return MARGIN * min(pane.width() / max(place.width, 1e-6), pane.height() / max(place.height, 1e-6))


def grid(count: int, width: float, height: float, ratio: float) -> tuple[int, int]:
    """Rows and columns for `count` panes whose pictures have that height over width, such that pictures come out largest."""

    def size(columns: int) -> float:
        rows = math.ceil(count / columns)
        return min(width / columns, height / rows / ratio)

    columns = max(range(1, count + 1), key=lambda n: (size(n), -n))
    return math.ceil(count / columns), columns


def cells(rows: int, columns: int, area: QRectF) -> list[QRectF]:
    """Panes of a grid, row by row."""
    width, height = (area.width() + GAP) / columns, (area.height() + GAP) / rows
    return [QRectF(area.left() + c * width, area.top() + r * height, width - GAP, height - GAP) for r in range(rows) for c in range(columns)]
