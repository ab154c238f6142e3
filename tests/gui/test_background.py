"""Work away from the GUI thread."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import time
from pathlib import Path
from qtpy.QtWidgets import QApplication
from napari_mrsr.gui.dock import in_background

def work():
    time.sleep(1.0)
    Path("done").touch()

app = QApplication([])
in_background(work, done=print, failed=print)
"""


WITH_A_DOCK = """
import napari
viewer = napari.Viewer(show=False)
viewer.window.add_plugin_dock_widget("napari-mrsr", "{dock}")
"""


@pytest.mark.parametrize("dock", ["Super-resolve", "Attention probe", "Train"])
def test_a_program_that_ends_with_a_dock_open_ends_quietly(tmp_path, dock):
    """Nobody closes the window: Qt takes its objects away in an order of its own."""
    home = {**os.environ, "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", WITH_A_DOCK.format(dock=dock)]
    ended = subprocess.run(command, cwd=tmp_path, env=home, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_program_that_ends_while_work_goes_on_ends_quietly(tmp_path):
    """Without waiting, Qt's objects would be gone when the work ends: a traceback, and an abort on PyQt5."""
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    assert (tmp_path / "done").exists()
