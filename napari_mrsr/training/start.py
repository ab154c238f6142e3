"""Starting weights: a model of the list, or a safetensors file with its card, checked against the recipe."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks import Architecture, get_architecture
from napari_mrsr.training.recipe import NetworkPart
from napari_mrsr.zoo import Card, TrainingData, get_card, read_weights, sha256_of
from napari_mrsr.zoo.cards import read_card


@dataclass(frozen=True)
class Start:
    """Where a training begins.

    Attributes
    ----------
    name : str
        Of the model.
    path : Path
        Its weights.
    sha256 : str
        Of that file.
    data : tuple of TrainingData
        Volumes it was trained or chosen with; what is trained from it knows them too.
    """

    name: str
    path: Path
    sha256: str
    data: tuple[TrainingData, ...] = ()

    def load(self, network: nn.Module) -> None:
        """Put the weights into a network; nothing is changed unless everything fits."""
        read_weights(network, self.path, self.sha256)


def find_start(source: str, network: NetworkPart) -> Start:
    """Starting weights by name or file.

    Parameters
    ----------
    source : str
        Name from ``napari-mrsr models``, or a ``.safetensors`` file with its card (``.json``) beside it.
    network : NetworkPart
        What they must fit.

    Raises
    ------
    InputError
        If there is no such model, it has no weights, or it is another network; the sentence names what differs.
    """
    card = _card(source)
    if not card.learned:
        raise InputError(f"{card.name} has no weights to start from; choose a network.")
    _require_same(card, network)
    path = Path(card.folder) / card.weights
    if not path.is_file():
        raise InputError(f"The weights of {card.name} are missing: {path} does not exist; install the model again.")
    return Start(card.name, path, card.sha256 or sha256_of(path), card.data)


def _card(source: str) -> Card:
    path = Path(source).expanduser()
    if path.suffix != ".safetensors":
        return get_card(source)
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    if not path.with_suffix(".json").is_file():
        raise InputError(f"{path.name} has no card: {path.with_suffix('.json').name} must lie beside it.")
    return read_card(path.with_suffix(".json")).model_copy(update={"weights": path.name})


def _require_same(card: Card, network: NetworkPart) -> None:
    if card.architecture != network.name:
        raise InputError(f"{card.name} is {card.architecture}, the recipe trains {network.name}; start from a model of the same network.")
    if card.scale != network.scale:
        raise InputError(f"{card.name} enlarges by {card.scale}, the recipe by {network.scale}; start from a model of the same factor.")
    architecture = get_architecture(network.name)
    theirs, ours = _full(architecture, card.options), _full(architecture, network.options)
    differing = sorted(k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k))
    if differing:
        pairs = ", ".join(f"{k} {theirs.get(k)} instead of {ours.get(k)}" for k in differing)
        raise InputError(f"{card.name} was built with other network.options than the recipe's: {pairs}; make them equal.")


def _full(architecture: Architecture, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the defaults of those not named, as JSON has them."""
    defaults = {k: p.default for k, p in inspect.signature(architecture.build).parameters.items() if p.default is not p.empty and k != "scale"}
    full: dict[str, Any] = json.loads(json.dumps({**defaults, **options}, default=str))
    return full
