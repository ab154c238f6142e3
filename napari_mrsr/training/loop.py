"""The training loop: a generator of events over the stages of a recipe, resumable at any checkpoint."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import lightning_fabric
import torch

from napari_mrsr.degradation import get_protocol
from napari_mrsr.errors import InputError, OutputError
from napari_mrsr.networks import get_architecture
from napari_mrsr.training.checkpoint import load_checkpoint, save_checkpoint
from napari_mrsr.training.events import (
    Event,
    Noticed,
    StageDone,
    StageScored,
    StageStarted,
    StepDone,
    TrainingDone,
    TrainingStarted,
    ValidationDone,
)
from napari_mrsr.training.logs import Log
from napari_mrsr.training.parallel import Machines, start_fabric
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.training.stages import NAME, Result, Stage, all_splits, make_stage, stage_names
from napari_mrsr.training.stages.results import find_result, keep_result
from napari_mrsr.training.stages.super_resolution import SuperResolution
from napari_mrsr.training.start import Start, find_start
from napari_mrsr.training.trainer import Diverged, Trainer

Cancelled = Callable[[], bool]


def train(
    recipe: Recipe,
    checkpoint: Path | None = None,
    resume: bool = False,
    cancelled: Cancelled = lambda: False,
    accelerator: str = "auto",
    *,
    stage: str | None = None,
    overwrite: bool = False,
    machines: Machines | None = None,
) -> Iterator[Event]:
    """Train a network, stage by stage.

    Parameters
    ----------
    recipe : Recipe
    checkpoint : Path, optional
        Where the state of the super-resolution is kept, written at every validation. States and results of the stages before it, and logs that
        TensorBoard reads, lie in the same folder.
    resume : bool
        Go on from the checkpoints, where there are any; the following losses equal those of a run that never stopped.
    cancelled : callable
        Asked between steps; the run then ends with the best weights so far.
    accelerator : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    stage : str, optional
        Train this stage alone; the results of those before it must be there.
    overwrite : bool
        Whether a training that begins anew may replace a checkpoint.
    machines : Machines, optional
        Instead of `accelerator`, for several devices; events are told by the main process only.

    Yields
    ------
    Event
        For every stage of several: StageStarted, then StepDone, StageScored and StageDone, or, of the super-resolution, TrainingStarted, StepDone,
        ValidationDone and TrainingDone. A run that is cancelled before the super-resolution ends without TrainingDone.

    Raises
    ------
    InputError
        Before the first step, where data or recipe do not fit.
    OutputError
        If an older checkpoint would be overwritten, or the folder or disk refuses.
    RunError
        If the loss is no longer finite before the first validation, or the memory is too small.
    """
    require_fit(recipe)
    names = stage_names(recipe)
    if stage is not None and stage not in names:
        raise InputError(f"The recipe has no stage {stage!r}; its stages are {', '.join(names)}.")
    start = find_start(recipe.start, recipe.network) if recipe.start else None
    all_splits(recipe)
    fabric = start_fabric(machines or Machines(accelerator), recipe)
    run = _Run(recipe, checkpoint, resume, cancelled, overwrite, start, fabric, len(names))
    for index, name in enumerate(names):
        for event in run.stage(name, index, stage):
            if fabric.is_global_zero:
                yield event
        if name == stage or run.stopped:
            return


class _Run:
    """One call of :func:`train`."""

    def __init__(
        self,
        recipe: Recipe,
        checkpoint: Path | None,
        resume: bool,
        cancelled: Cancelled,
        overwrite: bool,
        start: Start | None,
        fabric: lightning_fabric.Fabric,
        count: int,
    ) -> None:
        self.recipe, self.checkpoint, self.resume, self.cancelled, self.overwrite = recipe, checkpoint, resume, cancelled, overwrite
        self.start, self.fabric, self.count = start, fabric, count
        self.folder = None if checkpoint is None else checkpoint.absolute().parent
        self.results: dict[str, Result] = {}
        self.stopped = False

    def stage(self, name: str, index: int, only: str | None) -> Iterator[Event]:
        """Train a stage, or take its result from an earlier run."""
        torch.manual_seed(self.recipe.seed)
        stage = make_stage(name, self.recipe, self.results, self.start)
        found = None if name == NAME else find_result(stage, self.folder)
        if found is None and only not in (None, name):
            raise InputError(f"Stage {only} needs the result of stage {name}; train that first (--stage {name}).")
        if found is not None:
            yield StageStarted(name, index, self.count, stage.steps, stage.steps)
            self.results[name] = found
            yield StageDone(name, math.nan, stage.measure, found.path, found.sha256)
            return
        trainer, path = Trainer(stage, self.recipe, self.fabric), self._state_path(stage)
        self._take_up(trainer, path)
        if self.count > 1:
            yield StageStarted(name, index, self.count, stage.steps, trainer.step)
        stage.read()
        if isinstance(stage, SuperResolution):
            parameters = sum(p.numel() for p in stage.network.parameters())
            files = (tuple(p.name for p in stage.split.train), tuple(p.name for p in stage.split.validation))
            yield TrainingStarted(parameters, *files, trainer.step, stage.classic["cubic"], stage.classic, stage.preview)
        note = yield from self._logged(trainer, path)
        yield from self._end(trainer, path, note)

    def _end(self, trainer: Trainer, path: Path | None, note: str) -> Iterator[Event]:
        stage = trainer.stage
        if isinstance(stage, SuperResolution):
            sums = {name: result.sha256 for name, result in self.results.items()}
            minutes = trainer.seconds / 60
            scores = (trainer.best_score, trainer.started_from)
            yield TrainingDone(trainer.step, *scores, trainer.best, self.recipe, minutes, self.start, sums, note)
            return
        if self.stopped:
            return
        if self.fabric.is_global_zero:
            keep_result(stage, stage.result(trainer.best), self.results, self.folder)
        self.fabric.barrier()
        result = find_result(stage, self.folder) or keep_result(stage, stage.result(trainer.best), self.results, None)
        self.results[stage.name] = result
        if path is not None and self.fabric.is_global_zero:
            path.unlink(missing_ok=True)
        score = trainer.best_score if math.isfinite(trainer.best_score) else math.nan
        yield StageDone(stage.name, score, stage.measure, result.path, result.sha256)

    def _state_path(self, stage: Stage) -> Path | None:
        if self.folder is None or self.checkpoint is None:
            return None
        return self.checkpoint if stage.name == NAME else self.folder / f"{stage.name}-{stage.hash}.pt"

    def _take_up(self, trainer: Trainer, path: Path | None) -> None:
        """Go on from a checkpoint, where there is one and that is wanted."""
        if path is None:
            if self.resume:
                raise InputError("Nothing to resume: give the checkpoint file.")
            return
        for left in path.absolute().parent.glob(f".{path.name}.*"):  # of a process that was killed while it wrote
            shutil.rmtree(left, ignore_errors=True)
        if not path.exists():
            return
        if self.resume:
            state = load_checkpoint(path)
            trainer.load(state)
            self._require_same_origin(state["origin"])
        elif not self.overwrite:
            raise OutputError(f"{path} holds a training by this name already; go on with it (--resume), or begin anew and replace it (--overwrite).")

    def _origin(self) -> dict[str, str]:
        """Checksums of all weights that this stage began with."""
        begun = {name: result.sha256 for name, result in self.results.items()}
        return {**begun, "start": self.start.sha256} if self.start else begun

    def _require_same_origin(self, origin: dict[str, str]) -> None:
        ours = self._origin()
        for name in sorted(origin.keys() | ours.keys()):
            if origin.get(name) != ours.get(name):
                what = "starting weights" if name == "start" else f"result of stage {name}"
                raise InputError(f"The {what} changed since this training began; begin anew.")

    def _logged(self, trainer: Trainer, path: Path | None) -> Generator[Event, None, str]:
        """Steps of a stage, written to its log."""
        log = None
        if path is not None and self.fabric.is_global_zero:
            log = Log(path.absolute().parent / "logs" / path.stem, trainer.step)
        steps = self._steps(trainer, path)
        try:
            while True:
                try:
                    event = next(steps)
                except StopIteration as end:
                    return str(end.value)
                if log is not None:
                    log.add(event)
                yield event
        finally:
            if log is not None:
                log.close()

    def _steps(self, trainer: Trainer, path: Path | None) -> Generator[Event, None, str]:
        """Steps of a stage; returns why it ended early, in a few words."""
        stage, patience = trainer.stage, self.recipe.patience
        started = time.perf_counter() - trainer.seconds
        begun = time.perf_counter()
        if trainer.step == 0 and self.start is not None and isinstance(stage, SuperResolution):
            # What the starting weights can do already is what has to be beaten.
            yield self._validate(trainer, path, started)
            trainer.started_from = trainer.best_score
        while trainer.step < stage.steps:
            if self._stop():
                return "was stopped by its user"
            if patience and trainer.stale >= patience:
                yield Noticed(f"No gain in {patience} validations; the training ends at step {trainer.step}.")
                return f"ended early, after {patience} validations without a gain"
            rate = trainer.learning_rate
            try:
                losses = trainer.advance()
            except Diverged as error:
                if not math.isfinite(trainer.best_score):
                    raise
                yield Noticed(str(error))
                return f"ended early: {str(error).split(';')[0][0].lower()}{str(error).split(';')[0][1:]}"
            for notice in trainer.notices:
                yield Noticed(notice)
            trainer.notices.clear()
            yield StepDone(trainer.step, losses, rate, time.perf_counter() - begun)
            if trainer.step % stage.validate_every == 0 or trainer.step == stage.steps:
                yield self._validate(trainer, path, started)
        trainer.seconds = time.perf_counter() - started
        return ""

    def _validate(self, trainer: Trainer, path: Path | None, started: float) -> Event:
        """Validate, and keep the state."""
        score, better = trainer.validate()
        trainer.seconds = time.perf_counter() - started
        if path is not None and self.fabric.is_global_zero:
            save_checkpoint({**trainer.state(), "origin": self._origin(), "recipe": self.recipe.model_dump(mode="json")}, path)
        if isinstance(trainer.stage, SuperResolution):
            return ValidationDone(trainer.step, score.value, better, score.shown)
        return StageScored(trainer.step, score.value, trainer.stage.measure, better)

    def _stop(self) -> bool:
        """Whether the run is to end; all processes hear the same."""
        asked = self.cancelled()
        self.stopped = bool(self.fabric.broadcast(asked)) if self.fabric.world_size > 1 else asked
        return self.stopped


def require_fit(recipe: Recipe) -> None:
    """Refuse networks, protocols and data that do not go together.

    Raises
    ------
    InputError
        Naming what to change.
    """
    architecture, protocol = get_architecture(recipe.network.name), get_protocol(recipe.degradation.protocol)
    if not architecture.learned:
        raise InputError(f"{architecture.title} has no weights to train; choose a network.")
    if recipe.network.scale != recipe.degradation.scale:
        raise InputError(f"The network's scale {recipe.network.scale} differs from the degradation's {recipe.degradation.scale}; make them equal.")
    if architecture.dimension == 3 and protocol.pattern != "3d":
        raise InputError(f"{architecture.title} enlarges all three axes; protocol {protocol.name} is {protocol.pattern}. Choose a 3d protocol.")
    wanted = "through-plane" if architecture.pre_interpolated else "in-plane"
    if architecture.dimension == 2 and protocol.pattern != wanted:
        raise InputError(f"{architecture.title} needs an {wanted} protocol; {protocol.name} is {protocol.pattern}.")
    if architecture.reference == "needed" and not recipe.data.references:
        raise InputError(f"{architecture.title} needs a reference contrast: name those beside the volumes in data.references, for example [T1w].")


__all__ = [
    "Event",
    "Noticed",
    "StageDone",
    "StageScored",
    "StageStarted",
    "StepDone",
    "TrainingDone",
    "TrainingStarted",
    "ValidationDone",
    "train",
]
