"""StyleSwin's discriminator: sees the image as Haar wavelets, at every resolution, and answers with one number per image."""

from __future__ import annotations

import itertools
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as normalised

from napari_mrsr.networks.blocks.style import EqualisedConv, EqualisedLinear, ScaledLeakyReLU, fir_filter
from napari_mrsr.networks.styleswin import Channels, channel_widths

GROUP = 4
"""Images whose spread is compared (fewer where the batch is no multiple)."""


def haar(x: Tensor) -> Tensor:
    """Orthonormal Haar wavelets, (B, C, H, W) to (B, 4C, H/2, W/2): mean, top minus bottom, left minus right, diagonal."""
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    return torch.cat([a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d], 1) / 2


def batch_spread(x: Tensor) -> Tensor:
    """Append how much the images of a group differ (mean standard deviation over all features); (B, C, H, W) to (B, C + 1, H, W)."""
    b, channels, height, width = x.shape
    group = next(n for n in range(min(GROUP, b), 0, -1) if b % n == 0)
    spread = (x.reshape(group, -1, channels, height, width).var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    return torch.cat([x, spread.repeat(group).view(b, 1, 1, 1).expand(-1, -1, height, width)], 1)


class _Blur(nn.Module):
    """The FIR filter before a 3 x 3 convolution of stride 2."""

    def forward(self, x: Tensor) -> Tensor:
        return fir_filter(x, padding=2)


def _conv(inputs: int, outputs: int, kernel: int, spectral: bool, half: bool = False) -> nn.Sequential:
    stride, padding = (2, 0) if half else (1, kernel // 2)
    if spectral:
        conv: nn.Module = normalised(nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False))
    else:
        conv = EqualisedConv(inputs, outputs, kernel, stride, padding, bias=False)
    return nn.Sequential(*([_Blur()] if half else []), conv, ScaledLeakyReLU(outputs))


class WaveletDiscriminator(nn.Module):
    """Discriminator of stage 1: 26,211,585 parameters at size 256 with spectral norm.

    Parameters
    ----------
    size : int
        Image side, a power of two from 32 on.
    channel_multiplier, width_divisor, channels
        Widths (:func:`~napari_mrsr.networks.styleswin.channel_widths`); the published multiplier is 2.
    spectral_norm : bool
        Plain layers of unit spectral norm, as trained in public; False: equalised layers.

    Raises
    ------
    InputError
        If sizes and widths do not fit together.
    """

    def __init__(
        self,
        size: int = 256,
        channel_multiplier: int = 2,
        width_divisor: int = 1,
        channels: Channels | None = None,
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        widths = channel_widths(size, channel_multiplier, width_divisor, channels)
        self.size = size
        # With i = log2(size) - 1 down to 3, a block brings 2^i to 2^(i-1) pixels, and its output has the width named after 2^(i-1).
        inner = [widths[size], *(widths[r] for r in sorted(widths, reverse=True) if r < size // 2)]
        self.from_rgb = nn.ModuleList(_conv(12, n, 1, spectral_norm) for n in [*inner[:-1], widths[4]])
        self.blocks = nn.ModuleList(
            nn.Sequential(_conv(a, a, 3, spectral_norm), _conv(a, b, 3, spectral_norm, half=True)) for a, b in itertools.pairwise(inner)
        )
        self.final = _conv(inner[-1] + 1, widths[4], 3, spectral_norm)
        flat, hidden = 16 * widths[4], widths[4]
        if spectral_norm:
            layers = [normalised(nn.Linear(flat, hidden)), ScaledLeakyReLU(hidden), normalised(nn.Linear(hidden, 1))]
        else:
            layers = [EqualisedLinear(flat, hidden, activation=True), EqualisedLinear(hidden, 1)]
        self.score = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Score images.

        Parameters
        ----------
        image : (B, 3, size, size) tensor
            In ImageNet's normalised units.

        Returns
        -------
        (B, 1) tensor
            Larger where it looks like a training image.
        """
        x = self.from_rgb[0](haar(image))
        for head, block in zip(list(self.from_rgb)[1:], self.blocks, strict=True):
            image = fir_filter(image, padding=1, stride=2)
            x = block(x) + head(haar(image))
        return cast(Tensor, self.score(self.final(batch_spread(x)).flatten(1)))
