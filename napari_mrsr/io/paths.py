"""Writing files whole or not at all, and never over something the user has."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_mrsr.errors import InputError, OutputError


def split_suffix(path: Path, suffixes: tuple[str, ...]) -> tuple[str, str]:
    """File name without and with only its (longest matching) suffix; the suffix is empty where none matches."""
    for suffix in sorted(suffixes, key=len, reverse=True):
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)], suffix
    return path.name, ""


def require_suffix(path: Path, suffixes: tuple[str, ...], kind: str) -> str:
    """Suffix of a file to be written.

    Raises
    ------
    OutputError
        If it is none of `suffixes`.
    """
    _, suffix = split_suffix(path, suffixes)
    if not suffix:
        raise OutputError(f"{path.name}: unknown {kind} type; end the name in {', '.join(suffixes)}.")
    return suffix


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Create a folder for results.

    Raises
    ------
    OutputError
        If it cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be created: {error.strerror}.") from None
    return folder


def require_readable(path: str | os.PathLike[str]) -> Path:
    """Path of an existing file.

    Raises
    ------
    InputError
        If it is missing, a folder, or may not be read.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise InputError(f"{path} is a folder; give one file.")
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} may not be read: check its permissions.")
    return path


def require_writable(path: str | os.PathLike[str], overwrite: bool = False, need_bytes: int = 0) -> Path:
    """Path where a file may be created.

    Parameters
    ----------
    path : path
        Target; its folder is not created.
    overwrite : bool
        Whether an existing file may be replaced.
    need_bytes : int
        Free space that must be there.

    Raises
    ------
    OutputError
        If the file exists, the folder is missing or closed, or the disk is too full.
    """
    path = Path(path).expanduser()
    folder = path.absolute().parent
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give a file name.")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already and is kept; choose another name or pass --overwrite.")
    if not folder.is_dir():
        raise OutputError(f"The folder {folder} does not exist; create it first.")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"No permission to write into {folder}.")
    free = shutil.disk_usage(folder).free
    if need_bytes > free:
        raise OutputError(f"{folder} has {free / 2**20:.0f} MiB free, {path.name} needs about {need_bytes / 2**20:.0f} MiB.")
    return path


@contextmanager
def write_whole(path: str | os.PathLike[str], overwrite: bool = False, need_bytes: int = 0) -> Iterator[Path]:
    """Write to a temporary file of the same name; it appears at `path` only when the block ends without an error.

    Files written beside the yielded one (an ``.img`` beside its ``.hdr``) move along.

    Raises
    ------
    OutputError
        As :func:`require_writable`, or where the disk fails while writing.
    """
    path = require_writable(path, overwrite, need_bytes)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.absolute().parent))
    except OSError as error:
        raise OutputError(f"Cannot write into {path.absolute().parent}: {error.strerror}.") from None
    try:
        yield folder / path.name
        for made in sorted(folder.iterdir(), key=lambda p: p.name == path.name):
            target = path.absolute().parent / made.name
            if target.exists() and not overwrite:
                raise OutputError(f"{target} exists already and is kept; choose another name or pass --overwrite.")
            os.replace(made, target)
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error.strerror or error}.") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(text: str, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write text whole or not at all.

    Raises
    ------
    OutputError
        As :func:`write_whole`.
    """
    with write_whole(path, overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)
