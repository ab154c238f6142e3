"""MR super-resolution: volumes with exact geometry, five networks, honest comparison.

``import napari_mrsr`` is cheap; torch is imported by the first call that needs it.

Examples
--------
>>> import napari_mrsr as mrsr
>>> low = mrsr.read_volume("t1_lr.nii.gz")  # doctest: +SKIP
>>> high = mrsr.super_resolve(low, model="cftn-x2")  # doctest: +SKIP
>>> mrsr.write_volume(high, "t1_sr.nii.gz")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Box": "napari_mrsr.volume",
    "Volume": "napari_mrsr.volume",
    "MrsrError": "napari_mrsr.errors",
    "SamplingGrid": "napari_mrsr.grid",
    "read_volume": "napari_mrsr.io",
    "write_volume": "napari_mrsr.io",
    "Degradation": "napari_mrsr.degradation",
    "degrade": "napari_mrsr.degradation",
    "super_resolve": "napari_mrsr.inference",
    "compare": "napari_mrsr.evaluation",
    "list_models": "napari_mrsr.zoo",
}

__all__ = [
    "Box",
    "Degradation",
    "MrsrError",
    "SamplingGrid",
    "Volume",
    "__version__",
    "compare",
    "degrade",
    "list_models",
    "read_volume",
    "super_resolve",
    "write_volume",
]

if TYPE_CHECKING:
    from napari_mrsr.degradation import Degradation, degrade
    from napari_mrsr.errors import MrsrError
    from napari_mrsr.evaluation import compare
    from napari_mrsr.grid import SamplingGrid
    from napari_mrsr.inference import super_resolve
    from napari_mrsr.io import read_volume, write_volume
    from napari_mrsr.volume import Box, Volume
    from napari_mrsr.zoo import list_models


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'napari_mrsr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
