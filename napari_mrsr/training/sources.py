"""What a training learns from and what it is validated on: split by person or by part, and checked for leaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_mrsr.degradation import get_protocol
from napari_mrsr.errors import InputError
from napari_mrsr.grid import lattice_offset
from napari_mrsr.intensity import foreground_mask
from napari_mrsr.training.augment import require_variations
from napari_mrsr.training.data import Study, crop_study, find_volumes, load_study, require_room, thick_axis
from napari_mrsr.training.fingerprint import SAME, fingerprint
from napari_mrsr.training.people import subject
from napari_mrsr.training.recipe import Recipe

GAP_MM = 10.0
"""Width of the gap between the parts of a divided volume, in mm (two slices at least): wider than what a patch's margin or a thick slice mixes."""


MOST_OF_A_VOLUME = 0.5
"""Largest share of a divided volume's tissue that is validated."""


@dataclass(frozen=True)
class Split:
    """Files on either side.

    Attributes
    ----------
    train, validation : tuple of Path
    parts : bool
        Whether both are parts of the same volumes.
    note : str
        How validation was chosen, in words; empty where the recipe names it.
    """

    train: tuple[Path, ...]
    validation: tuple[Path, ...]
    parts: bool = False
    note: str = ""


def find_split(recipe: Recipe) -> Split:
    """Find the files of both sides; nothing is read.

    Raises
    ------
    InputError
        If there are no files, too few people for a split, or a person is on both sides.
    """
    data = recipe.data
    train = find_volumes(data.root, data.train, data.references)
    if data.validation:
        validation = find_volumes(data.root, data.validation, data.references)
        check_people(train, validation)
        return Split(tuple(train), tuple(validation))
    people = sorted({subject(p) for p in train})
    if data.split == "parts" or (data.split == "auto" and len(people) == 1):
        if len(people) > 1:
            raise InputError(f"The volumes are of {len(people)} people: keep people apart (data.split: people) instead of dividing volumes.")
        note = f"validated on a held-out part of the same person ({people[0]}), so the scores say little about other people"
        return Split(tuple(train), tuple(train), True, note)
    if len(people) < 2:
        volumes = "One volume was" if len(train) == 1 else f"{len(train)} volumes of one person ({people[0]}) were"
        raise InputError(
            f"{volumes} found, and validation needs another person: add one, or set data.split to parts to hold out a part of the volume."
        )
    count = round(data.held_out if data.held_out >= 1 else max(1.0, data.held_out * len(people)))
    if count >= len(people):
        raise InputError(f"data.held_out {data.held_out:g} leaves nobody of {len(people)} people to learn from; hold out fewer.")
    held = set(np.random.default_rng(recipe.seed).permutation(people)[:count].tolist())
    note = f"validated on {len(held)} of {len(people)} people, drawn with seed {recipe.seed}: {', '.join(sorted(held))}"
    return Split(tuple(p for p in train if subject(p) not in held), tuple(p for p in train if subject(p) in held), False, note)


def load_split(recipe: Recipe, split: Split) -> tuple[list[Study], list[Study]]:
    """Read both sides.

    Raises
    ------
    InputError
        As :func:`~napari_mrsr.training.data.load_study`; where both sides show the same voxels; where a volume is too small to be divided.
    """
    require_variations(recipe)
    train = [load_study(path, recipe.data, recipe) for path in split.train]
    if split.parts:
        return divide(train, recipe)
    validation = [load_study(path, recipe.data, recipe) for path in split.validation]
    check_voxels(list(zip(split.train, train, strict=True)), list(zip(split.validation, validation, strict=True)))
    return train, validation


def check_people(train: Sequence[Path], validation: Sequence[Path]) -> None:
    """Refuse a person on both sides of the split.

    Raises
    ------
    InputError
        Naming the people and a file of either side.
    """
    sides = [{subject(p): p for p in reversed(side)} for side in (train, validation)]
    both = sorted(sides[0].keys() & sides[1].keys())
    if both:
        files = f"{sides[0][both[0]].name} and {sides[1][both[0]].name}"
        raise InputError(f"The same person is in training and validation: {', '.join(both)} ({files}); keep people apart.")


def check_voxels(train: Sequence[tuple[Path, Study]], validation: Sequence[tuple[Path, Study]]) -> None:
    """Refuse the same head under two names.

    Raises
    ------
    InputError
        Naming both files.
    """
    known = [(path, fingerprint(study.image)) for path, study in train]
    for path, study in validation:
        ours = fingerprint(study.image)
        for other, theirs in known:
            likeness = float(ours @ theirs)
            if likeness > SAME:
                raise InputError(
                    f"{other.name} (training) and {path.name} (validation) show the same head (likeness {likeness:.2f} of 1); leave one of them out."
                )


def divide(studies: Sequence[Study], recipe: Recipe) -> tuple[list[Study], list[Study]]:
    """Cut every volume into a part to learn from and a part to validate on, with a gap of :data:`GAP_MM` between them.

    Volumes are cut across the axis along which the network sees nothing or, where it sees all, from back to front (or bottom to top where the
    tissue is longer), never from left to right: the two sides of a head are too alike.

    Raises
    ------
    InputError
        If too much is to be held out, the volumes lie on several grids, or the parts would be too small.
    """
    first = studies[0].image
    if recipe.data.held_out > MOST_OF_A_VOLUME:
        raise InputError(f"data.held_out {recipe.data.held_out:g}: of a single volume at most {MOST_OF_A_VOLUME:g} of the tissue can be held out.")
    for study in studies[1:]:
        if study.image.shape != first.shape or lattice_offset(first.affine, study.image.affine, first.shape) != (0, 0, 0):
            raise InputError(f"{first.name} and {study.image.name} lie on different grids; only volumes of one grid can be divided alike.")
    axis, factor = _across(studies[0], recipe)
    spacing, extent = first.voxel_size[axis], first.shape[axis]
    tissue = np.cumsum(foreground_mask(first.data).sum(tuple(a for a in range(3) if a != axis)))
    step = round(factor)
    end = _up(int(np.searchsorted(tissue, recipe.data.held_out * tissue[-1])) + 1, step)
    begin = _up(end + max(2, round(GAP_MM / spacing)), step)
    if begin >= extent:
        raise InputError(f"{first.name} is too small to be divided: {extent} voxels along the axis it is cut across.")
    train = [crop_study(s, axis, begin, extent // step * step if s.low else extent, factor) for s in studies]
    for study in train:
        require_room(study, recipe)
    return train, [crop_study(s, axis, 0, end, factor) for s in studies]


def _up(index: int, step: int) -> int:
    return -(-index // step) * step


def _across(study: Study, recipe: Recipe) -> tuple[int, float]:
    """Axis that a volume is cut across, and the degradation's factor along it."""
    image, degradation = study.image, recipe.degradation
    protocol = get_protocol(degradation.protocol)
    scale = protocol.scale_per_axis(degradation.scale, degradation.slice_axis(image))
    if protocol.pattern == "in-plane":
        axis = degradation.slice_axis(image)
    elif (thick := thick_axis(image)) is not None:
        axis = thick
    else:
        mask = foreground_mask(image.data)
        lengths = [_length(mask, a) * image.voxel_size[a] for a in range(3)]
        axis = 2 if lengths[2] > lengths[1] else 1
    return axis, scale[axis]


def _length(mask: NDArray[np.bool_], axis: int) -> int:
    return int(np.count_nonzero(mask.any(tuple(a for a in range(3) if a != axis))))
