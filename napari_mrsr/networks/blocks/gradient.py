"""Gradient magnitude of a slice, as Cohf-T and SPSR take it (NETWORKS 4.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_mrsr.networks.blocks.moments import at_least_float32

EPSILON = 1e-6


def gradient_magnitude(image: Tensor) -> Tensor:
    """``sqrt(gx^2 + gy^2 + 1e-6)`` with ``gx(i, j) = x(i, j + 1) - x(i, j - 1)`` and ``gy`` likewise down the rows.

    Zeros outside the image, no factor 1/2; :func:`napari_mrsr.evaluation.maps.cohft_gradient` is the same for arrays.

    Parameters
    ----------
    image : (..., H, W) tensor
        Any units.

    Returns
    -------
    (..., H, W) tensor
        Same units and type, at least 1e-3.
    """
    # Squares of small differences would vanish in half precision.
    padded = F.pad(at_least_float32(image), (1, 1, 1, 1))
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    return torch.sqrt(across**2 + down**2 + EPSILON).to(image.dtype)
