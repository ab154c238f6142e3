"""Training state on disk: whole or not at all, and enough of it to go on as if never stopped."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from napari_mrsr.errors import InputError
from napari_mrsr.io import write_whole
from napari_mrsr.io.torch_files import read_torch_file

PARTS = ("recipe", "stage", "hash", "step", "seconds", "pieces", "stale", "gained_from", "best_score", "best", "averaged", "players", "rng", "origin")
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
    path = Path(path)
    state: dict[str, Any] = read_torch_file(path)
    missing = [key for key in PARTS if key not in state] if isinstance(state, dict) else list(PARTS)
    if missing:
        raise InputError(f"{path.name} is not a training checkpoint of napari-mrsr: {', '.join(missing)} missing.")
    return state
