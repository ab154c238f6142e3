"""One person's volumes for a training: files, people, reference contrasts, given low resolutions; batches ready for the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from napari_mrsr.degradation import get_protocol, reduce_in_plane
from napari_mrsr.errors import InputError
from napari_mrsr.inference.reference import moved, register_rigid, resample_reference
from napari_mrsr.intensity import require_content
from napari_mrsr.io import READABLE, read_volume
from napari_mrsr.training.pairs import match_pair
from napari_mrsr.training.people import stem_of
from napari_mrsr.training.recipe import DataPart, Recipe
from napari_mrsr.volume import AXES, Volume

NO_IMAGES = ("_mask", "_seg", "_dseg", "_probseg", "_label", "_labels")
"""Ends of names of files beside images that are none."""
THICK = 1.5
"""Slices further apart than this many in-plane voxels are thick: their stack shows no detail to learn from."""
COVERED = 0.9
"""Share of a volume that a reference must cover."""


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
    """One person's sharp volume and what belongs to it.

    Attributes
    ----------
    image : Volume
        Truth.
    references : tuple of Volume
        Other contrasts on its lattice.
    low : Volume or None
        Given low resolution, cut so that its first voxel lies where the network expects it, in the image's units; None where it is simulated.
    """

    image: Volume
    references: tuple[Volume, ...] = ()
    low: Volume | None = None


def thick_axis(volume: Volume) -> int | None:
    """Axis across thick slices, or None where the voxels are about as long along all axes."""
    sizes = sorted(volume.voxel_size)
    return volume.slice_axis() if sizes[2] > THICK * sizes[1] else None


def find_volumes(root: str | Path, patterns: Sequence[str], leave_out: Sequence[str] = ()) -> list[Path]:
    """Image files under `root`.

    Parameters
    ----------
    root : path
        Folder, or one file: then that is taken whatever the patterns are.
    patterns : sequence of str
        Files, globs (``sub-*/anat/*_T1w.nii.gz``), or folders whose images are all taken, but for masks, labels and BIDS derivatives.
    leave_out : sequence of str
        Contrasts (last part of a name) that are not taken from folders: they are references.

    Raises
    ------
    InputError
        If a pattern finds nothing.
    """
    found: list[Path] = []
    for pattern in patterns:
        place = Path(root) if Path(root).is_file() else Path(root) / pattern
        if place.is_file():
            images = [place] if _is_image(place) else []
        elif place.is_dir():
            images = [p for p in sorted(place.rglob("*")) if _is_image(p) and _is_source(p, place) and stem_of(p).rpartition("_")[2] not in leave_out]
        else:
            images = [p for p in sorted(_glob(Path(root), pattern)) if _is_image(p)]
        if not images:
            raise InputError(f"No image files found for {pattern!r} under {Path(root).resolve()}; give the data folder with --data.")
        found += [p for p in images if p not in found]
    return found


def _glob(root: Path, pattern: str) -> list[Path]:
    anchor = Path(pattern).anchor
    return list(Path(anchor).glob(str(Path(pattern).relative_to(anchor)))) if anchor else list(root.glob(pattern))


def _is_image(path: Path) -> bool:
    second_half = path.suffix.lower() == ".img" and path.with_suffix(".hdr").exists()
    return path.is_file() and path.name.lower().endswith(READABLE) and not second_half


def _is_source(path: Path, folder: Path) -> bool:
    return "derivatives" not in path.relative_to(folder).parts and not stem_of(path).lower().endswith(NO_IMAGES)


def load_study(path: Path, data: DataPart, recipe: Recipe | None = None, require_reference: bool = True) -> Study:
    """Read a volume with its reference contrasts and, where given, its low resolution; reduced in plane where the recipe says so.

    A reference is the file whose last name part is the contrast's: ``sub-07_T2w.nii.gz`` goes with ``sub-07_T1w.nii.gz``.

    Parameters
    ----------
    path : Path
    data : DataPart
    recipe : Recipe, optional
        For training: the volume must hold a patch, and thick slices are brought to voxels that fit what the network makes of them.
    require_reference : bool
        Whether a volume without any of the contrasts is refused.

    Raises
    ------
    InputError
        If a file cannot be read or is constant, contrasts are missing or lie elsewhere, the low resolution does not fit, or the volume is smaller
        than a patch.
    """
    image = read_volume(path)
    require_content(image.data, image.name)
    found = reference_paths(path, data.references)
    if data.references and not found and require_reference:
        raise InputError(f"{path.name}: no reference contrast ({', '.join(data.references)}) lies beside it.")
    study = Study(image, tuple(_onto(image, read_volume(p), data.register_references) for p in found))
    if recipe is None:
        return _reduced(study, data.in_plane)
    study = _reduced(study, data.in_plane or _matching_spacing(image, recipe))
    if data.low:
        study = _with_low(study, path, recipe)
    require_room(study, recipe)
    return study


def reference_paths(path: Path, contrasts: Sequence[str]) -> list[Path]:
    """Files of the other contrasts beside a volume, those that are there."""
    own = stem_of(path).rpartition("_")[2]
    names = [_sibling(path, contrast) for contrast in contrasts if contrast != own]
    return [name for name in names if name.is_file()]


def _sibling(path: Path, last: str) -> Path:
    """File beside `path` with another last part of the name."""
    stem, dot, suffixes = path.name.partition(".")
    person, _, _ = stem.rpartition("_")
    return path.with_name(f"{person or stem}_{last}{dot}{suffixes}")


def _onto(image: Volume, reference: Volume, register: bool) -> Volume:
    require_content(reference.data, reference.name)
    if register:
        reference = moved(reference, register_rigid(reference, image))
    data, share = resample_reference(reference, image.shape, image.affine)
    if share < COVERED:
        raise InputError(f"{reference.name} covers {share:.0%} of {image.name}; training needs references over at least {COVERED:.0%} of it.")
    return reference.replace(data=data, affine=image.affine)


def _reduced(study: Study, spacing: float | None) -> Study:
    if spacing is None:
        return study
    image, *references = (reduce_in_plane(v, spacing) for v in (study.image, *study.references))
    return Study(image, tuple(references))


def _matching_spacing(image: Volume, recipe: Recipe) -> float | None:
    """In-plane spacing at which blurred in-plane axes look like the stack's: that of the slices the network makes of thick ones."""
    thick = thick_axis(image)
    if thick is None or get_protocol(recipe.degradation.protocol).pattern != "through-plane":
        return None
    wanted = image.voxel_size[thick] / recipe.degradation.scale
    return wanted if wanted > 1.02 * min(image.voxel_size) else None


def _with_low(study: Study, path: Path, recipe: Recipe) -> Study:
    data = recipe.data
    if data.in_plane is not None:
        raise InputError("data.in_plane and data.low exclude each other: given low resolutions fit the volumes as they are.")
    folder = Path(data.root) / data.low
    low = read_volume(folder / path.name if folder.is_dir() else _sibling(path, data.low))
    image, matched, block = match_pair(study.image, low, recipe.degradation)
    return Study(image, tuple(r.crop(block) for r in study.references), matched)


def require_room(study: Study, recipe: Recipe) -> None:
    """Refuse volumes smaller than a patch.

    Raises
    ------
    InputError
        With both sizes.
    """
    degradation, image = recipe.degradation, study.image
    pattern = get_protocol(degradation.protocol).pattern
    edge = recipe.patches.size * (1 if pattern == "through-plane" else degradation.scale)
    across = thick_axis(image) if pattern == "through-plane" else degradation.slice_axis(image) if pattern == "in-plane" else None
    for axis, size in enumerate(image.shape):
        if axis != across and size < edge:
            raise InputError(
                f"{image.name} has {size} voxels along {AXES[axis]}, fewer than a patch of {edge} "
                f"({recipe.patches.size} at the low resolution); make patches.size smaller or leave the volume out."
            )


def crop_study(study: Study, axis: int, start: int, stop: int, scale: float) -> Study:
    """Part of a study; `start` and `stop` are multiples of `scale` where a low resolution is given."""

    def cut(volume: Volume, factor: float) -> Volume:
        block = [slice(0, n) for n in volume.shape]
        block[axis] = slice(round(start / factor), round(stop / factor))
        part = volume.crop(block)
        return part.replace(data=np.ascontiguousarray(part.data))

    low = None if study.low is None else cut(study.low, scale)
    return replace(study, image=cut(study.image, 1), references=tuple(cut(r, 1) for r in study.references), low=low)
