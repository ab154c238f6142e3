"""Where results grow: arrays in memory, or in files where they are too large for it or another process is to see them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import psutil
from numpy.typing import NDArray

from napari_mrsr.errors import RunError

MEMORY_SHARE = 0.25
"""Results that need more than this part of the free memory grow in files."""


class Store:
    """Named float32 arrays of one shape, all zero at first.

    Parameters
    ----------
    shape : three ints
    names : iterable of str
    folder : Path, optional
        Folder for files that others map too (the system's temporary folder where that one is full); None keeps arrays in memory while they
        fit, and in temporary files where they do not.

    Attributes
    ----------
    arrays : dict of float32 arrays
    spilled : Path or None
        Where arrays too large for memory grow in files; None where they are in memory, or in the folder asked for.
    resumed : int
        Always 0: nothing outlasts a run.

    Raises
    ------
    RunError
        If the disk has no room for the files.
    """

    resumed = 0

    def __init__(self, shape: tuple[int, ...], names: Iterable[str], folder: Path | None = None) -> None:
        names = list(names)
        size = 4 * int(np.prod(shape))
        temporary = Path(tempfile.gettempdir())
        large = size * len(names) > MEMORY_SHARE * psutil.virtual_memory().available
        place = temporary if folder is None and large else folder
        self.spilled = temporary if folder is None and large else None
        self.arrays: dict[str, NDArray[np.float32]] = {}
        try:
            for name in names:
                try:
                    self.arrays[name] = np.zeros(shape, np.float32) if place is None else _mapped(shape, (place, temporary))
                except MemoryError:  # less is free than the system says
                    place = self.spilled = temporary
                    self.arrays[name] = _mapped(shape, (place,))
                if folder is None:
                    # Nobody else maps it: it goes with the array (Windows deletes no file that is in use, and keeps it).
                    with suppress(PermissionError):
                        forget_file(self.arrays[name])
        except OSError as error:
            self.close()
            raise RunError(no_room("The result needs", size * len(names), temporary, error)) from None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self.close()

    def close(self) -> None:
        """Delete the files; arrays that are still in use stay valid where the system allows it."""
        for array in self.arrays.values():
            forget_file(array)


def forget_file(array: NDArray[np.float32]) -> None:
    """Delete the file of a mapped array, if it is one; whoever has it mapped keeps it (POSIX)."""
    if isinstance(array, np.memmap):
        Path(str(array.filename)).unlink(missing_ok=True)


def no_room(what: str, need: int, folder: Path, error: OSError) -> str:
    """Sentence about a file that could not be made: its size and what the disk has left."""
    try:
        free = f", {shutil.disk_usage(folder).free / 2**30:.2f} GiB are free there"
    except OSError:
        free = ""
    return f"{what} {need / 2**30:.2f} GiB in {folder}{free} ({error.strerror or error}); free space, or choose a smaller region."


def reserve(handle: int, shape: tuple[int, ...]) -> None:
    """Take the disk space of a float32 array for an open file now, where the system can: a page that finds no room later would end the process.

    Raises
    ------
    OSError
        If the disk has no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, 4 * int(np.prod(shape)))


def _mapped(shape: tuple[int, ...], folders: tuple[Path, ...]) -> NDArray[np.float32]:
    """Array in a file in the first folder that has room for it."""
    for number, folder in enumerate(folders):
        handle, name = tempfile.mkstemp(prefix="napari-mrsr-", suffix=".raw", dir=folder)
        try:
            reserve(handle, shape)
            return np.memmap(name, np.float32, "r+" if hasattr(os, "posix_fallocate") else "w+", shape=shape)
        except OSError:
            Path(name).unlink(missing_ok=True)
            if number == len(folders) - 1:
                raise
        finally:
            os.close(handle)
    raise AssertionError("no folder was given")
