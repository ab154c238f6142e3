"""A small network whose reach and work are known, for tests of the engine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from napari_mrsr.networks.blocks.resample import voxel_shuffle

LAYERS = 3
FLOAT32 = 3e-6


class Layer(nn.Module):
    """One convolution; a class of its own so that tests can count, slow down or break it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, padding=1)

    def forward(self, x):
        return torch.tanh(self.conv(x))


class Convolutions(nn.Module):
    """Every output voxel depends on LAYERS LR voxels on each side, and, where `cell` is given, on cells anchored to its multiples."""

    def __init__(self, scale: int = 2, cell: int = 0, layers: int = LAYERS) -> None:
        super().__init__()
        self.scale, self.cell = scale, cell
        self.body = nn.Sequential(Layer(1, 4), *(Layer(4, 4) for _ in range(layers - 2)), nn.Conv3d(4, scale**3, 3, padding=1))

    def forward(self, lr, reference=None, noise_level=None):
        x = lr
        if self.cell:
            means = F.avg_pool3d(x, self.cell, ceil_mode=True, count_include_pad=False)
            x = x + F.interpolate(means, scale_factor=self.cell)[:, :, : x.shape[2], : x.shape[3], : x.shape[4]]
        return voxel_shuffle(self.body(x), self.scale)


def textured(make_volume, shape, voxel=(2, 2, 2), angles=(0, 0, 0), **changes):
    return make_volume(shape, voxel, angles, sigma=0.7, **changes)
