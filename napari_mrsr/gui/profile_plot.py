"""Profiles of several images in one plot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QSize, Qt  # before pyqtgraph, which takes the Qt it finds
from qtpy.QtGui import QColor, QPen

import pyqtgraph as pg  # isort: skip

from napari_mrsr.evaluation.profile import Edge, Profile
from napari_mrsr.gui.metrics.style import pen
from napari_mrsr.gui.themed_plot import ThemedPlot

WIDTH, HEIGHT = 280, 200
TIP = "Intensity of every image along the line, each in its colour and dashes of the table; the band is the 10-90 % width of the chosen row"
SHADE = 60
"""Opacity (of 255) of the band between 10 and 90 %."""


class ProfilePlot(ThemedPlot):
    """One line per image over mm along the profile line; a band marks the edge of one of them."""

    def __init__(self) -> None:
        super().__init__("profiles", HEIGHT, TIP)
        self.setLabel("bottom", "mm along the line")
        self._band = pg.LinearRegionItem(movable=False)

    def draw(self, profiles: Sequence[Profile], normalised: bool) -> None:
        """Show profiles, in scanner units or each from 0 to 1."""
        self.clear()
        self.setLabel("left", "share of own range" if normalised else "intensity")
        for number, profile in enumerate(profiles):
            self.plot(profile.distance, _normalised(profile.values) if normalised else profile.values, pen=pen(number), connect="finite")
        self._band.setVisible(False)
        self.addItem(self._band, ignoreBounds=True)
        self.autoRange(padding=0.03)

    def mark(self, edge: Edge | None) -> None:
        """Show where an edge rises from 10 to 90 %."""
        self._band.setVisible(edge is not None)
        if edge is not None:
            self._band.setRegion((edge.position - edge.width / 2, edge.position + edge.width / 2))

    def _dye(self, ink: QColor) -> None:
        shade = QColor(ink)
        shade.setAlpha(SHADE)
        self._band.setBrush(shade)
        for border in self._band.lines:
            border.setPen(QPen(Qt.PenStyle.NoPen))

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Narrow enough for a dock; pyqtgraph asks for 640 pixels."""
        return QSize(WIDTH, HEIGHT)


def _normalised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    return (values - low) / (high - low if high > low else 1.0)
