"""Variations of sharp images before they are degraded: contrast, bias field, brightness."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mrsr.training.recipe import AugmentationPart


def vary(image: NDArray[np.float32], aug: AugmentationPart, rng: np.random.Generator) -> NDArray[np.float32]:
    """Change contrast (gamma), bias field and brightness of an image or volume at random; same shape."""
    if aug.contrast_probability and rng.random() < aug.contrast_probability:
        image = _monai("RandAdjustContrast", image, rng, prob=1.0, gamma=aug.contrast_gamma)
    if aug.bias_probability and rng.random() < aug.bias_probability:
        image = _monai("RandBiasField", image, rng, prob=1.0, coeff_range=(0.0, 0.1))
    if aug.intensity:
        image = image * np.float32(rng.uniform(1 - aug.intensity, 1 + aug.intensity))
    return image


def _monai(transform: str, image: NDArray[np.float32], rng: np.random.Generator, **options: Any) -> NDArray[np.float32]:
    from monai import transforms

    random = getattr(transforms, transform)(**options)
    random.set_random_state(seed=int(rng.integers(2**31)))
    result = random(np.ascontiguousarray(image)[None])[0]
    return np.asarray(result, dtype=np.float32)
