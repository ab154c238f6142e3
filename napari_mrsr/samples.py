"""The shipped sample volumes."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from napari_mrsr.errors import InputError
from napari_mrsr.io import read_volume
from napari_mrsr.volume import Volume

FOLDER = Path(str(resources.files("napari_mrsr"))) / "resources" / "samples"


def list_samples() -> list[str]:
    """Names of the shipped volumes."""
    return sorted(p.name.removesuffix(".nii.gz") for p in FOLDER.glob("*.nii.gz"))


def read_sample(name: str) -> Volume:
    """Read a shipped volume.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    if name not in list_samples():
        raise InputError(f"There is no sample {name!r}; the package holds {', '.join(list_samples())}.")
    return read_volume(FOLDER / f"{name}.nii.gz")
