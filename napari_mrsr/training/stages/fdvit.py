"""Stages of FD-ViT (NETWORKS 2): the transformer's pretext task, the disentangling autoencoder, and the super-resolution under both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.metrics import psnr
from napari_mrsr.networks.blocks.discriminator import Discriminator
from napari_mrsr.networks.disentangling import DisentanglingAutoencoder, resized
from napari_mrsr.networks.losses import AutoencoderDiscriminatorLoss, AutoencoderLoss, FDViTLoss, NonSaturatingLoss
from napari_mrsr.networks.vit_features import OrganClassifier, ViTFeatures
from napari_mrsr.training.data import Pair
from napari_mrsr.training.hashing import hashed_values, short_hash
from napari_mrsr.training.recipe import DisentangleStage, Recipe, VitStage
from napari_mrsr.training.stages.base import Player, Result, Score, Stage
from napari_mrsr.training.stages.images import Images, ImageSource, image_values
from napari_mrsr.training.stages.super_resolution import SuperResolution


class _OnImages(Stage):
    """A stage that learns from sharp patches."""

    source: ImageSource
    option: str
    """Network option that holds the options of what is trained."""

    def __init__(self, recipe: Recipe, part: Any, by_class: bool = False) -> None:
        self.name, self.part, self.recipe = part.name, part, recipe
        self.steps, self.validate_every, self.optimiser = part.steps, part.validate_every, part.optimiser
        self.options = dict(recipe.network.options.get(self.option) or {})
        self.hash = short_hash({"stage": hashed_values(part, part.name), "images": image_values(recipe, part), "network": self.options})
        self.source = ImageSource(recipe, part, by_class)

    def read(self) -> None:
        """Read the volumes."""
        self.source.read()

    def batch(self, step: int, items: Sequence[int]) -> Any:
        """Sharp patches."""
        return self.source.batch(step, items)

    def batch_size(self) -> int:
        """Patches."""
        return int(self.part.batch)


class MaskedPatches(nn.Module):
    """Pretext task: tell what lies under hidden patches of a slice.

    Parameters
    ----------
    features : ViTFeatures
    """

    def __init__(self, features: ViTFeatures) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(features.vit.norm.normalized_shape[0], features.patch**2)

    def forward(self, image: Tensor, hidden: Tensor) -> Tensor:
        """Mean squared error under the hidden patches.

        Parameters
        ----------
        image : (B, 1, H, W) tensor
        hidden : (B, N) tensor of bool
        """
        patch, edge = self.features.patch, self.features.edge
        image = resized(image, self.features.size)
        mask = hidden.view(-1, 1, edge, edge).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        found = self.head(self.features.tokens(image.masked_fill(mask, 0)))
        wanted = F.unfold(image, patch, stride=patch).transpose(1, 2)
        error: Tensor = (found - wanted).float()[hidden].square().mean()
        return error


@dataclass(frozen=True, eq=False)
class Masked:
    """Sharp patches (B, 1, H, W) and which of their tokens are hidden, (B, N)."""

    image: Tensor
    hidden: Tensor


class VitPretext(_OnImages):
    """The transformer learns what makes slices differ; its pretext head is dropped."""

    option = "vit_options"

    def __init__(self, recipe: Recipe, part: VitStage, _before: Mapping[str, Result]) -> None:
        self.masked = part.pretext == "masked"
        super().__init__(recipe, part, by_class=not self.masked)
        self.measure = "PSNR of hidden patches (dB)" if self.masked else f"accuracy (%) among {', '.join(self.source.classes)}"
        features = ViTFeatures(**self.options)
        if part.unetr is not None:
            features.load_unetr(part.unetr)
        if not self.masked and len(self.source.classes) < 2:
            raise InputError(f"Stage vit: all volumes are of class {self.source.classes[0]}; name volumes of several, or take pretext: masked.")
        self.network = MaskedPatches(features) if self.masked else OrganClassifier(features, len(self.source.classes))
        self.players = (Player("vit", self.network, self._terms),)

    def batch(self, step: int, items: Sequence[int]) -> Any:
        """Sharp patches with their classes, or with what is hidden of them."""
        found = self.source.batch(step, items)
        return Masked(found.image, self._hidden([(self.recipe.seed, step, i) for i in items])) if self.masked else found

    def _hidden(self, seeds: Sequence[Sequence[int]]) -> Tensor:
        tokens = self.network.features.edge**2
        count = max(1, round(self.part.masked * tokens))
        order = np.stack([np.random.default_rng([*seed, 1]).permutation(tokens) for seed in seeds])
        return torch.from_numpy(order < count)

    def _terms(self, batch: Any, _step: int) -> dict[str, Tensor]:
        if self.masked:
            return {"hidden patches": self.network(batch.image, batch.hidden)}
        return {"cross entropy": F.cross_entropy(self.network(batch.image).float(), batch.label)}

    @torch.inference_mode()
    def score(self, network: Any, device: torch.device) -> Score:
        """On volumes held out."""
        images, labels = self.source.fixed.image.to(device), self.source.fixed.label.to(device)
        if self.masked:
            hidden = self._hidden([(0, i) for i in range(len(images))]).to(device)
            return Score(-10 * float(torch.log10(network(images, hidden) + 1e-12)))
        logits = network(images)
        # Equal accuracies are told apart by the likelihood.
        return Score(100 * float((logits.argmax(1) == labels).float().mean()) - 1e-3 * float(F.cross_entropy(logits, labels)))

    def result(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The transformer's state."""
        return {k.removeprefix("features."): v for k, v in weights.items() if k.startswith("features.")}


class Disentangling(_OnImages):
    """Encoder and decoder against a discriminator; texture is swapped with the next image of the batch."""

    option = "encoder_options"
    measure = "PSNR of reconstructions (dB)"

    def __init__(self, recipe: Recipe, part: DisentangleStage, _before: Mapping[str, Result]) -> None:
        super().__init__(recipe, part)
        self.network = DisentanglingAutoencoder(**self.options)
        self.discriminator = Discriminator(**part.discriminator)
        self.loss = AutoencoderLoss(part.lambda_adv, part.lambda_swap)
        self.judging = AutoencoderDiscriminatorLoss(r1=part.r1, r1_every=part.r1_every)
        self.players = (Player("discriminator", self.discriminator, self._judge), Player("autoencoder", self.network, self._terms))

    def _made(self, image: Tensor) -> tuple[Tensor, Tensor]:
        structure, texture = self.network.encode(image)
        both = self.network.decode(torch.cat([structure, structure]), torch.cat([texture, texture.roll(1, 0)]))
        reconstruction, swap = both.chunk(2)
        return reconstruction, swap

    def _judge(self, batch: Images, step: int) -> dict[str, Tensor]:
        with torch.no_grad():
            made = self._made(batch.image)
        real = resized(batch.image, made[0].shape[2:])
        penalised = bool(self.part.r1) and step % self.part.r1_every == 0
        if penalised:
            real = real.detach().requires_grad_()
        logits = [self.discriminator(image) for image in (real, *made)]
        return {"discriminator": self.judging(*logits, real if penalised else None)}

    def _terms(self, batch: Images, _step: int) -> dict[str, Tensor]:
        reconstruction, swap = self._made(batch.image)
        terms = self.loss.terms(batch.image, reconstruction, self.discriminator(reconstruction), self.discriminator(swap))
        weights = {"adversarial": self.part.lambda_adv, "swap": self.part.lambda_swap}
        return {name: weights.get(name, 1.0) * value for name, value in terms.items()}

    @torch.inference_mode()
    def score(self, network: Any, device: torch.device) -> Score:
        """How well images held out are put together again."""
        image = self.source.fixed.image.to(device)
        found = network(image)
        return Score(psnr(resized(image, found.shape[2:]).cpu().numpy(), found.float().cpu().numpy(), 1.0))

    def result(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The encoder's state."""
        return {k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")}


LAMBDAS = MappingProxyType(
    {"adversarial": "lambda_adv", "vit": "lambda_vit", "structure": "lambda_structure", "texture": "lambda_texture", "pixel": "lambda_pix"}
)
"""Names of the loss's weights in a recipe, and in :class:`FDViTLoss`."""


class FDViTSuperResolution(SuperResolution):
    """The generator under the frozen encoder and transformer, against a discriminator."""

    def take_over(self, before: Mapping[str, Result]) -> None:
        """Encoder and transformer go into the network, and with it into the model's file."""
        for part, stage in (("encoder", "disentangle"), ("vit", "vit")):
            module = getattr(self.network, part)
            if stage not in before:
                continue
            if module is None:
                raise InputError(f"The recipe has a stage {stage}, but network.options.with_{part} is off; switch it on.")
            module.load_state_dict(dict(before[stage].tensors))

    def make_players(self) -> tuple[Player, ...]:
        """Discriminator and generator."""
        part = self.recipe.loss
        unknown = sorted(part.weights.keys() - LAMBDAS.keys())
        if unknown:
            raise InputError(f"loss.weights: {unknown[0]} is no term of FD-ViT's loss; they are {', '.join(LAMBDAS)}.")
        off = {f"use_{name}": False for name in ("vit", "structure", "texture") if part.weights.get(name) == 0}
        weights = {LAMBDAS[name]: value for name, value in part.weights.items()}
        # The loss only refers to the two: they belong to the network, and would otherwise be trained and saved twice.
        self.loss = FDViTLoss(self.network.encoder, self.network.vit, **off, **weights)  # type: ignore[arg-type]
        self.adversarial = NonSaturatingLoss()
        self.discriminator = Discriminator(**part.discriminator)
        generator = Player("generator", self.network, self._terms)
        return (Player("discriminator", self.discriminator, self._judge), generator) if self.loss.weights["adversarial"] else (generator,)

    def _judge(self, pair: Pair, _step: int) -> dict[str, Tensor]:
        with torch.no_grad():
            sr = self.network(pair.lr, noise_level=pair.noise_level)
        return {"discriminator": self.adversarial.discriminator(self.discriminator(pair.hr), self.discriminator(sr))}

    def _terms(self, pair: Pair, _step: int) -> dict[str, Tensor]:
        sr = self.network(pair.lr, noise_level=pair.noise_level)
        logits = self.discriminator(sr) if self.loss.weights["adversarial"] else sr.new_zeros(len(sr), 1)
        terms = self.loss.terms(sr, pair.lr, logits, pair.hr)
        return {name: self.loss.weights[name] * value for name, value in terms.items() if self.loss.weights[name]}
