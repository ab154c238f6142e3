"""RCAN's channel attention and residual block in 3D, with the pooled statistics either global or local."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from napari_mrsr.networks.blocks.moments import at_least_float32


class ChannelAttention(nn.Module):
    """Gate each channel by a small network on its mean (RCAN; NETWORKS 1.2).

    Parameters
    ----------
    channels : int
    reduction : int
        The hidden layer has ``channels // reduction`` filters.

    Attributes
    ----------
    cell : int or None
        None pools over the whole input, as published. An integer n pools over about (3 n)^3 voxels around each voxel (cells of n voxels,
        3 x 3 x 3 of them, interpolated), which gives the mean a finite reach: tiles agree with the whole volume, and a network trained on
        patches keeps seeing the statistics of patches.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.gate = nn.Sequential(nn.Conv3d(channels, hidden, 1), nn.ReLU(), nn.Conv3d(hidden, channels, 1), nn.Sigmoid())
        self.cell: int | None = None

    def forward(self, x: Tensor, kept: list[Tensor] | None = None) -> Tensor:
        """Gated input, same shape (B, C, X, Y, Z); the gates (B, C), their mean over cells, are appended to `kept`."""
        if self.cell is None or max(x.shape[2:]) <= 3 * self.cell:
            gates: Tensor = self.gate(x.mean((2, 3, 4), keepdim=True))
            if kept is not None:
                kept.append(gates.flatten(1))
            return x * gates
        edges = [min(self.cell, n) for n in x.shape[2:]]
        # CPUs know no pooling in half precision.
        wide = at_least_float32(x)
        cells = F.avg_pool3d(wide, edges, ceil_mode=True, count_include_pad=False)
        gates = self.gate(_mean_of_neighbours(cells).to(x.dtype))
        if kept is not None:
            kept.append(gates.mean((2, 3, 4)))
        size = [n * edge for n, edge in zip(cells.shape[2:], edges, strict=True)]
        smooth = F.interpolate(gates, size=size, mode="trilinear", align_corners=False)
        return x * smooth[:, :, : x.shape[2], : x.shape[3], : x.shape[4]]


def _mean_of_neighbours(cells: Tensor) -> Tensor:
    """Mean over 3 x 3 x 3 cells, fewer at the border; axis by axis, because axes of one or two cells have no window of three."""
    for axis in (2, 3, 4):
        if cells.shape[axis] == 2:
            cells = cells.mean(axis, keepdim=True).expand_as(cells)
        elif cells.shape[axis] > 2:
            kernel, padding = [1, 1, 1], [0, 0, 0]
            kernel[axis - 2], padding[axis - 2] = 3, 1
            cells = F.avg_pool3d(cells, kernel, stride=1, padding=padding, count_include_pad=False)
    return cells


class RCAB(nn.Module):
    """Residual channel attention block: conv3, ReLU, conv3, channel attention, plus the input (RCAN)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        self.attention = ChannelAttention(channels, reduction)

    def forward(self, x: Tensor, kept: list[Tensor] | None = None) -> Tensor:
        """Same shape in and out, (B, C, X, Y, Z); `kept` as in :class:`ChannelAttention`."""
        y: Tensor = self.attention(self.conv2(F.relu(self.conv1(x))), kept)
        return x + y
