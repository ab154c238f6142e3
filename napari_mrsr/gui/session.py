"""Which layer plays which role: the one model that every dock reads and changes."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from napari.layers import Image, Layer
from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_mrsr.errors import InputError
from napari_mrsr.gui import _compat
from napari_mrsr.gui.layers import KEY, layer_to_volume, sliced_axis
from napari_mrsr.volume import Box, Volume


class Role(StrEnum):
    """Roles a layer can have; values are their names for people."""

    LOW_RESOLUTION = "Low resolution"
    REFERENCE = "Reference"
    GROUND_TRUTH = "Ground truth"
    CANDIDATE = "Candidate"


FOLLOW_MS = 30
"""How long after the position napari's sliders follow."""
Point = tuple[float, float, float]
Line = tuple[Point, Point]


@dataclass(eq=False)
class Run:
    """One super-resolution run in the viewer: its result, its maps, how it was made."""

    name: str
    result: Layer
    layers: list[Layer] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    summary: str = ""


class Session:
    """Roles, runs and what is looked at in one viewer: the one model that every dock reads and changes.

    Emits `roles_changed` when a role moves, a candidate comes or goes, or the layer of either leaves; `runs_changed` when a run comes or
    goes; `layers_changed` when the choice of image layers, or a name, changes; `models_changed` when the list of models has grown;
    `position_changed` when another point is looked at; `values_changed` when a layer's array was filled in place;
    `captions_changed` with the captions; `axis_changed` and `overlay_changed` with the plane and the map that are looked at;
    `roi_changed`, `line_changed` and `mask_changed` with the region of interest, the profile line and the mask.
    """

    models_changed = Signal()
    roles_changed = Signal()
    runs_changed = Signal()
    layers_changed = Signal()
    position_changed = Signal()
    values_changed = Signal()
    captions_changed = Signal()
    axis_changed = Signal()
    overlay_changed = Signal()
    roi_changed = Signal()
    line_changed = Signal()
    mask_changed = Signal()

    _all: dict[int, Session] = {}  # noqa: RUF012 - one per living viewer

    def __init__(self, viewer: Any) -> None:
        self._viewer = weakref.ref(viewer)
        self._roles: dict[Role, Layer] = {}
        self._candidates: list[Layer] = []
        self._volumes: weakref.WeakKeyDictionary[Layer, tuple[Any, bytes, Volume | str]] = weakref.WeakKeyDictionary()
        self._roi: Box | None = None
        self._line: Line | None = None
        self._mask: Layer | None = None
        self._live: Layer | None = None
        self._overlay: Layer | None = None
        self._axis: int | None = None
        self._captions: weakref.WeakKeyDictionary[Layer, str] = weakref.WeakKeyDictionary()
        self._sliders = _point(viewer)
        self._position: Point = self._sliders or (0.0, 0.0, 0.0)
        self.runs: list[Run] = []
        self._follow = QTimer()
        self._follow.setSingleShot(True)
        self._follow.setInterval(FOLLOW_MS)
        self._follow.timeout.connect(self.move_sliders)
        viewer.dims.events.point.connect(self._dims_moved)
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

    @property
    def candidates(self) -> tuple[Layer, ...]:
        """Images to be judged, in the order they came: results of runs, and any other layer that was made one."""
        return tuple(self._candidates)

    def compared(self) -> list[Layer]:
        """Layers to be looked at together: low resolution, candidates, a result under way, ground truth, reference; each once."""
        single = [self._roles.get(role) for role in (Role.LOW_RESOLUTION, Role.GROUND_TRUTH, Role.REFERENCE)]
        ordered = [single[0], *self._candidates, self._live, *single[1:]]
        return list(dict.fromkeys(layer for layer in ordered if layer is not None))

    def volume(self, layer: Layer) -> Volume:
        """Volume of a layer under the layer's present name; made once for as long as data and place stay the same.

        Raises
        ------
        InputError
            As :func:`~napari_mrsr.gui.layers.layer_to_volume`.
        """
        place = layer.affine.affine_matrix.tobytes() + layer.scale.tobytes() + layer.translate.tobytes() + layer.rotate.tobytes()
        data, at, volume = self._volumes.get(layer, (None, b"", ""))
        if data is not layer.data or at != place:
            try:
                volume = layer_to_volume(layer)
            except InputError as error:
                volume = str(error)
            self._volumes[layer] = (layer.data, place, volume)
        if isinstance(volume, str):
            raise InputError(volume)
        return volume if volume.name == layer.name else volume.replace(name=layer.name)

    def caption(self, layer: Layer) -> str:
        """Short line about a layer (its scores), shown with its name where images are compared; empty where there is none."""
        return self._captions.get(layer, "")

    def set_captions(self, captions: Mapping[Layer, str]) -> None:
        """Replace all captions."""
        if captions != dict(self._captions):
            self._captions.clear()
            self._captions.update(captions)
            self.captions_changed.emit()

    def add_candidate(self, layer: Layer) -> None:
        """Make a layer one of the images to be judged."""
        if layer not in self._candidates:
            self._candidates.append(layer)
            self.roles_changed.emit()

    def drop_candidate(self, layer: Layer) -> None:
        """Judge a layer no longer; it stays in the viewer."""
        if layer in self._candidates:
            self._candidates.remove(layer)
            self.roles_changed.emit()

    @property
    def position(self) -> Point:
        """World point (R, A, S in mm) that is looked at.

        napari's sliders follow in a moment, for its slicing takes longer than drawing does, and not at all while its canvas is hidden.
        """
        return self._position

    @position.setter
    def position(self, point: Sequence[float]) -> None:
        x, y, z = (float(v) for v in point)
        if (x, y, z) != self._position:
            self._position = x, y, z
            if not self._follow.isActive():
                self._follow.start()
            self.position_changed.emit()

    @property
    def axis(self) -> int:
        """Axis (0, 1, 2 for R, A, S) across the slice that is looked at: in Compare while it fills the window, else in napari's canvas."""
        return self._axis if self._axis is not None else sliced_axis(self.viewer)

    def look_along(self, axis: int | None) -> None:
        """Say which axis lies across the slices that are looked at; None for that of napari's canvas."""
        if axis != self._axis:
            self._axis = axis
            self.axis_changed.emit()

    @property
    def overlay(self) -> Layer | None:
        """Map or mask that Compare lays over its images."""
        return self._overlay

    @overlay.setter
    def overlay(self, layer: Layer | None) -> None:
        if layer is not self._overlay:
            self._overlay = layer
            self.overlay_changed.emit()

    @property
    def live(self) -> Layer | None:
        """Result that is still growing: looked at with the others, but not judged yet."""
        return self._live

    @live.setter
    def live(self, layer: Layer | None) -> None:
        if layer is not self._live:
            self._live = layer
            self.roles_changed.emit()

    @property
    def roi(self) -> Box | None:
        """Region of interest in world mm."""
        return self._roi

    @roi.setter
    def roi(self, box: Box | None) -> None:
        if box != self._roi:
            self._roi = box
            self.roi_changed.emit()

    @property
    def line(self) -> Line | None:
        """Ends of the profile line in world mm."""
        return self._line

    @line.setter
    def line(self, line: Line | None) -> None:
        if line != self._line:
            self._line = line
            self.line_changed.emit()

    @property
    def mask(self) -> Layer | None:
        """Labels layer whose non-zero voxels count."""
        return self._mask

    @mask.setter
    def mask(self, layer: Layer | None) -> None:
        if layer is not self._mask:
            self._mask = layer
            self.mask_changed.emit()

    def assign(self, role: Role, layer: Layer | None) -> None:
        """Give a role that one layer can have to a layer, or to none; for candidates see :meth:`add_candidate`."""
        if role is Role.CANDIDATE:
            raise ValueError("Any number of layers can be candidates: use add_candidate.")
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
        self.add_candidate(run.result)
        self.runs_changed.emit()

    def remove_run(self, run: Run) -> None:
        """Take a run's layers out of the viewer; other layers stay as they are."""
        self.runs.remove(run)
        self.take_away(run)
        self.runs_changed.emit()

    def take_away(self, run: Run) -> None:
        """Take the layers of a run that is not, or no longer, one of the session out of the viewer."""
        for layer in list(run.layers):
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)

    def _take_role(self, layer: Layer) -> None:
        role = layer.metadata.get(KEY, {}).get("role")
        if role == Role.CANDIDATE:
            self.add_candidate(layer)
        elif role is not None and Role(role) not in self._roles:
            self._roles[Role(role)] = layer
            self.roles_changed.emit()

    def move_sliders(self) -> None:
        """Bring napari's sliders to the position; not while its canvas is hidden, where slicing would only cost time."""
        viewer = self.viewer
        if viewer is not None and viewer.dims.ndim >= 3 and _compat.canvas_shown(viewer):
            with viewer.dims.events.point.blocker(self._dims_moved):
                viewer.dims.point = (*viewer.dims.point[:-3], *self._position)
            self._sliders = _point(viewer)

    def _dims_moved(self, _event: Any) -> None:
        before, self._sliders = self._sliders, _point(self.viewer)
        if self._sliders is None or self._follow.isActive():
            return
        # napari's sliders keep to their own steps: axes that they did not move stay at the point that was asked for.
        olds = before or (None, None, None)
        x, y, z = (here if new == old else new for here, old, new in zip(self._position, olds, self._sliders, strict=True))
        if (x, y, z) != self._position:
            self._position = x, y, z
            self.position_changed.emit()

    def _renamed(self, event: Any) -> None:
        self._volumes.pop(event.source, None)
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
        self.drop_candidate(gone)
        if gone is self._live:
            self.live = None
        if gone is self._overlay:
            self.overlay = None
        if gone is self._mask:
            self.mask = None
        for run in [r for r in self.runs if gone in r.layers]:
            run.layers.remove(gone)
            if not run.layers:
                self.runs.remove(run)
            self.runs_changed.emit()
        self.layers_changed.emit()


def _point(viewer: Any) -> Point | None:
    """Point of a viewer's sliders; volumes lie along the last three. None where there are fewer."""
    if viewer.dims.ndim < 3:
        return None
    x, y, z = (float(v) for v in viewer.dims.point[-3:])
    return x, y, z
