"""Attention inside windows of a map, and the Swin Transformer blocks built on it. Maps are (B, H, W, C) throughout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_mrsr.networks.blocks.attention import SCORES, attend, in_pieces
from napari_mrsr.networks.blocks.moments import at_least_float32
from napari_mrsr.networks.blocks.pointwise import Pointwise
from napari_mrsr.networks.blocks.recording import Recorder, wanted
from napari_mrsr.networks.blocks.style import to_image, to_tokens

FORBIDDEN = -100.0
"""Added to the scores of tokens that meet in a window only because the map was rolled (not minus infinity, as published)."""


class RelativeBias(nn.Module):
    """Learned score for each offset between two tokens of a window, one per head.

    Parameters
    ----------
    window, heads : int
    """

    index: Tensor

    def __init__(self, window: int, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        offset = place[:, None] - place + window - 1
        self.register_buffer("index", offset[..., 0] * (2 * window - 1) + offset[..., 1], persistent=False)

    def forward(self) -> Tensor:
        """(heads, N, N), N the tokens of a window in row-major order; queries first."""
        return self.table[self.index].permute(2, 0, 1).contiguous()


def _attend(qkv: Tensor, window: int, bias: Tensor, scale: float) -> Tensor:
    """Attention in the windows of a map (B, H, W, 3, heads, d) whose sides are multiples of `window`; (B, H, W, heads d)."""
    b, height, width, _, heads, d = qkv.shape
    if in_pieces(qkv) and b > (count := max(1, SCORES // (height * width * heads * window**2))):
        # Before windows are cut, so that all of it stays in the cache.
        return torch.cat([_attend(part, window, bias, scale) for part in torch.split(qkv, count)])
    rows, columns = height // window, width // window
    split = qkv.reshape(b, rows, window, columns, window, 3, heads, d).permute(5, 0, 1, 3, 6, 2, 4, 7)
    q, k, v = split.reshape(3, b * rows * columns, heads, window * window, d).unbind()
    out = attend(q, k, v, bias, scale).view(b, rows, columns, heads, window, window, d).permute(0, 1, 4, 2, 5, 3, 6)
    return out.reshape(b, height, width, heads * d)


def window_attention(qkv: Tensor, window: int, bias: Tensor, scale: float, shift: int = 0) -> Tensor:
    """Multi-head attention inside windows.

    Parameters
    ----------
    qkv : (B, H, W, 3, heads, d) tensor
        Queries, keys, values; H and W multiples of `window` (at least two of them where there is a shift).
    window : int
    bias : (heads, N, N) tensor
        Added to the scores.
    scale : float
        Factor of the scores.
    shift : int
        Windows begin at this row and column; what is cut off on one side joins what is cut off on the other, with :data:`FORBIDDEN` between
        tokens that are no neighbours.

    Returns
    -------
    (B, H, W, heads d) tensor
    """
    if shift == 0:
        return _attend(qkv, window, bias, scale)
    late = (torch.arange(window, device=qkv.device) >= window - shift).expand(window, window)
    row, column = late.t().reshape(-1), late.reshape(-1)
    below, beside = FORBIDDEN * (row[:, None] != row), FORBIDDEN * (column[:, None] != column)

    def rejoin(inside: Tensor, edge: Tensor, axis: int) -> Tensor:
        return torch.cat([edge.narrow(axis, window - shift, shift), inside, edge.narrow(axis, 0, window - shift)], axis)

    # Only the last row and column of windows join far ends: four groups with one mask each instead of a mask for every window.
    bands = []
    for band, mask in zip(_inside_and_edge(qkv, window, shift, 1), (torch.zeros_like(below), below), strict=True):
        inside, edge = _inside_and_edge(band, window, shift, 2)
        alone, both = (_attend(part, window, bias + m, scale) for part, m in ((inside, mask), (edge, torch.minimum(mask, beside))))
        bands.append(rejoin(alone, both, 2))
    return rejoin(bands[0], bands[1], 1)


def _inside_and_edge(x: Tensor, window: int, shift: int, axis: int) -> tuple[Tensor, Tensor]:
    """Whole windows that begin at `shift`, and the one that takes in both ends of the axis."""
    n = x.shape[axis]
    ends = [x.narrow(axis, n - window + shift, window - shift), x.narrow(axis, 0, shift)]
    return x.narrow(axis, shift, n - window), torch.cat(ends, axis)


def keep_attention_row(recorder: Recorder, name: str, qkv: Tensor, window: int, bias: Tensor, scale: float, stride: int) -> None:
    """Record what the chosen pixel attends to in its (unshifted) window: (1, 1, window, window), placed where the window lies.

    Parameters
    ----------
    recorder : Recorder
        Its channel chooses a head; None: mean over the heads.
    name : str
    qkv, window, bias, scale
        As for :func:`window_attention`.
    stride : int
        Output pixels per token.
    """
    y, x = recorder.pixel(stride)
    top, left = y // window * window, x // window * window
    keys = at_least_float32(qkv[recorder.item, top : top + window, left : left + window, 1].flatten(0, 1))
    query = at_least_float32(qkv[recorder.item, y, x, 0])
    scores = scale * torch.einsum("hd,nhd->hn", query, keys) + bias[:, (y - top) * window + x - left]
    rows = scores.softmax(-1).view(1, -1, window, window)
    recorder.keep(name, recorder.one_channel(rows), stride, (stride * top, stride * left))


def perceptron(channels: int, ratio: float) -> nn.Sequential:
    """Two linear layers with a GELU between, `ratio` times wider inside."""
    hidden = int(channels * ratio)
    return nn.Sequential(Pointwise(channels, hidden), nn.GELU(), Pointwise(hidden, channels))


class SwinBlock(nn.Module):
    """``x + Attention(LN(x))``, then ``x + MLP(LN(x))``, attention in windows (Swin Transformer).

    Parameters
    ----------
    channels, heads, window, shift : int
    mlp_ratio : float
        Width inside the perceptron.
    scaled : bool
        Whether scores are multiplied by d^-1/2 (they are not in TransMRSR's encoder).
    show : (str, int) or None
        Map under which the attention of a chosen pixel can be seen, and output pixels per token.
    """

    def __init__(
        self, channels: int, heads: int, window: int, shift: int, mlp_ratio: float, scaled: bool, show: tuple[str, int] | None = None
    ) -> None:
        super().__init__()
        self.heads, self.window, self.shift, self.show = heads, window, shift, show
        self.scale = (channels // heads) ** -0.5 if scaled else 1.0
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = Pointwise(channels, 3 * channels)
        self.bias = RelativeBias(window, heads)
        self.project = Pointwise(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = perceptron(channels, mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in and out, (B, H, W, C)."""
        qkv = self.qkv(self.norm1(x)).view(*x.shape[:3], 3, self.heads, -1)
        bias = self.bias()
        if self.show is not None and (recorder := wanted(self.show[0])):
            keep_attention_row(recorder, self.show[0], qkv, self.window, bias, self.scale, self.show[1])
        x = x + self.project(window_attention(qkv, self.window, bias, self.scale, self.shift))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class PatchMerging(nn.Module):
    """Half the size: each 2 x 2 patch concatenated (columns of the patch first), LayerNorm, linear; (B, H, W, C) to (B, H/2, W/2, C')."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduce = Pointwise(4 * channels, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Merged map."""
        b, height, width, channels = x.shape
        patches = x.view(b, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5).flatten(3)
        y: Tensor = self.reduce(self.norm(patches))
        return y


class ResidualSwinStage(nn.Module):
    """RSTB: two Swin blocks, the second with shifted windows, a 3 x 3 convolution, plus the input.

    Parameters
    ----------
    resolution : int
        Side of the map; windows are no larger, and windows of that size are not shifted.
    channels, heads, window, mlp_ratio, scaled, show
        See :class:`SwinBlock`; `show` belongs to the first block, whose windows are not shifted.
    """

    def __init__(
        self, resolution: int, channels: int, heads: int, window: int, mlp_ratio: float, scaled: bool, show: tuple[str, int] | None = None
    ) -> None:
        super().__init__()
        shift = window // 2 if resolution > window else 0
        window = min(window, resolution)
        self.blocks = nn.Sequential(
            SwinBlock(channels, heads, window, 0, mlp_ratio, scaled, show), SwinBlock(channels, heads, window, shift, mlp_ratio, scaled)
        )
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in and out, (B, H, W, C)."""
        return x + to_tokens(self.conv(to_image(self.blocks(x))))


class EncoderLevel(nn.Module):
    """Residual Swin stage and patch merging (TransMRSR's eq. 2, 3); (B, H, W, C) to (B, H/2, W/2, C')."""

    def __init__(self, stage: ResidualSwinStage, merge: PatchMerging) -> None:
        super().__init__()
        self.stage, self.merge = stage, merge

    def forward(self, x: Tensor) -> Tensor:
        """Features of half the size."""
        y: Tensor = self.merge(self.stage(x))
        return y
