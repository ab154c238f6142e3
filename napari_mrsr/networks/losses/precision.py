"""Precision of losses."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """At least float32, same shape: sums over many elements overflow or lose digits in half precision."""
    return x if x.dtype == torch.float64 else x.float()
