"""A training run described once: YAML file, command line flags, dock form and record in the checkpoint are this model."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_mrsr.degradation import Degradation
from napari_mrsr.errors import InputError
from napari_mrsr.io import require_readable
from napari_mrsr.training.hashing import hashed_values, short_hash

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkPart(_Part):
    """Which network, built how."""

    name: str
    scale: Count = 2
    options: dict[str, Any] = {}


class DataPart(_Part):
    """Which volumes; files, folders and patterns are relative to `root`. Contrasts and licences (by person) go into the card.

    `test` names volumes that neither train nor choose anything: the card's table is made of them.

    Without `validation`, the share `held_out` of the people of `train` (or, from 1, that many people) is validated (`split: people`); or, where only
    one person's volumes are at hand, a part with that share of each volume's tissue, kept apart by a gap (`split: parts`); `split: auto` takes
    people where there are several.

    `references` are contrasts (last part of a file name) beside each volume; one of them is drawn for every batch; `register_references` brings
    them onto the volume by a rigid motion first. `low` tells where given low-resolution volumes lie: a folder with files of the same names, or the
    last part of the names beside the volumes; without it they are made by the degradation. `in_plane` (mm) reduces both in-plane axes by a k-space
    crop first, for scans stored finer than they were acquired. `validation_slices` whole slices of each volume are validated by networks that see
    slices (0: six).
    """

    root: str = "."
    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    split: Literal["people", "parts", "auto"] = "people"
    held_out: Positive = 0.2
    references: tuple[str, ...] = ()
    register_references: bool = False
    low: str = ""
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
    """Variations of the HR patch before it is degraded, of the degradation, and of the LR patch after it; all drawn from the seed and the step.

    Of the HR patch: flips, turns, contrast (gamma), `curve` (brightness through a piecewise-linear curve), `inversion` (dark becomes bright), a
    bias field (exponential of a cubic with coefficients up to `bias_strength`) and brightness. Of the degradation: its blur (Gaussian sigma, slice
    profile) is wider or narrower by a factor in `blur`. Of the LR patch: Rician noise of 0 to `noise` percent of the volume's range with probability
    `noise_probability`, its level told to the network. With probability `reference_dropout` a batch comes without its reference contrast.
    """

    flips: bool = True
    turns: bool = True
    contrast_probability: Fraction = 0.0
    contrast_gamma: tuple[Positive, Positive] = (0.6, 1.6)
    curve_probability: Fraction = 0.0
    inversion_probability: Fraction = 0.0
    bias_probability: Fraction = 0.0
    bias_strength: Annotated[float, Field(gt=0, le=1)] = 0.1
    intensity: Annotated[float, Field(ge=0, lt=1)] = 0.0
    blur: tuple[Annotated[float, Field(ge=0.5, le=2)], Annotated[float, Field(ge=0.5, le=2)]] = (1.0, 1.0)
    noise: Annotated[float, Field(ge=0, le=20)] = 0.0
    noise_probability: Fraction = 0.5
    reference_dropout: Fraction = 0.0


class OptimiserPart(_Part):
    """Optimiser, schedule, averaging.

    `cycles` cosine cycles of equal length, each with its own warm-up (warm restarts); the other schedules have one warm-up. ``step`` multiplies the
    rate by `step_factor` every `step_every` steps.
    """

    name: Literal["adam", "adamw"] = "adam"
    learning_rate: Positive = 1e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine", "step"] = "constant"
    cycles: Count = 1
    warmup: Annotated[int, Field(ge=0)] = 0
    final_fraction: Fraction = 0.01
    step_factor: Fraction = 0.5
    step_every: Count = 1000
    clip: Annotated[float, Field(ge=0)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0


class LossPart(_Part):
    """What the super-resolution minimises.

    `kind` ``pixel``: the pixel loss, and CFTN's parameter norm (0 leaves it out). Pixel losses that end in ``gradient`` are for Cohf-T, which also
    predicts gradients: theirs counts half as much as the image's; the paper's is ``mse-ssim-gradient``. ``fdvit``: FD-ViT's terms, which need its
    two stages before; `weights` of ``adversarial``, ``vit``, ``structure``, ``texture`` and ``pixel`` (mean absolute difference, not in the paper),
    the paper's where not given; `discriminator` are options of its discriminator. ``transmrsr``: `weights` of ``l1``, ``content`` and ``style``,
    the latter two only where `vgg` names torchvision's VGG19 file.
    """

    kind: Literal["pixel", "fdvit", "transmrsr"] = "pixel"
    pixel: Literal["l1", "mse", "charbonnier", "mse-ssim-gradient", "charbonnier-gradient"] = "l1"
    parameter_norm: Annotated[float, Field(ge=0)] = 0.0
    weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    discriminator: dict[str, Any] = {}
    vgg: str | None = None


class ImageStage(_Part):
    """A stage before the super-resolution, whose name its kinds have.

    It learns from sharp patches of `size` pixels, `batch` of them a step, of the recipe's volumes, or of those named by `train` and `validation`
    under the same root, varied by the recipe's augmentation. Of two networks (adversarial stages) both get `optimiser`.
    """

    name: str
    steps: Count = 1000
    validate_every: Count = 100
    batch: Annotated[int, Field(ge=2)] = 8
    size: Count = 64
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    optimiser: OptimiserPart = OptimiserPart()


class VitStage(ImageStage):
    """FD-ViT's transformer learns a pretext task.

    `pretext` ``class``: which class a slice belongs to, the last part of the file's name (with brains only: the contrast). ``masked``: what lies
    under the share `masked` of its patches. `unetr` is a file of a UNETR that MONAI trained for segmentation, to begin with.
    """

    name: Literal["vit"]
    pretext: Literal["class", "masked"] = "class"
    masked: Annotated[float, Field(gt=0, lt=1)] = 0.5
    unetr: str | None = None


class DisentangleStage(ImageStage):
    """FD-ViT's autoencoder learns structure and texture codes.

    `lambda_adv` and `lambda_swap` weigh its adversarial terms (paper: 0.7), `r1` the penalty on the discriminator's gradient every `r1_every`
    steps (0: none), `discriminator` are the discriminator's options.
    """

    name: Literal["disentangle"]
    lambda_adv: Annotated[float, Field(ge=0)] = 0.7
    lambda_swap: Annotated[float, Field(ge=0)] = 0.7
    r1: Annotated[float, Field(ge=0)] = 0.0
    r1_every: Count = 16
    discriminator: dict[str, Any] = {}


class PriorStage(ImageStage):
    """TransMRSR's generative prior: a StyleSwin of the network's size and widths learns to make slices from nothing.

    `r1` weighs the penalty on the discriminator's gradient every `r1_every` steps; the generator's learning rate is `generator_rate` times the
    optimiser's; `discriminator` are the discriminator's options.
    """

    name: Literal["prior"]
    r1: Annotated[float, Field(ge=0)] = 10.0
    r1_every: Count = 16
    generator_rate: Positive = 0.25
    discriminator: dict[str, Any] = {}


class CentroidsStage(_Part):
    """Cluster centres of the prior's styles, from `samples` of them; how many is the network's option ``clusters``."""

    name: Literal["centroids"]
    samples: Count = 60_000
    steps: Literal[0] = 0
    validate_every: Count = 1


StagePart = Annotated[VitStage | DisentangleStage | PriorStage | CentroidsStage, Field(discriminator="name")]


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
    start : str or None
        Model of the list, or safetensors file with its card, whose weights the training begins with; None begins from scratch.
    stages : tuple of stage parts
        Stages before the super-resolution, in order.
    precision : str
        Of the arithmetic, as Lightning Fabric names it.
    storage : str
        Numbers in which the model's file keeps its weights.
    accumulate : int
        Pieces a batch is computed in, one after the other; the optimisation stays the same.
    patience, least_gain : int, float
        The training ends after so many validations without a gain of so many dB; 0 never ends it early.
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
    start: str | None = None
    stages: tuple[StagePart, ...] = ()
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    storage: Literal["float32", "float16"] = "float32"
    accumulate: Count = 1
    patience: Annotated[int, Field(ge=0)] = 0
    least_gain: Annotated[float, Field(ge=0)] = 0.0

    @property
    def hash(self) -> str:
        """First 12 hex digits of the sha256 of all values that change the weights."""
        return short_hash(hashed_values(self))


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
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is not a YAML file: {error}.") from None
    return parse_recipe(text, path.name, **changes)


def parse_recipe(text: str, name: str, **changes: Any) -> Recipe:
    """Recipe of a YAML text that messages call `name`; otherwise as :func:`load_recipe`."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{name} is not a YAML file: {str(error).splitlines()[0]}.") from None
    if not isinstance(content, dict):
        raise InputError(f"{name} is not a recipe: a table of options is needed.")
    root = changes.pop("root", None)
    content.update({k: v for k, v in changes.items() if v is not None})
    if root is not None and isinstance(content.get("data"), dict):
        content["data"]["root"] = str(root)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"])
        raise InputError(f"{name}, field {field}: {first['msg'].removeprefix('Value error, ').rstrip('.')}.") from None
