"""Whether a result leads to the same tissue map as the truth: Dice of CSF, grey and white matter, as TransMRSR reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from napari_mrsr.errors import Cancelled, InputError
from napari_mrsr.evaluation.align import mask_on
from napari_mrsr.evaluation.comparison import Comparison, Dice
from napari_mrsr.evaluation.frame import Frame
from napari_mrsr.evaluation.metrics import Array, Mask
from napari_mrsr.volume import Volume

CLASSES = ("CSF", "GM", "WM")
"""Tissue classes in the order of their brightness in T1."""
SMOOTHNESS, ITERATIONS, TOLERANCE = 0.1, 40, 1e-3
NOTE = (
    "Dice: hidden Markov random field classes (dipy) inside the brain mask, of the reference and of each candidate by itself; for T1-weighted "
    "brains only (classes are told apart as dark, grey and bright, shading is not corrected)"
)


def tissue_classes(image: Array, brain: Mask) -> NDArray[np.uint8]:
    """Tissue of every brain voxel.

    Hidden Markov random field with expectation maximisation (Zhang, Brady & Smith, IEEE TMI 2001) as dipy has it, three classes, beta 0.1.

    Parameters
    ----------
    image : (X, Y, Z) array
        T1-weighted intensities, any scale.
    brain : (X, Y, Z) bool array
        Without skull.

    Returns
    -------
    (X, Y, Z) uint8 array
        0 outside the brain, then 1 for CSF, 2 for grey and 3 for white matter.

    Raises
    ------
    InputError
        If dipy is not installed, or the brain holds a single intensity.
    """
    try:
        from dipy.segment.tissue import TissueClassifierHMRF
    except ImportError:
        raise InputError('Tissue classes need dipy: run pip install "napari-mrsr[tissue]".') from None
    # Zero means outside to the classifier: the darkest brain voxel must lie above it.
    inside = image[brain].astype(np.float64)
    if inside.size == 0 or inside.min() == inside.max():
        raise InputError("The brain mask holds no image to tell tissues in; choose another mask.")
    scaled = np.zeros(image.shape)
    scaled[brain] = 0.01 + 0.99 * np.clip((inside - inside.min()) / (np.percentile(inside, 99.9) - inside.min()), 0, 1)
    _, labels, _ = TissueClassifierHMRF(verbose=False).classify(scaled, len(CLASSES), SMOOTHNESS, tolerance=TOLERANCE, max_iter=ITERATIONS)
    return np.where(brain, labels, 0).astype(np.uint8)


def dice(reference: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Dice:
    """Dice coefficient ``2 |A and B| / (|A| + |B|)`` of each class; 1 for a class that neither has."""
    values = []
    for number in range(1, len(CLASSES) + 1):
        a, b = reference == number, labels == number
        both = int(a.sum()) + int(b.sum())
        values.append(2 * int((a & b).sum()) / both if both else 1.0)
    csf, gm, wm = values
    return Dice(csf=csf, gm=gm, wm=wm, mean=float(np.mean(values)))


def tissue_dice(frame: Frame, brain: Volume, stopped: Callable[[], bool] = lambda: False) -> list[Dice]:
    """Dice of the tissue classes of each candidate with those of the reference.

    Parameters
    ----------
    frame : Frame
        T1-weighted images.
    brain : Volume
        Non-zero inside the brain; any grid.
    stopped : callable
        Asked before every image.

    Returns
    -------
    list of Dice
        One per candidate.

    Raises
    ------
    InputError
        If the common block holds no brain, or as :func:`tissue_classes`.
    Cancelled
        If it was stopped.
    """
    whole, _ = mask_on(frame.reference, brain)
    mask = whole[frame.aligned.slices]
    mask = mask if frame.aligned.covered is None else mask & frame.aligned.covered
    if not mask.any():
        raise InputError(f"{brain.name}: the mask holds no voxel that all candidates cover.")
    found = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    near = tuple(slice(int(f[0]), int(f[-1]) + 1) for f in found)
    maps = []
    for volume in (frame.aligned.reference, *frame.aligned.candidates):
        if stopped():
            raise Cancelled("The tissue classes were stopped.")
        maps.append(tissue_classes(volume.data[near], mask[near]))
    return [dice(maps[0], labels) for labels in maps[1:]]


def with_dice(comparison: Comparison, found: Sequence[Dice]) -> Comparison:
    """Comparison with the Dice of each candidate, and with what they are among its notes."""
    results = [result.model_copy(update={"dice": values}) for result, values in zip(comparison.results, found, strict=True)]
    return comparison.model_copy(update={"results": results, "notes": [*comparison.notes, NOTE]})
