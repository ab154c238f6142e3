"""What a recipe would do, told before the first step: problems in plain words, people, pairs, patches, time and memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_mrsr.degradation import get_protocol
from napari_mrsr.errors import InputError
from napari_mrsr.intensity import foreground_mask
from napari_mrsr.networks import get_architecture
from napari_mrsr.training.augment import require_variations
from napari_mrsr.training.data import Study, load_study, thick_axis
from napari_mrsr.training.loop import require_fit
from napari_mrsr.training.parallel import Machines, start_fabric
from napari_mrsr.training.people import subject
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.training.sources import Split, check_voxels, divide, find_split
from napari_mrsr.training.stages.super_resolution import SuperResolution
from napari_mrsr.training.start import find_start
from napari_mrsr.training.trainer import Trainer

COPIES = 6
"""Numbers kept for every parameter: weights, their average, the best of these, gradient, two moments of the optimiser."""
CLIPPED = 0.002
"""Share of the tissue at the largest value above which a volume's whites are taken for clipped."""
VARIED = 1.5
"""Ratio of voxel sizes between volumes that is worth a warning."""


@dataclass(frozen=True)
class Cost:
    """Measured on this machine: seconds for one step of the super-resolution network, and bytes of memory it needs for it."""

    seconds_per_step: float
    memory: int


@dataclass(frozen=True)
class Check:
    """What a training would do.

    Attributes
    ----------
    errors : tuple of str
        Why it cannot start, one sentence each.
    warnings : tuple of str
        What may make it worse than expected.
    people, volumes : int
        Learned from.
    validation : tuple of str
        Files validated.
    split : str
        How these were chosen; empty where the recipe names them.
    pairs : int
        Volumes learned from that come with a reference contrast or a given low resolution.
    patches_per_epoch : int
        Patches that hold as many tissue voxels as the volumes have: an epoch shows about every tissue voxel once.
    epochs : float
        Epochs in the recipe's steps.
    steps_per_epoch : int
    cost : Cost or None
        Where it was measured.
    """

    errors: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    people: int = 0
    volumes: int = 0
    validation: tuple[str, ...] = ()
    split: str = ""
    pairs: int = 0
    patches_per_epoch: int = 0
    epochs: float = 0.0
    steps_per_epoch: int = 0
    cost: Cost | None = None

    @property
    def ok(self) -> bool:
        """Whether the training can start."""
        return not self.errors

    def lines(self) -> list[str]:
        """The report, line by line."""
        found = [f"problem: {e}" for e in self.errors] + [f"note: {w}" for w in self.warnings]
        if not self.ok:
            return found
        found += [
            f"learns from: {_count(self.volumes, 'volume')} of {_count(self.people, 'person', 'people')}"
            + (f", {_count(self.pairs, 'pair')}" if self.pairs else ""),
            f"validation: {', '.join(self.validation)}" + (f"; {self.split}" if self.split else ""),
            f"one epoch: {self.patches_per_epoch} patches, as many voxels as the tissue has ({_count(self.steps_per_epoch, 'step')})",
            f"all steps: {self.epochs:.1f} epochs",
        ]
        if self.cost is not None:
            seconds = self.cost.seconds_per_step
            found += [
                f"time: {seconds:.2f} s a step, {seconds * self.steps_per_epoch / 60:.1f} minutes an epoch, "
                f"{seconds * self.steps_per_epoch * self.epochs / 60:.0f} minutes in all, validations apart",
                f"memory: about {self.cost.memory / 2**30:.1f} GiB beside the program",
            ]
        return found


def check_recipe(recipe: Recipe, measure: bool = False, accelerator: str = "auto") -> Check:
    """Read all the data of a recipe and tell what is wrong with them, and what the training would do.

    Parameters
    ----------
    recipe : Recipe
    measure : bool
        Also make a few steps of the super-resolution network to tell time and memory.
    accelerator : str
        As for :func:`~napari_mrsr.training.loop.train`; used where it is measured.
    """
    errors: list[str] = []

    def attempt(job: Callable[[], Any]) -> Any:
        try:
            return job()
        except InputError as error:
            errors.append(str(error))
            return None

    attempt(lambda: require_fit(recipe))
    attempt(lambda: require_variations(recipe))
    if recipe.start:
        attempt(lambda: find_start(str(recipe.start), recipe.network))
    split: Split | None = attempt(lambda: find_split(recipe))
    if split is None or errors:
        return Check(tuple(errors))
    train = _read(recipe, split.train, attempt)
    validation = train if split.parts else _read(recipe, split.validation, attempt)
    if not errors and split.parts:
        learned, _ = attempt(lambda: divide([s for _, s in train], recipe)) or ([], [])
        train = list(zip(split.train, learned, strict=False))
    elif not errors:
        attempt(lambda: check_voxels(train, validation))
    if errors:
        return Check(tuple(errors))
    studies = [study for _, study in train]
    patches = _patches(recipe, studies)
    steps = math.ceil(patches / recipe.patches.batch)
    return Check(
        errors=(),
        warnings=tuple(_warnings(recipe, train)),
        people=len({subject(p) for p in split.train}),
        volumes=len(studies),
        validation=tuple(p.name for p in split.validation),
        split=split.note,
        pairs=sum(bool(s.references) or s.low is not None for s in studies),
        patches_per_epoch=patches,
        steps_per_epoch=steps,
        epochs=recipe.steps / steps,
        cost=measure_cost(recipe, studies, accelerator=accelerator) if measure else None,
    )


def measure_cost(recipe: Recipe, studies: Sequence[Study], steps: int = 3, accelerator: str = "auto") -> Cost:
    """Make a few steps and tell what one takes; nothing is kept.

    The fastest step counts (the first one warms up). Stages before the super-resolution network, and its losses beyond those on pixels, are not
    measured.

    Raises
    ------
    RunError
        If the memory is too small even for single samples.
    """
    fabric = start_fabric(Machines(accelerator), recipe)
    torch.manual_seed(recipe.seed)
    stage = SuperResolution(recipe, {}, None)
    stage.sampler = stage.make_sampler(studies)
    trainer = Trainer(stage, recipe, fabric)
    tensors = _SavedTensors()
    with torch.autograd.graph.saved_tensors_hooks(tensors.seen, lambda t: t):
        trainer.advance()
    times = []
    for _ in range(max(1, steps - 1)):
        began = time.perf_counter()
        trainer.advance()
        times.append(time.perf_counter() - began)
    weights = sum(p.numel() * p.element_size() for p in stage.network.parameters())
    volumes = sum(2 * 4 * v.data.size for s in studies for v in (s.image, *s.references))
    return Cost(min(times), COPIES * weights + tensors.bytes + volumes)


class _SavedTensors:
    """Counts what a step keeps for its way back, every piece of memory once."""

    def __init__(self) -> None:
        self.bytes = 0
        self._known: set[int] = set()

    def seen(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter) and storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def _read(recipe: Recipe, paths: Sequence[Path], attempt: Callable[[Callable[[], Any]], Any]) -> list[tuple[Path, Study]]:
    found = [(path, attempt(partial(load_study, path, recipe.data, recipe))) for path in paths]
    return [(path, study) for path, study in found if study is not None]


def _patches(recipe: Recipe, studies: Sequence[Study]) -> int:
    """Patches with as many voxels as the tissue has."""
    architecture = get_architecture(recipe.network.name)
    edge = recipe.patches.size * (1 if architecture.pre_interpolated else recipe.degradation.scale)
    voxels = sum(int(foreground_mask(study.image.data).sum()) for study in studies)
    return max(1, round(voxels / float(edge**architecture.dimension)))


def _warnings(recipe: Recipe, train: Sequence[tuple[Path, Study]]) -> list[str]:
    studies, protocol = [s for _, s in train], get_protocol(recipe.degradation.protocol)
    found = []
    if len({subject(p) for p, _ in train}) == 1:
        found.append("only one person is learned from; the model may fit others less well.")
    for study in studies:
        image = study.image
        tissue = image.data[foreground_mask(image.data)]
        if np.mean(tissue == image.data.max()) > CLIPPED:
            found.append(f"{image.name}: the brightest tissue is clipped to {image.data.max():g}; detail is missing there.")
        thick = thick_axis(image)
        if thick is not None and protocol.pattern == "3d":
            shown = " x ".join(f"{v:.2g}" for v in image.voxel_size)
            found.append(f"{image.name}: voxels of {shown} mm are no sharp truth across slices, which protocol {protocol.name} takes them for.")
        if thick is not None and protocol.pattern == "through-plane" and study.low is None:
            ratio = image.voxel_size[thick] / min(image.voxel_size)
            if ratio < 0.9 * recipe.degradation.scale:
                factor = recipe.degradation.scale
                found.append(f"{image.name}: slices are {ratio:.1f} pixels thick, the network learns to make {factor} of each.")
    sizes = [min(s.image.voxel_size) for s in studies]
    if max(sizes) > VARIED * min(sizes):
        found.append(f"voxel sizes differ from {min(sizes):.2g} to {max(sizes):.2g} mm between the volumes.")
    return found


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"
