"""Training by a recipe."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm

from napari_mrsr.cli.common import Device, Overwrite, app, say

if TYPE_CHECKING:
    from napari_mrsr.training.recipe import Recipe


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the volumes (default: the recipe's).")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for weights and card (default: your model folder).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in runs/, where there is one.")] = False,
    stage: Annotated[str | None, typer.Option(help="Train this stage of the recipe alone, for example vit.")] = None,
    start: Annotated[str | None, typer.Option(help="Begin with the weights of this model (or safetensors file), not from scratch.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps, instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights, patches and noise, instead of the recipe's.")] = None,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Devices that share every batch; on the CPU, processes.")] = 1,
    nodes: Annotated[int, typer.Option("--num-nodes", min=1, help="Machines; start the command on each, with MASTER_ADDR and NODE_RANK set.")] = 1,
    strategy: Annotated[str, typer.Option(help="How several devices work together: auto or ddp.")] = "auto",
    check: Annotated[bool, typer.Option("--check", help="Train nothing; tell what is wrong with the data, and the time and memory needed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: print JSON.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a network by a recipe; its weights and card then appear in the model list.

    Checkpoints, results of stages and logs for TensorBoard lie in the folder runs/.

    Example: napari-mrsr train resources/recipes/cftn_x2_compact.yaml --data ../shared/data
    """
    from napari_mrsr.inference.process import tune_process
    from napari_mrsr.training.jobs import train_to_files
    from napari_mrsr.training.parallel import Machines
    from napari_mrsr.training.recipe import load_recipe

    tune_process()
    plan = load_recipe(recipe, root=data, steps=steps, start=start, seed=seed)
    if check:
        _check(plan, device, as_json)
        return
    machines = Machines(device, devices, nodes, strategy)
    told = train_to_files(plan, output, resume=resume, machines=machines, stage=stage, overwrite=overwrite, say=lambda t: tqdm.write(t, sys.stderr))
    for path in told:
        say(str(path))


def _check(recipe: Recipe, device: str, as_json: bool) -> None:
    """Print the report on a recipe; exit code 2 where the training cannot start."""
    from napari_mrsr.training.check import check_recipe

    report = check_recipe(recipe, measure=True, accelerator=device)
    say(json.dumps({"ok": report.ok, **asdict(report)}, indent=2) if as_json else "\n".join(report.lines()))
    if not report.ok:
        raise typer.Exit(2)
