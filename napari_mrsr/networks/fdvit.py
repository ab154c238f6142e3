"""FD-ViT (Mahapatra and Ge): MR super-resolution by feature-disentanglement CNNs and vision transformers.

Reads top to bottom as the paper's figure 6 (a): residual block, upsampling stage, generator; then the composite that keeps the two trained
feature extractors beside it. Training needs these (:class:`~napari_mrsr.networks.losses.disentangling.FDViTLoss`), inference runs the
generator alone. Choices the paper leaves open are constructor options.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks.architecture import Architecture, MapInfo
from napari_mrsr.networks.blocks.noise import with_noise_level
from napari_mrsr.networks.blocks.recording import wanted
from napari_mrsr.networks.blocks.resample import cubic_upsample
from napari_mrsr.networks.disentangling import DisentanglingEncoder
from napari_mrsr.networks.vit_features import ROLLOUT, ViTFeatures, attention_map

PAPER = "MR Image Super Resolution By Combining Feature Disentanglement CNNs and Vision Transformers"
NOISE_GAIN = 20.0
"""Brings noise levels of some percent of the range to the magnitude of the image itself."""

STAGES: Mapping[int, tuple[int, ...]] = MappingProxyType({2: (2,), 3: (3,), 4: (2, 2)})
"""Upsampling stages per factor; the paper has stages of 2 only, and no factor 3."""

ABLATIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tex+ViT": MappingProxyType({"use_structure": False}),
        "str+ViT": MappingProxyType({"use_texture": False}),
        "ViT only": MappingProxyType({"use_structure": False, "use_texture": False}),
        "tex+str": MappingProxyType({"use_vit": False}),
    }
)
"""Ablations of tables 1 and 2. They concern training: options of :class:`~napari_mrsr.networks.losses.disentangling.FDViTLoss`."""

STRUCTURE_WINDOW = 5
"""Edge of the neighbourhood, in pixels of the structure code, that ``structure-distance`` compares."""


def _normed(channels: int, batch_norm: bool) -> list[nn.Module]:
    """Convolution 3x3, then batch normalisation (which would subtract a bias again)."""
    convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=not batch_norm)
    return [convolution, nn.BatchNorm2d(channels)] if batch_norm else [convolution]


class ResidualBlock(nn.Module):
    """Convolution, batch norm, ReLU, convolution, batch norm, plus the input; (B, C, H, W) to the same."""

    def __init__(self, channels: int, batch_norm: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(*_normed(channels, batch_norm), nn.ReLU(inplace=True), *_normed(channels, batch_norm))

    def forward(self, x: Tensor) -> Tensor:
        """Features."""
        out: Tensor = x + self.body(x)
        return out


class Generator(nn.Module):
    """The super-resolution network (figure 6 a): head, residual blocks, upsampling stages, tail.

    Parameters
    ----------
    scale, channels, blocks, head_kernel, tail_kernel, long_skip, batch_norm, interpolation_skip, init, noise_channel
        See :class:`FDViT`.
    """

    def __init__(
        self,
        scale: int = 2,
        channels: int = 64,
        blocks: int = 16,
        head_kernel: int = 3,
        tail_kernel: int = 3,
        long_skip: bool = True,
        batch_norm: bool = True,
        interpolation_skip: bool = False,
        init: Literal["default", "residual"] = "default",
        noise_channel: bool = False,
    ) -> None:
        super().__init__()
        if scale not in STAGES:
            raise InputError(f"FD-ViT: the factor is {', '.join(map(str, STAGES))}, not {scale}.")
        if head_kernel % 2 == 0 or tail_kernel % 2 == 0:
            raise InputError(f"FD-ViT: kernels must be odd, for example 3 or 9, not {head_kernel if head_kernel % 2 == 0 else tail_kernel}.")
        if init not in ("default", "residual"):
            raise InputError(f"FD-ViT: init is 'default' or 'residual', not {init!r}.")
        if init == "residual" and not interpolation_skip:
            raise InputError("FD-ViT: init 'residual' starts as plain interpolation and needs interpolation_skip=True.")
        self.scale, self.noise_channel, self.interpolation_skip = scale, noise_channel, interpolation_skip
        self.head = nn.Conv2d(2 if noise_channel else 1, channels, head_kernel, padding=head_kernel // 2)
        self.blocks = nn.ModuleList(ResidualBlock(channels, batch_norm) for _ in range(blocks))
        self.long_skip = nn.Sequential(*_normed(channels, batch_norm)) if long_skip else None
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels * r * r, 3, padding=1), nn.PixelShuffle(r), nn.ReLU(inplace=True)) for r in STAGES[scale]
        )
        self.tail = nn.Conv2d(channels, 1, tail_kernel, padding=tail_kernel // 2)
        if init == "residual":
            nn.init.zeros_(self.tail.weight)
            nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]

    def forward(self, lr: Tensor, noise_level: Tensor | float | None = None) -> Tensor:
        """(B, 1, h, w) to (B, 1, rh, rw)."""
        first = F.relu(self.head(with_noise_level(lr, noise_level, NOISE_GAIN) if self.noise_channel else lr))
        x = first
        for block in self.blocks:
            x = block(x)
        if self.long_skip is not None:
            x = first + self.long_skip(x)
        for stage in self.stages:
            x = stage(x)
        sr: Tensor = self.tail(x)
        if self.interpolation_skip:
            sr = sr + cubic_upsample(lr.unsqueeze(-1), self.scale)[..., 0]
        return sr

    def reach(self) -> int:
        """Receptive radius in LR pixels: farther input has no influence (in evaluation mode)."""
        fine = self.tail.kernel_size[0] // 2
        for r in reversed(STAGES[self.scale]):
            fine = math.ceil(fine / r) + 1
        coarse = fine + int(self.long_skip is not None) + 2 * len(self.blocks) + self.head.kernel_size[0] // 2
        return max(coarse, 2 if self.interpolation_skip else 0)


class FDViT(nn.Module):
    """Generator, with the trained feature extractors beside it if wanted, so that one file holds all.

    Parameters
    ----------
    scale : int
        2, 3 or 4.
    channels : int
        64 in the paper.
    blocks : int
        Residual blocks; their number is not in the paper, SRGAN has 16.
    head_kernel, tail_kernel : int
        Edge of the first and last kernel; 9 in SRGAN, the paper mentions 3x3 filters only.
    long_skip : bool
        Convolution and batch norm after the blocks, plus the head's features, as in SRGAN.
    batch_norm : bool
        False leaves batch normalisation out.
    interpolation_skip : bool
        Add the cubic interpolation of the input, so that the network learns what interpolation misses. Not in the paper.
    init : {"default", "residual"}
        Framework defaults, or a start as plain cubic interpolation (tail zero; with `interpolation_skip`).
    noise_channel : bool
        Take the noise level as a second input channel. Off in the paper.
    with_encoder, with_vit : bool
        Keep the disentangling encoder E, the ViT, or both, frozen, for looking inside and for training on. They do not take part in
        super-resolution.
    encoder_options, vit_options : mapping, optional
        Constructor options of :class:`~napari_mrsr.networks.disentangling.DisentanglingEncoder` and
        :class:`~napari_mrsr.networks.vit_features.ViTFeatures`.

    Raises
    ------
    InputError
        If an option is unknown or does not fit.
    """

    def __init__(
        self,
        scale: int = 2,
        channels: int = 64,
        blocks: int = 16,
        head_kernel: int = 3,
        tail_kernel: int = 3,
        long_skip: bool = True,
        batch_norm: bool = True,
        interpolation_skip: bool = False,
        init: Literal["default", "residual"] = "default",
        noise_channel: bool = False,
        with_encoder: bool = False,
        with_vit: bool = False,
        encoder_options: Mapping[str, Any] | None = None,
        vit_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.generator = Generator(scale, channels, blocks, head_kernel, tail_kernel, long_skip, batch_norm, interpolation_skip, init, noise_channel)
        for part, kept, options in (("encoder", with_encoder, encoder_options), ("vit", with_vit, vit_options)):
            if options and not kept:
                raise InputError(f"FD-ViT: {part}_options are given but with_{part} is off; switch it on or leave them out.")
        self.encoder = DisentanglingEncoder(**(encoder_options or {})).requires_grad_(False) if with_encoder else None
        self.vit = ViTFeatures(**(vit_options or {})).requires_grad_(False) if with_vit else None

    def forward(self, lr: Tensor, reference: Tensor | None = None, noise_level: Tensor | float | None = None) -> Tensor:
        """Super-resolve.

        Parameters
        ----------
        lr : (B, 1, h, w) tensor
            Low-resolution slices, intensities divided by the range of their volume.
        reference : None
            FD-ViT takes no second contrast.
        noise_level : tensor broadcastable to `lr`, float, or None
            Noise standard deviation in the units of `lr`; used only with `noise_channel` (None: 0).

        Returns
        -------
        (B, 1, rh, rw) tensor
        """
        sr: Tensor = self.generator(lr, noise_level)
        if self.encoder is not None:
            self._look(self.encoder, lr, sr)
        if self.vit is not None:
            self.vit.look(sr)
        return sr

    @torch.no_grad()
    def _look(self, encoder: DisentanglingEncoder, lr: Tensor, sr: Tensor) -> None:
        """Record the structure maps that are wanted, on the pixels of the result."""
        both = wanted("structure-distance")
        low, high = wanted("structure-lr"), wanted("structure-sr")
        coarse = encoder(lr)[0] if low or both else None
        fine = encoder(sr)[0] if high or both else None
        extent = sr.shape[2:]
        if low and coarse is not None:
            low.keep("structure-lr", _drawn(coarse, extent))
        if high and fine is not None:
            high.keep("structure-sr", _drawn(fine, extent))
        if both and coarse is not None and fine is not None:
            both.keep("structure-distance", _drawn(local_cosine_distance(coarse, fine), extent))

    def maps(self) -> tuple[MapInfo, ...]:
        """Internal maps, depending on which feature extractors are there."""
        found = STRUCTURE_MAPS if self.encoder is not None else ()
        if self.vit is not None:
            found = (*found, ROLLOUT_MAP, *(_attention_info(index) for index in range(1, len(self.vit.vit.blocks) + 1)))
        return found

    def bytes_per_voxel(self) -> int:
        """Peak inference memory per LR pixel: feature maps of the low resolution and of the last upsampling stage, in float32."""
        return 4 * self.generator.tail.in_channels * (5 + 3 * self.scale**2)


def local_cosine_distance(a: Tensor, b: Tensor, window: int = STRUCTURE_WINDOW) -> Tensor:
    """Cosine distance of two codes in the neighbourhood of every pixel: where L_str (eq. 7) would find them different.

    The values of both codes in a window around a pixel are two vectors; the distance is 0 where they agree up to a positive factor, 1 where
    they are orthogonal, 2 where they are opposite. It tends to 0 where both are next to nothing compared with the rest of the image.

    Parameters
    ----------
    a, b : (B, C, H, W) tensors
    window : int
        Odd edge of the window, cut at the border.

    Returns
    -------
    (B, 1, H, W) tensor
    """

    def around(x: Tensor) -> Tensor:
        return F.avg_pool2d(x.sum(1, keepdim=True), window, stride=1, padding=window // 2)

    if a.dtype != torch.float64:
        a, b = a.float(), b.float()
    lengths = (around(a * a) * around(b * b)).sqrt()
    floor = 1e-6 * lengths.mean((2, 3), keepdim=True) + torch.finfo(a.dtype).tiny
    return ((lengths - around(a * b)) / lengths.clamp_min(floor)).clamp_min(0)


def _drawn(code: Tensor, extent: torch.Size) -> Tensor:
    """A structure code on the pixels of the result; code pixels need not be whole numbers of them."""
    return F.interpolate(code if code.dtype == torch.float64 else code.float(), extent, mode="bilinear")


STRUCTURE_MAPS = (
    MapInfo(
        "structure-lr",
        "Structure of the input",
        "Structure code of the low-resolution slice: what the disentangling autoencoder keeps of shapes and places.",
        signed=True,
    ),
    MapInfo(
        "structure-sr", "Structure of the result", "Structure code of the super-resolved slice, for comparison with that of the input.", signed=True
    ),
    MapInfo(
        "structure-distance",
        "Change of structure",
        f"Cosine distance between both structure codes in a neighbourhood of {STRUCTURE_WINDOW} x {STRUCTURE_WINDOW} of their pixels: 0 where the "
        "result keeps the structure of the input, 1 where it is unrelated, 2 where it is inverted.",
    ),
)
ROLLOUT_MAP = MapInfo(
    ROLLOUT,
    "Attention rollout",
    "Share of every image patch of the result in the transformer's features after all layers (attention rollout, mean over all tokens). "
    "All shares add up to 1.",
)


def _attention_info(layer: int) -> MapInfo:
    return MapInfo(
        attention_map(layer),
        f"Attention, layer {layer}",
        f"What the image patch of the chosen pixel attends to in layer {layer} of the transformer: mean over the heads, or one head. "
        "The weights of all patches add up to 1.",
        kind="query",
    )


ARCHITECTURES = MappingProxyType(
    {
        "fdvit": Architecture(
            name="fdvit",
            title="FD-ViT",
            paper=PAPER,
            build=FDViT,
            dimension=2,
            scales=(2, 3, 4),
            tiling="planes",
            halo=lambda module: module.generator.reach(),
            bytes_per_voxel=FDViT.bytes_per_voxel,
            channels_last=True,
            maps=FDViT.maps,
        )
    }
)
