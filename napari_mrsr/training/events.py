"""What a training tells while it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from napari_mrsr.training.preview import Preview
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.training.start import Start


@dataclass(frozen=True)
class StageStarted:
    """A stage of a recipe of several begins; `index` counts from 0. The last stage is the super-resolution itself."""

    name: str
    index: int
    count: int
    steps: int
    first_step: int


@dataclass(frozen=True)
class StageScored:
    """Validation of a stage before the super-resolution: a score (higher is better) and what it measures."""

    step: int
    score: float
    measure: str
    best: bool


@dataclass(frozen=True)
class StageDone:
    """A stage before the super-resolution is finished, now or in an earlier run.

    `score` is NaN where it is not known,
    `path` None where nothing is kept on disk.
    """

    name: str
    score: float
    measure: str
    path: Path | None
    sha256: str


@dataclass(frozen=True)
class TrainingStarted:
    """The data are read. `classic` is the validation PSNR (dB, ``mrsr-1``) of every classic method, `cubic` that of one of them."""

    parameters: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    first_step: int
    cubic: float
    classic: dict[str, float]
    preview: Preview


@dataclass(frozen=True)
class StepDone:
    """One optimiser step: loss terms, learning rate, seconds since the start of this stage in this call."""

    step: int
    losses: dict[str, float]
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class ValidationDone:
    """Validation PSNR in dB inside M (``mrsr-1``), the mean over volumes, of the averaged weights, and the preview's slab as they predict it."""

    step: int
    psnr: float
    best: bool
    shown: NDArray[np.float32]


@dataclass(frozen=True)
class Noticed:
    """Something the user should know, in one sentence; the training goes on, or ends with its best weights."""

    message: str


@dataclass(frozen=True)
class TrainingDone:
    """Weights of the best validation.

    Attributes
    ----------
    step : int
        Optimiser steps made.
    psnr : float
        Of the best validation; minus infinity where there was none.
    started_from : float
        PSNR of the starting weights; not a number where it began from scratch.
    weights : dict
        State of the network.
    recipe : Recipe
    minutes : float
        Of this stage, all calls together.
    start : Start or None
        Weights it began with.
    stages : dict of str to str
        sha256 of the results of the stages before.
    note : str
        Why it ended before its last step; empty where it did not.
    """

    step: int
    psnr: float
    started_from: float
    weights: dict[str, Tensor]
    recipe: Recipe
    minutes: float
    start: Start | None
    stages: dict[str, str]
    note: str = ""

    @property
    def why_no_model(self) -> str:
        """Why there are no weights worth keeping, in a sentence; empty where there are."""
        if not math.isfinite(self.psnr):
            return "The training ended before the first validation: there are no weights to keep yet."
        if self.psnr <= self.started_from:
            return (
                f"No validation was better than the {self.started_from:.2f} dB of the starting weights, so there is no new model. "
                "Train longer, or with a lower learning rate."
            )
        return ""


Event = StageStarted | StageScored | StageDone | TrainingStarted | StepDone | ValidationDone | Noticed | TrainingDone
