"""Where a training runs: device, precision, and several processes that share every batch."""

from __future__ import annotations

from dataclasses import dataclass

import lightning_fabric
import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only

from napari_mrsr.errors import InputError
from napari_mrsr.inference.plan import pick_device
from napari_mrsr.training.recipe import ImageStage, Recipe


@dataclass(frozen=True)
class Machines:
    """Devices and machines of a training.

    Attributes
    ----------
    accelerator : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    devices : int
        Processes on each machine, one for each device; on the CPU any number.
    nodes : int
        Machines.
    strategy : str
        How Lightning Fabric starts the processes: ``auto`` or ``ddp``.
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"

    @property
    def count(self) -> int:
        """Processes in all."""
        return self.devices * self.nodes


def start_fabric(machines: Machines, recipe: Recipe) -> lightning_fabric.Fabric:
    """Fabric of a training; with several processes, the others are started here and run the same program.

    Raises
    ------
    InputError
        If the machine lacks the devices, or batches or the precision do not fit them.
    """
    device = pick_device(machines.accelerator)
    if recipe.precision == "16-mixed" and device.type == "cpu":
        raise InputError("Precision 16-mixed needs a GPU; take bf16-mixed or 32-true.")
    if machines.strategy not in ("auto", "ddp"):
        raise InputError(f"Strategy {machines.strategy!r} is unknown; use auto or ddp.")
    for name, batch in (
        ("patches.batch", recipe.patches.batch),
        *((f"batch of stage {s.name}", s.batch) for s in recipe.stages if isinstance(s, ImageStage)),
    ):
        if batch % machines.count:
            raise InputError(f"{machines.count} processes cannot share a {name} of {batch} evenly; make it a multiple of {machines.count}.")
    if device.type == "cuda" and machines.devices > torch.cuda.device_count():
        raise InputError(f"{machines.devices} GPUs are asked for, {torch.cuda.device_count()} are there.")
    one = [device.index or 0] if device.type == "cuda" else 1
    fabric = lightning_fabric.Fabric(
        accelerator=device.type,
        devices=machines.devices if machines.devices > 1 else one,
        num_nodes=machines.nodes,
        strategy="ddp" if machines.count > 1 else "auto",
        precision=recipe.precision,
    )
    if machines.count > 1:
        fabric.launch()
    return fabric


def is_main_process() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return getattr(rank_zero_only, "rank", 0) in (0, None)
