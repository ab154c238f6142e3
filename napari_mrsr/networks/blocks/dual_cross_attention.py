"""DCAMSR's dual cross-attention transformer (DCAT): spatial and channel attention from one image's tokens to another's.

Equation numbers are those of the DCAMSR paper; where it and its public code differ, the code is followed (NETWORKS 3.3, 3.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks.architecture import MapInfo
from napari_mrsr.networks.blocks.attention import attend
from napari_mrsr.networks.blocks.moments import at_least_float32
from napari_mrsr.networks.blocks.pointwise import Pointwise
from napari_mrsr.networks.blocks.recording import Recorder, wanted

SHORTEST = 1e-12
"""Least length that is divided by."""
LEVEL_NAMES = {1: "full size", 2: "half size", 3: "quarter size"}
"""Level to what its tokens are to the output."""


def resample_projection(weight: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Weights of a projection over the pixels of one grid, for another grid that covers the same field of view.

    Bilinear over the grid (antialiased where it shrinks), scaled by the number of pixels, so that the projection of a smooth image keeps its
    value; the sum over pixels, which is the projection of a constant image, is kept exactly.

    Parameters
    ----------
    weight : (P, H W) tensor
    grid, size : (int, int)
        H, W and H', W'.

    Returns
    -------
    (P, H' W') tensor
    """
    maps = weight.view(1, -1, *grid)
    resized = F.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=True)[0].flatten(1)
    resized = resized * (weight.shape[1] / resized.shape[1])
    # Additive, because a row's sum may be anywhere near zero.
    return resized + (weight.sum(1, keepdim=True) - resized.sum(1, keepdim=True)) / resized.shape[1]


class DualCrossAttention(nn.Module):
    """DCA (eq. 1 to 5): shared queries and keys, one branch that mixes positions and one that mixes channels.

    Scores are inner products of queries and keys that have unit length *along the tokens*, times a learned temperature per head. The
    spatial branch attends to `projection` learned mixtures of the reference's tokens, so its cost is linear in the number of pixels.

    Parameters
    ----------
    channels, heads : int
        C = 64 in 8 heads of d = 8.
    grid : (int, int)
        H and W of the token field; the projection has one weight per pixel. Fields of other sizes are attended with resampled weights.
    projection : int
        Learned mixtures of tokens, 64.
    dropout : float
        On both kinds of attention weights, in training only.
    channel_attention, spatial_attention : bool
        False leaves a branch out; the other then has all C output channels.
    exact_layout : bool
        The public code reads the spatial result, stored (d, heads, N), as (N, C) without undoing the permutation, which mixes positions and
        channels. True does the same (weights trained by it need that); False keeps every result at its own pixel.
    level : int
        1, 2, 3, ... for the names of the maps; a token is ``2 ** (level - 1)`` output pixels wide.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        grid: tuple[int, int],
        projection: int = 64,
        dropout: float = 0.1,
        channel_attention: bool = True,
        spatial_attention: bool = True,
        exact_layout: bool = True,
        level: int = 1,
    ) -> None:
        super().__init__()
        branches = channel_attention + spatial_attention
        if branches == 0:
            raise InputError("Dual cross-attention needs channel attention or spatial attention: leave at least one of them on.")
        if channels % (2 * heads):
            raise InputError(f"{channels} channels do not split into {heads} heads of even width: use a multiple of {2 * heads}.")
        self.heads, self.grid, self.dropout, self.exact_layout, self.level = heads, grid, dropout, exact_layout, level
        self.q = Pointwise(channels, channels)
        self.kvv = Pointwise(channels, (1 + branches) * channels)
        self.temperature_channel = nn.Parameter(torch.ones(heads, 1, 1)) if channel_attention else None
        self.out_channel = Pointwise(channels, channels // branches) if channel_attention else None
        self.temperature_spatial = nn.Parameter(torch.ones(heads, 1, 1)) if spatial_attention else None
        self.out_spatial = Pointwise(channels, channels // branches) if spatial_attention else None
        self.project = nn.Linear(grid[0] * grid[1], projection) if spatial_attention else None

    def forward(self, x: Tensor, reference: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Features of the reference for every token.

        Parameters
        ----------
        x, reference : (B, N, C) tensors
            Normalised tokens in row-major pixel order.
        size : (int, int) or None
            Height and width of the token fields; None: `grid`.

        Returns
        -------
        (B, N, C) tensor
        """
        projected = [self.q(x), *torch.split(self.kvv(reference), self.q.out_features, -1)]
        parts = []
        # Lengths along tens of thousands of tokens overflow, and their products vanish, in half precision.
        with torch.autocast(x.device.type, enabled=False):
            q, k, *values = (at_least_float32(part) for part in projected)
            # Dividing products by the lengths costs less than dividing tokens.
            lengths = [torch.linalg.vector_norm(part, dim=1, keepdim=True).clamp(min=SHORTEST) for part in (q, k)]
            if self.temperature_spatial is not None:
                parts.append(self._spatial(q, k, values[-1], lengths, size or self.grid))
            if self.temperature_channel is not None:
                parts.append(self._channel(q, k, values[0], lengths))
        out = (self.out_spatial, self.out_channel)
        return torch.cat([layer(part.to(x.dtype)) for layer, part in zip((o for o in out if o is not None), parts, strict=True)], -1)

    def _heads(self, tokens: Tensor) -> Tensor:
        """(B, N, C) to (B, h, N, d), a view."""
        return tokens.view(*tokens.shape[:2], self.heads, -1).transpose(1, 2)

    def _channel(self, q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[Tensor]) -> Tensor:
        """Eq. 4: (B, N, C) each, and the lengths (B, 1, C) of q's and k's channels, to (B, N, C)."""
        assert self.temperature_channel is not None
        b, _, channels = q.shape
        alike = (q.transpose(1, 2) @ k) / (lengths[0].transpose(1, 2) * lengths[1])
        d = channels // self.heads
        own = alike.view(b, self.heads, d, self.heads, d).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
        weights = torch.softmax(own * self.temperature_channel.to(q.dtype), dim=-1)
        if recorder := wanted(f"channel-attention-{self.level}"):
            recorder.keep(f"channel-attention-{self.level}", weights.flatten(1, 2))
        weights = F.dropout(weights, self.dropout, self.training)
        # Each head's matrix on the diagonal of one for all channels, so that tokens stay where they are.
        whole = torch.diag_embed(weights.permute(0, 2, 3, 1), dim1=1, dim2=3).reshape(b, channels, channels)
        return v @ whole.transpose(1, 2)

    def _spatial(self, q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Eq. 3: (B, N, C) each, and the lengths (B, 1, C) of q's and k's channels, to (B, N, C)."""
        assert self.temperature_spatial is not None
        assert self.project is not None
        weight, bias = self.project.weight.to(q.dtype), self.project.bias.to(q.dtype)[:, None]
        density = 1.0
        if size != self.grid:
            # Unit length over more tokens makes each of them smaller: brought back, so that scores do not depend on the sampling density.
            density = math.sqrt(math.prod(size) / math.prod(self.grid))
            weight = resample_projection(weight, self.grid, size)
        keys, values = weight @ k * (density / lengths[1]) + bias, weight @ v + bias
        # Instead of the queries, which are many.
        keys = keys * (density / lengths[0]) * self.temperature_spatial.to(q.dtype).repeat_interleave(q.shape[-1] // self.heads).view(1, 1, -1)
        query, keys, values = (self._heads(part) for part in (q, keys, values))
        if recorder := wanted(f"spatial-{self.level}"):
            recorder.keep(f"spatial-{self.level}", self._row(recorder, query, keys, weight, size), 2 ** (self.level - 1))
        y = attend(query, keys, values, dropout=self.dropout if self.training else 0.0)
        if self.exact_layout:
            return y.permute(0, 3, 1, 2).reshape(y.shape[0], y.shape[2], -1)
        return y.transpose(1, 2).flatten(2)

    @torch.no_grad()
    def _row(self, recorder: Recorder, query: Tensor, keys: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
        """Weight of every reference pixel in the result at the recorder's query, (1, 1, H, W)."""
        y, x = recorder.pixel(2 ** (self.level - 1))
        scores = query[recorder.item, :, y * size[1] + x, None] @ keys[recorder.item].transpose(-2, -1)
        rows = (torch.softmax(scores, dim=-1) @ weight).view(1, self.heads, *size)
        if recorder.channel is None:
            return rows.mean(1, keepdim=True)
        return rows[:, recorder.channel : recorder.channel + 1]

    def maps(self, on: Literal["result", "reference"]) -> list[MapInfo]:
        """What it can show; `on` is the image that serves as the reference."""
        infos, size = [], LEVEL_NAMES[self.level]
        if self.project is not None:
            text = "Weight of each reference pixel in what spatial attention collects for the chosen pixel; mean over heads, or one head."
            if self.exact_layout:
                text += " In the published memory layout the collected values are then handed to other pixels than the chosen one."
            infos.append(MapInfo(f"spatial-{self.level}", f"Spatial attention, {size}", text, "query", on, signed=True))
        if self.temperature_channel is not None:
            text = "How much each channel of the reference (columns) goes into each channel of the result (rows), one block of rows per head."
            infos.append(MapInfo(f"channel-attention-{self.level}", f"Channel attention, {size}", text, "table", on))
        return infos


class DCAT(nn.Module):
    """Dual cross-attention transformer: ``X = F + DCA(LN(F), LN(F_ref))`` (eq. 6), ``X + FFN(X)`` (eq. 7 without its second LN).

    Parameters
    ----------
    channels : int
    *attention, **options
        See :class:`DualCrossAttention`.
    """

    def __init__(self, channels: int, heads: int, grid: tuple[int, int], **options: int | float | bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = DualCrossAttention(channels, heads, grid, **options)  # type: ignore[arg-type]
        self.ffn = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """Texture of `reference` for `x`, all (B, C, H, W)."""
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        others = tokens if reference is x else self.norm(reference.flatten(2).transpose(1, 2))
        attended = self.attention(tokens, others, (x.shape[2], x.shape[3]))
        x = x + attended.transpose(1, 2).reshape(x.shape)
        out: Tensor = x + self.ffn(x)
        return out
