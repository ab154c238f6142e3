"""How internal maps of networks look: colours, value ranges, and what can be said of them in a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Layer
from napari.utils import Colormap
from napari.utils.colormaps import ensure_colormap
from numpy.typing import NDArray

from napari_mrsr.inference.ensemble import SPREAD
from napari_mrsr.networks import MapInfo
from napari_mrsr.volume import Volume

ERROR_COLOURS = Colormap([[0.35, 0.7, 1.0], [0.0, 0.0, 0.0], [1.0, 0.6, 0.1]], name="blue black orange")
"""Symmetric about black: too dark is blue, too bright is orange; told apart by all common kinds of colour vision."""
FADE = 0.25
"""Share of the range over which overlays go from clear to opaque."""
MAP_OPACITY, OVERLAY_OPACITY = 0.6, 0.85


def _fading(colours: NDArray[Any], strength: NDArray[Any], name: str) -> Colormap:
    rgba = np.ones((len(colours), 4), np.float32)
    rgba[:, :3] = colours[:, :3]
    rgba[:, 3] = np.clip(strength / FADE, 0, 1)
    return Colormap(rgba, name=name)


_STEPS = np.linspace(0, 1, 256)
FADING_HEAT = _fading(np.asarray(ensure_colormap("inferno").map(0.3 + 0.7 * _STEPS)), _STEPS, "heat, clear at zero")
"""Unsigned overlays: nothing is painted where there is nothing to see."""
FADING_ERROR_COLOURS = _fading(np.asarray(ERROR_COLOURS.map(_STEPS)), np.abs(2 * _STEPS - 1), "blue clear orange")
"""Signed overlays."""


def map_info(volume: Volume, infos: dict[str, MapInfo]) -> MapInfo:
    """What is known of a map; its name alone where nothing is."""
    name = str(volume.record.get("map", {}).get("name", volume.name))
    return infos.get(name) or (SPREAD if name == SPREAD.name else MapInfo(name, name, ""))


def map_infos(description: dict[str, Any]) -> dict[str, MapInfo]:
    """Maps of a model by name, from the worker's ``described`` answer."""
    return {entry["name"]: MapInfo(**entry) for entry in description["maps"]}


def map_limits(values: NDArray[Any], info: MapInfo) -> tuple[float, float]:
    """Contrast limits that few extreme values do not spoil: symmetric where the map is signed, from 0 where it holds weights."""
    if info.kind == "dense":
        values = values[tuple(slice(None, None, max(1, n // 128)) for n in values.shape)]
    if info.signed:
        span = float(np.percentile(np.abs(values), 99.5)) or float(np.abs(values).max()) or 1.0
        return -span, span
    if info.kind == "query":
        filled = values[values > 0]
        # One place that takes most of the weight leaves the others visible, unless they are next to nothing.
        high = max(float(np.percentile(filled, 98)), float(filled.max()) / 10) if filled.size else 0.0
        low = min(0.0, float(values.min()))
    else:
        low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low, low + 1.0)


def run_map_settings(info: MapInfo, limits: tuple[float, float]) -> dict[str, Any]:
    """Layer options of a dense map of a run: hidden, half clear, so that it can be laid over the result."""
    return {
        "colormap": ERROR_COLOURS if info.signed else "inferno",
        "contrast_limits": limits,
        "opacity": MAP_OPACITY,
        "blending": "additive" if info.signed else "translucent_no_depth",
        "visible": False,
    }


def overlay_settings(info: MapInfo, limits: tuple[float, float]) -> dict[str, Any]:
    """Layer options of a probe's answer: clear where nothing is, its own lattice visible."""
    return {
        "colormap": FADING_ERROR_COLOURS if info.signed else FADING_HEAT,
        "contrast_limits": limits,
        "opacity": OVERLAY_OPACITY,
        "blending": "translucent_no_depth",
        "interpolation2d": "nearest",
        "interpolation3d": "nearest",
    }


def explain(layer: Layer, info: MapInfo, values: NDArray[Any]) -> None:
    """Let a layer say what it shows (napari's help line), and let its limits be widened to all of its values."""
    layer.help = info.description
    limits = layer.contrast_limits
    layer.contrast_limits_range = (min(limits[0], float(values.min())), max(limits[1], float(values.max())))
    layer.contrast_limits = limits


def attention_sentence(volume: Volume, info: MapInfo) -> str:
    """Where attention peaks and how far it is spread; empty for other maps."""
    weights = np.asarray(volume.data, np.float64)
    total = weights.sum()
    if info.kind != "query" or info.signed or weights.min() < 0 or not np.isfinite(total) or total <= 0:
        return ""
    shares = weights / total
    filled = shares[shares > 0]
    places = float(np.exp(-(filled * np.log(filled)).sum()))
    peak = np.unravel_index(int(shares.argmax()), shares.shape)
    where = volume.affine[:3, :3] @ np.array(peak, float) + volume.affine[:3, 3]
    away = np.linalg.norm(where - np.array(volume.record["map"]["at_mm"]))
    return (
        f"Largest weight {100 * shares.max():.2g}\u00a0% at {position(where)}, {away:.0f} mm away; "
        f"spread as over {places:.0f} of {weights.size} places."
    )


def position(at: Any) -> str:
    """World position for people."""
    return f"({', '.join(f'{float(v):.1f}' for v in at)}) mm"
