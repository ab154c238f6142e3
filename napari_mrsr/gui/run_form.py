"""The form of a run's options: only what the chosen model and input can make use of is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from magicgui.widgets import Container

from napari_mrsr.degradation import PROTOCOLS, recorded_degradation
from napari_mrsr.gui.forms import form_values, model_form
from napari_mrsr.inference import RunOptions
from napari_mrsr.intensity import require_content
from napari_mrsr.volume import Volume
from napari_mrsr.zoo import Card

FIELDS: dict[str, dict[str, Any]] = {
    "scale": {"label": "Factor", "choices": list(range(2, 9)), "tooltip": "default: the model's own factor"},
    "protocol": {
        "label": "Input made by",
        "choices": list(PROTOCOLS),
        "tooltip": "default: what the input's record says, else what the model expects",
    },
    "axis": {"label": "Axis across slices", "tooltip": "default: the coarsest spacing, ties S"},
    "voxel": {
        "label": "Voxel across (mm)",
        "min": 0.0,
        "max": 20.0,
        "step": 0.05,
        "tooltip": "Spacing across slices that the result shall have, in place of a factor; default: by the factor",
    },
    "orientations": {
        "label": "Planes",
        "tooltip": "Planes of both orientations that hold the thick axis are computed and averaged; the first or second alone takes half the time",
    },
    "register_reference": {"label": "Register reference", "tooltip": "Move the reference rigidly onto the input before it is used"},
    "attention": {
        "label": "Attention",
        "tooltip": "window: as the network was trained; global: over the whole volume as the paper words it, many times slower",
    },
    "ensemble": {
        "label": "Self-ensemble",
        "tooltip": "Run on the volume and its mirror images too, average, and keep their spread as a map; 8 times the work, 4 times for slices",
    },
}
THICK = ("voxel", "orientations")
"""Fields of slices that are thicker than their pixels."""


class RunForm:
    """Form over :class:`RunOptions`.

    Attributes
    ----------
    container : Container
        All fields; magicgui.
    """

    def __init__(self) -> None:
        self.container: Container = model_form(RunOptions, FIELDS)
        self._attends: set[str] = set()

    def on_protocol(self, action: Callable[[], None]) -> None:
        """Do something when another protocol is chosen."""
        self.container["protocol"].changed.connect(lambda _: action())

    def learn(self, description: dict[str, Any]) -> None:
        """Take note of what a model's network is (:class:`~napari_mrsr.zoo.description.Description`)."""
        if description.get("global_attention"):
            self._attends.add(description["model"])

    def suit(self, card: Card, volume: Volume | None) -> None:
        """Show the fields that a model can use for an input.

        Raises
        ------
        InputError
            If no model can use the input, for all its voxels are equal.
        """
        if volume is not None:
            require_content(volume.data, volume.name)
        hidden = self._useless(card, volume)
        for widget in self.container:
            widget.visible = widget.name not in hidden

    def values(self, card: Card, volume: Volume | None) -> dict[str, Any]:
        """Values of the fields that a model can use for an input."""
        hidden = self._useless(card, volume)
        return {name: value for name, value in form_values(self.container).items() if name not in hidden}

    def _useless(self, card: Card, volume: Volume | None) -> set[str]:
        recorded = recorded_degradation(volume) if volume is not None else None
        chosen = form_values(self.container)["protocol"] or (recorded.protocol if recorded else None)
        patterns = {PROTOCOLS[name].pattern for name in (chosen, card.protocol) if name and name in PROTOCOLS}
        thick = "through-plane" in patterns
        unused = {"register_reference": card.reference == "none", "ensemble": not card.learned, "attention": card.name not in self._attends}
        return {*(() if thick else THICK), *(name for name, useless in unused.items() if useless)}
