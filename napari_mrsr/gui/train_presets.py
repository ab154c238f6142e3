"""Recipes to begin with, and models to start from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from napari_mrsr.errors import InputError
from napari_mrsr.training.recipe import Recipe, load_recipe
from napari_mrsr.zoo import Card, list_models

TITLES = {"cftn": "CFTN", "fdvit": "FD-ViT", "dcamsr": "DCAMSR", "cohft": "Cohf-T", "transmrsr": "TransMRSR"}
"""Of the networks; their descriptors know them too, but need torch."""
KINDS = {"compact": "from scratch, compact", "finetune": "fine-tune", "paper": "from scratch, as the paper"}
FOLDER = Path(str(resources.files("napari_mrsr"))) / "resources" / "recipes"
LONGEST_NAME = 64


@dataclass(frozen=True)
class Preset:
    """A recipe of the list: its title among those of its network, and its file."""

    title: str
    path: Path
    recipe: Recipe


def presets() -> list[Preset]:
    """Recipes that come with the program, in the order of their files."""
    return [preset(path) for path in sorted(FOLDER.glob("*.yaml"))]


def preset(path: Path) -> Preset:
    """A recipe's file as an entry of the list.

    Raises
    ------
    InputError
        As :func:`~napari_mrsr.training.recipe.load_recipe`.
    """
    recipe = load_recipe(path)
    kind = KINDS.get(path.stem.rpartition("_")[2]) if path.parent == FOLDER else path.name
    return Preset(f"x{recipe.network.scale}, {kind or path.stem}", path, recipe)


def starts(recipe: Recipe) -> list[Card]:
    """Models whose weights a recipe can begin with: of its network and factor."""
    if getattr(recipe, "stages", ()):
        return []
    return [card for card in list_models() if card.learned and (card.architecture, card.scale) == (recipe.network.name, recipe.network.scale)]


def starting_from(recipe: Recipe, card: Card | None) -> Recipe:
    """A recipe that begins with a model's weights, and so trains the same network for the same kind of input; None: from scratch."""
    if card is None:
        return recipe.model_copy(update={"start": None})
    network = recipe.network.model_copy(update={"options": card.options})
    degradation = recipe.degradation.model_copy(update={"protocol": card.protocol or recipe.degradation.protocol})
    return recipe.model_copy(update={"start": card.name, "network": network, "degradation": degradation})


def free_name(stem: str) -> str:
    """A name that no model has."""
    taken = {card.name for card in list_models()}
    return next(name for name in (stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 3))) if name not in taken)


def check_name(name: str) -> str:
    """The name of a model to be made.

    Raises
    ------
    InputError
        If it cannot be one, or a model has it.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) or len(name) > LONGEST_NAME:
        raise InputError(f"{name!r} cannot name a model: use small letters, digits, dots and dashes, {LONGEST_NAME} at most.")
    if name in {card.name for card in list_models()}:
        raise InputError(f"There is a model {name} already; give the new one another name.")
    return name
