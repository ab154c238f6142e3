"""Which layer plays which role: the one model that every dock reads and changes."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from napari.layers import Image, Layer
from psygnal import Signal

from napari_mrsr.gui import _compat
from napari_mrsr.gui.layers import KEY


class Role(StrEnum):
    """Roles a layer can have; values are their names for people."""

    LOW_RESOLUTION = "Low resolution"
    REFERENCE = "Reference"
    GROUND_TRUTH = "Ground truth"


@dataclass(eq=False)
class Run:
    """One super-resolution run in the viewer: its result, its maps, how it was made."""

    name: str
    result: Layer
    layers: list[Layer] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    summary: str = ""


class Session:
    """Roles and runs of one viewer.

    Emits `roles_changed` when a role moves or its layer leaves, `runs_changed` when a run comes or goes, `layers_changed` when the
    choice of image layers changes, `models_changed` when the list of models has grown.
    """

    models_changed = Signal()
    roles_changed = Signal()
    runs_changed = Signal()
    layers_changed = Signal()

    _all: dict[int, Session] = {}  # noqa: RUF012 - one per living viewer

    def __init__(self, viewer: Any) -> None:
        self._viewer = weakref.ref(viewer)
        self._roles: dict[Role, Layer] = {}
        self.runs: list[Run] = []
        viewer.layers.events.inserted.connect(self._inserted)
        viewer.layers.events.removed.connect(self._removed)
        for layer in viewer.layers:
            self._take_role(layer)
            layer.events.name.connect(self._renamed)

    @classmethod
    def of(cls, viewer: Any) -> Session:
        """Session of a viewer, made on first use."""
        viewer = _compat.unwrap(viewer)
        key = id(viewer)
        if key not in cls._all:
            cls._all[key] = cls(viewer)
            weakref.finalize(viewer, cls._all.pop, key, None)
        return cls._all[key]

    @property
    def viewer(self) -> Any:
        """The viewer."""
        return self._viewer()

    def images(self) -> list[Layer]:
        """Image layers that can play a role: not the maps of runs, not what lies over images."""
        maps = {id(layer) for run in self.runs for layer in run.layers if layer is not run.result}
        return [
            layer
            for layer in self.viewer.layers
            if isinstance(layer, Image) and id(layer) not in maps and not layer.metadata.get(KEY, {}).get("overlay")
        ]

    def layer(self, role: Role) -> Layer | None:
        """Layer of a role."""
        return self._roles.get(role)

    def assign(self, role: Role, layer: Layer | None) -> None:
        """Give a role to a layer, or to none."""
        if self._roles.get(role) is layer:
            return
        if layer is None:
            self._roles.pop(role)
        else:
            self._roles[role] = layer
        self.roles_changed.emit()

    def add_run(self, run: Run) -> None:
        """Remember a run whose layers are in the viewer."""
        self.runs.append(run)
        self.runs_changed.emit()

    def remove_run(self, run: Run) -> None:
        """Take a run's layers out of the viewer; other layers stay as they are."""
        self.runs.remove(run)
        for layer in run.layers:
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
        self.runs_changed.emit()

    def _take_role(self, layer: Layer) -> None:
        role = layer.metadata.get(KEY, {}).get("role")
        if role is not None and Role(role) not in self._roles:
            self._roles[Role(role)] = layer
            self.roles_changed.emit()

    def _renamed(self, _event: Any) -> None:
        self.layers_changed.emit()

    def _inserted(self, event: Any) -> None:
        self._take_role(event.value)
        event.value.events.name.connect(self._renamed)
        self.layers_changed.emit()

    def _removed(self, event: Any) -> None:
        gone = event.value
        gone.events.name.disconnect(self._renamed)
        for role in [r for r, layer in self._roles.items() if layer is gone]:
            del self._roles[role]
            self.roles_changed.emit()
        for run in [r for r in self.runs if gone in r.layers]:
            run.layers.remove(gone)
            if not run.layers:
                self.runs.remove(run)
            self.runs_changed.emit()
        self.layers_changed.emit()
