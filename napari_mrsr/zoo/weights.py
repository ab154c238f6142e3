"""Weights on disk: safetensors only, checksum verified, names and shapes checked before any value is read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from napari_mrsr.errors import InputError
from napari_mrsr.io import require_readable, write_whole

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_HEADER = 2**20
MAX_TENSORS = 4096
FLOATS = ("F64", "F32", "F16", "BF16")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hex sha256 of a file."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save_weights(state: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: Mapping[str, str], overwrite: bool = False) -> Path:
    """Write tensors as safetensors, whole or not at all.

    Raises
    ------
    OutputError
        If the file exists, or the folder or disk refuses.
    """
    from safetensors.torch import save

    # One entry, because safetensors stores several in an order that changes from run to run, and with it the checksum.
    content = save({k: v.contiguous() for k, v in state.items()}, {"napari_mrsr": json.dumps(dict(metadata), sort_keys=True)})
    with write_whole(path, overwrite, need_bytes=len(content)) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def read_weights(network: nn.Module, path: str | os.PathLike[str], sha256: str = "") -> None:
    """Fill a network from a safetensors file; nothing is loaded unless everything fits.

    Parameters
    ----------
    network : Module
        Built with the card's options.
    path : path
        safetensors file, any float type.
    sha256 : str
        Expected checksum; not checked where empty.

    Raises
    ------
    InputError
        If the checksum is wrong, the file is damaged, names or shapes differ, or a value is NaN or infinite.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    path = require_readable(path)
    if sha256:
        found = sha256_of(path)
        if found != sha256:
            raise InputError(
                f"{path.name} is damaged or was changed: its sha256 is {found[:12]}..., its card says {sha256[:12]}...; install it again."
            )
    with path.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
    if header > MAX_HEADER:
        raise InputError(f"{path.name} is not a weights file of this project (header of {header:,} bytes).")
    own = network.state_dict()
    wanted = {k: tuple(v.shape) for k, v in own.items()}
    try:
        with safe_open(path, framework="pt") as tensors:
            names = set(tensors.keys())
            if len(names) > MAX_TENSORS:
                raise InputError(f"{path.name} holds {len(names)} tensors; at most {MAX_TENSORS} are accepted.")
            found_shapes = {k: tuple(tensors.get_slice(k).get_shape()) for k in names}
            require_fit(path.name, wanted, found_shapes)
            kinds = {k: tensors.get_slice(k).get_dtype() for k in names}
            # Counters (of batch norms) are whole numbers; everything that is learned is not.
            if wrong := sorted(k for k, kind in kinds.items() if own[k].is_floating_point() and kind not in FLOATS):
                raise InputError(f"{path.name}: {wrong[0]} holds {kinds[wrong[0]]} values; weights must be floating-point numbers.")
            state = {k: tensors.get_tensor(k).to(torch.float32 if own[k].is_floating_point() else own[k].dtype) for k in names}
    except SafetensorError as error:
        raise InputError(f"{path.name} is not a safetensors file or is cut off ({error}).") from None
    bad = [k for k, v in state.items() if not torch.isfinite(v).all()]
    if bad:
        raise InputError(f"{path.name}: the weights {bad[0]} contain NaN or infinite values; the file cannot be used.")
    network.load_state_dict(state)


def require_fit(name: str, wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> None:
    """Compare tensor shapes by name with those a network wants.

    Raises
    ------
    InputError
        Naming what is missing, unexpected or of another size in the file called `name`.
    """
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or extra:
        parts = [f"{len(group)} {kind} (first: {group[0]})" for kind, group in (("missing", missing), ("unexpected", extra)) if group]
        raise InputError(f"{name} belongs to another network: {', '.join(parts)}.")
    for key, shape in wanted.items():
        if found[key] != shape:
            raise InputError(f"{name} belongs to another width or scale: {key} is {found[key]}, the network has {shape}.")
