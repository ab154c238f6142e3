"""The result of a run while it grows."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QObject, Qt

from napari_mrsr.gui.live_result import LiveResult
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.gui.super_resolve_dock import SuperResolveDock
from napari_mrsr.gui.worker_client import WorkerClient
from napari_mrsr.volume import Volume

MINUTE = 60_000


@pytest.fixture
def live(pair, fake, qtbot):
    client = fake()
    session = Session.of(pair)
    owner = QObject()
    result = LiveResult(session, client, owner)
    yield result, client, session
    result.detach()


def grown(session):
    truth = session.volume(session.layer(Role.GROUND_TRUTH))
    return Volume(np.zeros(truth.shape, np.float32), truth.affine, name="LR small")


def test_it_is_looked_at_but_not_judged_and_goes(live, pair):
    result, client, session = live
    client.started.emit({"live": grown(session)})
    assert [layer.name for layer in pair.layers] == ["HR", "LR", "LR small (running)"]
    assert session.live is pair.layers[-1]
    assert session.live in session.compared()
    assert session.live not in session.candidates
    assert tuple(session.live.contrast_limits) == tuple(pair.layers["LR"].contrast_limits)
    result.end()
    assert (session.live, len(pair.layers)) == (None, 2)
    result.end()


def test_tiles_are_drawn_a_few_times_a_second(live, qtbot, pair):
    _result, client, session = live
    volume = grown(session)
    client.started.emit({"live": volume})
    drawn = []
    session.values_changed.connect(lambda: drawn.append(float(volume.data.max())))
    for value in range(1, 6):
        volume.data[:] = value
        client.tile.emit([[0, 1], [0, 1], [0, 1]], False)
    assert drawn == []
    qtbot.waitUntil(lambda: len(drawn) > 0, timeout=5000)
    assert drawn == [5.0]


def test_the_run_is_told_where_one_looks(live, monkeypatch):
    result, client, session = live
    told = []
    monkeypatch.setattr(client, "look", lambda at, axis: told.append((at, axis)))
    session.position = (1.0, 2.0, 9.0)
    assert told == []  # nothing runs
    client.busy = True
    session.position = (1.0, 2.0, 12.0)
    assert told == [((1.0, 2.0, 12.0), result.look()[1])]


def test_removing_the_layer_by_hand_does_no_harm(live, pair):
    result, client, session = live
    client.started.emit({"live": grown(session)})
    pair.layers.remove(session.live)
    assert session.live is None
    client.tile.emit([[0, 1]] * 3, True)
    result.end()


def test_a_real_run_grows_pauses_and_ends_as_a_candidate(pair, qtbot, said, monkeypatch):
    dock = SuperResolveDock(pair)
    monkeypatch.setattr(dock, "_confirm", lambda _: True)
    pair.window.add_dock_widget(dock, name="Super-resolve")
    try:
        dock.models.setCurrentText("cftn-x2")
        seen, resting, grew = [], [], []
        session = dock.session
        session.roles_changed.connect(lambda: seen.append(session.live))
        dock.queue.resting.connect(resting.append)
        dock.client.tile.connect(lambda block, preview: grew.append(preview))
        qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
        assert dock.pause_button.isVisibleTo(dock)
        dock.pause_button.click()
        qtbot.waitUntil(lambda: resting == [True], timeout=2 * MINUTE)
        assert dock.pause_button.isChecked()
        assert "Paused" in dock.status.text()
        assert session.live is not None
        dock.pause_button.click()
        qtbot.waitUntil(lambda: not dock.queue.busy, timeout=2 * MINUTE)
        assert resting == [True, False]
        assert grew
        assert session.live is None
        assert [layer.name for layer in session.candidates] == ["SR cftn-x2"]
        assert not any("running" in layer.name for layer in pair.layers)
        assert not dock.pause_button.isVisibleTo(dock)
        result = session.volume(session.candidates[0])
        assert result.data.std() > 0.5 * session.volume(session.layer(Role.LOW_RESOLUTION)).data.std()
    finally:
        dock.client.close()


def test_a_run_stopped_before_the_window_looked_ends_without_a_word(qtbot, tmp_path):
    client, told = WorkerClient(), []
    client.started.connect(told.append)
    client.cancelled.connect(lambda: told.append("cancelled"))
    client._run_id = 1
    gone = {"path": str(tmp_path / "gone.raw"), "dtype": "<f4", "shape": [2, 2, 2], "affine": np.eye(4).tolist(), "name": "SR", "record": {}}
    client._handle({"event": "started", "id": 1, "live": gone})
    client._handle({"event": "cancelled", "id": 1})
    assert told == ["cancelled"]
