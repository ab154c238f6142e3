"""Statistics of maps, per item and channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x`, half-precision types widened."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def centred(x: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """A map without its mean, the mean, and the variance.

    In two passes, which is several times faster on a CPU than torch's own single one, and as exact.

    Parameters
    ----------
    x : tensor
    axes : sequence of int
        Axes of the pixels.

    Returns
    -------
    centred, mean, variance : tensors
        In at least float32. Mean and variance (of the pixels themselves, divided by their number) keep the axes with length 1.
    """
    wide = at_least_float32(x)
    mean = wide.mean(tuple(axes), keepdim=True)
    deviation = wide - mean
    return deviation, mean, deviation.square().mean(tuple(axes), keepdim=True)
