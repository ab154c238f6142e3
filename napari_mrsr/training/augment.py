"""Variations of sharp images before they are degraded: contrast, brightness, bias field; and of the blur that degrades them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mrsr.degradation import get_protocol
from napari_mrsr.errors import InputError
from napari_mrsr.training.recipe import AugmentationPart, Recipe

CURVE_POINTS = (4, 8)
"""Fewest and most ends of the pieces of a brightness curve."""
BLUR_STEPS = 20
"""Widths of the blur are drawn in steps of a twentieth, so that few operators have to be built."""


def vary(image: NDArray[np.float32], aug: AugmentationPart, rng: np.random.Generator) -> NDArray[np.float32]:
    """Change contrast (gamma, curve, inversion), bias field and brightness of an image or volume at random; same shape."""
    if aug.contrast_probability and rng.random() < aug.contrast_probability:
        image = _random("RandAdjustContrast", image, rng, prob=1.0, gamma=aug.contrast_gamma)
    if aug.curve_probability and rng.random() < aug.curve_probability:
        image = _random("RandHistogramShift", image, rng, prob=1.0, num_control_points=CURVE_POINTS)
    if aug.inversion_probability and rng.random() < aug.inversion_probability:
        image = _monai("ScaleIntensity", image, minv=float(image.max()), maxv=float(image.min()))
    if aug.bias_probability and rng.random() < aug.bias_probability:
        image = _random("RandBiasField", image, rng, prob=1.0, coeff_range=(0.0, aug.bias_strength))
    return image * brightness(aug, rng) if aug.intensity else image


def brightness(aug: AugmentationPart, rng: np.random.Generator) -> np.float32:
    """Factor by which an image is brightened."""
    return np.float32(rng.uniform(1 - aug.intensity, 1 + aug.intensity) if aug.intensity else 1.0)


def blur_width(aug: AugmentationPart, rng: np.random.Generator) -> float:
    """Factor by which the degradation's blur is widened."""
    return 1.0 if aug.blur == (1.0, 1.0) else round(rng.uniform(*aug.blur) * BLUR_STEPS) / BLUR_STEPS


def noise_level(aug: AugmentationPart, rng: np.random.Generator) -> float:
    """Standard deviation of the noise to be added, as a fraction of the range."""
    return float(rng.uniform(0, aug.noise / 100)) if aug.noise and rng.random() < aug.noise_probability else 0.0


def require_variations(recipe: Recipe) -> None:
    """Refuse variations that the data or the protocol do not allow.

    Raises
    ------
    InputError
        Naming the fields.
    """
    aug, protocol = recipe.augmentation, get_protocol(recipe.degradation.protocol)
    if aug.blur[0] > aug.blur[1]:
        raise InputError(f"augmentation.blur goes from {aug.blur[0]:g} to {aug.blur[1]:g}; give the smaller factor first.")
    if aug.blur != (1.0, 1.0) and not protocol.has_blur:
        raise InputError(f"Protocol {protocol.name} has no blur to vary: leave augmentation.blur out.")
    if recipe.data.low:
        fields = ("contrast_probability", "curve_probability", "inversion_probability", "bias_probability")
        used = [f for f in fields if getattr(aug, f)] + (["blur"] if aug.blur != (1.0, 1.0) else [])
        if used:
            raise InputError(f"Given low resolutions cannot be varied in contrast or blur: leave out augmentation.{', augmentation.'.join(used)}.")


def _random(transform: str, image: NDArray[np.float32], rng: np.random.Generator, **options: Any) -> NDArray[np.float32]:
    return _monai(transform, image, int(rng.integers(2**31)), **options)


def _monai(transform: str, image: NDArray[np.float32], seed: int | None = None, **options: Any) -> NDArray[np.float32]:
    from monai import transforms

    apply = getattr(transforms, transform)(**options)
    if seed is not None:
        apply.set_random_state(seed=seed)
    result = apply(np.ascontiguousarray(image)[None])[0]
    return np.asarray(result, dtype=np.float32)
