"""Finished tiles of a run, kept on disk so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import napari_mrsr
from napari_mrsr.errors import RunError
from napari_mrsr.inference.options import RunOptions
from napari_mrsr.inference.store import no_room, reserve
from napari_mrsr.inference.tiles import Tile
from napari_mrsr.volume import Volume

KEY, LINES = "run.json", "tiles.jsonl"


def fingerprint(volume: Volume, options: RunOptions, weights: str, *others: Volume | None) -> str:
    """Checksum of all that decides what a run computes: voxels and places of its volumes, options, weights, program."""
    digest = hashlib.sha256()
    for one in (volume, *others):
        if one is not None:
            digest.update(np.ascontiguousarray(one.data).data)
            digest.update(one.affine.tobytes())
            digest.update(str(one.data.dtype).encode())
    # Where it is computed, and in which pieces, may differ: what is done stays done.
    facts = options.model_dump(mode="json", exclude={"device", "tile", "batch", "compile"})
    digest.update(json.dumps([facts, weights, napari_mrsr.__version__], sort_keys=True).encode())
    return digest.hexdigest()


class Journal:
    """A folder with the growing arrays of a run and the list of tiles that are in them.

    Parameters
    ----------
    folder : Path
        Made where it is not there; what another run left in it is thrown away.
    key : str
        :func:`fingerprint` of the run.
    shape : three ints
    names : iterable of str
        Arrays of the run.

    Attributes
    ----------
    arrays : dict of float32 arrays
        Mapped files.
    resumed : int
        Tiles found.
    spilled : None
        As of a :class:`~napari_mrsr.inference.store.Store`.

    Raises
    ------
    RunError
        If the folder cannot be written.
    """

    spilled: Path | None = None

    def __init__(self, folder: Path, key: str, shape: tuple[int, ...], names: Iterable[str]) -> None:
        self.folder, self._key = folder, key
        names = list(names)
        try:
            found = self._entries(key)
            if not found:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                (folder / KEY).write_text(json.dumps({"key": key}))
            files = [folder / f"{number}.raw" for number in range(len(names))]
            for file in () if found else files:
                with file.open("wb") as stream:
                    stream.truncate(4 * int(np.prod(shape)))
                    reserve(stream.fileno(), shape)
            self.arrays: dict[str, NDArray[np.float32]] = {n: np.memmap(f, np.float32, "r+", shape=shape) for n, f in zip(names, files, strict=True)}
            self._lines = (folder / LINES).open("a", encoding="utf-8")
        except OSError as error:
            if (folder / KEY).exists() and not found:
                shutil.rmtree(folder, ignore_errors=True)
            if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise RunError(no_room("Finished tiles need", 4 * int(np.prod(shape)) * len(names), folder.parent, error)) from None
            raise RunError(f"{folder}: finished tiles cannot be kept there ({error.strerror or error}).") from None
        self._done = found
        self.resumed = len(found)

    def done(self, shape: tuple[int, ...], turn: int) -> NDArray[np.bool_]:
        """Voxels of the tiles' lattice that were finished in a turn."""
        mask = np.zeros(shape, bool)
        for entry in self._done:
            if entry["turn"] == turn:
                mask[tuple(slice(a, b) for a, b in entry["core"])] = True
        return mask

    def begin(self, tile: Tile, turn: int) -> None:
        """A tile is about to be written; one that changes what is there already must not be written twice."""
        if turn:
            self._write({"begun": True, **_entry(tile, turn)})

    def end(self, tile: Tile, turn: int) -> None:
        """A tile has been written."""
        for array in self.arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
        self._write(_entry(tile, turn))

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Delete the folder where the run is finished, or nothing is in it."""
        self._lines.close()
        if kind is None or not self._entries(self._key):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, entry: dict[str, Any]) -> None:
        self._lines.write(json.dumps(entry) + "\n")
        self._lines.flush()
        os.fsync(self._lines.fileno())

    def _entries(self, key: str) -> list[dict[str, Any]]:
        """Finished tiles of this very run; none where the folder is of another, or a tile may have been half written."""
        try:
            if json.loads((self.folder / KEY).read_text())["key"] != key:
                return []
            lines = (self.folder / LINES).read_text().splitlines()
        except (OSError, ValueError, KeyError):
            return []
        ended: list[dict[str, Any]] = []
        begun: list[dict[str, Any]] = []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:  # the line under way when the power went
                break
            (begun if entry.pop("begun", False) else ended).append(entry)
        return [] if any(entry not in ended for entry in begun) else ended


def _entry(tile: Tile, turn: int) -> dict[str, Any]:
    return {"turn": turn, "core": [[s.start, s.stop] for s in tile.core]}
