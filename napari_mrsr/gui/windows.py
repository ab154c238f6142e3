"""One window (contrast limits, their range, gamma) for several layers."""

from __future__ import annotations

from collections.abc import Sequence

from napari.experimental import link_layers
from napari.layers import Layer

LINKED = ("contrast_limits", "gamma")


def link_windows(layers: Sequence[Layer], limits: tuple[float, float] | None = None) -> None:
    """Link the windows of layers; with `limits` all get these. One slider range for all: linking alone leaves each with its own."""
    low = min(layer.contrast_limits_range[0] for layer in layers)
    high = max(layer.contrast_limits_range[1] for layer in layers)
    for layer in layers:
        kept = limits or layer.contrast_limits
        layer.contrast_limits_range = (low, high)
        layer.contrast_limits = kept
    link_layers(layers, LINKED)
