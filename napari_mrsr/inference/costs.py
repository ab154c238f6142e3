"""What a network costs on this machine, measured on the tiles of earlier runs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from napari_mrsr.inference.remembered import cache_file, circumstances, keep, recall


@dataclass(frozen=True)
class Cost:
    """Cost of a tile per voxel that the network sees.

    Attributes
    ----------
    seconds : float
    bytes : int
        Peak device memory; 0 where the device does not tell (CPU), and the architecture's own figure holds.
    shares : tuple of float
        Share of a pass that is done after each layer; empty where it was not looked at.
    """

    seconds: float
    bytes: int = 0
    shares: tuple[float, ...] = ()


def costs_file() -> Path:
    """Where costs are remembered."""
    return cache_file("costs.json")


def cost_key(network: str, device: torch.device, precision: str) -> str:
    """Key of a network (checksum of its weights, or name and factor) under these circumstances."""
    return "|".join([network, circumstances(device), precision])


def known_cost(key: str) -> Cost | None:
    """Cost that was measured under a key; None where nothing was, or the file is broken."""
    try:
        found = Cost(**recall(costs_file())[key])
        cost = replace(found, shares=tuple(float(s) for s in found.shares))
        return cost if math.isfinite(cost.seconds) and cost.seconds > 0 and cost.bytes >= 0 else None
    except (KeyError, TypeError, ValueError):
        return None


def remember_cost(key: str, cost: Cost) -> None:
    """Keep a measured cost for later runs."""
    known = recall(costs_file())
    known[key] = asdict(cost)
    keep(costs_file(), known)
