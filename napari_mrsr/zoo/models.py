"""The list of models: classic methods, shipped weights, and the user's own."""

from __future__ import annotations

import logging
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from napari_mrsr.errors import InputError
from napari_mrsr.zoo.cards import Card, read_card
from napari_mrsr.zoo.weights import read_weights

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

WEIGHTS = Path(str(resources.files("napari_mrsr"))) / "resources" / "weights"

_CLASSIC = tuple(
    Card(name=name, title=title, architecture=name, summary=summary, uses_noise=uses_noise)
    for name, title, summary, uses_noise in (
        ("nearest", "Nearest neighbour", "Repeats voxels; shows what was measured.", False),
        ("cubic", "Cubic B-spline", "Smooth interpolation; the usual baseline.", False),
        ("lanczos", "Lanczos-3", "Windowed sinc interpolation, slightly sharper than cubic.", False),
        ("zero-fill", "Zero-filled k-space", "Band-limited interpolation, as scanners do; rings at edges.", False),
        ("back-projection", "Back-projection", "Inverts the known blur without learning, held back by the noise level.", True),
    )
)


def user_weights_folder() -> Path:
    """Where the user's own models lie (may not exist)."""
    return Path(platformdirs.user_data_dir("napari-mrsr")) / "weights"


def list_models() -> list[Card]:
    """All models that can be run: networks first, then classic methods. Imports no torch.

    A card that cannot be read is left out with a warning in the log; :func:`get_card` tells what is wrong with it.
    """
    found: dict[str, Card] = {}
    for folder in (WEIGHTS, user_weights_folder()):
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
            try:
                card = read_card(path)
            except InputError as error:
                log.warning("%s The model is left out.", error)
                continue
            found.setdefault(card.name, card)
    return [*found.values(), *_CLASSIC]


def get_card(name: str) -> Card:
    """Card of a model.

    Raises
    ------
    InputError
        If there is none of that name, or its card cannot be read.
    """
    cards = {card.name: card for card in list_models()}
    try:
        return cards[name]
    except KeyError:
        if (path := user_weights_folder() / f"{name}.json").is_file():
            read_card(path)
        raise InputError(f"Unknown model {name!r}: use one of {', '.join(cards)}.") from None


def load_network(card: Card) -> nn.Module:
    """Network of a learned model with its weights, in eval mode, windows set as the card says.

    Raises
    ------
    InputError
        If the weights are missing, damaged or of another network.
    """
    from napari_mrsr.networks import create

    network = create(card.architecture, card.scale or 2, **card.options)
    read_weights(network, Path(card.folder) / card.weights, card.sha256)
    if card.window is not None and not hasattr(network, "set_windows"):
        raise InputError(f"Model card {card.name}.json, field window: {card.architecture} has no windows to set; leave the field out.")
    if card.window is not None:
        network.set_windows(card.window)  # type: ignore[operator]
    return network.eval()
