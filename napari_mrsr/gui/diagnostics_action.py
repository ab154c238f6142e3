"""Help > Copy diagnostics: versions, devices and graphics onto the clipboard, for a support request."""

from __future__ import annotations

import sys
import weakref
from typing import Any

from qtpy.QtCore import QProcess
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QAction, QWidget

from napari_mrsr.gui import _compat
from napari_mrsr.gui.dock import say

NAME = "napari-mrsr copy diagnostics"


class DiagnosticsAction(QAction):
    """Asks the command line (``napari-mrsr info``), so that this process needs no torch."""

    def __init__(self, viewer: Any, parent: QWidget) -> None:
        super().__init__("Copy diagnostics (MR Super-Resolution)", parent)
        self.setObjectName(NAME)
        self.setToolTip("Versions, devices and graphics onto the clipboard; nothing about your images")
        self._viewer = weakref.ref(_compat.unwrap(viewer))
        self._process = QProcess(self)
        self._process.finished.connect(self._finished)
        self._process.errorOccurred.connect(self._broken)
        self.triggered.connect(self._ask)
        # Closing the window in between ends it quietly.
        parent.destroyed.connect(self._process.kill)

    def _ask(self) -> None:
        self.setEnabled(False)
        self._process.start(sys.executable, ["-m", "napari_mrsr", "info"])

    def _finished(self, code: int, *_: Any) -> None:
        self.setEnabled(True)
        clipboard = QGuiApplication.clipboard()
        if code == 0 and clipboard is not None:
            clipboard.setText(bytes(self._process.readAllStandardOutput().data()).decode(errors="replace").strip())
            self._say("Diagnostics are on the clipboard: versions, devices and graphics, nothing about your images.", problem=False)
        else:
            problem = bytes(self._process.readAllStandardError().data()).decode(errors="replace").strip().splitlines()
            self._say(f"Diagnostics could not be made: {problem[-1] if problem else f'code {code}'}.")

    def _broken(self, error: Any) -> None:
        if error == QProcess.ProcessError.FailedToStart:
            self.setEnabled(True)
            self._say(f"Diagnostics could not be made: {sys.executable} could not be started.")

    def _say(self, sentence: str, *, problem: bool = True) -> None:
        viewer = self._viewer()
        if viewer is not None:
            say(viewer, sentence, problem=problem)


def diagnostics_action(viewer: Any) -> QAction:
    """The action of a viewer's window, put into its Help menu on first use (napari takes no contributions to that menu)."""
    window = _compat.main_window(viewer)
    action = window.findChild(QAction, NAME)
    if action is None:
        action = DiagnosticsAction(viewer, window)
        _compat.unwrap(viewer).window.help_menu.addAction(action)
    return action
