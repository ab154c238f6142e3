"""Ready workspaces: layers that were just opened get their roles and one window, and the docks to go on with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import napari
from napari.layers import Layer
from qtpy.compat import isalive
from qtpy.QtCore import Qt, QTimer

from napari_mrsr.gui import _compat
from napari_mrsr.gui.layers import KEY, face_axial
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.gui.windows import link_windows

PLUGIN = "napari-mrsr"
MAIN, SIDE = "Compare", ("Super-resolve", "Metrics", "Trust")
"""The dock in the middle, and those beside it as tabs, the first on top."""


@dataclass(frozen=True)
class Workspace:
    """Name of a workspace for the settings, a hint of what to try in it, and a model that suits its input."""

    key: str
    hint: str
    model: str


def prepare_workspace(workspace: Workspace) -> None:
    """Arrange the layers that are about to be opened in the present viewer, as soon as they are in it."""
    viewer = napari.current_viewer()
    if viewer is not None:
        QTimer.singleShot(0, partial(_arrange, viewer, workspace, set(viewer.layers)))


def _arrange(viewer: Any, workspace: Workspace, before: set[Layer]) -> None:
    window = _compat.main_window(viewer)
    fresh = [layer for layer in viewer.layers if layer not in before]
    if not fresh or not isalive(window):
        return
    session = Session.of(viewer)
    roles = {Role(role): layer for layer in fresh if (role := layer.metadata.get(KEY, {}).get("role")) is not None}
    for role in (Role.LOW_RESOLUTION, Role.GROUND_TRUTH, Role.REFERENCE):
        session.assign(role, roles.get(role))
    _link(roles)
    face_axial(viewer)
    viewer.reset_view()
    if window.isVisible():
        _open_docks(viewer, workspace)


def _link(roles: dict[Role, Layer]) -> None:
    low, truth = roles.get(Role.LOW_RESOLUTION), roles.get(Role.GROUND_TRUTH)
    if low is not None and truth is not None:
        link_windows([truth, low], tuple(truth.contrast_limits))


def _open_docks(viewer: Any, workspace: Workspace) -> None:
    window, there = _compat.main_window(viewer), set(viewer.window.dock_widgets)
    middle, compare = viewer.window.add_plugin_dock_widget(PLUGIN, MAIN)
    fresh = middle.name not in there  # what the user has arranged since stays as it is
    if fresh:
        compare.toggle_fill()  # first of all: with the canvas between them the docks would stretch the window
    (side, dock), *others = [viewer.window.add_plugin_dock_widget(PLUGIN, name) for name in SIDE]
    if fresh:
        window.splitDockWidget(middle, side, Qt.Orientation.Horizontal)
        for other, _ in others:
            window.tabifyDockWidget(side, other)
    side.show()
    side.raise_()
    dock.models.setCurrentText(workspace.model)
    dock.hint.suggest(workspace.key, workspace.hint)
