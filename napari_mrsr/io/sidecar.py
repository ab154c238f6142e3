"""JSON beside an image: how the image was made."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_mrsr.errors import InputError, OutputError
from napari_mrsr.io.paths import require_writable, split_suffix, write_text

KEY = "napari_mrsr"
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
    entry = read_description(image).get(KEY, {})
    return entry if isinstance(entry, dict) else {}


def read_description(image: str | os.PathLike[str]) -> dict[str, Any]:
    """All of an image's sidecar file, BIDS entries included; empty where there is none.

    Raises
    ------
    InputError
        If the file is there but is not JSON.
    """
    path = sidecar_path(image)
    return _read_object(path) if path.is_file() else {}


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"The sidecar file {path} cannot be read as JSON ({error}); repair or remove it.") from None
    return content if isinstance(content, dict) else {}


def write_json(content: Any, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write JSON whole or not at all.

    Raises
    ------
    OutputError
        If the content has no JSON form, or the folder or disk refuses.
    """
    return write_text(_to_text(content, Path(path)), path, overwrite)


def _to_text(content: Any, path: Path) -> str:
    try:
        return json.dumps(content, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise OutputError(f"{path.name} cannot be written: its content has no JSON form ({error}).") from None


@dataclass(frozen=True)
class Record:
    """The sidecar an image is to get, checked before the image is written and written after it.

    Other entries of an existing file (BIDS keys, say) stay; an image without a record leaves none of ours behind.
    """

    path: Path
    content: dict[str, Any]
    existed: bool

    @classmethod
    def of(cls, image: Path, record: dict[str, Any], overwrite: bool) -> Record:
        """Plan the sidecar of an image.

        Raises
        ------
        OutputError, InputError
            If it exists and may not be replaced, is no JSON itself, or the record has no JSON form.
        """
        path = sidecar_path(image)
        existed = path.is_file()
        existing = _read_object(path) if existed else {}
        if not record and KEY not in existing:
            return cls(path, {}, False)
        require_writable(path, overwrite)
        others = {k: v for k, v in existing.items() if k != KEY}
        content = {**others, KEY: record} if record else others
        _to_text(content, path)
        return cls(path, content, existed)

    def write(self) -> list[Path]:
        """Write, or remove a file that held nothing but an older record of ours."""
        if self.content:
            return [write_json(self.content, self.path, overwrite=self.existed)]
        if self.existed:
            self.path.unlink()
        return []
