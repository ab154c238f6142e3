from __future__ import annotations

import gc
import weakref

import numpy as np

from napari_mrsr.gui.role_boxes import RoleBoxes
from napari_mrsr.gui.session import Role, Run, Session


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
