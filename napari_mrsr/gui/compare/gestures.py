"""Drags on the board: cross-hair, pan, window, divider, box and line; each begins on a press and follows the pointer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Layer
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, Qt
from qtpy.QtGui import QMouseEvent

from napari_mrsr.gui.compare.arrangement import Pane
from napari_mrsr.gui.compare.overlays import box_outline
from napari_mrsr.gui.compare.view import Content, Mode, Tool
from napari_mrsr.gui.roi import overlap
from napari_mrsr.gui.session_shape import SMALLEST
from napari_mrsr.volume import Box

if TYPE_CHECKING:
    from napari_mrsr.gui.compare.board import Board

GRAB = 7.0
"""Pixels within which an edge, an end or the divider is caught."""

Drag = Callable[[QPointF], None]
"""Follows the pointer until the button is released."""


def begin(board: Board, pane: Pane, event: QMouseEvent) -> Drag:
    """What a press starts: right (or Ctrl and left) windows, middle (or Shift and left) pans, left uses the tool."""
    at, button, keys = event.position() if hasattr(event, "position") else event.localPos(), event.button(), event.modifiers()
    control, shift = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
    if button == Qt.MouseButton.RightButton or (button == Qt.MouseButton.LeftButton and keys & control):
        return _window(board, pane, at)
    if button == Qt.MouseButton.MiddleButton or keys & shift:
        return _pan(board, pane, at)
    if board.view.look.mode is Mode.SWIPE and abs(at.x() - board.divider_at(pane)) <= GRAB:
        return lambda to: board.view.set(divider=float(np.clip((to.x() - pane.frame.pane.left()) / pane.frame.pane.width(), 0, 1)))
    tools = {Tool.BOX: _box, Tool.LINE: _line}
    return tools.get(board.view.look.tool, _cross)(board, pane, at)


def point_at(board: Board, pane: Pane, at: QPointF) -> tuple[float, float, float]:
    """World point under the pointer, on the slice on view."""
    space, plane = board.view.space, pane.plane
    coordinates = space.coordinates(board.session.position)
    coordinates[plane.across], coordinates[plane.up] = pane.frame.coordinates(at)
    return space.world(coordinates)


def layer_at(board: Board, pane: Pane, at: QPointF) -> Layer:
    """Image under the pointer; where two lie over each other, the first."""
    look = board.view.look
    return pane.layers[-1 if look.flipped or (look.mode is Mode.SWIPE and at.x() > board.divider_at(pane)) else 0]


def _cross(board: Board, pane: Pane, at: QPointF) -> Drag:
    def follow(to: QPointF) -> None:
        board.session.position = point_at(board, pane, to)

    follow(at)
    return follow


def _pan(board: Board, pane: Pane, at: QPointF) -> Drag:
    space, plane, frame = board.view.space, pane.plane, pane.frame
    middle = space.coordinates(board.view.centre or board.middle())
    zoom = frame.zoom

    def follow(to: QPointF) -> None:
        moved = middle.copy()
        side = 1 if frame.mirrored else -1
        moved[plane.across] += side * (to.x() - at.x()) / zoom
        moved[plane.up] += (to.y() - at.y()) / zoom
        board.view.set(zoom=zoom)
        board.view.centre_on(space.world(moved))

    return follow


def _window(board: Board, pane: Pane, at: QPointF) -> Drag:
    windows, layer = board.windows, layer_at(board, pane, at)
    start = board.gallery.limits(layer, pane.plane)
    image = board.view.look.content is Content.IMAGE

    def follow(to: QPointF) -> None:
        limits = windows.drag(start, to.x() - at.x(), at.y() - to.y(), symmetric=start[0] == -start[1])
        if image:
            windows.set(layer, limits)
        else:
            windows.set_map(limits)

    return follow


def _line(board: Board, pane: Pane, at: QPointF) -> Drag:
    present = board.session.line
    start = point_at(board, pane, at)
    if present is not None:
        for number, end in enumerate(present):
            c = board.view.space.coordinates(end)
            place = pane.frame.point(c[pane.plane.across], c[pane.plane.up])
            if np.hypot(place.x() - at.x(), place.y() - at.y()) <= GRAB:
                start = present[1 - number]

    def follow(to: QPointF) -> None:
        end = point_at(board, pane, to)
        if np.linalg.norm(np.subtract(end, start)) >= SMALLEST:
            board.session.line = start, end

    return follow


def _box(board: Board, pane: Pane, at: QPointF) -> Drag:
    """Move the box where it is pressed inside, an edge where one is near, else draw a new one."""
    present = board.session.roi
    if present is not None:
        outline, inside = box_outline(pane.frame, pane.plane, board.view.space, present, board.session.position)
        present = present.along(board.view.space.rotation)
        if inside and outline.adjusted(-GRAB, -GRAB, GRAB, GRAB).contains(at):
            return _edit_box(board, pane, at, present)
    return _new_box(board, pane, at, present)


def _new_box(board: Board, pane: Pane, at: QPointF, present: Box | None) -> Drag:
    start, axis = _place(board, pane, at), pane.plane.slice_axis

    def follow(to: QPointF) -> None:
        end = _place(board, pane, to)
        lower, upper = np.minimum(start, end), np.maximum(start, end)
        sides = [upper[a] - lower[a] for a in (pane.plane.across, pane.plane.up)]
        if min(sides) < SMALLEST:
            return
        # Across the slices: as deep as an earlier box, or as its shorter side.
        depth = present.upper[axis] - present.lower[axis] if present is not None else min(sides)
        lower[axis], upper[axis] = start[axis] - depth / 2, start[axis] + depth / 2
        _put(board, lower, upper)

    return follow


def _edit_box(board: Board, pane: Pane, at: QPointF, present: Box) -> Drag:
    lower, upper = np.array(present.lower), np.array(present.upper)
    start = _place(board, pane, at)
    reach = GRAB / pane.frame.zoom
    axes = (pane.plane.across, pane.plane.up)
    near_low = [a for a in axes if abs(start[a] - lower[a]) <= reach]
    near_high = [a for a in axes if a not in near_low and abs(start[a] - upper[a]) <= reach]
    grid = _grid(board)
    # Some of the box always stays on the comparison grid.
    nearest, farthest = np.array(grid.lower) + SMALLEST, np.array(grid.upper) - SMALLEST

    def follow(to: QPointF) -> None:
        moved = _place(board, pane, to) - start
        low, high = lower.copy(), upper.copy()
        if not near_low and not near_high:
            for a in axes:
                size = high[a] - low[a]
                low[a] = np.clip(low[a] + moved[a], nearest[a] - size, farthest[a])
                high[a] = low[a] + size
        for a in near_low:
            low[a] = min(low[a] + moved[a], high[a] - SMALLEST, farthest[a])
        for a in near_high:
            high[a] = max(high[a] + moved[a], low[a] + SMALLEST, nearest[a])
        _put(board, low, high)

    return follow


def _put(board: Board, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> None:
    """Take a box over, unless it misses the comparison grid."""
    box = Box(tuple(lower), tuple(upper), tuple(board.view.space.rotation.ravel()))
    if overlap(box, _grid(board)):
        board.session.roi = box


def _grid(board: Board) -> Box:
    """Box around the comparison grid."""
    main = board.view.main
    assert main is not None
    return board.view.space.box(board.session.volume(main))


def _place(board: Board, pane: Pane, at: QPointF) -> NDArray[np.float64]:
    """Coordinates under the pointer along the axes of the panes."""
    return board.view.space.coordinates(point_at(board, pane, at))
