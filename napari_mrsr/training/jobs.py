"""A whole training job: a recipe to weights and card on disk."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_mrsr.errors import InputError
from napari_mrsr.io import make_folder, read_volume, require_writable, write_json
from napari_mrsr.networks import Architecture, create, get_architecture
from napari_mrsr.training.data import find_volumes, subject
from napari_mrsr.training.loop import StepDone, TrainingDone, TrainingStarted, ValidationDone, train
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.zoo import Card, Domain, TrainingData, save_weights, sha256_of, user_weights_folder

REPORT_STEPS = 50
CONVENTION = "mrsr-1"


def train_to_files(recipe: Recipe, output: Path | None, *, resume: bool, accelerator: str, overwrite: bool, say: Callable[[str], None]) -> list[Path]:
    """Train by a recipe and write weights and card.

    Parameters
    ----------
    recipe : Recipe
    output : Path or None
        Folder; None takes the user's model folder.
    resume : bool
        Go on from the recipe's checkpoint in ``runs/``, where there is one.
    accelerator : str
        auto, cpu, cuda, mps.
    overwrite : bool
        Replace weights of the same name.
    say : callable
        Gets one line of text now and then.

    Returns
    -------
    list of Path
        Weights and card.
    """
    folder = make_folder(output or user_weights_folder())
    weights, card_path = folder / f"{recipe.name}.safetensors", folder / f"{recipe.name}.json"
    for path in (weights, card_path):
        require_writable(path, overwrite)
    checkpoint = make_folder("runs") / f"{recipe.name}-{recipe.hash}.pt"
    done = None
    for event in train(recipe, checkpoint, resume and checkpoint.exists(), accelerator=accelerator):
        if isinstance(event, TrainingDone):
            done = event
        elif (text := _line(event, recipe)) is not None:
            say(text)
    if done is None or not np.isfinite(done.psnr):
        raise InputError("The training ended before its first validation; let it run longer.")
    card = make_card(done)
    save_weights(done.weights, weights, {"name": recipe.name, "architecture": recipe.network.name, "recipe": recipe.hash}, overwrite)
    card = card.model_copy(update={"weights": weights.name, "sha256": sha256_of(weights), "size": weights.stat().st_size})
    write_json(card.model_dump(mode="json"), card_path, overwrite)
    return [weights, card_path]


def _line(event: Any, recipe: Recipe) -> str | None:
    if isinstance(event, TrainingStarted):
        return f"{event.parameters:,} parameters, {len(event.train)} training volumes, cubic validates at {event.cubic:.2f} dB"
    if isinstance(event, ValidationDone):
        return f"step {event.step}: validation {event.psnr:.2f} dB ({CONVENTION}){' *' if event.best else ''}"
    if isinstance(event, StepDone) and event.step % REPORT_STEPS == 0:
        terms = ", ".join(f"{k} {v:.5f}" for k, v in event.losses.items())
        return f"step {event.step} of {recipe.steps}: {terms} ({event.seconds:.0f} s)"
    return None


def make_card(done: TrainingDone) -> Card:
    """Card of a freshly trained model, still without its file; its quality table is filled by :mod:`napari_mrsr.training.evaluate`."""
    recipe = done.recipe
    architecture = get_architecture(recipe.network.name)
    network = create(recipe.network.name, recipe.network.scale, **recipe.network.options)
    network.load_state_dict(done.weights)
    data, sizes = [], []
    for use, patterns in (("train", recipe.data.train), ("validation", recipe.data.validation)):
        for path in find_volumes(recipe.data.root, patterns):
            person = subject(path)
            data.append(TrainingData(subject=person, file=path.name, licence=recipe.data.licences.get(person, ""), use=use))
            if use == "train":
                sizes += [v * recipe.degradation.scale for v in read_volume(path).voxel_size]
    seen = ", ".join(recipe.data.contrasts) or "contrast not named"
    threads = torch.get_num_threads()
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
        domain=Domain(
            contrasts=recipe.data.contrasts, voxel_size=(round(min(sizes), 3), round(max(sizes), 3)), noise=(0.0, recipe.augmentation.noise)
        ),
        data=tuple(data),
        recipe=recipe.model_dump(mode="json", exclude={"data": {"root"}}),
        recipe_hash=recipe.hash,
        commit=_commit(),
        seed=recipe.seed,
        training=f"{done.step} steps in {done.minutes:.0f} minutes on {threads} threads; best validation {done.psnr:.2f} dB ({CONVENTION})",
        limits=(
            "Not for diagnosis: structures finer than the input's voxels are estimated, not measured.",
            f"Trained on few people ({seen}); other contrasts, pathology and body parts are unseen.",
            f"Expects an input that is blurred and sampled like protocol {recipe.degradation.protocol}; other inputs gain less.",
        ),
    )


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
