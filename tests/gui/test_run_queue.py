"""Several models in one go."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_mrsr.errors import RunError
from napari_mrsr.gui.layers import KEY
from napari_mrsr.gui.provenance import how_made
from napari_mrsr.gui.run_queue import Task
from napari_mrsr.gui.session import Role
from napari_mrsr.gui.settings import recall
from napari_mrsr.gui.super_resolve_dock import SuperResolveDock
from napari_mrsr.inference import RunOptions
from napari_mrsr.volume import Volume

MINUTE = 60_000


@pytest.fixture
def dock(super_resolve_dock):
    return super_resolve_dock


def tick(dock, *names):
    for row in range(dock.also.entries.count()):
        item = dock.also.entries.item(row)
        item.setCheckState(Qt.CheckState.Checked if item.text() in names else Qt.CheckState.Unchecked)


def results(dock):
    return [run.name for run in dock.session.runs]


def test_ticked_models_run_one_after_the_other_into_one_workspace(qtbot, pair, dock):
    dock.models.setCurrentText("cubic")
    tick(dock, "nearest", "zero-fill")
    heard = []
    dock.queue.told.connect(heard.append)
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    assert not dock.run_button.isEnabled()
    assert dock.skip_button.isVisibleTo(dock)
    qtbot.waitUntil(lambda: not dock.queue.busy, timeout=2 * MINUTE)
    assert results(dock) == ["SR cubic", "SR nearest", "SR zero-fill"]
    assert [layer.name for layer in dock.session.candidates] == results(dock)
    for number, model in ((1, "cubic"), (2, "nearest"), (3, "zero-fill")):
        assert any(text.startswith(f"{number} of 3: {model}\n") for text in heard)
    assert dock.status.text() == "3 of 3 done: cubic, nearest, zero-fill."
    assert len({run.summary for run in dock.session.runs}) == 3
    assert all("PSNR" in run.summary for run in dock.session.runs)
    assert [run.options["model"] for run in dock.session.runs] == ["cubic", "nearest", "zero-fill"]
    assert dock.run_button.isEnabled()
    assert not dock.skip_button.isVisibleTo(dock)
    assert sum(layer.name.startswith("gradient HR") for layer in pair.layers) == 1
    windows = {tuple(pair.layers[name].contrast_limits) for name in ("HR", "LR", *results(dock))}
    assert len(windows) == 1


def test_what_does_not_fit_is_left_out_with_its_sentence_and_the_others_go_on(qtbot, pair, dock, said, monkeypatch):
    monkeypatch.setattr(dock, "_confirm", lambda _text: True)
    dock.models.setCurrentText("cubic")
    learned = next(card.name for card in dock._cards.values() if card.learned)
    tick(dock, learned, "nearest")
    dock.form["scale"].value = 3
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not dock.queue.busy, timeout=2 * MINUTE)
    assert results(dock) == ["SR cubic", "SR nearest"]
    assert "factor of 2, not 3" in said[-1]
    assert dock.status.text().startswith("2 of 3 done: cubic, nearest.")
    assert f"{learned} was left out: " in dock.status.text()


def big(model="cftn-x2"):
    """A run of a minute and more, however busy the machine is, that can be stopped at any moment."""
    volume = Volume(np.random.default_rng(0).random((96, 96, 96)).astype(np.float32), np.eye(4), name="big")
    return Task(RunOptions.create(model=model), volume, None, {})


def small(dock, model="nearest"):
    volume = dock.session.volume(dock.session.layer(Role.LOW_RESOLUTION))
    return Task(RunOptions.create(model=model), volume, None, {})


def test_skip_stops_one_and_goes_on(qtbot, pair, dock):
    dock.queue.start([big(), small(dock)])
    qtbot.waitSignal(dock.client.started, timeout=MINUTE).wait()
    qtbot.mouseClick(dock.skip_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not dock.queue.busy, timeout=MINUTE)
    assert results(dock) == ["SR nearest"]
    assert "cftn-x2 was stopped; nothing of it was kept." in dock.status.text()


def test_cancel_stops_all_and_keeps_what_is_finished(qtbot, pair, dock):
    dock.queue.start([small(dock), big(), small(dock, "cubic")])
    qtbot.waitUntil(lambda: len(dock.session.runs) == 1, timeout=MINUTE)
    qtbot.waitSignal(dock.client.started, timeout=MINUTE).wait()
    qtbot.mouseClick(dock.cancel_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not dock.queue.busy, timeout=MINUTE)
    qtbot.wait(300)
    assert results(dock) == ["SR nearest"]
    assert dock.status.text().startswith("1 of 3 done: nearest.")
    assert dock.run_button.isEnabled()


def test_cancel_while_scores_are_computed_shows_nothing(qtbot, pair, dock, monkeypatch):
    waited = []
    monkeypatch.setattr("napari_mrsr.gui.run_queue.in_background", lambda *_a, done, **_k: waited.append(done))
    dock.queue.start([small(dock)])
    qtbot.waitUntil(lambda: bool(waited), timeout=MINUTE)
    qtbot.mouseClick(dock.cancel_button, Qt.MouseButton.LeftButton)
    assert not dock.queue.busy
    waited[0](None)
    assert dock.session.runs == []
    assert [layer.name for layer in pair.layers] == ["HR", "LR"]


def test_a_layer_removed_mid_run_costs_nothing_else(qtbot, pair, dock, said):
    dock.queue.start([small(dock)])
    pair.layers.remove("LR")
    pair.layers.remove("HR")
    qtbot.waitUntil(lambda: not dock.queue.busy, timeout=MINUTE)
    assert results(dock) == ["SR nearest"]
    assert "No ground truth" in dock.scores.text()
    assert said == []
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    assert "low resolution" in said[-1]


def test_how_a_result_was_made_stands_beside_it(qtbot, pair, dock):
    dock.models.setCurrentText("back-projection")
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not dock.queue.busy, timeout=MINUTE)
    (run,) = dock.session.runs
    made = how_made(run.result.metadata[KEY]["volume"])
    for part in (
        "Model back-projection",
        "factor 2 x 2 x 2",
        "input LR made by gaussian",
        "cpu",
        "Noise",
        " s\n",
        "40 x 48 x 36 voxels of 1.00 x 1.20 x 1.50 mm",
    ):
        assert part in made
    assert "back-projection" in dock.made.text()
    (entry,) = (dock.roles.candidates.entries.item(i) for i in range(dock.roles.candidates.entries.count()))
    assert "Model back-projection" in entry.toolTip()


def test_choices_are_remembered_but_nothing_about_the_input(qtbot, pair, dock):
    dock.models.setCurrentText("nearest")
    tick(dock, "cubic")
    dock.form["protocol"].value = "gaussian"
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not dock.queue.busy, timeout=MINUTE)
    assert recall("models", []) == ["nearest", "cubic"]
    again = SuperResolveDock(pair)
    qtbot.addWidget(again)
    assert again.models.currentText() == "nearest"
    assert again.also.chosen() == ("cubic",)
    assert again.form["protocol"].value == "default"


def test_a_run_from_elsewhere_is_refused_while_one_is_under_way(qtbot, dock):
    dock.queue.start([big()])
    with pytest.raises(RunError, match="A run is under way; wait for it or cancel it"):
        dock.queue.start([small(dock)])
    assert dock.queue.busy
    assert not dock.run_button.isEnabled()
    dock.queue.cancel()
    qtbot.waitUntil(lambda: not dock.queue.busy, timeout=MINUTE)
    assert dock.run_button.isEnabled()
