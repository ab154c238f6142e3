"""The attention probe: a click, one overlay, one marker, tables, errors."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from napari.utils._proxies import ReadOnlyWrapper
from napari.utils.interactions import mouse_move_callbacks, mouse_press_callbacks, mouse_release_callbacks
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

from napari_mrsr.gui import _compat
from napari_mrsr.gui.layers import layer_to_volume
from napari_mrsr.gui.probe_dock import ProbeDock
from napari_mrsr.gui.probe_overlay import MARKER
from napari_mrsr.gui.session import Role, Run
from napari_mrsr.gui.super_resolve_dock import SuperResolveDock
from napari_mrsr.gui.worker_client import WorkerClient
from napari_mrsr.volume import Volume

MINUTE = 60_000
LOOK = {"name": "look", "title": "Look", "description": "Where it looks.", "kind": "query", "on": "result", "signed": False}
BACK = {**LOOK, "name": "back", "title": "Back", "on": "input", "signed": True}
OTHER = {**LOOK, "name": "other", "title": "Other", "on": "reference"}
GATE = {**LOOK, "name": "gate", "title": "Gate", "kind": "dense"}
TABLE = {**LOOK, "name": "table", "title": "Table", "description": "Rows and columns.", "kind": "table"}
HERE, THERE = (-3.2, 1.0, 30.0), (5.0, -8.0, 30.0)


@pytest.fixture
def client(fake):
    return fake(cftn_x2={"maps": [GATE, TABLE, LOOK, BACK, OTHER]})


@pytest.fixture
def dock(pair, client, said):
    pair.dims.order = (2, 1, 0)
    pair.dims.set_point(2, 30.0)
    widget = ProbeDock(pair)
    pair.window.add_dock_widget(widget, name="Attention probe")
    widget._later.stop()
    widget._describe()
    yield widget
    widget.pick_button.setChecked(False)


def choose(dock, name):
    index = dock.maps.findData(name)
    dock.maps.setCurrentIndex(index)
    dock.maps.activated.emit(index)


def mouse(viewer, kind, position, pixel=(50, 50), button=1, modifiers=()):
    event = SimpleNamespace(type=kind, button=button, modifiers=modifiers, pos=pixel, position=position, is_dragging=True, handled=False)
    return ReadOnlyWrapper(event, exceptions=("handled",))


def click(viewer, position, drag=0, **more):
    mouse_press_callbacks(viewer, mouse(viewer, "mouse_press", position, **more))
    if drag:
        mouse_move_callbacks(viewer, mouse(viewer, "mouse_move", position, pixel=(50 + drag, 50), **more))
    mouse_release_callbacks(viewer, mouse(viewer, "mouse_release", position, pixel=(50 + drag, 50), **more))


def found(name="look", at=HERE, shape=(5, 6, 1), low=(-10.0, -20.0, 30.0), kind="query", seed=0):
    """An answer of the worker: a slice with a coarse lattice of 4 mm."""
    affine = np.diag([4.0, 4.0, 1.5, 1.0])
    affine[:3, 3] = low
    data = np.random.default_rng(seed).random(shape).astype(np.float32)
    return Volume(data, affine, name=name, record={"map": {"name": name, "title": name, "kind": kind, "at_mm": list(at), "channel": None}})


def overlays(viewer):
    return [layer for layer in viewer.layers if layer.name.startswith("probe: ")]


def test_query_maps_come_first_then_tables(dock):
    assert [dock.maps.itemData(i) for i in range(dock.maps.count())] == ["look", "back", "other", "table", "gate"]
    assert "Where it looks." in dock.description.text()


def test_a_click_asks_for_the_voxel_and_shows_one_overlay_there(pair, dock, client, said):
    before = {layer.name: (layer.data.copy(), np.array(layer.affine), layer.visible, layer.contrast_limits) for layer in pair.layers}
    active = pair.layers.selection.active
    click(pair, HERE)
    assert client.probes == []  # nothing is picked unless asked for
    dock.pick_button.setChecked(True)
    click(pair, HERE)
    (probe,) = client.probes
    assert (probe["name"], probe["at"], probe["channel"], probe["stack"]) == ("look", HERE, None, 2)
    assert probe["volume"] is layer_to_volume(pair.layers["LR"])
    assert probe["reference"] is None
    answer = found()
    client.answer(answer)
    (layer,) = overlays(pair)
    world = layer.data_to_world((2, 3, 0))
    np.testing.assert_allclose(world, answer.affine[:3, :3] @ (2, 3, 0) + answer.affine[:3, 3])
    np.testing.assert_array_equal(layer.data, answer.data)
    assert layer.interpolation2d == "nearest"
    assert layer.colormap.colors[0][3] == 0  # clear where nothing is
    assert layer.colormap.colors[-1][3] == 1
    assert layer.help == "Where it looks."
    np.testing.assert_allclose(pair.layers[MARKER].data_to_world(pair.layers[MARKER].data[0]), HERE, atol=1e-5)
    assert "(-3.2, 1.0, 30.0) mm" in dock.status.text()
    assert "Largest weight" in dock.status.text()
    assert pair.layers.selection.active is active
    for name, (data, affine, visible, limits) in before.items():
        np.testing.assert_array_equal(pair.layers[name].data, data)
        np.testing.assert_array_equal(np.array(pair.layers[name].affine), affine)
        assert pair.layers[name].visible == visible
        assert pair.layers[name].contrast_limits == limits
    assert [layer.name for layer in dock.session.images()] == ["HR", "LR"]
    assert pair.dims.point[2] == pytest.approx(30.0)
    assert said == []


def test_the_next_click_replaces_overlay_and_marker(pair, dock, client):
    dock.pick_button.setChecked(True)
    click(pair, HERE)
    client.answer(found())
    count = len(pair.layers)
    (layer,) = overlays(pair)
    layer.opacity = 0.4
    click(pair, THERE)
    client.answer(found(at=THERE, shape=(3, 9, 1), low=(0.0, -10.0, 30.0), seed=1))
    assert len(pair.layers) == count
    assert overlays(pair) == [layer]
    assert layer.data.shape == (3, 9, 1)
    assert layer.opacity == 0.4  # what the user set stays
    np.testing.assert_allclose(layer.data_to_world((0, 0, 0)), (0.0, -10.0, 30.0))
    np.testing.assert_allclose(pair.layers[MARKER].data_to_world(pair.layers[MARKER].data[0]), THERE, atol=1e-5)


def test_drags_other_buttons_and_modifiers_pick_nothing(pair, dock, client):
    dock.pick_button.setChecked(True)
    click(pair, HERE, drag=30)
    click(pair, HERE, button=2)
    click(pair, HERE, modifiers=("Shift",))
    assert client.probes == []
    click(pair, HERE, drag=2)  # a hand that trembles
    assert len(client.probes) == 1


def test_toggling_off_and_closing_leave_no_callback(pair, dock, client, qtbot):
    callbacks = pair.mouse_drag_callbacks
    count = len(callbacks)
    dock.pick_button.setChecked(True)
    assert len(callbacks) == count + 1
    dock.pick_button.setChecked(False)
    assert len(callbacks) == count
    other = ProbeDock(pair)
    other.pick_button.setChecked(True)
    users = client.users
    other.deleteLater()
    qtbot.waitUntil(lambda: client.users == users - 1, timeout=MINUTE)
    assert len(callbacks) == count
    client.described.emit({"model": "cftn-x2", "maps": [], "problem": ""})  # nobody is called that is gone


def test_only_the_last_of_many_clicks_waits(pair, dock, client):
    dock.pick_button.setChecked(True)
    places = [(float(x), 0.0, 30.0) for x in range(6)]
    for place in places:
        click(pair, place)
    assert [p["at"] for p in client.probes] == [places[0]]
    client.answer(found(at=places[0]))
    assert overlays(pair) == []  # out of date already
    assert [p["at"] for p in client.probes] == [places[0], places[-1]]
    client.answer(found(at=places[-1]))
    assert len(overlays(pair)) == 1
    assert len(client.probes) == 2


def test_the_same_input_keeps_its_key_and_any_change_gets_another(pair, dock, client):
    dock.pick_button.setChecked(True)

    def key():
        click(pair, HERE)
        client.answer(found())
        return client.probes[-1]["key"]

    first = key()
    assert key() == first
    dock.channel.setValue(2)
    client.answer(found())
    assert client.probes[-1]["channel"] == 1
    assert client.probes[-1]["key"] == first
    low = pair.layers["LR"]
    low.data = low.data * 2
    second = key()
    assert second != first
    low.translate = (1, 0, 0)
    third = key()
    assert third != second
    np.testing.assert_allclose(client.probes[-1]["volume"].affine[0, 3], low.data_to_world((0, 0, 0))[0])
    dock.session.add_run(Run("SR", low, options={"model": "cftn-x2", "noise": 3.0, "tile": 16, "roi": [0, 0, 0, 1, 1, 1], "maps": ["gate"]}))
    fourth = key()
    assert fourth != third
    options = client.probes[-1]["options"]
    assert (options.noise, options.tile, options.roi, options.maps) == (3.0, None, None, ())


def test_the_overlay_lies_on_what_the_map_belongs_to(pair, dock, client, head):
    result = pair.add_image(head.data, affine=head.affine, name="SR")
    dock.session.add_run(Run("SR", result, layers=[result], options={"model": "cftn-x2"}))
    dock.pick_button.setChecked(True)
    names = {"look": "SR", "back": "LR", "other": "LR"}
    for name, image in names.items():
        choose(dock, name) if client.probes else dock.maps.setCurrentIndex(dock.maps.findData(name))
        if not client.probing:
            click(pair, HERE)
        client.answer(found(name))
        (layer,) = overlays(pair)
        assert pair.layers.index(layer) == pair.layers.index(pair.layers[image]) + 1
        assert ("beneath SR" in dock.status.text()) == (image == "LR")
    reference = pair.add_image(head.data, affine=head.affine, name="T2")
    dock.session.assign(Role.REFERENCE, reference)
    click(pair, HERE)
    assert client.probes[-1]["reference"] is None  # cftn uses none
    client.answer(found("other"))
    assert pair.layers.index(overlays(pair)[0]) == pair.layers.index(reference) + 1
    dock.alone_button.click()
    assert {layer.name for layer in pair.layers if layer.visible} == {"T2", overlays(pair)[0].name, MARKER}


def test_signed_maps_have_diverging_colours_and_symmetric_limits(pair, dock, client):
    dock.pick_button.setChecked(True)
    click(pair, HERE)
    client.answer(found())
    choose(dock, "back")
    answer = found("back")
    client.answer(answer.replace(data=answer.data - 0.4))
    (layer,) = overlays(pair)
    low, high = layer.contrast_limits
    assert low == -high
    colours = layer.colormap.colors
    assert colours[len(colours) // 2][3] < 0.05
    assert colours[0][3] == colours[-1][3] == 1


def test_a_table_is_drawn_in_the_dock(pair, dock, client):
    dock.pick_button.setChecked(True)
    click(pair, HERE)
    client.answer(found())
    choose(dock, "table")
    assert not dock.channel.isEnabled()
    table = Volume(np.arange(12, dtype=np.float32).reshape(3, 4, 1), np.eye(4), record=found("table", kind="table").record)
    client.answer(table)
    assert dock.table.isVisibleTo(dock)
    assert dock.table.shown == (3, 4)
    axes = dock.table._canvas.figure.axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), table.data[:, :, 0])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("column", "row")
    assert "3 rows, 4 columns" in dock.status.text()
    assert overlays(pair) == []
    choose(dock, "look")
    client.answer(found())
    assert not dock.table.isVisibleTo(dock)
    assert len(overlays(pair)) == 1


def test_clear_takes_both_layers_out_and_late_answers_bring_none_back(pair, dock, client):
    dock.pick_button.setChecked(True)
    click(pair, HERE)
    client.answer(found())
    click(pair, THERE)
    dock.clear_button.click()
    assert [layer.name for layer in pair.layers] == ["HR", "LR"]
    client.answer(found())
    assert [layer.name for layer in pair.layers] == ["HR", "LR"]


def test_problems_are_one_sentence(pair, dock, client, said):
    dock.pick_button.setChecked(True)
    click(pair, HERE)
    client.refuse("The position lies outside the result.")
    assert said[-1] == "The position lies outside the result."
    client.busy = True
    click(pair, HERE)
    assert "A run is under way" in said[-1]
    client.busy = False
    pair.dims.ndisplay = 3
    click(pair, HERE)
    assert "2D display" in said[-1]
    pair.dims.ndisplay = 2
    shapes = pair.add_shapes(ndim=3, name="boxes")
    shapes.mode = "add_rectangle"
    click(pair, HERE)
    assert "boxes is in mode add_rectangle" in said[-1]
    pair.layers.selection.active = pair.layers["LR"]
    dock.session.assign(Role.LOW_RESOLUTION, None)
    click(pair, HERE)
    assert "low resolution first" in said[-1]
    assert len(client.probes) == 1
    assert overlays(pair) == []


def test_a_failure_does_not_hold_up_the_next_click(pair, dock, client, said):
    dock.pick_button.setChecked(True)
    click(pair, HERE)
    click(pair, THERE)
    client.refuse("Something broke.")
    assert said == ["Something broke."]
    assert client.probes[-1]["at"] == THERE
    client.answer(found(at=THERE))
    assert len(overlays(pair)) == 1


def test_a_run_brings_its_model(qtbot, pair, dock, head):
    result = pair.add_image(head.data, affine=head.affine, name="SR")
    dock.models.addItem("other-x2")
    dock.session.add_run(Run("SR", result, layers=[result], options={"model": "other-x2"}))
    assert dock.models.currentText() == "other-x2"
    qtbot.waitUntil(lambda: "no internal maps" in dock.description.text())
    dock.session.add_run(Run("SR cubic", result, layers=[result], options={"model": "cubic"}))
    assert dock.models.currentText() == "other-x2"  # classic methods have nothing to look into
    dock.models.setCurrentText("cftn-x2")
    dock.session.remove_run(dock.session.runs[-1])
    assert dock.models.currentText() == "cftn-x2"


# --- with the worker ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def real(pair, said):
    pair.dims.order = (2, 1, 0)
    pair.dims.set_point(2, 30.0)
    widget = ProbeDock(pair)
    pair.window.add_dock_widget(widget, name="Attention probe")
    yield widget
    widget.client.close()


@pytest.mark.shown
def test_a_real_click_into_a_real_network(qtbot, pair, real, said):
    qtbot.waitUntil(lambda: "cst-attention" in real._infos, timeout=3 * MINUTE)
    pair.reset_view()
    qtbot.wait(100)
    real.pick_button.setChecked(True)
    canvas = _compat.unwrap(pair).window._qt_viewer.canvas
    place = [pair.dims.point[d] + 3.0 for d in pair.dims.displayed]
    x, y = (canvas.view.transform * canvas.view.scene.transform).map(place[::-1])[:2]
    QTest.mouseClick(canvas.native, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, QPoint(round(x), round(y)))
    qtbot.waitUntil(lambda: real._at is not None, timeout=MINUTE)
    wanted = list(pair.dims.point)
    for axis, value in zip(pair.dims.displayed, place, strict=True):
        wanted[axis] = value
    np.testing.assert_allclose(real._at, wanted, atol=0.3)
    qtbot.waitUntil(lambda: bool(overlays(pair) or said), timeout=5 * MINUTE)
    assert said == []
    (layer,) = overlays(pair)
    assert layer.data.sum() == pytest.approx(1, rel=1e-3)
    corners = [np.array(layer.data_to_world(c)) for c in (np.full(3, -0.5), np.array(layer.data.shape) - 0.5)]
    assert (corners[0] < real._at).all()
    assert (corners[1] > real._at).all()
    choose(real, "channel-attention")
    qtbot.waitUntil(lambda: real.table.shown is not None, timeout=5 * MINUTE)
    assert real.table.shown == (8, 16)
    real.look((900.0, 0.0, 0.0))
    qtbot.waitUntil(lambda: bool(said), timeout=5 * MINUTE)
    assert "outside the result" in said[-1]


def test_docks_of_a_viewer_share_one_process_that_ends_with_the_last(qtbot, pair, real, said):
    other = SuperResolveDock(pair)
    docked = pair.window.add_dock_widget(other, name="Super-resolve")
    assert other.client is real.client
    other.client.describe("cftn-x2")
    qtbot.waitUntil(lambda: real.client.process_id > 0, timeout=MINUTE)
    client = real.client
    pair.window.remove_dock_widget(docked)
    other.deleteLater()
    qtbot.waitUntil(lambda: client._users == 1, timeout=MINUTE)
    assert client.process_id > 0
    client.release()
    assert client.process_id == 0
    assert client not in WorkerClient._shared.values()
