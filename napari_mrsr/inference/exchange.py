"""Passing volumes between two processes: arrays in memory-mapped files, everything else as JSON.

A mapped file in ``/dev/shm`` is shared memory, works the same on every system where it is not, and one process (the owner of the folder)
cleans up whatever happens to the other.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from napari_mrsr.volume import Volume


def exchange_folder() -> Path:
    """New private folder, in memory where the system has such a place."""
    fast = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="napari-mrsr-", dir=fast if fast.is_dir() and os.access(fast, os.W_OK) else None))


def put_volume(volume: Volume, folder: Path) -> dict[str, Any]:
    """Copy a volume into shared memory; the returned description is JSON-ready.

    Raises
    ------
    OSError
        If the memory is full.
    """
    path = folder / f"{uuid4().hex}.raw"
    data = np.ascontiguousarray(volume.data)
    # Written, not mapped: a full memory then is an OSError, where a mapped page would end the process.
    try:
        path.write_bytes(data.data)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return _description(volume, path)


def describe_mapped(volume: Volume) -> dict[str, Any]:
    """Description of a volume whose array is a mapped file already; nothing is copied, and its owner may go on filling it."""
    return _description(volume, Path(str(getattr(volume.data, "filename", ""))))


def take_volume(description: dict[str, Any]) -> Volume:
    """Volume of a description; its data stay valid until dropped, the file is not needed any more afterwards (POSIX) or is left (Windows)."""
    shared = np.memmap(description["path"], dtype=description["dtype"], mode="r", shape=tuple(description["shape"]))
    try:
        os.unlink(description["path"])
        data: Any = shared
    except OSError:  # Windows keeps mapped files
        data = np.array(shared)
    return Volume(data, np.array(description["affine"]), name=description["name"], record=description["record"])


def _description(volume: Volume, path: Path) -> dict[str, Any]:
    return {
        "path": str(path),
        "dtype": volume.data.dtype.str,
        "shape": list(volume.data.shape),
        "affine": volume.affine.tolist(),
        "name": volume.name,
        "record": dict(volume.record),
    }
