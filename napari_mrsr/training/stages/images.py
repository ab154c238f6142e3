"""Sharp patches for the stages before the super-resolution, by class where they need one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from napari_mrsr.degradation import get_protocol
from napari_mrsr.errors import InputError
from napari_mrsr.networks import get_architecture
from napari_mrsr.networks.scaling import by_range
from napari_mrsr.training.data import Study
from napari_mrsr.training.hashing import hashed_values
from napari_mrsr.training.people import stem_of
from napari_mrsr.training.planes import PlaneSampler
from napari_mrsr.training.recipe import AugmentationPart, ImageStage, Recipe
from napari_mrsr.training.sources import find_split, load_split

FIXED = 64
"""Patches that a stage is validated on."""


@dataclass(frozen=True, eq=False)
class Images:
    """Sharp patches.

    Attributes
    ----------
    image : (B, 1, H, W) tensor
        Divided by the range of their volume.
    label : (B,) tensor of int
        Class of each.
    """

    image: Tensor
    label: Tensor


def image_recipe(recipe: Recipe, part: ImageStage) -> Recipe:
    """The recipe by which a stage's patches are drawn; the same for all factors of a protocol, so that their recipes share the stage.

    Raises
    ------
    InputError
        If the patch size does not fit.
    """
    protocol, architecture = get_protocol(recipe.degradation.protocol), get_architecture(recipe.network.name)
    scale = min(protocol.scales)
    size, rest = divmod(part.size, 1 if architecture.pre_interpolated else scale)
    if rest:
        raise InputError(f"Stage {part.name}: its size must be a multiple of {scale}, not {part.size}.")
    data = {"train": part.train or recipe.data.train, "validation": part.validation or recipe.data.validation, "references": (), "low": ""}
    return recipe.model_copy(
        update={
            "name": part.name,
            "degradation": recipe.degradation.model_copy(update={"scale": scale, "noise": 0.0}),
            "data": recipe.data.model_copy(update=data),
            "patches": recipe.patches.model_copy(update={"size": size, "batch": part.batch}),
            # Contrasts stay what they are, and nothing is varied that only the low resolution shows.
            "augmentation": recipe.augmentation.model_copy(
                update={"curve_probability": 0.0, "inversion_probability": 0.0, "noise": 0.0, "reference_dropout": 0.0, "blur": (1.0, 1.0)}
            ),
        }
    )


def image_values(recipe: Recipe, part: ImageStage) -> dict[str, object]:
    """What decides on the patches, for the stage's hash."""
    values = hashed_values(image_recipe(recipe, part))
    return {name: values[name] for name in ("degradation", "data", "patches", "augmentation", "seed", "precision") if name in values}


def class_of(path: Path) -> str:
    """Class of a slice: the last part of its file's name."""
    return stem_of(path).rpartition("_")[2]


class ImageSource:
    """Draws sharp patches; sample `i` of a batch is of class ``i mod K``, so that all classes come equally often.

    Parameters
    ----------
    recipe : Recipe
    part : ImageStage
    by_class : bool
        False: one class of all volumes.
    """

    def __init__(self, recipe: Recipe, part: ImageStage, by_class: bool = False) -> None:
        self.recipe, self.by_class = image_recipe(recipe, part), by_class
        self.architecture = get_architecture(recipe.network.name)
        self.split = find_split(self.recipe)
        self.classes = tuple(sorted({class_of(p) for p in self.split.train})) if by_class else ("image",)

    def read(self) -> None:
        """Read the volumes.

        Raises
        ------
        InputError
            Also where a volume to validate on is of a class that none to learn from has.
        """
        train, held_out = load_split(self.recipe, self.split)
        sides = [list(zip(paths, studies, strict=True)) for paths, studies in ((self.split.train, train), (self.split.validation, held_out))]
        strange = {class_of(p) for p, _ in sides[1]} - set(self.classes) if self.by_class else set()
        if strange:
            raise InputError(f"There are volumes of {', '.join(sorted(strange))} to validate on, but none to learn from; leave them out or add some.")
        self.samplers = self._samplers(sides[0], self.recipe)
        plain = self.recipe.model_copy(update={"augmentation": AugmentationPart(flips=False, turns=self.recipe.augmentation.turns)})
        known = self._samplers(sides[1], plain)
        share = range(FIXED // max(1, len(known)))
        parts = [Images(sampler.batch(0, share).hr, torch.full((len(share),), index)) for index, sampler in known.items()]
        self.fixed = Images(torch.cat([p.image for p in parts]), torch.cat([p.label for p in parts]))
        """What is validated."""

    def _samplers(self, side: Sequence[tuple[Path, Study]], recipe: Recipe) -> dict[int, PlaneSampler]:
        groups: dict[int, list[Study]] = {}
        for path, study in side:
            groups.setdefault(self.classes.index(class_of(path)) if self.by_class else 0, []).append(study)
        fit = partial(by_range, None)
        return {index: PlaneSampler(recipe, groups[index], self.architecture, fit) for index in sorted(groups)}

    def batch(self, step: int, items: Sequence[int]) -> Images:
        """Samples `items` of the batch of a step, in order."""
        found = [self.samplers[i % len(self.classes)].batch(step, [i]).hr for i in items]
        return Images(torch.cat(found), torch.tensor([i % len(self.classes) for i in items]))
