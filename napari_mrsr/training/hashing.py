"""Hashes of recipes: equal where the trained weights would be."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel

_ALWAYS: dict[str, tuple[str, ...]] = {
    "": (
        *("name", "network", "degradation", "data", "patches", "augmentation", "optimiser"),
        *("loss", "steps", "validate_every", "validation_crop", "seed"),
    ),
    "network": ("name", "scale", "options"),
    "degradation": ("protocol", "scale", "axis", "noise", "seed"),
    "data": ("train", "validation"),
    "patches": ("size", "batch", "margin", "foreground"),
    "augmentation": ("flips", "turns", "contrast_probability", "contrast_gamma", "bias_probability", "intensity", "noise", "noise_probability"),
    "optimiser": ("name", "learning_rate", "betas", "weight_decay", "schedule", "cycles", "warmup", "final_fraction", "clip", "ema"),
    "loss": ("pixel", "parameter_norm"),
}
"""Fields that the first recipes had. Those that came later count only where they are used, so that hashes of old recipes stay."""

_NEVER: dict[str, tuple[str, ...]] = {"": ("summary", "storage"), "data": ("root", "test", "contrasts", "licences")}
"""Fields that do not change the weights."""


def short_hash(values: Any) -> str:
    """First 12 hex digits of the sha256 of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def hashed_values(part: BaseModel, name: str = "") -> dict[str, Any]:
    """Values of a recipe, or of its part of that name, that change the weights, as JSON has them."""
    found: dict[str, Any] = {}
    for field, value in part.model_dump(mode="json", exclude=set(_NEVER.get(name, ()))).items():
        inner = getattr(part, field)
        if isinstance(inner, BaseModel):
            found[field] = hashed_values(inner, field)
        elif field in _ALWAYS.get(name, ()) or inner != type(part).model_fields[field].get_default(call_default_factory=True):
            found[field] = value
    return found
