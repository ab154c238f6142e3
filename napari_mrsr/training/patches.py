"""Three-dimensional training pairs on the fly: sharp patches from volumes, varied, degraded by the protocol, noise added."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_mrsr.degradation import add_rician_noise, degrade, get_protocol
from napari_mrsr.grid import SamplingGrid
from napari_mrsr.intensity import foreground_mask, intensity_range, require_content
from napari_mrsr.networks import create
from napari_mrsr.training.augment import vary
from napari_mrsr.training.data import Pair, Study
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.training.validation import Fit, ValidationCase

FOREGROUND_TRIES = 20
"""Places tried for a patch with enough tissue; the fullest is taken where none has it."""


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
        scale = recipe.degradation.scale
        self.protocol = get_protocol(recipe.degradation.protocol)
        self.margin = recipe.patches.margin
        self._lr_edge = recipe.patches.size + 2 * self.margin
        self._images: list[NDArray[np.float32]] = []
        self._masks: list[NDArray[np.bool_]] = []
        self._centres: list[NDArray[np.int32]] = []
        hr_size, hr_margin = recipe.patches.size * scale, self.margin * scale
        for volume in (study.image for study in studies):
            require_content(volume.data, volume.name)
            mask = foreground_mask(volume.data)
            image = volume.data.astype(np.float32) / intensity_range(volume.data, mask)
            # Mirrored as the degradation mirrors, so that patches at the border are degraded as the whole volume is.
            padding = [(hr_margin, hr_margin + max(0, hr_size - n)) for n in image.shape]
            self._images.append(np.pad(image, padding, mode="symmetric"))
            self._masks.append(np.pad(mask, padding, mode="symmetric"))
            centres = np.argwhere(mask)
            self._centres.append(centres[:: max(1, len(centres) // 200_000)].astype(np.int32))

    def batch(self, step: int) -> Pair:
        """Batch of one step."""
        items = [self._item(np.random.default_rng([self.recipe.seed, step, i])) for i in range(self.recipe.patches.batch)]
        lr, hr, levels = zip(*items, strict=True)
        return Pair(_stack(lr), _stack(hr), torch.tensor(levels, dtype=torch.float32).view(-1, 1, 1, 1, 1))

    def _item(self, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
        recipe, aug = self.recipe, self.recipe.augmentation
        index = int(rng.integers(len(self._images)))
        hr = self._crop(index, rng)
        hr = self._turn(hr, rng)
        hr = vary(hr, aug, rng)
        scale = self.protocol.scale_per_axis(recipe.degradation.scale, slice_axis=2)
        grid = SamplingGrid.from_fine(hr.shape, scale, self.protocol.alignment)
        lr = self.protocol.operator(grid).image(hr)
        level = float(rng.uniform(0, aug.noise / 100)) if aug.noise and rng.random() < aug.noise_probability else 0.0
        if level:
            lr = add_rician_noise(lr, level, rng)
        inner_lr = tuple(slice(self.margin, self.margin + recipe.patches.size) for _ in range(3))
        inner_hr = tuple(slice(round(s.start * k), round(s.stop * k)) for s, k in zip(inner_lr, scale, strict=True))
        return np.ascontiguousarray(lr[inner_lr], np.float32), np.ascontiguousarray(hr[inner_hr], np.float32), level

    def _crop(self, index: int, rng: np.random.Generator) -> NDArray[np.float32]:
        image, mask, centres = self._images[index], self._masks[index], self._centres[index]
        edge, margin = self._lr_edge * self.recipe.degradation.scale, self.margin * self.recipe.degradation.scale
        best, most = (slice(0, edge),) * 3, -1.0
        for _ in range(FOREGROUND_TRIES):
            centre = centres[rng.integers(len(centres))]
            # In padded coordinates a block around the centre starts where the unpadded block would, so the margin is always there.
            starts = [int(np.clip(c + margin - edge // 2, 0, n - edge)) for c, n in zip(centre, image.shape, strict=True)]
            block = (slice(starts[0], starts[0] + edge), slice(starts[1], starts[1] + edge), slice(starts[2], starts[2] + edge))
            if not self.recipe.patches.foreground:
                return image[block]
            share = float(mask[tuple(slice(b.start + margin, b.stop - margin) for b in block)].mean())
            if share > most:
                best, most = block, share
            if share >= self.recipe.patches.foreground:
                break
        return image[best]

    def _turn(self, hr: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        if self.recipe.augmentation.turns:
            hr = hr.transpose(rng.permutation(3))
        if self.recipe.augmentation.flips:
            hr = hr[tuple(slice(None, None, -1 if rng.random() < 0.5 else 1) for _ in range(3))]
        return hr


def _stack(arrays: Sequence[NDArray[np.float32]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays)[:, None])


def validation_case(study: Study, recipe: Recipe, fit: Fit) -> ValidationCase:
    """Degrade a whole validation volume and cut its central block of foreground."""
    volume = study.image
    mask = foreground_mask(volume.data)
    low = degrade(volume, recipe.degradation.model_copy(update={"noise": 0.0}))
    scale = get_protocol(recipe.degradation.protocol).scale_per_axis(recipe.degradation.scale, recipe.degradation.slice_axis(volume))
    middle = [np.mean(np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis)))) for axis in range(3)]
    edge = recipe.validation_crop
    starts = [max(0, min(round(m / s - edge / 2), n - edge)) for m, s, n in zip(middle, scale, low.shape, strict=True)]
    block = tuple(slice(s, min(s + edge, n)) for s, n in zip(starts, low.shape, strict=True))
    fine = tuple(slice(round(b.start * k), round(b.stop * k)) for b, k in zip(block, scale, strict=True))
    lr = torch.from_numpy(np.ascontiguousarray(low.data[block], dtype=np.float32))[None, None]
    scaling = fit(lr, intensity_range(low.data))
    cubic = create("cubic", recipe.degradation.scale, protocol=recipe.degradation.protocol)
    return ValidationCase(
        name=volume.name,
        lr=scaling.lr(lr),
        hr=volume.data[fine].astype(np.float32)[None],
        mask=mask[fine][None],
        cubic=cubic(lr)[:, 0].numpy(),
        data_range=intensity_range(volume.data, mask),
        scaling=scaling,
    )
