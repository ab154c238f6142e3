"""Layers of style-based generators: equalised weights, adaptive instance norm, position codes, the FIR filter between resolutions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_mrsr.networks.blocks.moments import at_least_float32, centred

SLOPE = 0.2
"""Of every leaky ReLU in the generator and its discriminator."""

_TAPS = (1.0, 3.0, 3.0, 1.0)


def to_tokens(image: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H, W, C), a view."""
    return image.permute(0, 2, 3, 1)


def to_image(tokens: Tensor) -> Tensor:
    """(B, H, W, C) to (B, C, H, W), a view (channels last in memory)."""
    return tokens.permute(0, 3, 1, 2)


def scaled_leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2 times sqrt(2), which keeps the variance of its input."""
    return F.leaky_relu(x, SLOPE) * math.sqrt(2)


class ScaledLeakyReLU(nn.Module):
    """:func:`scaled_leaky_relu`, after adding a learned bias per channel where `channels` is given; (B, C, ...) to the same."""

    def __init__(self, channels: int | None = None) -> None:
        super().__init__()
        self.bias = None if channels is None else nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Activated input."""
        if self.bias is not None:
            x = x + self.bias.view(-1, *[1] * (x.ndim - 2))
        return scaled_leaky_relu(x)


class PixelNorm(nn.Module):
    """``x / sqrt(mean(x^2) + 1e-8)`` over the channels; (B, C) to the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Code of unit mean square."""
        wide = at_least_float32(x)
        return (wide * torch.rsqrt(wide.square().mean(1, keepdim=True) + 1e-8)).to(x.dtype)


class EqualisedLinear(nn.Module):
    """Linear layer whose weights are stored with unit variance and scaled at use, so that all layers learn at one speed.

    ``y = rate * (W x / sqrt(inputs) + b)``, W from N(0, 1) / rate, b zero.

    Parameters
    ----------
    inputs, outputs : int
    rate : float
        Learning rate relative to other layers (0.01 in the mapping network).
    activation : bool
        Follow with :func:`scaled_leaky_relu`.
    """

    def __init__(self, inputs: int, outputs: int, rate: float = 1.0, activation: bool = False) -> None:
        super().__init__()
        self.rate, self.activation, self.gain = rate, activation, inputs**-0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.normal_(self.weight, std=1 / rate)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        # The rate comes last: 0.01 / sqrt(8192) before the product would be next to nothing in half precision.
        y = self.rate * F.linear(x * self.gain, self.weight, self.bias)
        return scaled_leaky_relu(y) if self.activation else y


class EqualisedConv(nn.Module):
    """2D convolution ``W * x / sqrt(inputs k^2) + b``, W from N(0, 1), b zero.

    Parameters
    ----------
    inputs, outputs, kernel : int
    stride : int
    padding : int or None
        None: half the kernel.
    bias : bool
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: int | None = None, bias: bool = True) -> None:
        super().__init__()
        self.stride, self.padding = stride, kernel // 2 if padding is None else padding
        self.gain = (inputs * kernel**2) ** -0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H', W')."""
        return F.conv2d(x * self.gain, self.weight, self.bias, self.stride, self.padding)


class AdaIN(nn.Module):
    """Adaptive instance norm: each channel of each map to zero mean and unit variance, then scaled and shifted by the style.

    Parameters
    ----------
    channels, style_dim : int
    """

    eps = 1e-5

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.style = EqualisedLinear(style_dim, 2 * channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, H, W, C) and (B, style_dim) to (B, H, W, C)."""
        gamma, beta = at_least_float32(self.style(style))[:, None, None].chunk(2, -1)
        deviation, _, variance = centred(x, (1, 2))
        return torch.addcmul(beta, deviation, gamma * torch.rsqrt(variance + self.eps)).to(x.dtype)


def axis_code(length: int, width: int) -> Tensor:
    """Sinusoidal code of positions 1 to `length`: `width` / 2 sines, then as many cosines, wavelengths 2 pi to 20,000 pi; (length, width)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) / max(half - 1, 1) * torch.arange(half, dtype=torch.float64))
    angles = torch.arange(1, length + 1, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1).to(torch.get_default_dtype())


def position_code(axis: Tensor) -> Tensor:
    """Code of a square map from the code of one axis: column code, then row code; (n, C / 2) to (n, n, C)."""
    n = len(axis)
    return torch.cat([axis.expand(n, n, -1), axis[:, None].expand(n, n, -1)], -1)


def _kernel(x: Tensor, gain: float) -> Tensor:
    taps = x.new_tensor(_TAPS)
    return (gain * taps[:, None] * taps / taps.sum() ** 2).expand(x.shape[1], 1, 4, 4)


def fir_upsample(x: Tensor) -> Tensor:
    """Twice the size through the [1, 3, 3, 1] filter, zeros beyond the border; (B, C, H, W) to (B, C, 2H, 2W)."""
    return F.conv_transpose2d(x, _kernel(x, 4.0), stride=2, padding=1, groups=x.shape[1])


def fir_filter(x: Tensor, padding: int, stride: int = 1) -> Tensor:
    """The [1, 3, 3, 1] filter of sum one with zero `padding`, every `stride`-th sample kept."""
    return F.conv2d(x, _kernel(x, 1.0), stride=stride, padding=padding, groups=x.shape[1])
