"""Training state on disk: whole or not at all, and enough of it to go on as if never stopped."""

from __future__ import annotations

import os
import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from napari_mrsr.errors import InputError
from napari_mrsr.io import require_readable, write_whole

PARTS = ("recipe", "recipe_hash", "step", "seconds", "best_psnr", "best", "network", "averaged", "optimiser", "rng")
"""What a training state holds."""


def save_checkpoint(state: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write a training state (tensors, numbers, strings, lists, dicts) whole or not at all.

    Raises
    ------
    OutputError
        If the folder or disk refuses; an older checkpoint stays as it was.
    """
    # Serialised in memory, because torch turns a full disk into errors of many kinds.
    content = BytesIO()
    torch.save(state, content)
    with write_whole(path, overwrite=True, need_bytes=content.tell()) as temporary:
        temporary.write_bytes(content.getbuffer())
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
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{path.name} is not a training checkpoint ({(str(error) or 'it is cut off').splitlines()[0][:120]}).") from None
    missing = [key for key in PARTS if key not in state] if isinstance(state, dict) else list(PARTS)
    if missing:
        raise InputError(f"{path.name} is not a training checkpoint of napari-mrsr: {', '.join(missing)} missing.")
    return state
