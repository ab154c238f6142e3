"""What can be said of a result without a ground truth: does it explain its input, and do results agree with each other.

Both can find a result wrong; neither can show it right: the limits below are shown wherever the numbers are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
from pydantic import BaseModel, ConfigDict

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.align import align, mask_on
from napari_mrsr.evaluation.consistency import CONSISTENCY_LIMITS, Consistency, data_consistency
from napari_mrsr.intensity import foreground_mask, intensity_range
from napari_mrsr.volume import Volume

__all__ = [
    "CONSISTENCY_LIMITS",
    "DISAGREEMENT_LIMITS",
    "NOT_FOR_DIAGNOSIS",
    "Consistency",
    "Disagreement",
    "data_consistency",
    "disagreement",
]

DISAGREEMENT_LIMITS = "Where results differ, at most one is right; where they agree, all may still be wrong in the same way."
NOT_FOR_DIAGNOSIS = "Results are estimates, not for diagnosis."


class Disagreement(BaseModel):
    """How far results differ from each other.

    Attributes
    ----------
    names : list of str
    rms, peak : float
        Root mean square and largest standard deviation between results, over the foreground of their mean (or a mask), scanner units.
    percent : float
        `rms` in percent of the range of the mean.
    resampled : list of str
        Results that had to be interpolated onto the common lattice.
    """

    model_config = ConfigDict(frozen=True)

    names: list[str]
    rms: float
    peak: float
    percent: float
    resampled: list[str]


def disagreement(candidates: Sequence[Volume], mask: Volume | None = None) -> tuple[Disagreement, Volume]:
    """Standard deviation between results, voxel by voxel; for two of them half their difference.

    Parameters
    ----------
    candidates : sequence of Volume
        At least two, scanner units; put onto the lattice of the finest one.
    mask : Volume, optional
        Voxels that count (non-zero), on any grid; the foreground of the mean where missing.

    Returns
    -------
    Disagreement, Volume
        The numbers, and the deviation: float32, scanner units, on the region that all cover; 0 in voxels that a rotated one leaves open.

    Raises
    ------
    InputError
        Fewer than two results, no overlap, NaN, or constant volumes.
    """
    if len(candidates) < 2:
        raise InputError("Disagreement needs at least two results; run another model.")
    finest = int(np.argmin([np.prod(v.voxel_size) for v in candidates]))
    others = [*candidates[:finest], *candidates[finest + 1 :]]
    aligned = align(candidates[finest], others)
    images = [aligned.reference.data, *(v.data for v in aligned.candidates)]
    mean = reduce(np.add, images) / np.float32(len(images))
    spread = np.sqrt(sum(np.square(image - mean) for image in images) / np.float32(len(images)))
    inside = foreground_mask(mean) if mask is None else mask_on(aligned.reference, mask)[0]
    if aligned.covered is not None:
        spread[~aligned.covered] = 0
        inside = inside & aligned.covered
    if not inside.any():
        raise InputError("The region that all results cover holds no voxel that counts; choose another mask.")
    values = spread[inside].astype(np.float64)
    rms = float(np.sqrt(np.mean(values**2)))
    numbers = Disagreement(
        names=[v.name for v in candidates],
        rms=rms,
        peak=float(values.max()),
        percent=100 * rms / intensity_range(mean),
        resampled=[v.name for v, moved in zip(others, aligned.resampled, strict=True) if moved],
    )
    entry = {"kind": "disagreement", "unit": "scanner units", "candidates": numbers.names, "resampled": numbers.resampled}
    return numbers, aligned.reference.replace(data=spread.astype(np.float32), name="disagreement", record={"map": entry})
