"""What the trainer needs to know of a stage: networks that learn, batches to learn from, a score to choose the best weights by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_mrsr.training.recipe import OptimiserPart

Terms = Callable[[Any, int], dict[str, Tensor]]
"""``terms(batch, step)`` gives the weighted loss terms to add up, by name; every term is a mean over the batch."""


@dataclass(frozen=True, eq=False)
class Player:
    """A network with an optimiser of its own and what it minimises. Adversarial stages have two, which take turns.

    Attributes
    ----------
    name : str
    network : Module
        Its parameters that require a gradient are trained.
    terms : callable
        See :data:`Terms`.
    rate : float
        Factor of the learning rate.
    """

    name: str
    network: nn.Module
    terms: Terms
    rate: float = 1.0


@dataclass(frozen=True, eq=False)
class Score:
    """Outcome of a validation: higher is better; `shown` is what a user can look at, where there is something."""

    value: float
    shown: Any = None


@dataclass(frozen=True, eq=False)
class Result:
    """What a stage leaves to the next.

    Attributes
    ----------
    tensors : dict of str to Tensor
    sha256 : str
        Of the file they lie in, or would lie in.
    path : Path or None
        That file.
    """

    tensors: Mapping[str, Tensor]
    sha256: str
    path: Path | None = None


class Stage(ABC):
    """One training: of the super-resolution itself, or of something it needs.

    Attributes
    ----------
    name : str
    hash : str
        Equal where the trained weights would be.
    measure : str
        What the score is, for people.
    steps, validate_every : int
    optimiser : OptimiserPart
    network : Module
        What is averaged, validated and kept.
    players : tuple of Player
        In the order in which they take turns.
    """

    name: str
    hash: str
    measure: str = ""
    steps: int
    validate_every: int
    optimiser: OptimiserPart
    network: Any
    players: tuple[Player, ...] = ()

    def read(self) -> None:  # noqa: B027 - a stage may learn from nothing but the stages before
        """Read the data.

        Raises
        ------
        InputError
            If they do not fit.
        """

    @abstractmethod
    def batch(self, step: int, items: Sequence[int]) -> Any:
        """Samples `items` of the batch of a step, a dataclass of tensors; they depend on nothing but the seed, the step and their numbers."""

    @abstractmethod
    def batch_size(self) -> int:
        """Samples of a batch."""

    @abstractmethod
    def score(self, network: Any, device: torch.device) -> Score:
        """Validate averaged weights."""

    def result(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors that the next stage gets, from the best state of `network`."""
        return dict(weights)
