from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPointF, Qt

from napari_mrsr.evaluation.maps import DIFFERENCES
from napari_mrsr.gui.compare.view import Content, Mode, Tool
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.planes import PLANES


@pytest.fixture
def everything(qtbot, hand):
    """Go through all that can be done with a dock; pytest-qt reports whatever is raised on the way, painting included."""

    def go(dock):
        mouse, board = hand(dock.board), dock.board
        at = QPointF(board.width() / 4, board.height() / 3)
        for action in dock.commands.values():
            if action.name not in {"keys", "blink", "fill"}:
                action.run()
                board.grab()
        dock.view.fit()
        for mode in Mode:
            for content in Content:
                dock.view.set(mode=mode, content=content, planes=("axial",))
                board.grab()
        for tool in Tool:
            dock.view.set(mode=Mode.PANES, content=Content.IMAGE, tool=tool, planes=tuple(PLANES))
            mouse.drag(at, at + QPointF(30, 20))
            mouse.drag(at, at + QPointF(30, 20), mouse.RIGHT)
            mouse.drag(at, at + QPointF(30, 20), mouse.MIDDLE)
            mouse.double_click(at)
            mouse.wheel(at, 1)
            mouse.wheel(at, 1, mouse.CTRL)
            board.grab()
        for kind in DIFFERENCES:
            dock.view.set(content=Content.DIFFERENCE, difference=kind)
            board.grab()
        dock.toolbar.preset.activated.emit(2)
        dock.toolbar.window_width.setValue(123.0)
        qtbot.keyClick(board, Qt.Key.Key_Up)
        dock._refresh()
        dock._show_values()
        dock.view.set(mode=Mode.PANES, content=Content.IMAGE, planes=("axial",))
        dock.view.fit()

    return go


def test_nothing_to_show(viewer, compare, everything):
    dock = compare()
    everything(dock)
    assert dock.board.panes() == []
    assert not dock.toolbar.window_width.isEnabled()


def test_one_image(viewer, add, head, compare, everything):
    add(head, Role.LOW_RESOLUTION)
    everything(compare())


@pytest.mark.parametrize("shape", [(30, 20), (3, 12, 14, 16)], ids=["2D", "4D"])
@pytest.mark.parametrize("role", [Role.GROUND_TRUTH, None], ids=["truth", "candidate"])
def test_images_that_are_not_3d_have_no_pane(trio, compare, everything, shape, role):
    dock = compare()
    here = trio.position
    layer = dock.viewer.add_image(np.ones(shape, np.float32), name="other")
    if role is None:
        trio.add_candidate(layer)
    else:
        trio.assign(role, layer)
    assert trio.position == pytest.approx(here, abs=0.5)
    assert layer not in dock.view.images()
    everything(dock)
    assert layer not in [p.layers[0] for p in dock.board.panes()]


def test_colour_images_and_labels_have_no_pane(trio, compare, everything):
    dock = compare()
    colour = dock.viewer.add_image(np.zeros((12, 14, 16, 3), np.uint8), rgb=True, name="colour")
    labels = dock.viewer.add_labels(np.ones((12, 14, 16), np.uint8), name="labels")
    for layer in (colour, labels):
        trio.add_candidate(layer)
    assert {"colour", "labels"}.isdisjoint(layer.name for layer in dock.view.images())
    everything(dock)


@pytest.mark.parametrize(
    ("role", "value"), [(Role.GROUND_TRUTH, np.nan), (Role.LOW_RESOLUTION, np.nan), (None, np.nan), (Role.GROUND_TRUTH, 0.0), (None, 7.0)]
)
def test_empty_and_constant_volumes(trio, compare, everything, head, value, role):
    data = np.full(head.shape, value, np.float32)
    layer = trio.viewer.add_image(data, affine=head.affine, name="flat")
    if role is None:
        trio.add_candidate(layer)
    else:
        trio.assign(role, layer)
    dock = compare()
    everything(dock)
    drawn = dock.board.gallery.drawn(layer, PLANES["axial"])
    if np.isnan(value):
        assert drawn.message == "flat holds NaN or infinite values; replace them before use."
    else:
        assert drawn.image is not None
    others = [p.layers[0] for p in dock.board.panes() if p.layers[0] is not layer]
    assert all(dock.board.gallery.drawn(other, PLANES["axial"]).image is not None for other in others)


def test_nothing_but_an_unusable_volume(viewer, compare, everything):
    layer = viewer.add_image(np.full((8, 9, 10), np.nan, np.float32), name="flat")
    Session.of(viewer).assign(Role.GROUND_TRUTH, layer)
    dock = compare()
    everything(dock)
    assert dock.view.main is None


def test_volumes_that_do_not_overlap(qtbot, trio, compare, add, everything, head):
    affine = head.affine.copy()
    affine[:3, 3] += 1000
    far = add(head.replace(affine=affine, name="far"))
    trio.add_candidate(far)
    dock = compare()
    everything(dock)
    dock.view.set(content=Content.DIFFERENCE)
    qtbot.waitUntil(lambda: dock.board.gallery.drawn(far, PLANES["axial"]).message == "far and HR do not overlap.")
    dock.view.set(content=Content.IMAGE)
    drawn = dock.board.gallery.drawn(far, PLANES["axial"])
    assert (drawn.image, drawn.message) == (None, "")


OVER_EACH_OTHER = [(Mode.SWIPE, Content.DIFFERENCE), (Mode.FLICKER, Content.IMAGE), (Mode.BLEND, Content.GRADIENT)]


@pytest.mark.parametrize(("mode", "content"), [*((Mode.PANES, c) for c in Content), *OVER_EACH_OTHER])
def test_layers_leave_one_after_the_other(qtbot, trio, compare, mode, content):
    dock = compare()
    dock.view.set(mode=mode, content=content)
    dock.board.grab()
    for name in ("brighter", "HR", "LR", "blurred"):
        dock.viewer.layers.remove(name)
        dock.board.grab()
        compare.settle(dock)
    assert dock.board.panes() == []


def test_a_new_name_shows_everywhere(trio, compare):
    dock = compare()
    dock.viewer.layers["blurred"].name = "renamed"
    compare.settle(dock)
    boxes = (dock.toolbar.first, dock.toolbar.second, dock.toolbar.against)
    assert all(box.findText("renamed") >= 0 for box in boxes)
    assert all(box.findText("blurred") < 0 for box in boxes)
    assert "renamed " in dock.values.text()


def test_new_data_are_drawn(trio, compare, pixels, head):
    dock = compare()
    before = pixels(dock.board)
    trio.layer(Role.GROUND_TRUTH).data = head.data[::-1].copy()
    changed = (pixels(dock.board) != before).any(-1)
    inside = [changed[p.frame.pane.toRect().center().y(), :][int(p.frame.pane.left()) : int(p.frame.pane.right())].any() for p in dock.board.panes()]
    assert inside == [False, False, False, True]
    trio.layer(Role.GROUND_TRUTH).data = np.ones((5, 6, 7), np.float32)
    dock.board.grab()
    compare.settle(dock)


def test_a_truth_that_leaves_while_differences_are_on_view(trio, compare):
    dock = compare()
    dock.view.set(content=Content.DIFFERENCE)
    dock.board.grab()
    dock.viewer.layers.remove("HR")
    dock.board.grab()
    assert "No ground truth" in dock.board.gallery.drawn(dock.viewer.layers["blurred"], PLANES["axial"]).message
