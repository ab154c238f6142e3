"""Three-dimensional training pairs on the fly: sharp patches from volumes, varied, degraded by the protocol, noise added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_mrsr.degradation import add_rician_noise, degrade, get_protocol
from napari_mrsr.grid import SamplingGrid
from napari_mrsr.intensity import foreground_mask, intensity_range, require_content
from napari_mrsr.networks import create
from napari_mrsr.training.augment import blur_width, brightness, noise_level, vary
from napari_mrsr.training.data import Pair, Study
from napari_mrsr.training.preview import Slab
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.training.validation import Fit, ValidationCase, score_classic

Block = NDArray[np.float32]
FOREGROUND_TRIES = 20
"""Places tried for a patch with enough tissue; the fullest is taken where none has it."""


@dataclass(frozen=True, eq=False)
class _Ready:
    """A study in units of its range, padded by the margins, and where its tissue is (in voxels without padding)."""

    image: Block
    mask: NDArray[np.bool_]
    centres: NDArray[np.int32]
    low: Block | None


class PatchSampler:
    """Draws batches from volumes; batch `step` depends only on the seed and the step, so a resumed run goes on as if never stopped.

    Parameters
    ----------
    recipe : Recipe
    studies : sequence of Study
        Sharp training volumes.
    """

    def __init__(self, recipe: Recipe, studies: Sequence[Study]) -> None:
        self.recipe = recipe
        self.scale = recipe.degradation.scale
        self.protocol = get_protocol(recipe.degradation.protocol)
        self.margin = recipe.patches.margin
        self._ready = [self._prepare(study) for study in studies]

    def _prepare(self, study: Study) -> _Ready:
        volume, low = study.image, study.low
        require_content(volume.data, volume.name)
        mask = foreground_mask(volume.data)
        value_range = intensity_range(volume.data, mask)
        centres = np.argwhere(mask)
        return _Ready(
            image=self._padded(volume.data.astype(np.float32) / value_range, self.scale),
            mask=self._padded(mask, self.scale),
            centres=centres[:: max(1, len(centres) // 200_000)].astype(np.int32),
            low=None if low is None else self._padded(low.data.astype(np.float32) / np.float32(value_range), 1),
        )

    def _padded(self, array: NDArray[Any], scale: int) -> NDArray[Any]:
        """Mirrored as the degradation mirrors, so that patches at the border are degraded as the whole volume is."""
        margin, size = self.margin * scale, self.recipe.patches.size * scale
        return np.pad(array, [(margin, margin + max(0, size - n)) for n in array.shape], mode="symmetric")

    def batch(self, step: int, items: Sequence[int] | None = None) -> Pair:
        """Batch of one step, or only some samples of it."""
        chosen = range(self.recipe.patches.batch) if items is None else items
        drawn = [self._item(np.random.default_rng([self.recipe.seed, step, i])) for i in chosen]
        lr, hr, levels = zip(*drawn, strict=True)
        return Pair(_stack(lr), _stack(hr), torch.tensor(levels, dtype=torch.float32).view(-1, 1, 1, 1, 1))

    def _item(self, rng: np.random.Generator) -> tuple[Block, Block, float]:
        recipe, aug = self.recipe, self.recipe.augmentation
        hr, lr = self._crop(self._ready[int(rng.integers(len(self._ready)))], rng)
        hr, lr = self._turn(hr, lr, rng)
        if lr is None:
            hr = vary(hr, aug, rng)
            grid = SamplingGrid.from_fine(hr.shape, (self.scale,) * 3, self.protocol.alignment)
            lr = self.protocol.operator(grid, blur_width(aug, rng)).image(hr)
        elif aug.intensity:
            gain = brightness(aug, rng)
            hr, lr = hr * gain, lr * gain
        level = noise_level(aug, rng)
        if level:
            lr = add_rician_noise(lr, level, rng)
        inner = slice(self.margin, self.margin + recipe.patches.size)
        fine = slice(inner.start * self.scale, inner.stop * self.scale)
        return np.ascontiguousarray(lr[(inner,) * 3], np.float32), np.ascontiguousarray(hr[(fine,) * 3], np.float32), level

    def _crop(self, study: _Ready, rng: np.random.Generator) -> tuple[Block, Block | None]:
        """Sharp block with its margin, and the given low resolution of the same place."""
        size, margin = self.recipe.patches.size, self.margin
        edge, lead = (size + 2 * margin) * self.scale, margin * self.scale
        # Blocks of given pairs begin where a low-resolution voxel does.
        step = 1 if study.low is None else self.scale
        best, most = (0, 0, 0), -1.0
        for _ in range(FOREGROUND_TRIES):
            centre = study.centres[rng.integers(len(study.centres))]
            # In padded coordinates a block around the centre starts where the unpadded block would, so the margin is always there.
            x, y, z = (int(np.clip(c + lead - edge // 2, 0, n - edge)) // step * step for c, n in zip(centre, study.image.shape, strict=True))
            inner = _block((x + lead, y + lead, z + lead), size * self.scale)
            share = float(study.mask[inner].mean()) if self.recipe.patches.foreground else 0.0
            if share > most:
                best, most = (x, y, z), share
            if share >= self.recipe.patches.foreground:
                break
        low = None if study.low is None else study.low[_block([s // step for s in best], size + 2 * margin)]
        return study.image[_block(best, edge)], low

    def _turn(self, hr: Block, lr: Block | None, rng: np.random.Generator) -> tuple[Block, Block | None]:
        if self.recipe.augmentation.turns:
            order = rng.permutation(3)
            hr, lr = hr.transpose(order), None if lr is None else lr.transpose(order)
        if self.recipe.augmentation.flips:
            flips = tuple(slice(None, None, -1 if rng.random() < 0.5 else 1) for _ in range(3))
            hr, lr = hr[flips], None if lr is None else lr[flips]
        return hr, lr


def _block(start: Sequence[int], edge: int) -> tuple[slice, slice, slice]:
    x, y, z = (slice(s, s + edge) for s in start)
    return x, y, z


def _stack(arrays: Sequence[NDArray[np.float32]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays)[:, None])


def validation_case(study: Study, recipe: Recipe, fit: Fit) -> ValidationCase:
    """Degrade a whole validation volume, where its low resolution is not given, and cut its central block of foreground."""
    volume = study.image
    mask = foreground_mask(volume.data)
    low = study.low or degrade(volume, recipe.degradation.model_copy(update={"noise": 0.0}))
    scale = get_protocol(recipe.degradation.protocol).scale_per_axis(recipe.degradation.scale, recipe.degradation.slice_axis(volume))
    middle = [np.mean(np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis)))) for axis in range(3)]
    edge = recipe.validation_crop
    starts = [max(0, min(round(m / s - edge / 2), n - edge)) for m, s, n in zip(middle, scale, low.shape, strict=True)]
    block = tuple(slice(s, min(s + edge, n)) for s, n in zip(starts, low.shape, strict=True))
    fine = tuple(slice(round(b.start * k), round(b.stop * k)) for b, k in zip(block, scale, strict=True))
    lr = torch.from_numpy(np.ascontiguousarray(low.data[block], dtype=np.float32))[None, None]
    scaling = fit(lr, intensity_range(low.data))
    cubic = create("cubic", recipe.degradation.scale, protocol=recipe.degradation.protocol)
    hr, inside, data_range = volume.data[fine].astype(np.float32)[None], mask[fine][None], intensity_range(volume.data, mask)
    grid = SamplingGrid.from_coarse(low.data[block].shape, scale, get_protocol(recipe.degradation.protocol).alignment)
    return ValidationCase(
        name=volume.name,
        lr=scaling.lr(lr),
        hr=hr,
        mask=inside,
        cubic=cubic(lr)[:, 0].numpy(),
        data_range=data_range,
        scaling=scaling,
        slab=Slab.of(volume.crop(fine), 2, hr.shape[3] // 2),
        classic=score_classic(recipe, [(low.data[block], grid)], hr, inside, data_range),
    )
