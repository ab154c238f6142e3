"""The training loop: a generator of events over Lightning Fabric, resumable at any checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning_fabric
import torch
from torch import Tensor, nn

from napari_mrsr.degradation import get_protocol
from napari_mrsr.errors import InputError, RunError
from napari_mrsr.inference.plan import pick_device
from napari_mrsr.networks import create, get_architecture
from napari_mrsr.networks.losses import ParameterNorm
from napari_mrsr.networks.scaling import Scaling
from napari_mrsr.training.checkpoint import load_checkpoint, save_checkpoint
from napari_mrsr.training.data import Pair, Study, check_split, find_volumes, load_studies
from napari_mrsr.training.objectives import make_objective
from napari_mrsr.training.patches import PatchSampler, validation_case
from napari_mrsr.training.planes import PlaneSampler, plane_case
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.training.validation import ValidationCase, cubic_psnr, validate


@dataclass(frozen=True)
class TrainingStarted:
    """The data are read. `cubic` is the validation PSNR (dB, ``mrsr-1``) of cubic interpolation."""

    parameters: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    first_step: int
    cubic: float


@dataclass(frozen=True)
class StepDone:
    """One optimiser step: loss terms, learning rate, seconds since the start of this call."""

    step: int
    losses: dict[str, float]
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class ValidationDone:
    """Validation PSNR in dB inside M (``mrsr-1``), the mean over volumes, of the averaged weights."""

    step: int
    psnr: float
    best: bool


@dataclass(frozen=True)
class TrainingDone:
    """Weights of the best validation."""

    step: int
    psnr: float
    weights: dict[str, Tensor]
    recipe: Recipe
    minutes: float


Sampler = PatchSampler | PlaneSampler
Event = TrainingStarted | StepDone | ValidationDone | TrainingDone


def train(
    recipe: Recipe, checkpoint: Path | None = None, resume: bool = False, cancelled: Callable[[], bool] = lambda: False, accelerator: str = "auto"
) -> Iterator[Event]:
    """Train a network.

    Parameters
    ----------
    recipe : Recipe
    checkpoint : Path, optional
        Where the state is kept, written at every validation.
    resume : bool
        Go on from `checkpoint`; the following losses equal those of a run that never stopped.
    cancelled : callable
        Asked between steps; the run then ends with the best weights so far.
    accelerator : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Yields
    ------
    TrainingStarted, StepDone, ValidationDone, TrainingDone

    Raises
    ------
    InputError
        Before the first step, where data or recipe do not fit.
    RunError
        If the loss is no longer finite.
    """
    _require_fit(recipe)
    device = pick_device(accelerator)
    train_paths = find_volumes(recipe.data.root, recipe.data.train)
    validation_paths = find_volumes(recipe.data.root, recipe.data.validation)
    check_split(train_paths, validation_paths)
    fabric = lightning_fabric.Fabric(accelerator=device.type, devices=[device.index or 0] if device.type == "cuda" else 1)
    trainer = _Trainer(recipe, fabric)
    if resume:
        if checkpoint is None:
            raise InputError("Nothing to resume: give the checkpoint file.")
        trainer.load(load_checkpoint(checkpoint))
    sampler = trainer.sampler(load_studies(train_paths, recipe.data))
    cases = trainer.cases(load_studies(validation_paths, recipe.data))
    yield TrainingStarted(
        sum(p.numel() for p in trainer.network.parameters()),
        tuple(p.name for p in train_paths),
        tuple(p.name for p in validation_paths),
        trainer.step,
        cubic_psnr(cases),
    )
    started = time.perf_counter()
    while trainer.step < recipe.steps and not cancelled():
        rate = trainer.learning_rate
        losses = trainer.advance(sampler)
        yield StepDone(trainer.step, losses, rate, time.perf_counter() - started)
        if trainer.step % recipe.validate_every == 0 or trainer.step == recipe.steps:
            value = validate(cases, trainer.averaged, fabric.device)
            best = trainer.keep_if_best(value)
            trainer.seconds += time.perf_counter() - started
            if checkpoint is not None:
                save_checkpoint(trainer.state(), checkpoint)
            trainer.seconds -= time.perf_counter() - started
            yield ValidationDone(trainer.step, value, best)
    trainer.seconds += time.perf_counter() - started
    yield TrainingDone(trainer.step, trainer.best_psnr, trainer.best, recipe, trainer.seconds / 60)


def _require_fit(recipe: Recipe) -> None:
    architecture, protocol = get_architecture(recipe.network.name), get_protocol(recipe.degradation.protocol)
    if not architecture.learned:
        raise InputError(f"{architecture.title} has no weights to train; choose a network.")
    if recipe.network.scale != recipe.degradation.scale:
        raise InputError(f"The network's scale {recipe.network.scale} differs from the degradation's {recipe.degradation.scale}; make them equal.")
    if architecture.dimension == 3 and protocol.pattern != "3d":
        raise InputError(f"{architecture.title} enlarges all three axes; protocol {protocol.name} is {protocol.pattern}. Choose a 3d protocol.")
    if architecture.dimension == 2 and architecture.pre_interpolated != (protocol.pattern == "through-plane"):
        wanted = "through-plane" if architecture.pre_interpolated else "in-plane"
        raise InputError(f"{architecture.title} needs an {wanted} protocol; {protocol.name} is {protocol.pattern}.")
    if architecture.reference == "needed" and not recipe.data.references:
        raise InputError(f"{architecture.title} needs a reference contrast: name those beside the volumes in data.references, for example [T1w].")


class _Trainer:
    """Everything that changes during training."""

    def __init__(self, recipe: Recipe, fabric: lightning_fabric.Fabric) -> None:
        self.recipe, self.fabric = recipe, fabric
        torch.manual_seed(recipe.seed)
        self.architecture = get_architecture(recipe.network.name)
        layout = torch.channels_last_3d if self.architecture.dimension == 3 else torch.channels_last
        self.network, self.averaged = (
            create(recipe.network.name, recipe.network.scale, **recipe.network.options).to(memory_format=layout)  # type: ignore[call-overload]
            for _ in range(2)
        )
        self.averaged.load_state_dict(self.network.state_dict())
        self.averaged.requires_grad_(False).eval().to(fabric.device)
        options = recipe.optimiser
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options.name]
        optimiser = kind(self.network.parameters(), lr=options.learning_rate, betas=options.betas, weight_decay=options.weight_decay)
        self.model, self.optimiser = fabric.setup(self.network, optimiser)
        if hasattr(self.network, "forward_with_gradient"):
            self.model.mark_forward_method("forward_with_gradient")
        self.objective = make_objective(recipe.loss)
        self.parameter_norm = ParameterNorm(recipe.loss.parameter_norm) if recipe.loss.parameter_norm else None
        self.step = 0
        self.seconds = 0.0
        self.best_psnr = -math.inf
        self.best = _copy(self.averaged)

    @property
    def learning_rate(self) -> float:
        """Of the step to come."""
        o = self.recipe.optimiser
        length = math.ceil(self.recipe.steps / o.cycles)
        step = self.step if o.schedule == "constant" else self.step % length
        if step < o.warmup:
            return o.learning_rate * (step + 1) / o.warmup
        if o.schedule == "constant":
            return o.learning_rate
        progress = (step - o.warmup) / max(1, length - o.warmup)
        return o.learning_rate * (o.final_fraction + (1 - o.final_fraction) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))

    def fit(self, lr: Tensor, volume_range: float) -> Scaling:
        """Units of the network for a low resolution of that range."""
        return self.architecture.scaling(self.network, lr, volume_range)

    def sampler(self, studies: list[Study]) -> Sampler:
        """Source of batches: volumes for networks that see volumes, slices for those that see slices."""
        if self.architecture.dimension == 3:
            return PatchSampler(self.recipe, studies)
        return PlaneSampler(self.recipe, studies, self.architecture, self.fit)

    def cases(self, studies: list[Study]) -> list[ValidationCase]:
        """What is validated."""
        if self.architecture.dimension == 3:
            return [validation_case(study, self.recipe, self.fit) for study in studies]
        return [plane_case(study, self.recipe, self.architecture, self.fit) for study in studies]

    def advance(self, sampler: Sampler) -> dict[str, float]:
        """One optimiser step."""
        pair = _move(sampler.batch(self.step), self.fabric.device)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        losses = self.objective(self.model, pair)
        if self.parameter_norm is not None:
            losses["parameter norm"] = self.parameter_norm(self.network.parameters())
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise RunError(f"The loss is no longer finite at step {self.step}; the best weights so far are kept. Lower the learning rate.")
        self.optimiser.zero_grad()
        self.fabric.backward(total)
        limit = self.recipe.optimiser.clip or math.inf
        norm = self.fabric.clip_gradients(self.model, self.optimiser, max_norm=limit, error_if_nonfinite=False)
        if norm is not None and not torch.isfinite(norm):
            raise RunError(f"The gradient is no longer finite at step {self.step}; the best weights so far are kept. Lower the learning rate.")
        self.optimiser.step()
        self.step += 1
        self._average()
        return {name: float(value.detach()) for name, value in losses.items()}

    @torch.no_grad()
    def _average(self) -> None:
        # The first steps average less, or the untrained weights would linger.
        decay = min(self.recipe.optimiser.ema, self.step / (self.step + 10))
        for mean, current in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(current.detach(), 1 - decay)
        for mean, current in zip(self.averaged.buffers(), self.network.buffers(), strict=True):
            mean.copy_(current)

    def keep_if_best(self, value: float) -> bool:
        """Remember the averaged weights if they validate best."""
        if value <= self.best_psnr:
            return False
        self.best_psnr, self.best = value, _copy(self.averaged)
        return True

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs; patches and noise follow from the seed and the step."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "recipe_hash": self.recipe.hash,
            "step": self.step,
            "seconds": self.seconds,
            "best_psnr": self.best_psnr,
            "best": self.best,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": torch.get_rng_state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state.

        Raises
        ------
        InputError
            If it belongs to another recipe.
        """
        if state["recipe_hash"] != self.recipe.hash:
            raise InputError("The checkpoint was made with another recipe; resume with the same recipe or start anew.")
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds, self.best_psnr, self.best = state["step"], state["seconds"], state["best_psnr"], state["best"]
        torch.set_rng_state(state["rng"])


def _move(pair: Pair, device: torch.device) -> Pair:
    reference = None if pair.reference is None else pair.reference.to(device)
    return Pair(pair.lr.to(device), pair.hr.to(device), pair.noise_level.to(device), reference)


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().cpu().clone().contiguous() for k, v in network.state_dict().items()}


__all__ = ["Event", "StepDone", "TrainingDone", "TrainingStarted", "ValidationDone", "train"]
