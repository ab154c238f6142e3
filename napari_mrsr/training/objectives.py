"""What a training step minimises: from a network and a batch to named losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks.losses import PIXEL_LOSSES
from napari_mrsr.training.data import Pair
from napari_mrsr.training.recipe import LossPart

Objective = Callable[[Any, Pair], dict[str, Tensor]]
"""``objective(model, pair)`` gives the terms to add up, by name."""


def make_objective(loss: LossPart) -> Objective:
    """Objective of a recipe's loss.

    Raises
    ------
    InputError
        If a weight or a file it names does not fit.
    """
    if loss.kind == "transmrsr":
        return _perceptual_objective(loss)
    if loss.pixel.endswith("-gradient"):
        return _gradient_objective(loss.pixel)
    pixel: nn.Module = PIXEL_LOSSES[loss.pixel]()

    def objective(model: Any, pair: Pair) -> dict[str, Tensor]:
        output = model(pair.lr, reference=pair.reference, noise_level=pair.noise_level)
        return {loss.pixel: pixel(output, pair.hr)}

    return objective


def _perceptual_objective(loss: LossPart) -> Objective:
    """TransMRSR's loss; without VGG19's file its first term alone."""
    from napari_mrsr.networks.losses.perceptual import TransMRSRLoss
    from napari_mrsr.networks.losses.vgg import as_vgg_input

    weights = {"l1": 1.0, "content": 0.5, "style": 0.5}
    if unknown := sorted(loss.weights.keys() - weights.keys()):
        raise InputError(f"loss.weights: {unknown[0]} is no term of TransMRSR's loss; they are {', '.join(weights)}.")
    weights |= loss.weights
    module = TransMRSRLoss(weights=tuple(weights.values()), vgg=loss.vgg, use_vgg=loss.vgg is not None)

    def objective(model: Any, pair: Pair) -> dict[str, Tensor]:
        output = model(pair.lr, reference=pair.reference, noise_level=pair.noise_level)
        if loss.vgg is None:
            return module.terms(output, pair.hr)
        return module.to(output.device).terms(as_vgg_input(output), as_vgg_input(pair.hr))

    return objective


def _gradient_objective(name: str) -> Objective:
    """Cohf-T's loss, or another pixel loss in its place, on the image and on the gradient that its second branch predicts."""
    from napari_mrsr.networks.losses.gradient import CohfTLoss

    pixel = None if name == "mse-ssim-gradient" else PIXEL_LOSSES[name.removesuffix("-gradient")]()
    loss = CohfTLoss(pixel=pixel)

    def objective(model: Any, pair: Pair) -> dict[str, Tensor]:
        image, gradient = model.forward_with_gradient(pair.lr, reference=pair.reference, noise_level=pair.noise_level)
        return loss.to(pair.hr.device).terms(image, gradient, pair.hr)

    return objective
