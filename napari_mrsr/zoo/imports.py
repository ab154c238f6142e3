"""Weights made elsewhere become models in the user's list: safetensors, and a card that says where they come from."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from napari_mrsr.errors import InputError
from napari_mrsr.io import make_folder, require_readable, require_writable, write_json, write_whole
from napari_mrsr.networks import get_architecture
from napari_mrsr.zoo import models
from napari_mrsr.zoo.cards import Card, read_card
from napari_mrsr.zoo.official import Official, read_official
from napari_mrsr.zoo.official.files import read_content, safetensors_metadata
from napari_mrsr.zoo.weights import save_weights, sha256_of

PROTOCOLS = {"dcamsr": "kspace", "transmrsr": "slice-profile"}
"""Degradation that a network's public code trains on."""

TRAINING_STATE = ("recipe", "stage", "hash", "step", "players")
"""What a checkpoint of ``napari-mrsr train`` holds, among others."""

MAX_NAME = 64


def import_checkpoint(
    path: str | os.PathLike[str], name: str | None = None, folder: str | os.PathLike[str] | None = None, overwrite: bool = False, **options: Any
) -> Card:
    """Add weights to the models that can be run.

    Parameters
    ----------
    path : path
        A checkpoint of the public code of DCAMSR or TransMRSR (see :func:`~napari_mrsr.zoo.official.load_official`), or a model of this
        program from elsewhere: a ``.safetensors`` file with its card (``.json``) beside it.
    name : str, optional
        What users will type; None takes the file's name, or the card's.
    folder : path, optional
        Where weights and card go; None takes the user's model folder.
    overwrite : bool
        Replace a model of that name in that folder.
    **options
        What an official checkpoint does not tell, as for :func:`~napari_mrsr.zoo.official.load_official`.

    Returns
    -------
    Card
        Of the new model.

    Raises
    ------
    InputError
        If the file is none of these or does not fit its network, or the name is taken or unusable.
    OutputError
        If weights or card cannot be written; nothing is left behind.
    """
    path = require_readable(path)
    target = models.user_weights_folder() if folder is None else Path(folder).expanduser()
    card = None
    if path.suffix.lower() == ".json":
        card = read_card(path)
        if not card.weights:
            raise InputError(f"{path.name} is the card of a method without weights; there is nothing to import.")
        path = require_readable(path.with_name(Path(card.weights).name))
    elif path.suffix.lower() == ".safetensors" and path.with_suffix(".json").is_file():
        card = read_card(path.with_suffix(".json"))
    chosen = _chosen_name(name, card.name if card else path.stem)
    _require_free(chosen, target, overwrite)
    if card is not None:
        return _from_elsewhere(path, card, chosen, target, overwrite, options)
    content = read_content(path)
    _require_foreign(path, content)
    official = read_official(content, path.name, options)
    if official.architecture not in PROTOCOLS:
        raise InputError(
            f"{path.name} holds the generator of TransMRSR's first stage, which super-resolves nothing by itself; "
            f"it is a prior to train TransMRSR with."
        )
    about = {"name": chosen, "architecture": official.architecture, "source": path.name}
    return _write(
        _official_card(path, official), chosen, target, overwrite, lambda weights: save_weights(official.network.state_dict(), weights, about)
    )


def _from_elsewhere(path: Path, card: Card, name: str, target: Path, overwrite: bool, options: Mapping[str, Any]) -> Card:
    """Copy weights and card after the checks that loading makes."""
    if options:
        raise InputError(f"{path.name} has a card beside it that says how its network is built; leave {', '.join(options)} out.")
    if card.weights != path.name:
        raise InputError(f"{path.stem}.json is not the card of {path.name}: it names {card.weights or 'no weights'}; put card and weights together.")
    models.load_network(card)
    return _write(card, name, target, overwrite, lambda weights: shutil.copyfile(path, weights))


def _write(card: Card, name: str, target: Path, overwrite: bool, write: Callable[[Path], Any]) -> Card:
    """Weights and card, both or neither."""
    make_folder(target)
    final = target / f"{name}.json"
    with write_whole(final, overwrite) as temporary:
        weights = temporary.with_name(f"{name}.safetensors")
        write(weights)
        changes = {"name": name, "weights": weights.name, "sha256": sha256_of(weights), "size": weights.stat().st_size}
        write_json(card.model_copy(update=changes).model_dump(mode="json"), temporary)
    return read_card(final)


def _official_card(path: Path, official: Official) -> Card:
    architecture, network, scale = get_architecture(official.architecture), official.network, official.scale
    protocol = PROTOCOLS[official.architecture]
    factor = f"a factor of {scale}" if scale else "the factor it was trained for, which is not known here,"
    try:
        json.dumps(official.options)
    except TypeError as error:
        raise InputError(f"The options cannot be written into a model card: {error}.") from None
    return Card(
        name=path.stem,
        title=f"{architecture.title} x{scale}" if scale else architecture.title,
        summary=f"Weights of the network's public code, imported from {path.name}.",
        architecture=official.architecture,
        options=official.options,
        scale=scale,
        protocol=protocol,
        parameters=sum(p.numel() for p in network.parameters()),
        window=architecture.window,
        halo=architecture.halo(network),
        uses_noise=bool(official.options.get("noise_channel")),
        reference=architecture.reference,
        training=f"Imported from {path.name} (sha256 {sha256_of(path)}), which does not say how it was trained.",
        limits=(
            "Not for diagnosis: structures finer than the input's voxels are estimated, not measured.",
            "What it was trained on is not known here: contrasts, body part, voxel sizes and noise it can handle are not either.",
            f"Expects an input that is degraded by {factor} and, as far as its paper tells, like protocol {protocol}.",
        ),
        licence="as the source's",
    )


def _require_foreign(path: Path, content: Any) -> None:
    """Refuse what this program made and has a better way for."""
    if isinstance(content, Mapping) and all(key in content for key in TRAINING_STATE):
        recipe = content["recipe"] if isinstance(content["recipe"], Mapping) else {}
        raise InputError(
            f"{path.name} is a training checkpoint of napari-mrsr ({recipe.get('name', 'without a name')}), which also holds the optimiser: "
            f"napari-mrsr train RECIPE --resume, with the recipe it was made by, ends the training and writes the model."
        )
    if path.suffix.lower() == ".safetensors" and "napari_mrsr" in safetensors_metadata(path):
        raise InputError(f"{path.name} was made by napari-mrsr, but its card {path.stem}.json is missing; put it beside the weights.")


def _chosen_name(given: str | None, default: str) -> str:
    text = default if given is None else given
    safe = re.sub(r"[^a-z0-9._-]+", "-", text.lower())[:MAX_NAME].strip("-._")
    if not safe:
        raise InputError(f"{text!r} cannot name a model; give a name of letters and digits.")
    if given is not None and safe != given:
        raise InputError(f"{given!r} cannot name a model: use small letters, digits, dots and dashes, for example {safe}.")
    return safe


def _require_free(name: str, target: Path, overwrite: bool) -> None:
    """Refuse names of models that are not to be replaced, before any work is done."""
    known = {card.name: card for card in models.list_models()}
    if (card := known.get(name)) is not None:
        own = card.learned and Path(card.folder).resolve() == target.resolve() and (target / f"{name}.json").is_file()
        if not own:
            raise InputError(f"There is a model {name} already, which cannot be replaced; give another name.")
        if not overwrite:
            raise InputError(f"There is a model {name} already; give another name, or allow overwriting.")
    if target.is_dir():
        for suffix in ("safetensors", "json"):
            require_writable(target / f"{name}.{suffix}", overwrite)
