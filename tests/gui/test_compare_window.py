from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPointF, Qt, QThreadPool
from qtpy.QtWidgets import QApplication

from napari_mrsr.gui.compare.view import Content, Mode
from napari_mrsr.gui.compare.windowing import DRAG_PIXELS, PRESETS
from napari_mrsr.gui.layers import robust_limits
from napari_mrsr.gui.session import Role


@pytest.fixture
def dock(trio, compare):
    return compare()


def limits(dock, name):
    return tuple(dock.viewer.layers[name].contrast_limits)


def middle(dock, number=0):
    return dock.board.panes()[number].frame.pane.center()


@pytest.mark.parametrize("how", ["right", "ctrl"])
def test_drag_sets_window_and_level(dock, hand, how):
    low, high = limits(dock, "LR")
    mouse, position = hand(dock.board), dock.session.position
    mouse.drag(middle(dock), middle(dock) + QPointF(60, -30), *((hand.RIGHT,) if how == "right" else (hand.LEFT, hand.CTRL)))
    width, level = (high - low) * 2 ** (60 / DRAG_PIXELS), (low + high) / 2 - 0.5 * (high - low) * 30 / DRAG_PIXELS
    for name in ("LR", "HR", "blurred", "brighter"):
        assert limits(dock, name) == pytest.approx((level - width / 2, level + width / 2))
    assert dock.session.position == position


def test_dragging_right_widens_and_up_brightens(dock, hand, pixels):
    before = pixels(dock.board).mean()
    hand(dock.board).drag(middle(dock), middle(dock) + QPointF(0, -80), hand.RIGHT)
    assert pixels(dock.board).mean() > before + 3
    low, high = limits(dock, "HR")
    hand(dock.board).drag(middle(dock), middle(dock) + QPointF(-80, 0), hand.RIGHT)
    assert np.diff(limits(dock, "HR")) < high - low


def test_double_click_windows_automatically(dock, hand, trio):
    trio.layer(Role.GROUND_TRUTH).contrast_limits = (10, 20)
    hand(dock.board).double_click(middle(dock, 3))
    assert limits(dock, "HR") == pytest.approx(robust_limits(trio.volume(trio.layer(Role.GROUND_TRUTH))))
    assert limits(dock, "LR") == limits(dock, "HR")


@pytest.mark.parametrize("name", PRESETS)
def test_presets(qtbot, compare, dock, trio, name):
    main = trio.layer(Role.GROUND_TRUTH)
    box = dock.toolbar.preset
    box.setCurrentIndex(list(PRESETS).index(name))
    box.activated.emit(box.currentIndex())
    assert limits(dock, "HR") == pytest.approx(PRESETS[name][0](trio.volume(main)))
    low, high = limits(dock, "HR")
    assert low < high
    assert name in box.toolTip()
    if name == "Full range":
        assert (low, high) == (main.data.min(), main.data.max())


def type_in(qtbot, spin, text):
    spin.setFocus()
    spin.selectAll()
    qtbot.keyClicks(spin, text)
    qtbot.keyClick(spin, Qt.Key.Key_Return)


def test_typed_window_and_level(qtbot, dock, compare):
    """Digits are keys of the dock too: while one types they are digits."""
    type_in(qtbot, dock.toolbar.window_width, "250")
    type_in(qtbot, dock.toolbar.window_level, "321")
    assert limits(dock, "HR") == pytest.approx((196, 446))
    assert limits(dock, "LR") == pytest.approx((196, 446))
    assert dock.view.look.mode is Mode.PANES
    assert QApplication.focusWidget() is dock.board
    compare.settle(dock)
    assert (dock.toolbar.window_width.value(), dock.toolbar.window_level.value()) == (250, 321)


def test_typing_one_number_does_not_round_the_other(qtbot, dock, compare):
    dock.board.windows.set(dock.view.main, (100.2471, 900.6312))
    compare.settle(dock)
    type_in(qtbot, dock.toolbar.window_width, "500")
    assert sum(limits(dock, "HR")) / 2 == pytest.approx((100.2471 + 900.6312) / 2, abs=1e-6)
    dock.board.windows.set(dock.view.main, (100.2471, 900.6312))
    type_in(qtbot, dock.toolbar.window_level, "400")
    assert np.diff(limits(dock, "HR")) == pytest.approx(900.6312 - 100.2471, abs=1e-6)


@pytest.mark.parametrize("unit", [1e-5, 1e-3, 1.0, 1e5])
def test_numbers_of_any_magnitude_are_shown_and_typed(qtbot, viewer, head, add, compare, unit):
    add(head.replace(data=(head.data / 1000 * unit).astype(np.float64)), Role.GROUND_TRUTH)
    dock = compare()
    dock.board.windows.set(dock.view.main, (0.1 * unit, 0.3567 * unit))
    compare.settle(dock)
    width, level = dock.toolbar.window_width, dock.toolbar.window_level
    assert width.value() == pytest.approx(0.2567 * unit, rel=0.01)
    assert level.value() == pytest.approx(0.22835 * unit, rel=0.01)
    type_in(qtbot, width, f"{0.123 * unit:.12f}".rstrip("0"))
    assert np.diff(limits(dock, "HR")) == pytest.approx(0.123 * unit, rel=0.01)
    for spin in (width, level):
        assert spin.fontMetrics().horizontalAdvance(spin.text()) <= spin.lineEdit().width() - 4


def test_no_width_is_no_window(qtbot, dock):
    before = limits(dock, "HR")
    type_in(qtbot, dock.toolbar.window_width, "0")
    assert limits(dock, "HR") == before


def test_a_level_below_nought_can_be_typed(qtbot, dock):
    type_in(qtbot, dock.toolbar.window_level, "-40")
    assert sum(limits(dock, "HR")) / 2 == pytest.approx(-40)
    assert dock.view.look.zoom == 0


def test_passing_through_the_boxes_changes_nothing(qtbot, dock, compare):
    """The boxes show rounded numbers: leaving them must not round the window."""
    dock.board.windows.set(dock.view.main, (0.37, 777.91))
    compare.settle(dock)
    for spin in (dock.toolbar.window_width, dock.toolbar.window_level, dock.toolbar.preset):
        spin.setFocus()
        qtbot.wait(10)
    assert limits(dock, "HR") == pytest.approx((0.37, 777.91), abs=1e-6)


def test_a_window_beyond_the_sliders_range_widens_it_for_all(dock, trio):
    dock.board.windows.set(trio.layer(Role.GROUND_TRUTH), (-5000.0, 9000.0))
    for layer in dock.viewer.layers:
        assert tuple(layer.contrast_limits) == (-5000, 9000)
        assert layer.contrast_limits_range[0] <= -5000
        assert layer.contrast_limits_range[1] >= 9000


def test_napari_controls_and_the_dock_agree(dock, compare, trio):
    trio.layer(Role.LOW_RESOLUTION).contrast_limits = (100, 300)
    assert limits(dock, "HR") == (100, 300)
    compare.settle(dock)
    assert (dock.toolbar.window_width.value(), dock.toolbar.window_level.value()) == (200, 200)


def test_unlinked_images_have_windows_of_their_own(dock, hand, trio):
    dock.toolbar.buttons["linked"].click()
    before = {layer.name: tuple(layer.contrast_limits) for layer in dock.viewer.layers}
    hand(dock.board).drag(middle(dock, 1), middle(dock, 1) + QPointF(50, 20), hand.RIGHT)
    after = {layer.name: tuple(layer.contrast_limits) for layer in dock.viewer.layers}
    assert {name for name in after if after[name] != before[name]} == {"blurred"}
    trio.layer(Role.LOW_RESOLUTION).contrast_limits = (1, 2)
    assert limits(dock, "HR") == before["HR"]
    dock.toolbar.buttons["linked"].click()
    assert len({limits(dock, layer.name) for layer in dock.viewer.layers}) == 1


def test_images_in_other_units_stay_out_of_the_link(trio, compare, add, head, hand):
    scaled = add(head.replace(data=head.data / 900, name="0 to 1"))
    trio.add_candidate(scaled)
    other = add(head.replace(data=head.data * 0.7, name="T1"), Role.REFERENCE)
    before = tuple(scaled.contrast_limits), tuple(other.contrast_limits)
    dock = compare()
    assert (tuple(scaled.contrast_limits), tuple(other.contrast_limits)) == before
    hand(dock.board).drag(middle(dock), middle(dock) + QPointF(50, 20), hand.RIGHT)
    assert (tuple(scaled.contrast_limits), tuple(other.contrast_limits)) == before
    number = [p.layers[0].name for p in dock.board.panes()].index("0 to 1")
    main = limits(dock, "HR")
    hand(dock.board).drag(middle(dock, number), middle(dock, number) + QPointF(50, 20), hand.RIGHT)
    assert tuple(scaled.contrast_limits) != before[0]
    assert limits(dock, "HR") == main


def test_an_image_that_becomes_the_reference_leaves_the_link(dock, trio):
    trio.drop_candidate(dock.viewer.layers["blurred"])
    trio.assign(Role.REFERENCE, dock.viewer.layers["blurred"])
    trio.layer(Role.GROUND_TRUTH).contrast_limits = (7, 77)
    assert limits(dock, "brighter") == (7, 77)
    assert limits(dock, "blurred") != (7, 77)


def test_swipe_windows_the_image_under_the_pointer(dock, hand):
    dock.view.set(mode=Mode.SWIPE, linked=False)
    first, second = dock.view.pair
    before = tuple(first.contrast_limits), tuple(second.contrast_limits)
    right = QPointF(dock.board.divider_at(dock.board.panes()[0]) + 80, 300)
    hand(dock.board).drag(right, right + QPointF(40, 0), hand.RIGHT)
    assert tuple(first.contrast_limits) == before[0]
    assert tuple(second.contrast_limits) != before[1]
    hand(dock.board).double_click(right)
    assert tuple(second.contrast_limits) == pytest.approx(robust_limits(dock.session.volume(second)))


def test_maps_have_a_window_of_their_own(dock, hand, qtbot):
    images = limits(dock, "HR")
    dock.view.set(content=Content.DIFFERENCE)
    layer, plane = dock.viewer.layers["blurred"], dock.view.planes[0]
    qtbot.waitUntil(lambda: dock.board.gallery.drawn(layer, plane).image is not None)
    qtbot.waitUntil(lambda: QThreadPool.globalInstance().activeThreadCount() == 0)
    qtbot.wait(20)
    automatic = dock.board.gallery.limits(layer, plane)
    hand(dock.board).drag(middle(dock, 1), middle(dock, 1) + QPointF(90, -50), hand.RIGHT)
    low, high = dock.board.gallery.limits(layer, plane)
    assert low == -high
    assert high == pytest.approx(automatic[1] * 2 ** (90 / DRAG_PIXELS))
    assert limits(dock, "HR") == images
    qtbot.keyClick(dock.board, Qt.Key.Key_W)
    assert dock.board.gallery.limits(layer, plane) == automatic
