"""The last stage of every recipe: the super-resolution network itself, on pixel losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from napari_mrsr.errors import InputError
from napari_mrsr.networks import create, get_architecture
from napari_mrsr.networks.losses import ParameterNorm
from napari_mrsr.networks.scaling import Scaling
from napari_mrsr.training.data import Pair, Study
from napari_mrsr.training.objectives import make_objective
from napari_mrsr.training.patches import PatchSampler, validation_case
from napari_mrsr.training.planes import PlaneSampler, plane_case
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.training.sources import find_split, load_split
from napari_mrsr.training.stages.base import Player, Result, Score, Stage
from napari_mrsr.training.start import Start
from napari_mrsr.training.validation import ValidationCase, classic_psnr, preview_of, validate

NAME = "super-resolution"


class SuperResolution(Stage):
    """Low resolution in, sharp image out.

    Parameters
    ----------
    recipe : Recipe
    before : mapping of str to Result
        Results of the stages before.
    start : Start, optional
        Weights to begin with.
    """

    name = NAME
    measure = "PSNR (dB)"

    def __init__(self, recipe: Recipe, before: Mapping[str, Result], start: Start | None = None) -> None:
        self.recipe, self.hash = recipe, recipe.hash
        self.steps, self.validate_every, self.optimiser = recipe.steps, recipe.validate_every, recipe.optimiser
        self.architecture = get_architecture(recipe.network.name)
        layout = torch.channels_last_3d if self.architecture.dimension == 3 else torch.channels_last
        network = create(recipe.network.name, recipe.network.scale, **recipe.network.options)
        self.network = network.to(memory_format=layout)  # type: ignore[call-overload]
        self.take_over(before)
        if start is not None:
            start.load(self.network)
        self.split = find_split(recipe)
        self.cases: list[ValidationCase] = []
        self.players = self.make_players()

    def take_over(self, before: Mapping[str, Result]) -> None:
        """Put what the stages before have learnt into the network."""

    def make_players(self) -> tuple[Player, ...]:
        """The network alone."""
        if self.recipe.loss.pixel.endswith("-gradient") and not hasattr(self.network, "forward_with_gradient"):
            raise InputError(f"loss.pixel: {self.architecture.title} predicts no gradients, which {self.recipe.loss.pixel} needs; take charbonnier.")
        objective = make_objective(self.recipe.loss)
        norm = ParameterNorm(self.recipe.loss.parameter_norm) if self.recipe.loss.parameter_norm else None

        def terms(pair: Pair, _step: int) -> dict[str, Tensor]:
            losses = objective(self.network, pair)
            return losses if norm is None else {**losses, "parameter norm": norm(self.network.parameters())}

        return (Player("network", self.network, terms),)

    def fit(self, lr: Tensor, volume_range: float) -> Scaling:
        """Units of the network for a low resolution of that range."""
        return self.architecture.scaling(self.network, lr, volume_range)

    def read(self) -> None:
        """Read volumes: whole ones for networks that see volumes, slices for those that see slices."""
        studies, held_out = load_split(self.recipe, self.split)
        self.sampler = self.make_sampler(studies)
        if self.architecture.dimension == 3:
            self.cases = [validation_case(study, self.recipe, self.fit) for study in held_out]
        else:
            self.cases = [plane_case(study, self.recipe, self.architecture, self.fit) for study in held_out]
        self.classic, self.preview = classic_psnr(self.cases), preview_of(self.cases)

    def make_sampler(self, studies: Sequence[Study]) -> PatchSampler | PlaneSampler:
        """Where batches come from."""
        if self.architecture.dimension == 3:
            return PatchSampler(self.recipe, studies)
        return PlaneSampler(self.recipe, studies, self.architecture, self.fit)

    def batch(self, step: int, items: Sequence[int]) -> Any:
        """Low and high resolution."""
        return self.sampler.batch(step, items)

    def batch_size(self) -> int:
        """Patches."""
        return self.recipe.patches.batch

    def score(self, network: Any, device: torch.device) -> Score:
        """PSNR inside M (``mrsr-1``), the mean over volumes, and the preview's slab."""
        found = validate(self.cases, network, device)
        return Score(found.psnr, found.shown)
