"""Roles by combo box, by list, by file."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication, QFileDialog, QPushButton, QToolButton

from napari_mrsr.gui.role_boxes import RoleBoxes
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.gui.settings import recall
from napari_mrsr.io import write_volume

ROLES = dict.fromkeys((Role.LOW_RESOLUTION, Role.REFERENCE, Role.GROUND_TRUTH, Role.CANDIDATE), "")


@pytest.fixture
def make_boxes(qtbot, said):
    made = []

    def make(viewer):
        boxes = RoleBoxes(Session.of(viewer), ROLES)
        qtbot.addWidget(boxes)
        made.append(boxes)
        return boxes

    yield make
    for boxes in made:
        boxes.disconnect_session()


def drop(widget, *paths):
    """What a file manager sends."""
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    rest = (Qt.DropAction.CopyAction, mime, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    enter = QDragEnterEvent(QPoint(3, 3), *rest)
    QApplication.sendEvent(widget, enter)
    event = QDropEvent(QPointF(3, 3), *rest)
    QApplication.sendEvent(widget, event)
    return enter.isAccepted() and event.isAccepted()


def items(boxes):
    entries = boxes.candidates.entries
    return {entries.item(i).text(): entries.item(i).checkState() == Qt.CheckState.Checked for i in range(entries.count())}


def test_ticks_make_and_unmake_candidates(make_boxes, pair, head):
    session, boxes = Session.of(pair), make_boxes(pair)
    layer = pair.add_image(head.data, name="SynthSR", scale=(2, 2, 2))
    assert items(boxes) == {"SynthSR": False}
    boxes.candidates.entries.item(0).setCheckState(Qt.CheckState.Checked)
    assert session.candidates == (layer,)
    layer.name = "renamed"
    assert items(boxes) == {"renamed": True}
    boxes.candidates.entries.item(0).setCheckState(Qt.CheckState.Unchecked)
    assert session.candidates == ()
    pair.layers.remove(layer)
    assert items(boxes) == {}
    assert "renamed" not in [boxes.boxes[Role.REFERENCE].itemText(i) for i in range(boxes.boxes[Role.REFERENCE].count())]


def test_dropped_files_get_the_role_of_the_row(qtbot, make_boxes, pair, head, tmp_path, said):
    session, boxes = Session.of(pair), make_boxes(pair)
    affine = np.diag([0.8, 0.9, 1.1, 1.0])
    for name in ("smore", "siq"):
        write_volume(head.replace(affine=affine), tmp_path / f"{name}.nii.gz")
    assert drop(boxes.candidates, tmp_path / "smore.nii.gz", tmp_path / "siq.nii.gz")
    qtbot.waitUntil(lambda: len(session.candidates) == 2)
    assert {layer.name for layer in session.candidates} == {"smore", "siq"}
    np.testing.assert_allclose(session.volume(session.candidates[0]).voxel_size, (0.8, 0.9, 1.1), rtol=1e-5)
    assert drop(boxes.boxes[Role.REFERENCE].parentWidget(), tmp_path / "siq.nii.gz")
    qtbot.waitUntil(lambda: session.layer(Role.REFERENCE) is not None)
    assert boxes.boxes[Role.REFERENCE].currentText().startswith("siq")
    assert session.layer(Role.GROUND_TRUTH).name == "HR"
    assert said == []


def test_files_that_cannot_be_used_are_said_and_the_others_come(qtbot, make_boxes, pair, head, tmp_path, said, monkeypatch):
    session, boxes = Session.of(pair), make_boxes(pair)
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    colour = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, np.eye(4)), tmp_path / "colour.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), np.eye(4)), tmp_path / "stack.nii.gz")
    write_volume(head, tmp_path / "good.nii.gz")
    asked = []
    monkeypatch.setattr("napari_mrsr.gui.open_files.ask_index", lambda path, count: asked.append(count))
    drop(boxes.candidates, *(tmp_path / f"{name}.nii.gz" for name in ("broken", "colour", "stack", "good")))
    qtbot.waitUntil(lambda: len(said) == 2 and asked == [2] and len(session.candidates) == 1)
    assert [layer.name for layer in session.candidates] == ["good"]
    assert any("broken.nii.gz" in sentence for sentence in said)
    assert any("colour.nii.gz" in sentence for sentence in said)
    assert not any("Traceback" in sentence or "\n" in sentence for sentence in said)


def test_text_is_not_taken_for_files(make_boxes, pair):
    boxes = make_boxes(pair)
    assert not drop(boxes.candidates)


def test_buttons_ask_for_files_and_remember_the_folder(qtbot, make_boxes, pair, head, tmp_path, monkeypatch):
    session, boxes = Session.of(pair), make_boxes(pair)
    write_volume(head, tmp_path / "other.nii.gz")
    path = str(tmp_path / "other.nii.gz")
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *_a, **_k: ([path], ""))
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_a, **_k: (path, ""))
    boxes.show()
    qtbot.waitExposed(boxes)
    boxes.candidates.expand(animate=False)
    qtbot.wait(50)
    qtbot.mouseClick(boxes.findChild(QPushButton, "add candidates"), Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: len(session.candidates) == 1)
    qtbot.mouseClick(boxes.findChild(QToolButton, "open Reference"), Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: session.layer(Role.REFERENCE) is not None)
    assert recall("folder", "") == str(tmp_path)


def test_the_only_image_is_proposed_never_taken_silently(qtbot, make_boxes, viewer, head):
    session, boxes = Session.of(viewer), make_boxes(viewer)
    assert not boxes.proposal.isVisibleTo(boxes)
    layer = viewer.add_image(head.data, name="scan")
    assert session.layer(Role.LOW_RESOLUTION) is None
    assert boxes.proposal.isVisibleTo(boxes)
    qtbot.mouseClick(boxes.proposal, Qt.MouseButton.LeftButton)
    assert session.layer(Role.LOW_RESOLUTION) is layer
    assert not boxes.proposal.isVisibleTo(boxes)


def test_two_images_are_not_guessed_about(make_boxes, viewer, head):
    boxes = make_boxes(viewer)
    for name in ("one", "two"):
        viewer.add_image(head.data, name=name)
    assert not boxes.proposal.isVisibleTo(boxes)
