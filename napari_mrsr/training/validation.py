"""Validation during training: fixed pieces of volumes never trained on, scored inside M (``mrsr-1``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_mrsr.evaluation.metrics import psnr
from napari_mrsr.networks.scaling import Scaling

Fit = Callable[[Tensor, float], Scaling]
"""How a network's units follow from a low resolution and the volume's range."""


@dataclass(frozen=True, eq=False)
class ValidationCase:
    """A block or some slices of one validation volume.

    Attributes
    ----------
    name : str
    lr : (P, 1, ...) tensor
        Low resolution in the network's units: one block, or slices.
    hr, mask, cubic : (P, ...) arrays
        Truth, its foreground, and cubic interpolation of the low resolution, scanner units, on the super-resolved lattice.
    data_range : float
        Range R of the truth.
    scaling : Scaling
        Back to scanner units.
    reference : (P, 1, ...) tensor or None
        Second contrast in the network's units.
    """

    name: str
    lr: Tensor
    hr: NDArray[np.float32]
    mask: NDArray[np.bool_]
    cubic: NDArray[np.float32]
    data_range: float
    scaling: Scaling
    reference: Tensor | None = None


@torch.inference_mode()
def validate(cases: Sequence[ValidationCase], model: Callable[..., Tensor], device: torch.device) -> float:
    """Mean PSNR (dB) over the cases."""
    values = []
    for case in cases:
        reference = None if case.reference is None else case.reference.to(device)
        # One slice at a time: whole planes of wide networks need memory.
        parts = [
            model(case.lr[i : i + 1].to(device), reference=None if reference is None else reference[i : i + 1]).float().cpu()
            for i in range(len(case.lr))
        ]
        output: NDArray[Any] = case.scaling.output(torch.cat(parts))[:, 0].numpy()
        values.append(psnr(case.hr, output, case.data_range, case.mask))
    return float(np.mean(values))


def cubic_psnr(cases: Sequence[ValidationCase]) -> float:
    """Mean PSNR (dB) of cubic interpolation over the cases."""
    return float(np.mean([psnr(c.hr, c.cubic, c.data_range, c.mask) for c in cases]))
