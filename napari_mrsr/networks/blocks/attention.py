"""Attention of queries to a few keys, in the way that suits the device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_mrsr.networks.blocks.moments import at_least_float32

FEW_KEYS = 256
"""Fused kernels on a CPU are made for longer rows of scores."""
SCORES = 1 << 20
"""Scores computed at a time on a CPU: they stay in its cache."""
LAUNCH = 65_535
"""Rows given to one fused kernel: CUDA's take no more."""


def in_pieces(x: Tensor) -> bool:
    """Whether attention to few keys is best computed piece by piece from plain products: on a CPU, where no gradients are wanted."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float = 1.0, dropout: float = 0.0) -> Tensor:
    """``softmax(scale q k^T + bias) v``, scores in at least float32.

    Parameters
    ----------
    q : (B, heads, N, d) tensor
    k : (B, heads, M, d) tensor
    v : (B, heads, M, e) tensor
        e at most d.
    bias : (heads, N, M) tensor, optional
        Added to the scores.
    scale, dropout : float
        Factor of the scores, and share of the weights that is left out (in training).

    Returns
    -------
    (B, heads, N, e) tensor
    """
    width = v.shape[3]
    if not in_pieces(q) or dropout or k.shape[2] > FEW_KEYS:
        mask = None if bias is None else bias[None].to(q.dtype)
        v = F.pad(v, (0, q.shape[3] - width))  # the fast kernels need equal widths
        parts = zip(*(torch.split(t, LAUNCH) for t in (q, k, v)), strict=True)
        outs = [F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale) for q, k, v in parts]
        return (outs[0] if len(outs) == 1 else torch.cat(outs))[..., :width]
    out = v.new_empty(*q.shape[:3], width)
    rows = max(1, SCORES // (q.shape[1] * k.shape[2]))
    items = max(1, rows // q.shape[2])
    with torch.autocast("cpu", enabled=False):
        for queries, keys, values, target in zip(*(torch.split(t, items) for t in (q, k, v, out)), strict=True):
            keys = at_least_float32(keys).transpose(2, 3)
            for start in range(0, q.shape[2], rows):
                part = slice(start, start + rows)
                scores = (at_least_float32(queries[:, :, part]) * scale) @ keys
                if bias is not None:
                    scores += bias[:, part]
                target[:, :, part] = scores.softmax(-1).to(v.dtype) @ values
    return out
