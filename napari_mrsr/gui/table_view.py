"""A table of a network drawn as an image with axes, in the colours of the viewer's theme."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.utils.theme import get_theme
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_mrsr.gui.map_layers import map_limits
from napari_mrsr.networks import MapInfo
from napari_mrsr.volume import Volume

HEIGHT = 240


class TableView(QWidget):
    """Draws one table; empty and hidden until then."""

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = viewer
        self._canvas: Any = None
        self.shown: tuple[int, int] | None = None
        """Rows and columns on view."""
        QVBoxLayout(self).setContentsMargins(0, 0, 0, 0)
        self.setVisible(False)

    def show_table(self, volume: Volume, info: MapInfo) -> None:
        """Draw a (rows, columns, 1) volume."""
        from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg  # slow to import, seldom needed
        from matplotlib.figure import Figure

        if self._canvas is None:
            self._canvas = FigureCanvasQTAgg(Figure(layout="constrained"))
            self._canvas.setFixedHeight(HEIGHT)
            layout = self.layout()
            assert layout is not None
            layout.addWidget(self._canvas)
        values = np.asarray(volume.data)[:, :, 0]
        self._draw(self._canvas.figure, values, info)
        self._canvas.draw_idle()
        self.shown = (values.shape[0], values.shape[1])
        self.setVisible(True)

    def clear(self) -> None:
        """Take the table from view."""
        self.shown = None
        self.setVisible(False)

    def _draw(self, figure: Any, values: Any, info: MapInfo) -> None:
        theme = get_theme(self._viewer.theme)
        ink, paper = theme.text.as_hex(), theme.background.as_hex()
        low, high = map_limits(values, info)
        figure.clear()
        figure.set_facecolor(paper)
        axes = figure.add_subplot()
        rows, columns = values.shape
        image = axes.imshow(
            values,
            cmap="coolwarm" if info.signed else "cividis",
            vmin=low,
            vmax=high,
            aspect="auto",
            interpolation="nearest",
            extent=(0.5, columns + 0.5, rows + 0.5, 0.5),
        )
        bar = figure.colorbar(image, ax=axes)
        axes.set_xlabel("column", color=ink)
        axes.set_ylabel("row", color=ink)
        axes.set_title(info.title, color=ink, fontsize="medium")
        for part in (axes, bar.ax):
            part.tick_params(colors=ink, labelsize="small")
            for spine in part.spines.values():
                spine.set_color(ink)
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_major_locator().set_params(integer=True)
