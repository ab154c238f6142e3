"""Losses of the networks, as modules on (B, 1, X, Y, Z) tensors."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class CharbonnierLoss(nn.Module):
    """``mean sqrt((x - y)^2 + eps^2)``: a differentiable L1.

    Parameters
    ----------
    eps : float
        Width of the quadratic part, in units of the normalised image.
    """

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Scalar loss."""
        return torch.sqrt((output - target) ** 2 + self.eps**2).mean()


class ParameterNorm(nn.Module):
    """CFTN's regulariser ``lambda ||theta||_2``: the un-squared global L2 norm of all parameters (paper, section 2.4).

    Parameters
    ----------
    weight : float
        lambda, 1e-6 in the paper.
    """

    def __init__(self, weight: float = 1e-6) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, parameters: Iterable[Tensor]) -> Tensor:
        """Scalar penalty."""
        return self.weight * torch.sqrt(sum((p**2).sum() for p in parameters))  # type: ignore[arg-type]


PIXEL_LOSSES = {"l1": nn.L1Loss, "mse": nn.MSELoss, "charbonnier": CharbonnierLoss}
