"""Training state on disk: whole or not at all, and enough of it to go on as if never stopped."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from napari_mrsr.errors import InputError
from napari_mrsr.io import require_readable, write_whole


def save_checkpoint(state: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write a training state (tensors, numbers, strings, lists, dicts) whole or not at all.

    Raises
    ------
    OutputError
        If the folder or disk refuses; an older checkpoint stays as it was.
    """
    with write_whole(path, overwrite=True) as temporary:
        torch.save(state, temporary)
    return Path(path)


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a training state with ``weights_only=True``.

    Raises
    ------
    InputError
        If the file is not one of ours.
    """
    path = require_readable(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{path.name} is not a training checkpoint ({str(error).splitlines()[0][:120]}).") from None
    if not isinstance(state, dict) or "recipe" not in state:
        raise InputError(f"{path.name} is not a training checkpoint of napari-mrsr.")
    return state
