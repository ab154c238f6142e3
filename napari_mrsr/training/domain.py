"""What a recipe's volumes teach a model: the domain in its card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from napari_mrsr.degradation import get_protocol
from napari_mrsr.io import read_volume
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.zoo import Domain


def trained_domain(recipe: Recipe, paths: Sequence[Path]) -> Domain:
    """Contrasts, LR voxel edges and noise that a training saw.

    Parameters
    ----------
    recipe : Recipe
    paths : sequence of Path
        Sharp volumes that were trained on.

    Returns
    -------
    Domain
        Edges in mm, those of the axes that the protocol degrades apart from the others.
    """
    protocol, scale = get_protocol(recipe.degradation.protocol), recipe.degradation.scale
    finer: list[float] = []
    other: list[float] = []
    for path in paths:
        volume = read_volume(path)
        slice_axis = volume.slice_axis()
        for axis, (size, factor) in enumerate(zip(volume.voxel_size, protocol.scale_per_axis(scale, slice_axis), strict=True)):
            sharp = max(size, recipe.data.in_plane or 0) if axis != slice_axis else size
            (finer if factor != 1 else other).append(sharp * factor)
    return Domain(
        contrasts=recipe.data.contrasts,
        voxel_size=_range(finer),
        other_voxel_size=_range(other) if other else None,
        noise=(0.0, recipe.augmentation.noise),
    )


def _range(sizes: Sequence[float]) -> tuple[float, float]:
    return round(min(sizes), 3), round(max(sizes), 3)
