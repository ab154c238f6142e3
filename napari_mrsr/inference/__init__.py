"""Running networks on volumes: options, plan, tiles, engine, worker process.

What needs torch (:func:`run`, :func:`super_resolve`) is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_mrsr.inference.control import Control
from napari_mrsr.inference.events import Event, Noticed, Progress, Rested, RunDone, RunStarted, TileDone
from napari_mrsr.inference.options import Job, RunOptions, prepare

if TYPE_CHECKING:
    from napari_mrsr.inference.engine import run, super_resolve

__all__ = [
    "Control",
    "Event",
    "Job",
    "Noticed",
    "Progress",
    "Rested",
    "RunDone",
    "RunOptions",
    "RunStarted",
    "TileDone",
    "prepare",
    "run",
    "super_resolve",
]


def __getattr__(name: str) -> Any:
    if name in ("run", "super_resolve"):
        from napari_mrsr.inference import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'napari_mrsr.inference' has no attribute {name!r}")
