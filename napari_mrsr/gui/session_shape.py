"""One shape in napari's canvas that is a value of the session: what box and line have in common."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
from napari.layers import Shapes
from napari.layers.base import ActionType
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from napari_mrsr.errors import InputError
from napari_mrsr.gui.layers import sliced_axis
from napari_mrsr.gui.session import Session

SMALLEST = 1.0
"""Shapes shorter than this many mm are slips of the hand."""
EDGE_WIDTH = 0.8


class SessionShape(QObject):
    """Keeps a Shapes layer (in world mm) and one value of a session the same, both ways.

    The layer is there while there is a value, or one is being drawn. Drawing a shape on any plane sets the value, moving or resizing the shape
    changes it, deleting shape or layer clears it; a slip of the hand changes nothing. Subclasses say how a value looks on the plane on screen
    (:meth:`_shown`) and what a shape means (:meth:`_meant`).

    Attributes
    ----------
    VALUE : str
        Name of the session's attribute; its signal is ``{VALUE}_changed``.
    LAYER : str
        Name of the layer.
    SHAPE : str
        napari's name of the shape; its drawing tool is ``add_{SHAPE}``.
    TOOL : str
        napari's tool that changes the shape once it is drawn.
    COLOUR, FACE : str
        Of the edge, and of the inside.
    """

    VALUE: ClassVar[str]
    LAYER: ClassVar[str]
    SHAPE: ClassVar[str]
    TOOL: ClassVar[str]
    COLOUR: ClassVar[str]
    FACE: ClassVar[str] = "transparent"

    def __init__(self, session: Session, parent: QObject) -> None:
        super().__init__(parent)
        self._session = session
        self._layer: Shapes | None = None
        self._own_change = self._drawing = False
        # Coalesces changes, and lets napari's mouse handling end before its layer is rewritten.
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self.redraw)
        viewer = session.viewer
        self._changed = getattr(session, f"{self.VALUE}_changed")
        # The canvas follows napari's sliders, which come a moment after session.position.
        self._events = (viewer.dims.events.point, viewer.dims.events.order, viewer.dims.events.ndisplay)
        for signal in (self._changed, *self._events):
            signal.connect(self._later)
        viewer.layers.events.removed.connect(self._removed)
        self._later()

    def draw(self) -> None:
        """Let the user drag a shape."""
        layer = self._ensure()
        self._session.viewer.layers.selection.active = layer
        layer.mode = f"add_{self.SHAPE}"
        self._drawing = True

    def redraw(self) -> None:
        """Show the value on the plane on screen; nothing where the plane misses it."""
        value = self._value
        if value is None and not self._drawing:
            self._leave()
            return
        dims = self._session.viewer.dims
        layer, flat = self._ensure(), dims.ndim == 3 and dims.ndisplay == 2
        wanted = self._shown(value) if flat and value is not None else []
        if len(layer.data) != len(wanted) or not all(np.array_equal(a, b) for a, b in zip(layer.data, wanted, strict=True)):
            self._own_change = True
            try:
                layer.data = [(shape, self.SHAPE) for shape in wanted]
                layer.edge_width = EDGE_WIDTH
            finally:
                self._own_change = False
        if not self._drawing and layer.mode == f"add_{self.SHAPE}":
            layer.mode = self.TOOL
        if wanted and layer.mode == "select":
            layer.selected_data = {0}

    def disconnect_session(self) -> None:
        """Stop listening; the layer stays in the viewer as it is."""
        self._changed.disconnect(self._later, missing_ok=True)
        for emitter in self._events:
            emitter.disconnect(self._later)
        viewer = self._session.viewer
        if viewer is not None:
            viewer.layers.events.removed.disconnect(self._removed)
        if self._layer is not None:
            self._layer.events.data.disconnect(self._edited)

    def _shown(self, value: Any) -> list[NDArray[np.float64]]:
        """Corners or ends (N, 3) in world mm of what the plane on screen shows of a value: one shape, or none."""
        raise NotImplementedError

    def _meant(self, corners: NDArray[np.float64], fresh: bool) -> Any:
        """Value of a shape with corners or ends (N, 3) in world mm, which was drawn anew or is a former one changed.

        Raises
        ------
        InputError
            If it is a slip of the hand.
        """
        raise NotImplementedError

    @property
    def _value(self) -> Any:
        return getattr(self._session, self.VALUE)

    @_value.setter
    def _value(self, value: Any) -> None:
        setattr(self._session, self.VALUE, value)

    def _later(self, *_: Any) -> None:
        self._soon.start(0)

    def _ensure(self) -> Shapes:
        viewer = self._session.viewer
        if self._layer is None:
            layer = next((x for x in viewer.layers if isinstance(x, Shapes) and x.name == self.LAYER), None)
            if layer is None:
                active = viewer.layers.selection.active
                layer = viewer.add_shapes(ndim=3, name=self.LAYER, units="mm", axis_labels=("R", "A", "S"))
                viewer.layers.selection.active = active
            layer.current_edge_width, layer.current_edge_color, layer.current_face_color = EDGE_WIDTH, self.COLOUR, self.FACE
            layer.events.data.connect(self._edited)
            self._layer = layer
        return self._layer

    def _leave(self) -> None:
        if self._layer is not None and self._layer in self._session.viewer.layers:
            self._session.viewer.layers.remove(self._layer)

    def _removed(self, event: Any) -> None:
        if self._layer is not None and event.value is self._layer:
            self._layer.events.data.disconnect(self._edited)
            self._layer, self._drawing = None, False
            self._value = None

    def _edited(self, event: Any) -> None:
        if self._own_change or self._layer is None or event.action not in (ActionType.ADDED, ActionType.CHANGED, ActionType.REMOVED):
            return
        if event.action == ActionType.REMOVED:
            self._value = None
        elif len(self._layer.data):
            corners = np.array([self._layer.data_to_world(point) for point in self._layer.data[-1]])
            # After a slip the shape is drawn again as it was, and a new one can still be drawn.
            with suppress(InputError):
                self._value = self._meant(corners, fresh=event.action == ActionType.ADDED)
                self._drawing = False
        self._later()

    def _across(self) -> tuple[int, float]:
        """World axis across the plane on screen, and the plane's place along it."""
        axis = sliced_axis(self._session.viewer)
        return axis, float(self._session.viewer.dims.point[axis])
