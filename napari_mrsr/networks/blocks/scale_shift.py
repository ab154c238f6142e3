"""Parts of TransMRSR around its transformer: convolutional stages and the channel-wise scale and shift (CWSS)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_mrsr.networks.blocks.recording import wanted
from napari_mrsr.networks.blocks.style import EqualisedConv, ScaledLeakyReLU, to_image, to_tokens


class ConvolutionStage(nn.Module):
    """3 x 3 convolution, ReLU, and two residual blocks (convolution, ReLU, convolution, plus input); (B, C, H, W) to (B, C', H, W)."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features."""
        x = F.relu(self.conv(x))
        for block in self.blocks:
            x = x + block(x)
        return x


class ChannelwiseScaleShift(nn.Module):
    """CWSS: the encoder scales and shifts the decoder's map (TransMRSR, eq. 6 to 9).

    Parameters
    ----------
    resolution, stride : int
        Side of the map and output pixels per token.
    channels : int
    half : bool
        Change the first half of the channels only (eq. 8, 9), as released.
    """

    def __init__(self, resolution: int, stride: int, channels: int, half: bool) -> None:
        super().__init__()
        self.resolution, self.stride = resolution, stride
        self.changed = channels // 2 if half else channels
        self.scale, self.shift = (
            nn.Sequential(EqualisedConv(channels, channels), ScaledLeakyReLU(), EqualisedConv(channels, self.changed)) for _ in range(2)
        )

    def forward(self, x: Tensor, encoded: Tensor) -> Tensor:
        """Changed `x`; both (B, H, W, C)."""
        condition = to_image(encoded)
        scale, shift = self.scale(condition), self.shift(condition)
        for name, values in (("scale", scale), ("shift", shift)):
            if recorder := wanted(f"cwss-{name}-{self.resolution}"):
                recorder.keep(f"cwss-{name}-{self.resolution}", recorder.one_channel(values), self.stride)
        changed = torch.addcmul(to_tokens(shift), x[..., : self.changed], to_tokens(scale))
        return torch.cat([changed, x[..., self.changed :]], -1)
