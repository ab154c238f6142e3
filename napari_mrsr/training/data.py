"""Which volumes a training sees: files, people, reference contrasts, batches ready for the network."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from napari_mrsr.degradation import reduce_in_plane
from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.align import resample_onto
from napari_mrsr.grid import lattice_offset
from napari_mrsr.io import READABLE, read_volume
from napari_mrsr.training.recipe import DataPart
from napari_mrsr.volume import Volume

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Pair:
    """One batch in the network's units; slices have no Z.

    Attributes
    ----------
    lr : (B, 1, X, Y, Z) or (B, 1, H, W) tensor
        Low resolution.
    hr : (B, 1, ...) tensor
        Truth.
    noise_level : (B, 1, ...) tensor of ones along all but the first axis
        Standard deviation of the noise.
    reference : (B, 1, ...) tensor or None
        Second contrast on the truth's lattice.
    """

    lr: Tensor
    hr: Tensor
    noise_level: Tensor
    reference: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Study:
    """One person's sharp volume and the other contrasts on its lattice."""

    image: Volume
    references: tuple[Volume, ...] = ()


def find_volumes(root: str | Path, patterns: Sequence[str]) -> list[Path]:
    """Image files under `root`; a pattern is a glob, or a folder whose images are all taken.

    Raises
    ------
    InputError
        If a pattern finds nothing.
    """
    found: list[Path] = []
    for pattern in patterns:
        folder = Path(root) / pattern
        files = sorted(folder.rglob("*")) if folder.is_dir() else sorted(Path(root).glob(pattern))
        images = [p for p in files if p.is_file() and p.name.lower().endswith(READABLE)]
        if not images:
            raise InputError(f"No image files found for {pattern!r} under {Path(root).resolve()}; give the data folder with --data.")
        found += [p for p in images if p not in found]
    return found


def check_split(train: Sequence[Path], validation: Sequence[Path]) -> None:
    """Refuse a person (``sub-NAME`` in the file name, else the file name) on both sides of the split.

    Raises
    ------
    InputError
        Naming the person.
    """
    both = {subject(p) for p in train} & {subject(p) for p in validation}
    if both:
        raise InputError(f"The same person is in training and validation: {', '.join(sorted(both))}; keep people apart.")


def subject(path: Path) -> str:
    """Person a file belongs to: its BIDS ``sub-`` entity, else its name without suffix."""
    for part in (path.name, *(p.name for p in path.parents)):
        if part.startswith("sub-"):
            return part.removeprefix("sub-").split("_")[0].split(".")[0]
    return path.name.split(".")[0]


def load_studies(paths: Sequence[Path], data: DataPart) -> list[Study]:
    """Read volumes with their reference contrasts, reduced in plane where the recipe says so.

    A reference is the file whose last name part is the contrast's: ``sub-07_T2w.nii.gz`` goes with ``sub-07_T1w.nii.gz``.

    Raises
    ------
    InputError
        If contrasts are asked for and a volume has none of them.
    """
    return [load_study(path, data) for path in paths]


def reference_paths(path: Path, contrasts: Sequence[str]) -> list[Path]:
    """Files of the other contrasts beside a volume, those that are there."""
    stem, dot, suffixes = path.name.partition(".")
    person, _, own = stem.rpartition("_")
    names = [path.with_name(f"{person}_{contrast}{dot}{suffixes}") for contrast in contrasts if contrast != own]
    return [name for name in names if name.is_file()]


def load_study(path: Path, data: DataPart, require_reference: bool = True) -> Study:
    """One volume of :func:`load_studies`; a missing reference is accepted where none is required."""
    image = read_volume(path)
    found = reference_paths(path, data.references)
    if data.references and not found and require_reference:
        raise InputError(f"{path.name}: no reference contrast ({', '.join(data.references)}) lies beside it.")
    references = [_onto(image, read_volume(p)) for p in found]
    if data.in_plane is not None:
        image, *references = (reduce_in_plane(v, data.in_plane) for v in (image, *references))
    return Study(image, tuple(references))


def _onto(image: Volume, reference: Volume) -> Volume:
    if reference.shape == image.shape and lattice_offset(image.affine, reference.affine, reference.shape) == (0, 0, 0):
        return reference
    moved = resample_onto(image, reference)
    if moved.shape != image.shape:
        raise InputError(f"{reference.name} covers only a part of {image.name}; training needs references over the whole volume.")
    return moved
