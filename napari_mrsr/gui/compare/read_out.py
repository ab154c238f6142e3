"""The read-out below the board: where the pointer is, and the value there of every image on view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from napari.layers import Layer
from qtpy.QtCore import Qt
from qtpy.QtGui import QFontMetrics, QResizeEvent
from qtpy.QtWidgets import QLabel, QSizePolicy

from napari_mrsr.errors import InputError
from napari_mrsr.gui.compare.captions import voxel
from napari_mrsr.gui.compare.view import Mode, View
from napari_mrsr.volume import AXES

LINES, MARGIN = 2, 5
GAP = "  |  "
SHORTER = (0.6, 0.4, 0.25, 0.15, 0.1)
"""Widths that names are cut to, one after the other until all fit, as shares of the width there is."""


@dataclass(frozen=True)
class Reading:
    """What there is at a point.

    Attributes
    ----------
    place : str
        World point in mm, and the voxel of the main image.
    values : tuple of (str, str)
        Name and value of each image.
    full : tuple of str
        A line for the point and one for each image, with its own voxel.
    """

    place: str
    values: tuple[tuple[str, str], ...]
    full: tuple[str, ...]

    def lines(self, metrics: QFontMetrics, width: int) -> list[str]:
        """Lines of `width` px: two, with names cut at their ends where they would not fit; images that still do not are left out."""
        lines: list[str] = []
        for share in SHORTER:
            names = [metrics.elidedText(name, Qt.TextElideMode.ElideRight, int(share * width)) for name, _ in self.values]
            parts = [self.place, *(f"{name} {value}" for name, (_, value) in zip(names, self.values, strict=True))]
            lines = _filled(parts, metrics, width)
            if len(lines) <= LINES:
                return lines
        return [*lines[: LINES - 1], f"{lines[LINES - 1]} …"]


class ReadOut(QLabel):
    """Two lines of plain text that follow the width; all of it in the tooltip."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("values")
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.setStyleSheet(f"padding: 0px {MARGIN}px")  # with napari's the second line would be cut off
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._reading: Reading | None = None

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802 - Qt's name
        """Fill the lines anew."""
        super().resizeEvent(event)
        self._write()

    def show_reading(self, reading: Reading) -> None:
        """Show what there is at a point."""
        self._reading = reading
        self._write()

    def _write(self) -> None:
        # The font is known for sure only within the window whose style it takes.
        height = self.fontMetrics().lineSpacing() * LINES + 6
        if self.height() != height:
            self.setFixedHeight(height)
        if self._reading is not None:
            self.setText("\n".join(self._reading.lines(self.fontMetrics(), self.width() - 2 * MARGIN - 2)))
            self.setToolTip(f"<p style='white-space: pre'>{'<br>'.join(map(escape, self._reading.full))}</p>")


def read_out(view: View, point: Sequence[float]) -> Reading:
    """Voxel and value of every image on view at a world point in mm."""
    place = "  ".join(f"{axis} {value:.1f}" for axis, value in zip(AXES, point, strict=True)) + " mm"
    layers = view.shown() if view.look.mode is Mode.PANES else list(view.pair or ())
    found = [(layer.name, *read) for layer in layers if (read := _read(view, layer, point)) is not None]
    main = None if view.main is None else _read(view, view.main, point)
    full = (place, *("  ".join(filter(None, parts)) for parts in found))
    return Reading(f"{place}  {main[0]}".rstrip() if main else place, tuple((name, value) for name, _, value in found), full)


def _read(view: View, layer: Layer, point: Sequence[float]) -> tuple[str, str] | None:
    """Voxel and value in words; None where the layer cannot be read."""
    try:
        volume = view.session.volume(layer)
    except InputError:
        return None
    index = voxel(volume, point)
    if not all(0 <= i < n for i, n in zip(index, volume.shape, strict=True)):
        return "", "outside"
    return f"[{', '.join(map(str, index))}]", f"{float(volume.data[index]):.5g}"


def _filled(parts: Sequence[str], metrics: QFontMetrics, width: int) -> list[str]:
    """Parts in as few lines as hold them in order."""
    lines = [parts[0]]
    for part in parts[1:]:
        longer = f"{lines[-1]}{GAP}{part}"
        if metrics.horizontalAdvance(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines
