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
from napari_mrsr.training.augment import blur_width, brightness, noise_level, vary
from napari_mrsr.training.data import Pair, Study, thick_axis
from napari_mrsr.training.preview import Slab
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.training.validation import Fit, ValidationCase, score_classic
from napari_mrsr.volume import Volume

Image = NDArray[np.float32]
VALIDATION_SLICES = 6
SMALLEST_SHARE = 0.02
"""Share of foreground below which a slice is not validated."""


@dataclass(frozen=True, eq=False)
class _Ready:
    """A study in units of its ranges, and where its tissue is.

    `sharp` are the axes along which its voxels are fine enough to learn from; thick slices have two, and are seen in their own plane only.
    """

    image: Image
    references: tuple[Image, ...]
    low: Image | None
    mask: Image
    centres: NDArray[Any]
    slice_axis: int
    sharp: tuple[int, ...]

    def orientation(self, thick: int) -> list[int]:
        """Axes across which slices may be taken where `thick` is degraded."""
        return [a for a in range(3) if a != thick] if len(self.sharp) == 3 else [self.slice_axis]

    @property
    def degraded_axis(self) -> int:
        """Axis that is degraded through plane unless another is drawn: that across slices, or one within thick slices."""
        return self.slice_axis if self.slice_axis in self.sharp else self.sharp[-1]


@dataclass(frozen=True, eq=False)
class _Plane:
    """A slice: image, mask and references; its given low resolution; and which of its axes is the thick one (through-plane protocols)."""

    images: list[Image]
    low: Image | None
    thick: int


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

    def batch(self, step: int, items: Sequence[int] | None = None) -> Pair:
        """Batch of one step, or only the samples of those numbers."""
        recipe = self.recipe
        whole = np.random.default_rng([recipe.seed, step])
        alone = whole.random() < recipe.augmentation.reference_dropout
        numbers = range(recipe.patches.batch) if items is None else items
        samples = [self._item(np.random.default_rng([recipe.seed, step, i])) for i in numbers]
        lr, hr, levels, references = zip(*samples, strict=True)
        reference = None if alone or references[0] is None else torch.cat(references)
        return Pair(torch.cat(lr), torch.cat(hr), torch.cat(levels), reference)

    def _item(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        aug = self.recipe.augmentation
        plane = self._turn(self._plane(self._ready[int(rng.integers(len(self._ready)))], rng), rng)
        if plane.low is None:
            hr, mask, *others = self.degrader.fitted(plane.images, plane.thick, self.recipe.patches.size)
            hr = vary(hr, aug, rng)
            width, level = blur_width(aug, rng), noise_level(aug, rng)
            lr = self.degrader(hr, plane.thick, level, rng, width)
        else:
            hr, mask, *others = plane.images
            gain, level = brightness(aug, rng), noise_level(aug, rng)
            hr = hr * gain
            lr = self.degrader.given(*self.degrader.noisy(plane.low[:, :, None] * gain, hr.shape, plane.thick, level, rng))
        scaling = self.fit(_tensor(lr), 1.0)
        at = self._place(mask, lr.shape, rng)
        low, fine = self._cut(lr, at, 1), self._cut(hr, at, self.degrader.scale)
        reference = None
        if others:
            second = vary(others[int(rng.integers(len(others)))], aug, rng)
            theirs = self.fit(_tensor(self.degrader(second, plane.thick, 0.0, rng)), 1.0)
            reference = theirs.target(_tensor(self._cut(second, at, self.degrader.scale)))
        noise = torch.as_tensor(scaling.level(level), dtype=torch.float32).reshape(1, 1, 1, 1)
        return scaling.lr(_tensor(low)), scaling.target(_tensor(fine)), noise, reference

    def _plane(self, study: _Ready, rng: np.random.Generator) -> _Plane:
        """A slice through tissue."""
        centre = study.centres[rng.integers(len(study.centres))]
        if self.degrader.through_plane:
            thick = int(rng.choice(study.sharp)) if self.recipe.augmentation.turns and study.low is None else study.degraded_axis
            stack = int(rng.choice(study.orientation(thick)))
        else:
            thick, stack = -1, study.slice_axis
        arrays = (study.image, study.mask, *study.references)
        # Given low resolutions have fewer voxels along the thick axis alone, and slices are never taken across that one.
        low = None if study.low is None else _slice(study.low, int(centre[stack]), stack)
        images = [_slice(a, int(centre[stack]), stack) for a in arrays]
        return _Plane(images, low, [a for a in range(3) if a != stack].index(thick) if thick >= 0 else 0)

    def _turn(self, plane: _Plane, rng: np.random.Generator) -> _Plane:
        aug, images, low, thick = self.recipe.augmentation, plane.images, plane.low, plane.thick
        if aug.turns and rng.random() < 0.5:
            images, low, thick = [i.T for i in images], None if low is None else low.T, 1 - thick
        if aug.flips:
            for axis in range(2):
                if rng.random() < 0.5:
                    images, low = self._flip(images, low, axis)
        return _Plane(images, low, thick)

    def _flip(self, images: list[Image], low: Image | None, axis: int) -> tuple[list[Image], Image | None]:
        turned = [np.flip(i, axis) for i in images]
        if low is None:
            return turned, None
        if self.degrader.protocol.alignment != "kspace":
            return turned, np.flip(low, axis)
        # Sample 0 lies on pixel 0, so from the other end the lattice begins r - 1 pixels in and holds one sample less.
        factor, count = self.degrader.factor, low.shape[axis] - 1
        if count < self.recipe.patches.size:
            return images, low
        fine = slice(factor - 1, factor - 1 + count * factor)
        return [i.take(range(fine.start, fine.stop), axis) for i in turned], np.flip(low, axis).take(range(count), axis)

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

    def __call__(self, hr: Image, thick: int, level: float, rng: np.random.Generator, width: float = 1.0) -> Image:
        """Low resolution of a slice, with noise, on the lattice that the network is given."""
        return self.given(*self.coarse(hr, thick, level, rng, width))

    def coarse(self, hr: Image, thick: int, level: float, rng: np.random.Generator, width: float = 1.0) -> tuple[NDArray[np.float32], SamplingGrid]:
        """Low resolution (x, y, 1) of a slice, blurred wider by a factor `width`, with noise, and how it lies on the slice's lattice."""
        lr = self.protocol.operator(self._grid(hr.shape, thick), width).image(hr[:, :, None])
        return self.noisy(lr, hr.shape, thick, level, rng)

    def noisy(
        self, lr: NDArray[np.float32], shape: tuple[int, ...], thick: int, level: float, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], SamplingGrid]:
        """A low resolution (x, y, 1) with noise, and how it lies on the lattice of a slice of that shape."""
        return np.asarray(add_rician_noise(lr, level, rng) if level else lr, np.float32), self._grid(shape, thick)

    def _grid(self, shape: tuple[int, ...], thick: int) -> SamplingGrid:
        factors = [float(self.factor)] * 2 + [1.0]
        if self.through_plane:
            factors[1 - thick] = 1.0
        return SamplingGrid.from_fine((*shape, 1), factors, self.protocol.alignment)

    def given(self, lr: NDArray[np.float32], grid: SamplingGrid) -> Image:
        """A low resolution as the network is given it."""
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
    stack = ready.orientation(ready.degraded_axis)[0] if degrader.through_plane else ready.slice_axis
    axes = [a for a in range(3) if a != stack]
    thick = axes.index(ready.degraded_axis) if degrader.through_plane else 0
    share = ready.mask.mean(tuple(axes))
    planes = np.flatnonzero(share > max(SMALLEST_SHARE, 0.3 * share.max()))
    chosen = planes[np.linspace(0, len(planes) - 1, (recipe.data.validation_slices or VALIDATION_SLICES) + 2).round().astype(int)[1:-1]]
    rng = np.random.default_rng(0)
    lrs, hrs, masks, cubics, references, inputs = [], [], [], [], [], []
    for index in chosen:
        arrays = (ready.image, ready.mask, *ready.references[:1])
        hr, mask, *others = [_slice(a, int(index), stack) for a in arrays]
        if ready.low is None:
            hr, mask, *others = degrader.fitted([hr, mask, *others], thick, 1)
            coarse, grid = degrader.coarse(hr, thick, 0.0, rng)
        else:
            coarse, grid = degrader.noisy(_slice(ready.low, int(index), stack)[:, :, None], hr.shape, thick, 0.0, rng)
        inputs.append((coarse, grid))
        lrs.append(_tensor(degrader.given(coarse, grid)))
        hrs.append(hr)
        masks.append(mask > 0)
        cubics.append(degrader.cubic(coarse, grid)[..., 0])
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
        slab=Slab.of(study.image, stack, int(chosen[len(chosen) // 2]), part=len(chosen) // 2, whole=False),
        classic=score_classic(recipe, inputs, np.stack(hrs), np.stack(masks), 1.0),
        reference=torch.cat(references) if references else None,
    )


def _ready(study: Study, recipe: Recipe) -> _Ready:
    image, mask, value_range = _normalised(study.image)
    references = tuple(_normalised(r)[0] for r in study.references)
    low = None if study.low is None else study.low.data.astype(np.float32) / value_range
    centres = np.argwhere(mask)
    centres = centres[:: max(1, len(centres) // 200_000)].astype(np.int32)
    # Given low resolutions have the thick slices themselves; otherwise what is to be learned across them is learned within them.
    thick = thick_axis(study.image) if low is None and get_protocol(recipe.degradation.protocol).pattern == "through-plane" else None
    slice_axis = recipe.degradation.slice_axis(study.image) if thick is None else thick
    return _Ready(image, references, low, mask.astype(np.float32), centres, slice_axis, tuple(a for a in range(3) if a != thick))


def _normalised(volume: Volume) -> tuple[Image, NDArray[np.bool_], np.float32]:
    require_content(volume.data, volume.name)
    mask = foreground_mask(volume.data)
    value_range = np.float32(intensity_range(volume.data, mask))
    return volume.data.astype(np.float32) / value_range, mask, value_range


def _slice(volume: Image, index: int, stack: int) -> Image:
    plane: Image = volume[(slice(None),) * stack + (index,)]
    return plane


def _tensor(image: Image) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]
