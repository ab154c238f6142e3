"""What a comparison says: scores with everything that gives them meaning, ready for JSON."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from napari_mrsr.evaluation.metrics import METRICS

Decibel = Annotated[
    float,
    BeforeValidator(lambda value: math.inf if value is None else value),
    PlainSerializer(lambda value: None if math.isinf(value) else value, return_type=float | None, when_used="json"),
]
"""dB; infinite for identical images, which JSON cannot say: null there, and null reads back as infinite."""


class Region(BaseModel):
    """The reference voxels that are measured, all of them covered by every candidate.

    Attributes
    ----------
    description : str
        For people: block, what lies outside, what was resampled.
    lower, upper : list of int
        Block in the reference's RAS+ voxel lattice, upper exclusive.
    fraction : float
        Measured share of the reference's voxels, 0 to 1.
    """

    model_config = ConfigDict(frozen=True)

    description: str
    lower: list[int]
    upper: list[int]
    fraction: float


class Interval(BaseModel):
    """What bootstrapping slices says about one score of one candidate.

    Attributes
    ----------
    low, high : float
        2.5th and 97.5th percentile of the score; infinite where most slices are identical.
    behind_low, behind_high : float or None
        The same of the candidate's score minus the best candidate's, over the same resampled slices; None for the best itself.
    """

    model_config = ConfigDict(frozen=True)

    low: Decibel
    high: Decibel
    behind_low: float | None = None
    behind_high: float | None = None


class Dice(BaseModel):
    """Overlap of the tissue classes of a candidate with those of the reference, 0 to 1.

    Attributes
    ----------
    csf, gm, wm, mean : float
        Cerebrospinal fluid, grey matter, white matter, and the mean of the three.
    """

    model_config = ConfigDict(frozen=True)

    csf: float
    gm: float
    wm: float
    mean: float


class Result(BaseModel):
    """Scores of one candidate.

    Attributes
    ----------
    name : str
        Name of the candidate, made unique.
    psnr, psnr_box : float
        dB inside the mask, and over all covered voxels of the region; infinite for identical images (null in JSON).
    ssim, nmse : float
        Inside the mask.
    mae : float
        Mean absolute error inside the mask, scanner units.
    gradient_error : float
        Root of the squared error of the gradient magnitude over that of the reference's gradient, inside the mask; no unit.
    hfen : float
        High-frequency error norm inside the mask; no unit.
    resampled : bool
        Whether the candidate had to be interpolated onto the reference's grid.
    intervals : dict
        Metric to :class:`Interval`; empty unless asked for.
    dice : Dice or None
        None unless asked for.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    psnr: Decibel
    ssim: float
    nmse: float
    mae: float
    gradient_error: float
    hfen: float
    psnr_box: Decibel
    resampled: bool
    intervals: dict[str, Interval] = {}
    dice: Dice | None = None

    def value(self, metric: str) -> float:
        """Score of a metric of :data:`~napari_mrsr.evaluation.metrics.METRICS`."""
        return float(getattr(self, metric))

    def cell(self, metric: str) -> str:
        """Score in words, with its interval where there is one."""
        form = METRICS[metric].format
        text, interval = form(self.value(metric)), self.intervals.get(metric)
        return text if interval is None else f"{text} [{form(interval.low)}, {form(interval.high)}]"


class Comparison(BaseModel):
    """Scores of candidates with everything that gives them meaning; ``model_dump(mode="json")`` is what ``compare --json`` writes.

    Attributes
    ----------
    reference : str
        Name of the reference.
    convention : str
        Name of the :class:`~napari_mrsr.evaluation.conventions.Convention`.
    mask : str
        Voxels that count, in words.
    data_range : float
        R in scanner units.
    ssim : str
        2D or 3D, window, and why.
    region : Region
        Voxels that are measured.
    notes : list of str
        What else the numbers rest on: intervals, tissue classes.
    results : list of Result
        In the order given.
    """

    model_config = ConfigDict(frozen=True)

    reference: str
    convention: str
    mask: str
    data_range: float
    ssim: str
    region: Region
    notes: list[str] = []
    results: list[Result]

    def best(self, metric: str) -> int | None:
        """Index of the best result in a metric; None where there is nothing to choose."""
        return METRICS[metric].best([result.value(metric) for result in self.results])


def headline(comparison: Comparison) -> str:
    """Convention, mask, range, region and SSIM in one line: what every shown number must carry."""
    c = comparison
    return f"convention {c.convention} | mask: {c.mask} | range: 0 to {c.data_range:.6g} | region: {c.region.description} | SSIM: {c.ssim}"
