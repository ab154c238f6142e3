"""Trainings in processes of their own: a folder each, which outlives the program that started it. Imports no torch.

A run's folder holds ``recipe.yaml``, ``order.json`` (device), ``process.json`` (who works on it), ``control`` (what its owner wants),
``events.jsonl`` (what happened, one event a line), ``log.txt``, the checkpoint, ``preview/`` and at the end the weights with their card.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import platformdirs
import psutil
import yaml

from napari_mrsr.errors import OutputError, RunError
from napari_mrsr.io import make_folder, write_json, write_text
from napari_mrsr.training.recipe import Recipe, load_recipe

FOLDER_VARIABLE = "NAPARI_MRSR_RUNS"
"""Environment variable that moves all runs elsewhere."""
TAIL_BYTES = 2**16
"""A last event is found within so much of the end."""
SAME_START_S = 2.0
"""Start times of one process, asked twice, differ by less."""
_started: list[subprocess.Popen[bytes]] = []
"""Children of this program: a child that ended stays in the system's table until it is asked for."""


class Wish(StrEnum):
    """What the owner of a run wants of it."""

    RUN = "run"
    PAUSE = "pause"
    STOP = "stop"


class State(StrEnum):
    """What has become of a run."""

    NEW = "not started"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    LOST = "ended unexpectedly"


ENDS = {"done": State.DONE, "stopped": State.STOPPED, "failed": State.FAILED}
"""Last events of a run that ended by itself."""
ALIVE = (State.RUNNING, State.PAUSED)


def runs_folder() -> Path:
    """Where the runs lie (may not exist)."""
    other = os.environ.get(FOLDER_VARIABLE)
    return Path(other) if other else Path(platformdirs.user_data_dir("napari-mrsr")) / "runs"


def list_runs() -> list[RunFolder]:
    """All runs, the newest first."""
    folder = runs_folder()
    found = (
        [RunFolder(path) for path in folder.iterdir() if not path.name.startswith(".") and (path / "recipe.yaml").is_file()]
        if folder.is_dir()
        else []
    )
    return sorted(found, key=lambda run: (run.created, run.name), reverse=True)


def new_run(recipe: Recipe, device: str = "auto") -> RunFolder:
    """Folder of a run to be started.

    Raises
    ------
    OutputError
        If it cannot be made.
    """
    parent = make_folder(runs_folder())
    stem = f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for name in (stem, *(f"{stem}-{number}" for number in range(2, 100))):
        try:
            (parent / name).mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise OutputError(f"The folder {parent / name} cannot be created: {error.strerror}.") from None
        run = RunFolder(parent / name)
        write_json({"device": device}, run.path / "order.json")
        run.write_recipe(recipe)
        return run
    raise OutputError(f"{parent} holds too many runs of {recipe.name}; delete some.")


@dataclass(frozen=True)
class RunFolder:
    """One run.

    Attributes
    ----------
    path : Path
    """

    path: Path

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.path.name

    @property
    def created(self) -> float:
        """Seconds since 1970."""
        try:
            return (self.path / "order.json").stat().st_mtime
        except OSError:
            return 0.0

    @property
    def events_file(self) -> Path:
        """What happened, one JSON object a line."""
        return self.path / "events.jsonl"

    @property
    def checkpoint(self) -> Path:
        """Training state."""
        return self.path / "checkpoint.pt"

    @property
    def data(self) -> Path:
        """Volumes that were open in the viewer and are kept for the run."""
        return self.path / "data"

    @property
    def device(self) -> str:
        """Where to compute."""
        return str(_read_object(self.path / "order.json").get("device", "auto"))

    def recipe(self) -> Recipe:
        """What is trained.

        Raises
        ------
        InputError
            If the file was damaged.
        """
        return load_recipe(self.path / "recipe.yaml")

    def write_recipe(self, recipe: Recipe) -> None:
        """Keep what is trained."""
        write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), self.path / "recipe.yaml", overwrite=True)

    def start(self) -> None:
        """Let a process of its own begin the run, or go on with it; it outlives this program.

        Raises
        ------
        RunError
            If the run is under way, or the process cannot be started.
        """
        if self.state() in ALIVE:
            raise RunError(f"{self.name} is running already.")
        self.ask(Wish.RUN)
        self.tell("launched")
        try:
            with (self.path / "log.txt").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "napari_mrsr.training.process", str(self.path)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.path,
                    **_detached(),
                )
        except OSError as error:
            raise RunError(f"The training process could not be started ({sys.executable}): {error.strerror}.") from None
        _started.append(process)
        self.claim(process.pid)

    def claim(self, pid: int) -> None:
        """Write down which process works on the run."""
        try:
            since = psutil.Process(pid).create_time()
        except psutil.Error:  # ended already; its events tell why
            since = 0.0
        write_json({"pid": pid, "since": since}, self.path / "process.json", overwrite=True)

    def ask(self, wish: Wish) -> None:
        """Say what is wanted of the run; it looks between steps."""
        write_text(wish, self.path / "control", overwrite=True)

    def wish(self) -> Wish:
        """What is wanted of the run."""
        try:
            return Wish((self.path / "control").read_text(encoding="utf-8").strip())
        except (OSError, ValueError):
            return Wish.RUN

    def tell(self, event: str, **values: Any) -> None:
        """Append an event; all of it is in the file when this returns.

        Raises
        ------
        OutputError
            If the disk refuses.
        """
        line = json.dumps({"event": event, "time": round(time.time(), 3), **values}) + "\n"
        if event == "launched":  # a killed process may not have ended its line
            line = "\n" + line
        try:
            with self.events_file.open("a", encoding="utf-8") as stream:
                stream.write(line)
        except OSError as error:
            raise OutputError(f"{self.events_file} could not be written: {error.strerror}.") from None

    def state(self) -> State:
        """What has become of the run."""
        last = self._last_event()
        if last in ENDS:
            return ENDS[last]
        if self._alive():
            return State.PAUSED if self.wish() is Wish.PAUSE else State.RUNNING
        return State.LOST if last else State.NEW

    def last_words(self) -> str:
        """The error that ended the process, as its log has it; empty where it was killed or tells by itself."""
        try:
            lines = (self.path / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return lines[-1] if lines and re.match(r"[\w.]+(Error|Exception): ", lines[-1]) else ""

    def delete(self) -> None:
        """Remove the folder and all that is in it; an exported model stays in the user's model folder.

        Raises
        ------
        RunError
            If the run is under way.
        OutputError
            If the system refuses.
        """
        if self.state() in ALIVE:
            raise RunError(f"{self.name} is running; stop it before you delete it.")
        try:
            shutil.rmtree(self.path)
        except OSError as error:
            raise OutputError(f"{self.path} could not be deleted: {error.strerror}.") from None

    def _alive(self) -> bool:
        for child in _started:
            child.poll()
        entry = _read_object(self.path / "process.json")
        try:
            process = psutil.Process(int(entry["pid"]))
            # A number is given to another process once its owner is gone.
            return bool(abs(process.create_time() - entry["since"]) < SAME_START_S and process.status() != psutil.STATUS_ZOMBIE)
        except (KeyError, TypeError, ValueError, psutil.Error):
            return False

    def _last_event(self) -> str:
        try:
            with self.events_file.open("rb") as stream:
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - TAIL_BYTES))
                lines = stream.read().splitlines()
        except OSError:
            return ""
        for line in reversed(lines):
            try:
                return str(json.loads(line)["event"])
            except (ValueError, KeyError, TypeError):  # cut off, or the middle of a line
                continue
        return ""


def _detached() -> dict[str, Any]:
    """Arguments of Popen: a session of its own, which neither a closed terminal nor the end of the viewer reaches."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS}
    return {"start_new_session": True}


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
