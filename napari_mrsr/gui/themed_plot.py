"""A plot that only shows: no menu, no panning, in the colours of the viewer's theme."""

from __future__ import annotations

from napari.utils.theme import get_theme
from qtpy.QtGui import QColor  # before pyqtgraph, which takes the Qt it finds

import pyqtgraph as pg  # isort: skip


class ThemedPlot(pg.PlotWidget):
    """Base of the plots."""

    def __init__(self, name: str, height: int, tooltip: str) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setFixedHeight(height)
        self.setToolTip(tooltip)
        self.setMenuEnabled(False)
        self.setMouseEnabled(False, False)
        self.hideButtons()

    def set_theme(self, name: str) -> None:
        """Take over the colours of a napari theme."""
        theme = get_theme(name)
        ink = QColor(theme.text.as_hex())
        self.setBackground(theme.background.as_hex())
        for side in ("left", "bottom"):
            axis = self.getAxis(side)
            axis.setPen(ink)
            axis.setTextPen(ink)
        self._dye(ink)

    def _dye(self, ink: QColor) -> None:
        """Give marks of the plot's own the colour of text."""
