"""CFTN: 3D cross-scale feature transformer network for brain MR image super-resolution.

Reads top to bottom as the paper's figures do: cross-scale transformer (CST), mutual-projection feature enhancement module (MFEM), spatial
attention fusion module (SAFM), network. Equation numbers are the paper's; choices the paper leaves open are constructor options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks.architecture import Architecture, MapInfo
from napari_mrsr.networks.blocks.channel_attention import RCAB, ChannelAttention
from napari_mrsr.networks.blocks.cross_scale_transformer import CrossScaleTransformer, Fold, Match
from napari_mrsr.networks.blocks.noise import with_noise_level
from napari_mrsr.networks.blocks.recording import wanted
from napari_mrsr.networks.blocks.resample import cubic_upsample, voxel_shuffle

PAPER = "CFTN: 3D cross-scale feature transformer network for brain MR image super-resolution"
WINDOW = 8
"""LR voxels to which inference windows (attention blocks, pooling cells) are anchored; three of them span about a training patch."""

NOISE_GAIN = 20.0
"""Brings noise levels of some percent of the range to the magnitude of the image itself."""


def _zero(layer: nn.Conv3d) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class MFEM(nn.Module):
    """Mutual-projection feature enhancement module (eq. 4, 5).

    ``Y' = F_up(X) + CST(X)``, ``X' = F_down(Y')``: (B, C, X, Y, Z) to Y' at r times the size and X' at the input's size.
    """

    def __init__(self, channels: int, embed_channels: int, scale: int, prelu: bool, patch: int, stride: int, match: Match, fold: Fold) -> None:
        super().__init__()

        def activated(layer: nn.Module) -> nn.Module:
            return nn.Sequential(layer, nn.PReLU()) if prelu else layer

        kernel = 3 * scale
        self.up = activated(nn.ConvTranspose3d(channels, channels, kernel, stride=scale, padding=scale))
        self.cst = CrossScaleTransformer(channels, embed_channels, scale, patch, stride, match, fold)
        self.down = nn.Sequential(
            activated(nn.Conv3d(channels, channels, kernel, stride=scale, padding=scale)),
            activated(nn.Conv3d(channels, channels, 3, padding=1)),
        )
        if prelu:  # CSNLN follows each embedding with one too
            self.cst.embed_v, self.cst.embed_q, self.cst.embed_k = (activated(e) for e in (self.cst.embed_v, self.cst.embed_q, self.cst.embed_k))  # type: ignore[assignment]

    @torch.no_grad()
    def pass_through(self) -> None:
        """Set weights so that X' is X and Y' its linear interpolation; a little noise of the default start stays."""
        r = self.cst.scale
        taps = torch.arange(3 * r, dtype=torch.float32)
        linear = (1 - (taps - r - (r - 1) / 2).abs() / r).clamp_min(0)
        box = ((taps >= r) & (taps < 2 * r)).float() / r
        delta = torch.tensor([0.0, 1.0, 0.0])
        layers = [m for m in (*self.up.modules(), *self.down.modules()) if isinstance(m, (nn.Conv3d, nn.ConvTranspose3d))]
        for layer, tap in zip(layers, (linear, box, delta), strict=True):
            kernel = tap[:, None, None] * tap[:, None] * tap
            layer.weight.mul_(0.1).add_(torch.eye(layer.in_channels)[:, :, None, None, None] * kernel)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        for module in self.cst.embed_v.modules():
            if isinstance(module, nn.Conv3d):
                _zero(module)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (Y', X')."""
        # Attention first: who only gathers its input stops there.
        fine = self.cst(x) + self.up(x)
        return fine, self.down(fine)


class SAFM(nn.Module):
    """Spatial attention fusion module (eq. 9): ``Y_a * sigmoid(conv3([mean_c Y_a, max_c Y_a]))``, (B, C, X, Y, Z) to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 1, 3, padding=1)

    def forward(self, y: Tensor) -> Tensor:
        """Fused features."""
        pooled = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
        gate = torch.sigmoid(self.conv(pooled))
        if recorder := wanted("safm"):
            recorder.keep("safm", gate)
        return y * gate


class CFTN(nn.Module):
    """The network (paper's figure 1).

    Parameters
    ----------
    scale : int
        2, 3 or 4.
    channels : int
        48 in the paper.
    embed_channels : int or None
        Channels of Q and K; half of `channels` where None (24 in the paper).
    blocks : int
        Number of RCABs, 10.
    mfem : sequence of {"pre", "mid", "post"} or int
        RCABs after which an MFEM follows: "pre" the first, "mid" the middle one, "post" the last but one; empty for the baseline.
    safm : bool
        False adds Y and Y' without gating (ablation).
    ca_reduction : int
        16 as in RCAN (3 hidden filters); 8 reproduces the paper's table digit for digit.
    prelu : bool
        CSNLN's PReLU after each projection and embedding (six scalars per MFEM).
    patch, stride, match, fold
        See :class:`CrossScaleTransformer`.
    slope : float
        Of the first LeakyReLU.
    noise_channel : bool
        Take the noise level as a second input channel. Off in the paper.
    init : {"default", "residual"}
        Framework defaults, or a start as plain cubic interpolation with MFEMs that pass their input through (bilinear up, mean down,
        silent CST), which trains several times faster.
    """

    def __init__(
        self,
        scale: int = 2,
        channels: int = 48,
        embed_channels: int | None = None,
        blocks: int = 10,
        mfem: Sequence[str | int] = ("mid",),
        safm: bool = True,
        ca_reduction: int = 16,
        prelu: bool = False,
        patch: int = 3,
        stride: int = 2,
        match: Match = "literal",
        fold: Fold = "sum",
        slope: float = 0.2,
        noise_channel: bool = False,
        init: Literal["default", "residual"] = "default",
    ) -> None:
        super().__init__()
        self.scale, self.slope, self.noise_channel = scale, slope, noise_channel
        if blocks < 1:
            raise InputError(f"CFTN: blocks is the number of RCABs, at least 1, not {blocks}.")
        positions = {"pre": 1, "mid": max(1, blocks // 2), "post": max(1, blocks - 1)}
        unknown = [p for p in mfem if p not in positions and not (isinstance(p, int) and 1 <= p <= blocks)]
        if unknown:
            raise InputError(f"CFTN: an MFEM can follow {', '.join(positions)} or an RCAB from 1 to {blocks}, not {unknown[0]!r}.")
        after = sorted({positions[p] if isinstance(p, str) else p for p in mfem})
        if init not in ("default", "residual"):
            raise InputError(f"CFTN: init is default or residual, not {init!r}.")
        embed = max(1, channels // 2) if embed_channels is None else embed_channels
        self.head = nn.Conv3d(2 if noise_channel else 1, channels, 3, padding=1)
        self.rcabs = nn.ModuleList(RCAB(channels, ca_reduction) for _ in range(blocks))
        self.mfems = nn.ModuleDict({str(m): MFEM(channels, embed, scale, prelu, patch, stride, match, fold) for m in after})
        if len(after) > 1:
            for name, module in self.mfems.items():
                module.cst.suffix = f"-{name}"  # type: ignore[union-attr, assignment]
        self.fuse = nn.Conv3d(channels * (blocks + len(after)), channels, 3, padding=1)
        self.subpixel = nn.Conv3d(channels, channels * scale**3, 3, padding=1)
        self.safm = SAFM() if safm and after else None
        self.tail = nn.Conv3d(channels, 1, 3, padding=1)
        if init == "residual":
            _zero(self.tail)
            for module in self.mfems.values():
                module.pass_through()  # type: ignore[operator]

    def forward(self, lr: Tensor, reference: Tensor | None = None, noise_level: Tensor | float | None = None) -> Tensor:
        """Super-resolve.

        Parameters
        ----------
        lr : (B, 1, X, Y, Z) tensor
            Low-resolution volume in RAS order, intensities divided by its range.
        reference : None
            CFTN takes no second contrast.
        noise_level : tensor broadcastable to `lr`, float, or None
            Noise standard deviation in the units of `lr`; used only with `noise_channel` (None: 0).

        Returns
        -------
        (B, 1, rX, rY, rZ) tensor
        """
        x = lr
        if self.noise_channel:
            x = with_noise_level(lr, noise_level, NOISE_GAIN)
        x = F.leaky_relu(self.head(x), self.slope)
        features: list[Tensor] = []
        enhanced: Tensor | None = None
        recorder = wanted("channel-attention")
        gates: list[Tensor] | None = [] if recorder else None
        for index, rcab in enumerate(self.rcabs, start=1):
            x = rcab(x, gates)
            features.append(x)
            if str(index) in self.mfems:
                fine, x = self.mfems[str(index)](x)
                features.append(x)
                enhanced = fine if enhanced is None else enhanced + fine
        if recorder and gates is not None:
            recorder.keep("channel-attention", torch.stack(gates, 1))
        y = voxel_shuffle(self.subpixel(self.fuse(torch.cat(features, 1))), self.scale)
        if enhanced is not None:
            y = y + enhanced
        if self.safm is not None:
            y = self.safm(y)
        out: Tensor = cubic_upsample(lr, self.scale) + self.tail(y)
        return out

    def bytes_per_voxel(self) -> int:
        """Peak inference memory per LR voxel: kept features, their concatenation, and about five HR feature maps, in float32."""
        channels, maps = self.tail.in_channels, self.fuse.in_channels // self.tail.in_channels
        return 4 * channels * (2 * maps + 4 + 5 * self.scale**3)

    def cross_scale(self) -> tuple[CrossScaleTransformer, ...]:
        """Its attention, in the order in which the forward pass comes to it."""
        return tuple(mfem.cst for mfem in self.mfems.values())  # type: ignore[misc]

    def set_windows(self, window: int | None) -> None:
        """Pool and attend over windows anchored to multiples of `window` LR voxels (None: over the whole input, as published).

        Raises
        ------
        InputError
            If windows cannot be filled with query patches.
        """
        for cst in self.cross_scale():
            if window is not None and window % cst.stride:
                raise InputError(f"CFTN: windows of {window} voxels need a stride of the patches that divides them, not {cst.stride}.")
        for module in self.modules():
            if isinstance(module, ChannelAttention):
                module.cell = window
            elif isinstance(module, CrossScaleTransformer):
                module.window = window


ABLATIONS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "no MFEM": {"mfem": (), "safm": False},
        "MFEM without SAFM": {"safm": False},
        "MFEM pre": {"mfem": ("pre",)},
        "MFEM mid": {"mfem": ("mid",)},
        "MFEM post": {"mfem": ("post",)},
        "MFEM pre, mid": {"mfem": ("pre", "mid")},
        "MFEM pre, post": {"mfem": ("pre", "post")},
        "MFEM mid, post": {"mfem": ("mid", "post")},
        "MFEM pre, mid, post": {"mfem": ("pre", "mid", "post")},
    }
)
"""Constructor options of the paper's tables 1 and 2; "MFEM mid" is the full network."""


def maps(network: CFTN) -> tuple[MapInfo, ...]:
    """What `network` can show: gates of its SAFM and RCABs, and the attention of each of its MFEMs."""
    shown = []
    if network.safm is not None:
        text = "Gate of the spatial attention fusion module: how much of the fused features goes on to the result, from 0 (nothing) to 1 (all)."
        shown.append(MapInfo("safm", "Spatial gate (SAFM)", text))
    for position, module in network.mfems.items():
        suffix = module.cst.suffix  # type: ignore[union-attr]
        place = f", after RCAB {position}"
        text = (
            "Where in the image the patch around the chosen voxel finds its detail: weights over the larger patches that it is rebuilt from by "
            "the cross-scale transformer; they sum to 1."
        )
        shown.append(MapInfo(f"cst-attention{suffix}", f"Cross-scale attention{place}", text, "query"))
        text = (
            "How widely each patch spreads its cross-scale attention: entropy of its weights as a share of the largest possible, from 0 (one patch) "
            "to 1 (all patches alike)."
        )
        shown.append(MapInfo(f"cst-entropy{suffix}", f"Spread of cross-scale attention{place}", text))
    text = "Gate of each feature channel (column) in each residual channel attention block (row), from 0 to 1; in windows, the mean over their cells."
    shown.append(MapInfo("channel-attention", "Channel gates", text, "table"))
    return tuple(shown)


ARCHITECTURES = MappingProxyType(
    {
        "cftn": Architecture(
            name="cftn",
            title="CFTN",
            paper=PAPER,
            build=CFTN,
            scales=(2, 3, 4),
            size_multiple=WINDOW,
            halo=lambda _module: 3 * WINDOW,
            bytes_per_voxel=CFTN.bytes_per_voxel,
            global_statistics=True,
            window=WINDOW,
            attention=CFTN.cross_scale,
            channels_last=True,
            maps=maps,
        )
    }
)
