"""What the Trust dock finds out, and the maps it lays over the images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from napari.layers import Layer

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.align import mask_on
from napari_mrsr.evaluation.maps import shared_limits
from napari_mrsr.evaluation.trust import CONSISTENCY_LIMITS, DISAGREEMENT_LIMITS, Consistency, Disagreement, data_consistency, disagreement
from napari_mrsr.gui.layers import KEY, volume_to_layer
from napari_mrsr.gui.map_layers import explain, overlay_settings
from napari_mrsr.gui.session import Session
from napari_mrsr.inference.ensemble import SPREAD
from napari_mrsr.intensity import foreground_mask, intensity_range
from napari_mrsr.networks import MapInfo
from napari_mrsr.volume import Volume

OVERLAY = "trust"
"""Mark of our layers in their metadata."""
RESIDUAL = MapInfo("residual", "Residual", f"Result degraded as its input was, minus the input. {CONSISTENCY_LIMITS}", signed=True)
SPREAD_OF_RESULTS = MapInfo("disagreement", "Disagreement", f"Standard deviation between results. {DISAGREEMENT_LIMITS}")


@dataclass(frozen=True, eq=False)
class Request:
    """What is to be checked.

    Attributes
    ----------
    low : Volume
        Input.
    results : tuple of Volume
        Candidates.
    spreads : tuple of (Volume, Volume)
        Results of self-ensembles and their spread.
    protocol : str or None
        How the input was made; None: as recorded or assumed.
    mask : Volume or None
    """

    low: Volume
    results: tuple[Volume, ...]
    spreads: tuple[tuple[Volume, Volume], ...]
    protocol: str | None
    mask: Volume | None


@dataclass(frozen=True, eq=False)
class Finding:
    """Numbers and map, or the sentence that says why there are none."""

    numbers: Consistency | Disagreement | None = None
    map: Volume | None = None
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Findings:
    """Answer to a request.

    Attributes
    ----------
    results : tuple of Finding
        Data consistency of each result.
    limits : two floats
        Range of all residuals.
    apart : Finding
        Disagreement.
    spreads : tuple of str
        What is said of each self-ensemble.
    """

    results: tuple[Finding, ...]
    limits: tuple[float, float]
    apart: Finding
    spreads: tuple[str, ...] = field(default=())


def check(request: Request) -> Findings:
    """Find out all that can be said; a result that does not fit does not keep the others from being checked."""
    results = tuple(_consistency(request, result) for result in request.results)
    limits = shared_limits([f.map.data for f in results if f.map is not None], signed=True)
    return Findings(results, limits, _disagreement(request), tuple(_spread(*pair, request.mask) for pair in request.spreads))


def _consistency(request: Request, result: Volume) -> Finding:
    try:
        return Finding(*data_consistency(request.low, result, request.protocol, request.mask))
    except InputError as error:
        return Finding(problem=str(error))


def _disagreement(request: Request) -> Finding:
    try:
        return Finding(*disagreement(request.results, request.mask))
    except InputError as error:
        return Finding(problem=str(error))


def _spread(result: Volume, spread: Volume, mask: Volume | None) -> str:
    try:
        inside = foreground_mask(result.data) if mask is None else mask_on(result, mask)[0]
        share = float(np.sqrt(np.mean(np.square(spread.data[inside], dtype=np.float64)))) / intensity_range(result.data)
    except InputError as error:
        return str(error)
    return f"{result.name}: {100 * share:.2f} % of the range"


def show_map(session: Session, volume: Volume, info: MapInfo, name: str, limits: tuple[float, float] | None = None) -> Layer:
    """Lay a map over the images, in place of one of the same name.

    Parameters
    ----------
    session : Session
    volume, info : Volume, MapInfo
    name : str
        Of the layer.
    limits : two floats, optional
        Colour range; its own where missing.
    """
    clear_maps(session, name)
    settings = overlay_settings(info, limits or shared_limits([volume.data], info.signed))
    data, meta, _ = volume_to_layer(volume, name=name, metadata={"overlay": OVERLAY, "title": name}, **settings)
    layer = session.viewer.add_image(data, **meta)
    explain(layer, info, volume.data)
    show_colour_bar(layer)
    session.overlay = layer
    return layer


def show_colour_bar(layer: Any) -> None:
    """Show the layer's colour bar where napari has one."""
    bar = getattr(layer, "colorbar", None)
    if bar is not None:
        bar.visible = True


def clear_maps(session: Session, name: str | None = None) -> None:
    """Take our maps out of the viewer: the one of that name, or all."""
    for layer in list(session.viewer.layers):
        facts = layer.metadata.get(KEY, {})
        if facts.get("overlay") == OVERLAY and name in (None, facts.get("title")):
            session.viewer.layers.remove(layer)


def ensembles(session: Session) -> list[tuple[Layer, Layer]]:
    """Results of self-ensembles and the layers of their spread."""
    found = []
    for run in session.runs:
        for layer in run.layers:
            volume = layer.metadata.get(KEY, {}).get("volume")
            if volume is not None and volume.record.get("map", {}).get("name") == SPREAD.name:
                found.append((run.result, layer))
    return found
