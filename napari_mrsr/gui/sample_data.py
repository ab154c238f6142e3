"""Sample data for napari's File > Open Sample menu."""

from __future__ import annotations

from typing import Any

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.gui.layers import volume_to_layer
from napari_mrsr.gui.reader import _face_new_viewer
from napari_mrsr.gui.session import Role
from napari_mrsr.samples import read_sample

SAMPLE = "arc2017_T1w"


def t1() -> list[tuple[Any, ...]]:
    """The T1 head."""
    _face_new_viewer()
    return [volume_to_layer(read_sample(SAMPLE).replace(name="T1"))]


def t1_pair() -> list[tuple[Any, ...]]:
    """The T1 head as ground truth, and its low-resolution version (``gaussian`` x2); their roles are set."""
    truth = read_sample(SAMPLE).replace(name="HR")
    low = degrade(truth, Degradation()).replace(name="LR")
    _face_new_viewer()
    return [
        volume_to_layer(truth, metadata={"role": Role.GROUND_TRUTH}),
        volume_to_layer(low, metadata={"role": Role.LOW_RESOLUTION}, interpolation2d="nearest"),
    ]
