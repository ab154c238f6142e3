"""What the Compare dock shows and how: one state that every pane, tool and key reads and changes."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from napari.layers import Image, Layer
from psygnal import Signal

from napari_mrsr.errors import InputError
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.gui.settings import recall, remember
from napari_mrsr.planes import PLANES, Plane, Space

MAX_IMAGES = 9
REMEMBERED = ("radiological", "smooth", "crosshair", "linked")
ZOOM_STEP = 1.25
ZOOM_LIMITS = (0.05, 200.0)
"""Screen pixels per mm."""


class Mode(StrEnum):
    """Ways to lay images out; values are their names for people."""

    PANES = "Panes"
    SWIPE = "Swipe"
    FLICKER = "Flicker"
    CHECKERBOARD = "Checker"
    BLEND = "Blend"


class Content(StrEnum):
    """What is drawn of each image."""

    IMAGE = "Images"
    GRADIENT = "Gradient"
    DIFFERENCE = "Difference"


class Tool(StrEnum):
    """What dragging with the left button does; values are their names for people."""

    POINTER = "Pointer"
    BOX = "Box"
    LINE = "Line"


@dataclass(frozen=True)
class Look:
    """All that is chosen.

    Attributes
    ----------
    mode : Mode
    content : Content
    difference : str
        Kind of difference map.
    planes : tuple of str
        One plane, or all three.
    zoom : float
        Screen pixels per mm; 0 fits the images into their panes.
    radiological : bool
        Patient's right on the left.
    smooth : bool
        Interpolate between pixels on screen.
    crosshair, inset : bool
        Draw the cross-hair; draw the region of interest enlarged in a corner.
    linked : bool
        One window for all images.
    divider, blend : float
        Share of the pane left of the swipe's divider; share of the second image. 0 to 1.
    tile : float
        Side of a field of the checkerboard, mm.
    flipped : bool
        Flicker shows the second image.
    opacity : float
        Of the overlay, 0 to 1.
    tool : Tool
    """

    mode: Mode = Mode.PANES
    content: Content = Content.IMAGE
    difference: str = "signed"
    planes: tuple[str, ...] = ("axial",)
    zoom: float = 0.0
    radiological: bool = True
    smooth: bool = False
    crosshair: bool = True
    inset: bool = True
    linked: bool = True
    divider: float = 0.5
    blend: float = 0.5
    tile: float = 20.0
    flipped: bool = False
    opacity: float = 0.6
    tool: Tool = Tool.POINTER


class View:
    """State of the comparison of one session.

    `changed` follows every change of `look`, `centre`, the layers chosen or what is open to choice.
    """

    changed = Signal()

    def __init__(self, session: Session) -> None:
        self.session = session
        self.look = Look(**{name: recall(f"compare.{name}", getattr(Look, name)) for name in REMEMBERED})
        self.centre: tuple[float, float, float] | None = None
        """World point in the middle of the panes; None for the middle of the images."""
        self._hidden: weakref.WeakSet[Layer] = weakref.WeakSet()
        self._chosen: dict[str, weakref.ref[Layer]] = {}
        self._links = (session.roles_changed, session.layers_changed, session.runs_changed, session.overlay_changed)
        for signal in self._links:
            signal.connect(self.changed.emit)

    def close(self) -> None:
        """Stop listening."""
        for signal in self._links:
            signal.disconnect(self.changed.emit, missing_ok=True)

    def set(self, **changes: Any) -> None:
        """Change the look; see :class:`Look` for the names."""
        look = replace(self.look, **changes)
        if look != self.look:
            self.look = look
            for name in REMEMBERED:
                if name in changes:
                    remember(f"compare.{name}", changes[name])
            self.changed.emit()

    def zoom_by(self, factor: float, present: float) -> None:
        """Enlarge; `present` is the zoom now on screen (px per mm), which counts where images are fitted."""
        low, high = ZOOM_LIMITS
        self.set(zoom=min(max((self.look.zoom or present) * factor, low), high))

    def centre_on(self, point: tuple[float, float, float] | None) -> None:
        """Put a world point into the middle of the panes."""
        if point != self.centre:
            self.centre = point
            self.changed.emit()

    def fit(self) -> None:
        """Show all of the images."""
        self.centre = None
        self.look = replace(self.look, zoom=0.0)
        self.changed.emit()

    @property
    def planes(self) -> list[Plane]:
        """Planes on view."""
        return [PLANES[name] for name in self.look.planes]

    @property
    def space(self) -> Space:
        """Axes that slices are cut along: those of the ground truth, else of the first image."""
        main = self.main
        return Space.of(None if main is None else self.session.volume(main))

    @property
    def main(self) -> Layer | None:
        """Layer whose grid is the comparison grid: the ground truth, else the first image; none of those that cannot be used."""
        truth = self.session.layer(Role.GROUND_TRUTH)
        usable = [layer for layer in self.images() if self._has_volume(layer)]
        if truth is not None and truth in usable:
            return truth
        return usable[0] if usable else None

    def images(self) -> list[Layer]:
        """Layers that could be shown: 3D grey-scale ones among those compared."""
        return [layer for layer in self.session.compared() if isinstance(layer, Image) and layer.ndim == 3 and not layer.rgb]

    def shown(self) -> list[Layer]:
        """Layers in the panes: nine at most, low resolution and ground truth and the latest of the others among them."""
        wanted = [layer for layer in self.images() if layer not in self._hidden]
        fixed = [layer for role in (Role.LOW_RESOLUTION, Role.GROUND_TRUTH) if (layer := self.session.layer(role)) in wanted]
        others = [layer for layer in wanted if layer not in fixed]
        kept = [*fixed, *others[max(0, len(others) - MAX_IMAGES + len(fixed)) :]]
        return [layer for layer in wanted if layer in kept]

    def show(self, layer: Layer, visible: bool) -> None:
        """Give a layer a pane, or take it away; the layer itself stays as it is."""
        (self._hidden.discard if visible else self._hidden.add)(layer)
        self.changed.emit()

    @property
    def pair(self) -> tuple[Layer, Layer] | None:
        """The two images that swipe, flicker, checkerboard and blend compare.

        By default the newest candidate and the ground truth; of differences, the two newest images that have one.
        """
        images = self.images()
        if len(images) < 2:
            return None
        newest, low = self.session.candidates[::-1], self.session.layer(Role.LOW_RESOLUTION)
        firsts, seconds = (*newest, *images), (self.session.layer(Role.GROUND_TRUTH), low, *images)
        if self.look.content is Content.DIFFERENCE:
            # The image that differences are taken against has none of its own.
            told = dict.fromkeys(layer for layer in (*newest, low) if layer in images and layer is not self.against)
            if len(told) > 1:
                firsts = seconds = (*told,)
        chosen = self._choice("second")
        first = self._choice("first") or next(layer for layer in firsts if layer in images and layer is not chosen)
        second = chosen or next(layer for layer in seconds if layer in images and layer is not first)
        return first, second

    @property
    def against(self) -> Layer | None:
        """Image that differences are taken against: chosen, else the ground truth."""
        return self._choice("against") or self.session.layer(Role.GROUND_TRUTH)

    @property
    def overlay(self) -> Layer | None:
        """Layer drawn over every image: a map of a network, a trust map, a mask."""
        return self.session.overlay

    def choose(self, **layers: Layer | None) -> None:
        """Choose `first`, `second` or `against`; None for the default."""
        if self.pair is not None:
            # An image beside itself would tell nothing: the two are exchanged.
            first, second = self.pair
            if layers.get("first") is second:
                layers.setdefault("second", first)
            if layers.get("second") is first:
                layers.setdefault("first", second)
        for name, layer in layers.items():
            if layer is None:
                self._chosen.pop(name, None)
            else:
                self._chosen[name] = weakref.ref(layer)
        self.changed.emit()

    def _has_volume(self, layer: Layer) -> bool:
        try:
            self.session.volume(layer)
        except InputError:
            return False
        return True

    def _choice(self, name: str) -> Layer | None:
        chosen = self._chosen.get(name, lambda: None)()
        return chosen if chosen is not None and chosen in self.images() else None
