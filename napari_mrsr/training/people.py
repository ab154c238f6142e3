"""Whose volume a file is, and of what contrast, by its name. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from napari_mrsr.io import READABLE
from napari_mrsr.io.paths import split_suffix

CONTRASTS = ("t1", "t1w", "t1ce", "t1gd", "t2", "t2w", "t2star", "flair", "pd", "pdw", "pdfs", "pdt2", "swi", "dwi", "mprage", "inplanet2")
"""Last parts of file names that tell a contrast, not a person."""


def stem_of(path: Path) -> str:
    """File's name without the suffix of an image."""
    return split_suffix(path, READABLE)[0]


def subject(path: Path) -> str:
    """Person a file belongs to: its BIDS ``sub-`` entity, else its name without contrast and suffix; ``p01/t1.nii.gz`` is of ``p01``."""
    for part in (path.name, *(p.name for p in path.parents)):
        if part.startswith("sub-"):
            return part.removeprefix("sub-").split("_")[0].split(".")[0]
    stem = stem_of(path) if stem_of(path) != path.name else path.name.split(".")[0]
    person, _, contrast = stem.rpartition("_")
    if contrast.lower() not in CONTRASTS:
        return stem
    return person or path.resolve().parent.name


def contrast_of(path: Path) -> str:
    """Contrast that the last part of a file's name tells; empty where it tells none."""
    last = stem_of(path).rpartition("_")[2]
    return last if last.lower() in CONTRASTS else ""
