"""The light beside the model, and the proposed model."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QMessageBox
from scipy import ndimage

from napari_mrsr.gui.domain_light import COLOURS
from napari_mrsr.gui.session import Role
from napari_mrsr.gui.settings import remember
from napari_mrsr.gui.super_resolve_dock import SuperResolveDock
from napari_mrsr.volume import Volume
from napari_mrsr.zoo import Card, Domain

SOON = 60_000


def card(name, protocol, scale=2, voxel=(1.5, 3.2), contrasts=("T1w",), **changes):
    domain = Domain(contrasts=contrasts, voxel_size=voxel, noise=(0, 5))
    return Card(name=name, title=name, architecture="cftn", scale=scale, protocol=protocol, weights="w", domain=domain, uses_noise=True, **changes)


CARDS = [
    card("guided", "kspace", contrasts=("T2w guided by T1w",), reference="needed"),
    card("thick", "slice-profile", 4, (3.5, 8.0), ("T1w", "T2w")),
    card("iso", "gaussian"),
    Card(name="plain", title="plain", architecture="cubic", uses_noise=True),
]


@pytest.fixture
def dock(qtbot, pair, fake, monkeypatch, said):
    """The dock with made cards, before anything is known of the volume."""
    monkeypatch.setattr("napari_mrsr.gui.super_resolve_dock.list_models", lambda: CARDS)
    fake()
    widget = SuperResolveDock(pair)
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def known(qtbot):
    """Wait until contrast and noise of what is open are known."""

    def wait(dock):
        volume = dock.session.volume(dock.session.layer(Role.LOW_RESOLUTION))
        qtbot.waitUntil(lambda: dock.facts.of(volume) is not None, timeout=SOON)
        return dock

    return wait


def volume(name, voxel, shape=(24, 24, 24)):
    data = ndimage.gaussian_filter(np.random.default_rng(0).random(shape).astype(np.float32), 2)
    return Volume(data, np.diag([*voxel, 1.0]), name=name)


def pick(dock, model):
    """What the hand does in the box."""
    dock.models.setCurrentText(model)
    dock.models.activated.emit(dock.models.currentIndex())


def open_as(dock, add, name, voxel, role=Role.LOW_RESOLUTION):
    layer = add(volume(name, voxel))
    dock.session.assign(role, layer)
    return layer


def test_what_suits_is_chosen_when_a_volume_opens_and_why_is_told(dock, add, known):
    for name, voxel, expected in (("a_T1w", (2, 2, 2), "iso"), ("b_T2w", (1, 1, 4), "thick"), ("c_T1w", (9, 9, 9), "plain")):
        open_as(dock, add, name, voxel)
        known(dock)
        assert dock.models.currentText() == expected
        assert dock.proposal.label.text().startswith(f"Proposed: {expected}")
        assert not dock.proposal.button.isVisibleTo(dock)
    assert "no network fits" in dock.proposal.label.text()


def test_the_users_own_choice_stays_and_the_proposal_is_only_told(qtbot, dock, add, known):
    pick(dock, "thick")
    open_as(dock, add, "a_T1w", (2, 2, 2))
    known(dock)
    assert dock.models.currentText() == "thick"
    assert dock.proposal.label.text().startswith("Better suited: iso")
    assert dock.light.text() == "red"
    assert dock.proposal.button.isVisibleTo(dock)
    qtbot.mouseClick(dock.proposal.button, Qt.MouseButton.LeftButton)
    assert dock.models.currentText() == "iso"
    assert not dock.proposal.button.isVisibleTo(dock)
    open_as(dock, add, "b_T2w", (1, 1, 4))
    known(dock)
    assert dock.models.currentText() == "iso"
    assert dock.proposal.label.text().startswith("Better suited: thick")


def test_a_model_of_an_earlier_session_is_the_users_own(qtbot, pair, fake, add, known, monkeypatch):
    monkeypatch.setattr("napari_mrsr.gui.super_resolve_dock.list_models", lambda: CARDS)
    remember("models", ["plain"])
    fake()
    widget = SuperResolveDock(pair)
    qtbot.addWidget(widget)
    open_as(widget, add, "a_T1w", (2, 2, 2))
    known(widget)
    assert widget.models.currentText() == "plain"
    widget.refresh_models()
    assert widget.models.currentText() == "plain"


def test_picking_what_is_proposed_is_a_choice(dock, add, known):
    open_as(dock, add, "a_T1w", (2, 2, 2))
    known(dock)
    pick(dock, "iso")
    open_as(dock, add, "b_T2w", (1, 1, 4))
    known(dock)
    assert dock.models.currentText() == "iso"


def test_a_list_of_models_read_anew_is_no_choice(dock, add, known):
    dock.refresh_models()
    open_as(dock, add, "b_T2w", (1, 1, 4))
    known(dock)
    assert dock.models.currentText() == "thick"


@pytest.mark.parametrize(
    ("name", "voxel", "level"),
    [("a_T1w", (2, 2, 2), "green"), ("a_FLAIR", (2, 2, 2), "amber"), ("a_T1w", (9, 9, 9), "red"), ("a_T1w", (1, 1, 4), "red")],
)
def test_the_light_says_level_and_reasons(qtbot, dock, add, known, name, voxel, level):
    pick(dock, "iso")
    open_as(dock, add, name, voxel)
    assert dock.light.isVisibleTo(dock)
    known(dock)
    assert dock.light.text() == level
    assert level in dock.light.accessibleName()
    assert not dock.light.details.isVisibleTo(dock)
    qtbot.mouseClick(dock.light, Qt.MouseButton.LeftButton)
    assert dock.light.details.isVisibleTo(dock)
    assert COLOURS[level] in dock.light.reasons.text()
    assert f"{voxel[0]:.2f}" in dock.light.reasons.text()
    assert dock.light.reasons.text() in dock.light.toolTip()


def test_voxels_are_judged_at_once_and_the_rest_when_it_is_known(dock, add, known):
    pick(dock, "iso")
    open_as(dock, add, "a_T2w", (2, 2, 2))
    assert dock.light.text() == "green..."
    assert "being looked at" in dock.light.reasons.text()
    known(dock)
    assert dock.light.text() == "amber"
    assert "T2w" in dock.light.reasons.text()
    assert "being looked at" not in dock.light.reasons.text()


def test_no_light_for_classic_methods_and_without_a_volume(dock, add, known):
    open_as(dock, add, "a_T1w", (2, 2, 2))
    known(dock)
    dock.models.setCurrentText("plain")
    assert not dock.light.isVisibleTo(dock)
    dock.models.setCurrentText("iso")
    assert dock.light.isVisibleTo(dock)
    dock.session.assign(Role.LOW_RESOLUTION, None)
    assert not dock.light.isVisibleTo(dock)
    assert not dock.proposal.isVisibleTo(dock)


def test_a_reference_turns_the_proposal(dock, add, known):
    open_as(dock, add, "a_T2w", (2, 2, 2.2))
    known(dock)
    assert dock.models.currentText() == "iso"
    open_as(dock, add, "a_T1w", (1, 1, 1), Role.REFERENCE)
    assert dock.models.currentText() == "guided"
    assert "reference a_T1w" in dock.proposal.label.text()
    assert dock.light.text() == "green"


def test_a_small_piece_is_tried_on_request_and_told_for_what_was_tried(qtbot, dock, add, known):
    open_as(dock, add, "a_T1w", (2, 2, 2))
    known(dock)
    qtbot.mouseClick(dock.light, Qt.MouseButton.LeftButton)
    qtbot.mouseClick(dock.light.try_button, Qt.MouseButton.LeftButton)
    assert dock.client.pieces[0]["options"].model == "iso"
    assert not dock.light.try_button.isEnabled()
    dock.client.tried.emit({"level": "red", "text": "It misses the input by 9 %."})
    assert dock.light.text() == "red"
    assert "It misses the input" in dock.light.reasons.text()
    assert not dock.light.try_button.isVisibleTo(dock)
    dock.models.setCurrentText("thick")
    assert "It misses the input" not in dock.light.reasons.text()
    assert dock.light.try_button.isEnabled()
    dock.models.setCurrentText("iso")
    assert dock.light.text() == "red"


def test_a_piece_that_fails_says_why(qtbot, dock, add, known, said):
    open_as(dock, add, "a_T1w", (2, 2, 2))
    known(dock)
    dock.light.setChecked(True)
    qtbot.mouseClick(dock.light.try_button, Qt.MouseButton.LeftButton)
    dock.client.try_failed.emit("The weights are damaged.")
    assert said == ["The weights are damaged."]
    assert dock.light.try_button.isEnabled()
    assert dock.light.text() == "green"


@pytest.mark.parametrize(("name", "voxel", "asks"), [("a_T1w", (2, 2, 2), False), ("a_T2w", (2, 2, 2), False), ("a_T1w", (9, 9, 9), True)])
def test_only_red_is_asked_about(dock, add, known, monkeypatch, name, voxel, asks):
    pick(dock, "iso")
    open_as(dock, add, name, voxel)
    known(dock)
    asked, started = [], []
    monkeypatch.setattr(QMessageBox, "question", lambda *a: asked.append(a[-1]) or QMessageBox.StandardButton.No)
    monkeypatch.setattr(dock.queue, "start", started.append)
    dock.start()
    assert bool(asked) is asks
    assert bool(started) is not asks


def test_classic_methods_are_told_of_thick_slices(dock, add, known, monkeypatch):
    monkeypatch.setattr("napari_mrsr.gui.super_resolve_dock.list_models", lambda: CARDS[2:])
    dock.refresh_models()
    layer = open_as(dock, add, "a_T1w", (1, 1, 6))
    known(dock)
    assert dock.models.currentText() == "plain"
    assert dock.options(dock.session.volume(layer)).protocol == "slice-profile"
    dock.models.setCurrentText("iso")
    assert dock.options(dock.session.volume(layer)).protocol is None


def test_broken_volumes_have_neither_light_nor_proposal(dock, add, said):
    layer = add(volume("flat_T1w", (2, 2, 2)).replace(data=np.full((9, 9, 9), 4.0)))
    dock.session.assign(Role.LOW_RESOLUTION, layer)
    assert "same value" in dock.warning.text()
    assert not dock.light.isVisibleTo(dock)
    assert not dock.proposal.isVisibleTo(dock)
    assert said == []


@pytest.mark.shown
def test_nothing_is_cut_off_in_a_narrow_dock(qtbot, pair, dock, add, known):
    pair.window.add_dock_widget(dock, name="Super-resolve")
    pick(dock, "iso")
    open_as(dock, add, "a_FLAIR", (1, 1, 6))
    known(dock)
    dock.light.setChecked(True)
    inside, labels = (dock.light, dock.proposal.button, dock.light.try_button), (dock.light.reasons, dock.proposal.label)
    # The layout follows on later turns of the event loop.
    qtbot.waitUntil(lambda: all(w.mapTo(dock, w.rect().topRight()).x() <= dock.width() for w in inside), timeout=SOON)
    qtbot.waitUntil(lambda: all(label.height() >= label.heightForWidth(label.width()) for label in labels), timeout=SOON)
    for widget in inside:
        assert widget.width() >= widget.sizeHint().width()
