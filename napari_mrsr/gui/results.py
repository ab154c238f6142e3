"""What a run adds to the viewer: result, error and gradient layers, grouped so that one click removes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.experimental import link_layers
from napari.layers import Layer
from napari.utils import Colormap

from napari_mrsr.evaluation import Comparison, compare, error_map, gradient_map
from napari_mrsr.gui.layers import layer_to_volume, volume_to_layer
from napari_mrsr.gui.session import Role, Run, Session
from napari_mrsr.volume import Volume

ERROR_COLOURS = Colormap([[0.35, 0.7, 1.0], [0.0, 0.0, 0.0], [1.0, 0.6, 0.1]], name="blue black orange")
"""Symmetric about black: too dark is blue, too bright is orange; told apart by all common kinds of colour vision."""
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


def find(result: Volume, truth: Volume | None) -> Findings:
    """Maps and scores of a result.

    Raises
    ------
    InputError
        If the truth does not overlap the result.
    """
    if truth is None:
        return Findings(result, gradient_map(result))
    error = error_map(truth, result, "signed")
    return Findings(result, gradient_map(result), gradient_map(truth), error, compare(truth, [result]))


def show(session: Session, findings: Findings, options: dict[str, Any], summary: str) -> Run:
    """Add the layers of a run: gradients and error map hidden beneath the result, contrast linked to the images that were there."""
    viewer = session.viewer
    result = findings.result
    name = _free_name(f"SR {result.record['run']['model']}", session)
    shown = _companions(session)
    # One window for all: the truth's where there is one, else that of the low resolution.
    limits = tuple(shown[-1].contrast_limits) if shown else None
    extra = {"contrast_limits": limits} if limits else {}
    run = Run(name, None, options=options, summary=summary)  # type: ignore[arg-type]

    def add(volume: Volume, **settings: Any) -> Layer:
        data, meta, _ = volume_to_layer(volume, metadata={"run": name}, **settings)
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
