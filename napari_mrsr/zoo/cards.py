"""Model cards: everything a user must know of a model before trusting it, as data."""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from napari_mrsr.errors import InputError
from napari_mrsr.io import require_readable


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingData(_Part):
    """One volume a model was trained on or chosen by."""

    subject: str
    file: str
    licence: str = ""
    use: str = "train"


_GUIDED = " guided by "


class Domain(_Part):
    """What the model has seen.

    Attributes
    ----------
    contrasts : tuple of str
        For example ``T1w``, or ``T2w guided by T1w or FLAIR``.
    voxel_size : (float, float)
        Smallest and largest LR voxel edge in mm seen in training, of the axes that get finer.
    other_voxel_size : (float, float) or None
        The same of the axes that stay as they are; None where there are none, or it is not known.
    noise : (float, float)
        Percent of the ``mrsr-1`` range.
    """

    contrasts: tuple[str, ...] = ()
    voxel_size: tuple[float, float] = (0.0, 20.0)
    other_voxel_size: tuple[float, float] | None = None
    noise: tuple[float, float] = (0.0, 0.0)

    @property
    def targets(self) -> tuple[str, ...]:
        """Contrasts that it makes finer."""
        return tuple(dict.fromkeys(entry.partition(_GUIDED)[0] for entry in self.contrasts))

    @property
    def guides(self) -> tuple[str, ...]:
        """Contrasts that guide it as references."""
        return tuple(dict.fromkeys(name for entry in self.contrasts for name in entry.partition(_GUIDED)[2].split(" or ") if name))


ANOTHER = " of another"
"""End of a column's name: the reference contrast of somebody else, to see what a wrong one costs."""


class Quality(_Part):
    """One line of the quality table: PSNR (dB) and SSIM by method on one volume, in one convention.

    A model that takes references has a column for each: ``NAME alone``, ``NAME T1w``, ``NAME T1w of another``.
    """

    subject: str
    convention: str
    protocol: str
    noise: float
    psnr: dict[str, float]
    ssim: dict[str, float]

    def own(self, model: str) -> dict[str, float]:
        """PSNR of a model's columns, but for wrong references."""
        return {name: value for name, value in self.psnr.items() if _is_of(name, model) and not name.endswith(ANOTHER)}

    def others(self, model: str) -> dict[str, float]:
        """PSNR of the methods that it is compared with."""
        return {name: value for name, value in self.psnr.items() if not _is_of(name, model)}


def _is_of(column: str, model: str) -> bool:
    return column == model or column.startswith(f"{model} ")


class Card(_Part):
    """A model: a network with weights, or a classic method.

    Attributes
    ----------
    name : str
        What users type, for example ``cftn-x2``.
    architecture : str
        Key of the network registry.
    options : dict
        Constructor options.
    scale : int or None
        Factor it was trained for; None where any factor works.
    protocol : str or None
        Degradation it undoes; None where it follows the volume's.
    weights, sha256, size : str, str, int
        File beside the card, its checksum, its bytes; empty for classic methods.
    window : int or None
        Inference windows in LR voxels (see ``CFTN.set_windows``); None leaves the network as published.
    uses_noise, reference : bool, str
        Whether it is told the noise level, and whether it takes a second contrast.
    halo, halo_error : int, float
        Tile margin in LR voxels, and the largest deviation from the untiled result it was measured to leave, as a fraction of the range.
    full_halo : int or None
        Margin that leaves none; None where `halo` is that already.
    """

    schema_version: int = 1
    name: str
    title: str
    summary: str = ""
    architecture: str
    options: dict[str, Any] = {}
    scale: int | None = None
    protocol: str | None = None
    weights: str = ""
    sha256: str = ""
    size: int = 0
    parameters: int = 0
    window: int | None = None
    halo: int | None = None
    halo_error: float | None = None
    full_halo: int | None = None
    uses_noise: bool = False
    reference: Literal["none", "optional", "needed"] = "none"
    domain: Domain = Domain()
    data: tuple[TrainingData, ...] = ()
    recipe: dict[str, Any] = {}
    recipe_hash: str = ""
    commit: str = ""
    seed: int = 0
    training: str = ""
    quality_command: str = ""
    quality: tuple[Quality, ...] = ()
    limits: tuple[str, ...] = ()
    licence: str = "BSD-3-Clause"
    folder: str = Field(default="", exclude=True)

    @field_validator("options")
    @classmethod
    def _with_numbers(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Tables of options (widths by resolution) are keyed by numbers, which JSON turns into text."""
        return {
            name: {int(k) if str(k).isdecimal() else k: v for k, v in value.items()} if isinstance(value, dict) else value
            for name, value in options.items()
        }

    @property
    def learned(self) -> bool:
        """Whether it has weights."""
        return bool(self.weights)


def read_card(path: str | os.PathLike[str]) -> Card:
    """Read a card.

    Raises
    ------
    InputError
        Naming the file and the field that is wrong.
    """
    path = require_readable(path)
    try:
        card = Card.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        detail = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        raise InputError(f"Model card {path.name}, field {'.'.join(map(str, detail['loc'])) or '(all)'}: {detail['msg']}.") from None
    return card.model_copy(update={"folder": str(path.parent)})
