from __future__ import annotations

import json

import numpy as np
import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFileDialog
from scipy import ndimage

from napari_mrsr.evaluation import compare
from napari_mrsr.evaluation.comparison import Dice
from napari_mrsr.gui.layers import volume_to_layer
from napari_mrsr.gui.metrics import dock as dock_module
from napari_mrsr.gui.metrics import live
from napari_mrsr.gui.metrics.dock import ROI, SLICE, WHOLE, MetricsDock
from napari_mrsr.gui.metrics.table import BEST
from napari_mrsr.gui.session import Role, Run, Session
from napari_mrsr.gui.settings import recall
from napari_mrsr.volume import Box

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def blurs(head):
    """Two results, the second better."""
    return [head.replace(data=ndimage.gaussian_filter(head.data, s), name=f"blur {s}") for s in (1.5, 0.6)]


def add(viewer, volume, **metadata):
    data, options, _ = volume_to_layer(volume, metadata=metadata)
    return viewer.add_image(data, **options)


@pytest.fixture
def layers(pair, blurs):
    """Results as candidates of the pair's session."""
    session = Session.of(pair)
    made = [add(pair, volume) for volume in blurs]
    session.add_run(Run("first", made[0], layers=[made[0]], options={"model": "blur", "scale": 2, "noise": None}, summary="Done in 3 s."))
    session.add_candidate(made[1])
    return made


@pytest.fixture
def make_dock(qtbot):
    alive = []  # a window without a parent belongs to Python, which must not collect it while it is painted

    def make(viewer):
        dock = MetricsDock(viewer)
        alive.append(dock)
        qtbot.addWidget(dock)
        dock.resize(460, 900)
        dock.show()
        settle(qtbot, dock)
        return dock

    return make


def settle(qtbot, dock):
    """Wait until nothing is left to be measured."""
    qtbot.waitUntil(lambda: not dock.live._later.isActive() and dock.live._running is None and not dock.live.classifying, timeout=30_000)


@pytest.fixture
def dock(make_dock, pair, layers):
    return make_dock(pair)


def texts(dock, row):
    return [dock.table.item(row, column).text() for column in range(dock.table.columnCount())]


def names(dock):
    return [dock.table.verticalHeaderItem(row).text() for row in range(dock.table.rowCount())]


def pick(qtbot, dock, box, text):
    """Choose from a combo box as a user does, by key."""
    box.setFocus()
    box.setCurrentText(text)
    box.activated.emit(box.currentIndex())
    settle(qtbot, dock)


# --- table -----------------------------------------------------------------------------------------------------------------------------


def test_table_shows_what_compare_says(dock, pair, head, blurs):
    low = dock.session.volume(pair.layers["LR"])
    expected = compare(head, [*blurs, low])
    assert names(dock) == ["blur 1.5", "blur 0.6", "LR\n(resampled)"]
    best = texts(dock, 1)
    assert best[0] == f"{BEST} {expected.results[1].psnr:.2f}"
    assert all(text.startswith(BEST) for text in best)
    assert dock.table.item(1, 0).font().bold()
    assert not dock.table.item(0, 0).font().bold()
    assert texts(dock, 0)[:2] == [f"{expected.results[0].psnr:.2f}", f"{expected.results[0].ssim:.4f}"]
    for part in ("convention mrsr-1", expected.mask, f"range: 0 to {expected.data_range:.6g}", "whole reference", "SSIM: 3D"):
        assert part in dock.headline.text()
    assert "blur 0.6, same slices: -" in dock.table.item(0, 0).toolTip()
    assert dock.session.caption(pair.layers["blur 0.6"]) == f"PSNR {expected.results[1].psnr:.2f} dB  SSIM {expected.results[1].ssim:.3f}"


def test_row_tells_how_it_was_made_and_activates_its_layer(qtbot, dock, pair):
    tip = dock.table.verticalHeaderItem(0).toolTip()
    assert "model: blur" in tip
    assert "scale: 2" in tip
    assert "noise" not in tip
    assert "Done in 3 s." in tip
    place = dock.table.visualItemRect(dock.table.item(0, 1)).center()
    qtbot.mouseClick(dock.table.viewport(), LEFT, pos=place)
    assert pair.layers.selection.active is pair.layers["blur 1.5"]
    qtbot.keyClick(dock.table, Qt.Key.Key_Down)
    assert pair.layers.selection.active is pair.layers["blur 0.6"]


def test_intervals_are_switched(qtbot, dock):
    assert "[" not in texts(dock, 0)[0]
    qtbot.mouseClick(dock.intervals, LEFT, pos=QPoint(8, dock.intervals.height() // 2))
    shown = dock.comparison().results[0]
    assert texts(dock, 0)[0] == shown.cell("psnr")
    assert "[" in shown.cell("psnr")
    assert recall("metrics intervals", False) is True


@pytest.mark.parametrize("convention", ["volume-max", "fastmri", "basicsr8"])
def test_conventions(qtbot, dock, head, blurs, convention, make_dock, pair):
    pick(qtbot, dock, dock.convention, convention)
    low = dock.session.volume(pair.layers["LR"])
    expected = compare(head, [*blurs, low], convention=convention).results[0]
    assert texts(dock, 0)[0] == f"{expected.psnr:.2f}"
    assert f"convention {convention}" in dock.headline.text()
    assert make_dock(pair).convention.currentText() == convention


def test_table_follows_candidates_names_and_runs(qtbot, dock, pair, head):
    worse = add(pair, head.replace(data=ndimage.gaussian_filter(head.data, 3), name="blur 3"))
    dock.session.add_candidate(worse)
    settle(qtbot, dock)
    assert names(dock) == ["blur 1.5", "blur 0.6", "blur 3", "LR\n(resampled)"]
    worse.name = "soft"
    dock.session.remove_run(dock.session.runs[0])
    settle(qtbot, dock)
    assert names(dock) == ["blur 0.6", "soft", "LR\n(resampled)"]
    pair.layers.remove(worse)
    settle(qtbot, dock)
    assert names(dock) == ["blur 0.6", "LR\n(resampled)"]


def test_candidate_far_away_is_named_and_the_others_are_measured(qtbot, dock, pair, blurs):
    affine = blurs[0].affine.copy()
    affine[:3, 3] += 900
    dock.session.add_candidate(add(pair, blurs[0].replace(affine=affine, name="far")))
    settle(qtbot, dock)
    assert names(dock)[2] == "far\n(not measured)"
    assert set(texts(dock, 2)) == {"–"}
    assert "do not overlap" in dock.status.text()
    assert "do not overlap" in dock.table.verticalHeaderItem(2).toolTip()
    assert texts(dock, 1)[0].startswith(BEST)
    dock.table.selectRow(2)
    said = []
    dock.report = said.append
    dock.worst_button.click()
    assert said == ["The selected candidate is not measured; select another row."]


@pytest.mark.parametrize("kind", ["nan", "stack", "constant"])
def test_layers_that_cannot_be_measured(qtbot, dock, pair, blurs, kind):
    data = {"nan": np.full(blurs[0].shape, np.nan, np.float32), "stack": np.ones((2, 3, 4, 5)), "constant": np.ones(blurs[0].shape)}[kind]
    bad = pair.add_image(data, name="bad", affine=blurs[0].affine if data.ndim == 3 else None)
    dock.session.add_candidate(bad)
    settle(qtbot, dock)
    row = [i for i, name in enumerate(names(dock)) if name == "bad\n(not measured)"]
    assert len(row) == 1
    assert dock.status.text()
    assert texts(dock, 1)[0].startswith(BEST)


# --- nothing to measure ----------------------------------------------------------------------------------------------------------------


def test_without_ground_truth_a_sentence_says_what_to_choose(qtbot, dock):
    dock.session.assign(Role.GROUND_TRUTH, None)
    settle(qtbot, dock)
    assert dock.status.text() == live.NO_TRUTH
    assert dock.table.isHidden()
    assert dock.curve.isHidden()
    for button in (dock.csv_button, dock.latex_button, dock.json_button, dock.worst_button, dock.dice_button):
        assert not button.isEnabled()
        assert "ground truth" in button.toolTip() or button is dock.dice_button


def test_empty_viewer(make_dock, viewer):
    dock = make_dock(viewer)
    assert dock.status.text() == live.NO_TRUTH
    viewer.dims.ndim = 2


def test_without_candidates(qtbot, make_dock, pair):
    Session.of(pair).assign(Role.LOW_RESOLUTION, None)
    assert make_dock(pair).status.text() == live.NO_CANDIDATE


def test_choices_without_roi_and_mask_say_why(dock):
    model = dock.region.model()
    assert not model.item(2).isEnabled()
    assert "no region of interest" in model.item(2).toolTip()
    assert not dock.masked.isEnabled()
    assert "There is no mask" in dock.masked.toolTip()


# --- regions ---------------------------------------------------------------------------------------------------------------------------


def test_slice_on_screen(qtbot, dock, pair, head, blurs):
    pick(qtbot, dock, dock.region, SLICE)
    pair.dims.order = (2, 1, 0)
    low = dock.session.volume(pair.layers["LR"])
    for index in (12, 20):
        place = head.affine @ [20, 24, index, 1]
        dock.session.position = place[:3]
        expected = compare(head, [*blurs, low], plane=(2, place[2])).results[0]
        assert texts(dock, 0)[:2] == [f"{expected.psnr:.2f}", f"{expected.ssim:.4f}"]
        assert f"slice S = {place[2]:.1f} mm (voxel {index})" in dock.headline.text()
        line = dock.curve._here
        assert line.value() == pytest.approx(place[2])
    dock.session.position = (0, 0, 5000)
    assert "lies outside" in dock.headline.text()
    assert set(texts(dock, 0)) == {"–"}
    assert not dock.curve._here.isVisible()


def test_region_of_interest(qtbot, dock, head, blurs, pair):
    low = dock.session.volume(pair.layers["LR"])
    dock.session.roi = Box((-10, -20, 15), (10, 10, 40))
    pick(qtbot, dock, dock.region, ROI)
    for box in (dock.session.roi, Box((-12, -10, 15), (10, 15, 45))):
        dock.session.roi = box
        settle(qtbot, dock)
        assert texts(dock, 0)[0] == f"{compare(head, [*blurs, low], roi=box).results[0].psnr:.2f}"
    dock.session.roi = Box((900, 900, 900), (950, 950, 950))
    settle(qtbot, dock)
    assert "lies outside" in dock.status.text()
    assert not dock.csv_button.isEnabled()
    dock.session.roi = None
    settle(qtbot, dock)
    assert dock.region.currentText() == WHOLE
    assert texts(dock, 0)[0] == f"{compare(head, [*blurs, low]).results[0].psnr:.2f}"


def test_mask_is_followed_while_it_is_painted(qtbot, dock, pair, head, blurs):
    low = dock.session.volume(pair.layers["LR"])
    labels = np.zeros(head.shape, np.uint8)
    labels[10:30, 10:40, 10:25] = 2
    layer = pair.add_labels(labels.copy(), name="brain", affine=head.affine)
    dock.session.mask = layer
    qtbot.mouseClick(dock.masked, LEFT, pos=QPoint(8, dock.masked.height() // 2))
    settle(qtbot, dock)

    def expected():
        return f"{compare(head, [*blurs, low], mask=head.replace(data=labels, name='brain')).results[0].psnr:.2f}"

    assert "given mask brain" in dock.headline.text()
    assert texts(dock, 0)[0] == expected()
    labels[5:10, 10:40, 10:25] = 1
    layer.data_setitem(np.nonzero(labels == 1), 1)
    settle(qtbot, dock)
    assert texts(dock, 0)[0] == expected()
    pair.layers.remove(layer)
    settle(qtbot, dock)
    assert not dock.masked.isChecked()
    assert "foreground" in dock.headline.text()


# --- curve -----------------------------------------------------------------------------------------------------------------------------


def test_curve_has_one_look_per_candidate(dock):
    items = dock.curve.listDataItems()
    assert len(items) == 3
    pens = [item.opts["pen"] for item in items]
    assert len({pen.color().name() for pen in pens}) == 3
    assert len({pen.style() for pen in pens}) == 3
    curve = dock.measured.curve("psnr", 0)
    np.testing.assert_array_equal(items[0].getOriginalDataset()[0], curve.positions)


def test_click_into_the_curve_goes_to_the_slice(qtbot, dock, pair, head):
    pair.dims.order = (2, 1, 0)
    place = (head.affine @ [20, 24, 25, 1])[2]
    view = dock.curve.getViewBox()
    spot = dock.curve.mapFromScene(view.mapViewToScene(QPointF(place, float(np.mean(view.viewRange()[1])))))
    qtbot.mouseClick(dock.curve.viewport(), LEFT, pos=spot)
    assert dock.session.position[2] == pytest.approx(place, abs=1e-6)
    qtbot.waitUntil(lambda: pair.dims.point[2] == pytest.approx(place, abs=1e-6))
    qtbot.keyClick(dock.curve, Qt.Key.Key_Right)
    assert dock.session.position[2] == pytest.approx(place + 1.5, abs=1e-6)
    qtbot.keyClick(dock.curve, Qt.Key.Key_Left)
    qtbot.keyClick(dock.curve, Qt.Key.Key_Left)
    assert dock.session.position[2] == pytest.approx(place - 1.5, abs=1e-6)


def test_worst_slice_of_the_selected_candidate(qtbot, make_dock, pair, head):
    spoiled = [head.replace(data=head.data.copy(), name=f"bad {index}") for index in (14, 22)]
    for volume, index in zip(spoiled, (14, 22), strict=True):
        volume.data[..., index] += 300
        Session.of(pair).add_candidate(add(pair, volume))
    pair.dims.order = (2, 1, 0)
    dock = make_dock(pair)
    for metric in ("PSNR [dB]", "NMSE"):
        pick(qtbot, dock, dock.score, metric)
        for row, index in ((0, 14), (1, 22)):
            dock.table.selectRow(row)
            qtbot.mouseClick(dock.worst_button, LEFT)
            assert dock.session.position[2] == pytest.approx((head.affine @ [0, 0, index, 1])[2], abs=1e-6), metric


def test_curve_follows_theme_and_plane(dock, pair):
    before = dock.curve.backgroundBrush().color().name()
    pair.theme = "light"
    assert dock.curve.backgroundBrush().color().name() != before
    pair.dims.order = (1, 0, 2)
    assert "A [mm]" in dock.curve.getAxis("bottom").labelText


# --- out -------------------------------------------------------------------------------------------------------------------------------


def test_copies(qtbot, dock):
    qtbot.mouseClick(dock.csv_button, LEFT)
    lines = QGuiApplication.clipboard().text().splitlines()
    assert lines[0].startswith("name,psnr_db,")
    assert len(lines) == 4
    qtbot.mouseClick(dock.latex_button, LEFT)
    assert r"\textbf{" in QGuiApplication.clipboard().text()
    assert dock.status.text() == "Copied as LaTeX."


def test_json_is_what_compare_writes(qtbot, dock, tmp_path, monkeypatch):
    path = tmp_path / "scores.json"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path), ""))
    qtbot.mouseClick(dock.json_button, LEFT)
    assert json.loads(path.read_text()) == dock.comparison().model_dump(mode="json")
    assert dock.comparison().results[0].intervals
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "none" / "x.json"), ""))
    said = []
    dock.report = said.append
    qtbot.mouseClick(dock.json_button, LEFT)
    assert len(said) == 1
    assert "does not exist" in said[0]


def test_tissue_dice_on_request(qtbot, dock, head, pair):
    brain = (head.data > 0).astype(np.uint8)
    dock.session.mask = pair.add_labels(brain, name="brain", affine=head.affine)
    dock.masked.click()
    settle(qtbot, dock)
    assert dock.table.columnCount() == 7
    qtbot.mouseClick(dock.dice_button, LEFT)
    assert dock.dice_button.text() == "Stop tissue Dice"
    settle(qtbot, dock)
    assert dock.table.columnCount() == 11
    first, second = (float(texts(dock, row)[10].removeprefix(f"{BEST} ")) for row in (0, 1))
    assert first < second <= 1
    # Other regions keep it, other images do not.
    pick(qtbot, dock, dock.region, SLICE)
    assert dock.table.columnCount() == 11
    dock.session.drop_candidate(pair.layers["blur 1.5"])
    settle(qtbot, dock)
    assert dock.table.columnCount() == 7


def test_tissue_can_be_stopped_and_needs_dipy(qtbot, dock, monkeypatch):
    monkeypatch.setattr(live, "classify", lambda _f, _b, stopped: None if qtbot_wait(stopped) else [Dice(csf=1, gm=1, wm=1, mean=1)] * 3)
    qtbot.mouseClick(dock.dice_button, LEFT)
    qtbot.mouseClick(dock.dice_button, LEFT)
    settle(qtbot, dock)
    assert dock.table.columnCount() == 7
    monkeypatch.setattr(dock_module.importlib.util, "find_spec", lambda _name: None)
    dock._show()
    assert not dock.dice_button.isEnabled()
    assert "pip install" in dock.dice_button.toolTip()


def qtbot_wait(stopped):
    """Until stopped, in the worker's thread."""
    import time

    end = time.monotonic() + 20
    while not stopped() and time.monotonic() < end:
        time.sleep(0.01)
    return stopped()


def test_stale_answers_are_dropped(qtbot, dock, head, pair, monkeypatch):
    """While one request is measured, two more come: the first is stopped, the second never begins."""
    seen, scorer = [], live.Scorer.__call__

    def slow(self, request):
        seen.append((request.convention, qtbot_wait(request.stop.is_set) if len(seen) == 0 else None))
        return scorer(self, request)

    monkeypatch.setattr(live.Scorer, "__call__", slow)
    for convention in ("fastmri", "basicsr8", "volume-max"):
        dock.convention.setCurrentText(convention)
        dock.convention.activated.emit(0)
        dock.live.refresh()
    settle(qtbot, dock)
    assert [name for name, _ in seen] == ["fastmri", "volume-max"]
    assert "convention volume-max" in dock.headline.text()


# --- the window ------------------------------------------------------------------------------------------------------------------------


def test_dock_from_the_menu_leaves_nothing_behind(qtbot, pair, layers):
    window = pair.window
    outer, dock = window.add_plugin_dock_widget("napari-mrsr", "Metrics")
    settle(qtbot, dock)
    session = dock.session
    listening = len(session.roi_changed)
    with qtbot.waitSignal(dock.destroyed):
        window.remove_dock_widget(outer)
        dock.deleteLater()
    assert len(session.roi_changed) == listening - 2
    for signal in (session.roles_changed, session.position_changed, session.roi_changed, session.mask_changed):
        signal.emit()
    pair.dims.order = (1, 0, 2)
    pair.theme = "light"


def test_every_control_has_a_name_and_a_tooltip(dock):
    for widget in (dock.convention, dock.region, dock.masked, dock.intervals, dock.score, dock.table, dock.curve, dock.worst_button):
        assert widget.objectName()
        assert widget.toolTip()
    for button in (dock.csv_button, dock.latex_button, dock.json_button, dock.dice_button):
        assert button.objectName()
        assert button.toolTip()
        assert button.focusPolicy() != Qt.FocusPolicy.NoFocus
