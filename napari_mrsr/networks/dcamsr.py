"""DCAMSR: dual cross-attention multi-contrast super-resolution.

Reads top to bottom as the paper's figure 2 does: encoder, spatial adaptation module (SAM), decoder with its fusion blocks, network; the dual
cross-attention transformer (DCAT) is in :mod:`napari_mrsr.networks.blocks.dual_cross_attention`. Where the paper and its public code differ,
the code is followed (NETWORKS 3.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks.architecture import Architecture, MapInfo
from napari_mrsr.networks.blocks.dual_cross_attention import DCAT, LEVEL_NAMES
from napari_mrsr.networks.blocks.moments import centred
from napari_mrsr.networks.blocks.noise import with_noise_level
from napari_mrsr.networks.blocks.recording import wanted
from napari_mrsr.networks.blocks.resample import lattice_upsample
from napari_mrsr.networks.blocks.windows import in_windows
from napari_mrsr.networks.scaling import by_slice

PAPER = "Accurate multi-contrast MRI super-resolution via a dual cross-attention transformer network (MICCAI 2023)"
LEVELS = 3
"""Resolutions of features and textures: full, half, quarter."""

MULTIPLE = 8
"""The decoder starts at one eighth of the output's size."""

EPSILON = 1e-5
"""Added to the variance in the instance norm."""
SMALLEST = 1e-12
"""Least variance that a root is drawn from: below it, there is no gradient."""

NOISE_GAIN = 4.0
"""Brings noise levels of some tenths of the slice's standard deviation to the magnitude of the image itself."""

Upsampling = Literal["bilinear", "lattice"]
OtherSizes = Literal["windows", "resample"]
ReferenceMode = Literal["given", "self"]

ABLATIONS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "w/o reference": {"reference": "self"},
        "w/o multi-scale attention": {"multi_scale": False},
        "w/o channel attention": {"channel_attention": False},
    }
)
"""The paper's table 2: name of the ablation to constructor options."""


class ResidualBlock(nn.Module):
    """conv3, ReLU, conv3, plus the input; (B, C, H, W) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Refined features."""
        out: Tensor = self.conv2(F.relu(self.conv1(x), inplace=True)).add_(x)
        return out


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))


class Encoder(nn.Module):
    """Features at full, half and quarter size; one instance serves the upsampled low resolution and the reference.

    Each level is conv3 (stride 2 but for the first), ReLU, residual blocks.
    """

    def __init__(self, in_channels: int, channels: int, blocks: Sequence[int]) -> None:
        super().__init__()
        inputs = [in_channels] + [channels] * (LEVELS - 1)
        self.convs = nn.ModuleList(nn.Conv2d(n, channels, 3, stride=1 + (level > 0), padding=1) for level, n in enumerate(inputs))
        self.blocks = nn.ModuleList(_blocks(channels, count) for count in blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 1, H, W) to (B, C, H, W), (B, C, H/2, W/2), (B, C, H/4, W/4)."""
        features = []
        for conv, blocks in zip(self.convs, self.blocks, strict=True):
            x = blocks(F.relu(conv(x), inplace=True))
            features.append(x)
        return features


class SAM(nn.Module):
    """Spatial adaptation module: gives the texture the features' mean and spread, plus learned local corrections (fig. 2d; MASA-SR).

    ``n * gamma + beta`` with n the instance-normalised texture, ``gamma = conv3(style) + std(features)``, ``beta = conv3(style) +
    mean(features)``, ``style = ReLU(conv3([features, texture]))``; both convolutions start at zero.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shared = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.gamma = nn.Conv2d(channels, channels, 3, padding=1)
        self.beta = nn.Conv2d(channels, channels, 3, padding=1)
        for layer in (self.gamma, self.beta):
            _zero(layer)

    def forward(self, features: Tensor, texture: Tensor, level: int) -> Tensor:
        """Adapted texture, all (B, C, H, W); `level` names the maps."""
        style = F.relu(self.shared(torch.cat([features, texture], 1)), inplace=True)
        mean, variance = centred(features, (2, 3))[1:]
        pixels = features[0, 0].numel()
        std = torch.sqrt((variance * (pixels / (pixels - 1))).clamp(min=SMALLEST))
        gamma = self.gamma(style) + std.to(style.dtype)
        beta = self.beta(style) + mean.to(style.dtype)
        for name, values in ((f"sam-gamma-{level}", gamma), (f"sam-beta-{level}", beta)):
            if recorder := wanted(name):
                recorder.keep(name, recorder.one_channel(values), 2 ** (level - 1))
        deviation, _, variance = centred(texture, (2, 3))
        out: Tensor = torch.addcmul(beta, (deviation * torch.rsqrt(variance + EPSILON)).to(style.dtype), gamma)
        return out

    @staticmethod
    def maps(level: int) -> list[MapInfo]:
        """What it can show at one level."""
        size = LEVEL_NAMES[level]
        end = f" the texture at {size} before it is fused; mean absolute value over all channels, or one of them."
        return [
            MapInfo(f"sam-gamma-{level}", f"Texture gain, {size}", "Local gain that spatial adaptation gives" + end),
            MapInfo(f"sam-beta-{level}", f"Texture offset, {size}", "Local offset that spatial adaptation adds to" + end),
        ]


class Decoder(nn.Module):
    """From the coarsest features back to the image, fusing in a texture at each of the three sizes (fig. 2c).

    Parameters
    ----------
    channels : int
    blocks : sequence of int
        Residual blocks after: the step down to H/8; the convolution there; joining the quarter-size features; fusing the textures at
        quarter, half and full size.
    """

    def __init__(self, channels: int, blocks: Sequence[int]) -> None:
        super().__init__()
        inputs = [channels, channels] + [2 * channels] * 4
        self.convs = nn.ModuleList(nn.Conv2d(n, channels, 3, stride=1 + (stage == 0), padding=1) for stage, n in enumerate(inputs))
        self.blocks = nn.ModuleList(_blocks(channels, count) for count in blocks)
        self.sam = SAM(channels)
        self.out = nn.Conv2d(channels, 1, 3, padding=1)

    def _stage(self, stage: int, *inputs: Tensor) -> Tensor:
        x: Tensor = self.blocks[stage](F.relu(self.convs[stage](torch.cat(inputs, 1)), inplace=True))
        return x

    def forward(self, quarter: Tensor, textures: Sequence[Tensor]) -> Tensor:
        """Correction to the upsampled image, (B, 1, H, W).

        Parameters
        ----------
        quarter : (B, C, H/4, W/4) tensor
            Encoder features of the low resolution.
        textures : sequence of tensors
            Full, half and quarter size.
        """
        x = self._stage(1, self._stage(0, quarter))
        x = self._stage(2, _enlarge(x, 2), quarter)
        for level in range(LEVELS, 0, -1):
            x = self._stage(6 - level, self.sam(x, textures[level - 1], level), x)
            if level > 1:
                x = _enlarge(x, 2)
        out: Tensor = self.out(x)
        return out


def _enlarge(x: Tensor, scale: int) -> Tensor:
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


def _zero(layer: nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class DCAMSR(nn.Module):
    """The network (paper's figure 2a).

    Parameters
    ----------
    scale : int
        2, 3 or 4.
    size : int or (int, int)
        Output pixels it is trained for, multiples of 8 (256 for M4Raw, 320 for fastMRI): the spatial attention has one weight per pixel.
    channels, heads, projection : int
        64, 8 and 64; see :class:`~napari_mrsr.networks.blocks.dual_cross_attention.DualCrossAttention`.
    encoder_blocks : three int
        Residual blocks per level of the encoder.
    decoder_blocks : six int
        See :class:`Decoder`.
    dropout : float
        On attention weights, in training only.
    exact_layout : bool
        The public code's memory layout of the spatial attention, needed for weights trained by it.
    reference : {"given", "self"}
        "self" ignores any reference and lets the upsampled low resolution take its place (the paper's single-image variant).
    multi_scale : bool
        False attends at the coarsest level only and enlarges its texture for the others.
    channel_attention, spatial_attention : bool
        False leaves a branch of the attention out.
    rescale_lr : bool
        Whether low resolution and sharp image come on one scale. False as published: there the low resolution of an orthonormal k-space
        crop is `scale` times brighter (`amplitude`).
    other_sizes : {"windows", "resample"}
        Slices that are not of the trained size: overlapping windows of that size, blended, or the whole slice with the weights per pixel
        resampled to it. Windows are cut after upsampling, so any size and any factor fit.
    overlap : float
        Smallest share of a window that neighbours have in common, 0 to 0.5.
    upsampling : {"bilinear", "lattice"}
        How the low resolution is enlarged at the start. "bilinear" as published has voxel edges aligned, ``(scale - 1) / 2`` pixels off
        the lattice of a k-space crop, which the network has to learn; "lattice" is exact there (:func:`lattice_upsample`).
    noise_channel : bool
        Take the noise level as a second input channel (zero for a reference). Off in the paper.
    init : {"default", "residual"}
        Framework defaults, or a start as plain upsampling (silent last convolution).

    Attributes
    ----------
    amplitude : float
        How many times brighter than the sharp image the low resolution is expected (:func:`~napari_mrsr.networks.scaling.by_slice`).
    """

    def __init__(
        self,
        scale: int = 2,
        size: int | Sequence[int] = 256,
        channels: int = 64,
        heads: int = 8,
        projection: int = 64,
        encoder_blocks: Sequence[int] = (4, 4, 4),
        decoder_blocks: Sequence[int] = (2, 2, 2, 12, 8, 4),
        dropout: float = 0.1,
        exact_layout: bool = True,
        reference: ReferenceMode = "given",
        multi_scale: bool = True,
        channel_attention: bool = True,
        spatial_attention: bool = True,
        rescale_lr: bool = False,
        other_sizes: OtherSizes = "windows",
        overlap: float = 0.25,
        upsampling: Upsampling = "bilinear",
        noise_channel: bool = False,
        init: Literal["default", "residual"] = "default",
    ) -> None:
        super().__init__()
        edges = (size, size) if isinstance(size, int) else tuple(size)
        _check(scale, edges, encoder_blocks, decoder_blocks, overlap)
        for name, value, known in (
            ("reference", reference, get_args(ReferenceMode)),
            ("other_sizes", other_sizes, get_args(OtherSizes)),
            ("upsampling", upsampling, get_args(Upsampling)),
            ("init", init, ("default", "residual")),
        ):
            if value not in known:
                raise InputError(f"DCAMSR: {name} is {' or '.join(known)}, not {value!r}.")
        self.scale, self.size, self.reference, self.multi_scale = scale, (edges[0], edges[1]), reference, multi_scale
        self.other_sizes, self.overlap, self.upsampling, self.noise_channel = other_sizes, overlap, upsampling, noise_channel
        self.amplitude = 1.0 if rescale_lr else float(scale)
        self.encoder = Encoder(2 if noise_channel else 1, channels, encoder_blocks)
        self.levels = tuple(range(1, LEVELS + 1)) if multi_scale else (LEVELS,)
        branches = {"channel_attention": channel_attention, "spatial_attention": spatial_attention}
        shared = {"projection": projection, "dropout": dropout, "exact_layout": exact_layout, **branches}
        grids = {level: (edges[0] >> level - 1, edges[1] >> level - 1) for level in self.levels}
        self.dcats = nn.ModuleList(DCAT(channels, heads, grid, level=level, **shared) for level, grid in grids.items())
        self.decoder = Decoder(channels, decoder_blocks)
        if init == "residual":
            _zero(self.decoder.out)

    def forward(self, lr: Tensor, reference: Tensor | None = None, noise_level: Tensor | float | None = None) -> Tensor:
        """Super-resolve.

        Parameters
        ----------
        lr : (B, 1, h, w) tensor
            Low-resolution slices, normalised by :func:`~napari_mrsr.networks.scaling.by_slice`.
        reference : (B, 1, scale h, scale w) tensor or None
            Slices of a second contrast at the output's resolution, normalised by their own statistics. None: the upsampled low resolution
            takes its place.
        noise_level : tensor broadcastable to `lr`, float, or None
            Noise standard deviation in the units of `lr`; used only with `noise_channel` (None: 0).

        Returns
        -------
        (B, 1, scale h, scale w) tensor

        Raises
        ------
        InputError
            If the reference is not `scale` times as large as the low resolution.
        """
        up = _enlarge(lr, self.scale) if self.upsampling == "bilinear" else lattice_upsample(lr, self.scale)
        images = [up]
        if self.noise_channel:
            level = with_noise_level(lr, noise_level, NOISE_GAIN)[:, 1:]
            images = [torch.cat([up, F.interpolate(level, scale_factor=self.scale)], 1)]
        if reference is not None and self.reference == "given":
            if reference.shape != up.shape:
                given, needed = ("x".join(map(str, t.shape)) for t in (reference, up))
                raise InputError(f"DCAMSR: the reference is {given} but must be {needed}, {self.scale} times the low resolution in plane.")
            images.append(with_noise_level(reference, None, NOISE_GAIN) if self.noise_channel else reference)
        if self.other_sizes == "windows":
            return up + in_windows(self._correction, [(image, 1) for image in images], self.size, self.overlap, align=MULTIPLE)
        height, width = up.shape[2:]
        padding = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
        correction = self._correction(*(F.pad(image, padding, mode="replicate") for image in images))
        return up + correction[:, :, :height, :width]

    def _correction(self, up: Tensor, reference: Tensor | None = None) -> Tensor:
        """What is added to the upsampled image, (B, 1, H, W) with H and W multiples of 8."""
        own = self.encoder(up)
        other = own if reference is None else self.encoder(reference)
        textures = [dcat(own[level - 1], other[level - 1]) for level, dcat in zip(self.levels, self.dcats, strict=True)]
        quarter = own[-1]
        del own, other  # full-size features are not needed any more
        if not self.multi_scale:
            textures = [_enlarge(textures[0], 4), _enlarge(textures[0], 2), textures[0]]
        correction: Tensor = self.decoder(quarter, textures)
        return correction

    def bytes_per_voxel(self) -> int:
        """Peak inference memory per LR voxel: some 24 full-size feature maps in float32, twice where windows overlap."""
        return 4 * self.decoder.out.in_channels * 24 * self.scale**2 * (2 if self.other_sizes == "windows" else 1)

    def maps(self) -> tuple[MapInfo, ...]:
        """Internal maps it can show."""
        on = "result" if self.reference == "self" else "reference"
        attention = [info for dcat in self.dcats for info in dcat.attention.maps(on)]  # type: ignore[union-attr, operator]
        return (*attention, *(info for level in range(1, LEVELS + 1) for info in self.decoder.sam.maps(level)))


def _check(scale: int, size: tuple[int, ...], encoder_blocks: Sequence[int], decoder_blocks: Sequence[int], overlap: float) -> None:
    if scale not in (2, 3, 4):
        raise InputError(f"DCAMSR is defined for factors 2, 3 and 4, not {scale}.")
    if len(size) != 2 or any(n < MULTIPLE or n % MULTIPLE for n in size):
        raise InputError(f"DCAMSR: size is one or two multiples of {MULTIPLE}, such as 256, not {'x'.join(map(str, size))}.")
    if len(encoder_blocks) != 3 or len(decoder_blocks) != 6:
        raise InputError(
            f"DCAMSR has 3 encoder and 6 decoder stages: give so many block counts, not {len(encoder_blocks)} and {len(decoder_blocks)}."
        )
    if not 0 <= overlap <= 0.5:
        raise InputError(f"DCAMSR: windows overlap by 0 to 0.5 of their length, not {overlap}.")


ARCHITECTURES = MappingProxyType(
    {
        "dcamsr": Architecture(
            name="dcamsr",
            title="DCAMSR",
            paper=PAPER,
            build=DCAMSR,
            dimension=2,
            scales=(2, 3, 4),
            reference="optional",
            tiling="planes",
            halo=lambda _module: None,
            bytes_per_voxel=DCAMSR.bytes_per_voxel,
            scaling=by_slice,
            global_statistics=True,
            channels_last=True,
            maps=DCAMSR.maps,
        )
    }
)
