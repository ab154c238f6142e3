"""Internal maps of a run: choosing them, and their layers."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_mrsr.gui import results
from napari_mrsr.gui.layers import KEY, display_affine, layer_to_volume
from napari_mrsr.gui.map_layers import ERROR_COLOURS, attention_sentence, map_limits
from napari_mrsr.gui.maps_box import MapsBox
from napari_mrsr.gui.provenance import noise_sentence
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.gui.super_resolve_dock import SuperResolveDock
from napari_mrsr.inference import super_resolve
from napari_mrsr.networks import MapInfo
from napari_mrsr.volume import Volume

MINUTE = 60_000
GATE = {"name": "gate", "title": "Gate", "description": "How much passes.", "kind": "dense", "on": "result", "signed": False}
CHANGE = {**GATE, "name": "change", "title": "Change", "description": "What is added.", "signed": True}
LOOK = {**GATE, "name": "look", "title": "Look", "kind": "query"}


@pytest.fixture
def box(qtbot):
    widget = MapsBox()
    qtbot.addWidget(widget)
    return widget


def described(model="cftn-x2", maps=(), problem=""):
    return {"model": model, "maps": list(maps), "problem": problem}


def tick(box, row, on=True):
    box.entries.item(row).setCheckState(Qt.CheckState.Checked if on else Qt.CheckState.Unchecked)


def test_dense_maps_can_be_ticked_and_explain_themselves(box):
    box.show_description(described(maps=[GATE, LOOK, CHANGE]))
    assert [box.entries.item(i).text() for i in range(box.entries.count())] == ["Gate", "Change"]
    assert box.chosen() == ()
    tick(box, 1)
    assert box.chosen() == ("change",)
    assert "1 of 2" in box.text()
    assert "What is added." in box.entries.item(1).toolTip()
    box.entries.setCurrentRow(0)
    assert "How much passes." in box.about.text()


def test_ticks_outlast_a_change_of_model(box):
    box.show_description(described(maps=[GATE, CHANGE]))
    tick(box, 0)
    box.wait("cubic")
    assert box.chosen() == ()
    box.show_description(described("cubic"))
    assert box.chosen() == ()
    assert not box.entries.isVisibleTo(box)
    assert "cubic has no internal maps" in box.about.text()
    box.show_description(described(maps=[GATE, CHANGE]))
    assert box.chosen() == ("gate",)
    tick(box, 0, False)
    assert box.chosen() == ()


def test_models_with_other_maps_only_and_problems_are_explained(box):
    box.show_description(described(maps=[LOOK]))
    assert "attention probe" in box.about.text()
    box.show_description(described(problem="The file is gone."))
    assert "The file is gone." in box.about.text()


def test_unfolded_text_is_not_cut_off(box, qtbot):
    box.resize(280, 400)
    box.show()
    box.expand(animate=False)
    box.show_description(described(maps=[GATE, {**CHANGE, "description": "Many words that need several lines of the dock. " * 5}]))
    box.entries.setCurrentRow(1)
    qtbot.wait(50)
    assert box.about.height() >= box.about.heightForWidth(box.about.width())


@pytest.fixture
def findings(pair):
    truth, low = (layer_to_volume(pair.layers[name]) for name in ("HR", "LR"))
    result = super_resolve(low, "cubic")
    rng = np.random.default_rng(0)
    gate = rng.random(result.shape).astype(np.float32)
    gate[0, 0, 0] = 1000.0
    maps = [
        result.replace(data=data).with_record(map={"name": name})
        for name, data in (("gate", gate), ("change", (gate - 0.3).astype(np.float32)), ("new", gate))
    ]
    return results.find(result, truth, maps, {m["name"]: MapInfo(**m) for m in (GATE, CHANGE)})


def test_maps_become_hidden_layers_above_the_result_and_leave_with_the_run(pair, findings):
    session = Session.of(pair)
    before = {layer.name: (layer.data.copy(), np.array(layer.affine), layer.visible) for layer in pair.layers}
    run = results.show(session, findings, {})
    names = [layer.name for layer in pair.layers]
    assert names[names.index("SR cubic") :] == ["SR cubic", "Gate SR cubic", "Change SR cubic", "new SR cubic"]
    gate, change = pair.layers["Gate SR cubic"], pair.layers["Change SR cubic"]
    for layer in (gate, change):
        assert not layer.visible
        assert layer.opacity < 1
        np.testing.assert_allclose(np.array(layer.affine), display_affine(findings.result))
        assert layer.metadata[KEY]["description"] == layer.help
    assert gate.help == "How much passes."
    assert gate.colormap.name == "inferno"
    assert gate.contrast_limits[1] < 2  # one wild value does not darken the rest
    assert gate.contrast_limits_range[1] == 1000
    assert change.colormap.name == ERROR_COLOURS.name
    assert change.contrast_limits[0] == -change.contrast_limits[1]
    assert pair.layers.selection.active is run.result
    assert {layer.name for layer in session.images()} == {"HR", "LR", "SR cubic"}
    session.remove_run(run)
    assert [layer.name for layer in pair.layers] == list(before)
    for name, (data, affine, visible) in before.items():
        np.testing.assert_array_equal(pair.layers[name].data, data)
        np.testing.assert_array_equal(np.array(pair.layers[name].affine), affine)
        assert pair.layers[name].visible == visible


def test_a_map_shown_changes_what_is_seen_of_the_result(pair, findings):
    """Above the result and half clear: both can be told apart on screen."""
    run = results.show(Session.of(pair), findings, {})
    gate = pair.layers["Gate SR cubic"]
    assert pair.layers.index(gate) > pair.layers.index(run.result)
    assert 0 < gate.opacity < 1


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        ({"noise_source": "estimated", "noise_sigma": 9.0, "input_range": 500.0}, "Noise 1.8 % of the range, estimated."),
        ({"noise_source": "sidecar", "noise_sigma": 0.0, "input_range": 500.0}, "Noise 0.0 % of the range, as recorded with the input."),
        ({"noise_source": "not used", "noise_sigma": 0.0, "input_range": 500.0}, ""),
    ],
)
def test_the_noise_level_used_is_told(head, run, sentence):
    assert noise_sentence(run) == sentence


@pytest.mark.parametrize("kind", ["dense", "query", "table"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.25, -2.0])
def test_limits_of_constant_maps_are_never_degenerate(kind, signed, value):
    low, high = map_limits(np.full((4, 5, 6), value), MapInfo("m", "m", "", kind, signed=signed))
    assert low < high


def test_limits_of_weights_show_a_lone_peak_and_what_is_beside_a_large_one():
    query = MapInfo("m", "m", "", "query")
    weights = np.zeros((6, 6, 6))
    weights[3, 4, 5] = 0.7
    assert map_limits(weights, query) == (0.0, 0.7)
    weights[weights == 0] = 1e-7
    assert map_limits(weights, query)[1] == pytest.approx(0.07)  # what is next to nothing stays clear
    weights[:, :, 0] = 0.1
    assert map_limits(weights, query)[1] == pytest.approx(0.1)


def test_the_sentence_about_attention():
    weights = np.zeros((4, 5, 6))
    weights[1, 2, 3] = weights[1, 2, 5] = 2.0
    weights[1, 2, 3] += 1e-6
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    volume = Volume(weights, affine, record={"map": {"at_mm": [2.0, 4.0, 0.0]}})
    sentence = attention_sentence(volume, MapInfo("m", "m", "", "query"))
    assert "50\u00a0% at (2.0, 4.0, 6.0) mm, 6 mm away" in sentence
    assert "over 2 of 120 places" in sentence
    assert attention_sentence(volume, MapInfo("m", "m", "", "dense")) == ""
    assert attention_sentence(volume.replace(data=-weights), MapInfo("m", "m", "", "query")) == ""


# --- in the dock ------------------------------------------------------------------------------------------------------------------------


def test_fields_follow_model_and_protocol(pair, fake, said, monkeypatch):
    from napari_mrsr.zoo import Card, list_models

    cards = [
        *list_models(),
        Card(name="thick-x4", title="", architecture="transmrsr", scale=4, protocol="slice-profile", weights="w"),
        Card(name="pair-x2", title="", architecture="dcamsr", scale=2, protocol="kspace", weights="w", reference="optional"),
    ]
    monkeypatch.setattr("napari_mrsr.gui.super_resolve_dock.list_models", lambda: cards)
    fake()
    dock = SuperResolveDock(pair)
    low = layer_to_volume(pair.layers["LR"])

    def shown():
        return {name for name in ("voxel", "orientations", "register_reference") if dock.form[name].native.isVisibleTo(dock)}

    dock.models.setCurrentText("cubic")
    assert shown() == set()
    dock.models.setCurrentText("thick-x4")
    assert shown() == {"voxel", "orientations"}
    assert dock.options(low).voxel is None
    assert dock.form["voxel"].native.text() == "default"
    dock.form["voxel"].value = 0.8
    dock.form["orientations"].value = "second"
    assert (dock.options(low).voxel, dock.options(low).orientations) == (0.8, "second")
    dock.models.setCurrentText("pair-x2")
    assert shown() == {"register_reference"}
    assert (dock.options(low).voxel, dock.options(low).orientations) == (None, "both")
    dock.form["register_reference"].value = True
    assert dock.options(low).register_reference
    dock.models.setCurrentText("cubic")
    assert not dock.options(low).register_reference
    dock.form["protocol"].value = "slice-profile"
    assert shown() == {"voxel", "orientations"}
    dock.form["protocol"].value = "gaussian"
    assert shown() == set()
    dock.deleteLater()


def test_maps_of_the_chosen_model_are_offered_and_asked_for(pair, fake, said):
    fake(cftn_x2={"maps": [GATE, CHANGE]})
    dock = SuperResolveDock(pair)
    assert "Asking" in dock.maps.about.text()  # the worker starts a little later than the dock
    dock._later.stop()
    dock._ask_worker()
    dock.models.setCurrentText("cubic")
    assert "no internal maps" in dock.maps.about.text()
    dock.models.setCurrentText("cftn-x2")
    tick(dock.maps, 0)
    assert dock.options(layer_to_volume(pair.layers["LR"])).maps == ("gate",)
    dock.deleteLater()


def test_attention_is_offered_where_the_network_has_some_that_reaches_so_far(pair, fake, said):
    fake(cftn_x2={"global_attention": True}, cubic={"global_attention": False})
    dock = SuperResolveDock(pair)
    dock._later.stop()
    low = layer_to_volume(pair.layers["LR"])
    dock.models.setCurrentText("cubic")
    assert not dock.form["attention"].native.isVisibleTo(dock)
    dock.models.setCurrentText("cftn-x2")
    assert dock.form["attention"].native.isVisibleTo(dock)
    assert dock.options(low).attention == "window"
    dock.form["attention"].value = "global"
    assert dock.options(low).attention == "global"
    dock.models.setCurrentText("cubic")
    assert dock.options(low).attention == "window"
    dock.deleteLater()


def test_a_run_with_maps_from_the_worker(qtbot, pair, said):
    dock = SuperResolveDock(pair)
    pair.window.add_dock_widget(dock, name="Super-resolve")
    dock.models.setCurrentText("nearest")
    dock.models.setCurrentText("cftn-x2")  # a choice of one's own, which no proposal replaces
    low = layer_to_volume(pair.layers["LR"]).crop((slice(0, 12), slice(0, 12), slice(0, 10)))
    small = pair.add_image(low.data, affine=low.affine, name="small")
    dock.session.assign(Role.LOW_RESOLUTION, small)
    qtbot.waitUntil(lambda: "safm" in dock.maps.infos, timeout=3 * MINUTE)
    dock._confirm = lambda _text: True
    tick(dock.maps, list(dock.maps.infos).index("safm"))
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not dock.queue.busy, timeout=5 * MINUTE)
    assert said == []
    (run,) = dock.session.runs
    (layer,) = (x for x in run.layers if x.name == f"{dock.maps.infos['safm'].title} {run.name}")
    assert layer.data.shape == run.result.data.shape
    assert (layer.data >= 0).all()
    assert (layer.data <= 1).all()
    assert "% of the range" in dock.status.text()
    dock.client.close()
