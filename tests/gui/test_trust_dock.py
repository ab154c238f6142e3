"""The Trust dock and the mask box: real widgets, real clicks, numbers of the library."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Labels
from qtpy.QtCore import Qt

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.evaluation.brain import brain_mask
from napari_mrsr.evaluation.trust import data_consistency, disagreement
from napari_mrsr.gui.layers import KEY, layer_to_volume, volume_to_layer
from napari_mrsr.gui.mask_box import NONE
from napari_mrsr.gui.session import Role, Run, Session
from napari_mrsr.gui.trust_check import OVERLAY
from napari_mrsr.gui.trust_dock import NO_ENSEMBLE, NO_INPUT, NO_RESULT, NOT_CHECKED, TrustDock
from napari_mrsr.inference.ensemble import SPREAD

LEFT = Qt.MouseButton.LeftButton
WAIT = 20_000


def add(viewer, volume, **extra):
    data, meta, _ = volume_to_layer(volume, metadata=extra)
    return viewer.add_image(data, **meta)


@pytest.fixture
def results(pair, head):
    """Two candidates: one a little off, one blurred."""
    rng = np.random.default_rng(0)
    noisy = head.replace(data=(head.data + rng.normal(0, 3, head.shape)).astype(np.float32), name="noisy")
    bright = head.replace(data=head.data * np.float32(1.1), name="bright result of a long name")
    return [add(pair, v, role=Role.CANDIDATE) for v in (noisy, bright)]


@pytest.fixture
def dock(pair, said):
    widget = TrustDock(pair)
    pair.window.add_dock_widget(widget, name="Trust")
    return widget


def checked(qtbot, dock):
    qtbot.mouseClick(dock.check_button, LEFT)
    assert not dock.check_button.isEnabled()
    qtbot.waitUntil(lambda: dock.check_button.text() == "Check", timeout=WAIT)


def maps(viewer):
    return [layer for layer in viewer.layers if layer.metadata.get(KEY, {}).get("overlay") == OVERLAY]


def cells(table):
    return [[table.item(row, column).text() for column in range(table.columnCount())] for row in range(table.rowCount())]


def test_what_cannot_be_checked_says_why(qtbot, pair, dock):
    assert dock.check_button.toolTip() == NO_RESULT
    assert not dock.check_button.isEnabled()
    dock.session.assign(Role.LOW_RESOLUTION, None)
    assert dock.check_button.toolTip() == NO_INPUT
    for button in (dock.residual_button, dock.worst_button, dock.apart_button, dock.spread_button):
        assert not button.isEnabled()
        assert button.toolTip()
    assert dock.spread.text() == NO_ENSEMBLE
    assert "not for diagnosis" in dock.notice.text()


def test_numbers_are_those_of_the_library(qtbot, pair, head, results, dock, said):
    assert cells(dock.table) == [["–"] * 3] * 2
    assert dock.table.item(0, 0).toolTip() == NOT_CHECKED
    noisy = add(pair, degrade(head, Degradation(noise=3)).replace(name="noisy LR"))
    dock.session.assign(Role.LOW_RESOLUTION, noisy)
    checked(qtbot, dock)
    low = dock.session.volume(noisy)
    expected = [data_consistency(low, layer_to_volume(layer))[0] for layer in results]
    assert cells(dock.table) == [[f"{100 * n.nrmse:.2f} %", f"{n.rms_sigmas:.1f}", f"{n.peak_sigmas:.1f}"] for n in expected]
    assert dock.table.verticalHeaderItem(1).toolTip() == "bright result of a long name"
    assert "…" in dock.table.verticalHeaderItem(1).text()
    apart = disagreement([layer_to_volume(layer) for layer in results])[0]
    assert f"{apart.percent:.2f} % of the range" in dock.apart.text()
    dock.table.setCurrentCell(1, 0)
    assert "gaussian x2 (recorded with the input)" in dock.details.text()
    assert f"{expected[1].peak:.4g}" in dock.details.text()
    assert said == []


def test_without_known_noise_nothing_is_said_in_units_of_it(qtbot, pair, results, dock):
    checked(qtbot, dock)
    for row, (nrmse, rms, peak) in enumerate(cells(dock.table)):
        assert nrmse.endswith("%")
        assert (rms, peak) == ("–", "–")
        assert "made without noise" in dock.table.item(row, 1).toolTip()
        assert "made without noise" not in dock.table.item(row, 0).toolTip()
    assert "σ is not known" in dock.details.text()


def test_maps_are_overlays_with_one_range_and_go_with_the_next_check(qtbot, pair, results, dock):
    checked(qtbot, dock)
    before = set(dock.session.images())
    for row in range(2):
        dock.table.setCurrentCell(row, 0)
        qtbot.mouseClick(dock.residual_button, LEFT)
    first, second = maps(pair)
    assert (first.name, second.name) == ("residual noisy", "residual bright result of a long name")
    assert tuple(first.contrast_limits) == tuple(second.contrast_limits)
    low, high = second.contrast_limits
    assert low == -high
    assert second.colorbar.visible
    assert second.help.startswith("Result degraded")
    np.testing.assert_allclose(second.data, data_consistency(*map(layer_to_volume, (pair.layers["LR"], results[1])))[1].data)
    assert set(dock.session.images()) == before
    qtbot.mouseClick(dock.residual_button, LEFT)
    assert len(maps(pair)) == 2
    qtbot.mouseClick(dock.apart_button, LEFT)
    assert [layer.name for layer in maps(pair)][-1] == "disagreement"
    assert maps(pair)[-1].contrast_limits[0] == 0
    checked(qtbot, dock)
    assert maps(pair) == []


def test_the_largest_residual_is_a_click_away(qtbot, pair, results, dock, head):
    data = head.data.copy()
    data[20:23, 30:33, 20:23] += 900
    results[0].data = data
    checked(qtbot, dock)
    dock.table.setCurrentCell(0, 0)
    qtbot.mouseClick(dock.worst_button, LEFT)
    wanted = head.affine[:3, :3] @ (21, 31, 21) + head.affine[:3, 3]
    assert np.abs(np.array(dock.session.position) - wanted).max() <= 2 * max(head.voxel_size)
    assert maps(pair) == []


def test_one_that_does_not_fit_leaves_the_others(qtbot, pair, results, dock, head, said):
    far = head.affine.copy()
    far[:3, 3] += 900
    add(pair, head.replace(affine=far, name="far"), role=Role.CANDIDATE)
    checked(qtbot, dock)
    assert cells(dock.table)[2] == ["–"] * 3
    assert "does not overlap" in dock.table.item(2, 0).toolTip()
    assert cells(dock.table)[0][0].endswith("%")
    dock.table.setCurrentCell(2, 0)
    assert not dock.residual_button.isEnabled()
    assert "does not overlap" in dock.residual_button.toolTip()
    assert "overlap" in dock.apart.text()
    assert not dock.apart_button.isEnabled()
    assert said == []


def test_another_protocol_can_be_tried(qtbot, pair, results, dock):
    checked(qtbot, dock)
    recorded = cells(dock.table)
    dock.protocol.setCurrentText("gaussian-zoom")
    dock.protocol.activated.emit(dock.protocol.currentIndex())
    assert cells(dock.table)[0] == ["–"] * 3
    checked(qtbot, dock)
    assert cells(dock.table) != recorded
    assert "gaussian-zoom x2 (given)" in dock.details.text()


def test_changes_make_what_was_found_stale(qtbot, pair, results, dock):
    checked(qtbot, dock)
    qtbot.mouseClick(dock.residual_button, LEFT)
    dock.session.drop_candidate(results[0])
    assert cells(dock.table) == [["–"] * 3]
    assert maps(pair) == []
    qtbot.mouseClick(dock.check_button, LEFT)
    pair.layers.remove(results[1])
    qtbot.waitUntil(lambda: dock.check_button.text() == "Check", timeout=WAIT)
    assert dock.table.rowCount() == 0
    assert not dock.check_button.isEnabled()


def test_a_self_ensembles_spread_is_shown(qtbot, pair, results, dock, head):
    spread = head.replace(data=np.full(head.shape, 5, np.float32)).with_record(map={"name": SPREAD.name})
    layer = add(pair, spread)
    layer.visible = False
    dock.session.add_run(Run("SR", results[0], layers=[results[0], layer]))
    assert dock.spread_button.isEnabled()
    checked(qtbot, dock)
    assert "noisy: " in dock.spread.text()
    assert dock.spread.text().endswith("% of the range")
    qtbot.mouseClick(dock.spread_button, LEFT)
    assert layer.visible
    assert layer.colorbar.visible
    assert pair.layers.selection.active is layer
    dock.session.remove_run(dock.session.runs[0])
    assert not dock.spread_button.isEnabled()


# --- the mask -------------------------------------------------------------------------------------------------------------------------


def test_brain_mask_comes_as_labels_and_is_the_mask(qtbot, pair, results, dock, head, said):
    box = dock.mask_box
    assert "HR" in box.brain_button.toolTip()
    qtbot.mouseClick(box.brain_button, LEFT)
    assert not box.brain_button.isEnabled()
    qtbot.waitUntil(lambda: dock.session.mask is not None, timeout=60_000)
    layer = dock.session.mask
    assert isinstance(layer, Labels)
    np.testing.assert_array_equal(layer.data, brain_mask(head).data)
    np.testing.assert_allclose(layer.data_to_world((3, 4, 5)), pair.layers["HR"].data_to_world((3, 4, 5)))
    assert box.choice.currentText() == layer.name == "HR brain"
    assert box.brain_button.isEnabled()
    layer.data[:] = 0
    layer.data[:20] = 1
    checked(qtbot, dock)
    assert "mask HR brain" in dock.details.text()
    pair.layers.remove(layer)
    assert dock.session.mask is None
    assert box.choice.currentText() == NONE
    assert said == []


def test_any_labels_layer_can_be_the_mask(qtbot, pair, results, dock):
    one = pair.add_labels(np.ones((40, 48, 36), np.uint8), name="lesion")
    pair.add_labels(np.ones((5, 5), np.uint8), name="flat")
    box = dock.mask_box
    assert [box.choice.itemText(i) for i in range(box.choice.count())] == [NONE, "lesion"]
    box.choice.setFocus()
    box.choice.setCurrentIndex(1)
    box.choice.activated.emit(1)
    assert dock.session.mask is one
    one.name = "tumour"
    assert box.choice.currentText() == "tumour"
    box.choice.activated.emit(0)
    assert dock.session.mask is None


def test_no_image_no_brain(pair, dock, said, qtbot):
    for role in (Role.GROUND_TRUTH, Role.LOW_RESOLUTION):
        dock.session.assign(role, None)
    assert not dock.mask_box.brain_button.isEnabled()
    assert "no image" in dock.mask_box.brain_button.toolTip()
    empty = pair.add_image(np.zeros((9, 9, 9), np.float32), name="empty")
    dock.session.assign(Role.GROUND_TRUTH, empty)
    qtbot.mouseClick(dock.mask_box.brain_button, LEFT)
    qtbot.waitUntil(lambda: bool(said), timeout=WAIT)
    assert "same value" in said[0]
    assert dock.mask_box.brain_button.isEnabled()


def test_a_dock_that_is_gone_hears_nothing(qtbot, pair, results, said):
    session = Session.of(pair)
    before = [len(s) for s in (session.roles_changed, session.layers_changed, session.mask_changed, session.runs_changed)]
    widget = TrustDock(pair)
    docked = pair.window.add_dock_widget(widget, name="Trust")
    pair.window.remove_dock_widget(docked)
    with qtbot.waitSignal(widget.destroyed):
        widget.deleteLater()
    after = [len(s) for s in (session.roles_changed, session.layers_changed, session.mask_changed, session.runs_changed)]
    assert after == before
    session.drop_candidate(results[0])


@pytest.mark.shown
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_nothing_is_cut_off_at_its_least_width(qtbot, pair, results, dock, theme):
    pair.theme = theme
    checked(qtbot, dock)
    dock.setMinimumWidth(0)
    dock.resize(300, 700)
    qtbot.wait(50)
    for button in (dock.check_button, dock.residual_button, dock.worst_button, dock.apart_button, dock.spread_button, dock.mask_box.brain_button):
        assert button.width() >= button.minimumSizeHint().width()
    assert dock.notice.geometry().bottom() >= dock.height() - 2
    assert dock.notice.isVisible()
