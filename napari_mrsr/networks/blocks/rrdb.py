"""Residual-in-residual dense block of ESRGAN (NETWORKS 4.2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RESIDUAL_GAIN = 0.2
"""Both the dense block's and the RRDB's residual are scaled by this."""

SLOPE = 0.2
"""Of the LeakyReLUs."""


class DenseBlock(nn.Module):
    """3 x 3 convolutions that each see the input and all earlier outputs; ``x + 0.2 conv_n``.

    Parameters
    ----------
    channels : int
        C, of input and output.
    growth : int
        Channels that each convolution but the last adds, followed by LeakyReLU(0.2).
    convolutions : int
        n, at least 1: 5 in ESRGAN.
    """

    def __init__(self, channels: int, growth: int = 32, convolutions: int = 5) -> None:
        super().__init__()
        widths = [channels + k * growth for k in range(convolutions)]
        outputs = [growth] * (convolutions - 1) + [channels]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths, outputs, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        known = x
        for convolution in self.convolutions[:-1]:
            known = torch.cat([known, F.leaky_relu(convolution(known), SLOPE, inplace=True)], 1)
        y: Tensor = self.convolutions[-1](known)
        return x + RESIDUAL_GAIN * y


class RRDB(nn.Module):
    """Dense blocks in sequence, ``x + 0.2 (...)``: the last one's output is scaled and added to the input.

    Parameters
    ----------
    channels, growth, convolutions : int
        See :class:`DenseBlock`.
    blocks : int
        Dense blocks: 3 in ESRGAN.
    """

    def __init__(self, channels: int, growth: int = 32, blocks: int = 3, convolutions: int = 5) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(channels, growth, convolutions) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        y: Tensor = self.blocks(x)
        return x + RESIDUAL_GAIN * y

    def reset(self) -> None:
        """ESRGAN's start: Kaiming normal weights times 0.1, zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1 * math.sqrt(2 / (9 * module.in_channels)))
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
