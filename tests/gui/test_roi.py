"""The region of interest: drawn in napari's canvas, typed in mm, always the session's box."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

from napari_mrsr.gui import _compat
from napari_mrsr.gui.region_box import BOX, NO_BOX, NO_INPUT, RegionBox
from napari_mrsr.gui.roi import RoiLayer, head_box
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.volume import Box

LEFT, NONE = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
START = Box((-10, -20, 10), (10, 10, 40))


@pytest.fixture
def region(pair, qtbot):
    widget = RegionBox(Session.of(pair))
    qtbot.addWidget(widget)
    pair.dims.order = (2, 1, 0)
    pair.dims.set_point(2, 30.0)
    yield widget
    widget.disconnect_session()


@pytest.fixture
def session(pair, region):
    return Session.of(pair)


def outline(viewer):
    """Rectangles on the plane on screen, as (lower, upper) in world mm."""
    if RoiLayer.LAYER not in viewer.layers:
        return []
    return [(np.min(data, axis=0).tolist(), np.max(data, axis=0).tolist()) for data in viewer.layers[RoiLayer.LAYER].data]


def test_the_outline_follows_plane_slice_and_box(qtbot, pair, session):
    session.roi = START
    qtbot.waitUntil(lambda: outline(pair) == [([-10, -20, 30], [10, 10, 30])])
    pair.dims.set_point(2, 33.0)
    qtbot.waitUntil(lambda: outline(pair) == [([-10, -20, 33], [10, 10, 33])])
    pair.dims.order = (0, 1, 2)
    pair.dims.set_point(0, 4.0)
    qtbot.waitUntil(lambda: outline(pair) == [([4, -20, 10], [4, 10, 40])])
    pair.dims.set_point(0, 15.0)
    qtbot.waitUntil(lambda: outline(pair) == [])
    assert session.roi == START
    session.roi = Box((0, 0, 0), (20, 20, 20))
    qtbot.waitUntil(lambda: outline(pair) == [([15, 0, 0], [15, 20, 20])])
    session.roi = None
    qtbot.waitUntil(lambda: RoiLayer.LAYER not in pair.layers)


def test_deleting_the_layer_or_the_rectangle_clears_the_box(qtbot, pair, session):
    session.roi = START
    qtbot.waitUntil(lambda: len(outline(pair)) == 1)
    pair.layers.remove(RoiLayer.LAYER)
    assert session.roi is None
    session.roi = START
    qtbot.waitUntil(lambda: len(outline(pair)) == 1)
    layer = pair.layers[RoiLayer.LAYER]
    layer.selected_data = {0}
    layer.remove_selected()
    assert session.roi is None


class Canvas:
    """Real mouse events at world places."""

    def __init__(self, qtbot, viewer):
        self.qtbot, self.viewer, self.canvas = qtbot, viewer, _compat.unwrap(viewer).window._qt_viewer.canvas

    def pixel(self, place):
        shown = [place[axis] for axis in self.viewer.dims.displayed]
        x, y = (self.canvas.view.transform * self.canvas.view.scene.transform).map(shown[::-1])[:2]
        return QPoint(round(x), round(y))

    def drag(self, start, stop):
        native, first, last = self.canvas.native, self.pixel(start), self.pixel(stop)
        self.viewer.window._qt_window.activateWindow()
        QTest.mouseMove(native, first)
        self.qtbot.wait(20)
        QTest.mousePress(native, LEFT, NONE, first)
        for share in np.linspace(0.1, 1, 10):
            QTest.mouseMove(native, first + (last - first) * float(share))
            self.qtbot.wait(5)
        QTest.mouseRelease(native, LEFT, NONE, last)


@pytest.mark.shown
def test_a_box_is_drawn_on_one_plane_and_resized_on_another_with_the_mouse(qtbot, pair, region, session):
    _compat.main_window(pair).resize(1100, 800)
    region.choice.setCurrentText(BOX)
    qtbot.addWidget(region)
    region.show()
    qtbot.waitExposed(region)
    pair.reset_view()
    qtbot.wait(200)
    canvas = Canvas(qtbot, pair)
    qtbot.mouseClick(region.draw_button, LEFT)
    canvas.drag((-12, -15, 30), (8, 12, 30))
    qtbot.waitUntil(lambda: session.roi is not None)
    np.testing.assert_allclose(session.roi.lower, (-12, -15, 10), atol=1)
    np.testing.assert_allclose(session.roi.upper, (8, 12, 50), atol=1)
    layer = pair.layers[RoiLayer.LAYER]
    qtbot.waitUntil(lambda: layer.mode == "select" and len(layer.data) == 1)
    assert [field.value() for field in region.fields.values()] == pytest.approx(
        [v for pair_ in zip(session.roi.lower, session.roi.upper, strict=True) for v in pair_], abs=0.06
    )

    pair.dims.order = (0, 2, 1)
    pair.dims.set_point(0, 0.0)
    pair.reset_view()
    qtbot.wait(200)
    assert pair.layers.selection.active is layer
    drawn = session.roi
    middle = (0, *(np.add(drawn.lower, drawn.upper) / 2)[1:])
    canvas.drag(middle, (0, middle[1] + 6, middle[2] - 5))
    qtbot.waitUntil(lambda: session.roi != drawn)
    np.testing.assert_allclose(np.subtract(session.roi.lower, drawn.lower), (0, 6, -5), atol=1)
    np.testing.assert_allclose(np.subtract(session.roi.upper, drawn.upper), (0, 6, -5), atol=1)

    moved = session.roi
    qtbot.waitUntil(lambda: layer.selected_data == {0})
    corner = (0, moved.upper[1], moved.upper[2])
    canvas.drag(corner, (0, moved.upper[1] + 5, moved.upper[2] - 10))
    qtbot.waitUntil(lambda: session.roi != moved)
    np.testing.assert_allclose(session.roi.lower, moved.lower, atol=1.5)
    np.testing.assert_allclose(np.subtract(session.roi.upper, moved.upper), (0, 5, -10), atol=1.5)


def test_a_click_without_a_drag_leaves_the_box_as_it_was(qtbot, pair, session):
    session.roi = START
    qtbot.waitUntil(lambda: len(outline(pair)) == 1)
    layer = pair.layers[RoiLayer.LAYER]
    layer.add_rectangles(np.array([[0, 0, 30], [0, 0.2, 30], [0.2, 0.2, 30], [0.2, 0, 30]], float))
    qtbot.wait(50)
    assert session.roi == START
    assert outline(pair) == [([-10, -20, 30], [10, 10, 30])]


def rectangle(a, b):
    """Corners on the axial plane at 30 mm."""
    return np.array([[a[0], a[1], 30], [a[0], b[1], 30], [b[0], b[1], 30], [b[0], a[1], 30]], float)


def test_a_rectangle_beside_all_images_is_put_back(qtbot, pair, session):
    session.roi = START
    qtbot.waitUntil(lambda: len(outline(pair)) == 1)
    layer = pair.layers[RoiLayer.LAYER]
    layer._data_view.edit(0, rectangle((200, 200), (220, 230)))
    layer.events.data(value=layer.data, action="changed", data_indices=(0,), vertex_indices=((),))
    assert session.roi == START
    qtbot.waitUntil(lambda: outline(pair) == [([-10, -20, 30], [10, 10, 30])])


def test_after_a_slip_a_box_can_still_be_drawn(qtbot, pair, region, session):
    region.choice.setCurrentText(BOX)
    qtbot.mouseClick(region.draw_button, LEFT)
    layer = pair.layers[RoiLayer.LAYER]
    layer.add_rectangles(rectangle((0, 0), (0.2, 0.2)))
    qtbot.waitUntil(lambda: len(layer.data) == 0)
    assert layer.mode == "add_rectangle"
    assert session.roi is None
    layer.add_rectangles(rectangle((0, 0), (8, 9)))
    assert session.roi == Box((0, 0, 10), (8, 9, 50))
    qtbot.waitUntil(lambda: layer.mode == "select")


def test_corners_are_typed_in_mm_and_an_empty_box_is_refused(qtbot, pair, region, session):
    heard = []
    region.failed.connect(heard.append)
    session.roi = Box((-10.123, -20, 10), (10, 10, 40))
    field = region.fields[0, 1]
    field.selectAll()
    qtbot.keyClicks(field, "15.5")
    qtbot.keyClick(field, Qt.Key.Key_Return)
    assert session.roi == Box((-10.123, -20, 10), (15.5, 10, 40))
    field.selectAll()
    qtbot.keyClicks(field, "-50")
    qtbot.keyClick(field, Qt.Key.Key_Return)
    assert session.roi == Box((-10.123, -20, 10), (15.5, 10, 40))
    assert field.value() == 15.5
    assert "empty" in heard[0]


def test_box_controls_say_why_they_are_off(pair, region, session):
    for control in (region.clear_button, *region.fields.values()):
        assert not control.isEnabled()
        assert control.toolTip() == NO_BOX
    session.assign(Role.LOW_RESOLUTION, None)
    for button in (region.slice_button, region.head_button):
        assert not button.isEnabled()
        assert button.toolTip() == NO_INPUT
    session.roi = START
    assert region.clear_button.isEnabled()
    assert region.clear_button.toolTip() != NO_BOX


def test_fit_and_clear(qtbot, pair, region, session, head):
    region.choice.setCurrentText(BOX)
    qtbot.mouseClick(region.slice_button, LEFT)
    low = session.volume(session.layer(Role.LOW_RESOLUTION))
    assert session.roi.upper[2] - session.roi.lower[2] == pytest.approx(low.voxel_size[2])
    assert session.roi.lower[2] < 30 < session.roi.upper[2]
    qtbot.mouseClick(region.head_button, LEFT)
    qtbot.waitUntil(lambda: session.roi == head_box(low))
    whole, around = low.box(), session.roi
    assert all(a >= b for a, b in zip(around.lower, whole.lower, strict=True))
    assert around != whole
    qtbot.mouseClick(region.clear_button, LEFT)
    assert session.roi is None
    qtbot.waitUntil(lambda: RoiLayer.LAYER not in pair.layers)


def test_head_box_holds_all_that_is_not_air(head):
    box = head_box(head)
    block = head.data[box.to_slices(head)]
    assert np.count_nonzero(block > 100) == np.count_nonzero(head.data > 100)
    assert block.size < head.data.size
