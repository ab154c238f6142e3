"""Stages of TransMRSR (NETWORKS 5): the generative prior, the centroids of its styles, and the super-resolution that starts from both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks.centroids import style_centroids
from napari_mrsr.networks.losses import NonSaturatingLoss, r1_penalty
from napari_mrsr.networks.losses.vgg import as_vgg_input
from napari_mrsr.networks.styleswin import StyleSwinGenerator
from napari_mrsr.networks.wavelet_discriminator import WaveletDiscriminator
from napari_mrsr.training.hashing import hashed_values, short_hash
from napari_mrsr.training.recipe import CentroidsStage, PriorStage, Recipe
from napari_mrsr.training.stages.base import Player, Result, Score, Stage
from napari_mrsr.training.stages.images import ImageSource, image_values
from napari_mrsr.training.stages.super_resolution import SuperResolution

GENERATOR_OPTIONS = ("size", "channel_multiplier", "width_divisor", "channels", "style_dim", "window", "mlp_ratio")
PATCH, PROJECTIONS, PATCHES = 7, 128, 8192
"""Of the sliced Wasserstein distance: edge of its patches, random directions, patches compared."""


@dataclass(frozen=True, eq=False)
class Codes:
    """Real slices, and random codes for the turn of each network."""

    image: Tensor
    first: Tensor
    second: Tensor


def _generator(recipe: Recipe) -> StyleSwinGenerator:
    options = recipe.network.options
    chosen = {name: options[name] for name in GENERATOR_OPTIONS if name in options}
    return StyleSwinGenerator(**chosen, heads=options.get("decoder_heads"))


class StylePrior(Stage):
    """StyleSwin learns to make slices: non-saturating loss, lazy R1 penalty, two learning rates."""

    measure = "minus sliced Wasserstein distance (x1000)"

    def __init__(self, recipe: Recipe, part: PriorStage, _before: Mapping[str, Result]) -> None:
        self.name, self.part, self.recipe = part.name, part, recipe
        self.steps, self.validate_every, self.optimiser = part.steps, part.validate_every, part.optimiser
        options = {name: recipe.network.options.get(name) for name in (*GENERATOR_OPTIONS, "decoder_heads")}
        self.hash = short_hash({"stage": hashed_values(part, part.name), "images": image_values(recipe, part), "network": options})
        self.network = _generator(recipe)
        if part.size != self.network.size:
            raise InputError(f"Stage prior: its size {part.size} must be the network's, {self.network.size}.")
        self.discriminator = WaveletDiscriminator(size=part.size, **part.discriminator)
        self.adversarial = NonSaturatingLoss()
        self.source = ImageSource(recipe, part)
        self.players = (
            Player("discriminator", self.discriminator, self._judge),
            Player("generator", self.network, self._terms, part.generator_rate),
        )

    def read(self) -> None:
        """Read the volumes."""
        self.source.read()
        generator = torch.Generator().manual_seed(self.recipe.seed)
        self.codes = torch.randn(len(self.source.fixed.image), self.network.style_dim, generator=generator)

    def batch_size(self) -> int:
        """Slices."""
        return int(self.part.batch)

    def batch(self, step: int, items: Sequence[int]) -> Any:
        """Real slices and codes."""
        codes = [np.random.default_rng([self.recipe.seed, step, i, 1]).standard_normal((2, self.network.style_dim), np.float32) for i in items]
        first, second = torch.from_numpy(np.stack(codes)).unbind(1)
        return Codes(self.source.batch(step, items).image, first, second)

    def _judge(self, batch: Codes, step: int) -> dict[str, Tensor]:
        real = as_vgg_input(batch.image)
        with torch.no_grad():
            fake = self.network(batch.first)
        terms = {"discriminator": self.adversarial.discriminator(self.discriminator(real), self.discriminator(fake))}
        if self.part.r1 and step % self.part.r1_every == 0:
            real = real.detach().requires_grad_()
            terms["R1"] = self.part.r1_every * r1_penalty(self.discriminator(real), real, self.part.r1)
        return terms

    def _terms(self, batch: Codes, _step: int) -> dict[str, Tensor]:
        return {"generator": self.adversarial.generator(self.discriminator(self.network(batch.second)))}

    @torch.inference_mode()
    def score(self, network: Any, device: torch.device) -> Score:
        """How far small patches of made slices are from those of slices held out."""
        made = torch.cat([network(z.to(device)) for z in torch.split(self.codes, 8)])
        real = as_vgg_input(self.source.fixed.image.to(device))
        return Score(-1000 * sliced_distance(made.mean(1, keepdim=True), real.mean(1, keepdim=True)))


def sliced_distance(a: Tensor, b: Tensor) -> float:
    """Sliced Wasserstein distance of small patches, each set divided by the spread of the second (Karras et al. 2018, on one scale).

    Parameters
    ----------
    a, b : (B, 1, H, W) tensors
    """
    generator = torch.Generator().manual_seed(0)
    sets = [nn.functional.unfold(x.float(), PATCH).transpose(1, 2).reshape(-1, PATCH**2) for x in (a, b)]
    count = min(PATCHES, *(len(s) for s in sets))
    chosen = [s[torch.randperm(len(s), generator=generator)[:count].to(s.device)] for s in sets]
    mean, spread = chosen[1].mean(), chosen[1].std()
    directions = nn.functional.normalize(torch.randn(PATCH**2, PROJECTIONS, generator=generator), dim=0).to(a.device)
    first, second = (((s - mean) / spread @ directions).sort(0).values for s in chosen)
    return float((first - second).abs().mean())


class Centroids(Stage):
    """Cluster centres of the prior's styles; nothing is trained."""

    measure = "clusters"

    def __init__(self, recipe: Recipe, part: CentroidsStage, before: Mapping[str, Result]) -> None:
        if "prior" not in before:
            raise InputError("Stage centroids: it needs the stage prior before it.")
        self.name, self.part, self.recipe = part.name, part, recipe
        self.steps, self.validate_every, self.optimiser = 0, 1, recipe.optimiser
        self.clusters = int(recipe.network.options.get("clusters", 0))
        if not self.clusters:
            raise InputError("Stage centroids: network.options.clusters says how many, 8 in the paper.")
        self.hash = short_hash({"stage": hashed_values(part, part.name), "prior": before["prior"].sha256, "clusters": self.clusters})
        self.network = _generator(recipe)
        self.network.load_state_dict(dict(before["prior"].tensors))

    def batch_size(self) -> int:
        """None."""
        return 0

    def batch(self, step: int, items: Sequence[int]) -> Any:
        """None."""
        raise NotImplementedError

    def score(self, network: Any, device: torch.device) -> Score:
        """Nothing to choose from."""
        return Score(float(self.clusters))

    def result(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The centres, (clusters, style_dim)."""
        return {"centroids": style_centroids(self.network, self.part.samples, self.clusters, self.recipe.seed)}


class TransMRSRSuperResolution(SuperResolution):
    """The network on the prior. Only what is not the prior begins with random weights (NETWORKS 5.7)."""

    def take_over(self, before: Mapping[str, Result]) -> None:
        """The prior goes into the decoder, the centroids beside it."""
        if "prior" in before:
            decoder = {k.removeprefix("decoder."): v for k, v in before["prior"].tensors.items() if k.startswith("decoder.")}
            self.network.load_prior(decoder)
        if "centroids" in before:
            self.network.set_centroids(before["centroids"].tensors["centroids"])
