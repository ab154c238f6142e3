"""The process of one training: ``python -m napari_mrsr.training.process RUN_FOLDER``.

Works on a folder of :mod:`napari_mrsr.training.runs`, goes on from its checkpoint where there is one, and writes what happens to its events.

``python -m napari_mrsr.training.process --check RECIPE DEVICE`` starts nothing: it tells what a training would do, as a line of JSON.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from napari_mrsr.errors import MrsrError, OutputError
from napari_mrsr.inference.process import list_devices, tune_process
from napari_mrsr.io import make_folder, write_whole
from napari_mrsr.training.check import check_recipe
from napari_mrsr.training.events import Noticed, StageScored, StageStarted, StepDone, TrainingDone, TrainingStarted, ValidationDone
from napari_mrsr.training.jobs import write_model
from napari_mrsr.training.loop import train
from napari_mrsr.training.recipe import load_recipe
from napari_mrsr.training.runs import RunFolder, Wish
from napari_mrsr.zoo import list_models, user_weights_folder
from napari_mrsr.zoo.cards import read_card

TELL_S = 0.25
"""Least time between two events of steps; what lies between is averaged."""
LOOK_S = 0.2
"""How often a resting run looks whether it may go on."""
NICENESS = 5
"""Of the process, where the system counts from 0 (first) to 19 (last)."""


class Job:
    """One run at work."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.recipe = run, run.recipe()
        self.preview = make_folder(run.path / "preview")
        self.began = self.told = time.perf_counter()
        self.rested = 0.0
        self.first = 0
        self.pending: list[StepDone] = []

    def work(self) -> None:
        """Train, then write the model."""
        run, done = self.run, None
        for event in train(self.recipe, run.checkpoint, True, self.stopping, accelerator=run.device):
            if isinstance(event, TrainingDone):
                done = event
            else:
                self.tell(event)
                self.rest()
        self.tell_steps()
        if done is None:
            run.tell("stopped", message="Stopped before the super-resolution: there are no weights to keep yet.")
            return
        kind, early = "stopped" if self.stopping() else "done", f" The training {done.note}." if done.note else ""
        if done.why_no_model:
            run.tell(kind, message=done.why_no_model + early)
            return
        run.tell("finishing")
        name = self.install(replace(done, minutes=done.minutes - self.rested / 60))
        since = "" if np.isnan(done.started_from) else f", {done.psnr - done.started_from:+.2f} dB to the starting weights"
        run.tell(kind, model=name, message=f"Best validation {done.psnr:.2f} dB{since}, in {done.step} steps; the model is {name}.{early}")

    def stopping(self) -> bool:
        """Whether the run is to end."""
        return self.run.wish() is Wish.STOP

    def tell(self, event: Any) -> None:
        """Write an event of the loop."""
        if isinstance(event, StepDone):
            self.pending.append(event)
            if time.perf_counter() - self.told >= TELL_S:
                self.tell_steps()
            return
        self.tell_steps()
        if isinstance(event, TrainingStarted):
            self.tell_started(event)
        elif isinstance(event, StageStarted):
            self.run.tell("stage", name=event.name, index=event.index, count=event.count, steps=event.steps, first_step=event.first_step)
            self.began, self.first = time.perf_counter() - self.rested, event.first_step
        elif isinstance(event, StageScored):
            self.run.tell("scored", step=event.step, score=event.score, measure=event.measure, best=event.best)
        elif isinstance(event, Noticed):
            self.run.tell("noticed", message=event.message)
        elif isinstance(event, ValidationDone):
            file = f"step-{event.step:08d}.npy"
            self.keep(event.shown, file)
            self.run.tell("validation", step=event.step, psnr=event.psnr, best=event.best, file=file)

    def tell_started(self, event: TrainingStarted) -> None:
        """The data are read."""
        shown = event.preview
        self.keep(shown.truth, "truth.npy")
        self.keep(shown.cubic, "cubic.npy")
        facts = {"name": shown.name, "axis": shown.slab.axis, "affine": shown.slab.affine.tolist(), "data_range": shown.data_range}
        volumes = {"train": event.train, "validation": event.validation}
        self.run.tell("started", parameters=event.parameters, first_step=event.first_step, classic=event.classic, preview=facts, **volumes)
        self.began, self.first = time.perf_counter() - self.rested, event.first_step

    def tell_steps(self) -> None:
        """The steps since the last time, their losses averaged."""
        if not self.pending:
            return
        last = self.pending[-1]
        losses = {name: float(np.mean([step.losses[name] for step in self.pending])) for name in last.losses}
        self.told = time.perf_counter()
        rate = (self.told - self.began - self.rested) / max(1, last.step - self.first)
        self.run.tell("step", step=last.step, losses=losses, learning_rate=last.learning_rate, rate=rate)
        self.pending.clear()

    def rest(self) -> None:
        """Wait for as long as that is wanted."""
        if self.run.wish() is not Wish.PAUSE:
            return
        self.tell_steps()
        since = time.perf_counter()
        self.run.tell("rested", resting=True)
        while self.run.wish() is Wish.PAUSE:
            time.sleep(LOOK_S)
        self.rested += time.perf_counter() - since
        self.run.tell("rested", resting=False)

    def keep(self, slab: NDArray[np.float32], name: str) -> None:
        """Write a slab for the viewer, whole or not at all."""
        with write_whole(self.preview / name, overwrite=True, need_bytes=slab.nbytes + 2**12) as temporary:
            np.save(temporary, slab)

    def install(self, done: TrainingDone) -> str:
        """Write weights and card into the run's folder, and copies into the user's model folder; gives the model's name there."""
        folder = make_folder(user_weights_folder())
        name = self.free_name(folder)
        done = replace(done, recipe=done.recipe.model_copy(update={"name": name}))
        files = write_model(done, self.run.path, overwrite=True)
        for file in files:  # the weights first: a card without weights would be listed
            with write_whole(folder / file.name, overwrite=True, need_bytes=file.stat().st_size) as temporary:
                shutil.copyfile(file, temporary)
        return name

    def free_name(self, folder: Path) -> str:
        """The recipe's name, or that with a number where another model has it; a run that goes on replaces its own model."""
        taken, name, number = {card.name: card for card in list_models()}, self.recipe.name, 1
        while name in taken and not self.is_own(folder / f"{name}.json"):
            number += 1
            name = f"{self.recipe.name}-{number}"
        return name

    def is_own(self, card: Path) -> bool:
        """Whether a model in the user's folder is the one that this run wrote earlier."""
        own = self.run.path / card.name
        return card.is_file() and own.is_file() and read_card(own).sha256 == read_card(card).sha256


def main(folder: str) -> int:
    """Work on a run; the exit code is 0 unless it failed."""
    logging.basicConfig(level=logging.WARNING)
    run = RunFolder(Path(folder))
    try:
        run.claim(os.getpid())
        tune_process()
        Job(run).work()
    except MrsrError as error:
        return fail(run, str(error))
    except Exception as error:  # noqa: BLE001 - a run tells everything; the viewer shows it
        traceback.print_exc()
        return fail(run, f"Unexpected {type(error).__name__}: {error}")
    return 0


def fail(run: RunFolder, sentence: str) -> int:
    """Say why a run ended; on a full disk the log is the last place for it."""
    logging.error("%s", sentence)
    try:
        run.tell("failed", message=sentence)
    except OutputError as error:
        logging.error("%s", error)  # noqa: TRY400
    return 1


def check(recipe: str, device: str) -> dict[str, list[str]]:
    """What a training by a recipe would do: ``problems``, ``warnings`` and ``facts`` in sentences, and the names of the ``devices``."""
    found: dict[str, list[str]] = {"problems": [], "warnings": [], "facts": [], "devices": [str(entry["name"]) for entry in list_devices()]}
    try:
        report = check_recipe(load_recipe(recipe), measure=True, accelerator=device)
    except MrsrError as error:
        return {**found, "problems": [str(error)]}
    told = [line for line in report.lines() if not line.startswith(("problem: ", "note: "))]
    return {**found, "problems": list(report.errors), "warnings": list(report.warnings), "facts": told}


def step_back() -> None:
    """Let the viewer, and whatever else a person is doing, go first."""
    psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS if sys.platform == "win32" else NICENESS)


if __name__ == "__main__":
    step_back()
    if sys.argv[1] == "--check":
        tune_process()
        sys.stdout.write(json.dumps(check(*sys.argv[2:])) + "\n")
    else:
        sys.exit(main(sys.argv[1]))
