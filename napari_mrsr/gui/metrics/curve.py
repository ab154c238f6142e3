"""A metric slice by slice, one line per candidate; a click goes to the slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]  # before pyqtgraph, which takes the Qt it finds
from qtpy.QtGui import QColor, QPen

import pyqtgraph as pg  # isort: skip

from napari_mrsr.evaluation.measured import Curve
from napari_mrsr.evaluation.metrics import METRICS
from napari_mrsr.gui.metrics.style import pen
from napari_mrsr.gui.themed_plot import ThemedPlot
from napari_mrsr.volume import AXES

HEIGHT = 180
TIP = "Score of every slice; click a slice to go there, or press left and right. Gaps: slices without a voxel of the mask"


class CurvePlot(ThemedPlot):
    """Curves over slices, a line at the slice on screen.

    Signals
    -------
    asked(int)
        A slice was clicked.
    stepped(int)
        Left or right was pressed: -1 or 1.
    """

    asked = Signal(int)
    stepped = Signal(int)

    def __init__(self) -> None:
        super().__init__("curve", HEIGHT, TIP)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._curve: Curve | None = None
        self._here = pg.InfiniteLine(angle=90)
        self.scene().sigMouseClicked.connect(self._clicked)

    def draw(self, curve: Curve, numbers: Sequence[int]) -> None:
        """Show a curve; `numbers` choose the look of each line."""
        self.clear()
        self._curve = curve
        # Infinite scores (identical slices) would hide all others.
        values = np.where(np.isfinite(curve.values), curve.values, np.nan)
        for number, row in zip(numbers, values, strict=True):
            self.plot(curve.positions, row, pen=pen(number), connect="finite")
        self.addItem(self._here, ignoreBounds=True)
        scored = np.where(np.isfinite(values).any(0), curve.positions, np.nan)
        self.getViewBox().setRange(xRange=_span(scored), yRange=_span(values), padding=0.03)
        self.setLabel("bottom", f"{AXES[curve.axis]} [mm]")
        self.setLabel("left", METRICS[curve.metric].title)

    def show_slice(self, index: int | None) -> None:
        """Move the line to a slice; hide it outside."""
        self._here.setVisible(index is not None)
        if index is not None and self._curve is not None:
            self._here.setValue(float(self._curve.positions[index]))

    def _dye(self, ink: QColor) -> None:
        line = QPen(ink)
        line.setCosmetic(True)
        self._here.setPen(line)

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Left and right step through the slices."""
        step = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}.get(event.key())
        if step is None:
            super().keyPressEvent(event)
        else:
            self.stepped.emit(step)

    def _clicked(self, event: Any) -> None:
        if self._curve is not None and event.button() == Qt.MouseButton.LeftButton:
            position = self.getViewBox().mapSceneToView(event.scenePos()).x()
            self.asked.emit(int(np.argmin(np.abs(self._curve.positions - position))))


def _span(values: NDArray[np.float64]) -> tuple[float, float]:
    """Smallest and largest number; any range where there is none."""
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
