from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from qtpy.compat import isalive
from qtpy.QtCore import Qt

from napari_mrsr.evaluation import compare
from napari_mrsr.gui import _compat
from napari_mrsr.gui.card_dialog import CardDialog
from napari_mrsr.gui.layers import layer_to_volume
from napari_mrsr.gui.region_box import BOX, SLICE
from napari_mrsr.gui.run_queue import Task
from napari_mrsr.gui.session import Role
from napari_mrsr.gui.super_resolve_dock import SuperResolveDock
from napari_mrsr.inference import super_resolve
from napari_mrsr.io import read_volume

MINUTE = 60_000


@pytest.fixture
def dock(super_resolve_dock):
    return super_resolve_dock


def finish(qtbot, dock, runs=1):
    qtbot.waitUntil(lambda: len(dock.session.runs) == runs and not dock.queue.busy, timeout=2 * MINUTE)


def test_a_run_adds_linked_layers_and_leaves_the_users_alone(qtbot, pair, dock):
    before = {layer.name: (layer.data.copy(), np.array(layer.affine)) for layer in pair.layers}
    dock.models.setCurrentText("cubic")
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    finish(qtbot, dock)
    names = [layer.name for layer in pair.layers]
    assert names == ["HR", "LR", "gradient HR", "gradient SR cubic", "error SR cubic - HR", "SR cubic"]
    for name, (data, affine) in before.items():
        np.testing.assert_array_equal(pair.layers[name].data, data)
        np.testing.assert_array_equal(np.array(pair.layers[name].affine), affine)
    low, high = pair.layers["error SR cubic - HR"].contrast_limits
    assert low == -high
    pair.layers["SR cubic"].contrast_limits = (10, 300)
    assert tuple(pair.layers["HR"].contrast_limits) == (10, 300)
    assert tuple(pair.layers["LR"].contrast_limits) == (10, 300)
    truth, result = layer_to_volume(pair.layers["HR"]), layer_to_volume(pair.layers["SR cubic"])
    score = compare(truth, [result])
    assert f"{score.results[0].psnr:.2f} dB" in dock.scores.text()
    assert "mrsr-1" in dock.scores.text()
    np.testing.assert_allclose(pair.layers["error SR cubic - HR"].data, result.data - truth.data, atol=1e-3)


def test_the_worker_gives_what_the_library_gives(qtbot, pair, dock):
    low = layer_to_volume(pair.layers["LR"])
    dock.models.setCurrentText("back-projection")
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    finish(qtbot, dock)
    np.testing.assert_allclose(pair.layers["SR back-projection"].data, super_resolve(low, "back-projection").data, atol=1e-3)


def test_remove_run_undoes(qtbot, pair, dock):
    dock.models.setCurrentText("nearest")
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    finish(qtbot, dock)
    qtbot.mouseClick(dock.saving.remove_button, Qt.MouseButton.LeftButton)
    assert [layer.name for layer in pair.layers] == ["HR", "LR"]
    assert not dock.saving.remove_button.isEnabled()


def test_two_runs_of_one_model_get_two_names(qtbot, pair, dock):
    dock.models.setCurrentText("nearest")
    for runs in (1, 2):
        qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
        finish(qtbot, dock, runs)
    assert {"SR nearest", "SR nearest (2)"} <= {layer.name for layer in pair.layers}


def test_current_slice_and_drawn_box(qtbot, pair, dock):
    pair.dims.order = (2, 1, 0)
    pair.dims.set_point(2, 30.0)
    dock.models.setCurrentText("cubic")
    dock.region.choice.setCurrentText(SLICE)
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    finish(qtbot, dock)
    slab = layer_to_volume(pair.layers["SR cubic"])
    assert slab.shape[:2] == (40, 48)
    assert slab.shape[2] in (2, 3)
    assert slab.box().lower[2] < 30 < slab.box().upper[2]
    dock.region.choice.setCurrentText(BOX)
    assert dock.region.draw_button.isVisibleTo(dock)
    qtbot.mouseClick(dock.region.draw_button, Qt.MouseButton.LeftButton)
    shapes = pair.layers.selection.active
    assert shapes.mode == "add_rectangle"
    shapes.add_rectangles(np.array([[-10, -20, 30], [-10, 10, 30], [5, 10, 30], [5, -20, 30]], float))
    qtbot.waitUntil(lambda: shapes.mode == "select")
    np.testing.assert_allclose(dock.session.roi.lower, (-10, -20, 10))
    dock.region.fields[2, 0].setValue(24)
    dock.region.fields[2, 1].setValue(36)
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    finish(qtbot, dock, 2)
    block = layer_to_volume(pair.layers["SR cubic (2)"]).box()
    np.testing.assert_allclose(block.lower, (-10, -20, 24), atol=1.6)
    np.testing.assert_allclose(block.upper, (5, 10, 36), atol=1.6)


def test_missing_pieces_are_said(qtbot, pair, dock, said):
    dock.region.choice.setCurrentText(BOX)
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    assert "No box is drawn yet" in said[-1]
    dock.region.choice.setCurrentIndex(0)
    dock.session.assign(Role.LOW_RESOLUTION, None)
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    assert "low resolution" in said[-1]
    flat = pair.add_image(np.zeros((8, 8)), name="flat")
    dock.session.assign(Role.LOW_RESOLUTION, flat)
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    assert "2 dimensions" in said[-1]
    assert dock.run_button.isEnabled()


def test_errors_of_the_worker_are_said_and_the_dock_stays_usable(qtbot, pair, dock, said):
    constant = pair.add_image(np.full((12, 12, 12), 5.0), name="constant")
    dock.session.assign(Role.LOW_RESOLUTION, constant)
    dock.models.setCurrentText("cubic")
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(said), timeout=MINUTE)
    assert "same value" in said[-1]
    assert dock.run_button.isEnabled()
    assert not dock.cancel_button.isEnabled()


def test_truth_that_does_not_overlap_costs_the_scores_not_the_result(qtbot, pair, dock, said):
    far = pair.add_image(np.random.default_rng(0).random((9, 9, 9)), name="far", translate=(900, 900, 900))
    dock.session.assign(Role.GROUND_TRUTH, far)
    dock.models.setCurrentText("cubic")
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    finish(qtbot, dock)
    assert "do not overlap" in said[-1]
    assert "SR cubic" in pair.layers


@pytest.mark.parametrize(
    ("data", "rgb", "sentence"),
    [
        (np.zeros((8, 8)), False, "2 dimensions"),
        (np.zeros((2, 8, 8, 8)), False, "4 dimensions"),
        (np.zeros((8, 8, 8, 3), np.uint8), True, "colour"),
        (np.full((8, 8, 8), np.nan, np.float32), False, "NaN"),
    ],
)
def test_layers_that_cannot_be_run_are_told_when_chosen_and_when_run(qtbot, pair, dock, said, data, rgb, sentence):
    odd = pair.add_image(data, name="odd", rgb=rgb, contrast_limits=(0, 1))
    box = dock.roles.boxes[Role.LOW_RESOLUTION]
    box.setCurrentText("odd")
    box.activated.emit(box.currentIndex())
    assert dock.session.layer(Role.LOW_RESOLUTION) is odd
    assert sentence in dock.warning.text()
    for button in (dock.run_button, dock.region.slice_button, dock.region.head_button):
        dock.region.choice.setCurrentText(BOX)
        said.clear()
        button.click()
        assert any(sentence in one for one in said) or "No box" in said[0]
    dock.region.choice.setCurrentIndex(0)
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    assert sentence in said[-1]
    pair.layers.remove(odd)
    assert dock.session.layer(Role.LOW_RESOLUTION) is None
    dock.session.assign(Role.LOW_RESOLUTION, pair.layers["LR"])
    dock.models.setCurrentText("nearest")
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    finish(qtbot, dock)


def test_closing_the_dock_while_scores_are_computed_shows_nothing(qtbot, pair, said, monkeypatch):
    widget = SuperResolveDock(pair)
    docked = pair.window.add_dock_widget(widget, name="Super-resolve")
    kept = []
    monkeypatch.setattr("napari_mrsr.gui.run_queue.in_background", lambda *_a, **k: kept.append(k))
    widget.models.setCurrentText("nearest")
    qtbot.mouseClick(widget.run_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(kept), timeout=MINUTE)
    assert kept[0]["owner"] is widget.queue
    pair.window.remove_dock_widget(docked)
    widget.deleteLater()
    qtbot.waitUntil(lambda: not isalive(widget), timeout=MINUTE)
    assert not isalive(kept[0]["owner"])
    assert [layer.name for layer in pair.layers] == ["HR", "LR"]


def slow(dock):
    """Send a run that takes long enough to be interrupted: a large volume through back-projection."""
    from napari_mrsr.inference import RunOptions
    from napari_mrsr.volume import Volume

    big = Volume(np.random.default_rng(0).random((160, 160, 160)).astype(np.float32), np.eye(4), name="big")
    dock.queue.start([Task(RunOptions.create(model=next(iter(dock._cards))), big, None, {})])


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_killed_worker_is_reported_and_the_next_run_works(qtbot, pair, dock, said):
    slow(dock)
    qtbot.waitUntil(lambda: dock.client.process_id > 0, timeout=MINUTE)
    qtbot.waitSignal(dock.client.started, timeout=MINUTE).wait()
    os.kill(dock.client.process_id, signal.SIGKILL)
    qtbot.waitUntil(lambda: bool(said), timeout=MINUTE)
    assert "ended unexpectedly" in said[-1]
    assert dock.run_button.isEnabled()
    dock.models.setCurrentText("nearest")
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    finish(qtbot, dock)


def test_cancel_stops_the_run_and_keeps_nothing(qtbot, pair, dock):
    slow(dock)
    with qtbot.waitSignal(dock.client.started, timeout=MINUTE):
        pass
    with qtbot.waitSignal(dock.client.cancelled, timeout=MINUTE):
        qtbot.mouseClick(dock.cancel_button, Qt.MouseButton.LeftButton)
    assert [layer.name for layer in pair.layers] == ["HR", "LR"]
    assert dock.run_button.isEnabled()
    assert "Stopped" in dock.status.text()


def test_closing_the_dock_mid_run_ends_the_worker(qtbot, pair, said):
    widget = SuperResolveDock(pair)
    docked = pair.window.add_dock_widget(widget, name="Super-resolve")
    slow(widget)
    with qtbot.waitSignal(widget.client.started, timeout=MINUTE):
        pass
    number, folder = widget.client.process_id, widget.client._folder
    pair.window.remove_dock_widget(docked)
    widget.deleteLater()
    qtbot.waitUntil(lambda: not _alive(number), timeout=MINUTE)
    assert not folder.exists()


def _alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{number}/stat") as stream:
        return stream.read().split()[2] != "Z"


def test_the_card_opens_as_a_page(qtbot, dock):
    dock.models.setCurrentText("cftn-x2")
    qtbot.mouseClick(dock.card_button, Qt.MouseButton.LeftButton)
    (dialog,) = dock.findChildren(CardDialog)
    assert dialog.isVisible()
    assert dialog.windowTitle() == "Model card: cftn-x2"
    text = dialog.page.toPlainText()
    assert "Not for diagnosis" in text
    assert "30.02 / 0.9619" in text
    assert "|" not in text  # tables are drawn as such
    with qtbot.waitSignal(dialog.destroyed):
        dialog.reject()


def test_devices_appear_when_the_worker_reports_them(qtbot, dock):
    qtbot.waitUntil(lambda: dock.device.count() > 1, timeout=MINUTE)
    assert "cpu" in [dock.device.itemText(i) for i in range(dock.device.count())]
    assert dock.device.currentText() == "auto"


def test_saving_writes_volume_and_figure(qtbot, pair, dock, tmp_path, monkeypatch):
    dock.models.setCurrentText("cubic")
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    finish(qtbot, dock)
    target = tmp_path / "sr.nii.gz"
    monkeypatch.setattr("napari_mrsr.gui.save_box.QFileDialog.getSaveFileName", lambda *_: (str(target), ""))
    qtbot.mouseClick(dock.saving.save_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "Saved" in dock.status.text(), timeout=MINUTE)
    saved = read_volume(target)
    np.testing.assert_allclose(saved.data, pair.layers["SR cubic"].data)
    assert saved.record["run"]["model"] == "cubic"
    figure = tmp_path / "figure.png"
    monkeypatch.setattr("napari_mrsr.gui.save_box.QFileDialog.getSaveFileName", lambda *_: (str(figure), ""))
    qtbot.mouseClick(dock.saving.figure_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "figure.png" in dock.status.text(), timeout=MINUTE)
    assert figure.stat().st_size > 10_000


def test_a_far_voxel_size_is_shown_and_asked(qtbot, pair, dock, monkeypatch):
    learned = next((c for c in dock._cards.values() if c.learned), None)
    if learned is None:
        pytest.skip("no trained weights are installed")
    dock.models.setCurrentText(learned.name)
    coarse = pair.add_image(np.random.default_rng(0).random((10, 10, 10)), name="coarse", scale=(9, 9, 9))
    dock.session.assign(Role.LOW_RESOLUTION, coarse)
    assert dock.light.text().startswith("red")
    assert "far from" in dock.light.reasons.text()
    asked = []
    monkeypatch.setattr(dock, "_confirm", lambda text: asked.append(text) or False)
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    assert "9.00 x 9.00 x 9.00 mm" in asked[0]
    assert not dock.client.busy


@pytest.mark.shown
def test_labels_fit_at_a_small_window(qtbot, pair, dock):
    _compat.main_window(pair).resize(1280, 800)
    qtbot.wait(200)
    for box in (dock.models, dock.region.choice, dock.device, *dock.roles.boxes.values()):
        assert box.mapTo(dock, box.rect().topRight()).x() <= dock.width()
    for button in (dock.run_button, dock.cancel_button, dock.saving.save_button, dock.saving.figure_button, dock.saving.remove_button):
        assert button.width() >= button.fontMetrics().horizontalAdvance(button.text())


def test_open_docks_have_imported_no_torch():
    code = (
        "import os, sys, napari; from napari_mrsr.gui.super_resolve_dock import SuperResolveDock; from napari_mrsr.gui.probe_dock import ProbeDock;"
        "v = napari.Viewer(show=False); d, p = SuperResolveDock(v), ProbeDock(v); bad = 'torch' in sys.modules; d.client.close(); os._exit(bad)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def test_a_constant_volume_is_told_at_once(pair, dock, said):
    flat = pair.add_image(np.full((9, 9, 9), 7, np.float32), name="flat")
    dock.session.assign(Role.LOW_RESOLUTION, flat)
    assert "same value" in dock.warning.text()
    assert dock.warning.isVisibleTo(dock)
    dock.session.assign(Role.LOW_RESOLUTION, pair.layers["LR"])
    assert "same value" not in dock.warning.text()
    assert said == []
