"""Live plots of a training: loss terms, and the validation against methods without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qtpy.QtCore import QSize, Qt  # before pyqtgraph, which takes the Qt it finds
from qtpy.QtGui import QColor, QPen

import pyqtgraph as pg  # isort: skip

from napari_mrsr.gui.metrics.style import pen
from napari_mrsr.gui.themed_plot import ThemedPlot
from napari_mrsr.training.history import Scored

WIDTH, HEIGHT = 280, 150
LOSS_TIP = "Loss terms of the training, averaged over a quarter of a second"
SCORE_TIP = "PSNR in dB of the validation volumes inside the head; dashed: methods without weights on the same volumes"
BASELINE = "cubic"
SHADE = 200
"""Opacity (of 255) of the legend's ground."""


class _StepPlot(ThemedPlot):
    """Something over training steps."""

    def __init__(self, name: str, tip: str, title: str) -> None:
        super().__init__(name, HEIGHT, tip)
        self.setLabel("left", title)
        self.setLabel("bottom", "step")
        self.getAxis("left").enableAutoSIPrefix(False)
        self.getAxis("bottom").enableAutoSIPrefix(False)
        self.setDownsampling(auto=True, mode="mean")
        self._ink = QColor("gray")

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Narrow enough for a dock; pyqtgraph asks for 640 pixels."""
        return QSize(WIDTH, HEIGHT)

    def _dye(self, ink: QColor) -> None:
        self._ink = ink


class LossPlot(_StepPlot):
    """One line a loss term."""

    def __init__(self) -> None:
        super().__init__("losses", LOSS_TIP, "loss")
        self._legend = self.addLegend(offset=(-4, 4), labelTextSize="8pt")
        self._lines: dict[str, pg.PlotDataItem] = {}

    def draw(self, losses: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> None:
        """Show loss terms: their steps and values."""
        if set(self._lines) - set(losses):
            self.clear()
            self._lines.clear()
        for number, (name, (steps, values)) in enumerate(losses.items()):
            if name not in self._lines:
                self._lines[name] = self.plot(pen=pen(number), name=name)
            self._lines[name].setData(list(steps), list(values))

    def set_log(self, on: bool) -> None:
        """Show powers of ten at equal distances."""
        self.setLogMode(y=on)

    def _dye(self, ink: QColor) -> None:
        super()._dye(ink)
        ground = self.backgroundBrush().color()
        ground.setAlpha(SHADE)
        self._legend.setBrush(ground)
        self._legend.setLabelTextColor(ink)
        for _, label in self._legend.items:  # those that are there keep their colour otherwise
            label.setText(label.text, color=ink)


class ScorePlot(_StepPlot):
    """Validations of the network, and the lines it has to beat."""

    def __init__(self) -> None:
        super().__init__("validation", SCORE_TIP, "PSNR [dB]")
        self._line = self.plot(pen=pen(0), symbol="o", symbolSize=5, symbolPen=None, symbolBrush=pen(0).color())
        self.lines: dict[str, pg.InfiniteLine] = {}
        """Methods that are shown."""

    def draw(self, scores: Sequence[Scored], classic: Mapping[str, float]) -> None:
        """Show validations; of the methods without weights the baseline and the best one."""
        self._line.setData([s.step for s in scores], [s.psnr for s in scores])
        best = max(classic, key=lambda name: classic[name], default="")
        wanted = {name: classic[name] for name in dict.fromkeys((BASELINE, best)) if name in classic}
        if set(wanted) != set(self.lines):
            for line in self.lines.values():
                self.removeItem(line)
            self.lines = {name: self._level(number + 1, name, value) for number, (name, value) in enumerate(wanted.items())}
        for name, value in wanted.items():
            self.lines[name].setValue(value)
        values = [*wanted.values(), *(s.psnr for s in scores)]
        if values:
            span = max(values) - min(values) or 1.0
            # The lines' names stand above them.
            self.setYRange(min(values) - 0.1 * span, max(values) + 0.25 * span, padding=0)

    def _level(self, number: int, name: str, value: float) -> pg.InfiniteLine:
        line = QPen(pen(number))
        line.setStyle(Qt.PenStyle.DashLine)
        level = pg.InfiniteLine(
            value, 0, line, label=f"{name} {{value:.2f}}", labelOpts={"position": 0.98, "anchors": [(1, 1), (1, 1)], "color": line.color()}
        )
        self.addItem(level, ignoreBounds=True)
        return level
