"""Cohf-T: cross-modality high-frequency transformer for MR image super-resolution.

Reads top to bottom as the paper's figure 2 does: input gates, stages of the main stream with their Cohf-T blocks (short-distance window,
long-distance window and inter-modality attention), output gates. Equation numbers are the paper's; choices the paper leaves open are
constructor options.
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
from napari_mrsr.networks.blocks.cross_modality import CNNBlock, CohfTBlock, conv3, zero
from napari_mrsr.networks.blocks.gradient import gradient_magnitude
from napari_mrsr.networks.blocks.head_correlation_attention import HeadCorrelationAttention, keep_variance
from napari_mrsr.networks.blocks.moments import at_least_float32
from napari_mrsr.networks.blocks.noise import with_noise_level
from napari_mrsr.networks.blocks.recording import wanted
from napari_mrsr.networks.blocks.resample import lattice_upsample
from napari_mrsr.networks.blocks.rrdb import RRDB

PAPER = "Cross-modality high-frequency transformer for MR image super-resolution"

NOISE_GAIN = 20.0
"""Brings noise levels of some percent of the range to the magnitude of the image itself."""

PRESETS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "S": MappingProxyType({"width": 16, "growth": 16, "stages": 2, "dense_blocks": 2, "convolutions": 3}),
        "M": MappingProxyType({"width": 16, "growth": 16, "stages": 3, "dense_blocks": 3, "convolutions": 3}),
        "L": MappingProxyType({"width": 32, "growth": 32, "stages": 4, "dense_blocks": 3, "convolutions": 5}),
    }
)
"""The paper's three sizes; L is the network as described. Growth is not given there: as wide as the features in all three."""

ABLATIONS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "baseline": {"attention": False},
        "w/o S-IntraM-WA or L-IntraM-WA": {"short": False, "long": False},
        "w/o S-IntraM-WA": {"short": False},
        "w/o L-IntraM-WA": {"long": False},
        "w/o InterM-A": {"inter_modality": False},
        "w/o InterH-Corr": {"inter_head": False},
        "w/o AdaptIN": {"adaptive_in": False},
        "Input CNN-RB": {"domain": "image", "blocks": "cnn"},
        "Input Cohf-T": {"domain": "image"},
        "Gradient CNN-RB": {"blocks": "cnn"},
    }
)
"""Constructor options of the variants in the paper's tables 2 and 3, by their names there."""

Upsampling = Literal["bicubic", "lattice"]


class Stage(nn.Module):
    """One stage of both streams (section 3.1).

    ``E_i`` = RRDBs of ``F_(i-1)``; ``Sbar_i = conv3(E_i)``; ``S_i = conv3([P_(i-1), Sbar_i])``; ``P_i`` = block of ``S_i`` and C;
    ``F_i = E_i + T_i P_i`` with the selection map ``T_i = sigmoid(conv(Sbar_i))``.

    Parameters
    ----------
    rrdbs : Module
        Of the main stream.
    block : Module
        :class:`CohfTBlock` or :class:`CNNBlock`.
    channels : int
        d.
    selection_kernel : int
        Of the convolution before the sigmoid.
    index, scale : int
        i and r, for the recorded map.
    """

    def __init__(self, rrdbs: nn.Module, block: nn.Module, channels: int, selection_kernel: int, index: int, scale: int) -> None:
        super().__init__()
        self.rrdbs, self.block = rrdbs, block
        self.extract = conv3(channels, channels)
        self.combine = conv3(2 * channels, channels)
        self.select = nn.Conv2d(channels, 1, selection_kernel, padding=selection_kernel // 2)
        self.name, self.scale = f"selection-{index}", scale

    def forward(self, features: Tensor, prior: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """F_(i-1) and P_(i-1), (B, d, h, w) each, and C, (B, d, rh, rw), to F_i and P_i."""
        features = self.rrdbs(features)
        extracted = self.extract(features)
        prior = self.block(self.combine(torch.cat([prior, extracted], 1)), context)
        selection = torch.sigmoid(self.select(extracted))
        if recorder := wanted(self.name):
            recorder.keep(self.name, selection, self.scale)
        return features + selection * prior, prior


class OutputGate(nn.Sequential):
    """Features to a fine image by pixel shuffles (figure 3a), (B, C, h, w) to (B, 1, rh, rw).

    Parameters
    ----------
    channels_in, channels : int
        C and the width d inside.
    scale : int
        2 and 3 in one step, 4 in two.
    """

    def __init__(self, channels_in: int, channels: int, scale: int) -> None:
        layers: list[nn.Module] = [conv3(channels_in, channels)]
        for step in (2, 2) if scale == 4 else (scale,):
            layers += [conv3(channels, channels * step**2), nn.PixelShuffle(step), nn.GELU()]
        super().__init__(*layers, conv3(channels, channels), nn.GELU(), conv3(channels, 1))


class CohfT(nn.Module):
    """The network (paper's figure 2).

    Parameters
    ----------
    scale : int
        r: 2, 3 or 4.
    preset : {"S", "M", "L"} or None
        The paper's Ours-S, Ours-M or Ours-L (also for None): `width`, `growth`, `stages`, `dense_blocks` and `convolutions` where these
        are None.
    width, growth, stages : int or None
        d, channels that a dense block's convolutions add, stages.
    rrdbs, dense_blocks, convolutions : int (the latter two: or None)
        RRDBs per stage, dense blocks per RRDB, convolutions per dense block.
    heads, window, patch : int
        M, g and p.
    mlp_expansion : int
        Hidden channels of the MLPs per channel.
    gate_rrdbs : int
        RRDBs in each of the three input gates.
    selection_kernel : {3, 1}
        Of the selection maps.
    skip : bool
        Add the interpolated input to the image.
    upsampling : {"bicubic", "lattice"}
        ``bicubic``: the framework's, pixel edges aligned. ``lattice``: cubic B-spline, LR pixel i at output pixel ``r i`` (k-space crops).
    attention : bool
        False removes all attention, and with it the use of the reference (the paper's baseline).
    short, long, inter_modality, inter_head, adaptive_in : bool
        Parts of the Cohf-T blocks; without `inter_modality` the reference is not used.
    distance_penalty : bool
        A learnt penalty on squared distances in the inter-modality attention. Off in the paper: its attention finds places by content alone.
    domain : {"gradient", "image"}
        Whether the prior stream sees gradient magnitudes or the images themselves.
    blocks : {"cohft", "cnn"}
        Cohf-T blocks, or residual blocks in their place.
    residual_blocks : int
        For ``blocks="cnn"``: residual blocks per replaced attention.
    noise_channel : bool
        Give the main stream the noise level as a second input channel. Off in the paper.
    init : {"default", "residual"}
        ESRGAN's small start of the RRDBs and framework defaults elsewhere; or also last convolutions of zeros (the image starts as the
        interpolated input), attention that copies patches, and convolutions that keep the variance, so that the reference gets through.

    Raises
    ------
    InputError
        If options do not fit together.
    """

    def __init__(
        self,
        scale: int = 2,
        preset: Literal["S", "M", "L"] | None = None,
        width: int | None = None,
        growth: int | None = None,
        stages: int | None = None,
        rrdbs: int = 5,
        dense_blocks: int | None = None,
        convolutions: int | None = None,
        heads: int = 4,
        window: int = 6,
        patch: int = 5,
        mlp_expansion: int = 1,
        gate_rrdbs: int = 1,
        selection_kernel: Literal[3, 1] = 3,
        skip: bool = True,
        upsampling: Upsampling = "bicubic",
        attention: bool = True,
        short: bool = True,
        long: bool = True,
        inter_modality: bool = True,
        inter_head: bool = True,
        adaptive_in: bool = True,
        distance_penalty: bool = False,
        domain: Literal["gradient", "image"] = "gradient",
        blocks: Literal["cohft", "cnn"] = "cohft",
        residual_blocks: int = 1,
        noise_channel: bool = False,
        init: Literal["default", "residual"] = "default",
    ) -> None:
        super().__init__()
        _require("scale", scale, (2, 3, 4))
        _require("preset", preset, (None, *PRESETS))
        _require("selection_kernel", selection_kernel, (3, 1))
        _require("upsampling", upsampling, ("bicubic", "lattice"))
        _require("domain", domain, ("gradient", "image"))
        _require("blocks", blocks, ("cohft", "cnn"))
        _require("init", init, ("default", "residual"))
        if init == "residual" and not skip:
            raise InputError('Cohf-T: init "residual" starts as the interpolated input and needs skip=True.')
        given = {"width": width, "growth": growth, "stages": stages, "dense_blocks": dense_blocks, "convolutions": convolutions}
        sizes = {**PRESETS[preset or "L"], **{name: value for name, value in given.items() if value is not None}}
        for name, count in {**sizes, "window": window, "patch": patch, "heads": heads}.items():
            if count < 1:
                raise InputError(f"Cohf-T: {name} must be at least 1, not {count}.")
        d = self.width = sizes["width"]
        self.dense_channels = d + (sizes["convolutions"] - 1) * sizes["growth"]
        self.scale, self.skip, self.upsampling, self.domain, self.noise_channel = scale, skip, upsampling, domain, noise_channel
        short, long, inter_modality = (attention and part for part in (short, long, inter_modality))

        def rrdb_chain(count: int) -> nn.Sequential:
            return nn.Sequential(*(RRDB(d, sizes["growth"], sizes["dense_blocks"], sizes["convolutions"]) for _ in range(count)))

        def gate(channels_in: int) -> nn.Sequential:
            return nn.Sequential(conv3(channels_in, d), *rrdb_chain(gate_rrdbs))

        def block(index: int) -> nn.Module:
            if blocks == "cnn":
                return CNNBlock(d, scale, residual_blocks, short, long, inter_modality)
            kinds = (short, long, inter_modality, inter_head, distance_penalty, adaptive_in)
            return CohfTBlock(d, scale, heads, window, patch, mlp_expansion, *kinds, index)

        self.gate_image = gate(2 if noise_channel else 1)
        self.gate_structure = gate(1)
        self.gate_context = gate(1) if inter_modality else None
        indices = range(1, sizes["stages"] + 1)
        self.stages = nn.ModuleList(Stage(rrdb_chain(rrdbs), block(i), d, selection_kernel, i, scale) for i in indices)
        self.output_image = OutputGate(2 * d, d, scale)
        self.output_gradient = OutputGate(d, d, scale)
        for module in self.modules():
            if isinstance(module, RRDB):
                module.reset()
        if init == "residual":
            self._start_residual()

    def _start_residual(self) -> None:
        for gate in (self.output_image, self.output_gradient):
            first, *others, last = (layer for layer in gate if isinstance(layer, nn.Conv2d))
            # Louder features make the first steps overshoot so far that the last GELU never opens again.
            keep_variance(first, 0.2 * math.sqrt(2))
            for layer in others:
                keep_variance(layer, math.sqrt(2))
            zero(last)
        for opening in filter(None, (self.gate_image, self.gate_structure, self.gate_context)):
            keep_variance(opening[0])
        for stage in self.stages:
            keep_variance(stage.extract)
            keep_variance(stage.combine)
            if isinstance(stage.block, CohfTBlock):
                stage.block.reset()

    def forward(self, lr: Tensor, reference: Tensor | None = None, noise_level: Tensor | float | None = None) -> Tensor:
        """Super-resolve.

        Parameters
        ----------
        lr : (B, 1, h, w) tensor
            Low-resolution slice, intensities divided by the volume's range.
        reference : (B, 1, rh, rw) tensor
            Sharp slice of another contrast on the output's grid, divided by its range. Not looked at without inter-modality attention.
        noise_level : tensor broadcastable to `lr`, float, or None
            Noise standard deviation in the units of `lr`; used only with `noise_channel` (None: 0).

        Returns
        -------
        (B, 1, rh, rw) tensor

        Raises
        ------
        InputError
            If the reference is missing or has another size.
        """
        features, prior = self._streams(lr, reference, noise_level)
        if wanted("gradient"):
            self._gradient(prior)
        return self._image(lr, features, prior)

    def forward_with_gradient(self, lr: Tensor, reference: Tensor | None = None, noise_level: Tensor | float | None = None) -> tuple[Tensor, Tensor]:
        """As :meth:`forward`, with the second output, which only the loss needs.

        Returns
        -------
        image, gradient : (B, 1, rh, rw) tensors
            The image, and the prior stream's prediction of its gradient magnitude.
        """
        features, prior = self._streams(lr, reference, noise_level)
        return self._image(lr, features, prior), self._gradient(prior)

    def _streams(self, lr: Tensor, reference: Tensor | None, noise_level: Tensor | float | None) -> tuple[Tensor, Tensor]:
        """F_N and P_N."""
        context = None
        if self.gate_context is not None:
            context = self.gate_context(self._reference_input(self._require_reference(lr, reference)))
        features = self.gate_image(with_noise_level(lr, noise_level, NOISE_GAIN) if self.noise_channel else lr)
        prior = self.gate_structure(self._reference_input(lr))
        for stage in self.stages:
            features, prior = stage(features, prior, context)
        return features, prior

    def _require_reference(self, lr: Tensor, reference: Tensor | None) -> Tensor:
        if reference is None:
            raise InputError("Cohf-T needs a reference: a sharp image of another contrast on the output's grid.")
        expected = (*lr.shape[:2], self.scale * lr.shape[2], self.scale * lr.shape[3])
        if reference.shape != expected:
            given = " x ".join(map(str, reference.shape[2:]))
            raise InputError(
                f"Cohf-T needs its reference on the output's grid, {len(lr)} slices of {expected[2]} x {expected[3]} pixels, "
                f"not {len(reference)} of {given}."
            )
        return reference

    def _reference_input(self, image: Tensor) -> Tensor:
        return gradient_magnitude(image) if self.domain == "gradient" else image

    def _image(self, lr: Tensor, features: Tensor, prior: Tensor) -> Tensor:
        out: Tensor = self.output_image(torch.cat([features, prior], 1))
        return out + _interpolate(lr, self.scale, self.upsampling) if self.skip else out

    def _gradient(self, prior: Tensor) -> Tensor:
        out: Tensor = self.output_gradient(prior)
        if recorder := wanted("gradient"):
            recorder.keep("gradient", out)
        return out

    def maps(self) -> tuple[MapInfo, ...]:
        """What it can show of itself."""
        found = [MapInfo("gradient", "Predicted gradient", "The gradient branch's output: how steep it expects the sharp image to be.")]
        for index, stage in enumerate(self.stages, start=1):
            found.append(
                MapInfo(
                    f"selection-{index}",
                    f"Selection, stage {index}",
                    f"T of stage {index}, 0 to 1: where features of gradients and reference are let into the image's features.",
                    on="input",
                )
            )
            for module in stage.modules():
                if isinstance(module, HeadCorrelationAttention):
                    found.append(_attention_map(module, index))
        return tuple(found)

    def bytes_per_voxel(self) -> int:
        """Peak inference memory per LR pixel in float32: a dense block's concatenation, mostly of the reference on the fine grid."""
        concatenated = 2 * self.dense_channels + 4 * self.width
        fine = concatenated if self.gate_context is not None else 6 * self.width
        return round(5.5 * (self.scale**2 * fine + concatenated))


def _attention_map(module: HeadCorrelationAttention, index: int) -> MapInfo:
    if module.ratio > 1:
        text = f"Weights with which the chosen pixel's patch attends to patches of the reference in stage {index}: mean over heads, or one head."
        return MapInfo(module.name, f"Attention to the reference, stage {index}", text, "query", "reference")
    kind, where = ("Long-distance", "spread evenly over the slice") if module.dilated else ("Short-distance", "of its window")
    text = f"Weights with which the chosen pixel attends to the pixels {where} in stage {index}, on gradient features: mean over heads, or one head."
    return MapInfo(module.name, f"{kind} attention, stage {index}", text, "query", "input")


def _require(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise InputError(f"Cohf-T: {name} must be one of {', '.join(map(str, allowed))}, not {value!r}.")


def _interpolate(lr: Tensor, scale: int, upsampling: Upsampling) -> Tensor:
    """(B, 1, h, w) to (B, 1, rh, rw), in at least float32 and back."""
    if upsampling == "lattice":
        return lattice_upsample(lr, scale)
    with torch.autocast(lr.device.type, enabled=False):
        wide = at_least_float32(lr)
        return F.interpolate(wide, scale_factor=scale, mode="bicubic", align_corners=False).to(lr.dtype)


ARCHITECTURES = MappingProxyType(
    {
        "cohft": Architecture(
            name="cohft",
            title="Cohf-T",
            paper=PAPER,
            build=CohfT,
            dimension=2,
            scales=(2, 3, 4),
            reference="needed",
            tiling="planes",
            halo=lambda _module: None,
            bytes_per_voxel=CohfT.bytes_per_voxel,
            global_statistics=True,
            channels_last=True,
            maps=CohfT.maps,
        )
    }
)
