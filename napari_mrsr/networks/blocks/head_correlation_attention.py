"""Cohf-T's basic attention module: heads that attend to tokens, then to one another (paper's section 3.2.1, NETWORKS 4.4, 4.5)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks.blocks.attention import attend
from napari_mrsr.networks.blocks.moments import at_least_float32
from napari_mrsr.networks.blocks.recording import Recorder, wanted

FIRST_PENALTY = 8.0
"""Penalty per squared distance with which training begins."""


def keep_variance(layer: Any, gain: float = 1.0) -> None:
    """Start a convolution so that its output varies as its input does, times `gain`, around zero."""
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    nn.init.zeros_(layer.bias)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel, (B, C, H, W) to the same."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalised features."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResidualMLP(nn.Module):
    """``x + conv1(GELU(LN(conv1(LN(x)))))`` on (B, C, H, W).

    Parameters
    ----------
    channels : int
    expansion : int
        Hidden channels per channel.
    """

    def __init__(self, channels: int, expansion: int = 1) -> None:
        super().__init__()
        hidden = expansion * channels
        self.layers = nn.Sequential(
            ChannelNorm(channels), nn.Conv2d(channels, hidden, 1), ChannelNorm(hidden), nn.GELU(), nn.Conv2d(hidden, channels, 1)
        )

    @torch.no_grad()
    def reset(self, gain: float) -> None:
        """Start with a branch `gain` times as loud as the framework's."""
        for parameter in self.layers[-1].parameters():
            parameter.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in and out."""
        y: Tensor = self.layers(x)
        return x + y


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Extend the high ends of the last two axes by mirroring about the last pixel (repeating it where the axis is too short to mirror)."""
    for axis in (2, 3):
        size = x.shape[axis]
        missing = -size % multiple
        if missing:
            more = [missing if a == axis else -1 for a in range(4)]
            extra = x.narrow(axis, size - 1 - missing, missing).flip(axis) if missing < size else x.narrow(axis, size - 1, 1).expand(more)
            x = torch.cat([x, extra], axis)
    return x


def to_windows(x: Tensor, window: int | None, dilated: bool = False) -> Tensor:
    """Cut a map into windows of g x g tokens.

    Parameters
    ----------
    x : (B, C, H, W) tensor
        H and W are multiples of g.
    window : int or None
        g; None takes the whole map as one window.
    dilated : bool
        False: compact windows (short-distance, fig. 4a). True: windows of points H/g and W/g apart (long-distance, fig. 4b).

    Returns
    -------
    (B n, T, C) tensor
        n windows of T tokens per item.
    """
    b, c, h, w = x.shape
    if window is None:
        return x.flatten(2).transpose(1, 2)
    g = window
    if dilated:
        pieces = x.reshape(b, c, g, h // g, g, w // g).permute(0, 3, 5, 2, 4, 1)
    else:
        pieces = x.reshape(b, c, h // g, g, w // g, g).permute(0, 2, 4, 3, 5, 1)
    return pieces.reshape(-1, g * g, c)


def from_windows(tokens: Tensor, size: tuple[int, int], window: int | None, dilated: bool = False) -> Tensor:
    """Inverse of :func:`to_windows`: (B n, T, C) to (B, C, H, W) with ``size = (H, W)``."""
    h, w = size
    c = tokens.shape[2]
    if window is None:
        return tokens.transpose(1, 2).reshape(-1, c, h, w)
    g = window
    if dilated:
        pieces = tokens.reshape(-1, h // g, w // g, g, g, c).permute(0, 5, 3, 1, 4, 2)
    else:
        pieces = tokens.reshape(-1, h // g, w // g, g, g, c).permute(0, 5, 1, 3, 2, 4)
    return pieces.reshape(-1, c, h, w)


def head_correlation(q: Tensor, k: Tensor, v: Tensor, inter_head: bool = True) -> Tensor:
    """Attention within each head (eq. 3), then between the heads of each token (eq. 4, 5).

    ``vhat^(m) = softmax(q^(m) k^(m)T / sqrt(d')) v^(m)``; ``A_n = softmax_j(<vhat_n^(i), vhat_n^(j)>)``;
    ``u_n^(m) = sum_j (I + A_n)_mj vhat_n^(j)`` with the identity matrix I. In at least float32, whatever the type of the input.

    Parameters
    ----------
    q, k, v : (B, M, N, d') tensors
        Queries, keys and values of M heads. Queries and keys may be wider than values.
    inter_head : bool
        False leaves eq. 4 and 5 out (``u = vhat``).

    Returns
    -------
    (B, N, M d') tensor
        Heads side by side.
    """
    with torch.autocast(q.device.type, enabled=False):
        q, k, values = (at_least_float32(t) for t in (q, k, v))
        values = attend(q, k, values, scale=q.shape[-1] ** -0.5).transpose(1, 2)
        if inter_head:
            weights = torch.softmax(values @ values.transpose(2, 3), -1)
            values = values + weights @ values
    return values.flatten(2).to(v.dtype)


class DistancePenalty(nn.Module):
    """Lets heads prefer tokens that lie near: ``-s_m |i - j|^2`` on the logits of head m, with a learnt s_m > 0 and distances in tokens.

    Expanded into products of coordinates, so that queries and keys grow by three channels and no matrix of token pairs is needed; the part that
    depends on the query alone is left out, since a softmax does not see it.

    Parameters
    ----------
    heads : int
        M. All begin at their own place.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.log_slope = nn.Parameter(torch.full((heads,), math.log(FIRST_PENALTY)))

    def forward(self, q: Tensor, k: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(B, M, N, d') queries and keys of h x w tokens, ``size = (h, w)``, to (B, M, N, d' + 3) each, in at least float32."""
        wide = torch.promote_types(q.dtype, torch.float32)
        axes = (torch.arange(n, dtype=wide, device=q.device) - (n - 1) / 2 for n in size)
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
        width = q.shape[-1]
        # Attention divides the logits by the root of the new width.
        slope = (self.log_slope.exp() * math.sqrt(width + 3)).to(wide).view(-1, 1, 1)
        of_query = torch.cat([2 * slope * places, -slope.expand(-1, len(places), 1)], -1)
        of_key = torch.cat([places, places.square().sum(-1, keepdim=True)], -1)
        q = torch.cat([q.to(wide) * math.sqrt((width + 3) / width), of_query.expand(len(q), -1, -1, -1)], -1)
        return q, torch.cat([k.to(wide), of_key.expand(*k.shape[:2], -1, -1)], -1)


class HeadCorrelationAttention(nn.Module):
    """Basic attention module ``O = X1 + conv3(fold(u))`` (paper's figure 3b).

    Maps whose size does not fit windows and patches are mirrored beyond their high ends and cut again before the last convolution.

    Parameters
    ----------
    channels : int
        d, with ``d patch^2`` a multiple of `heads`.
    heads : int
        M.
    patch : int
        p: a token is a patch of p x p pixels of X1.
    ratio : int
        rho: pixels of X2 per pixel of X1.
    window : int or None
        g: tokens attend within windows of g x g tokens. None: all attend to all.
    dilated : bool
        Long-distance windows; see :func:`to_windows`.
    inter_head : bool
        Whether heads attend to one another.
    distance_penalty : bool
        Whether heads prefer near tokens (:class:`DistancePenalty`; not in the paper). For attention without windows.
    name : str
        Of the map that it can record.
    stride : int
        Output pixels of the network per pixel of X1, for that map.
    """

    def __init__(
        self,
        channels: int,
        heads: int = 4,
        patch: int = 1,
        ratio: int = 1,
        window: int | None = None,
        dilated: bool = False,
        inter_head: bool = True,
        distance_penalty: bool = False,
        name: str = "",
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.heads, self.patch, self.ratio, self.window, self.dilated, self.inter_head = heads, patch, ratio, window, dilated, inter_head
        self.name, self.stride = name, stride
        if distance_penalty and window:
            raise InputError("Attention within windows knows no penalty on the distance.")
        width = channels * patch**2
        if width % heads:
            raise InputError(f"Attention with {heads} heads needs token widths that are multiples of {heads}, not {channels} x {patch} x {patch}.")
        self.embed_1 = _embedding(channels, 1)
        self.embed_2 = _embedding(channels, ratio)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.post = nn.Conv2d(channels, channels, 3, padding=1)
        self.near = DistancePenalty(heads) if distance_penalty else None

    def reset(self, gain: float) -> None:
        """Start as a copy of the tokens attended to, and with a branch of loudness `gain`; the projections would scramble patches."""
        for embedding in (self.embed_1, self.embed_2):
            keep_variance(embedding[1])
        for projection in (self.query, self.key, self.value):
            nn.init.eye_(projection.weight)
            nn.init.zeros_(projection.bias)
        keep_variance(self.post, gain)

    def forward(self, x1: Tensor, x2: Tensor | None = None) -> Tensor:
        """Enhance `x1` by what `x2` knows.

        Parameters
        ----------
        x1 : (B, d, h, w) tensor
        x2 : (B, d, rho h, rho w) tensor or None
            None: `x1` itself.

        Returns
        -------
        (B, d, h, w) tensor
        """
        h, w = x1.shape[2:]
        multiple = self.patch * (self.window or 1)
        x2 = x1 if x2 is None else x2
        target, context = (
            F.pixel_unshuffle(e, self.patch)
            for e in (
                self.embed_1(pad_to_multiple(x1, multiple)),
                self.embed_2(pad_to_multiple(x2, multiple * self.ratio)),
            )
        )
        size = (target.shape[2], target.shape[3])
        target, context = (to_windows(t, self.window, self.dilated) for t in (target, context))
        q, k, v = self._split(self.query(target)), self._split(self.key(context)), self._split(self.value(context))
        if self.near is not None:
            q, k = self.near(q, k, size)
        if recorder := wanted(self.name):
            self._record(recorder, q, k, size, (math.ceil(h / self.patch), math.ceil(w / self.patch)))
        u = from_windows(head_correlation(q, k, v, self.inter_head), size, self.window, self.dilated)
        y: Tensor = self.post(F.pixel_shuffle(u, self.patch)[:, :, :h, :w])
        return x1 + y

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, N, M d') to (B, M, N, d')."""
        return tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)

    def _record(self, recorder: Recorder, q: Tensor, k: Tensor, size: tuple[int, int], kept: tuple[int, int]) -> None:
        """Keep the attention of the chosen pixel's token: its row of eq. 3 on the lattice of tokens, zero outside its window."""
        stride = self.stride * self.patch
        row, column = recorder.pixel(stride)
        tokens = torch.arange(size[0] * size[1], device=q.device).view(1, 1, *size)
        windows = to_windows(tokens, self.window, self.dilated)[..., 0]
        window, position = (windows == row * size[1] + column).nonzero()[0].tolist()
        item = recorder.item * len(windows) + window
        wide = torch.promote_types(q.dtype, torch.float32)
        logits = (k[item].to(wide) * q[item, :, position, None].to(wide)).sum(-1) / math.sqrt(q.shape[-1])
        weights = torch.softmax(logits, -1)
        if recorder.channel is not None and not 0 <= recorder.channel < self.heads:
            raise InputError(f"There is no attention head {recorder.channel}: use 0 to {self.heads - 1}, or none for their mean.")
        chosen = weights.mean(0) if recorder.channel is None else weights[recorder.channel]
        values = torch.zeros(size[0] * size[1], dtype=wide, device=q.device).index_copy(0, windows[window], chosen)
        recorder.keep(self.name, values.view(1, 1, *size)[:, :, : kept[0], : kept[1]], stride)


def _embedding(channels: int, ratio: int) -> nn.Sequential:
    return nn.Sequential(ChannelNorm(channels), nn.Conv2d(channels, channels, ratio, stride=ratio), ChannelNorm(channels), nn.GELU())
