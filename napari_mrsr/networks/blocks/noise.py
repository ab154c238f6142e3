"""The noise level as an extra input channel (EVALUATION 3.1): off in the papers' configurations."""

from __future__ import annotations

import torch
from torch import Tensor


def with_noise_level(x: Tensor, level: Tensor | float | None, gain: float) -> Tensor:
    """Append a constant channel that tells the noise level.

    Parameters
    ----------
    x : (B, C, ...) tensor
        Network input.
    level : tensor broadcastable to (B, 1, ...) or of shape (B,), float, or None
        Noise standard deviation in the units of `x`; None: 0.
    gain : float
        Brings usual levels to the magnitude of the image.

    Returns
    -------
    (B, C + 1, ...) tensor
    """
    value = torch.as_tensor(0.0 if level is None else level, dtype=x.dtype, device=x.device)
    if value.ndim == 1:
        value = value.view(-1, *(1,) * (x.ndim - 1))
    return torch.cat([x, (gain * value).expand_as(x[:, :1])], 1)
