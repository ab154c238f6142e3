from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.gui.degrade_dock import FIELDS, DegradeDock
from napari_mrsr.gui.forms import form_values, model_form
from napari_mrsr.gui.layers import layer_to_volume
from napari_mrsr.gui.session import Role, Session


@pytest.fixture
def dock(pair, monkeypatch):
    widget = DegradeDock(pair)
    pair.window.add_dock_widget(widget, name="Make low-resolution")
    widget.said = []
    monkeypatch.setattr("napari_mrsr.gui.dock.show_error", widget.said.append)
    return widget


def test_the_form_is_the_model(qapp):
    form = model_form(Degradation, FIELDS)
    assert Degradation.create(**form_values(form)) == Degradation()
    form["protocol"].value = "kspace"
    form["axis"].value = "A"
    form["noise"].value = 2.5
    assert Degradation.create(**form_values(form)) == Degradation(protocol="kspace", axis="A", noise=2.5)


def test_button_makes_the_low_resolution_layer(qtbot, pair, dock, head):
    dock.form["scale"].value = 3
    qtbot.mouseClick(dock.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: len(pair.layers) == 3, timeout=20_000)
    made = layer_to_volume(pair.layers[-1])
    expected = degrade(head, Degradation(scale=3))
    np.testing.assert_array_equal(made.data, expected.data)
    np.testing.assert_allclose(made.affine, expected.affine)
    assert dock.session.layer(Role.LOW_RESOLUTION) is pair.layers[-1]


def test_wrong_factor_and_missing_volume_are_said(qtbot, dock):
    dock.form["scale"].value = 8
    qtbot.mouseClick(dock.button, Qt.MouseButton.LeftButton)
    assert "defined for factors" in dock.said[-1]
    dock.session.assign(Role.GROUND_TRUTH, None)
    qtbot.mouseClick(dock.button, Qt.MouseButton.LeftButton)
    assert "ground truth" in dock.said[-1]


def test_a_constant_volume_is_told_at_once(qtbot, pair, dock):
    assert dock.warning.isHidden()
    flat = pair.add_image(np.full((9, 9, 9), 7, np.float32), name="flat")
    dock.session.assign(Role.GROUND_TRUTH, flat)
    assert "same value" in dock.warning.text()
    assert "flat" in dock.warning.text()
    assert not dock.warning.isHidden()
    dock.session.assign(Role.GROUND_TRUTH, pair.layers["HR"])
    assert dock.warning.isHidden()
    assert dock.said == []


def test_a_dock_that_is_gone_hears_nothing(qtbot, pair):
    session = Session.of(pair)
    before = len(session.roles_changed)
    widget = DegradeDock(pair)
    docked = pair.window.add_dock_widget(widget, name="Make low-resolution")
    pair.window.remove_dock_widget(docked)
    with qtbot.waitSignal(widget.destroyed):
        widget.deleteLater()
    assert len(session.roles_changed) == before
