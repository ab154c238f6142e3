"""Dock: intensity along one line in all images at once, and the width of the edge it crosses."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from qtpy.QtCore import QSize, QTimer
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QFormLayout, QGridLayout, QLabel, QPushButton, QWidget

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.profile import Edge, Interpolation, Line, Profile, common_edge, line_profiles, measure_edge
from napari_mrsr.gui.dock import Dock, combo, in_background, note, when_removed
from napari_mrsr.gui.line_layer import LineLayer
from napari_mrsr.gui.metrics.style import SAMPLE, icon
from napari_mrsr.gui.profile_plot import ProfilePlot
from napari_mrsr.gui.row_table import RowTable
from napari_mrsr.volume import AXES, Volume

NO_LINE = "Draw a line across an edge, here or in Compare, or type its ends."
NO_IMAGE = "There is no image to read: give one a role first (in Super-resolve)."
REACH = 2000.0
"""Largest coordinate in mm that can be typed."""
WIDEST = 50.0
COLUMNS = {
    "Width\n[mm]": "10-90 % width of the edge that is steepest in all images together, from an error function fitted to it: smaller is sharper",
    "Place\n[mm]": "From the first end of the line to the middle of the edge: equal in images that lie on each other",
    "Over-\nshoot %": "How far the profile goes beyond the levels beside the edge, in percent of its height: ringing, or a second structure",
}
INTERPOLATIONS: tuple[Interpolation, ...] = ("linear", "cubic")


@dataclass(frozen=True, eq=False)
class Reading:
    """Profiles, and of each its edge or the sentence that says why there is none."""

    profiles: tuple[Profile, ...]
    edges: tuple[Edge | str, ...]


def read(volumes: list[Volume], line: Line, width: float, across: int, interpolation: Interpolation) -> Reading:
    """Read images along a line."""
    profiles = line_profiles(volumes, line, width, across, interpolation)
    near = common_edge(profiles)
    return Reading(tuple(profiles), tuple(_edge(profile, near) for profile in profiles))


class ProfileDock(Dock):
    """Line profile of all images that play a role."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.draw_button, self.clear_button, self.copy_button = QPushButton("Draw line"), QPushButton("Clear"), QPushButton("Copy CSV")
        self.fields = {(end, axis): self._field(end, axis) for end in range(2) for axis in range(3)}
        self.width_box = QDoubleSpinBox()
        self.interpolation = combo(
            "interpolation", "Between voxels: linear, or a cubic B-spline, which may overshoot by itself", list(INTERPOLATIONS)
        )
        self.normalise = QCheckBox("Each from 0 to 1")
        self.plot, self.table, self.status = ProfilePlot(), RowTable(COLUMNS), note(name="status")
        self.line = LineLayer(self.session, self)
        self.reading: Reading | None = None
        self._busy = self._again = False
        # A line that is dragged changes with every move of the mouse.
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self._read)
        self._arrange()
        self._connect()
        self.plot.set_theme(self.session.viewer.theme)
        self._show()
        self._line_changed()

    def csv(self) -> str:
        """What plot and table show: a row per image with its edge, then the profiles in scanner units.

        Raises
        ------
        InputError
            If nothing is shown.
        """
        if self.reading is None:
            raise InputError(self.status.text() or NO_LINE)
        profiles, edges = self.reading.profiles, self.reading.edges
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["image", "width_10_90_mm", "position_mm", "overshoot_percent", "problem"])
        for profile, edge in zip(profiles, edges, strict=True):
            known = [f"{v:.4f}" for v in (edge.width, edge.position, edge.overshoot)] + [""] if isinstance(edge, Edge) else ["", "", "", edge]
            writer.writerow([profile.name, *known])
        writer.writerow([])
        writer.writerow(["distance_mm", *(profile.name for profile in profiles)])
        for row in np.column_stack([profiles[0].distance, *(profile.values for profile in profiles)]):
            writer.writerow([f"{row[0]:.4f}", *("" if np.isnan(v) else f"{v:.6g}" for v in row[1:])])
        return text.getvalue()

    def _arrange(self) -> None:
        self.draw_button.setToolTip("Drag a line over the image in the viewer; move it or its ends with napari's shape tools, or type them below")
        self.clear_button.setToolTip("Take the line away")
        self.width_box.setObjectName("width")
        self.width_box.setRange(0.0, WIDEST)
        self.width_box.setSingleStep(0.5)
        self.width_box.setSuffix(" mm")
        self.width_box.setToolTip("Average over this width across the line, within the plane on screen: less noise, but only for straight edges")
        self.normalise.setObjectName("normalise")
        self.normalise.setToolTip("Show each image's profile over its own range, for images of other contrast")
        for name, button in (("draw", self.draw_button), ("clear", self.clear_button), ("copy", self.copy_button)):
            button.setObjectName(f"{name} line" if name != "copy" else "copy csv")
        buttons, ends, form = QWidget(), QWidget(), QWidget()
        grid = QGridLayout(buttons)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(self.draw_button, 0, 0)
        grid.addWidget(self.clear_button, 0, 1)
        grid = QGridLayout(ends)
        grid.setContentsMargins(0, 0, 0, 0)
        for end, text in enumerate(("From", "To")):
            grid.addWidget(QLabel(text), 0, 1 + end)
            for axis in range(3):
                grid.addWidget(self.fields[end, axis], 1 + axis, 1 + end)
        for axis in range(3):
            grid.addWidget(QLabel(f"{AXES[axis]} [mm]"), 1 + axis, 0)
        rows = QFormLayout(form)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows.addRow("Averaged over", self.width_box)
        rows.addRow("Interpolation", self.interpolation)
        rows.addRow(self.normalise)
        self.table.setObjectName("edges")
        self.table.setToolTip("The same edge in every image: the steepest along the line; the chosen row is marked in the plot")
        self.table.setIconSize(QSize(*SAMPLE))
        for part in (QLabel("<b>Line profile</b>"), buttons, ends, form, self.plot, self.table, self.status, self.copy_button):
            self.column.addWidget(part)
        self.column.addStretch()

    def _field(self, end: int, axis: int) -> QDoubleSpinBox:
        field = QDoubleSpinBox()
        field.setObjectName(f"line {('from', 'to')[end]} {AXES[axis]}")
        field.setAccessibleName(f"{('From', 'To')[end]}, {AXES[axis]}, in mm")
        field.setToolTip(f"{('First', 'Second')[end]} end of the line, {AXES[axis]} in mm")
        field.setRange(-REACH, REACH)
        field.setDecimals(1)
        field.setKeyboardTracking(False)
        field.setButtonSymbols(QDoubleSpinBox.ButtonSymbols.NoButtons)
        field.valueChanged.connect(partial(self._typed, end, axis))
        return field

    def _connect(self) -> None:
        self.draw_button.clicked.connect(self.line.draw)
        self.clear_button.clicked.connect(self._clear)
        self.copy_button.clicked.connect(self.guarded(self._copy))
        self.width_box.valueChanged.connect(self._later)
        self.interpolation.currentIndexChanged.connect(self._later)
        self.normalise.toggled.connect(lambda _: self._show())
        self.table.currentCellChanged.connect(lambda *_: self._mark())
        session, viewer, line = self.session, self.session.viewer, self.line
        links = ((session.line_changed, self._line_changed), (session.roles_changed, self._later), (session.layers_changed, self._later))
        for signal, slot in links:
            signal.connect(slot)
        viewer.events.theme.connect(self._theme_changed)
        viewer.dims.events.order.connect(self._later)

        def clean_up() -> None:
            for signal, slot in links:
                signal.disconnect(slot, missing_ok=True)
            viewer.events.theme.disconnect(self._theme_changed)
            viewer.dims.events.order.disconnect(self._later)
            line.disconnect_session()

        when_removed(self, clean_up)

    # --- the line ---------------------------------------------------------------------------------------------------------------------

    def _line_changed(self) -> None:
        line = self.session.line
        for (end, axis), field in self.fields.items():
            field.blockSignals(True)
            if line is not None:
                field.setValue(line[end][axis])
            field.blockSignals(False)
        self.clear_button.setEnabled(line is not None)
        self._later()

    def _typed(self, end: int, axis: int, value: float) -> None:
        """What was not typed stays as exact as it was drawn."""
        line = self.session.line
        ends = [[self.fields[e, a].value() for a in range(3)] for e in range(2)] if line is None else [list(point) for point in line]
        ends[end][axis] = value
        (x0, y0, z0), (x1, y1, z1) = ends
        self.session.line = (x0, y0, z0), (x1, y1, z1)

    def _clear(self) -> None:
        self.session.line = None

    # --- reading ----------------------------------------------------------------------------------------------------------------------

    def _later(self, *_: Any) -> None:
        self._soon.start(0)

    def _read(self) -> None:
        if self._busy:
            self._again = True
            return
        line, layers = self.session.line, self.session.compared()
        if line is None or not layers:
            self._failed(NO_LINE if line is None else NO_IMAGE)
            return
        try:
            volumes = [self.session.volume(layer) for layer in layers]
        except InputError as error:
            self._failed(str(error))
            return
        self._busy = True
        across, interpolation = self.session.axis, INTERPOLATIONS[self.interpolation.currentIndex()]
        in_background(read, volumes, line, self.width_box.value(), across, interpolation, done=self._done, failed=self._failed, owner=self)

    def _done(self, reading: Reading) -> None:
        self.reading = reading
        self.status.setText("")
        self._next()

    def _failed(self, sentence: str) -> None:
        self.reading = None
        self.status.setText(sentence)
        self._next()

    def _next(self) -> None:
        self._busy = False
        self._show()
        if self._again:
            self._again = False
            self._read()

    # --- showing ----------------------------------------------------------------------------------------------------------------------

    def _show(self) -> None:
        reading = self.reading
        self.status.setVisible(bool(self.status.text()))
        self.copy_button.setEnabled(reading is not None)
        self.copy_button.setToolTip("Profiles and edges onto the clipboard" if reading is not None else self.status.text() or "Reading...")
        self.plot.draw(reading.profiles if reading else (), self.normalise.isChecked())
        profiles, edges = (reading.profiles, reading.edges) if reading else ((), ())
        self.table.fill(
            [profile.name for profile in profiles],
            [_cells(edge) if isinstance(edge, Edge) else () for edge in edges],
            [edge if isinstance(edge, str) else "" for edge in edges],
            [icon(row) for row in range(len(profiles))],
        )
        self._mark()

    def _mark(self) -> None:
        row = self.table.currentRow()
        edge = self.reading.edges[row] if self.reading is not None and 0 <= row < len(self.reading.edges) else None
        self.plot.mark(edge if isinstance(edge, Edge) else None)

    def _theme_changed(self, *_: Any) -> None:
        self.plot.set_theme(self.session.viewer.theme)

    def _copy(self) -> None:
        clipboard = QGuiApplication.clipboard()
        assert clipboard is not None
        clipboard.setText(self.csv())


def _cells(edge: Edge) -> tuple[str, ...]:
    return f"{edge.width:.2f}", f"{edge.position:.2f}", f"{edge.overshoot:.0f}"


def _edge(profile: Profile, near: float | None) -> Edge | str:
    try:
        return measure_edge(profile, near)
    except InputError as error:
        return str(error)
