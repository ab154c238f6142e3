"""Names that moved between napari versions, and the few private ones; each with its public replacement to come."""

from __future__ import annotations

from typing import Any


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
