"""Cluster centres of a generator's styles, which TransMRSR's truncation pulls its own styles towards (self-distilled truncation)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from napari_mrsr.errors import InputError

if TYPE_CHECKING:
    from napari_mrsr.networks.styleswin import StyleSwinGenerator

CHUNK = 4096
RESTARTS = 10
ITERATIONS = 300
TOLERANCE = 1e-4


def k_means(points: Tensor, clusters: int, generator: torch.Generator, restarts: int = RESTARTS) -> Tensor:
    """Centres of Lloyd's algorithm, started from random points, the best of several runs.

    Parameters
    ----------
    points : (n, d) tensor
    clusters : int
    generator : torch.Generator
        On the CPU.
    restarts : int
        Runs; the one of least squared distances counts.

    Returns
    -------
    (clusters, d) tensor

    Raises
    ------
    InputError
        If there are fewer points than clusters.
    """
    if not 1 <= clusters <= len(points):
        raise InputError(f"{clusters} clusters need at least as many points (there are {len(points)}) and at least one cluster.")
    tolerance = TOLERANCE * float(points.var(0, correction=0).mean())
    squares = points.square().sum(1)
    best, least = points[:clusters], float("inf")
    for _ in range(restarts):
        centres = points[torch.randperm(len(points), generator=generator)[:clusters].to(points.device)]
        for _ in range(ITERATIONS):
            owner, distance = _nearest(points, squares, centres)
            moved = _means(points, owner, distance, centres)
            change = float((moved - centres).square().sum())
            centres = moved
            if change <= tolerance:
                break
        spread = float(_nearest(points, squares, centres)[1].sum())
        if spread < least:
            best, least = centres, spread
    return best


def _nearest(points: Tensor, squares: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the nearest centre and squared distance to it, (n,) each; `squares` are the points' squared lengths."""
    distance, owner = torch.addmm(centres.square().sum(1), points, centres.t(), alpha=-2).min(1)
    return owner, (distance + squares).clamp_min(0)


def _means(points: Tensor, owner: Tensor, distance: Tensor, centres: Tensor) -> Tensor:
    """Mean of each centre's points; centres without points move to the points that lie farthest from theirs."""
    # A product instead of scattered additions, whose order on a GPU would differ from run to run.
    member = torch.nn.functional.one_hot(owner, len(centres)).to(points)
    counts = member.sum(0)
    means = member.t() @ points / counts.clamp_min(1)[:, None]
    empty = counts == 0
    means[empty] = points[distance.topk(int(empty.sum())).indices]
    return means


@torch.no_grad()
def style_centroids(generator: StyleSwinGenerator, samples: int = 60_000, clusters: int = 8, seed: int = 0) -> Tensor:
    """Cluster centres of the styles that a generator's mapping network makes of random codes.

    Parameters
    ----------
    generator : StyleSwinGenerator
    samples : int
        Random codes.
    clusters : int
    seed : int
        Of codes and starting points.

    Returns
    -------
    (clusters, style_dim) tensor
        In the order of the cluster's size, largest first, float32, on the CPU.

    Raises
    ------
    InputError
        If there are fewer samples than clusters.

    Notes
    -----
    Each dimension is standardised before clustering and brought back after it, so that no dimension dominates.
    """
    if not 1 <= clusters <= samples:
        raise InputError(f"{clusters} clusters need at least as many samples, not {samples}, and at least one cluster.")
    random = torch.Generator().manual_seed(seed)
    weight = next(generator.mapping.parameters())
    codes = torch.randn(samples, generator.style_dim, generator=random).to(weight)
    styles = torch.cat([generator.mapping(z) for z in torch.split(codes, CHUNK)]).float()
    sd, mean = torch.std_mean(styles, 0, correction=0)
    # A dimension that never changes stays where it is.
    sd = torch.where(sd > 0, sd, torch.ones_like(sd))
    points = (styles - mean) / sd
    centres = k_means(points, clusters, random)
    sizes = torch.bincount(_nearest(points, points.square().sum(1), centres)[0], minlength=clusters)
    return (centres * sd + mean)[sizes.argsort(descending=True, stable=True)].cpu()
