"""Optimiser steps of a stage: shared by processes, cut into pieces that fit the memory, averaged, and kept as a state to go on from."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import lightning_fabric
import torch
from torch import Tensor, nn

from napari_mrsr.errors import InputError, RunError
from napari_mrsr.inference.process import free_memory
from napari_mrsr.training.recipe import OptimiserPart, Recipe
from napari_mrsr.training.stages.base import Player, Score, Stage

ENTRANCES = ("forward", "forward_with_gradient", "encode", "decode")
"""Methods by which stages call networks."""


class Diverged(RunError):
    """A loss or a gradient is no longer finite."""


class Trainer:
    """Everything that changes while a stage is trained.

    Parameters
    ----------
    stage : Stage
    recipe : Recipe
    fabric : Fabric

    Attributes
    ----------
    step : int
        Optimiser steps made.
    seconds : float
        Time spent on them, all runs together.
    started_from : float
        Score of the weights that the stage began with; not a number where it began with none.
    best_score : float
    best : dict of str to Tensor
        State of the averaged network at its best validation.
    stale : int
        Validations since the last gain that counts.
    notices : list of str
        What had to change since they were last taken.
    """

    def __init__(self, stage: Stage, recipe: Recipe, fabric: lightning_fabric.Fabric) -> None:
        self.stage, self.recipe, self.fabric = stage, recipe, fabric
        self.averaged = copy.deepcopy(stage.network).requires_grad_(False).eval().to(fabric.device)
        self.learners: list[tuple[Player, list[nn.Parameter], Any]] = []
        for player in stage.players:
            if recipe.precision != "32-true":
                _reduce(player.network, fabric)
            learned = [p for p in player.network.to(fabric.device).parameters() if p.requires_grad]
            self.learners.append((player, learned, fabric.setup_optimizers(_optimiser(learned, stage.optimiser))))
        self.step, self.seconds, self.stale = 0, 0.0, 0
        self.pieces = recipe.accumulate
        self.started_from, self.best_score, self.gained_from = math.nan, -math.inf, -math.inf
        self.best = _copy(self.averaged)
        self.notices: list[str] = []

    @property
    def learning_rate(self) -> float:
        """Of the step to come."""
        return learning_rate(self.stage.optimiser, self.step, self.stage.steps)

    def advance(self) -> dict[str, float]:
        """One step of every player.

        Raises
        ------
        RunError
            If the memory is too small even for single samples, or (:class:`Diverged`) numbers are no longer finite.
        """
        share = self.stage.batch_size() // self.fabric.world_size
        first = share * self.fabric.global_rank
        batch = self.stage.batch(self.step, range(first, first + share))
        losses: dict[str, float] = {}
        for player, learned, optimiser in self.learners:
            for _, parameters, _ in self.learners:
                for parameter in parameters:
                    parameter.requires_grad_(parameters is learned)
            for group in optimiser.param_groups:
                group["lr"] = player.rate * self.learning_rate
            terms = self._gradients(player, optimiser, batch, share)
            self._share(player.network, learned)
            self._require_finite(torch.stack(list(terms.values())).sum(), "loss")
            self._clip(player, optimiser)
            optimiser.step()
            losses |= {name: float(value) for name, value in terms.items()}
        self.step += 1
        self._average()
        return losses

    def _gradients(self, player: Player, optimiser: Any, batch: Any, count: int) -> dict[str, Tensor]:
        """Gradients of a batch; where the memory is too small, in twice as many pieces, so that the optimisation stays the same."""
        while True:
            optimiser.zero_grad()
            try:
                return self._in_pieces(player, batch, count)
            except (RuntimeError, MemoryError) as error:
                if not _is_shortage(error):
                    raise
                error.__traceback__ = None  # it holds on to the tensors that did not fit
            self._shrink(count)

    def _shrink(self, count: int) -> None:
        if self.pieces >= count or self.fabric.world_size > 1:
            raise RunError(f"{self.fabric.device} ran out of memory; make the batch or the patches smaller, or close other programs.")
        self.pieces = min(count, 2 * self.pieces)
        free_memory(self.fabric.device)
        self.notices.append(f"{self.fabric.device} ran out of memory; each batch of {count} is now computed in {self.pieces} pieces.")

    def _in_pieces(self, player: Player, batch: Any, count: int) -> dict[str, Tensor]:
        totals: dict[str, Tensor] = {}
        for piece, share in _cut(batch, count, min(self.pieces, count)):
            terms = player.terms(_move(piece, self.fabric.device), self.step)
            self.fabric.backward(torch.stack([t.float() for t in terms.values()]).sum() * share)
            for name, value in terms.items():
                totals[name] = totals.get(name, 0) + value.detach().float() * share
        if self.fabric.world_size > 1:
            names = sorted(totals)
            means = self._mean(torch.stack([totals[n] for n in names]))
            totals = dict(zip(names, means.unbind(), strict=True))
        return totals

    def _share(self, network: nn.Module, learned: Sequence[nn.Parameter]) -> None:
        """Mean of the gradients, and of the statistics of batch norms, of all processes.

        Done here and not by wrapping the network, because players call each other's networks and need gradients of gradients.
        """
        if self.fabric.world_size == 1:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in learned]
        flat = self._mean(torch.cat([g.flatten() for g in grads]))
        for parameter, part in zip(learned, torch.split(flat, [p.numel() for p in learned]), strict=True):
            parameter.grad = part.view_as(parameter).clone()
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.copy_(self._mean(buffer.clone()))

    def _mean(self, values: Tensor) -> Tensor:
        """Mean over all processes."""
        mean = self.fabric.all_reduce(values, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    def _clip(self, player: Player, optimiser: Any) -> None:
        limit = self.stage.optimiser.clip or math.inf
        norm = self.fabric.clip_gradients(player.network, optimiser, max_norm=limit, error_if_nonfinite=False)
        # In half precision the scaler leaves out steps whose gradients overflow.
        if norm is not None and self.recipe.precision != "16-mixed":
            self._require_finite(norm, "gradient")

    def _require_finite(self, value: Tensor, what: str) -> None:
        if not torch.isfinite(value):
            raise Diverged(f"The {what} is no longer finite at step {self.step}; the best weights so far are kept. Lower the learning rate.")

    @torch.no_grad()
    def _average(self) -> None:
        # The first steps average less, or the untrained weights would linger.
        decay = min(self.stage.optimiser.ema, self.step / (self.step + 10))
        for mean, current in zip(self.averaged.parameters(), self.stage.network.parameters(), strict=True):
            mean.lerp_(current.detach(), 1 - decay)
        for mean, current in zip(self.averaged.buffers(), self.stage.network.buffers(), strict=True):
            mean.copy_(current)

    def validate(self) -> tuple[Score, bool]:
        """Score the averaged weights and remember them if they are the best.

        Raises
        ------
        RunError
            If the memory is too small.
        """
        try:
            score = self.stage.score(self.averaged, self.fabric.device)
        except (RuntimeError, MemoryError) as error:
            if not _is_shortage(error):
                raise
            raise RunError(f"{self.fabric.device} ran out of memory in the validation; make validation_crop smaller.") from None
        if self.fabric.world_size > 1:  # all decide alike
            score = replace(score, value=self.fabric.broadcast(score.value))
        better = score.value > self.best_score
        if better:
            self.best_score, self.best = score.value, _copy(self.averaged)
        if score.value > self.gained_from + self.recipe.least_gain:
            self.gained_from, self.stale = score.value, 0
        else:
            self.stale += 1
        return score, better

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs; patches, noise and random codes follow from the seed and the step."""
        device = self.fabric.device
        return {
            "stage": self.stage.name,
            "hash": self.stage.hash,
            "step": self.step,
            "seconds": self.seconds,
            "pieces": self.pieces,
            "stale": self.stale,
            "gained_from": self.gained_from,
            "best_score": self.best_score,
            "started_from": self.started_from,
            "best": self.best,
            "averaged": self.averaged.state_dict(),
            "players": {p.name: {"network": p.network.state_dict(), "optimiser": o.state_dict()} for p, _, o in self.learners},
            "precision": self.fabric.strategy.precision.state_dict(),
            "rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state.

        Raises
        ------
        InputError
            If it belongs to another recipe.
        """
        if (state["stage"], state["hash"]) != (self.stage.name, self.stage.hash):
            raise InputError("The checkpoint was made with another recipe; resume with the same recipe or start anew.")
        for player, _, optimiser in self.learners:
            player.network.load_state_dict(state["players"][player.name]["network"])
            optimiser.load_state_dict(state["players"][player.name]["optimiser"])
        self.averaged.load_state_dict(state["averaged"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.best = {k: v.clone() for k, v in state["best"].items()}
        for name in ("step", "seconds", "pieces", "stale", "gained_from", "best_score"):
            setattr(self, name, state[name])
        self.started_from = state.get("started_from", math.nan)  # checkpoints of earlier versions have none
        torch.set_rng_state(state["rng"])
        if state["device_rng"] is not None and self.fabric.device.type == "cuda":
            torch.cuda.set_rng_state(state["device_rng"], self.fabric.device)


def _reduce(network: nn.Module, fabric: lightning_fabric.Fabric) -> None:
    """Let a network, and not the losses on what it gives, compute in reduced precision."""

    def reduced(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any, **options: Any) -> Any:
            with fabric.autocast():
                return method(*inputs, **options)

        return call

    for name in ENTRANCES:
        if hasattr(network, name):
            setattr(network, name, reduced(getattr(network, name)))


def _is_shortage(error: Exception) -> bool:
    """Whether memory ran out, of a device or of the host itself."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def learning_rate(options: OptimiserPart, step: int, steps: int) -> float:
    """Learning rate of step `step` (from 0) of `steps`."""
    length = math.ceil(steps / options.cycles)
    step = step % length if options.schedule == "cosine" else step
    if step < options.warmup:
        return options.learning_rate * (step + 1) / options.warmup
    if options.schedule == "constant":
        return options.learning_rate
    if options.schedule == "step":
        return options.learning_rate * options.step_factor ** (step // options.step_every)
    progress = (step - options.warmup) / max(1, length - options.warmup)
    return options.learning_rate * (options.final_fraction + (1 - options.final_fraction) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def _optimiser(parameters: Sequence[nn.Parameter], options: OptimiserPart) -> torch.optim.Optimizer:
    kind: type[torch.optim.Adam] | type[torch.optim.AdamW] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options.name]
    return kind(parameters, lr=options.learning_rate, betas=options.betas, weight_decay=options.weight_decay)


def _cut(batch: Any, count: int, pieces: int) -> Iterator[tuple[Any, float]]:
    """Pieces of a batch of `count` samples (a dataclass of tensors), and the share of the samples that each has."""
    if pieces == 1:
        yield batch, 1.0
        return
    for index in range(pieces):
        part = slice(index * count // pieces, (index + 1) * count // pieces)
        tensors = {f.name: v[part] for f in fields(batch) if isinstance(v := getattr(batch, f.name), Tensor)}
        yield replace(batch, **tensors), (part.stop - part.start) / count


def _move(batch: Any, device: torch.device) -> Any:
    return replace(batch, **{f.name: v.to(device) for f in fields(batch) if isinstance(v := getattr(batch, f.name), Tensor)})


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().cpu().clone().contiguous() for k, v in network.state_dict().items()}
