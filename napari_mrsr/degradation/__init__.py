"""How low-resolution volumes are made from high-resolution ones."""

from napari_mrsr.degradation.protocols import (
    PROTOCOLS,
    Degradation,
    Protocol,
    add_rician_noise,
    axis_letter,
    degrade,
    first_problem,
    get_protocol,
    recorded_degradation,
)
from napari_mrsr.degradation.separable import SeparableOperator, apply_along_axes

__all__ = [
    "PROTOCOLS",
    "Degradation",
    "Protocol",
    "SeparableOperator",
    "add_rician_noise",
    "apply_along_axes",
    "axis_letter",
    "degrade",
    "first_problem",
    "get_protocol",
    "recorded_degradation",
]
