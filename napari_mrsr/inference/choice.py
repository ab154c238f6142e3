"""Which model suits a volume best, and why; judged by model cards alone. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from napari_mrsr.degradation import get_protocol, recorded_degradation
from napari_mrsr.errors import InputError
from napari_mrsr.inference.guard import THICK, Facts, Level, Verdict, judge, thickness
from napari_mrsr.volume import Volume, axis_index
from napari_mrsr.zoo import Card

AUTO = "auto"
"""In place of a model's name: the one that suits the volume best."""


@dataclass(frozen=True)
class Choice:
    """A proposal.

    Attributes
    ----------
    model : str
    protocol : str or None
        What a classic method is to be told of thick slices; None leaves it open.
    why : str
        One line.
    verdict : Verdict
    """

    model: str
    protocol: str | None
    why: str
    verdict: Verdict


@dataclass(frozen=True)
class Wish:
    """What the user says of a run, where anything is said.

    Attributes
    ----------
    scale, protocol, axis, voxel
        As of :class:`~napari_mrsr.inference.RunOptions`.
    """

    scale: int | None = None
    protocol: str | None = None
    axis: str | None = None
    voxel: float | None = None


def choose(cards: Sequence[Card], volume: Volume, facts: Facts, reference: Volume | None = None, wish: Wish | None = None) -> Choice:
    """Propose a model.

    Learned models that are not red, in this order: the greener; those that use the reference that is there; those that make finer what is
    coarse; the factor nearest to what is wanted; the larger gain over classic methods in their own tables. A classic method where none is left.

    Parameters
    ----------
    cards : sequence of Card
        Candidates.
    volume, facts, reference
        See :func:`~napari_mrsr.inference.guard.judge`.
    wish : Wish, optional
        Without one, thick slices are to get as thin as their pixels, and other voxels half as large.

    Returns
    -------
    Choice

    Raises
    ------
    InputError
        If there is nothing to choose from, or the record of the volume cannot be read.
    """
    wish = wish or Wish()
    able = [card for card in cards if wish.scale is None or card.scale in (None, wish.scale)]
    judged = [(card, judge(card, volume, facts, reference, wish.protocol, wish.axis)) for card in able]
    fitting = [(card, verdict) for card, verdict in judged if card.learned and verdict.level is not Level.RED]
    pattern, wanted = _wanted(volume, wish)
    if fitting:
        card, verdict = min(fitting, key=lambda pair: _order(pair[0], pair[1], reference is not None, pattern, wanted))
        return Choice(card.name, None, _why(card, verdict, volume, facts, reference, pattern), verdict)
    classic = [(card, verdict) for card, verdict in judged if not card.learned]
    if not classic:
        raise InputError(f"No model fits {volume.name}.")
    card, verdict = max(classic, key=lambda pair: pair[0].uses_noise)
    known = wish.protocol or recorded_degradation(volume)
    protocol = "slice-profile" if pattern == "through-plane" and not known else None
    learned = [v for c, v in judged if c.learned]
    nearest = min(learned, key=lambda v: sum(r.level is Level.RED for r in v.reasons), default=None)
    reason = f"no network fits. {nearest.model}: {nearest.reasons[0].text}" if nearest else "no network of that factor is there."
    told = f" It is told that the slices are thick ({protocol})." if protocol else ""
    return Choice(card.name, protocol, f"{card.name}, a classic method: {reason}{told}", verdict)


def _wanted(volume: Volume, wish: Wish) -> tuple[str, float]:
    """What lost resolution, and the factor that is wanted."""
    recorded = recorded_degradation(volume)
    name = wish.protocol or (recorded.protocol if recorded else None)
    ratio, coarsest = thickness(volume, axis_index(wish.axis) if wish.axis else None), max(volume.voxel_size)
    by_shape = "through-plane" if ratio >= THICK else "in-plane" if ratio <= 1 / THICK else "3d"
    pattern = get_protocol(name).pattern if name else by_shape
    if wish.scale or wish.voxel:
        return pattern, wish.scale or coarsest / (wish.voxel or coarsest)
    return pattern, recorded.scale if recorded else ratio if pattern == "through-plane" else 2.0


def _order(card: Card, verdict: Verdict, referenced: bool, pattern: str, wanted: float) -> tuple[float, ...]:
    """Smaller is better."""
    return (
        verdict.level.rank,
        len(verdict.concerns),
        referenced and card.reference == "none",
        get_protocol(card.protocol or "gaussian").pattern != pattern,
        round(abs(math.log((card.scale or wanted) / wanted)), 3),
        -_gain(card),
    )


def _gain(card: Card) -> float:
    """Mean dB over the best other method, in the noise-free lines of a card's own table; 0 where it has none."""
    lines = [(line.own(card.name), line.others(card.name)) for line in card.quality if line.noise == 0]
    gains = [max(own.values()) - max(others.values()) for own, others in lines if own and others]
    return float(np.mean(gains)) if gains else 0.0


def _why(card: Card, verdict: Verdict, volume: Volume, facts: Facts, reference: Volume | None, pattern: str) -> str:
    size = " x ".join(f"{v:.2g}" for v in volume.voxel_size)
    shape = {"through-plane": "thick slices", "in-plane": "slices coarse in plane", "3d": "isotropic voxels"}[pattern]
    seen = f"{facts.contrast.name} ({facts.contrast.source})" if facts.contrast.name else "contrast not clear"
    second = f", reference {reference.name}" if reference is not None and card.reference != "none" else ""
    least = "" if verdict.level is Level.GREEN else "; none fits fully, this one best"
    return f"{card.name}: {shape} of {size} mm, {seen}{second}{least}."
