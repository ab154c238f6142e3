"""The first minute: samples that open as ready workspaces, the hint, the help entry."""

from __future__ import annotations

import npe2
import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QMessageBox
from skimage.metrics import normalized_mutual_information

from napari_mrsr.degradation import recorded_degradation
from napari_mrsr.gui import _compat
from napari_mrsr.gui.diagnostics_action import diagnostics_action
from napari_mrsr.gui.hint_bar import HintBar
from napari_mrsr.gui.layers import KEY
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.gui.super_resolve_dock import SuperResolveDock
from napari_mrsr.gui.workspace import MAIN, SIDE
from napari_mrsr.samples import FOLDER, list_samples, read_sample

PLUGIN = "napari-mrsr"
WORKSPACES = ("arc2017-t1-pair", "arc2208-t2-thick", "msl04-registered", "msl04-acquired")


def opened(qtbot, viewer, key):
    viewer.open_sample(PLUGIN, key)
    session = Session.of(viewer)
    qtbot.waitUntil(lambda: session.layer(Role.LOW_RESOLUTION) is not None and tuple(viewer.dims.order) == (2, 1, 0))
    return session


def volume(session, role):
    layer = session.layer(role)
    return session.volume(layer) if layer is not None else None


@pytest.mark.parametrize(
    ("key", "protocol", "scale"), [("arc2017-t1-pair", "gaussian", 2), ("arc2208-t2-thick", "slice-profile", 4), ("msl04-registered", "kspace", 2)]
)
def test_a_pair_has_its_roles_its_record_and_one_window(qtbot, viewer, key, protocol, scale):
    session = opened(qtbot, viewer, key)
    low, truth = volume(session, Role.LOW_RESOLUTION), volume(session, Role.GROUND_TRUTH)
    made = recorded_degradation(low)
    assert (made.protocol, made.scale) == (protocol, scale)
    np.testing.assert_allclose(low.box().lower, truth.box().lower, atol=1.0)
    layers = [session.layer(role) for role in (Role.LOW_RESOLUTION, Role.GROUND_TRUTH)]
    qtbot.waitUntil(lambda: layers[0].contrast_limits == layers[1].contrast_limits)
    layers[0].contrast_limits = (5, 77)
    assert layers[1].contrast_limits == [5, 77]


def test_the_registered_reference_lies_on_the_grid_of_the_truth(qtbot, viewer):
    session = opened(qtbot, viewer, "msl04-registered")
    truth, reference = volume(session, Role.GROUND_TRUTH), volume(session, Role.REFERENCE)
    assert reference.shape == truth.shape
    np.testing.assert_allclose(reference.affine, truth.affine, atol=1e-4)
    shared = {shift: normalized_mutual_information(truth.data, np.roll(reference.data, shift, axis=(0, 1))) for shift in (0, 2, -2)}
    assert shared[0] > max(shared[2], shared[-2])


def test_as_acquired_has_no_truth_and_a_reference_on_another_grid(qtbot, viewer):
    session = opened(qtbot, viewer, "msl04-acquired")
    low, reference = volume(session, Role.LOW_RESOLUTION), volume(session, Role.REFERENCE)
    assert session.layer(Role.GROUND_TRUTH) is None
    assert low.voxel_size[2] == pytest.approx(3.3, abs=1e-3)
    assert reference.shape != low.shape
    assert reference.voxel_size[2] == pytest.approx(3.0, abs=1e-3)


def test_another_workspace_takes_the_roles_and_leaves_the_layers(qtbot, viewer):
    first = opened(qtbot, viewer, "arc2208-t2-thick").layer(Role.GROUND_TRUTH)
    viewer.open_sample(PLUGIN, "msl04-acquired")
    session = Session.of(viewer)
    qtbot.waitUntil(lambda: session.layer(Role.LOW_RESOLUTION).name == "T2")
    assert session.layer(Role.GROUND_TRUTH) is None
    assert session.layer(Role.REFERENCE).name == "T1"
    assert first in viewer.layers


@pytest.mark.shown
def test_docks_open_with_a_hint_that_can_be_sent_away(qtbot, viewer):
    opened(qtbot, viewer, "arc2208-t2-thick")
    window = _compat.main_window(viewer)
    qtbot.waitUntil(lambda: window.findChild(SuperResolveDock) is not None)
    dock = window.findChild(SuperResolveDock)
    qtbot.waitUntil(dock.hint.isVisible)
    assert "cubic" in dock.hint.label.text()
    assert {f"{name} ({PLUGIN})" for name in (MAIN, *SIDE)} <= set(viewer.window.dock_widgets)
    qtbot.mouseClick(dock.hint.close_button, Qt.MouseButton.LeftButton)
    assert not dock.hint.isVisible()
    again = HintBar()
    qtbot.addWidget(again)
    again.suggest("T2 thick", "text")
    assert again.isHidden()
    again.suggest("another", "text")
    assert not again.isHidden()


def test_every_workspace_is_in_the_menu_and_small():
    manifest = npe2.PluginManifest.from_distribution(PLUGIN)
    assert set(WORKSPACES) <= {sample.key for sample in manifest.contributions.sample_data}
    assert sum(path.stat().st_size for path in FOLDER.glob("*.nii.gz")) < 12e6
    licences = (FOLDER / "LICENCES.md").read_text()
    for name in list_samples():
        assert f"`{name}.nii.gz`" in licences


@pytest.mark.parametrize(("name", "source"), [("msl04_T2w", "sub-msl04_ses-1_T2w.nii.gz"), ("msl04_T1w", "native_grid/sub-msl04_ses-1_T1w.nii.gz")])
def test_cropped_samples_keep_every_voxel_in_its_place(shared_data, name, source):
    from napari_mrsr.io import read_volume

    whole, cropped = read_volume(shared_data(f"multi_thick/test/sub-msl04/{source}")), read_sample(name)
    start = np.linalg.solve(whole.affine, cropped.affine @ np.array([0, 0, 0, 1]))[:3]
    np.testing.assert_allclose(start, np.round(start), atol=1e-4)
    block = tuple(slice(s, s + n) for s, n in zip(np.round(start).astype(int), cropped.shape, strict=True))
    np.testing.assert_array_equal(whole.data[block], cropped.data)
    np.testing.assert_allclose(whole.affine[:3, :3], cropped.affine[:3, :3], atol=1e-6)


def test_help_copies_diagnostics_once_per_window(qtbot, pair, monkeypatch):
    heard = []
    monkeypatch.setattr("napari_mrsr.gui.dock.show_info", heard.append)
    docks = [SuperResolveDock(pair) for _ in range(2)]
    for dock in docks:
        qtbot.addWidget(dock)
    titles = [action.text() for action in pair.window.help_menu.actions()]
    assert titles.count("Copy diagnostics (MR Super-Resolution)") == 1
    pair.window.help_menu.aboutToShow.emit()
    action = diagnostics_action(pair)
    assert action.isEnabled()
    QGuiApplication.clipboard().setText("before")
    docks[0].help_button.click()
    assert not action.isEnabled()
    qtbot.waitUntil(lambda: bool(heard), timeout=60_000)
    text = QGuiApplication.clipboard().text()
    assert "napari-mrsr: " in text
    assert "torch: " in text
    assert action.isEnabled()


def test_a_failed_diagnosis_is_one_sentence(qtbot, pair, monkeypatch):
    heard = []
    monkeypatch.setattr("napari_mrsr.gui.dock.show_error", heard.append)
    monkeypatch.setattr("napari_mrsr.gui.diagnostics_action.sys.executable", "/nowhere/python")
    diagnostics_action(pair).trigger()
    qtbot.waitUntil(lambda: bool(heard), timeout=10_000)
    assert "could not be started" in heard[0]
    assert diagnostics_action(pair).isEnabled()


def test_the_roles_of_a_sample_are_in_its_layers(viewer):
    viewer.open_sample(PLUGIN, "arc2017-t1-pair")
    assert [layer.metadata[KEY]["role"] for layer in viewer.layers] == [Role.GROUND_TRUTH, Role.LOW_RESOLUTION]


@pytest.mark.shown
def test_sentences_are_seen_while_the_canvas_is_hidden(qtbot, pair, said):
    dock = SuperResolveDock(pair)
    pair.window.add_dock_widget(dock, name="Super-resolve")
    window = _compat.main_window(pair)
    _compat.show_canvas(pair, False)
    dock.region.draw_button.click()
    (box,) = window.findChildren(QMessageBox)
    assert "Compare" in box.text()
    assert said == []
    box.close()
    _compat.show_canvas(pair, True)
    dock.report("a sentence")
    assert said == ["a sentence"]
