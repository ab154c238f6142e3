"""Cross-scale patch attention, streamed: exact softmax over all keys without ever holding the score matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from napari_mrsr.networks.blocks.moments import at_least_float32
from napari_mrsr.networks.blocks.patches import extract_patches, flattened, fold_patches

CHUNK_ELEMENTS, CHUNK_ELEMENTS_GPU = 2**23, 2**27
"""Scores plus output patch values held at once; 32 MiB in float32, and 512 MiB on graphics processors, which need more work at a time."""


def cross_scale_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    stride: int,
    chunk_elements: int | None = None,
    entropy: Tensor | None = None,
    progress: Callable[[float], None] | None = None,
) -> Tensor:
    """Weighted sum of value patches per query patch, folded onto the fine grid (CFTN eq. 6 to 8 and the fold).

    ``s_ij = <q_i, k_j>``, ``w = softmax_j(s)``, ``y_i = sum_j w_ij v_j``; the ``y_i`` are placed `stride` apart and overlaps summed.

    Parameters
    ----------
    q : (B, nx, ny, nz, D) tensor
        Query patches, flattened, on their grid.
    k : (B, K, D) tensor
        Key patches.
    v : (B, K, C, P, P, P) tensor
        Value patches on the fine grid; copied where channels are not innermost in memory (:func:`~.patches.gathered`).
    stride : int
        Fine-grid distance between neighbouring queries.
    chunk_elements : int, optional
        Bound on scores and output values held at once.
    entropy : (B, nx, ny, nz) tensor, optional
        Filled with the entropy of each query's weights, ``-sum_j w_ij log w_ij`` in nats.
    progress : callable, optional
        Told the share of the queries that is done after every chunk; what it raises ends the computation.

    Returns
    -------
    (B, C, (nx-1) stride + P, ...) tensor
    """
    budget = chunk_elements or (CHUNK_ELEMENTS if q.device.type == "cpu" else CHUNK_ELEMENTS_GPU)
    result: Tensor = _Streamed.apply(q, k, v, stride, budget, entropy, progress)  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def attention_row(query: Tensor, keys: Tensor) -> Tensor:
    """Weights of a single query (eq. 6, 7) as :func:`cross_scale_attention` uses them; (D,) and (K, D) to (K,), at least float32."""
    with torch.autocast(query.device.type, enabled=False):
        return _weights(query[None, None], keys[None])[0, 0]


def _blocks(grid: torch.Size | tuple[int, ...], per_query: int, budget: int) -> Iterator[tuple[slice, slice]]:
    nx, ny, nz = grid
    queries = max(1, budget // per_query)
    planes = max(1, queries // (ny * nz))
    rows = ny if planes > 1 or queries >= ny * nz else max(1, queries // nz)
    for x in range(0, nx, planes):
        for y in range(0, ny, rows):
            yield slice(x, min(x + planes, nx)), slice(y, min(y + rows, ny))


def _weights(q: Tensor, k: Tensor) -> Tensor:
    # 648-term products saturate in half precision: logits and softmax in at least float32.
    return torch.softmax(at_least_float32(q) @ at_least_float32(k).transpose(1, 2), dim=-1)


class _Streamed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        stride: int,
        chunk_elements: int,
        entropy: Tensor | None,
        progress: Callable[[float], None] | None,
    ) -> Tensor:
        b, nx, ny, nz, _ = q.shape
        keys, channels, patch = v.shape[1:4]
        flat = flattened(v)
        size = (b, channels, *((n - 1) * stride + patch for n in (nx, ny, nz)))
        out = torch.empty(size, dtype=v.dtype, device=v.device, memory_format=torch.channels_last_3d).zero_()
        per_query = b * (keys + flat.shape[2])
        with torch.autocast(q.device.type, enabled=False):
            for x, y in _blocks((nx, ny, nz), per_query, chunk_elements):
                part = q[:, x, y]
                weights = _weights(part.flatten(1, 3), k)
                if entropy is not None:
                    entropy[:, x, y] = torch.special.entr(weights).sum(-1).view(part.shape[:4])
                patches = (weights.to(v.dtype) @ flat).view(*part.shape[:4], patch, patch, patch, channels)
                fold_patches(patches.movedim(-1, -4), _window(out, x, y, stride, patch), stride)
                del weights, patches  # before the next chunk asks for its own
                if progress is not None:
                    if out.is_cuda:  # else all chunks are handed over before anybody is asked
                        torch.cuda.synchronize(out.device)
                    progress((x.start * ny + (x.stop - x.start) * y.stop) / (nx * ny))
        ctx.save_for_backward(q, k, v)
        ctx.stride, ctx.chunk_elements = stride, chunk_elements
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        stride = ctx.stride
        grad_out = grads[0]
        b, nx, ny, nz, _ = q.shape
        keys, channels, patch = v.shape[1:4]
        flat = flattened(v)
        grad_q = torch.empty_like(q)
        wide = torch.promote_types(q.dtype, torch.float32)
        grad_k, grad_v = torch.zeros_like(k, dtype=wide), torch.zeros_like(flat)
        per_query = b * (2 * keys + flat.shape[2])
        with torch.autocast(q.device.type, enabled=False):
            for x, y in _blocks((nx, ny, nz), per_query, ctx.chunk_elements):
                part = q[:, x, y]
                rows = part.flatten(1, 3)
                weights = _weights(rows, k)
                grad_y = flattened(extract_patches(_window(grad_out, x, y, stride, patch), patch, stride)).flatten(1, 3).to(v.dtype)
                grad_v += weights.to(v.dtype).transpose(1, 2) @ grad_y
                grad_w = (grad_y @ flat.transpose(1, 2)).to(wide)
                grad_s = weights * (grad_w - (grad_w * weights).sum(-1, keepdim=True))
                grad_q[:, x, y] = (grad_s @ k.to(wide)).to(q.dtype).view_as(part)
                grad_k += grad_s.transpose(1, 2) @ rows.to(wide)
        return grad_q, grad_k.to(k.dtype), grad_v.view(b, keys, patch, patch, patch, channels).movedim(-1, 2), None, None, None, None


def _window(volume: Tensor, x: slice, y: slice, stride: int, patch: int) -> Tensor:
    return volume[:, :, x.start * stride : (x.stop - 1) * stride + patch, y.start * stride : (y.stop - 1) * stride + patch]
