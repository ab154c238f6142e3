"""The swapping autoencoder of FD-ViT: an image becomes a structure code with places and a texture code without (NETWORKS 2.3).

Reads top to bottom as the paper's figure 1 (b): encoder E, decoder G, autoencoder. Choices the paper leaves open are constructor options.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_mrsr.errors import InputError

WIDTHS = (64, 64, 32, 32)
"""Filters of the encoder's four blocks (paper, section 4.1)."""
REDUCTION = 16
"""Four poolings."""
STRUCTURE_STRIDE = 4
"""Image pixels per pixel of the structure code: 64 x 64 for an image of 256 x 256."""
_DEEP_CHANNELS = (REDUCTION // STRUCTURE_STRIDE) ** 2

Structure = Literal["shallow", "deep"]
Texture = Literal["pooled", "spatial"]
Injection = Literal["bottom", "modulation"]


def resized(image: Tensor, size: int | Sequence[int]) -> Tensor:
    """Bicubic resampling (a = -0.5, antialiased where it reduces, edges aligned); untouched where the size is right.

    Parameters
    ----------
    image : (B, C, h, w) tensor
    size : int or (int, int)
        New height and width.

    Returns
    -------
    (B, C, H, W) tensor
    """
    target = [size, size] if isinstance(size, int) else list(size)
    if list(image.shape[2:]) == target:
        return image
    wide = image if image.dtype == torch.float64 else image.float()
    return F.interpolate(wide, target, mode="bicubic", antialias=True).to(image.dtype)


def _check(size: int, widths: Sequence[int], **options: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, choices) in options.items():
        if value not in choices:
            raise InputError(f"Disentangling autoencoder: {name} is {' or '.join(map(repr, choices))}, not {value!r}.")
    if size < REDUCTION or size % REDUCTION:
        raise InputError(f"Disentangling autoencoder: the image size must be a multiple of {REDUCTION}, not {size}.")
    if len(widths) != 4:
        raise InputError(f"Disentangling autoencoder: give the widths of its four blocks, not {len(widths)}.")


class DisentanglingEncoder(nn.Module):
    """E: four blocks of convolution 3x3, ReLU and max pooling, with two codes tapped off.

    Parameters
    ----------
    size : int
        Edge of the image it works on, 256; other images are resampled (:func:`resized`).
    widths : sequence of four int
        Filters of the blocks.
    texture_size : int
        Length of the texture code, 256.
    structure : {"shallow", "deep"}
        ``shallow``: pointwise convolution of the features after the second pooling, which are 64 x 64. ``deep``: 16 channels at 16 x 16
        from the last features, rearranged to 64 x 64. The paper gives the size only.
    texture : {"pooled", "spatial"}
        ``pooled``: global mean of the last features, then a linear layer. ``spatial``: pointwise convolution of the last features to one
        channel, flattened; its 16 x 16 = 256 values keep where things are.

    Raises
    ------
    InputError
        If an option is unknown or the sizes do not fit.
    """

    def __init__(
        self,
        size: int = 256,
        widths: Sequence[int] = WIDTHS,
        texture_size: int = 256,
        structure: Structure = "shallow",
        texture: Texture = "pooled",
    ) -> None:
        super().__init__()
        _check(size, widths, structure=(structure, ("shallow", "deep")), texture=(texture, ("pooled", "spatial")))
        if texture == "spatial" and texture_size != (size // REDUCTION) ** 2:
            raise InputError(f"Disentangling autoencoder: a 'spatial' texture code of {size} x {size} pixels has {(size // REDUCTION) ** 2} values.")
        self.size, self.structure, self.texture = size, structure, texture
        self.blocks = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip((1, *widths), widths, strict=False))
        self.to_structure = nn.Conv2d(widths[1], 1, 1) if structure == "shallow" else nn.Conv2d(widths[3], _DEEP_CHANNELS, 1)
        self.to_texture: nn.Module = nn.Linear(widths[3], texture_size) if texture == "pooled" else nn.Conv2d(widths[3], 1, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Structure (B, 1, S/4, S/4) and texture (B, T) codes, S the `size`, of images (B, 1, H, W) of any size."""
        x = resized(image, self.size)
        code: Tensor | None = None
        for index, block in enumerate(self.blocks, start=1):
            x = F.max_pool2d(F.relu(block(x)), 2)
            if index == 2 and self.structure == "shallow":
                code = self.to_structure(x)
        if code is None:
            code = F.pixel_shuffle(self.to_structure(x), REDUCTION // STRUCTURE_STRIDE)
        texture = self.to_texture(x.mean((2, 3))) if self.texture == "pooled" else self.to_texture(x).flatten(1)
        return code, texture


class _Stage(nn.Module):
    """Convolution 3x3 and ReLU; with a texture code, scale and bias per channel in between."""

    def __init__(self, before: int, after: int, texture_size: int | None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, padding=1)
        self.style = None if texture_size is None else nn.Linear(texture_size, 2 * after)

    def forward(self, x: Tensor, texture: Tensor) -> Tensor:
        x = self.conv(x)
        if self.style is not None:
            scale, bias = self.style(texture)[:, :, None, None].chunk(2, 1)
            x = x * (1 + scale) + bias
        return F.relu(x)


class DisentanglingDecoder(nn.Module):
    """G: the encoder mirrored, with nearest-neighbour upsampling; the output is not bounded.

    Parameters
    ----------
    size, widths, texture_size, structure
        As in :class:`DisentanglingEncoder`.
    injection : {"bottom", "modulation"}
        ``bottom``: a linear layer makes the lowest map of the texture code. ``modulation``: the lowest map is made of the structure code,
        and the texture code scales and shifts the channels of every stage, as in the swapping autoencoder that the paper follows.

    Raises
    ------
    InputError
        If an option is unknown or the sizes do not fit.
    """

    def __init__(
        self,
        size: int = 256,
        widths: Sequence[int] = WIDTHS,
        texture_size: int = 256,
        structure: Structure = "shallow",
        injection: Injection = "bottom",
    ) -> None:
        super().__init__()
        _check(size, widths, structure=(structure, ("shallow", "deep")), injection=(injection, ("bottom", "modulation")))
        self.size, self.edge, self.shallow = size, size // REDUCTION, structure == "shallow"
        low, *_, high = reversed(widths)
        self.low = low
        self.fill = nn.Linear(texture_size, low * self.edge**2) if injection == "bottom" else None
        self.deep = structure == "deep" or self.fill is None
        first = (low if self.fill is not None else 0) + (_DEEP_CHANNELS if self.deep else 0)
        style = texture_size if injection == "modulation" else None
        entries = (first, low, widths[2] + int(self.shallow), widths[1])
        self.stages = nn.ModuleList(_Stage(a, b, style) for a, b in zip(entries, reversed(widths), strict=True))
        self.out = nn.Conv2d(high, 1, 3, padding=1)

    def forward(self, structure: Tensor, texture: Tensor) -> Tensor:
        """Images (B, 1, S, S) of structure (B, 1, S/4, S/4) and texture (B, T) codes."""
        lowest: list[Tensor] = []
        if self.fill is not None:
            lowest.append(self.fill(texture).view(-1, self.low, self.edge, self.edge))
        if self.deep:
            lowest.append(F.pixel_unshuffle(structure, REDUCTION // STRUCTURE_STRIDE))
        x = torch.cat(lowest, 1)
        for index, stage in enumerate(self.stages):
            if index == 2 and self.shallow:
                x = torch.cat([x, structure], 1)
            x = F.interpolate(stage(x, texture), scale_factor=2, mode="nearest")
        image: Tensor = self.out(x)
        return image


class DisentanglingAutoencoder(nn.Module):
    """E and G; the recommended reading of the paper is the default (NETWORKS 2.3, variant i).

    Parameters
    ----------
    size, widths, texture_size, structure, texture
        See :class:`DisentanglingEncoder`.
    injection
        See :class:`DisentanglingDecoder`.
    """

    def __init__(
        self,
        size: int = 256,
        widths: Sequence[int] = WIDTHS,
        texture_size: int = 256,
        structure: Structure = "shallow",
        texture: Texture = "pooled",
        injection: Injection = "bottom",
    ) -> None:
        super().__init__()
        self.encoder = DisentanglingEncoder(size, widths, texture_size, structure, texture)
        self.decoder = DisentanglingDecoder(size, widths, texture_size, structure, injection)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Structure (B, 1, S/4, S/4) and texture (B, T) codes of images (B, 1, H, W)."""
        codes: tuple[Tensor, Tensor] = self.encoder(image)
        return codes

    def decode(self, structure: Tensor, texture: Tensor) -> Tensor:
        """Images (B, 1, S, S) of a structure and a texture code."""
        image: Tensor = self.decoder(structure, texture)
        return image

    def swap(self, first: Tensor, second: Tensor) -> Tensor:
        """Images (B, 1, S, S) with the structure of `first` and the texture of `second` (eq. 5; the paper's eq. 12 has them the other way)."""
        return self.decode(self.encode(first)[0], self.encode(second)[1])

    def forward(self, image: Tensor) -> Tensor:
        """``G(E(x))``, (B, 1, S, S); compare it with ``resized(x, S)``."""
        return self.decode(*self.encode(image))
