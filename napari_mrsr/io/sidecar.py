"""JSON beside an image: how the image was made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from napari_mrsr.errors import InputError
from napari_mrsr.io.paths import split_suffix, write_whole

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".hdr", ".img", ".hdr.gz", ".img.gz", ".mgz", ".mgh")


def sidecar_path(image: str | os.PathLike[str]) -> Path:
    """``scan.nii.gz`` to ``scan.json``."""
    image = Path(image)
    stem, _ = split_suffix(image, IMAGE_SUFFIXES)
    return image.with_name(stem + ".json")


def read_sidecar(image: str | os.PathLike[str]) -> dict[str, Any]:
    """Our part of an image's sidecar file (key ``napari_mrsr``); empty where there is none.

    Raises
    ------
    InputError
        If the file is there but is not JSON.
    """
    path = sidecar_path(image)
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"The sidecar file {path} cannot be read as JSON ({error}); repair or remove it.") from None
    entry = content.get("napari_mrsr", {}) if isinstance(content, dict) else {}
    return entry if isinstance(entry, dict) else {}


def write_json(content: Any, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write JSON whole or not at all."""
    with write_whole(path, overwrite) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return Path(path)
