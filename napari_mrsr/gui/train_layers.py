"""The slice that a training predicts anew at every validation, as layers with a slider over the validations."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Layer
from numpy.typing import NDArray
from qtpy.QtCore import QTimer

from napari_mrsr.errors import InputError
from napari_mrsr.gui.layers import KEY, display_affine, face_axial
from napari_mrsr.gui.map_layers import ERROR_COLOURS
from napari_mrsr.training.history import History
from napari_mrsr.volume import Volume

OVERLAY = "training"
"""Mark of our layers in their metadata: they play no role."""
TRUTH, CUBIC, ERROR, PREDICTION = "truth", "cubic", "error", "prediction"
LABELS = ("validation", "R", "A", "S")
BRIGHTEST, WORST = 99.5, 99.0
"""Percentiles of the truth and of cubic interpolation's error where the colours end."""


class PreviewLayers:
    """Layers of one run in a viewer: the prediction and its error with a slider over the validations, the truth and cubic interpolation."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._history: History | None = None
        self._layers: dict[str, Layer] = {}
        self._slabs: list[NDArray[np.float32]] = []
        self._steps: list[int] = []

    @property
    def layers(self) -> dict[str, Layer]:
        """Layers on view, by what they show; those that the user removed are not among them."""
        return {name: layer for name, layer in self._layers.items() if layer in self._viewer.layers}

    def show(self, history: History) -> None:
        """Bring the layers up to date with a run; those of another run go."""
        if self._history is not history:
            self.clear()
            self._history = history
        if not history.started or not history.scores:
            return
        fresh, at = not self._slabs, self._index()
        at_last = at is None or at >= len(self._slabs) - 1
        if not self._catch_up(history):
            return
        stack = np.stack(self._slabs)
        truth = _load(history, "truth.npy")
        if fresh:
            self._add(history, stack, truth)
            return
        for name, data in ((PREDICTION, stack), (ERROR, stack - truth)):
            if name in self.layers:
                self._layers[name].data = data
        if self.layers and at_last:  # who looks at an earlier one goes on looking at it
            self._look_at_last()

    def clear(self) -> None:
        """Take the layers away."""
        # Also those that an earlier dock has left behind.
        for layer in [layer for layer in self._viewer.layers if layer.metadata.get(KEY, {}).get("overlay") == OVERLAY]:
            self._viewer.layers.remove(layer)
        self._layers, self._slabs, self._steps, self._history = {}, [], [], None

    def caption(self) -> str:
        """Which validation is on the screen; empty where none is."""
        history, at = self._history, self._index()
        if history is None or at is None or at >= len(history.scores):
            return ""
        score = history.scores[at]
        best = ", the best" if score is history.best else ""
        name = history.started["preview"]["name"]
        return f"{name}, validation {at + 1} of {len(history.scores)}: step {score.step}, {score.psnr:.2f} dB{best}"

    def _index(self) -> int | None:
        if not self.layers or self._viewer.dims.ndim < 4:
            return None
        return round(float(self._viewer.dims.point[-4]))

    def _catch_up(self, history: History) -> bool:
        """Read slabs that are new; whether there were any."""
        steps = [score.step for score in history.scores]
        same = 0
        while same < min(len(steps), len(self._steps)) and steps[same] == self._steps[same]:
            same += 1
        if same == len(steps) == len(self._steps):
            return False
        del self._slabs[same:], self._steps[same:]
        for score in history.scores[same:]:
            self._slabs.append(_load(history, score.file))
            self._steps.append(score.step)
        return True

    def _add(self, history: History, stack: NDArray[np.float32], truth: NDArray[np.float32]) -> None:
        facts = history.started["preview"]
        slab = Volume(truth, np.array(facts["affine"]), name=facts["name"])
        cubic = _load(history, "cubic.npy")
        place = display_affine(slab)
        high = float(np.percentile(truth, BRIGHTEST)) or 1.0
        span = float(np.percentile(np.abs(cubic - truth), WORST)) or 1.0
        image, error = {"contrast_limits": (0.0, high)}, {"contrast_limits": (-span, span), "colormap": ERROR_COLOURS}
        name, alone = history.run.recipe().name, not self._viewer.layers
        # What is added last lies on top.
        for kind, data, look in ((TRUTH, truth, image), (CUBIC, cubic, image), (ERROR, stack - truth, error), (PREDICTION, stack, image)):
            moving = data.ndim == 4
            layer = self._viewer.add_image(
                data,
                name=f"{kind}: {name}",
                affine=_with_slider(place) if moving else place,
                units=("pixel", "mm", "mm", "mm") if moving else "mm",
                axis_labels=LABELS if moving else LABELS[1:],
                metadata={KEY: {"overlay": OVERLAY}},
                visible=kind == PREDICTION,
                **look,
            )
            layer.contrast_limits_range = layer.contrast_limits if kind == ERROR else (0.0, max(high, float(truth.max())))
            self._layers[kind] = layer
        if hasattr(self._layers[ERROR], "colorbar"):  # napari 0.7
            self._layers[ERROR].colorbar.visible = True
        if alone:
            face_axial(self._viewer)
        self._face(int(facts["axis"]), slab)
        self._look_at_last()

    def _face(self, axis: int, slab: Volume) -> None:
        """Bring the slice onto the screen: seen along its axis, at its place."""
        dims = self._viewer.dims
        across, down = {0: (2, 1), 1: (2, 0), 2: (1, 0)}[axis]
        more = dims.ndim - 3
        dims.order = (*range(more), more + axis, more + across, more + down)
        centre = slab.affine[:3, :3] @ ((np.array(slab.shape) - 1) / 2) + slab.affine[:3, 3]
        dims.point = (*dims.point[:-3], *centre)
        self._viewer.reset_view()
        # Once more when a dock that is just being opened has taken its part of the window.
        QTimer.singleShot(0, lambda: self._viewer.reset_view() if self.layers else None)

    def _look_at_last(self) -> None:
        dims = self._viewer.dims
        if dims.ndim >= 4:
            dims.point = (*dims.point[:-4], len(self._slabs) - 1, *dims.point[-3:])


def _with_slider(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Affine with a first axis of whole numbers in front."""
    more = np.eye(5)
    more[1:, 1:] = affine
    return more


def _load(history: History, file: str) -> NDArray[np.float32]:
    path = history.run.path / "preview" / file
    try:
        slab: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        raise InputError(f"{path} cannot be read; the slice is not shown.") from None
    return slab
