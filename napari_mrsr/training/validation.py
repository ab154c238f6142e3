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
from napari_mrsr.grid import SamplingGrid
from napari_mrsr.networks import create
from napari_mrsr.networks.classic import ARCHITECTURES as CLASSIC
from napari_mrsr.networks.scaling import Scaling
from napari_mrsr.training.preview import Preview, Slab
from napari_mrsr.training.recipe import Recipe

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
    slab : Slab
        The slice that is shown.
    classic : dict of str to float
        PSNR (dB, inside M) of every classic method.
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
    slab: Slab
    classic: dict[str, float]
    reference: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Validation:
    """Outcome of a validation.

    Attributes
    ----------
    psnr : float
        Mean PSNR (dB) over the cases.
    shown : (X, Y, Z) array
        The first case's slab, scanner units.
    """

    psnr: float
    shown: NDArray[np.float32]


@torch.inference_mode()
def validate(cases: Sequence[ValidationCase], model: Callable[..., Tensor], device: torch.device) -> Validation:
    """Score a model on the cases."""
    outputs = [_predict(case, model, device) for case in cases]
    values = [psnr(case.hr, output, case.data_range, case.mask) for case, output in zip(cases, outputs, strict=True)]
    return Validation(float(np.mean(values)), cases[0].slab.cut(outputs[0]))


def _predict(case: ValidationCase, model: Callable[..., Tensor], device: torch.device) -> NDArray[Any]:
    reference = None if case.reference is None else case.reference.to(device)
    # One slice at a time: whole planes of wide networks need memory.
    parts = [
        model(case.lr[i : i + 1].to(device), reference=None if reference is None else reference[i : i + 1]).float().cpu() for i in range(len(case.lr))
    ]
    return np.asarray(case.scaling.output(torch.cat(parts))[:, 0])


def preview_of(cases: Sequence[ValidationCase]) -> Preview:
    """What the predictions that :func:`validate` shows are held against."""
    case = cases[0]
    return Preview(case.name, case.slab, case.slab.cut(case.hr), case.slab.cut(case.cubic), case.data_range)


def classic_psnr(cases: Sequence[ValidationCase]) -> dict[str, float]:
    """Mean PSNR (dB) of every classic method over the cases."""
    return {name: float(np.mean([case.classic[name] for case in cases])) for name in cases[0].classic}


@torch.inference_mode()
def score_classic(
    recipe: Recipe, inputs: Sequence[tuple[NDArray[Any], SamplingGrid]], hr: NDArray[Any], mask: NDArray[Any], data_range: float
) -> dict[str, float]:
    """PSNR (dB) of every classic method on a case.

    Parameters
    ----------
    recipe : Recipe
    inputs : sequence of ((x, y, z) array, SamplingGrid)
        Low resolution of every part of the case and how it lies on the fine lattice; slices have one voxel along z.
    hr, mask : (P, ...) arrays
        As of the case.
    data_range : float
        Range R of the truth.
    """
    scores = {}
    for name in CLASSIC:
        parts = []
        for low, grid in inputs:
            method = create(name, recipe.degradation.scale, protocol=recipe.degradation.protocol, grid=grid)
            parts.append(method(torch.from_numpy(np.ascontiguousarray(low, np.float32))[None, None])[0, 0].numpy())
        scores[name] = psnr(hr, np.stack(parts).reshape(hr.shape), data_range, mask)
    return scores
