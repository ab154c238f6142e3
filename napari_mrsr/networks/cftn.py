"""CFTN: 3D cross-scale feature transformer network for brain MR image super-resolution.

Reads top to bottom as the paper's figures do: cross-scale transformer (CST), mutual-projection feature enhancement module (MFEM), spatial
attention fusion module (SAFM), network. Equation numbers are the paper's; choices the paper leaves open are constructor options.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks.architecture import Architecture
from napari_mrsr.networks.blocks.channel_attention import RCAB, ChannelAttention
from napari_mrsr.networks.blocks.cross_scale import cross_scale_attention
from napari_mrsr.networks.blocks.patches import extract_patches, fold_patches
from napari_mrsr.networks.blocks.resample import cubic_downsample, cubic_upsample, voxel_shuffle

PAPER = "CFTN: 3D cross-scale feature transformer network for brain MR image super-resolution"
WINDOW = 8
"""LR voxels to which inference windows (attention blocks, pooling cells) are anchored; three of them span about a training patch."""

NOISE_GAIN = 20.0
"""Brings noise levels of some percent of the range to the magnitude of the image itself."""

Match = Literal["literal", "cosine10"]
Fold = Literal["sum", "mean"]


class CrossScaleTransformer(nn.Module):
    """CST: every LR patch is rebuilt from the HR-sized patches whose downsampled copies resemble it (eq. 6 to 8).

    Parameters
    ----------
    channels, embed_channels : int
        Channels of V (48) and of Q and K (24).
    scale : int
        r.
    patch, stride : int
        p = 3 and q = 2.
    match : {"literal", "cosine10"}
        Inner products as printed, or CSNLN's L2-normalised keys times 10.
    fold : {"sum", "mean"}
        Overlaps summed as printed, or divided by their count.

    Attributes
    ----------
    window : int or None
        None: every query sees the whole input, as published. An integer: queries in blocks of that edge see one more block on each side.
    """

    def __init__(
        self, channels: int, embed_channels: int, scale: int, patch: int = 3, stride: int = 2, match: Match = "literal", fold: Fold = "sum"
    ) -> None:
        super().__init__()
        self.scale, self.patch, self.stride, self.match, self.fold = scale, patch, stride, match, fold
        self.embed_v = nn.Conv3d(channels, channels, 1)
        self.embed_q = nn.Conv3d(channels, embed_channels, 1)
        self.embed_k = nn.Conv3d(channels, embed_channels, 1)
        self.window: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to (B, C, rX, rY, rZ)."""
        if self.window is None or max(x.shape[2:]) <= 3 * self.window:
            return self._attend(x, 0, x.shape[2:])
        return self._in_windows(x, self.window)

    def _in_windows(self, x: Tensor, window: int) -> Tensor:
        b, channels, *size = x.shape
        counts = [math.ceil(n / window) for n in size]
        padding = [pad for n, count in zip(reversed(size), reversed(counts), strict=True) for pad in (window, (count + 1) * window - n)]
        regions = extract_patches(F.pad(x, padding, mode="replicate"), 3 * window, window)
        r, edge = self.scale, self.scale * (window + self.patch - self.stride)
        out = x.new_zeros(b, channels, *((n - 1) * r * window + edge for n in counts))
        # One plane of windows at a time keeps their overlapping copies small.
        for i in range(counts[0]):
            plane = regions[:, i].flatten(0, 2)
            blocks = self._attend(plane, window, (window,) * 3, crop=False)
            pieces = blocks.view(b, 1, counts[1], counts[2], channels, edge, edge, edge)
            fold_patches(pieces, out[:, :, i * r * window : i * r * window + edge], r * window)
        return self._normalise(out)[:, :, : r * size[0], : r * size[1], : r * size[2]]

    def _attend(self, x: Tensor, start: int, size: Sequence[int], crop: bool = True) -> Tensor:
        """Rebuild the queries at ``start .. start + size`` of `x` from the keys of all of `x`."""
        r, p, q = self.scale, self.patch, self.stride
        coarse = [math.ceil(n / r) for n in x.shape[2:]]
        high = [pad for n, z in zip(reversed(x.shape[2:]), reversed(coarse), strict=True) for pad in (0, r * z - n)]
        filled = F.pad(x, high, mode="replicate")
        _, k_pad = _same_padding(coarse, p, q)
        keys = extract_patches(F.pad(self.embed_k(cubic_downsample(filled, r)), k_pad), p, q).flatten(4).flatten(1, 3)
        values = extract_patches(F.pad(self.embed_v(filled), [r * n for n in k_pad]), r * p, r * q).flatten(1, 3)
        queries = self.embed_q(x)
        if crop:
            q_left, q_pad = _same_padding(x.shape[2:], p, q)
            patches = extract_patches(F.pad(queries, q_pad), p, q).flatten(4)
        else:
            inner = slice(start, start + size[0] + p - q)
            q_left = [0, 0, 0]
            patches = extract_patches(queries[:, :, inner, inner, inner], p, q).flatten(4)
        if self.match == "cosine10":
            keys = 10 * keys / keys.norm(dim=-1, keepdim=True).clamp_min(1e-4)
        out = cross_scale_attention(patches, keys, values, r * q)
        if not crop:
            return out
        left = [r * n for n in q_left]
        return self._normalise(out)[:, :, left[0] : left[0] + r * size[0], left[1] : left[1] + r * size[1], left[2] : left[2] + r * size[2]]

    def _normalise(self, folded: Tensor) -> Tensor:
        if self.fold == "sum":
            return folded
        edge, step = self.scale * self.patch, self.scale * self.stride
        for axis in (2, 3, 4):
            n = folded.shape[axis]
            position = torch.arange(n, device=folded.device)
            first = torch.clamp((position - edge) // step + 1, min=0)
            last = torch.clamp(position // step, max=(n - edge) // step)
            shape = [1] * 5
            shape[axis] = n
            folded = folded / (last - first + 1).to(folded.dtype).view(shape)
        return folded


def _same_padding(size: Sequence[int], patch: int, stride: int) -> tuple[list[int], list[int]]:
    """Left pads per axis and F.pad's list, zero padding in CSNLN's "same" style (less on the left)."""
    totals = [max(0, (math.ceil(n / stride) - 1) * stride + patch - n) for n in size]
    left = [t // 2 for t in totals]
    return left, [pad for t, n in zip(reversed(totals), reversed(left), strict=True) for pad in (n, t - n)]


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
        fine = self.up(x) + self.cst(x)
        return fine, self.down(fine)


class SAFM(nn.Module):
    """Spatial attention fusion module (eq. 9): ``Y_a * sigmoid(conv3([mean_c Y_a, max_c Y_a]))``, (B, C, X, Y, Z) to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 1, 3, padding=1)

    def forward(self, y: Tensor) -> Tensor:
        """Fused features."""
        pooled = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
        return y * torch.sigmoid(self.conv(pooled))


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
        positions = {"pre": 1, "mid": blocks // 2, "post": blocks - 1}
        unknown = [p for p in mfem if p not in positions and not (isinstance(p, int) and 1 <= p <= blocks)]
        if unknown:
            raise InputError(f"CFTN: an MFEM can follow {', '.join(positions)} or an RCAB from 1 to {blocks}, not {unknown[0]!r}.")
        after = sorted({positions[p] if isinstance(p, str) else p for p in mfem})
        embed = channels // 2 if embed_channels is None else embed_channels
        self.head = nn.Conv3d(2 if noise_channel else 1, channels, 3, padding=1)
        self.rcabs = nn.ModuleList(RCAB(channels, ca_reduction) for _ in range(blocks))
        self.mfems = nn.ModuleDict({str(m): MFEM(channels, embed, scale, prelu, patch, stride, match, fold) for m in after})
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
            level = torch.as_tensor(0.0 if noise_level is None else noise_level, dtype=lr.dtype, device=lr.device)
            x = torch.cat([lr, NOISE_GAIN * level.expand_as(lr)], 1)
        x = F.leaky_relu(self.head(x), self.slope)
        features: list[Tensor] = []
        enhanced: Tensor | None = None
        for index, rcab in enumerate(self.rcabs, start=1):
            x = rcab(x)
            features.append(x)
            if str(index) in self.mfems:
                fine, x = self.mfems[str(index)](x)
                features.append(x)
                enhanced = fine if enhanced is None else enhanced + fine
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

    def set_windows(self, window: int | None) -> None:
        """Pool and attend over windows anchored to multiples of `window` LR voxels (None: over the whole input, as published)."""
        for module in self.modules():
            if isinstance(module, ChannelAttention):
                module.cell = window
            elif isinstance(module, CrossScaleTransformer):
                module.window = window


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
            maps=("safm",),
        )
    }
)
