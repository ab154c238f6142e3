"""How low-resolution volumes are made from high-resolution ones."""

from napari_mrsr.degradation.protocols import (
    PROTOCOLS,
    AxisName,
    Degradation,
    Options,
    Protocol,
    add_rician_noise,
    degrade,
    get_protocol,
    recorded_degradation,
    reduce_in_plane,
)
from napari_mrsr.degradation.separable import SeparableOperator, apply_along_axes

__all__ = [
    "PROTOCOLS",
    "AxisName",
    "Degradation",
    "Options",
    "Protocol",
    "SeparableOperator",
    "add_rician_noise",
    "apply_along_axes",
    "degrade",
    "get_protocol",
    "recorded_degradation",
    "reduce_in_plane",
]
