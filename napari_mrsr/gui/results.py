"""What a run adds to the viewer: result, error and gradient layers, grouped so that one click removes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.layers import Layer

from napari_mrsr.evaluation import Comparison, compare, error_map, gradient_map, headline
from napari_mrsr.gui.layers import KEY, layer_to_volume, volume_to_layer
from napari_mrsr.gui.map_layers import ERROR_COLOURS, explain, map_info, map_limits, run_map_settings
from napari_mrsr.gui.session import Role, Run, Session
from napari_mrsr.gui.windows import link_windows
from napari_mrsr.networks import MapInfo
from napari_mrsr.volume import Volume

GRADIENT_COLOURS = "cividis"
TRUTH = "gradient of"
"""Entry of the metadata of a ground truth's gradients: which layer they are of."""


@dataclass(frozen=True, eq=False)
class Findings:
    """Result of a run and what follows from it, with the windows to show it in; made away from the GUI thread."""

    result: Volume
    gradient: Volume
    gradient_top: float
    truth_gradient: Volume | None = None
    error: Volume | None = None
    error_span: float = 1.0
    comparison: Comparison | None = None
    maps: tuple[tuple[Volume, MapInfo, tuple[float, float]], ...] = ()


def find(
    result: Volume, truth: Volume | None, maps: Sequence[Volume] = (), infos: dict[str, MapInfo] | None = None, truth_gradient: bool = True
) -> Findings:
    """Maps and scores of a result.

    Parameters
    ----------
    result, truth : Volume
    maps : sequence of Volume
        Internal maps of the network.
    infos : dict, optional
        What is known of them, by name.
    truth_gradient : bool
        Whether the truth's gradients are needed too.

    Raises
    ------
    InputError
        If the truth does not overlap the result.
    """
    known = [(volume, map_info(volume, infos or {})) for volume in maps]
    looks = tuple((volume.replace(source=result.source), info, map_limits(volume.data, info)) for volume, info in known)
    gradient = gradient_map(result)
    if truth is None:
        return Findings(result, gradient, _top(gradient), maps=looks)
    error = error_map(truth, result, "signed")
    steps = gradient_map(truth) if truth_gradient else None
    top = max(_top(gradient), _top(steps) if steps is not None else 0.0)
    return Findings(result, gradient, top, steps, error, _top(error), compare(truth, [result]), looks)


def score_text(findings: Findings) -> str:
    """Scores of a result with their convention, as rich text."""
    if findings.comparison is None:
        return "No ground truth chosen: no scores."
    score = findings.comparison.results[0]
    return f"<b>PSNR {score.psnr:.2f} dB, SSIM {score.ssim:.4f}, NMSE {score.nmse:.5f}</b><br><small>{headline(findings.comparison)}</small>"


def show(session: Session, findings: Findings, options: dict[str, Any]) -> Run:
    """Add the layers of a run all at once; see :func:`adding`."""
    *_, run = adding(session, findings, options)
    return run


def adding(session: Session, findings: Findings, options: dict[str, Any]) -> Iterator[Run]:
    """Add the layers of a run one at a time, contrast linked to the images that were there.

    Gradients and error map lie hidden beneath the result; internal maps lie hidden above it, so that showing one lays it over the result.
    Each takes napari some 50 ms, so whoever shows a window lets it breathe in between.

    Yields
    ------
    Run
        After each layer; the session knows it after the last.
    """
    viewer = session.viewer
    result = findings.result
    name = _free_name(f"SR {result.record['run']['model']}", session)
    shown = _companions(session)
    # One window for all: the truth's where there is one, else that of the low resolution.
    limits = tuple(shown[-1].contrast_limits) if shown else None
    extra = {"contrast_limits": limits} if limits else {}
    run = Run(name, None, options=options, summary=score_text(findings))  # type: ignore[arg-type]

    def add(volume: Volume, facts: dict[str, Any] | None = None, /, **settings: Any) -> Layer:
        data, meta, _ = volume_to_layer(volume, metadata={"run": run.name, **(facts or {})}, **settings)
        layer = viewer.add_image(data, **meta)
        run.layers.append(layer)
        return layer

    steps = [layer] if (layer := truth_gradient_layer(session)) is not None else []
    top = max([findings.gradient_top, *(layer.contrast_limits[1] for layer in steps)])
    looks: dict[str, Any] = {"colormap": GRADIENT_COLOURS, "contrast_limits": (0.0, top), "visible": False}
    if findings.truth_gradient is not None:
        truth = session.layer(Role.GROUND_TRUTH)
        steps = [add(findings.truth_gradient, {TRUTH: truth.unique_id} if truth is not None else {}, name="gradient HR", **looks)]
        yield run
    steps.append(add(findings.gradient, name=f"gradient {name}", **looks))
    link_windows(steps, (0.0, top))
    yield run
    if findings.error is not None:
        span = (-findings.error_span, findings.error_span)
        add(findings.error, name=f"error {name} - HR", colormap=ERROR_COLOURS, contrast_limits=span, visible=False)
        yield run
    run.result = add(result, name=name, **extra)
    link_windows([*(layer for layer in shown if layer in viewer.layers), run.result], limits)
    yield run
    for volume, info, reach in findings.maps:
        name = f"{info.title} {run.name}"
        layer = add(volume, {"description": info.description}, name=name, **run_map_settings(info, reach))
        explain(layer, info, volume.data)
        yield run
    viewer.layers.selection.active = run.result
    session.add_run(run)
    yield run


def truth_gradient_layer(session: Session) -> Layer | None:
    """Gradients of the present ground truth, where an earlier run has shown them."""
    truth = session.layer(Role.GROUND_TRUTH)
    layers = [layer for run in session.runs for layer in run.layers]
    return next((x for x in layers if truth is not None and x.metadata.get(KEY, {}).get(TRUTH) == truth.unique_id), None)


def _top(volume: Volume) -> float:
    """Nearly the largest magnitude: one wild voxel does not darken the rest."""
    return float(np.percentile(np.abs(volume.data[::2, ::2, ::2]), 99.8)) or 1.0


def _companions(session: Session) -> list[Layer]:
    """Images that a result is compared with: earlier results, low resolution, ground truth."""
    roles = [session.layer(role) for role in (Role.LOW_RESOLUTION, Role.GROUND_TRUTH)]
    return [layer for layer in (*(run.result for run in session.runs), *roles) if layer is not None and layer in session.viewer.layers]


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
