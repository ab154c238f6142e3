"""Whether a volume is like those a model was trained on: green, amber or red, and why, in words with numbers. Imports no torch.

Green says that nothing speaks against the model, not that its result is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from napari_mrsr.degradation import Protocol, get_protocol, recorded_degradation
from napari_mrsr.evaluation.align import require_finite
from napari_mrsr.evaluation.contrast import Contrast, tell_contrast
from napari_mrsr.intensity import estimate_noise, foreground_mask, intensity_range, require_content
from napari_mrsr.volume import Volume, axis_index
from napari_mrsr.zoo import Card

MIN_SIZE = 4
"""Fewest LR voxels along a degraded axis that a run accepts."""
FAR, FARTHER = 1.25, 2.0
"""Factors outside the trained range of voxel edges or noise that make amber and red."""
THICK, VERY_THICK = 1.3, 2.5
"""Slice spacing over pixel size from which slices are thick, and from which no network for isotropic voxels is of use."""
NOISE_BLOCK = 128
"""Voxels along each axis of the central block that noise is estimated in."""


class Level(StrEnum):
    """How well a volume fits a model."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"

    @property
    def rank(self) -> int:
        """0, 1, 2: green is best."""
        return list(Level).index(self)


class Reason(BaseModel):
    """One thing that was compared: how it stands, and what was found, as a sentence with numbers."""

    model_config = ConfigDict(frozen=True)

    level: Level
    text: str


class Verdict(BaseModel):
    """All that was compared.

    Attributes
    ----------
    model : str
    level : Level
        The worst of all reasons'.
    reasons : tuple of Reason
        Worst first.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    level: Level
    reasons: tuple[Reason, ...]

    @classmethod
    def of(cls, model: str, reasons: Sequence[Reason]) -> Verdict:
        """Verdict from its reasons."""
        ordered = sorted(reasons, key=lambda r: -r.level.rank)
        return cls(model=model, level=ordered[0].level if ordered else Level.GREEN, reasons=tuple(ordered))

    @property
    def concerns(self) -> tuple[str, ...]:
        """Sentences that are not green."""
        return tuple(r.text for r in self.reasons if r.level is not Level.GREEN)

    @property
    def line(self) -> str:
        """One line for people: the concerns, or all that fits."""
        return f"{self.level}: {' '.join(self.concerns or [r.text for r in self.reasons])}"


@dataclass(frozen=True)
class Facts:
    """What has to be computed of a volume before it can be compared; see :func:`find_facts`.

    Attributes
    ----------
    contrast : Contrast
    noise : float or None
        Percent of the ``mrsr-1`` range; None where it was not looked for.
    noise_source : str
        Where that is known from.
    """

    contrast: Contrast
    noise: float | None = None
    noise_source: str = ""


def find_facts(volume: Volume) -> Facts:
    """Contrast and noise of a volume; a fraction of a second.

    Raises
    ------
    InputError
        If the volume is constant or holds NaN.
    """
    require_finite(volume)
    require_content(volume.data, volume.name)
    return Facts(tell_contrast(volume), *_noise_percent(volume))


def judge(
    card: Card,
    volume: Volume,
    facts: Facts | None = None,
    reference: Volume | None = None,
    protocol: str | None = None,
    axis: str | None = None,
) -> Verdict:
    """Compare a volume with what a model has seen; takes no time.

    Parameters
    ----------
    card : Card
    volume : Volume
        Low resolution.
    facts : Facts, optional
        Contrast and noise are left out where missing.
    reference : Volume, optional
        Second contrast.
    protocol : str, optional
        How the volume was made, if the user says so; its own record counts where missing, else its voxels.
    axis : {"R", "A", "S"}, optional
        Axis across slices, if the user says so.

    Returns
    -------
    Verdict
        For classic methods green without reasons: they were trained on nothing.

    Raises
    ------
    InputError
        If the record of the volume cannot be read.
    """
    if not card.learned:
        return Verdict.of(card.name, [])
    recorded = recorded_degradation(volume)
    name = protocol or (recorded.protocol if recorded else None)
    letter = axis or (recorded.axis if recorded else None)
    slice_axis = axis_index(letter) if letter else volume.slice_axis()
    trained = get_protocol(card.protocol or "gaussian")
    degraded = [axis for axis, factor in enumerate(trained.scale_per_axis(2, slice_axis)) if factor != 1]
    found = [_pattern(card, volume, trained, name, slice_axis), *_voxels(card, volume, degraded), _size(card, volume, degraded)]
    if facts is not None:
        found += [_contrast(card, facts.contrast), _noise(card, facts)]
    found += [_reference(card, reference)]
    return Verdict.of(card.name, [reason for reason in found if reason is not None])


def thickness(volume: Volume, slice_axis: int | None = None) -> float:
    """Spacing across slices over the mean pixel size."""
    axis = volume.slice_axis() if slice_axis is None else slice_axis
    pixel = [size for other, size in enumerate(volume.voxel_size) if other != axis]
    return volume.voxel_size[axis] / float(np.sqrt(pixel[0] * pixel[1]))


def _pattern(card: Card, volume: Volume, trained: Protocol, name: str | None, slice_axis: int) -> Reason | None:
    if name is not None:
        made = get_protocol(name)
        if made.pattern != trained.pattern:
            text = f"{card.name} undoes {trained.pattern} degradation ({trained.name}); {volume.name} is {made.pattern} ({name})."
            return Reason(level=Level.RED, text=text)
        if name != trained.name:
            text = f"{card.name} was trained on {trained.name}, the input is {name}: expect a loss of quality."
            return Reason(level=Level.AMBER, text=text)
        return Reason(level=Level.GREEN, text=f"Made by {name}, as in training.")
    ratio, size = thickness(volume, slice_axis), _mm(volume.voxel_size)
    if trained.pattern == "through-plane":
        if ratio >= THICK:
            return Reason(level=Level.GREEN, text=f"Slices {ratio:.1f} times as thick as their pixels ({size}).")
        return Reason(level=Level.RED, text=f"Voxels of {size} are no thick slices, and {card.name} makes nothing but slices thinner.")
    if trained.pattern == "3d":
        level = Level.RED if ratio > VERY_THICK else Level.AMBER if ratio > THICK else Level.GREEN
        text = f"Voxels of {size} are nearly isotropic."
        if level is not Level.GREEN:
            text = f"Slices are {ratio:.1f} times as thick as their pixels ({size}); {card.name} was trained on isotropic voxels."
        return Reason(level=level, text=text)
    return None


def _voxels(card: Card, volume: Volume, degraded: list[int]) -> list[Reason | None]:
    """Voxel edges along the axes that lose resolution, and along the others."""
    other = [axis for axis in range(3) if axis not in degraded]
    whole = not other
    return [
        _edges(card, volume, degraded, card.domain.voxel_size, "Voxels" if whole else "Pixels" if len(degraded) == 2 else "Slices", FARTHER),
        None if whole else _edges(card, volume, other, card.domain.other_voxel_size, "Slices" if len(other) == 1 else "Pixels", np.inf),
    ]


def _edges(card: Card, volume: Volume, axes: list[int], trained: tuple[float, float] | None, what: str, farther: float) -> Reason | None:
    if trained is None or trained == _UNKNOWN_SIZE:
        return None
    sizes, (low, high) = [volume.voxel_size[axis] for axis in axes], trained
    beyond = max(low / min(sizes), max(sizes) / high)
    level = Level.RED if beyond > farther else Level.AMBER if beyond > FAR else Level.GREEN
    relation = "are near" if level is Level.GREEN else "are far from"
    return Reason(level=level, text=f"{what} of {_mm(sizes)} {relation} the {low:.2f} to {high:.2f} mm that {card.name} was trained with.")


_UNKNOWN_SIZE = (0.0, 20.0)
"""Range that stands in cards which do not say theirs."""


def _size(card: Card, volume: Volume, degraded: list[int]) -> Reason | None:
    sizes = [volume.shape[axis] for axis in degraded]
    shape = " x ".join(map(str, volume.shape))
    if min(sizes) < MIN_SIZE:
        return Reason(level=Level.RED, text=f"{shape} voxels are too few; at least {MIN_SIZE} are needed along each axis that gets finer.")
    patch = _patch(card)
    if len(degraded) > 1 and patch and min(sizes) < patch:
        return Reason(level=Level.AMBER, text=f"{shape} voxels are fewer than the {patch} along each axis that {card.name} was trained on.")
    return None


def _patch(card: Card) -> int:
    """Edge in LR voxels of what a step of the training saw; 0 where the card does not say."""
    patches: Any = card.recipe.get("patches")
    size = patches.get("size") if isinstance(patches, dict) else None
    return size if isinstance(size, int) else card.window or 0


def _contrast(card: Card, found: Contrast) -> Reason | None:
    trained = card.domain.targets
    if not trained:
        return None
    seen = " or ".join(trained)
    if found.doubtful:
        text = f"{found.name} {found.source}, but its intensities look like {found.measured} ({found.detail}); {card.name} was trained on {seen}."
        return Reason(level=Level.AMBER, text=text)
    if not found.name:
        return Reason(level=Level.AMBER, text=f"Its contrast is not clear ({found.detail}); {card.name} was trained on {seen}.")
    if found.name in trained:
        return Reason(level=Level.GREEN, text=f"{found.name} ({found.source}), as in training.")
    return Reason(level=Level.AMBER, text=f"{found.name} ({found.source}), but {card.name} was trained on {seen}: expect a smaller gain.")


def _noise(card: Card, facts: Facts) -> Reason | None:
    if facts.noise is None or not card.uses_noise:
        return None
    high = card.domain.noise[1]
    level = Level.RED if facts.noise > FARTHER * high else Level.AMBER if facts.noise > FAR * high else Level.GREEN
    where = "lies within" if level is Level.GREEN else "lies above"
    return Reason(level=level, text=f"Noise of {facts.noise:.1f} % ({facts.noise_source}) {where} the {high:g} % that {card.name} was trained with.")


def _reference(card: Card, reference: Volume | None) -> Reason | None:
    if card.reference == "needed" and reference is None:
        return Reason(level=Level.RED, text=f"{card.name} needs a reference contrast of the same person.")
    guides = card.domain.guides
    if reference is None or card.reference == "none" or not guides:
        return None
    found, seen = tell_contrast(reference, measure=False), " or ".join(guides)
    if not found.name:
        return None
    if found.name in guides:
        return Reason(level=Level.GREEN, text=f"Reference {reference.name}: {found.name} ({found.source}), as in training.")
    return Reason(level=Level.AMBER, text=f"Reference {reference.name}: {found.name} ({found.source}), but {card.name} was trained with {seen}.")


def _noise_percent(volume: Volume) -> tuple[float, str]:
    entry = volume.record.get("degradation")
    gain = intensity_range(volume.data, foreground_mask(volume.data))
    if isinstance(entry, dict) and isinstance(entry.get("noise_sigma"), (int, float)):
        return 100 * float(entry["noise_sigma"]) / gain, "recorded with the input"
    middle = volume.crop([slice(max(0, (n - NOISE_BLOCK) // 2), (n + NOISE_BLOCK) // 2) for n in volume.shape])
    return 100 * estimate_noise(middle.data) / gain, "estimated"


def _mm(sizes: Sequence[float]) -> str:
    return " x ".join(f"{v:.2f}" for v in sizes) + " mm"
