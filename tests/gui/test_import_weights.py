"""Importing weights from the dock."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog

from napari_mrsr.errors import RunError
from napari_mrsr.gui.import_weights import BY_FILE, ImportDialog, WeightsImport, import_weights
from napari_mrsr.gui.probe_dock import ProbeDock
from napari_mrsr.gui.super_resolve_dock import SuperResolveDock
from napari_mrsr.zoo.models import WEIGHTS

MINUTE = 60_000


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """The user's models go to an empty folder, in this process and in those it starts."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    folder = tmp_path / "data" / "napari-mrsr" / "weights"
    monkeypatch.setattr("napari_mrsr.zoo.models.user_weights_folder", lambda: folder)
    return folder


@pytest.fixture
def dock(pair, fake, said):
    fake(cftn_x2={}, mine={})
    widget = SuperResolveDock(pair)
    pair.window.add_dock_widget(widget, name="Super-resolve")
    return widget


def choose(monkeypatch, path, accept=True, **changes):
    """Answer the file dialog, and the dialog after it."""
    monkeypatch.setattr("napari_mrsr.gui.import_weights.QFileDialog.getOpenFileName", lambda *_: (str(path), ""))

    def answer(dialog):
        dialog.name.setText(changes.get("name", ""))
        dialog.scale.setCurrentText(changes.get("scale", BY_FILE))
        dialog.overwrite.setChecked(changes.get("overwrite", False))
        return QDialog.DialogCode.Accepted if accept else QDialog.DialogCode.Rejected

    monkeypatch.setattr(ImportDialog, "exec", answer)


def test_the_form_becomes_the_command_line(qtbot, monkeypatch):
    assert WeightsImport("a b.pth").arguments() == ["models", "import", "--", "a b.pth"]
    dialog = ImportDialog("w.ckpt")
    qtbot.addWidget(dialog)
    assert dialog.wanted() == WeightsImport("w.ckpt")
    dialog.name.setText("mine ")
    dialog.scale.setCurrentText("3")
    dialog.overwrite.setChecked(True)
    words = ["models", "import", "--name", "mine", "--scale", "3", "--overwrite", "--", "w.ckpt"]
    assert dialog.wanted().arguments() == words


@pytest.mark.parametrize(
    ("code", "out", "err", "words"),
    [
        (2, "", "napari-mrsr: w.ckpt holds no weights.\n", r"^w\.ckpt holds no weights\.$"),
        (1, "", "Traceback\nValueError: odd\n", r"w\.ckpt could not be imported: ValueError: odd"),
        (0, "something else\n", "", "ended with code 0"),
    ],
)
def test_what_the_command_line_says_is_passed_on(monkeypatch, code, out, err, words):
    monkeypatch.setattr(subprocess, "run", lambda *_a, **_k: subprocess.CompletedProcess([], code, out, err))
    with pytest.raises(RunError, match=words):
        import_weights(WeightsImport("w.ckpt"))


def test_an_import_that_cannot_start_or_never_ends_is_said(monkeypatch):
    def fail(error):
        def run(*_a, **_k):
            raise error

        monkeypatch.setattr(subprocess, "run", run)
        with pytest.raises(RunError) as caught:
            import_weights(WeightsImport("w.ckpt"))
        return str(caught.value)

    assert "could not be started" in fail(FileNotFoundError(2, "no such file"))
    assert "given up" in fail(subprocess.TimeoutExpired("x", 1))


def test_a_weights_file_becomes_a_chosen_model_in_every_dock(qtbot, pair, dock, said, own_folder, tmp_path, monkeypatch):
    probe = ProbeDock(pair)
    pair.window.add_dock_widget(probe, name="Attention probe")
    source = tmp_path / "given"
    source.mkdir()
    for name in ("cftn-x2.safetensors", "cftn-x2.json"):
        shutil.copyfile(WEIGHTS / name, source / name)
    choose(monkeypatch, source / "cftn-x2.safetensors", name="mine")
    qtbot.mouseClick(dock.import_button, Qt.MouseButton.LeftButton)
    assert not dock.import_button.isEnabled()
    qtbot.waitUntil(lambda: dock.import_button.isEnabled(), timeout=3 * MINUTE)
    assert said == []
    assert dock.models.currentText() == "mine"
    assert "mine" in dock.status.text()
    assert probe.models.findText("mine") >= 0
    assert (own_folder / "mine.safetensors").is_file()


def test_a_file_that_is_no_weights_is_said(qtbot, dock, said, own_folder, tmp_path, monkeypatch):
    nonsense = tmp_path / "nonsense.pth"
    nonsense.write_bytes(b"not weights")
    before = dock.models.currentText()
    choose(monkeypatch, nonsense)
    qtbot.mouseClick(dock.import_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(said), timeout=3 * MINUTE)
    assert "nonsense.pth" in said[-1]
    assert "Traceback" not in said[-1]
    assert dock.import_button.isEnabled()
    assert dock.models.currentText() == before


def test_turning_back_imports_nothing(qtbot, dock, monkeypatch):
    started = []
    monkeypatch.setattr("napari_mrsr.gui.import_weights.in_background", lambda *a, **_: started.append(a))
    choose(monkeypatch, "")
    qtbot.mouseClick(dock.import_button, Qt.MouseButton.LeftButton)
    choose(monkeypatch, "w.pth", accept=False)
    qtbot.mouseClick(dock.import_button, Qt.MouseButton.LeftButton)
    assert started == []
    choose(monkeypatch, "w.pth")
    qtbot.mouseClick(dock.import_button, Qt.MouseButton.LeftButton)
    assert len(started) == 1
