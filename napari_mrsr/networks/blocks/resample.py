"""Fixed resampling inside networks: cubic convolution, splines, voxel shuffle."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from napari_mrsr.degradation.matrices import bspline_matrix, kernel_matrix, keys_kernel
from napari_mrsr.degradation.separable import apply_along_axes
from napari_mrsr.grid import AxisSampling
from napari_mrsr.networks.blocks.moments import at_least_float32


@lru_cache(maxsize=64)
def _cubic(size: int, scale: int, upward: bool) -> Tensor:
    if upward:
        positions = AxisSampling.from_coarse(size, scale, "edges").fine_positions()
    else:
        positions = AxisSampling.from_fine(size, scale, "edges").coarse_positions()
    # A tensor made in inference mode could never take part in training, and this one outlives the call.
    with torch.inference_mode(False):
        return torch.from_numpy(kernel_matrix(positions, size, keys_kernel, 2.0))


def _resize(x: Tensor, scale: int, upward: bool) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        wide = x if x.dtype == torch.float64 else x.float()
        matrices = [_cubic(n, scale, upward).to(wide) for n in x.shape[-3:]]
        result: Tensor = apply_along_axes(wide, matrices)
    return result.to(x.dtype)


def cubic_upsample(x: Tensor, scale: int) -> Tensor:
    """Separable cubic convolution (a = -0.5) by `scale`, voxel edges aligned; (..., X, Y, Z) to (..., rX, rY, rZ)."""
    return _resize(x, scale, upward=True)


def cubic_downsample(x: Tensor, scale: int) -> Tensor:
    """Separable cubic convolution by 1 / `scale` without antialiasing, half-voxel centred; sizes must be multiples of `scale`."""
    return _resize(x, scale, upward=False)


@lru_cache(maxsize=64)
def _lattice(size: int, scale: int) -> Tensor:
    with torch.inference_mode(False):
        return torch.from_numpy(bspline_matrix(np.arange(scale * size) / scale, size))


def lattice_upsample(x: Tensor, scale: int) -> Tensor:
    """Interpolating cubic B-spline by `scale` where input sample i lies exactly at output pixel ``scale * i``, as a k-space crop leaves it.

    Parameters
    ----------
    x : (B, C, h, w) tensor
    scale : int

    Returns
    -------
    (B, C, scale h, scale w) tensor
    """
    with torch.autocast(x.device.type, enabled=False):
        wide = at_least_float32(x)
        result: Tensor = apply_along_axes(wide, [None, *(_lattice(n, scale).to(wide) for n in x.shape[2:])])
    return result.to(x.dtype)


def voxel_shuffle(x: Tensor, scale: int) -> Tensor:
    """3D pixel shuffle: (B, C r^3, X, Y, Z) to (B, C, rX, rY, rZ), channel index ``c r^3 + i r^2 + j r + k`` (NETWORKS 1.2)."""
    b, channels, *size = x.shape
    r = scale
    x = x.view(b, channels // r**3, r, r, r, *size).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, channels // r**3, *(n * r for n in size))
