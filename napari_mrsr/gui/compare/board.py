"""The board: one widget that draws all panes of a comparison and turns mouse and keys into intents."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Image, Layer
from qtpy.QtCore import QPointF, QRectF, Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QColor, QMouseEvent, QPainter, QPainterPath, QPaintEvent, QWheelEvent
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_mrsr.gui.compare import overlays
from napari_mrsr.gui.compare.arrangement import Pane, arrange
from napari_mrsr.gui.compare.captions import NARROW, captions
from napari_mrsr.gui.compare.frame import Frame, fitting_zoom
from napari_mrsr.gui.compare.gallery import Gallery
from napari_mrsr.gui.compare.gestures import Drag, begin, layer_at, point_at
from napari_mrsr.gui.compare.view import ZOOM_STEP, Content, Mode, Tool, View
from napari_mrsr.gui.compare.windowing import STANDARD, Windows
from napari_mrsr.planes import Rect

BACK = QColor(0, 0, 0)
BAR_WIDTH = 84.0
INSET = 0.38
"""Share of a pane's shorter side that the enlarged region takes."""


class Board(QWidget):
    """Panes of a view.

    Signals
    -------
    pointed(tuple or None)
        World point under the pointer, None when it leaves.
    """

    pointed = Signal(object)

    def __init__(self, view: View) -> None:
        super().__init__()
        self.setObjectName("compare board")
        self.view, self.session = view, view.session
        self.windows = Windows(view)
        self.gallery = Gallery(view, self.windows, self)
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumSize(240, 200)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self._drag: Drag | None = None
        self._turned = 0.0

    def panes(self) -> list[Pane]:
        """Panes as they lie now."""
        return arrange(self.view, self._area())

    def middle(self) -> tuple[float, float, float]:
        """World point in the middle of the panes."""
        panes = self.panes()
        coordinates = self.view.space.coordinates(self.session.position)
        for pane in panes:
            coordinates[pane.plane.across], coordinates[pane.plane.up] = pane.frame.centre
        return self.view.space.world(coordinates)

    def divider_at(self, pane: Pane) -> float:
        """Place of the swipe's divider across a pane, px."""
        return pane.frame.pane.left() + self.view.look.divider * pane.frame.pane.width()

    def zoom_by(self, factor: float) -> None:
        """Enlarge about the position looked at."""
        panes = self.panes()
        if panes:
            self.view.zoom_by(factor, panes[0].frame.zoom)

    def step(self, count: int, plane_axis: int | None = None) -> None:
        """Move by slices of the comparison grid."""
        main = self.view.main
        if main is None:
            return
        axis = self.view.planes[0].slice_axis if plane_axis is None else plane_axis
        volume, coordinates = self.session.volume(main), self.view.space.coordinates(self.session.position)
        low, high = self.view.space.extent(volume)[:, axis]
        size = volume.voxel_size[axis]
        # From the middle of a slice to the middle of another, so that no slice is shown twice or left out.
        index = np.floor((coordinates[axis] - low) / size + 1e-9) + count
        coordinates[axis] = low + size * (np.clip(index, 0, round((high - low) / size) - 1) + 0.5)
        self.session.position = self.view.space.world(coordinates)

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802 - Qt's name
        """Draw all panes."""
        painter = QPainter(self)
        painter.fillRect(self.rect(), BACK)
        panes = self.panes()
        if not panes:
            hint = "Give layers roles, or tick candidates, to see them side by side."
            if self.view.look.mode is not Mode.PANES and self.view.images():
                hint = f"{self.view.look.mode.value} needs two images."
            overlays.write(painter, QRectF(self.rect()), Qt.AlignmentFlag.AlignCenter, hint)
        for pane in panes:
            painter.save()
            painter.setClipRect(pane.frame.pane)
            self._draw(painter, pane)
            painter.restore()
        if panes and self._has_bar():
            self._draw_bar(painter, panes[0])
        painter.end()

    def mousePressEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802 - Qt's name
        """Begin a drag."""
        pane = self._pane_at(_at(event)) if event is not None else None
        if event is not None and pane is not None:
            self._drag = begin(self, pane, event)

    def mouseMoveEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802 - Qt's name
        """Go on with the drag; tell where the pointer is."""
        if event is None:
            return
        at = _at(event)
        if self._drag is not None:
            self._drag(at)
        pane = self._pane_at(at)
        self.pointed.emit(point_at(self, pane, at) if pane is not None else None)
        self._shape_pointer(pane, at)

    def mouseReleaseEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802 - Qt's name
        """End the drag."""
        self._drag = None

    def mouseDoubleClickEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802 - Qt's name
        """Window automatically."""
        pane = self._pane_at(_at(event)) if event is not None else None
        if event is not None and pane is not None:
            self.window_automatically(layer_at(self, pane, _at(event)))

    def window_automatically(self, layer: Layer | None = None) -> None:
        """Automatic window of the images (of a layer's group), or of the map on view."""
        layer = layer or self.view.main
        if self.view.look.content is not Content.IMAGE:
            self.windows.set_map(None)
        elif layer is not None:
            self.windows.preset(layer, STANDARD)

    def wheelEvent(self, event: QWheelEvent | None) -> None:  # noqa: N802 - Qt's name
        """Step through slices; with Ctrl, zoom about the pointer."""
        if event is None:
            return
        event.accept()
        pane = self._pane_at(event.position())
        turns = event.angleDelta().y() / 120
        if pane is None or not turns:
            return
        if not event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            # Touch pads send parts of a turn.
            self._turned += turns
            self.step(int(self._turned), pane.plane.slice_axis)
            self._turned -= int(self._turned)
            return
        before = np.array(point_at(self, pane, event.position()))
        self.view.zoom_by(ZOOM_STEP**turns, pane.frame.zoom)
        pane = next(p for p in self.panes() if p.layers == pane.layers and p.plane is pane.plane)
        after = np.array(point_at(self, pane, event.position()))
        middle = np.array(self.view.centre or self.middle())
        self.view.centre_on(tuple(middle + before - after))

    def leaveEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Nothing is pointed at any more."""
        self._turned = 0.0
        self.pointed.emit(None)

    def _has_bar(self) -> bool:
        return self.view.look.content is not Content.IMAGE or isinstance(self.view.overlay, Image)

    def _draw_bar(self, painter: QPainter, pane: Pane) -> None:
        """Colours of the maps on view, or of the map over the images."""
        overlay = self.view.overlay
        if self.view.look.content is Content.IMAGE and overlay is not None:
            low, high = (float(v) for v in overlay.contrast_limits)
            overlays.colour_bar(painter, self._bar(), overlay.colormap, (low, high), overlay.name)
            return
        limits = self.gallery.limits(pane.layers[0], pane.plane)
        overlays.colour_bar(painter, self._bar(), self.gallery.colours(), limits, self.gallery.unit())

    def _area(self) -> QRectF:
        area = QRectF(self.rect())
        return area.adjusted(0, 0, -BAR_WIDTH, 0) if self._has_bar() else area

    def _bar(self) -> QRectF:
        area = QRectF(self.rect())
        return QRectF(area.right() - BAR_WIDTH, area.top(), BAR_WIDTH, min(area.height(), 360.0))

    def _pane_at(self, at: QPointF) -> Pane | None:
        return next((pane for pane in self.panes() if pane.frame.pane.contains(at)), None)

    def _shape_pointer(self, pane: Pane | None, at: QPointF) -> None:
        look = self.view.look
        if pane is not None and look.mode is Mode.SWIPE and abs(at.x() - self.divider_at(pane)) <= overlays.HANDLE * 2:
            self.setCursor(Qt.CursorShape.SplitHCursor)
        elif look.tool is Tool.POINTER:
            self.setCursor(Qt.CursorShape.CrossCursor)
        else:
            self.setCursor(Qt.CursorShape.PointingHandCursor)

    def _draw(self, painter: QPainter, pane: Pane) -> None:
        self._images(painter, pane, pane.frame)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
        space, look, position = self.view.space, self.view.look, self.session.position
        if self.session.roi is not None:
            outline, inside = overlays.box_outline(pane.frame, pane.plane, space, self.session.roi, position)
            overlays.box(painter, outline, inside, look.tool is Tool.BOX)
            if look.inset and inside:
                self._inset(painter, pane)
        if self.session.line is not None:
            overlays.line(painter, pane.frame, pane.plane, space, self.session.line)
        if look.crosshair:
            overlays.crosshair(painter, pane.frame, pane.plane, space, position)
        if look.mode is Mode.SWIPE:
            overlays.divider(painter, pane.frame, self.divider_at(pane))
        left, right = captions(self.view, self.gallery, pane)
        narrow = pane.frame.pane.width() < NARROW
        letter = 0 if narrow else 1
        rows = overlays.title(painter, pane.frame.pane, left, max(letter, len(right)))
        overlays.title(painter, pane.frame.pane, right, max(letter, len(left)), right=True)
        overlays.letters(painter, pane.frame, pane.plane, 14.0 * rows if narrow else 0.0)
        overlays.scale_bar(painter, pane.frame)

    def _images(self, painter: QPainter, pane: Pane, frame: Frame) -> None:
        """One image; or two, as the mode puts them together."""
        look = self.view.look
        if len(pane.layers) == 1:
            self._image(painter, pane.layers[0], pane, frame)
        elif look.mode is Mode.FLICKER:
            self._image(painter, pane.layers[look.flipped], pane, frame)
        else:
            self._image(painter, pane.layers[0], pane, frame)
            painter.save()
            if look.mode is Mode.BLEND:
                painter.setOpacity(look.blend)
            else:
                painter.setClipPath(self._second_part(frame, pane), Qt.ClipOperation.IntersectClip)
                painter.fillRect(frame.pane, BACK)
            self._image(painter, pane.layers[1], pane, frame)
            painter.restore()
        overlay = self.view.overlay
        if overlay is not None:
            drawn = self.gallery.overlay(overlay, pane.plane)
            if drawn.image is not None:
                painter.setOpacity(look.opacity)
                overlays.picture(painter, frame, drawn.image, drawn.place)
                painter.setOpacity(1.0)

    def _image(self, painter: QPainter, layer: Layer, pane: Pane, frame: Frame) -> None:
        drawn = self.gallery.drawn(layer, pane.plane)
        if drawn.image is not None:
            # Leaving out pixels where images are made smaller would invent jagged edges.
            shrunk = bool(frame.zoom * drawn.place.width < drawn.image.width())
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, self.view.look.smooth or shrunk)
            overlays.picture(painter, frame, drawn.image, drawn.place)
        elif drawn.message:
            overlays.message(painter, frame.pane, drawn.message)

    def _second_part(self, frame: Frame, pane: Pane) -> QPainterPath:
        """Where swipe and checkerboard show the second image."""
        path, area = QPainterPath(), frame.pane
        if self.view.look.mode is Mode.SWIPE:
            path.addRect(area.adjusted(self.view.look.divider * area.width(), 0, 0, 0))
            return path
        side = self.view.look.tile
        (x0, y0), (x1, y1) = frame.coordinates(area.topLeft()), frame.coordinates(area.bottomRight())
        across, up = sorted((x0, x1)), sorted((y0, y1))
        # Fields are fixed to the anatomy, so that they move along with it.
        for i in range(int(np.floor(across[0] / side)), int(np.ceil(across[1] / side))):
            for j in range(int(np.floor(up[0] / side)), int(np.ceil(up[1] / side))):
                if (i + j) % 2:
                    path.addRect(frame.rect(Rect(i * side, (i + 1) * side, j * side, (j + 1) * side)))
        return path

    def _inset(self, painter: QPainter, pane: Pane) -> None:
        """The region of interest, enlarged in the lower right corner."""
        roi, area = self.session.roi, pane.frame.pane
        assert roi is not None
        place = overlays.flat_box(roi.along(self.view.space.rotation), pane.plane)
        side = INSET * min(area.width(), area.height())
        scale = side / max(place.width, place.height)
        if scale <= pane.frame.zoom:
            return
        corner = QRectF(0, 0, place.width * scale, place.height * scale)
        corner.moveBottomRight(area.bottomRight() - QPointF(18, 18))
        centre = ((place.left + place.right) / 2, (place.bottom + place.top) / 2)
        painter.save()
        painter.setClipRect(corner, Qt.ClipOperation.IntersectClip)
        painter.fillRect(corner, BACK)
        self._images(painter, pane, Frame(corner, centre, fitting_zoom(corner, place) / 0.96, pane.frame.mirrored))
        painter.restore()
        overlays.box(painter, corner, True, False)


def _at(event: QMouseEvent) -> QPointF:
    return event.position() if hasattr(event, "position") else event.localPos()
