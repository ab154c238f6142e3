"""A whole training job: a recipe to weights and card on disk."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_mrsr.errors import InputError
from napari_mrsr.io import make_folder, require_writable
from napari_mrsr.networks import Architecture, create, get_architecture
from napari_mrsr.training.domain import trained_domain
from napari_mrsr.training.events import (
    Event,
    Noticed,
    StageDone,
    StageScored,
    StageStarted,
    StepDone,
    TrainingDone,
    TrainingStarted,
    ValidationDone,
)
from napari_mrsr.training.loop import train
from napari_mrsr.training.parallel import Machines, is_main_process
from napari_mrsr.training.people import subject
from napari_mrsr.training.recipe import Recipe, VitStage
from napari_mrsr.training.sources import Split, find_split
from napari_mrsr.training.stages import NAME, all_splits
from napari_mrsr.zoo import Card, TrainingData, save_weights, sha256_of, user_weights_folder, write_card
from napari_mrsr.zoo.cards import read_card

REPORT_STEPS = 50
CONVENTION = "mrsr-1"


def train_to_files(
    recipe: Recipe, output: Path | None, *, resume: bool, machines: Machines, overwrite: bool, say: Callable[[str], None], stage: str | None = None
) -> list[Path]:
    """Train by a recipe and write weights and card.

    Parameters
    ----------
    recipe : Recipe
    output : Path or None
        Folder; None takes the user's model folder.
    resume : bool
        Go on from the recipe's checkpoints in ``runs/``, where there are any; finished weights of this very recipe are left as they are.
    machines : Machines
        Where to train.
    overwrite : bool
        Replace weights of the same name, and checkpoints of the same recipe.
    say : callable
        Gets one line of text now and then.
    stage : str, optional
        Train this stage alone.

    Returns
    -------
    list of Path
        Weights and card, or the result of the stage; none in processes that only help the main one.
    """
    folder = make_folder(output or user_weights_folder())
    if resume and stage is None and (finished := _finished(recipe, folder)):
        say(f"{recipe.name} was trained by this recipe already.")
        return finished
    for path in (folder / f"{recipe.name}{suffix}" for suffix in (".safetensors", ".json", ".md")):
        if stage in (None, NAME):
            require_writable(path, overwrite)
    checkpoint = make_folder("runs") / f"{recipe.name}-{recipe.hash}.pt"
    end, steps = None, recipe.steps
    for event in train(recipe, checkpoint, resume, stage=stage, overwrite=overwrite, machines=machines):
        if isinstance(event, TrainingDone | StageDone):
            end = event
        if isinstance(event, StageStarted):
            steps = event.steps
        if (text := _line(event, steps)) is not None:
            say(text)
    if not is_main_process():
        return []
    if isinstance(end, StageDone) and end.path is not None:
        return [end.path]
    if not isinstance(end, TrainingDone):
        raise InputError("The training ended before its first validation; let it run longer.")
    return write_model(end, folder, overwrite)


def _finished(recipe: Recipe, folder: Path) -> list[Path]:
    """Weights and card that this recipe made, where they are whole; else nothing."""
    weights, card_path = folder / f"{recipe.name}.safetensors", folder / f"{recipe.name}.json"
    if not (weights.is_file() and card_path.is_file()):
        return []
    card = read_card(card_path)
    return [weights, card_path] if (card.recipe_hash, card.sha256) == (recipe.hash, sha256_of(weights)) else []


def write_model(done: TrainingDone, folder: Path, overwrite: bool) -> list[Path]:
    """Weights and card of a finished training, as files of the recipe's name.

    Raises
    ------
    InputError
        If nothing was validated, or nothing was better than the starting weights.
    OutputError
        If a file exists, or the folder or disk refuses.
    """
    recipe = done.recipe
    if done.why_no_model:
        raise InputError(done.why_no_model)
    weights = folder / f"{recipe.name}.safetensors"
    kind = {"float32": torch.float32, "float16": torch.float16}[recipe.storage]
    stored = {k: v.to(kind) if v.is_floating_point() else v for k, v in done.weights.items()}
    card = make_card(done)
    save_weights(stored, weights, {"name": recipe.name, "architecture": recipe.network.name, "recipe": recipe.hash}, overwrite)
    card = card.model_copy(update={"weights": weights.name, "sha256": sha256_of(weights), "size": weights.stat().st_size})
    return [weights, *write_card(card, folder, overwrite)]


def _line(event: Event, steps: int) -> str | None:
    if isinstance(event, StageStarted):
        return f"stage {event.index + 1} of {event.count}: {event.name}, {event.steps} steps"
    if isinstance(event, StageScored):
        return f"step {event.step}: {event.measure} {event.score:.2f}{' *' if event.best else ''}"
    if isinstance(event, StageDone):
        return f"stage {event.name} is done: {event.path}"
    if isinstance(event, Noticed):
        return f"warning: {event.message}"
    if isinstance(event, TrainingStarted):
        return f"{event.parameters:,} parameters, {len(event.train)} training volumes, cubic validates at {event.cubic:.2f} dB"
    if isinstance(event, ValidationDone):
        return f"step {event.step}: validation {event.psnr:.2f} dB ({CONVENTION}){' *' if event.best else ''}"
    if isinstance(event, StepDone) and event.step % REPORT_STEPS == 0:
        terms = ", ".join(f"{k} {v:.5f}" for k, v in event.losses.items())
        return f"step {event.step} of {steps}: {terms} ({event.seconds:.0f} s)"
    return None


def make_card(done: TrainingDone) -> Card:
    """Card of a freshly trained model, still without its file; its quality table is filled by :mod:`napari_mrsr.training.evaluate`."""
    recipe = done.recipe
    architecture = get_architecture(recipe.network.name)
    network = create(recipe.network.name, recipe.network.scale, **recipe.network.options)
    network.load_state_dict(done.weights)
    split = find_split(recipe)
    seen = ", ".join(recipe.data.contrasts) or "contrast not named"
    return Card(
        name=recipe.name,
        title=f"{architecture.title} x{recipe.network.scale}",
        summary=recipe.summary,
        architecture=recipe.network.name,
        options=recipe.network.options,
        scale=recipe.network.scale,
        protocol=recipe.degradation.protocol,
        parameters=sum(p.numel() for p in network.parameters()),
        window=architecture.window,
        **_halo(architecture, network),
        uses_noise=bool(recipe.network.options.get("noise_channel")),
        reference=architecture.reference,
        domain=trained_domain(recipe, split.train),
        data=_data(done),
        recipe=_shareable(recipe),
        recipe_hash=recipe.hash,
        commit=_commit(),
        seed=recipe.seed,
        training="; ".join(_history(done, split)),
        limits=(
            "Not for diagnosis: structures finer than the input's voxels are estimated, not measured.",
            f"Trained on few people ({seen}); other contrasts, pathology and body parts are unseen.",
            f"Expects an input that is blurred and sampled like protocol {recipe.degradation.protocol}; other inputs gain less.",
        ),
    )


def _shareable(recipe: Recipe) -> dict[str, Any]:
    """Values of a recipe without anybody's folders."""
    values = recipe.model_dump(mode="json", exclude={"data": {"root"}})
    for part, name in ((values, "start"), (values["loss"], "vgg"), *((stage, "unetr") for stage in values["stages"])):
        if part.get(name):
            part[name] = Path(part[name]).name
    return values


def _data(done: TrainingDone) -> tuple[TrainingData, ...]:
    """Volumes of all stages, and those that the starting weights have seen."""
    recipe = done.recipe
    found = {(d.file, d.use): d for d in done.start.data} if done.start else {}
    for split in all_splits(recipe):
        for use, paths in (("train", split.train), ("validation", split.validation)):
            for path in paths:
                person = subject(path)
                found[path.name, use] = TrainingData(subject=person, file=path.name, licence=recipe.data.licences.get(person, ""), use=use)
    return tuple(sorted(found.values(), key=lambda d: d.use != "train"))


def _history(done: TrainingDone, split: Split) -> Iterator[str]:
    """How the weights came to be, in short phrases."""
    recipe = done.recipe
    if done.start:
        yield f"started from {done.start.name}, sha256 {done.start.sha256}"
    for part in recipe.stages:
        how = f", pretext {part.pretext}" if isinstance(part, VitStage) else ""
        yield f"stage {part.name}{how}: {part.steps} steps, sha256 {done.stages[part.name]}"
    threads = torch.get_num_threads()
    yield f"{done.step} steps in {done.minutes:.0f} minutes on {threads} {'thread' if threads == 1 else 'threads'}"
    since = "" if np.isnan(done.started_from) else f", from {done.started_from:.2f}"
    yield f"best validation {done.psnr:.2f} dB ({CONVENTION}){since}"
    if recipe.loss.kind == "fdvit" and recipe.loss.weights.get("pixel"):
        yield f"loss with a pixel term (weight {recipe.loss.weights['pixel']:g}), which the paper's has not"
    if split.note:
        yield split.note
    if done.note:
        yield done.note


NEGLIGIBLE = 5e-3
"""Deviation, as a fraction of the range, that tiles may leave at worst, with other noise beyond the margin; a head's is a tenth of that."""


def _halo(architecture: Architecture, network: torch.nn.Module) -> dict[str, Any]:
    """Smallest tile margin that is good enough, what it leaves, and the full one, for networks that are cut into tiles."""
    full = architecture.halo(network)
    if architecture.tiling != "halo" or full is None:
        return {}
    step = architecture.size_multiple
    for halo in range(step, full + step, step):
        error = halo_error(network, architecture.window, min(halo, full), step)
        if error <= NEGLIGIBLE or halo >= full:
            break
    return {"halo": min(halo, full), "halo_error": error, "full_halo": full}


@torch.inference_mode()
def halo_error(network: torch.nn.Module, window: int | None, halo: int, multiple: int) -> float:
    """Largest deviation of a tile from the untiled result that voxels beyond the margin can cause, as a fraction of the range.

    Two inputs of noise-like texture agree within the margin around a core and differ everywhere else.
    """
    if window is not None:
        network.set_windows(window)  # type: ignore[operator]
    network.eval()
    generator = torch.Generator().manual_seed(0)
    core = 2 * multiple
    size = core + 2 * halo + 4 * multiple
    first = torch.rand(1, 1, size, size, size, generator=generator)
    first = torch.nn.functional.avg_pool3d(first, 3, 1, 1) * 1.5
    low = (size - core) // 2 // multiple * multiple
    start, stop = low - halo, low + core + halo
    whole = network(first)
    part = network(first[..., start:stop, start:stop, start:stop].contiguous())
    scale = whole.shape[-1] // size
    inner = slice(scale * low, scale * (low + core))
    cut = slice(scale * halo, scale * (halo + core))
    return float((whole[..., inner, inner, inner] - part[..., cut, cut, cut]).abs().max())


def _commit() -> str:
    """Commit of the code that trains, where it runs from a checkout."""
    try:
        done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
