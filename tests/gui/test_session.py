from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from napari_mrsr.errors import InputError
from napari_mrsr.gui import _compat
from napari_mrsr.gui.role_boxes import RoleBoxes
from napari_mrsr.gui.session import Role, Run, Session
from napari_mrsr.volume import Box


def test_one_session_per_viewer(viewer):
    assert Session.of(viewer) is Session.of(viewer)


def test_roles_come_from_metadata_and_leave_with_their_layer(pair):
    session = Session.of(pair)
    seen = []
    session.roles_changed.connect(lambda: seen.append(1))
    assert session.layer(Role.GROUND_TRUTH) is pair.layers["HR"]
    pair.layers.remove("HR")
    assert session.layer(Role.GROUND_TRUTH) is None
    assert seen


def test_combo_boxes_follow_layers_and_renames(qtbot, pair):
    session = Session.of(pair)
    boxes = RoleBoxes(session, {Role.REFERENCE: ""})
    qtbot.addWidget(boxes)
    box = boxes.boxes[Role.REFERENCE]
    assert [box.itemText(i) for i in range(box.count())] == ["(none)", "HR", "LR"]
    box.setCurrentIndex(2)
    box.activated.emit(2)
    assert session.layer(Role.REFERENCE) is pair.layers["LR"]
    pair.layers["LR"].name = "renamed"
    assert box.currentText() == "renamed"
    pair.layers.remove("renamed")
    assert box.currentText() == "(none)"
    boxes.disconnect_session()


def test_removing_a_run_takes_its_layers_only(pair):
    session = Session.of(pair)
    layers = [pair.add_image(np.zeros((4, 4, 4)), name=n) for n in ("SR", "error")]
    run = Run("SR", layers[0], layers=list(layers))
    session.add_run(run)
    session.remove_run(run)
    assert [layer.name for layer in pair.layers] == ["HR", "LR"]
    assert session.runs == []


def test_a_run_whose_layers_were_deleted_by_hand_is_forgotten(pair):
    session = Session.of(pair)
    layer = pair.add_image(np.zeros((4, 4, 4)), name="SR")
    session.add_run(Run("SR", layer, layers=[layer]))
    pair.layers.remove(layer)
    assert session.runs == []


def test_session_does_not_keep_a_closed_viewer(make_napari_viewer):
    viewer = make_napari_viewer()
    Session.of(viewer)
    count = len(Session._all)
    reference = weakref.ref(viewer)
    viewer.close()
    del viewer
    gc.collect()
    assert reference() is None or len(Session._all) <= count


def test_the_position_is_kept_while_layers_of_other_dimensions_come_and_go(qtbot, pair):
    session = Session.of(pair)
    session.position = (3.25, 4.5, 20.0)
    qtbot.waitUntil(lambda: abs(pair.dims.point[2] - 20) < 1)
    stack = pair.add_image(np.zeros((3, 40, 48, 36), np.float32), name="stack")
    assert pair.dims.ndim == 4
    assert session.position == pytest.approx((3.25, 4.5, 20.0), abs=1)
    moved = []
    session.position_changed.connect(lambda: moved.append(session.position))
    pair.dims.set_point(0, 2)
    assert moved == []
    pair.dims.set_point(3, 11.0)
    assert session.position[2] == pair.dims.point[3]
    pair.layers.remove(stack)
    assert session.position[2] == pytest.approx(11, abs=1)
    pair.layers.clear()
    assert len(session.position) == 3


def test_moving_the_position_moves_napari_along_the_last_axes(qtbot, pair):
    session = Session.of(pair)
    pair.add_image(np.zeros((3, 40, 48, 36), np.float32), name="stack")
    pair.dims.set_point(0, 1)
    session.position = (5.0, -6.0, 20.0)
    qtbot.waitUntil(lambda: np.allclose(pair.dims.point[1:], session.position, atol=0.8))
    assert pair.dims.point[0] == 1


def test_candidates_come_in_order_once_and_go(pair):
    session = Session.of(pair)
    layers = [pair.add_image(np.zeros((4, 4, 4)), name=n) for n in ("a", "b")]
    seen = []
    session.roles_changed.connect(lambda: seen.append(session.candidates))
    for layer in (*layers, layers[0]):
        session.add_candidate(layer)
    assert session.candidates == tuple(layers)
    assert len(seen) == 2
    assert session.compared() == [pair.layers["LR"], *layers, pair.layers["HR"]]
    session.add_candidate(pair.layers["HR"])
    assert session.compared().count(pair.layers["HR"]) == 1
    pair.layers.remove("a")
    assert session.candidates == (layers[1], pair.layers["HR"])
    session.drop_candidate(layers[1])
    assert layers[1] in pair.layers
    with pytest.raises(ValueError, match="add_candidate"):
        session.assign(Role.CANDIDATE, layers[1])


def test_volumes_are_made_once_for_as_long_as_they_hold(pair):
    session = Session.of(pair)
    layer = pair.add_image(np.random.default_rng(0).random((6, 7, 8)), name="other")
    volume = session.volume(layer)
    assert session.volume(layer) is volume
    layer.translate = (1, 2, 3)
    assert session.volume(layer).affine[:3, 3] == pytest.approx((1, 2, 3))
    layer.data = layer.data * 2
    assert np.array_equal(session.volume(layer).data, layer.data)
    layer.name = "renamed"
    assert session.volume(layer).name == "renamed"
    layer.data = np.full((6, 7, 8), np.nan)
    for name in ("renamed", "again"):
        layer.name = name
        with pytest.raises(InputError, match=f"{name} holds NaN"):
            session.volume(layer)
    layer.data = np.ones((6, 7, 8))
    assert session.volume(layer).data.max() == 1


def test_region_line_and_mask_tell_of_changes_only(pair):
    session = Session.of(pair)
    seen = []
    for name in ("roi", "line", "mask"):
        getattr(session, f"{name}_changed").connect(lambda name=name: seen.append(name))
    mask = pair.add_labels(np.zeros((4, 4, 4), np.uint8))
    for _ in range(2):
        session.roi = Box((0, 0, 0), (1, 2, 3))
        session.line = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        session.mask = mask
    assert seen == ["roi", "line", "mask"]
    pair.layers.remove(mask)
    assert session.mask is None
    assert seen[-1] == "mask"


def test_sliders_wait_while_the_canvas_is_hidden(qtbot, pair):
    session = Session.of(pair)
    _compat.show_canvas(pair, False)
    before = tuple(pair.dims.point)
    session.position = (3.0, -4.0, 20.0)
    qtbot.wait(100)
    assert tuple(pair.dims.point) == before
    _compat.show_canvas(pair, True)
    session.move_sliders()
    np.testing.assert_allclose(pair.dims.point, (3.0, -4.0, 20.0), atol=1.5)
    assert session.position == (3.0, -4.0, 20.0)
