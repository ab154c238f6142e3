"""napari's reader: files to image layers with exact geometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from napari_mrsr.errors import MrsrError, SeveralVolumesError
from napari_mrsr.io import READABLE, read_volume

NOTHING: list[tuple[Any, ...]] = [(None,)]
"""What napari takes for "read, but there is no layer"."""


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[tuple[Any, ...]]] | None:
    """Reader for `path`, or None where a file is not one of ours (npe2 reader contribution)."""
    paths = [path] if isinstance(path, str) else list(path)
    return read if paths and all(p.lower().endswith(READABLE) for p in paths) else None


def read(path: str | Sequence[str]) -> list[tuple[Any, ...]]:
    """Layer data tuples of one or more files; what cannot be read is said to the user."""
    layers = []
    for one in [path] if isinstance(path, str) else path:
        try:
            layers.append(_read_one(one))
        except MrsrError as error:
            tell(str(error))
    found = [layer for layer in layers if layer is not None]
    if found:
        face_current_viewer()
    return found or NOTHING


def _read_one(path: str) -> tuple[Any, ...] | None:
    from napari_mrsr.gui.layers import volume_to_layer

    try:
        return volume_to_layer(read_volume(path))
    except SeveralVolumesError as error:
        index = ask_index(path, error.count)
        return None if index is None else volume_to_layer(read_volume(path, index))


def ask_index(path: str, count: int) -> int | None:
    """Ask which of several volumes of a file to open; None where the user opens none."""
    from qtpy.QtWidgets import QInputDialog

    index, chosen = QInputDialog.getInt(None, "Several volumes", f"{Path(path).name} holds {count} volumes. Open number:", 0, 0, count - 1)
    return index if chosen else None


def tell(sentence: str) -> None:
    """Show a problem in the viewer in use; napari hands readers and writers none."""
    import napari

    from napari_mrsr.gui.dock import say

    say(napari.current_viewer(), sentence)


def face_current_viewer() -> None:
    """The first volume of an empty viewer is shown axially; later ones leave the view alone."""
    import napari
    from qtpy.QtCore import QTimer

    from napari_mrsr.gui.layers import face_axial

    viewer = napari.current_viewer()
    if viewer is not None and not viewer.layers:
        QTimer.singleShot(0, lambda: face_axial(viewer) if len(viewer.layers) else None)
