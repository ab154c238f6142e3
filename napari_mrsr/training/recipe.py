"""A training run described once: YAML file, command line flags, dock form and record in the checkpoint are this model."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_mrsr.degradation import Degradation
from napari_mrsr.errors import InputError
from napari_mrsr.io import require_readable

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


_LATER = (("data", "references"), ("data", "in_plane"), ("augmentation", "reference_dropout"), ("data", "validation_slices"))
"""Options that came after the first weights: unused ones leave a recipe's hash as it was."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkPart(_Part):
    """Which network, built how."""

    name: str
    scale: Count = 2
    options: dict[str, Any] = {}


class DataPart(_Part):
    """Which volumes; folders and patterns are relative to `root`. Contrasts and licences (by person) go into the card.

    `references` are contrasts (last part of a file name) beside each volume; one of them is drawn for every batch. `in_plane` (mm) reduces both
    in-plane axes by a k-space crop first, for scans stored finer than they were acquired. `validation_slices` whole slices of each volume are
    validated by networks that see slices (0: six).
    """

    root: str = "."
    train: tuple[str, ...]
    validation: tuple[str, ...]
    references: tuple[str, ...] = ()
    in_plane: Positive | None = None
    validation_slices: Annotated[int, Field(ge=0)] = 0
    contrasts: tuple[str, ...] = ()
    licences: dict[str, str] = {}


class PatchPart(_Part):
    """What one step sees: patches of `size` LR voxels, `batch` of them, lying where at least `foreground` of the voxels are tissue.

    Networks whose input is interpolated first see `size` voxels of the fine grid. `margin` is cut off after the degradation of volumes; slices are
    degraded whole.
    """

    size: Count = 26
    batch: Count = 16
    margin: Count = 8
    foreground: Fraction = 0.25


class AugmentationPart(_Part):
    """Variations of the HR patch before it is degraded, and of the LR patch after it.

    Noise is Rician, 0 to `noise` percent of the volume's range with probability `noise_probability`, its level told to the network. With
    probability `reference_dropout` a batch comes without its reference contrast.
    """

    flips: bool = True
    turns: bool = True
    contrast_probability: Fraction = 0.0
    contrast_gamma: tuple[Positive, Positive] = (0.6, 1.6)
    bias_probability: Fraction = 0.0
    intensity: Annotated[float, Field(ge=0, lt=1)] = 0.0
    noise: Annotated[float, Field(ge=0, le=20)] = 0.0
    noise_probability: Fraction = 0.5
    reference_dropout: Fraction = 0.0


class OptimiserPart(_Part):
    """Optimiser, schedule, averaging.

    `cycles` cosine cycles of equal length, each with its own warm-up (warm restarts); the constant schedule has one warm-up.
    """

    name: Literal["adam", "adamw"] = "adam"
    learning_rate: Positive = 1e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    cycles: Count = 1
    warmup: Annotated[int, Field(ge=0)] = 0
    final_fraction: Fraction = 0.01
    clip: Annotated[float, Field(ge=0)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0


class LossPart(_Part):
    """Pixel loss and CFTN's parameter norm (0 leaves it out)."""

    pixel: Literal["l1", "mse", "charbonnier", "mse-ssim-gradient"] = "l1"
    parameter_norm: Annotated[float, Field(ge=0)] = 0.0


class Recipe(_Part):
    """A training run.

    Attributes
    ----------
    name : str
        Name of the resulting model.
    summary : str
        One line for its card.
    network, degradation, data, patches, augmentation, optimiser, loss
        See the parts.
    steps : int
        Optimiser steps.
    validate_every : int
        Steps between validations (and checkpoints).
    validation_crop : int
        Edge in LR voxels of the central block validated per volume; of slices, `data.validation_slices` whole ones are.
    seed : int
        Of weights, patches and noise.
    """

    name: str
    summary: str = ""
    network: NetworkPart
    degradation: Degradation
    data: DataPart
    patches: PatchPart = PatchPart()
    augmentation: AugmentationPart = AugmentationPart()
    optimiser: OptimiserPart = OptimiserPart()
    loss: LossPart = LossPart()
    steps: Count = 1000
    validate_every: Count = 100
    validation_crop: Count = 48
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def hash(self) -> str:
        """First 12 hex digits of the sha256 of all values that change the weights."""
        values = self.model_dump(mode="json", exclude={"summary": True, "data": {"root", "contrasts", "licences"}})
        for part, field in _LATER:
            if not values[part][field]:
                del values[part][field]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def load_recipe(path: str | os.PathLike[str], **changes: Any) -> Recipe:
    """Read a YAML recipe.

    Parameters
    ----------
    path : path
        YAML file.
    **changes
        Top-level values that replace the file's; ``root`` replaces ``data.root``.

    Raises
    ------
    InputError
        Naming the file and the field that is wrong.
    """
    path = require_readable(path)
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is not a YAML file: {str(error).splitlines()[0]}.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path.name} is not a recipe: a table of options is needed.")
    root = changes.pop("root", None)
    content.update({k: v for k, v in changes.items() if v is not None})
    if root is not None and isinstance(content.get("data"), dict):
        content["data"]["root"] = str(root)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"])
        raise InputError(f"{path.name}, field {field}: {first['msg'].removeprefix('Value error, ').rstrip('.')}.") from None
