"""From a weights file of any training program to plain tensors by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_mrsr.errors import InputError
from napari_mrsr.io import require_readable
from napari_mrsr.io.torch_files import read_torch_file
from napari_mrsr.zoo.weights import MAX_HEADER, MAX_TENSORS

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
"""Names of files that may hold weights."""

WRAPPERS = ("g_ema", "params_ema", "ema", "state_dict", "params", "net_G_I", "model_state_dict", "model", "network", "generator")
"""Under what training programs keep the weights beside optimiser and counters; averaged weights go first."""

DEPTH = 3
"""Wrappers inside wrappers that are looked into."""

PREFIXES = ("module.", "_orig_mod.", "network.", "model.", "net.", "net_G.")
"""What wrappers (DataParallel, torch.compile, Lightning) put before every name."""


def read_content(path: str | os.PathLike[str]) -> Any:
    """Content of a weights file, as its program nested it.

    Raises
    ------
    InputError
        If the file holds more than tensors and plain values, is damaged, or has another type.
    """
    path = require_readable(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path.name} is no weights file; files ending in {', '.join(SUFFIXES)} are read.")
    return _read_safetensors(path) if path.suffix.lower() == ".safetensors" else read_torch_file(path)


def find_tensors(content: Any, label: str) -> dict[str, Tensor]:
    """State dict inside a training program's content, without its wrappers and prefixes.

    Parameters
    ----------
    content : mapping
        From :func:`read_content`, or a state dict.
    label : str
        What errors call it.

    Raises
    ------
    InputError
        If there are no tensors by name.
    """
    from torch import Tensor

    for _ in range(DEPTH):
        inner = [content[k] for k in WRAPPERS if isinstance(content.get(k), Mapping)] if isinstance(content, Mapping) else []
        content = inner[0] if inner else content
    state = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not state:
        raise InputError(f"{label} holds no weights: a state dict (names to tensors) is needed.")
    if len(state) > MAX_TENSORS:
        raise InputError(f"{label} holds {len(state)} tensors; at most {MAX_TENSORS} are accepted.")
    while prefix := next((p for p in PREFIXES if 2 * sum(k.startswith(p) for k in state) > len(state)), None):
        stripped = {k: k.removeprefix(prefix) for k in state}
        if len(set(stripped.values())) < len(stripped):
            raise InputError(f"{label} holds tensors both with and without {prefix} before the same name; give one network's state dict.")
        state = {stripped[k]: v for k, v in state.items()}
    return state


def safetensors_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself.

    Raises
    ------
    InputError
        If it is none, or cut off.
    """
    from safetensors import SafetensorError, safe_open

    _require_small_header(path)
    try:
        with safe_open(path, framework="pt") as tensors:
            return tensors.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path.name} is not a safetensors file or is cut off ({error}).") from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _require_small_header(path)
    try:
        state: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path.name} is not a safetensors file or is cut off ({error}).") from None
    return state


def _require_small_header(path: Path) -> None:
    with path.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
    if header > MAX_HEADER:
        raise InputError(f"{path.name} is not a weights file (header of {header:,} bytes).")


__all__ = ["SUFFIXES", "find_tensors", "read_content", "safetensors_metadata"]
