"""Names that moved between napari versions, and the few private ones; each with its public replacement to come."""

from __future__ import annotations

from typing import Any

from qtpy.compat import isalive
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDockWidget


def unwrap(viewer: Any) -> Any:
    """The viewer behind the proxy that plugins are handed (napari 0.4.17 to 0.10)."""
    return getattr(viewer, "__wrapped__", viewer)


def camera(viewer: Any) -> Any:
    """``viewer.scene.camera`` since napari 0.9, ``viewer.camera`` before."""
    scene = getattr(viewer, "scene", None)
    return scene.camera if scene is not None and hasattr(scene, "camera") else viewer.camera


def scale_bar(viewer: Any) -> Any:
    """``viewer.canvas.overlays.scale_bar`` since napari 0.9, ``viewer.scale_bar`` before."""
    overlays = getattr(getattr(viewer, "canvas", None), "overlays", None)
    return viewer.scale_bar if overlays is None else overlays.scale_bar


def main_window(viewer: Any) -> Any:
    """Qt main window; napari has no public access to it yet (asked in napari issue 9433)."""
    return unwrap(viewer).window._qt_window


def _centre(viewer: Any) -> Any:
    """Widget in the middle of napari's window (canvas and sliders); None where the window has gone."""
    main = getattr(getattr(unwrap(viewer), "window", None), "_qt_window", None)
    return main.centralWidget() if main is not None and isalive(main) else None


def show_canvas(viewer: Any, visible: bool) -> None:
    """Show the widget in the middle of napari's window, or leave its room to the docks; a closed window is left alone."""
    centre = _centre(viewer)
    if centre is not None:
        centre.setVisible(visible)


def canvas_shown(viewer: Any) -> bool:
    """Whether napari's canvas is to be seen whenever its window is; napari shows its notifications nowhere else."""
    centre = _centre(viewer)
    return centre is None or not centre.isHidden()


def widen(viewer: Any, widget: Any) -> None:
    """Give the dock around a widget all the width that other docks can spare."""
    main = main_window(viewer)
    docks = [d for d in main.findChildren(QDockWidget) if d.isVisible() and not d.isFloating()]
    own = [d for d in docks if d.isAncestorOf(widget)]
    others = [d for d in docks if d not in own]
    main.resizeDocks([*own, *others], [main.width()] * len(own) + [d.minimumSizeHint().width() for d in others], Qt.Orientation.Horizontal)
