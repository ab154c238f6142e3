"""The region a run works on: whole volume, slice on screen, or the session's box, drawn or typed in mm."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QDoubleSpinBox, QGridLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_mrsr.errors import InputError
from napari_mrsr.gui import _compat
from napari_mrsr.gui.dock import combo, in_background
from napari_mrsr.gui.roi import RoiLayer, head_box, slice_box
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.volume import Box, Volume

WHOLE, SLICE, BOX = "Whole volume", "Current slice", "Box"
NAMES = ("left - right", "posterior - anterior", "inferior - superior")
REACH = 2000.0
"""Largest coordinate in mm that can be typed."""
NO_BOX = "There is no box yet: draw one, or fit one."
NO_INPUT = "There is no low-resolution volume yet."


TILT = 0.01
"""Degrees below which axes count as the world's."""


class RegionBox(QWidget):
    """Choice of the region, and the box itself.

    Attributes
    ----------
    choice : QComboBox
    fields : dict of (axis, end) to QDoubleSpinBox
        End 0 is the lower one, in mm.

    Signals
    -------
    failed(str)
        One sentence.
    """

    failed = Signal(str)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.choice = combo("region", "What to compute", [WHOLE, SLICE, BOX])
        self.panel = QWidget()
        self.fields = {(axis, end): self._field(axis, end) for axis in range(3) for end in range(2)}
        self.draw_button = _button("Draw", "draw box", "Drag a rectangle over the image, on any plane; move or resize it there or on other planes")
        self.slice_button = _button("Fit to slice", "fit box to slice", "As wide as the low-resolution volume, one of its slices thick")
        self.head_button = _button("Fit to head", "fit box to head", "Around all that is not air in the low-resolution volume")
        self.clear_button = _button("Clear", "clear box", "Take the box away")
        self._arrange()
        self._layer = RoiLayer(session, self)
        self.choice.currentTextChanged.connect(lambda text: self.panel.setVisible(text == BOX))
        self.draw_button.clicked.connect(self._draw)
        self.slice_button.clicked.connect(self._fit_slice)
        self.head_button.clicked.connect(self._fit_head)
        self.clear_button.clicked.connect(partial(self._set, None))
        session.roi_changed.connect(self.refresh)
        session.roles_changed.connect(self.refresh)
        self.panel.setVisible(False)
        self.refresh()

    def box(self, volume: Volume) -> Box | None:
        """The region to run `volume` in; None is all of it.

        Raises
        ------
        InputError
            If the slice on screen misses the volume, or there is no box.
        """
        choice = self.choice.currentText()
        if choice == SLICE:
            return slice_box(self._session.viewer, volume)
        if choice == BOX and self._session.roi is None:
            raise InputError("No box is drawn yet: press Draw and drag a rectangle over the image, or fit it to the slice or the head.")
        return self._session.roi if choice == BOX else None

    def refresh(self) -> None:
        """Show the box there is."""
        box = self._session.roi
        for (axis, end), field in self.fields.items():
            field.blockSignals(True)
            field.setValue((box.lower, box.upper)[end][axis] if box else 0.0)
            field.setEnabled(box is not None)
            tilted = f", along axes tilted by {box.tilt:.1f}°" if box is not None and box.tilt > TILT else ""
            field.setToolTip(f"{('From', 'To')[end]} ({NAMES[axis]}), in mm{tilted}" if box else NO_BOX)
            field.blockSignals(False)
        _enable(self.clear_button, box is not None, NO_BOX)
        there = self._session.layer(Role.LOW_RESOLUTION) is not None
        for button in (self.slice_button, self.head_button):
            _enable(button, there, NO_INPUT)

    def disconnect_session(self) -> None:
        """Stop listening; call before the widget goes."""
        self._session.roi_changed.disconnect(self.refresh, missing_ok=True)
        self._session.roles_changed.disconnect(self.refresh, missing_ok=True)
        self._layer.disconnect_session()

    def _arrange(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.choice)
        column.addWidget(self.panel)
        grid = QGridLayout(self.panel)
        grid.setContentsMargins(0, 0, 0, 0)
        for (axis, end), field in self.fields.items():
            grid.addWidget(field, axis, 1 + end)
        for axis, letter in enumerate("RAS"):
            label = QLabel(letter)
            label.setToolTip(f"{NAMES[axis]}, in mm")
            grid.addWidget(label, axis, 0)
        for index, button in enumerate((self.draw_button, self.clear_button, self.slice_button, self.head_button)):
            grid.addWidget(button, 3 + index // 2, 1 + index % 2)

    def _field(self, axis: int, end: int) -> QDoubleSpinBox:
        field = QDoubleSpinBox()
        field.setObjectName(f"box {'RAS'[axis]} {('from', 'to')[end]}")
        field.setAccessibleName(f"{('From', 'To')[end]}, {NAMES[axis]}, in mm")
        field.setRange(-REACH, REACH)
        field.setDecimals(1)
        field.setKeyboardTracking(False)
        field.valueChanged.connect(partial(self._typed, axis, end))
        return field

    def _typed(self, axis: int, end: int, value: float) -> None:
        box = self._session.roi
        if box is None:
            return
        corners = [list(box.lower), list(box.upper)]
        corners[end][axis] = value
        try:
            self._session.roi = replace(box, lower=tuple(corners[0]), upper=tuple(corners[1]))
        except InputError as error:
            self.failed.emit(str(error))
            self.refresh()

    def _set(self, box: Box | None, *_: Any) -> None:
        self._session.roi = box

    def _input(self) -> Volume:
        layer = self._session.layer(Role.LOW_RESOLUTION)
        if layer is None:
            raise InputError(NO_INPUT)
        return self._session.volume(layer)

    def _draw(self) -> None:
        if _compat.canvas_shown(self._session.viewer):
            self._layer.draw()
        else:
            self.failed.emit("napari's canvas is hidden: draw the box in Compare (Box), or press Fill there to see the canvas.")

    def _fit_slice(self) -> None:
        try:
            self._set(slice_box(self._session.viewer, self._input()))
        except InputError as error:
            self.failed.emit(str(error))

    def _fit_head(self) -> None:
        try:
            in_background(head_box, self._input(), done=self._set, failed=self.failed.emit, owner=self)
        except InputError as error:
            self.failed.emit(str(error))


def _button(text: str, name: str, tooltip: str) -> QPushButton:
    button = QPushButton(text)
    button.setObjectName(name)
    button.setToolTip(tooltip)
    button.setProperty("what", tooltip)
    return button


def _enable(button: QPushButton, there: bool, why_not: str) -> None:
    button.setEnabled(there)
    button.setToolTip(str(button.property("what")) if there else why_not)
