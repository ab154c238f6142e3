"""Work away from the GUI thread."""

from __future__ import annotations

import subprocess
import sys

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


def test_a_program_that_ends_while_work_goes_on_ends_quietly(tmp_path):
    """Without waiting, Qt's objects would be gone when the work ends: a traceback, and an abort on PyQt5."""
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    assert (tmp_path / "done").exists()
