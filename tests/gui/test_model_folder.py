"""Models that come while the viewer is open."""

from __future__ import annotations

import shutil

import pytest

from napari_mrsr.gui.model_folder import ModelFolder
from napari_mrsr.zoo import get_card
from napari_mrsr.zoo.models import WEIGHTS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_mrsr.zoo.models.user_weights_folder", lambda: tmp_path / "data" / "weights")
    return tmp_path / "data" / "weights"


def put(folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    card = get_card("cftn-x2")
    shutil.copy(WEIGHTS / card.weights, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(card.model_copy(update={"name": name, "weights": f"{name}.safetensors"}).model_dump_json())


def test_the_folder_is_watched_from_before_it_exists(qtbot, qapp, folder):
    watch = ModelFolder(qapp)
    with qtbot.waitSignal(watch.changed, timeout=20_000):
        put(folder, "first")
    with qtbot.waitSignal(watch.changed, timeout=20_000):
        put(folder, "second")
    with qtbot.assertNotEmitted(watch.changed, wait=1000):
        (folder / "notes.txt").write_text("mine")
    with qtbot.waitSignal(watch.changed, timeout=20_000):
        (folder / "first.json").unlink()
    watch.deleteLater()


def test_a_model_that_somebody_else_made_is_in_the_list_at_once(qtbot, folder, super_resolve_dock):
    dock = super_resolve_dock
    current = dock.models.currentText()
    assert dock.models.findText("made-elsewhere") < 0
    put(folder, "made-elsewhere")
    qtbot.waitUntil(lambda: dock.models.findText("made-elsewhere") >= 0, timeout=20_000)
    assert dock.models.currentText() == current
