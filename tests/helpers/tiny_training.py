"""A training of seconds: volumes of three people and a recipe of a network that sees slices."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from napari_mrsr.io import write_volume
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.volume import Volume

SHAPE = (24, 26, 12)


def write_people(root, names=("train/sub-ann", "train/sub-bob", "val/sub-cy"), contrast="T1w"):
    """Files of made-up people; gives the folder."""
    affine = np.diag([1.0, 1.2, 2.0, 1.0])
    affine[:3, 3] = (-10.0, 4.0, 30.0)
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 1.2)
        data = 1000 * (noise - noise.min()) / np.ptp(noise)
        write_volume(Volume(data.astype(np.float32), affine), root / f"{name}_{contrast}.nii.gz")
    return root


def tiny_recipe(root, **changes):
    """Recipe over such a folder."""
    content = {
        "name": "tiny",
        "network": {"name": "fdvit", "options": {"channels": 4, "blocks": 1, "batch_norm": False, "interpolation_skip": True}},
        "degradation": {"protocol": "bicubic", "scale": 2},
        "data": {"root": str(root), "train": ["train"], "validation": ["val"], "validation_slices": 3},
        "patches": {"size": 8, "batch": 2},
        "optimiser": {"learning_rate": 0.003},
        "steps": 12,
        "validate_every": 4,
    }
    for name, value in changes.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) and name in content else value
    return Recipe.model_validate(content)
