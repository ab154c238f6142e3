"""What a run adds to the viewer: result, error and gradient layers, grouped so that one click removes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.experimental import link_layers
from napari.layers import Layer

from napari_mrsr.evaluation import Comparison, compare, error_map, gradient_map
from napari_mrsr.gui.layers import layer_to_volume, volume_to_layer
from napari_mrsr.gui.map_layers import ERROR_COLOURS, explain, map_info, map_limits, run_map_settings
from napari_mrsr.gui.session import Role, Run, Session
from napari_mrsr.networks import MapInfo
from napari_mrsr.volume import Volume

GRADIENT_COLOURS = "cividis"
LINKED = ("contrast_limits", "gamma")


@dataclass(frozen=True, eq=False)
class Findings:
    """Result of a run and what follows from it; made away from the GUI thread."""

    result: Volume
    gradient: Volume
    truth_gradient: Volume | None = None
    error: Volume | None = None
    comparison: Comparison | None = None
    maps: tuple[tuple[Volume, MapInfo, tuple[float, float]], ...] = ()


def find(result: Volume, truth: Volume | None, maps: Sequence[Volume] = (), infos: dict[str, MapInfo] | None = None) -> Findings:
    """Maps and scores of a result.

    Parameters
    ----------
    result, truth : Volume
    maps : sequence of Volume
        Internal maps of the network.
    infos : dict, optional
        What is known of them, by name.

    Raises
    ------
    InputError
        If the truth does not overlap the result.
    """
    known = [(volume, map_info(volume, infos or {})) for volume in maps]
    looks = tuple((volume.replace(source=result.source), info, map_limits(volume.data, info)) for volume, info in known)
    if truth is None:
        return Findings(result, gradient_map(result), maps=looks)
    error = error_map(truth, result, "signed")
    return Findings(result, gradient_map(result), gradient_map(truth), error, compare(truth, [result]), looks)


def noise_sentence(result: Volume) -> str:
    """The noise level that a run was told, and where that figure comes from; empty where the model uses none."""
    run = result.record["run"]
    if run["noise_source"] == "not used" or not run["input_range"]:
        return ""
    words = {"sidecar": "as recorded with the input"}
    return f"Noise {100 * run['noise_sigma'] / run['input_range']:.1f} % of the range, {words.get(run['noise_source'], run['noise_source'])}."


def show(session: Session, findings: Findings, options: dict[str, Any], summary: str) -> Run:
    """Add the layers of a run, contrast linked to the images that were there.

    Gradients and error map lie hidden beneath the result; internal maps lie hidden above it, so that showing one lays it over the result.
    """
    viewer = session.viewer
    result = findings.result
    name = _free_name(f"SR {result.record['run']['model']}", session)
    shown = _companions(session)
    # One window for all: the truth's where there is one, else that of the low resolution.
    limits = tuple(shown[-1].contrast_limits) if shown else None
    extra = {"contrast_limits": limits} if limits else {}
    run = Run(name, None, options=options, summary=summary)  # type: ignore[arg-type]

    def add(volume: Volume, facts: dict[str, str] | None = None, /, **settings: Any) -> Layer:
        data, meta, _ = volume_to_layer(volume, metadata={"run": run.name, **(facts or {})}, **settings)
        layer = viewer.add_image(data, **meta)
        run.layers.append(layer)
        return layer

    gradients = [v for v in (findings.truth_gradient, findings.gradient) if v is not None]
    top = max(float(np.percentile(v.data[::2, ::2, ::2], 99.8)) for v in gradients)
    drawn = [
        add(v, name=f"gradient {n}", colormap=GRADIENT_COLOURS, contrast_limits=(0.0, top or 1.0), visible=False)
        for v, n in zip(gradients, ["HR", name] if len(gradients) > 1 else [name], strict=True)
    ]
    if len(drawn) > 1:
        link_layers(drawn, LINKED)
    if findings.error is not None:
        span = float(np.percentile(np.abs(findings.error.data[::2, ::2, ::2]), 99.8)) or 1.0
        add(findings.error, name=f"error {name} - HR", colormap=ERROR_COLOURS, contrast_limits=(-span, span), visible=False)
    run.result = add(result, name=name, **extra)
    images = [*shown, run.result]
    _share_range(images)
    link_layers(images, LINKED)
    if limits:
        for layer in images:
            layer.contrast_limits = limits
    for volume, info, reach in findings.maps:
        name = f"{info.title} {run.name}"
        layer = add(volume, {"description": info.description}, name=name, **run_map_settings(info, reach))
        explain(layer, info, volume.data)
    viewer.layers.selection.active = run.result
    session.add_run(run)
    return run


def _companions(session: Session) -> list[Layer]:
    """Images that a result is compared with: earlier results, low resolution, ground truth."""
    roles = [session.layer(role) for role in (Role.LOW_RESOLUTION, Role.GROUND_TRUTH)]
    return [layer for layer in (*(run.result for run in session.runs), *roles) if layer is not None and layer in session.viewer.layers]


def _share_range(layers: list[Layer]) -> None:
    """One slider range for linked layers; linking alone leaves each with its own."""
    low = min(layer.contrast_limits_range[0] for layer in layers)
    high = max(layer.contrast_limits_range[1] for layer in layers)
    for layer in layers:
        limits = layer.contrast_limits
        layer.contrast_limits_range = (low, high)
        layer.contrast_limits = limits


def _free_name(name: str, session: Session) -> str:
    taken = {run.name for run in session.runs}
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name} ({number})"
    return candidate


def truth_volume(session: Session) -> Volume | None:
    """Ground truth of the session as a volume, or None where no layer has the role."""
    layer = session.layer(Role.GROUND_TRUTH)
    return None if layer is None else layer_to_volume(layer)
