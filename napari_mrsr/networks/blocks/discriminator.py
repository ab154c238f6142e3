"""SRGAN's discriminator, used by FD-ViT's super-resolution network and by its disentangling autoencoder (NETWORKS 2.5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from napari_mrsr.errors import InputError

WIDTHS = (64, 64, 128, 128, 256, 256, 512, 512)
"""Filters of the eight convolutions; every second one halves the image."""


class Discriminator(nn.Module):
    """Tells real images from generated ones: convolutions 3x3 of alternating stride 1 and 2, then two dense layers.

    The output is a logit, the paper's D(x) before its sigmoid, because log D(x) of a sigmoid loses its gradient where D is sure;
    :meth:`probability` gives D(x) itself.

    Parameters
    ----------
    widths : sequence of int
        Filters of the convolutions.
    hidden : int
        Units of the first dense layer.
    slope : float
        Of the LeakyReLUs.
    batch_norm : bool
        Batch normalisation after all convolutions but the first.
    pool : {"average", "flatten"}
        Global average pooling before the dense layers, so that images of any size fit, or SRGAN's flattening, for images of one `size`.
    size : int or None
        Edge of the images, only for ``flatten``.

    Raises
    ------
    InputError
        If `pool` is unknown or ``flatten`` has no `size`.
    """

    def __init__(
        self,
        widths: Sequence[int] = WIDTHS,
        hidden: int = 1024,
        slope: float = 0.2,
        batch_norm: bool = True,
        pool: Literal["average", "flatten"] = "average",
        size: int | None = None,
    ) -> None:
        super().__init__()
        if pool not in ("average", "flatten"):
            raise InputError(f"Discriminator: pool is 'average' or 'flatten', not {pool!r}.")
        if pool == "flatten" and size is None:
            raise InputError("Discriminator: pool 'flatten' needs the size of the images, for example size=256; 'average' takes any.")
        self.pool, self.size = pool, size
        layers: list[nn.Module] = []
        for index, (before, width) in enumerate(zip((1, *widths), widths, strict=False)):
            normed = batch_norm and index > 0
            # A bias right before batch normalisation is subtracted again.
            layers.append(nn.Conv2d(before, width, 3, stride=1 + index % 2, padding=1, bias=not normed))
            if normed:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.LeakyReLU(slope, inplace=True))
        self.features = nn.Sequential(*layers)
        edge = 1 if size is None or pool == "average" else math.ceil(size / 2 ** (len(widths) // 2))
        self.dense = nn.Sequential(nn.Linear(widths[-1] * edge**2, hidden), nn.LeakyReLU(slope, inplace=True), nn.Linear(hidden, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, 1) of images (B, 1, H, W); above 0 for "real".

        Raises
        ------
        InputError
            If the images are not of the `size` that ``flatten`` was built for.
        """
        if self.pool == "flatten" and tuple(image.shape[2:]) != (self.size, self.size):
            found = "x".join(map(str, image.shape[2:]))
            raise InputError(f"Discriminator: built for images of {self.size}x{self.size}, not {found}; use pool 'average' for other sizes.")
        x = self.features(image)
        logits: Tensor = self.dense(x.mean((2, 3)) if self.pool == "average" else x.flatten(1))
        return logits

    def probability(self, image: Tensor) -> Tensor:
        """The paper's D(x): probability (B, 1) that an image is real."""
        return torch.sigmoid(self(image))
