from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPointF, Qt

from napari_mrsr.gui.compare.view import Tool
from napari_mrsr.gui.roi import overlap
from napari_mrsr.gui.session import Role
from napari_mrsr.gui.session_shape import SMALLEST
from napari_mrsr.planes import PLANES
from napari_mrsr.volume import Box


@pytest.fixture
def dock(trio, compare):
    widget = compare()
    widget.view.set(planes=tuple(PLANES), tool=Tool.BOX)
    return widget


def pane_of(dock, plane):
    return next(p for p in dock.board.panes() if p.plane.name == plane)


def on_board(dock, plane, point):
    pane = pane_of(dock, plane)
    return pane.frame.point(point[pane.plane.across], point[pane.plane.up])


def draw(dock, hand, plane="axial", start=(-9.0, -12.0), end=(6.0, 8.0)):
    pane = pane_of(dock, plane)
    hand(dock.board).drag(pane.frame.point(*start), pane.frame.point(*end))


def test_a_box_is_drawn_around_the_slice_on_view(dock, hand, trio):
    here = trio.position
    draw(dock, hand)
    assert trio.roi.lower == pytest.approx((-9, -12, here[2] - 7.5))
    assert trio.roi.upper == pytest.approx((6, 8, here[2] + 7.5))
    assert trio.position == here


def test_a_new_box_keeps_the_depth_of_the_one_before(dock, hand, trio):
    draw(dock, hand)
    draw(dock, hand, start=(12.0, 14.0), end=(15.0, 22.0))
    assert trio.roi.lower[:2] == pytest.approx((12, 14))
    assert trio.roi.upper[2] - trio.roi.lower[2] == pytest.approx(15)


def test_a_box_is_moved_and_resized_in_any_plane(dock, hand, trio):
    draw(dock, hand)
    lower, upper = np.array(trio.roi.lower), np.array(trio.roi.upper)
    trio.position = tuple((lower + upper) / 2)
    middle = (lower + upper) / 2
    start = on_board(dock, "coronal", middle)
    zoom = pane_of(dock, "coronal").frame.zoom
    hand(dock.board).drag(start, start + QPointF(-3 * zoom, -2 * zoom))
    assert trio.roi.lower == pytest.approx(np.add(lower, (3, 0, 2)))
    assert trio.roi.upper == pytest.approx(np.add(upper, (3, 0, 2)))
    lower, upper = np.array(trio.roi.lower), np.array(trio.roi.upper)
    # The front edge in the sagittal plane, then the top left corner in the coronal one.
    edge = (0, upper[1], (lower[2] + upper[2]) / 2)
    to = (0, upper[1] + 5, edge[2] + 1)
    hand(dock.board).drag(on_board(dock, "sagittal", edge), on_board(dock, "sagittal", to))
    upper[1] += 5
    assert trio.roi.upper == pytest.approx(upper)
    assert trio.roi.lower == pytest.approx(lower)
    hand(dock.board).drag(on_board(dock, "coronal", (upper[0], 0, upper[2])), on_board(dock, "coronal", (upper[0] - 2, 0, upper[2] - 4)))
    assert trio.roi.upper == pytest.approx(np.subtract(upper, (2, 0, 4)))
    assert trio.roi.lower == pytest.approx(lower)


def test_edges_never_cross(dock, hand, trio):
    draw(dock, hand)
    lower, upper = np.array(trio.roi.lower), np.array(trio.roi.upper)
    right = (upper[0], (lower[1] + upper[1]) / 2)
    hand(dock.board).drag(on_board(dock, "axial", (*right, 0)), on_board(dock, "axial", (lower[0] - 30, right[1], 0)))
    assert trio.roi.upper[0] == pytest.approx(lower[0] + SMALLEST)
    assert trio.roi.lower == pytest.approx(lower)
    dock.board.grab()


@pytest.mark.parametrize("to", [(-400, 0), (400, 0), (0, -400), (0, 400), (300, 300)])
def test_a_box_cannot_be_dragged_off_the_images(dock, hand, trio, to):
    """Such a box could not be seen, nor caught again."""
    dock.view.set(planes=("axial",))
    draw(dock, hand)
    before, whole = trio.roi, trio.volume(trio.layer(Role.GROUND_TRUTH)).box()
    start = on_board(dock, "axial", (-1, -2, 0))
    hand(dock.board).drag(start, start + QPointF(*to) * pane_of(dock, "axial").frame.zoom)
    assert overlap(trio.roi, whole)
    assert trio.roi != before
    assert np.subtract(trio.roi.upper, trio.roi.lower) == pytest.approx(np.subtract(before.upper, before.lower))
    inside = [min(b, d) - max(a, c) for a, b, c, d in zip(trio.roi.lower, trio.roi.upper, whole.lower, whole.upper, strict=True)]
    assert min(inside) == pytest.approx(SMALLEST)


def test_an_edge_cannot_be_dragged_off_the_images(dock, hand, trio):
    dock.view.set(planes=("axial",))
    whole = trio.volume(trio.layer(Role.GROUND_TRUTH)).box()
    middle = trio.position[2]
    trio.roi = Box((10, -10, middle - 5), (whole.upper[0] + 15, 5, middle + 5))
    dock.view.set(zoom=4.0)
    start = on_board(dock, "axial", (10, 0, 0))
    hand(dock.board).drag(start, start + QPointF(-4 * 40, 0))
    assert trio.roi.lower[0] == pytest.approx(whole.upper[0] - SMALLEST)
    assert trio.roi.upper[0] == pytest.approx(whole.upper[0] + 15)


def test_a_box_drawn_beside_the_images_is_none(dock, hand, trio):
    dock.view.set(planes=("axial",), zoom=4.0)
    whole = trio.volume(trio.layer(Role.GROUND_TRUTH)).box()
    draw(dock, hand, start=(whole.upper[0] + 2, 0.0), end=(whole.upper[0] + 12, 9.0))
    assert trio.roi is None


def test_a_click_draws_no_box(dock, hand, trio):
    pane = pane_of(dock, "axial")
    hand(dock.board).drag(pane.frame.pane.center(), pane.frame.pane.center() + QPointF(2, 40))
    assert trio.roi is None


def test_delete_clears_what_the_tool_draws(qtbot, dock, hand, trio):
    draw(dock, hand)
    trio.line = (0.0, 0.0, 0.0), (5.0, 0.0, 0.0)
    dock.board.setFocus()
    qtbot.keyClick(dock.board, Qt.Key.Key_Delete)
    assert trio.roi is None
    assert trio.line is not None
    qtbot.keyClick(dock.board, Qt.Key.Key_P)
    qtbot.keyClick(dock.board, Qt.Key.Key_Delete)
    assert trio.line is None


def test_the_box_is_full_where_the_slice_meets_it_and_enlarged_there(dock, trio, pixels):
    dock.view.set(planes=("axial",), crosshair=False)
    x, y, z = trio.position
    trio.roi = Box((x - 4, y - 4, z - 2), (x + 4, y + 4, z + 2))
    with_inset = pixels(dock.board)
    dock.view.set(inset=False)
    without = pixels(dock.board)
    changed = (with_inset != without).any(-1)
    for pane in dock.board.panes():
        area = pane.frame.pane
        assert changed[int(area.bottom()) - 60, int(area.right()) - 60]
        assert not changed[int(area.top()) + 40, int(area.left()) + 40]
    yellow = np.abs(without.astype(int) - (240, 228, 66)).max(-1) < 30
    outline = yellow.sum()
    trio.position = (x, y, z + 10)
    dashed = (np.abs(pixels(dock.board).astype(int) - (240, 228, 66)).max(-1) < 30).sum()
    assert 0 < dashed < 0.8 * outline
    dock.view.set(inset=True)
    assert (np.abs(pixels(dock.board).astype(int) - (240, 228, 66)).max(-1) < 30).sum() == dashed


def test_a_line_is_drawn_and_its_ends_are_dragged(dock, hand, trio):
    dock.view.set(tool=Tool.LINE)
    z = trio.position[2]
    a, b = (-8.0, -6.0, z), (7.0, 9.0, z)
    hand(dock.board).drag(on_board(dock, "axial", a), on_board(dock, "axial", b))
    assert trio.line[0] == pytest.approx(a)
    assert trio.line[1] == pytest.approx(b)
    hand(dock.board).drag(on_board(dock, "axial", a), on_board(dock, "axial", (-2.0, 3.0, z)))
    assert {tuple(np.round(end, 6)) for end in trio.line} == {b, (-2.0, 3.0, z)}
    before = trio.line
    hand(dock.board).click(on_board(dock, "axial", (10.0, -10.0, z)))
    assert trio.line == before


def test_an_outside_change_of_box_or_line_is_drawn(dock, trio, pixels):
    dock.view.set(crosshair=False)
    before = pixels(dock.board)
    trio.line = (0.0, 0.0, 20.0), (9.0, 9.0, 25.0)
    orange = np.abs(pixels(dock.board).astype(int) - (230, 159, 0)).max(-1) < 30
    assert orange.sum() > 50
    trio.line = None
    assert np.array_equal(pixels(dock.board), before)


def test_on_a_tilted_grid_the_box_drawn_is_the_box_measured(viewer, add, compare, hand, head):
    """Edges lie along the grid's axes: nothing beyond what was drawn counts, and the inset shows just that."""
    angle = np.radians(12)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = head.affine.copy()
    affine[:3, :3] = turn @ affine[:3, :3]
    tilted = head.replace(affine=affine)
    add(tilted, Role.GROUND_TRUTH)
    dock = compare()
    dock.view.set(tool=Tool.BOX)
    space = dock.view.space
    (low, high), here = space.extent(tilted), space.coordinates(dock.session.position)
    start, end = (low[:2] + 0.3 * (high - low)[:2], low[:2] + 0.7 * (high - low)[:2])
    pane = dock.board.panes()[0]
    hand(dock.board).drag(pane.frame.point(*start), pane.frame.point(*end))
    roi = dock.session.roi
    assert roi.tilt == pytest.approx(12, abs=0.01)
    assert roi.lower[:2] == pytest.approx(tuple(start))
    assert roi.upper[:2] == pytest.approx(tuple(end))
    block = roi.to_slices(tilted)
    size = np.array([s.stop - s.start for s in block]) * tilted.voxel_size
    np.testing.assert_allclose(size[:2], end - start, atol=1.3)
    assert roi.lower[2] < here[2] < roi.upper[2]
    # Moving it along the slice keeps its size exactly, however often.
    for _ in range(3):
        pane = dock.board.panes()[0]
        middle = (np.array(dock.session.roi.lower) + dock.session.roi.upper) / 2
        hand(dock.board).drag(pane.frame.point(middle[0], middle[1]), pane.frame.point(middle[0] + 2, middle[1] - 1))
    moved = dock.session.roi
    np.testing.assert_allclose(np.subtract(moved.upper, moved.lower), np.subtract(roi.upper, roi.lower), atol=1e-6)
    np.testing.assert_allclose(np.subtract(moved.lower, roi.lower), (6, -3, 0), atol=1e-6)
