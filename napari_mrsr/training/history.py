"""What a run has told so far, read from its events as they come. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_mrsr.training.runs import ENDS, RunFolder


@dataclass(frozen=True)
class Scored:
    """One validation: step, PSNR in dB, whether it was the best so far, and the file of the predicted slice."""

    step: int
    psnr: float
    best: bool
    file: str


@dataclass
class History:
    """Events of a run, put together; :meth:`read` takes in what is new.

    Attributes
    ----------
    started : dict
        Facts of the training: classic methods' PSNR, parameters, volumes, preview; empty until the data are read.
    losses : dict of str to (list of int, list of float)
        Steps and values of every loss term.
    scores : list of Scored
    step : int
        Last step done.
    rate : float
        Seconds a step, of the last ones; 0 where unknown.
    stage, stage_steps, stage_score : str, int, str
        What is trained and for how many steps, where a run has stages, and how it was scored last.
    notices : list of str
        What had to change.
    resting, finishing : bool
        Whether it waits; whether only the model is left to be written.
    model : str
        Name of the finished model.
    message : str
        Why the run ended, in a sentence.
    """

    run: RunFolder
    started: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    scores: list[Scored] = field(default_factory=list)
    step: int = 0
    rate: float = 0.0
    stage: str = ""
    stage_steps: int = 0
    stage_score: str = ""
    notices: list[str] = field(default_factory=list)
    resting: bool = False
    finishing: bool = False
    model: str = ""
    message: str = ""
    _at: int = 0

    def read(self) -> bool:
        """Take in what was told since the last call, whole lines only; true if there was anything."""
        try:
            with Path(self.run.events_file).open("rb") as stream:
                stream.seek(self._at)
                new = stream.read()
        except OSError:
            return False
        lines = new[: new.rfind(b"\n") + 1]
        self._at += len(lines)
        for line in lines.splitlines():
            try:
                event = json.loads(line)
            except ValueError:  # a line that a killed process could not end
                continue
            self._take(event)
        return bool(lines)

    @property
    def best(self) -> Scored | None:
        """The best validation."""
        return max(self.scores, key=lambda s: s.psnr, default=None)

    def seconds_left(self, steps: int) -> float | None:
        """Estimated time to the end of a training of so many steps; None where unknown."""
        return (steps - self.step) * self.rate if self.rate else None

    def _take(self, event: dict[str, Any]) -> None:
        kind = event.get("event")
        if kind == "launched":
            self.message, self.model, self.resting, self.finishing, self.rate = "", "", False, False, 0.0
        elif kind == "started":
            self.started = event
            self._go_back(int(event["first_step"]))
        elif kind == "step":
            self.step, self.rate = int(event["step"]), float(event["rate"])
            for name, value in event["losses"].items():
                steps, values = self.losses.setdefault(name, ([], []))
                steps.append(self.step)
                values.append(float(value))
        elif kind == "validation":
            self.scores.append(Scored(int(event["step"]), float(event["psnr"]), bool(event["best"]), str(event["file"])))
        elif kind == "stage":
            self._begin_stage(event)
        elif kind == "scored":
            self.stage_score = f"{event['measure']} {event['score']:.3g}"
        elif kind == "noticed":
            self.notices.append(str(event["message"]))
        elif kind == "rested":
            self.resting = bool(event["resting"])
        elif kind == "finishing":
            self.finishing = True
        elif kind in ENDS:
            self.finishing = False
            self.message, self.model = str(event.get("message", "")), str(event.get("model", ""))

    def _begin_stage(self, event: dict[str, Any]) -> None:
        """Curves are of one stage; one that goes on keeps its own."""
        if event["name"] != self.stage:
            self.losses, self.scores, self.stage_score = {}, [], ""
        self.stage, self.stage_steps, self.rate = str(event["name"]), int(event["steps"]), 0.0
        self._go_back(int(event["first_step"]))

    def _go_back(self, step: int) -> None:
        """Forget what is trained again, after the checkpoint that a run goes on from."""
        self.step = step
        self.scores = [s for s in self.scores if s.step <= step]
        for steps, values in self.losses.values():
            kept = sum(s <= step for s in steps)
            del steps[kept:], values[kept:]
