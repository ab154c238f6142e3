from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPointF, Qt

from napari_mrsr.gui.compare.dock import BLINK_MS
from napari_mrsr.gui.compare.view import Content, Mode
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.volume import Volume

DARK, BRIGHT = 64, 192
SAFE_FLASHES = 3.0
"""Per second (WCAG 2.3.1)."""


@pytest.fixture
def two(viewer, add, compare, monkeypatch):
    """A dock over two flat images, one dark and one bright, with nothing drawn over them."""
    for name in ("title", "letters", "scale_bar", "crosshair", "divider"):
        monkeypatch.setattr(f"napari_mrsr.gui.compare.overlays.{name}", lambda *_, **__: 0)
    affine = np.diag((1.0, 1.0, 1.0, 1.0))
    for name, value, role in (("dark", DARK, Role.CANDIDATE), ("bright", BRIGHT, Role.GROUND_TRUTH)):
        data = np.full((60, 60, 20), value, np.float32)
        data[0, 0, 0] = 0
        add(Volume(data, affine, name=name), role, contrast_limits=(0, 255))
    dock = compare()
    dock.view.set(radiological=False)
    return dock


def inside(dock, picture):
    """Pixels of the image in the only pane, well off its rim."""
    pane = dock.board.panes()[0]
    extent = dock.view.space.extent(dock.session.volume(dock.viewer.layers["dark"]))
    a, b = (pane.frame.point(*corner[:2]) for corner in extent)
    return picture[round(b.y()) + 4 : round(a.y()) - 4, round(a.x()) + 4 : round(b.x()) - 4, 0]


def grey(value):
    return pytest.approx(value, abs=2)


def test_pairs_are_candidate_and_ground_truth(two):
    assert [layer.name for layer in two.view.pair] == ["dark", "bright"]
    for mode in list(Mode)[1:]:
        two.view.set(mode=mode)
        assert [pane.layers for pane in two.board.panes()] == [two.view.pair]


def test_swipe_shows_each_image_on_its_side(two, hand, pixels):
    two.view.set(mode=Mode.SWIPE)
    pane = two.board.panes()[0]
    for share in (0.5, 0.4, 0.62):
        hand(two.board).drag(QPointF(two.board.divider_at(pane), 200), QPointF(pane.frame.pane.left() + share * pane.frame.pane.width(), 260))
        assert two.view.look.divider == pytest.approx(share)
        row = pixels(two.board)[round(pane.frame.pane.center().y()), :, 0]
        edge = round(two.board.divider_at(pane))
        assert row[edge - 60 : edge - 2] == grey(DARK)
        assert row[edge + 2 : edge + 60] == grey(BRIGHT)
    before = two.session.position
    hand(two.board).drag(QPointF(two.board.divider_at(pane), 200), QPointF(-500, 200))
    assert two.view.look.divider == 0
    assert two.session.position == before
    assert inside(two, pixels(two.board)) == grey(BRIGHT)


def test_swap_exchanges_the_images(two, pixels):
    two.view.set(mode=Mode.SWIPE)
    two.toolbar.buttons["swap"].click()
    assert [layer.name for layer in two.view.pair] == ["bright", "dark"]
    row = inside(two, pixels(two.board))[100]
    assert (row[0], row[-1]) == (BRIGHT, DARK)


def test_differences_are_paired_with_each_other(trio, compare):
    """The image that differences are taken against has none to show."""
    view = compare().view
    names = lambda: [layer.name for layer in view.pair]  # noqa: E731
    view.set(mode=Mode.SWIPE, content=Content.DIFFERENCE)
    assert names() == ["brighter", "blurred"]
    view.choose(against=trio.viewer.layers["blurred"])
    assert names() == ["brighter", "LR"]
    view.choose(against=None)
    trio.drop_candidate(trio.viewer.layers["blurred"])
    assert names() == ["brighter", "LR"]
    trio.assign(Role.LOW_RESOLUTION, None)
    assert names() == ["brighter", "HR"]
    view.set(content=Content.IMAGE)
    assert names() == ["brighter", "HR"]


def test_a_pair_that_was_chosen_stays_for_differences(trio, compare):
    view = compare().view
    view.choose(second=trio.viewer.layers["brighter"])
    assert [layer.name for layer in view.pair] == ["HR", "brighter"]
    view.set(mode=Mode.SWIPE, content=Content.DIFFERENCE)
    assert [layer.name for layer in view.pair] == ["HR", "brighter"]
    view.choose(first=None)
    assert [layer.name for layer in view.pair] == ["blurred", "brighter"]


def test_images_are_chosen_in_the_lists(qtbot, trio, compare):
    dock = compare()
    dock.view.set(mode=Mode.SWIPE)
    compare.settle(dock)
    assert [box.currentText() for box in (dock.toolbar.first, dock.toolbar.second)] == ["brighter", "HR"]
    dock.toolbar.first.setFocus()
    qtbot.keyClick(dock.toolbar.first, Qt.Key.Key_Up)
    compare.settle(dock)
    assert [layer.name for layer in dock.view.pair] == ["blurred", "HR"]
    assert dock.toolbar.first.currentText() == "blurred"
    trio.viewer.layers.remove("blurred")
    compare.settle(dock)
    assert [layer.name for layer in dock.view.pair] == ["brighter", "HR"]
    assert dock.toolbar.first.currentText() == "brighter"


def test_choosing_the_other_image_exchanges_them(two):
    """An image beside itself would tell nothing."""
    two.view.choose(second=two.viewer.layers["dark"])
    assert [layer.name for layer in two.view.pair] == ["bright", "dark"]


def test_flicker_shows_the_second_while_space_is_held(qtbot, two, pixels):
    two.view.set(mode=Mode.FLICKER)
    two.board.setFocus()
    assert inside(two, pixels(two.board)) == grey(DARK)
    qtbot.keyPress(two.board, Qt.Key.Key_Space)
    assert inside(two, pixels(two.board)) == grey(BRIGHT)
    qtbot.keyRelease(two.board, Qt.Key.Key_Space)
    assert inside(two, pixels(two.board)) == grey(DARK)


def test_a_key_released_elsewhere_is_not_held_for_ever(qtbot, two):
    two.view.set(mode=Mode.FLICKER)
    two.board.setFocus()
    qtbot.keyPress(two.board, Qt.Key.Key_Space)
    assert two.view.look.flipped
    two.toolbar.window_width.setFocus()
    assert not two.view.look.flipped


def test_space_does_nothing_in_other_modes(qtbot, two):
    two.board.setFocus()
    qtbot.keyPress(two.board, Qt.Key.Key_Space)
    assert not two.view.look.flipped


def test_timed_flicker_is_slow_enough_and_stops(qtbot, two):
    assert 1000 / (2 * BLINK_MS) <= SAFE_FLASHES
    qtbot.keyClick(two.board, Qt.Key.Key_K)
    assert two.view.look.mode is Mode.FLICKER
    seen = []
    two.view.changed.connect(lambda: seen.append(two.view.look.flipped))
    qtbot.waitUntil(lambda: True in seen and seen[-1] is False)
    assert two.toolbar.buttons["blink"].isChecked()
    qtbot.keyClick(two.board, Qt.Key.Key_K)
    assert not two._blink.isActive()
    assert not two.view.look.flipped
    qtbot.keyClick(two.board, Qt.Key.Key_K)
    qtbot.keyClick(two.board, Qt.Key.Key_1)
    qtbot.waitUntil(lambda: not two._blink.isActive())
    assert not two.toolbar.buttons["blink"].isChecked()


def test_fields_of_the_checkerboard_are_fixed_to_the_anatomy(two, pixels):
    two.view.set(mode=Mode.CHECKERBOARD, tile=12.0)
    pane, picture = two.board.panes()[0], pixels(two.board)
    for i in range(5):
        for j in range(5):
            at = pane.frame.point(12.0 * i + 6, 12.0 * j + 6)
            expected = BRIGHT if (i + j) % 2 else DARK
            x, y = round(at.x()), round(at.y())
            assert picture[y - 10 : y + 10, x - 10 : x + 10, 0] == grey(expected), (i, j)
    here = {0: inside(two, picture).mean()}
    two.view.set(zoom=pane.frame.zoom * 1.5)
    at = two.board.panes()[0].frame.point(30.0, 30.0)
    assert pixels(two.board)[round(at.y()), round(at.x()), 0] == grey(DARK)
    assert here[0] == pytest.approx((DARK + BRIGHT) / 2, abs=10)


@pytest.mark.parametrize("share", [0, 25, 50, 100])
def test_blend_mixes_the_images(two, compare, pixels, share):
    two.view.set(mode=Mode.BLEND)
    compare.settle(two)
    assert two.toolbar.blend.isVisible()
    two.toolbar.blend.setValue(share)
    assert inside(two, pixels(two.board)) == grey(DARK + (BRIGHT - DARK) * share / 100)


def test_modes_need_two_images_and_say_so(viewer, add, head, compare):
    add(head, Role.GROUND_TRUTH)
    dock = compare()
    for mode in list(Mode)[1:]:
        button = dock.toolbar.buttons[f"mode {mode.value}"]
        assert not button.isEnabled()
        assert "Two images are needed" in button.toolTip()
    candidate = add(head.replace(data=head.data * 2, name="SR"))
    Session.of(viewer).add_candidate(candidate)
    compare.settle(dock)
    button = dock.toolbar.buttons["mode Swipe"]
    assert button.isEnabled()
    assert button.toolTip().endswith("[2]")
    button.click()
    viewer.layers.remove(candidate)
    compare.settle(dock)
    assert dock.board.panes() == []
    dock.board.grab()
    assert not button.isEnabled()


def test_maps_can_be_swiped_too(trio, compare):
    dock = compare()
    dock.view.set(mode=Mode.SWIPE, content=Content.GRADIENT)
    assert dock.board.panes()
    dock.board.grab()
