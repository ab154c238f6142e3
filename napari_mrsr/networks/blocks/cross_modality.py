"""Blocks that join a slice's gradient features with a reference's: Cohf-T's attention block and its convolutional stand-in (NETWORKS 4.5, 4.6)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_mrsr.networks.blocks.head_correlation_attention import HeadCorrelationAttention, ResidualMLP
from napari_mrsr.networks.blocks.moments import centred

EPSILON = 1e-5
"""Added to variances in the adaptive instance normalisation."""


INTER_MODALITY_GAIN = 0.3
"""Loudness of the reference's patches where a block starts quietly: normalised, they are far louder than the features they join."""


def conv3(channels_in: int, channels_out: int) -> nn.Conv2d:
    """3 x 3 convolution that keeps the size."""
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


@torch.no_grad()
def zero(layer: Any) -> None:
    """Let a convolution start silent."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


class AdaptIN(nn.Module):
    """Point-wise adaptive instance normalisation: reference features with the statistics of the low resolution's (eq. 6, 7; figure 5).

    ``O = (X2 - mu2) / sigma2 * (sigma1 + gamma) + mu1 + beta``: means and standard deviations per channel over the image (population
    variance plus 1e-5), gamma and beta one value per fine pixel. Their convolutions start at zero.

    Parameters
    ----------
    channels : int
        d.
    scale : int
        r: pixels of X2 per pixel of X1.
    """

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.align = conv3(channels, channels * scale**2)
        self.mix = conv3(2 * channels, channels)
        self.beta = conv3(channels, 1)
        self.gamma = conv3(channels, 1)
        zero(self.beta)
        zero(self.gamma)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """(B, d, h, w) and (B, d, rh, rw) to (B, d, rh, rw)."""
        aligned = F.pixel_shuffle(self.align(x1), self.scale)
        mixed = self.mix(torch.cat([x2, aligned], 1))
        (_, mean_1, variance_1), (deviation, _, variance_2) = centred(x1, (2, 3)), centred(x2, (2, 3))
        sd_1, sd_2 = (torch.sqrt(variance + EPSILON) for variance in (variance_1, variance_2))
        adapted: Tensor = deviation / sd_2 * (sd_1 + self.gamma(mixed)) + mean_1 + self.beta(mixed)
        return adapted.to(x2.dtype)


class CohfTBlock(nn.Module):
    """P_i = Cohf-T(S_i, C): short-distance, long-distance and inter-modality attention, each followed by a residual MLP (figure 2).

    Parameters
    ----------
    channels, scale, heads : int
        d, r, M.
    window, patch : int
        g of the windows; p of the inter-modality tokens.
    mlp_expansion : int
        Hidden channels of the MLPs per channel.
    short, long, inter_modality : bool
        Which attentions there are, with their MLPs.
    inter_head : bool
        Inter-head correlation in all of them.
    distance_penalty : bool
        Whether the inter-modality attention prefers near patches.
    adaptive_in : bool
        False attends to the reference's features as they are.
    stage : int
        i, in the names of maps.
    """

    def __init__(
        self,
        channels: int,
        scale: int,
        heads: int,
        window: int,
        patch: int,
        mlp_expansion: int,
        short: bool,
        long: bool,
        inter_modality: bool,
        inter_head: bool,
        distance_penalty: bool,
        adaptive_in: bool,
        stage: int,
    ) -> None:
        super().__init__()

        def attention(name: str, **options: Any) -> HeadCorrelationAttention:
            return HeadCorrelationAttention(channels, heads, inter_head=inter_head, name=f"{name}-attention-{stage}", stride=scale, **options)

        def mlp() -> ResidualMLP:
            return ResidualMLP(channels, mlp_expansion)

        self.short = nn.Sequential(attention("short", window=window), mlp()) if short else None
        self.long = nn.Sequential(attention("long", window=window, dilated=True), mlp()) if long else None
        self.adapt = AdaptIN(channels, scale) if inter_modality and adaptive_in else None
        self.inter = attention("inter-modality", patch=patch, ratio=scale, distance_penalty=distance_penalty) if inter_modality else None
        self.mlp = mlp() if inter_modality else None

    def reset(self) -> None:
        """Start with silent windows and a quiet copy of the reference's patches."""
        for part in (*(self.short or ()), *(self.long or ())):
            part.reset(0.0)
        if self.inter is not None and self.mlp is not None:
            self.inter.reset(INTER_MODALITY_GAIN)
            self.mlp.reset(INTER_MODALITY_GAIN)

    def forward(self, structure: Tensor, context: Tensor | None) -> Tensor:
        """(B, d, h, w) and (B, d, rh, rw), or None where there is no inter-modality attention, to (B, d, h, w)."""
        x = structure
        if self.short is not None:
            x = self.short(x)
        if self.long is not None:
            x = self.long(x)
        if self.inter is not None and self.mlp is not None:
            x = self.mlp(self.inter(x, context if self.adapt is None else self.adapt(x, context)))
        return x


class ResidualBlocks(nn.Sequential):
    """Blocks ``x + conv3(ReLU(conv3(x)))`` in sequence, (B, C, H, W) to the same."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__(*(nn.Sequential(conv3(channels, channels), nn.ReLU(), conv3(channels, channels)) for _ in range(count)))

    def forward(self, input: Tensor) -> Tensor:
        """Refined features."""
        for block in self:
            input = input + block(input)
        return input


class CNNBlock(nn.Module):
    """What table 3 calls CNN-RB: residual blocks in the place of each attention.

    The paper does not describe them. Here `count` residual blocks follow one another per removed attention; the reference's features
    come in by a convolution of kernel and stride r and one over both.

    Parameters
    ----------
    channels, scale : int
        d, r.
    count : int
        Residual blocks per attention.
    short, long, inter_modality : bool
        Which attentions they replace.
    """

    def __init__(self, channels: int, scale: int, count: int, short: bool, long: bool, inter_modality: bool) -> None:
        super().__init__()
        self.intra = ResidualBlocks(channels, count * (short + long))
        self.down = nn.Conv2d(channels, channels, scale, stride=scale) if inter_modality else None
        self.fuse = conv3(2 * channels, channels) if inter_modality else None
        self.inter = ResidualBlocks(channels, count) if inter_modality else None

    def forward(self, structure: Tensor, context: Tensor | None) -> Tensor:
        """As :meth:`CohfTBlock.forward`."""
        x: Tensor = self.intra(structure)
        if self.down is not None and self.fuse is not None and self.inter is not None:
            x = self.inter(self.fuse(torch.cat([x, self.down(context)], 1)))
        return x
