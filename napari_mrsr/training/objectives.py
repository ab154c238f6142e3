"""What a training step minimises: from a network and a batch to named losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from napari_mrsr.networks.losses import PIXEL_LOSSES
from napari_mrsr.training.data import Pair
from napari_mrsr.training.recipe import LossPart

Objective = Callable[[Any, Pair], dict[str, Tensor]]
"""``objective(model, pair)`` gives the terms to add up, by name."""


def make_objective(loss: LossPart) -> Objective:
    """Objective of a recipe's loss."""
    if loss.pixel == "mse-ssim-gradient":
        return _gradient_objective()
    pixel: nn.Module = PIXEL_LOSSES[loss.pixel]()

    def objective(model: Any, pair: Pair) -> dict[str, Tensor]:
        output = model(pair.lr, reference=pair.reference, noise_level=pair.noise_level)
        return {loss.pixel: pixel(output, pair.hr)}

    return objective


def _gradient_objective() -> Objective:
    """Cohf-T's loss on the image and on the gradient that its second branch predicts."""
    from napari_mrsr.networks.losses.gradient import CohfTLoss

    loss = CohfTLoss()

    def objective(model: Any, pair: Pair) -> dict[str, Tensor]:
        image, gradient = model.forward_with_gradient(pair.lr, reference=pair.reference, noise_level=pair.noise_level)
        return loss.terms(image, gradient, pair.hr)

    return objective
