"""Which contrast a head shows: from its file's name or description where they say so, and from its intensities."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_mrsr.errors import InputError
from napari_mrsr.intensity import foreground_mask
from napari_mrsr.io import read_description
from napari_mrsr.volume import Volume

SPACING = 3.0
"""mm between the samples that are looked at."""
ZONE, DEPTH = 90.0, 12.0
"""mm below the top of the head that are looked at, and below its surface from which on: neither neck and face nor scalp."""
SHADING = 12.0
"""mm; standard deviation of the Gaussian whose mean over tissue is taken for shading."""
DARK, BRIGHT = 0.7, 1.8
"""Share of the tissue around below which a sample is taken for fluid or air, and above which it is no measure of the shading."""
FAR = 12.0
"""mm from fluid beyond which distance says no more."""
LEAST_ML = 60.0
"""Millilitres of tissue below which nothing is said."""
COARSEST = 6.0
"""mm; slices further apart blur grey matter and fluid into one."""
AIR_REACH, MOST_AIR = 1.6, 0.2
"""Multiple of the mean in a corner of the image that air's noise stays below, and the largest share of the bright end that air may reach."""
STRUCTURE = 0.18
"""Least share of the variance that outlasts a mean over 27 samples. Measured: heads 0.24 and more, noise 0.04."""
T2_ABOVE, NO_T2_BELOW = 1.43, 1.39
"""Brightest 5 % over the median: fluid is bright on T2-weighted images. Measured: T2w 1.61 and more, others 1.35 and less."""
T1_ABOVE, FLAIR_BELOW = 0.42, 0.12
"""Score of :func:`_measure` that tells T1w from FLAIR. Measured: T1w 0.56 and more, FLAIR 0.05 and less, but for two tumours between."""

_WORDS = {
    "FLAIR": r"(t2w?)?flair\w*|tirm|darkfluid",
    "T1ce": r"t1w?(ce|gd|c)",
    "T1w": r"t1w?|\w*mprage|mpr|mp2rage|spgr|bravo",
    "T2w": r"t2w?",
    "other": r"pdw?|t2star\w*|swi|dwi|adc|bold|asl",
}
"""What words of names and descriptions stand for; small letters."""
_ENTRIES = ("SeriesDescription", "ProtocolName", "SequenceName")
"""Entries of a BIDS or DICOM-like sidecar that may say the contrast."""


@dataclass(frozen=True)
class Contrast:
    """What a volume shows, as far as can be told.

    Attributes
    ----------
    name : str
        T1w, T1ce (with contrast agent), T2w, FLAIR, other, or empty: not known.
    source : str
        Where that is known from, in words.
    measured : str
        T1w, T2w or FLAIR by intensities alone; empty where they do not tell.
    detail : str
        The numbers behind `measured`.
    """

    name: str
    source: str
    measured: str
    detail: str

    @property
    def doubtful(self) -> bool:
        """Whether name and intensities contradict each other."""
        return bool(self.name and self.measured) and self.name.replace("T1ce", "T1w") != self.measured


def tell_contrast(volume: Volume, measure: bool = True) -> Contrast:
    """Contrast of a head.

    A name ending in a contrast (``sub-01_T1w.nii.gz``) comes first, then the description in the sidecar file, then intensities. These never
    tell a contrast agent, and say nothing rather than guess: between their limits, where too little tissue is there, or where an image is no
    head as far as they see. Limits were measured on 48 volumes of 18 people, and low-resolution and noisy versions of them.

    Parameters
    ----------
    volume : Volume
        Scanner units; anything from a whole head to a skull-stripped brain.
    measure : bool
        Whether to look at the intensities (0.1 to 0.3 s).

    Returns
    -------
    Contrast
    """
    measured, detail = _measure(volume) if measure else ("", "intensities were not looked at")
    for text, source in _texts(volume):
        name = _named(text)
        if name:
            return Contrast(name, source, measured, detail)
    return Contrast(measured, "from its intensities", measured, detail)


def _texts(volume: Volume) -> list[tuple[str, str]]:
    """Texts that may name the contrast, and where they stand."""
    texts = [(volume.name, "from its name")]
    if volume.source.path:
        path = Path(volume.source.path)
        texts.insert(0, (path.name, "from the file name"))
        try:
            described = read_description(path)
        except InputError:
            described = {}
        texts += [(str(described[key]), f"from {key} in the sidecar file") for key in _ENTRIES if key in described]
    return texts


def _named(text: str) -> str:
    """The one contrast that the words of a text name; empty where there is none, or several."""
    words = re.split(r"[^a-z0-9]+", text.lower())
    found = {name for word in words for name, pattern in _WORDS.items() if re.fullmatch(pattern, word)}
    if "FLAIR" in found:  # "T2 FLAIR" is one contrast
        found.discard("T2w")
    return found.pop() if len(found) == 1 else ""


def _measure(volume: Volume) -> tuple[str, str]:
    """Contrast by intensities, and the numbers.

    Fluid is bright on T2w and dark on the others. There, grey matter lies beside fluid and white matter far from it: on T1w tissue gets brighter
    with the distance from what is dark and its histogram has its tail on the dark side, on FLAIR it is the other way round.
    """
    image, spacing = _sampled(volume)
    if spacing.max() > COARSEST:
        return "", f"voxels of {spacing.max():.1f} mm are too coarse to tell"
    head = _head(image)
    rows = head.sum((0, 1))
    if not rows.any():
        return "", "no tissue found"
    top = int(np.flatnonzero(rows > 0.05 * rows.max())[-1])
    first = max(0, top + 1 - int(ZONE / spacing[2]))
    depth = _distance(head[:, :, : top + 1], spacing)[:, :, first:]
    image, head = image[:, :, first : top + 1], head[:, :, first : top + 1]
    deep = head & (depth > DEPTH)
    if deep.sum() * spacing.prod() < 1000 * LEAST_ML:
        return "", "too little tissue to tell"
    relative = _unshaded(image, head, float(np.median(image[deep])), spacing)
    dark = (relative < DARK) | ~head
    tissue = deep & ~dark
    shown = np.clip(relative, 0, BRIGHT)
    if ndimage.uniform_filter(shown, 3)[deep].var() < STRUCTURE * shown[deep].var():
        return "", "no anatomy found"
    low, middle, high = np.percentile(relative[tissue & (relative < BRIGHT)], (5, 50, 95))
    brightest = float(np.percentile(relative[tissue], 95) / middle)
    if brightest > T2_ABOVE:
        return "T2w", f"brightest tissue {brightest:.2f} times the median"
    if brightest > NO_T2_BELOW:
        return "", f"brightest tissue {brightest:.2f} times the median: between T2w and others"
    tissue &= relative < BRIGHT
    away = np.minimum(_distance(~dark, spacing)[tissue], FAR)
    if not dark[deep].any() or away.std() == 0:
        return "", "no fluid found"
    slope = float(np.corrcoef(relative[tissue], away)[0, 1])
    score = slope - float((high + low - 2 * middle) / (high - low))
    return "T1w" if score > T1_ABOVE else "FLAIR" if score < FLAIR_BELOW else "", f"score of white over grey matter {score:.2f}"


def _sampled(volume: Volume) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Means over blocks of about :data:`SPACING` mm, and their spacing."""
    size = np.array(volume.voxel_size)
    step = np.clip(np.round(SPACING / size).astype(int), 1, volume.shape)
    shape = np.array(volume.shape) // step
    inner = volume.data[tuple(slice(0, n * s) for n, s in zip(shape, step, strict=True))]
    image: NDArray[Any] = inner
    for axis in range(3):
        # One axis after the other: the first sums leave little for the rest.
        parts = [image[(slice(None),) * axis + (slice(k, None, step[axis]),)] for k in range(step[axis])]
        image = sum((p.astype(np.float32) for p in parts[1:]), parts[0].astype(np.float32))
    return np.asarray(image / step.prod(), np.float32), size * step


def _head(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the head is, noise in the air around it left out."""
    blocks = [(slice(0, max(1, n // 8)), slice(-max(1, n // 8), None)) for n in image.shape]
    corner = min(float(image[block].mean()) for block in product(*blocks))
    threshold = min(AIR_REACH * corner, MOST_AIR * float(np.percentile(image, 99)))
    return foreground_mask(np.where(ndimage.uniform_filter(image, 3) > threshold, image, 0))


def _distance(inside: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance in mm to the nearest voxel that is not inside; what lies beyond the image is not."""
    padded = np.pad(inside, 1)
    return np.asarray(ndimage.distance_transform_edt(padded, sampling=spacing)[1:-1, 1:-1, 1:-1])


def _unshaded(image: NDArray[np.float32], head: NDArray[np.bool_], typical: float, spacing: NDArray[np.float64]) -> NDArray[np.float32]:
    """Image over the mean of the tissue around."""
    tissue = (head & (image > 0.6 * typical) & (image < BRIGHT * typical)).astype(np.float32)
    means = [ndimage.gaussian_filter(part, SHADING / spacing, truncate=3) for part in (image * tissue, tissue)]
    return np.asarray(image * means[1] / np.maximum(means[0], 1e-3 * typical), np.float32)
