"""Results of stages on disk: safetensors named by stage and hash, so that a finished stage is never trained again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from napari_mrsr.errors import InputError
from napari_mrsr.training.stages.base import Result, Stage
from napari_mrsr.zoo import save_weights, sha256_of


def result_path(stage: Stage, folder: Path) -> Path:
    """File of a stage's result."""
    return folder / f"{stage.name}-{stage.hash}.safetensors"


def find_result(stage: Stage, folder: Path | None) -> Result | None:
    """Result of an earlier run; None where there is none.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    if folder is None or not (path := result_path(stage, folder)).is_file():
        return None
    try:
        return Result(load_file(path), sha256_of(path), path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it, and the stage {stage.name} is trained again.") from None


def keep_result(stage: Stage, tensors: Mapping[str, Tensor], before: Mapping[str, Result], folder: Path | None) -> Result:
    """Write a stage's result, with the checksums of those before it.

    Raises
    ------
    OutputError
        If the folder or disk refuses.
    """
    if folder is None:
        return Result(tensors, hashlib.sha256(save(dict(tensors))).hexdigest())
    facts = {"stage": stage.name, "hash": stage.hash, "before": json.dumps({name: r.sha256 for name, r in before.items()})}
    path = save_weights(tensors, result_path(stage, folder), facts, overwrite=True)
    return Result(tensors, sha256_of(path), path)
