"""Cutting volumes into overlapping patches and summing patches back."""

from __future__ import annotations

import itertools

from torch import Tensor


def extract_patches(x: Tensor, size: int, stride: int) -> Tensor:
    """Overlapping cubes of a volume.

    Parameters
    ----------
    x : (B, C, X, Y, Z) tensor
    size, stride : int
        Edge of a cube and distance between neighbours; no padding.

    Returns
    -------
    (B, nx, ny, nz, C, size, size, size) tensor (a view)
    """
    for axis in (2, 3, 4):
        x = x.unfold(axis, size, stride)
    return x.permute(0, 2, 3, 4, 1, 5, 6, 7)


def gathered(patches: Tensor) -> Tensor:
    """Patches (B, nx, ny, nz, C, s, s, s) in memory of their own, channels innermost: short rows of voxels become long ones, which copy fast."""
    return patches.movedim(-4, -1).contiguous().movedim(-1, -4)


def flattened(patches: Tensor) -> Tensor:
    """Each patch as a vector, channels innermost; (..., C, s, s, s) to (..., s s s C)."""
    return patches.movedim(-4, -1).flatten(-4)


def fold_patches(patches: Tensor, out: Tensor, stride: int) -> None:
    """Add overlapping cubes into a volume; the adjoint of :func:`extract_patches`.

    Parameters
    ----------
    patches : (B, nx, ny, nz, C, p, p, p) tensor
    out : (B, C, (nx-1) stride + p, ...) tensor
        Changed in place; overlaps are summed.
    stride : int
    """
    nx, ny, nz, _, p = patches.shape[1:6]
    offsets = range(0, p, stride)
    # Cubes that share an offset inside their stride cell never overlap, so each group is added with one strided copy.
    for i, j, k in itertools.product(offsets, repeat=3):
        piece = patches[..., i : i + stride, j : j + stride, k : k + stride]
        di, dj, dk = piece.shape[-3:]
        target = out[:, :, i : i + (nx - 1) * stride + di, j : j + (ny - 1) * stride + dj, k : k + (nz - 1) * stride + dk]
        for axis, length in ((2, di), (3, dj), (4, dk)):
            target = target.unfold(axis, length, stride)
        target += piece.permute(0, 4, 1, 2, 3, 5, 6, 7)
