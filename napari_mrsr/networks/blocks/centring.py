"""Padding slices evenly on both sides, so that the anatomy lies in the middle of a network's fixed frame as it did in training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from napari_mrsr.networks.blocks.recording import Recorded, active


class Centring:
    """Pads slices to an extent, crops results back, and tells a recorder in between (inside the ``with`` block) where the image lies.

    Parameters
    ----------
    image : sequence of int
        Height and width of the slices.
    frame : sequence of int
        Height and width after padding, no smaller. Of an odd difference the larger half comes first.
    """

    def __init__(self, image: Sequence[int], frame: Sequence[int]) -> None:
        self.image = tuple(image)
        self.low = tuple(math.ceil((total - n) / 2) for total, n in zip(frame, image, strict=True))
        rows, columns = ((low, total - n - low) for low, total, n in zip(self.low, frame, image, strict=True))
        self._padding = [*columns, *rows]
        self.recorder = active()

    def pad(self, x: Tensor, mode: str = "constant") -> Tensor:
        """(B, C, H, W) to the frame's size: zeros, or the edge repeated with ``mode="replicate"``."""
        return F.pad(x, self._padding, mode=mode) if any(self._padding) else x

    def crop(self, x: Tensor) -> Tensor:
        """(B, C, frame) to (B, C, H, W)."""
        rows, columns = (slice(low, low + n) for low, n in zip(self.low, self.image, strict=True))
        return x[:, :, rows, columns]

    def __enter__(self) -> None:
        if self.recorder is None:
            return
        self._query, self._known = self.recorder.query, set(self.recorder.found)
        if self._query is not None:
            self.recorder.query = tuple(q + n for q, n in zip(self._query, self.low, strict=True))

    def __exit__(self, *_: object) -> None:
        if self.recorder is None:
            return
        self.recorder.query = self._query
        for name in self.recorder.found.keys() - self._known:
            kept = self.recorder.found[name]
            if kept.values.ndim == 4:
                offset = tuple(o - n for o, n in zip(kept.offset or (0, 0), self.low, strict=True))
                self.recorder.found[name] = Recorded(kept.values, kept.stride, offset)
