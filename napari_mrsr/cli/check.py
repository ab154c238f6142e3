"""Command: which model suits a volume, and how well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_mrsr.cli.common import Axis, Index, Json, Model, Protocol, Reference, Voxel, app, read, say

if TYPE_CHECKING:
    from napari_mrsr.inference.guard import Reason, Verdict


@app.command()
def check(
    lr: Annotated[Path, typer.Argument(help="Low-resolution volume.")],
    model: Model = "auto",
    reference: Reference = None,
    scale: Annotated[int | None, typer.Option(help="Wanted factor.")] = None,
    protocol: Protocol = None,
    axis: Axis = None,
    voxel: Voxel = None,
    piece: Annotated[bool, typer.Option("--piece", help="Also run the model on a small piece from the middle; some seconds.")] = False,
    as_json: Json = False,
    index: Index = None,
) -> None:
    """Tell which model suits a volume, and how the volume compares with what the model was trained on: green, amber or red, and why.

    Example: napari-mrsr check T1_lr.nii.gz --piece
    """
    from napari_mrsr.inference import RunOptions
    from napari_mrsr.inference.choice import AUTO, choose
    from napari_mrsr.inference.guard import Verdict, find_facts, judge
    from napari_mrsr.zoo import get_card, list_models

    volume, second = read(lr, index), read(reference, index) if reference else None
    options = RunOptions.create(model=model, scale=scale, protocol=protocol, axis=axis, voxel=voxel)
    facts, why = find_facts(volume), ""
    if model == AUTO:
        choice = choose(list_models(), volume, facts, second, options.wish)
        verdict, why = choice.verdict, choice.why
        options = options.model_copy(update={"model": choice.model, "protocol": protocol or choice.protocol})
    else:
        verdict = judge(get_card(model), volume, facts, second, protocol, axis)
    if piece:
        from napari_mrsr.inference.process import tune_process
        from napari_mrsr.inference.trial import try_piece

        tune_process()
        verdict = Verdict.of(verdict.model, [*verdict.reasons, try_piece(volume, options, second)])
    if as_json:
        say(json.dumps({**verdict.model_dump(mode="json"), "choice": why}, indent=2))
        return
    say("\n".join([*([f"chosen: {why}"] if why else []), *_lines(verdict)]))


def _lines(verdict: Verdict) -> list[str]:
    return [f"{verdict.model}: {verdict.level}", *(_line(reason) for reason in verdict.reasons)]


def _line(reason: Reason) -> str:
    return f"  {reason.level:<5}  {reason.text}"
