"""The user's model folder, watched: trainings and the command line put models there while the viewer is open."""

from __future__ import annotations

import os

from qtpy.QtCore import QFileSystemWatcher, QObject, QTimer, Signal  # type: ignore[attr-defined]

from napari_mrsr.zoo import models

SETTLE_MS = 300
"""Files come in pairs: how long after a change the folder is looked at."""


class ModelFolder(QObject):
    """Watches the folder, which need not exist yet.

    Signals
    -------
    changed()
        A model has come or gone, whoever did it.
    """

    changed = Signal()

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._watcher = QFileSystemWatcher(self)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(SETTLE_MS)
        self._watcher.directoryChanged.connect(lambda _: self._later.start())
        self._later.timeout.connect(self._look)
        self._names = self._cards()
        self._watch()

    def _look(self) -> None:
        self._watch()
        before, self._names = self._names, self._cards()
        if self._names != before:
            self.changed.emit()

    def _watch(self) -> None:
        """Watch the folder or, while it is missing, the nearest one above it."""
        folder = models.user_weights_folder().absolute()
        place = str(next(path for path in (folder, *folder.parents) if path.is_dir()))
        if place not in self._watcher.directories():
            if self._watcher.directories():
                self._watcher.removePaths(self._watcher.directories())
            self._watcher.addPath(place)

    @staticmethod
    def _cards() -> set[tuple[str, float]]:
        """Names and dates of the cards."""
        try:
            with os.scandir(models.user_weights_folder()) as entries:
                return {(entry.name, entry.stat().st_mtime) for entry in entries if entry.name.endswith(".json")}
        except OSError:  # there is no folder, or a file went just now
            return set()
