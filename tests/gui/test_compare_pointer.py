from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPointF, Qt

from napari_mrsr.gui.compare.read_out import LINES, read_out
from napari_mrsr.gui.session import Role
from napari_mrsr.planes import PLANES
from napari_mrsr.volume import Volume


def place_of(dock, point, number=0):
    """Where a world point lies on the board."""
    pane = dock.board.panes()[number]
    coordinates = dock.view.space.coordinates(point)
    return pane.frame.point(coordinates[pane.plane.across], coordinates[pane.plane.up])


def world_of(dock, at: QPointF, number=0):
    """World point under a place, worked out from the pane's middle, its zoom and the plane."""
    pane = dock.board.panes()[number]
    frame, space = pane.frame, dock.view.space
    coordinates = space.rotation.T @ np.array(dock.session.position)
    side = -1 if dock.view.look.radiological else 1
    coordinates[pane.plane.across] = frame.centre[0] + side * (at.x() - frame.pane.center().x()) / frame.zoom
    coordinates[pane.plane.up] = frame.centre[1] - (at.y() - frame.pane.center().y()) / frame.zoom
    return space.rotation @ coordinates


def near(viewer, position):
    """Whether napari's sliders, which keep to their steps, stand next to a point."""
    gaps = np.abs(np.subtract(viewer.dims.point, position))
    return (gaps <= [0.51 * r.step for r in viewer.dims.range]).all()


@pytest.fixture
def tilted(viewer, add, head, make_affine):
    """Viewer with an oblique ground truth and a candidate on its grid."""
    truth = Volume(head.data, make_affine((1.0, 1.2, 1.5), (10, -6, 14), (-20, -30, 5)), name="HR")
    add(truth, Role.GROUND_TRUTH)
    add(truth.replace(data=head.data * 0.9, name="SR"), Role.CANDIDATE)
    return viewer


@pytest.mark.parametrize("plane", PLANES)
def test_click_and_drag_move_the_position_to_the_point(trio, compare, hand, plane):
    dock = compare()
    dock.view.set(planes=(plane,))
    for number in (0, 3):
        middle = dock.board.panes()[number].frame.pane.center()
        at = middle + QPointF(31, -17)
        expected = world_of(dock, at, number)
        hand(dock.board).click(at)
        assert trio.position == pytest.approx(expected, abs=1e-6)
        to = middle + QPointF(-40, 25)
        expected = world_of(dock, to, number)
        hand(dock.board).drag(at, to)
        assert trio.position == pytest.approx(expected, abs=1e-6)
    axis = PLANES[plane].slice_axis
    here = trio.position[axis]
    hand(dock.board).move(middle)
    assert trio.position[axis] == here
    assert trio.position == pytest.approx(expected, abs=1e-6)


def test_napari_and_the_dock_follow_each_other(qtbot, trio, compare, hand):
    dock = compare()
    viewer = dock.viewer
    hand(dock.board).click(dock.board.panes()[0].frame.pane.center() + QPointF(20, 30))
    qtbot.waitUntil(lambda: near(viewer, trio.position))
    step = viewer.dims.range[2].step
    here, slider = trio.position, viewer.dims.point[2]
    viewer.dims.set_point(2, slider + 3 * step)
    assert trio.position == (*here[:2], viewer.dims.point[2])
    assert trio.position[2] == pytest.approx(slider + 3 * step)


def test_an_oblique_volume_is_followed_exactly(qtbot, tilted, compare, hand):
    dock = compare()
    assert dock.view.space.angle > 5
    for plane in PLANES:
        dock.view.set(planes=(plane,))
        at = dock.board.panes()[0].frame.pane.center() + QPointF(22, -31)
        expected = world_of(dock, at)
        hand(dock.board).click(at)
        assert dock.session.position == pytest.approx(expected, abs=1e-6)
        assert place_of(dock, dock.session.position) == at
    qtbot.waitUntil(lambda: near(tilted, dock.session.position))


def test_an_oblique_ground_truth_says_its_angle_and_shows_its_own_slices(tilted, compare):
    dock = compare()
    assert dock.grid_note.isVisible()
    assert dock.grid_note.text() == f"Slices follow the grid of HR, tilted by {dock.view.space.angle:.1f}°."
    assert dock.board.gallery.drawn(tilted.layers["SR"], PLANES["axial"]).index is not None
    dock.session.assign(Role.GROUND_TRUTH, None)
    dock.session.drop_candidate(tilted.layers["SR"])
    compare.settle(dock)
    assert not dock.grid_note.isVisible()


@pytest.mark.parametrize("plane", PLANES)
def test_the_wheel_steps_by_slices_of_the_comparison_grid(trio, compare, hand, head, plane):
    dock = compare()
    dock.view.set(planes=tuple(PLANES))
    pane = next(p for p in dock.board.panes() if p.plane.name == plane)
    axis = pane.plane.slice_axis
    start = np.array(trio.position)
    hand(dock.board).wheel(pane.frame.pane.center(), 1)
    moved = np.array(trio.position) - start
    assert moved == pytest.approx(np.eye(3)[axis] * head.voxel_size[axis])
    hand(dock.board).wheel(pane.frame.pane.center(), -3)
    assert trio.position[axis] == pytest.approx(start[axis] - 2 * head.voxel_size[axis])


def test_steps_stop_at_the_first_and_the_last_slice(trio, compare, hand, head):
    dock = compare()
    axial = PLANES["axial"]
    for turns, index in ((400, head.shape[2] - 1), (-400, 0)):
        hand(dock.board).wheel(dock.board.panes()[0].frame.pane.center(), turns)
        assert dock.board.gallery.drawn(trio.layer(Role.GROUND_TRUTH), axial).index == index
        there = trio.position
        hand(dock.board).wheel(dock.board.panes()[0].frame.pane.center(), turns)
        assert trio.position == there
        assert there[2] == pytest.approx(head.affine[2, 3] + index * head.voxel_size[2])


def test_steps_of_a_finger_add_up_to_slices(trio, compare, hand, head):
    """Touch pads send many small turns; a slice for each of them would race through the head."""
    dock = compare()
    start = trio.position[2]
    for _ in range(8):
        hand(dock.board).wheel(dock.board.panes()[0].frame.pane.center(), 0.25)
    assert trio.position[2] == pytest.approx(start + 2 * head.voxel_size[2])


def test_keys_step_slices(qtbot, trio, compare, head):
    dock = compare()
    dock.board.setFocus()
    start = trio.position[2]
    for key, count in ((Qt.Key.Key_Up, 1), (Qt.Key.Key_Down, 0), (Qt.Key.Key_PageUp, 10), (Qt.Key.Key_PageDown, 0)):
        qtbot.keyClick(dock.board, key)
        assert trio.position[2] == pytest.approx(start + count * head.voxel_size[2])


@pytest.mark.parametrize("turns", [1, -2, 5])
def test_zooming_keeps_the_point_under_the_pointer(trio, compare, hand, turns):
    dock = compare()
    before = dock.board.panes()
    at = before[2].frame.pane.center() + QPointF(47, -23)
    point = world_of(dock, at, 2)
    slice_before = trio.position
    hand(dock.board).wheel(at, turns, hand.CTRL)
    after = dock.board.panes()
    assert after[0].frame.zoom == pytest.approx(before[0].frame.zoom * 1.25**turns)
    assert len({p.frame.zoom for p in after}) == 1
    assert world_of(dock, at, 2) == pytest.approx(point, abs=1e-6)
    assert trio.position == slice_before
    dock.toolbar.buttons["fit"].click()
    assert [p.frame for p in dock.board.panes()] == [p.frame for p in before]


def test_zoom_has_limits(trio, compare, hand):
    dock = compare()
    for turns, zoom in ((60, 200.0), (-200, 0.05)):
        hand(dock.board).wheel(dock.board.panes()[0].frame.pane.center(), turns, hand.CTRL)
        assert dock.board.panes()[0].frame.zoom == zoom
        dock.board.grab()


@pytest.mark.parametrize("how", ["middle", "shift"])
def test_pan_moves_every_pane_alike(trio, compare, hand, how):
    dock = compare()
    dock.view.set(zoom=8.0)
    here = trio.position
    before = [place_of(dock, (3.0, 4.0, here[2]), n) for n in range(4)]
    start = dock.board.panes()[1].frame.pane.center()
    mouse = hand(dock.board)
    mouse.drag(start, start + QPointF(33, -21), *((hand.MIDDLE,) if how == "middle" else (hand.LEFT, hand.SHIFT)))
    for n, old in enumerate(before):
        moved = place_of(dock, (3.0, 4.0, here[2]), n) - old
        assert (moved.x(), moved.y()) == pytest.approx((33, -21), abs=1e-6)
    assert trio.position == here


def test_read_out_of_the_point_under_the_pointer(trio, compare, hand, head):
    dock = compare()
    point = (head.affine[:3, :3] @ (21, 30, 17)) + head.affine[:3, 3]
    trio.position = tuple(point)
    hand(dock.board).move(place_of(dock, point))
    compare.settle(dock)
    text = dock.values.text()
    assert text.startswith(f"R {point[0]:.1f}  A {point[1]:.1f}  S {point[2]:.1f} mm  [21, 30, 17]  |  ")
    assert f"HR {head.data[21, 30, 17]:.5g}" in text
    assert f"brighter {head.data[21, 30, 17] + 50:.5g}" in text
    assert text.count("[") == 1
    low = trio.volume(trio.layer(Role.LOW_RESOLUTION))
    index = tuple(int(v) for v in np.round((point - low.affine[:3, 3]) / low.voxel_size))
    assert f"LR {low.data[index]:.5g}" in text
    assert f"LR  [{', '.join(map(str, index))}]  {low.data[index]:.5g}" in dock.values.toolTip()
    away = read_out(dock.view, (500.0, 0.0, 0.0))
    assert away.place == "R 500.0  A 0.0  S 0.0 mm"
    assert {value for _, value in away.values} == {"outside"}
    hand(dock.board).move(QPointF(dock.board.width() / 2, -5))
    compare.settle(dock)
    assert dock.values.text() == "\n".join(read_out(dock.view, trio.position).lines(dock.values.fontMetrics(), 10000))


@pytest.mark.parametrize("width", [330, 900])
def test_read_out_of_six_images_fits_two_lines(trio, compare, add, head, width):
    for n in range(2):
        trio.add_candidate(add(head.replace(data=head.data + n, name=f"<b>T1 of the head, cftn-x2 with options {n}</b>")))
    dock = compare(width, 700)
    compare.settle(dock)
    dock._show_values()
    label, lines = dock.values, dock.values.text().split("\n")
    assert label.textFormat() == Qt.TextFormat.PlainText
    assert 1 < len(lines) <= LINES
    assert all(label.fontMetrics().horizontalAdvance(line) <= label.contentsRect().width() for line in lines)
    assert label.fontMetrics().height() * LINES <= label.contentsRect().height()
    assert not any(line.rstrip().endswith("|") for line in lines)
    values = [value for _, value in read_out(dock.view, trio.position).values]
    assert len(values) == 6
    shown = [part.split()[-1] for line in lines for part in line.split("  |  ")][1:]
    assert shown == values if width == 900 else lines[-1].endswith("…")
    assert label.toolTip().count("[") == 7 - 1
    assert "&lt;b&gt;T1 of the head, cftn-x2 with options 1&lt;/b&gt;" in label.toolTip()


def test_the_dock_starts_inside_the_images(viewer, add, head, compare):
    viewer.dims.ndim = 3
    add(head, Role.GROUND_TRUTH)
    dock = compare()
    dock.session.position = (900.0, 0.0, 0.0)
    again = compare()
    assert again.session.position == pytest.approx(again.view.space.extent(head).mean(0))
