"""Stages of a training, one file for each network that has several."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from napari_mrsr.errors import InputError
from napari_mrsr.training.recipe import ImageStage, Recipe
from napari_mrsr.training.sources import Split, check_people, find_split
from napari_mrsr.training.stages.base import Result, Stage
from napari_mrsr.training.stages.super_resolution import NAME, SuperResolution
from napari_mrsr.training.start import Start

NEEDS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {"vit": ("fdvit", ()), "disentangle": ("fdvit", ()), "prior": ("transmrsr", ()), "centroids": ("transmrsr", ("prior",))}
)
"""Network of every stage, and the stages that must come before it."""


def stage_names(recipe: Recipe) -> tuple[str, ...]:
    """All stages of a recipe, in order.

    Raises
    ------
    InputError
        If a stage comes twice, belongs to another network, or lacks one before it.
    """
    seen: list[str] = []
    for part in recipe.stages:
        network, needed = NEEDS[part.name]
        if part.name in seen:
            raise InputError(f"The recipe has the stage {part.name} twice; leave one out.")
        if network != recipe.network.name:
            raise InputError(f"Stage {part.name} belongs to {network}; the recipe trains {recipe.network.name}.")
        if missing := [name for name in needed if name not in seen]:
            raise InputError(f"Stage {part.name}: it needs the stage {missing[0]} before it.")
        seen.append(part.name)
    return (*seen, NAME)


def all_splits(recipe: Recipe) -> tuple[Split, ...]:
    """Files of all stages on either side, the super-resolution's first.

    Raises
    ------
    InputError
        If there are none, or one stage learns from a person that another validates on.
    """
    from napari_mrsr.training.stages.images import image_recipe

    splits = [find_split(recipe), *(find_split(image_recipe(recipe, part)) for part in recipe.stages if isinstance(part, ImageStage))]
    if not any(split.parts for split in splits):
        check_people([p for s in splits for p in s.train], [p for s in splits for p in s.validation])
    return tuple(splits)


def make_stage(name: str, recipe: Recipe, before: Mapping[str, Result], start: Start | None) -> Stage:
    """Build a stage with fresh weights; `start` goes into the super-resolution network."""
    if name == NAME:
        return _super_resolution(recipe)(recipe, before, start)
    part = next(p for p in recipe.stages if p.name == name)
    if name in ("vit", "disentangle"):
        from napari_mrsr.training.stages import fdvit

        kind: Any = {"vit": fdvit.VitPretext, "disentangle": fdvit.Disentangling}[name]
    else:
        from napari_mrsr.training.stages import transmrsr

        kind = {"prior": transmrsr.StylePrior, "centroids": transmrsr.Centroids}[name]
    stage: Stage = kind(recipe, part, before)
    return stage


def _super_resolution(recipe: Recipe) -> type[SuperResolution]:
    if recipe.loss.kind not in ("pixel", recipe.network.name):
        raise InputError(f"loss.kind {recipe.loss.kind} belongs to the network of that name; the recipe trains {recipe.network.name}.")
    if recipe.loss.kind == "fdvit":
        from napari_mrsr.training.stages.fdvit import FDViTSuperResolution

        return FDViTSuperResolution
    if recipe.network.name == "transmrsr":
        from napari_mrsr.training.stages.transmrsr import TransMRSRSuperResolution

        return TransMRSRSuperResolution
    return SuperResolution


__all__ = ["NAME", "NEEDS", "Result", "Stage", "all_splits", "make_stage", "stage_names"]
