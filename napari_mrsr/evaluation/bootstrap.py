"""Bootstrap over slices."""

from __future__ import annotations

import numpy as np

from napari_mrsr.evaluation.metrics import Mask, Values

RESAMPLES = 2000
FEWEST_SLICES = 3


def resample_slices(counts: Mask, seed: int = 0) -> Values | None:
    """How often each slice is drawn in each resample (Efron 1979): as many draws as slices, with replacement.

    Parameters
    ----------
    counts : (slices,) bool array
        Slices that take part.
    seed : int
        Same seed, same draws; sharing them between candidates pairs their differences.

    Returns
    -------
    (2000, slices) float64 array or None
        None for fewer than three slices.
    """
    number = int(counts.sum())
    if number < FEWEST_SLICES:
        return None
    weights = np.zeros((RESAMPLES, len(counts)))
    weights[:, counts] = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), RESAMPLES)
    return weights
