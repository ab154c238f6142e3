from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_mrsr.inference.receptive_field import effective_halo
from napari_mrsr.networks import Architecture
from napari_mrsr.networks.blocks.resample import voxel_shuffle


class Stack(nn.Module):
    def __init__(self, layers, dimension, scale=2, pooled=False):
        super().__init__()
        torch.manual_seed(0)
        self.scale, self.pooled, self.dimension = scale, pooled, dimension
        convolution = nn.Conv3d if dimension == 3 else nn.Conv2d
        last = scale**dimension
        self.body = nn.Sequential(*(convolution(1, 1, 3, padding=1) for _ in range(layers - 1)), convolution(1, last, 3, padding=1))
        for layer in self.body:
            nn.init.constant_(layer.weight, 1.0)

    def forward(self, lr, reference=None, noise_level=None):
        x = lr + lr.mean() if self.pooled else lr
        y = self.body(x)
        return voxel_shuffle(y, self.scale) if self.dimension == 3 else nn.functional.pixel_shuffle(y, self.scale)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("layers", [1, 3, 6])
def test_convolutions_reach_as_far_as_they_are_many(dimension, layers):
    architecture = Architecture("stack", "Stack", "", Stack, dimension=dimension)
    assert effective_halo(Stack(layers, dimension), architecture, tolerance=1e-9, size=32) == layers


def test_a_mean_over_everything_has_no_halo():
    architecture = Architecture("stack", "Stack", "", Stack, dimension=2)
    assert effective_halo(Stack(2, 2, pooled=True), architecture, tolerance=1e-9, size=32) is None
