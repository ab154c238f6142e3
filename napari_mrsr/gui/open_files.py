"""Files that are opened for a role: chosen in a dialog or dropped on the role's row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_mrsr.errors import SeveralVolumesError
from napari_mrsr.gui.dock import in_background
from napari_mrsr.gui.layers import face_axial, volume_to_layer
from napari_mrsr.gui.reader import ask_index
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.gui.settings import recall, remember
from napari_mrsr.io import READABLE, read_volume
from napari_mrsr.volume import Volume

FOLDER = "folder"
"""Setting: where files were opened last."""


def ask_files(parent: QWidget, title: str, *, several: bool) -> list[str]:
    """Ask for one file, or several; the folder is remembered."""
    place, kinds = recall(FOLDER, ""), f"MR volumes ({' '.join(f'*{ending}' for ending in READABLE)});;All files (*)"
    if several:
        paths, _ = QFileDialog.getOpenFileNames(parent, title, place, kinds)
    else:
        one, _ = QFileDialog.getOpenFileName(parent, title, place, kinds)
        paths = [one] if one else []
    if paths:
        remember(FOLDER, str(Path(paths[0]).parent))
    return list(paths)


def open_files(session: Session, role: Role, paths: Iterable[str], owner: QObject, failed: Callable[[str], None]) -> None:
    """Read files away from the GUI thread; each becomes a layer with the role.

    Parameters
    ----------
    session : Session
    role : Role
        Any number of files become candidates; of files for another role the last has it.
    paths : iterable of str
    owner : QObject
        Nothing is added if this widget has gone in the meantime.
    failed : callable
        Gets one sentence for each file that cannot be used.
    """
    for path in paths:
        _open(session, role, path, None, owner, failed)


def _open(session: Session, role: Role, path: str, index: int | None, owner: QObject, failed: Callable[[str], None]) -> None:
    def done(found: Volume | int) -> None:
        if isinstance(found, Volume):
            _add(session, role, found)
        elif (chosen := ask_index(path, found)) is not None:
            _open(session, role, path, chosen, owner, failed)

    in_background(_read, path, index, done=done, failed=failed, owner=owner)


def _read(path: str, index: int | None) -> Volume | int:
    """The volume; or how many there are, where one must be chosen."""
    try:
        return read_volume(path, index)
    except SeveralVolumesError as error:
        return error.count


def _add(session: Session, role: Role, volume: Volume) -> None:
    first = not session.viewer.layers
    data, meta, _ = volume_to_layer(volume)
    layer = session.viewer.add_image(data, **meta)
    if first:
        face_axial(session.viewer)
    if role is Role.CANDIDATE:
        session.add_candidate(layer)
    else:
        session.assign(role, layer)


class FileDrop(QObject):
    """Lets files be dropped on a widget."""

    def __init__(self, widget: QWidget, dropped: Callable[[list[str]], None]) -> None:
        super().__init__(widget)
        self._dropped = dropped
        widget.setAcceptDrops(True)
        widget.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: Any) -> bool:  # noqa: N802 - Qt's name
        """Take what has local files, leave all else to the widget."""
        kind = event.type() if event is not None else None
        if kind not in (QEvent.Type.DragEnter, QEvent.Type.DragMove, QEvent.Type.Drop):
            return bool(super().eventFilter(watched, event))
        paths = [url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()]
        if not paths:
            return bool(super().eventFilter(watched, event))
        event.acceptProposedAction()
        if kind == QEvent.Type.Drop:
            self._dropped(paths)
        return True
