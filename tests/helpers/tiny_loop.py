"""A training of seconds: volumes of three people, a recipe of a network that sees volumes, and what its events say."""

from __future__ import annotations

from napari_mrsr.io import write_volume
from napari_mrsr.training.loop import StepDone, train
from napari_mrsr.training.recipe import Recipe


def write_people(root, make_volume):
    """Two people to learn from, one to judge by."""
    for number, name in enumerate(("train/sub-ann", "train/sub-bob", "val/sub-cy")):
        (root / name).parent.mkdir(exist_ok=True)
        write_volume(make_volume((33, 34, 35), sigma=1.5, seed=number), root / f"{name}_T1w.nii.gz")
    return root


def tiny_recipe(root, **changes):
    """A run of some seconds; changes of parts are merged into them."""
    content = {
        "name": "tiny",
        "network": {"name": "cftn", "options": {"channels": 4, "blocks": 2, "ca_reduction": 2, "noise_channel": True}},
        "degradation": {"protocol": "gaussian", "scale": 2},
        "data": {"root": str(root), "train": ["train"], "validation": ["val"]},
        "patches": {"size": 6, "batch": 2, "margin": 3},
        "augmentation": {"noise": 3.0},
        "optimiser": {"name": "adamw", "learning_rate": 0.004, "schedule": "cosine", "warmup": 3, "clip": 1.0, "ema": 0.8},
        "loss": {"pixel": "charbonnier", "parameter_norm": 1e-6},
        "steps": 20,
        "validate_every": 5,
        "validation_crop": 10,
    }
    for name, value in changes.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) else value
    return Recipe.model_validate(content)


def run(recipe, checkpoint=None, **options):
    """All events of a training on the CPU."""
    return list(train(recipe, checkpoint, accelerator="cpu", **options))


def losses(events):
    """Loss terms by step."""
    return {e.step: e.losses for e in events if isinstance(e, StepDone)}
