"""Two-dimensional training pairs on the fly: slices of volumes, varied, degraded whole, cut to patches.

Slices are cut to even low-resolution sizes, for which a k-space crop leaves LR sample 0 on pixel 0 (NETWORKS 0.1): the place where the
networks put it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_mrsr.degradation import add_rician_noise, get_protocol
from napari_mrsr.degradation.matrices import bspline_matrix
from napari_mrsr.degradation.separable import apply_along_axes
from napari_mrsr.grid import AxisSampling, SamplingGrid
from napari_mrsr.intensity import foreground_mask, intensity_range, require_content
from napari_mrsr.networks import Architecture
from napari_mrsr.networks.scaling import Scaling
from napari_mrsr.training.augment import vary
from napari_mrsr.training.data import Pair, Study
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.training.validation import Fit, ValidationCase
from napari_mrsr.volume import Volume

Image = NDArray[np.float32]
VALIDATION_SLICES = 6
SMALLEST_SHARE = 0.02
"""Share of foreground below which a slice is not validated."""


@dataclass(frozen=True, eq=False)
class _Ready:
    """A study in units of its ranges, and where its tissue is."""

    image: Image
    references: tuple[Image, ...]
    mask: Image
    centres: NDArray[Any]
    slice_axis: int


class PlaneSampler:
    """Draws batches of slices; batch `step` depends only on the seed and the step, so a resumed run goes on as if never stopped.

    Parameters
    ----------
    recipe : Recipe
    studies : sequence of Study
        Sharp training volumes and their reference contrasts.
    architecture : Architecture
        Of the network, for what is interpolated first.
    fit : callable
        Units of the network, from a low-resolution slice and its range.
    """

    def __init__(self, recipe: Recipe, studies: Sequence[Study], architecture: Architecture, fit: Fit) -> None:
        self.recipe, self.architecture, self.fit = recipe, architecture, fit
        self.degrader = _Degrader(recipe, architecture.pre_interpolated)
        self._ready = [_ready(study, recipe) for study in studies]

    def batch(self, step: int) -> Pair:
        """Batch of one step."""
        recipe = self.recipe
        whole = np.random.default_rng([recipe.seed, step])
        alone = whole.random() < recipe.augmentation.reference_dropout
        items = [self._item(np.random.default_rng([recipe.seed, step, i])) for i in range(recipe.patches.batch)]
        lr, hr, levels, references = zip(*items, strict=True)
        reference = None if alone or references[0] is None else torch.cat(references)
        return Pair(torch.cat(lr), torch.cat(hr), torch.cat(levels), reference)

    def _item(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        aug = self.recipe.augmentation
        study = self._ready[int(rng.integers(len(self._ready)))]
        images, thick = self._plane(study, rng)
        images, thick = self._turn(images, thick, rng)
        hr, mask, *others = self.degrader.fitted(images, thick, self.recipe.patches.size)
        hr = vary(hr, aug, rng)
        level = float(rng.uniform(0, aug.noise / 100)) if aug.noise and rng.random() < aug.noise_probability else 0.0
        lr = self.degrader(hr, thick, level, rng)
        scaling = self.fit(_tensor(lr), 1.0)
        at = self._place(mask, lr.shape, rng)
        low, fine = self._cut(lr, at, 1), self._cut(hr, at, self.degrader.scale)
        reference = None
        if others:
            second = vary(others[int(rng.integers(len(others)))], aug, rng)
            theirs = self.fit(_tensor(self.degrader(second, thick, 0.0, rng)), 1.0)
            reference = theirs.target(_tensor(self._cut(second, at, self.degrader.scale)))
        noise = torch.as_tensor(scaling.level(level), dtype=torch.float32).reshape(1, 1, 1, 1)
        return scaling.lr(_tensor(low)), scaling.target(_tensor(fine)), noise, reference

    def _plane(self, study: _Ready, rng: np.random.Generator) -> tuple[list[Image], int]:
        """A slice through tissue (image, mask, references) and which of its axes is the thick one (in-plane protocols: none matters)."""
        centre = study.centres[rng.integers(len(study.centres))]
        if self.degrader.through_plane:
            thick = int(rng.integers(3)) if self.recipe.augmentation.turns else study.slice_axis
            stack = int(rng.choice([a for a in range(3) if a != thick]))
        else:
            thick, stack = -1, study.slice_axis
        arrays = (study.image, study.mask, *study.references)
        images = [_slice(a, int(centre[stack]), stack) for a in arrays]
        return images, [a for a in range(3) if a != stack].index(thick) if thick >= 0 else 0

    def _turn(self, images: list[Image], thick: int, rng: np.random.Generator) -> tuple[list[Image], int]:
        aug = self.recipe.augmentation
        if aug.turns and rng.random() < 0.5:
            images, thick = [i.T for i in images], 1 - thick
        if aug.flips:
            flips = tuple(slice(None, None, -1 if rng.random() < 0.5 else 1) for _ in range(2))
            images = [i[flips] for i in images]
        return images, thick

    def _place(self, mask: Image, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[int, int]:
        """LR pixel where the patch begins: around a pixel of tissue."""
        size = self.recipe.patches.size
        tissue = np.argwhere(mask > 0)
        centre = tissue[rng.integers(len(tissue))] if len(tissue) else np.array(mask.shape) // 2
        y, x = (int(np.clip(c // self.degrader.scale - size // 2, 0, n - size)) for c, n in zip(centre, shape, strict=True))
        return y, x

    def _cut(self, image: Image, at: tuple[int, int], scale: int) -> Image:
        size = self.recipe.patches.size * scale
        return image[at[0] * scale : at[0] * scale + size, at[1] * scale : at[1] * scale + size]


class _Degrader:
    """The protocol on single slices."""

    def __init__(self, recipe: Recipe, pre_interpolated: bool) -> None:
        self.protocol = get_protocol(recipe.degradation.protocol)
        self.factor = recipe.degradation.scale
        self.pre_interpolated = pre_interpolated
        self.through_plane = self.protocol.pattern == "through-plane"
        self.scale = 1 if pre_interpolated else self.factor
        """Output pixels per pixel that the network is given."""

    def fitted(self, images: Sequence[Image], thick: int, size: int) -> list[Image]:
        """Slices padded to a patch and cut so that every degraded axis has an even number of samples."""
        height, width = images[0].shape
        need = size * self.scale
        padding = [(0, max(0, need + 2 * self.factor - n)) for n in (height, width)]
        if any(after for _, after in padding):
            images = [np.pad(i, padding, mode="symmetric") for i in images]
        steps = [2 * self.factor if not self.through_plane else self.factor if axis == thick else 1 for axis in range(2)]
        rows, columns = (n // s * s for n, s in zip(images[0].shape, steps, strict=True))
        return [np.ascontiguousarray(i[:rows, :columns]) for i in images]

    def __call__(self, hr: Image, thick: int, level: float, rng: np.random.Generator) -> Image:
        """Low resolution of a slice, with noise, on the lattice that the network is given."""
        factors = [float(self.factor)] * 2 + [1.0]
        if self.through_plane:
            factors[1 - thick] = 1.0
        grid = SamplingGrid.from_fine((*hr.shape, 1), factors, self.protocol.alignment)
        lr = self.protocol.operator(grid).image(hr[:, :, None])
        if level:
            lr = add_rician_noise(lr, level, rng)
        return np.ascontiguousarray((self.cubic(lr, grid) if self.pre_interpolated else lr)[..., 0], np.float32)

    @staticmethod
    def cubic(lr: NDArray[Any], grid: SamplingGrid) -> NDArray[np.float32]:
        """B-spline interpolation onto the fine lattice."""
        matrices = [_spline(a) if s != 1 else None for a, s in zip(grid.axes, grid.scale, strict=True)]
        return np.asarray(apply_along_axes(lr, matrices), np.float32)


@cache
def _spline(axis: AxisSampling) -> NDArray[np.float32]:
    """Solving for a spline's coefficients takes longer than using them, and slices of one volume share their axes."""
    return bspline_matrix(axis.fine_positions(), axis.coarse).astype(np.float32)


def plane_case(study: Study, recipe: Recipe, architecture: Architecture, fit: Fit) -> ValidationCase:
    """Some whole slices of a validation volume, spread evenly over its tissue; thick slices are looked at in one orientation."""
    ready, degrader = _ready(study, recipe), _Degrader(recipe, architecture.pre_interpolated)
    stack = ready.slice_axis if not degrader.through_plane else (0 if ready.slice_axis != 0 else 1)
    axes = [a for a in range(3) if a != stack]
    thick = axes.index(ready.slice_axis) if degrader.through_plane else 0
    share = ready.mask.mean(tuple(axes))
    planes = np.flatnonzero(share > max(SMALLEST_SHARE, 0.3 * share.max()))
    chosen = planes[np.linspace(0, len(planes) - 1, (recipe.data.validation_slices or VALIDATION_SLICES) + 2).round().astype(int)[1:-1]]
    rng = np.random.default_rng(0)
    lrs, hrs, masks, cubics, references = [], [], [], [], []
    for index in chosen:
        arrays = (ready.image, ready.mask, *ready.references[:1])
        hr, mask, *others = degrader.fitted([_slice(a, int(index), stack) for a in arrays], thick, 1)
        low = degrader(hr, thick, 0.0, rng)
        lrs.append(_tensor(low))
        hrs.append(hr)
        masks.append(mask > 0)
        cubics.append(_cubic(degrader, low, hr.shape))
        if others:
            theirs = fit(_tensor(degrader(others[0], thick, 0.0, rng)), 1.0)
            references.append(theirs.target(_tensor(others[0])))
    lr = torch.cat(lrs)
    scaling: Scaling = fit(lr, 1.0)
    return ValidationCase(
        name=study.image.name,
        lr=scaling.lr(lr),
        hr=np.stack(hrs),
        mask=np.stack(masks),
        cubic=np.stack(cubics),
        data_range=1.0,
        scaling=scaling,
        reference=torch.cat(references) if references else None,
    )


def _cubic(degrader: _Degrader, low: Image, shape: tuple[int, ...]) -> Image:
    """Low resolution of a slice on the truth's lattice, where networks that interpolate first have it already."""
    if degrader.pre_interpolated:
        return low
    grid = SamplingGrid.from_fine((*shape, 1), (degrader.factor, degrader.factor, 1.0), degrader.protocol.alignment)
    return degrader.cubic(low[:, :, None], grid)[..., 0]


def _ready(study: Study, recipe: Recipe) -> _Ready:
    image, mask = _normalised(study.image)
    references = tuple(_normalised(r)[0] for r in study.references)
    centres = np.argwhere(mask)
    centres = centres[:: max(1, len(centres) // 200_000)].astype(np.int32)
    return _Ready(image, references, mask.astype(np.float32), centres, recipe.degradation.slice_axis(study.image))


def _normalised(volume: Volume) -> tuple[Image, NDArray[np.bool_]]:
    require_content(volume.data, volume.name)
    mask = foreground_mask(volume.data)
    return volume.data.astype(np.float32) / np.float32(intensity_range(volume.data, mask)), mask


def _slice(volume: Image, index: int, stack: int) -> Image:
    plane: Image = volume[(slice(None),) * stack + (index,)]
    return plane


def _tensor(image: Image) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]
