"""Trainings of several stages, FD-ViT's and TransMRSR's, as small as they can be built."""

from __future__ import annotations

import numpy as np

from napari_mrsr.io import write_volume
from napari_mrsr.training.loop import StageStarted, StepDone
from napari_mrsr.training.recipe import Recipe

DISCRIMINATOR = {"widths": [4] * 8, "hidden": 4}
FDVIT = {
    "name": "fdvit-x2",
    "network": {
        "name": "fdvit",
        "scale": 2,
        "options": {
            "channels": 8,
            "blocks": 1,
            "batch_norm": False,
            "interpolation_skip": True,
            "with_encoder": True,
            "with_vit": True,
            "encoder_options": {"size": 16, "widths": [4, 4, 4, 4], "texture_size": 8},
            "vit_options": {"size": 16, "patch": 8, "hidden_size": 16, "layers": 1, "heads": 2, "mlp_dim": 16, "design": "2d"},
        },
    },
    "degradation": {"protocol": "bicubic", "scale": 2},
    "stages": [
        {"name": "vit", "size": 16, "batch": 4, "steps": 6, "validate_every": 3, "optimiser": {"learning_rate": 0.003}},
        {
            "name": "disentangle",
            "size": 16,
            "batch": 4,
            "steps": 6,
            "validate_every": 3,
            "r1": 1.0,
            "r1_every": 2,
            "discriminator": DISCRIMINATOR,
            "optimiser": {"learning_rate": 0.003},
        },
    ],
    "loss": {"kind": "fdvit", "weights": {"pixel": 1.0, "adversarial": 0.01}, "discriminator": DISCRIMINATOR},
}
WIDTHS = {4: 8, 8: 8, 16: 8, 32: 8}
TRANSMRSR = {
    "name": "transmrsr-x4",
    "network": {"name": "transmrsr", "scale": 4, "options": {"size": 32, "channels": WIDTHS, "style_dim": 8, "clusters": 3, "init": "residual"}},
    "degradation": {"protocol": "slice-profile", "scale": 4},
    "stages": [
        {
            "name": "prior",
            "size": 32,
            "batch": 2,
            "steps": 6,
            "validate_every": 3,
            "r1_every": 2,
            "discriminator": {"channels": WIDTHS},
            "optimiser": {"learning_rate": 0.002, "betas": [0.0, 0.99], "ema": 0.9},
        },
        {"name": "centroids", "samples": 100},
    ],
    "patches": {"size": 32, "batch": 2},
    "loss": {"kind": "transmrsr"},
}
KINDS = {"fdvit": FDVIT, "transmrsr": TRANSMRSR}


def write_people(root, make_volume):
    """Three people in two contrasts."""
    for number, name in enumerate(("train/sub-ann", "train/sub-bob", "val/sub-cy")):
        (root / name).parent.mkdir(exist_ok=True)
        image = make_volume((33, 34, 35), sigma=1.5, seed=number)
        write_volume(image, root / f"{name}_T1w.nii.gz")
        darker = image.data.max() * (image.data / image.data.max()) ** 4
        write_volume(image.replace(data=darker.astype(np.float32)), root / f"{name}_T2w.nii.gz")
    return root


def staged_recipe(root, kind, **changes):
    """A run of some seconds."""
    common = {
        "data": {"root": str(root), "train": ["train"], "validation": ["val"], "validation_slices": 1},
        "patches": {"size": 8, "batch": 2},
        "optimiser": {"learning_rate": 0.001, "ema": 0.5},
        "steps": 4,
        "validate_every": 2,
    }
    return Recipe.model_validate({**common, **KINDS[kind], **changes})


def losses(events):
    """Loss terms by stage and step."""
    found, name = {}, ""
    for event in events:
        if isinstance(event, StageStarted):
            name = event.name
        if isinstance(event, StepDone):
            found[name, event.step] = event.losses
    return found


def of(events, kind):
    return [e for e in events if isinstance(e, kind)]
