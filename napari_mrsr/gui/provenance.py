"""How an image was made, in words: for tooltips and for the text beside a result."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from napari.layers import Layer

from napari_mrsr.gui.layers import KEY
from napari_mrsr.volume import Volume


def how_made(volume: Volume) -> str:
    """One fact per line, as far as the volume's record tells.

    Parameters
    ----------
    volume : Volume
        Result of a run, a degraded volume, or what a file held.

    Returns
    -------
    str
        Lines of plain text; size and voxels where nothing more is known.
    """
    record = volume.record
    facts = _run(record["run"]) if "run" in record else _degradation(record["degradation"]) if "degradation" in record else _file(volume)
    size = " x ".join(map(str, volume.shape))
    voxel = " x ".join(f"{v:.2f}" for v in volume.voxel_size)
    return "\n".join([*facts, f"{size} voxels of {voxel} mm"])


def layer_made(layer: Layer) -> str:
    """The same of a layer's volume, for a tooltip or a label that reads rich text; empty for layers that others made."""
    volume = layer.metadata.get(KEY, {}).get("volume")
    return escape(how_made(volume)).replace("\n", "<br>") if volume is not None else ""


def noise_sentence(run: dict[str, Any]) -> str:
    """The noise level that a run was told, and where that figure comes from; empty where the model uses none."""
    if run["noise_source"] == "not used" or not run["input_range"]:
        return ""
    words = {"sidecar": "as recorded with the input"}
    return f"Noise {100 * run['noise_sigma'] / run['input_range']:.1f} % of the range, {words.get(run['noise_source'], run['noise_source'])}."


def _run(run: dict[str, Any]) -> list[str]:
    factors = " x ".join(f"{s:.3g}" for s in run["scale"])
    spent = f"{run['seconds']:g} s" if "seconds" in run else "under way"
    facts = [f"Model {run['model']}, factor {factors}, input {run['input']} made by {run['protocol']}", f"{run['plan']}; {spent}"]
    reference = run.get("reference")
    if reference:
        facts.append(f"Reference {reference['name']}{', registered' if reference['registered'] else ''}")
    roi = run["options"].get("roi")
    if roi:
        facts.append("Only the region ({:.0f}, {:.0f}, {:.0f}) to ({:.0f}, {:.0f}, {:.0f}) mm".format(*roi))
    domain = run.get("domain", {})
    fits = f"Suitability of the model for this input: {domain['level']}" if domain.get("reasons") else ""
    return [fact for fact in (*facts, noise_sentence(run), fits, *run["warnings"], run["program"]) if fact]


def _degradation(made: dict[str, Any]) -> list[str]:
    noise = f", noise {made['noise']:g} %" if made.get("noise") else ""
    return [f"Made low-resolution from {made.get('source', 'a sharp volume')}: {made.get('protocol')} x{made.get('scale')}{noise}"]


def _file(volume: Volume) -> list[str]:
    source = volume.source
    return [f"File {Path(source.path).name}, {source.geometry}" if source.geometry else f"File {Path(source.path).name}"] if source.path else []
