"""Running a network of fixed input size on slices of any size: overlapping windows, smoothly blended."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_mrsr.networks.blocks.recording import Recorded, active


def in_windows(
    network: Callable[..., Tensor],
    images: Sequence[tuple[Tensor, int]],
    size: tuple[int, int],
    overlap: float = 0.25,
    fill: float | None = None,
    align: int = 1,
) -> Tensor:
    """Apply `network` to windows of a fixed output size and blend what comes back.

    Images smaller than a window are padded on both sides, larger ones are covered by evenly spread windows that share at least `overlap` of
    their length; shared parts fade from one window to the next. An image of exactly the window's size goes through untouched.

    Parameters
    ----------
    network : callable
        Gets the windows of all images as positional arguments, (B n, C, h, w) each; returns (B n, C', size).
    images : sequence of (tensor, int)
        Each image (B, C, h, w) with its stride: output pixels per image pixel (the factor for a low resolution, 1 for a reference).
    size : (int, int)
        Output size of a window, a multiple of every stride.
    overlap : float
        Smallest share of a window's length that neighbours have in common, 0 to 0.5.
    fill : float or None
        Value of padding; None mirrors the image.
    align : int
        Windows start at multiples of this (the stride of the coarsest map inside the network), which divides `size`.

    Returns
    -------
    (B, C', stride h, stride w) tensor
    """
    step = math.lcm(align, *(stride for _, stride in images))
    first, stride = images[0]
    extent = [n * stride for n in first.shape[2:]]
    if extent == list(size):
        return network(*(image for image, _ in images))
    low, total = zip(*(_padded(n, s, step) for n, s in zip(extent, size, strict=True)), strict=True)
    starts = [_starts(n, s, overlap, step) for n, s in zip(total, size, strict=True)]
    places = list(itertools.product(starts[0], starts[1]))
    padded = [(_pad(image, low, total, s, fill), s) for image, s in images]
    recorder = active()
    if recorder is not None and recorder.local and recorder.query is not None and len(places) > 1:
        places = [places[_nearest(places, low, size, recorder.query)]]
        starts = [[place] for place in places[0]]
    windows = [torch.cat([image[:, :, y // s : (y + size[0]) // s, x // s : (x + size[1]) // s] for y, x in places]) for image, s in padded]
    weights = [_weights(starts[a], size[a], total[a]) for a in range(2)]
    crop = (slice(low[0], low[0] + extent[0]), slice(low[1], low[1] + extent[1]))
    with _Windows(places, low, size, total, first.shape[0], weights):
        parts = network(*windows)
    return _blend(parts, places, size, total, weights, 1, first.shape[0])[:, :, crop[0], crop[1]]


def _nearest(places: Sequence[tuple[int, int]], low: Sequence[int], size: Sequence[int], query: Sequence[int]) -> int:
    """Index of the window whose centre is nearest to an output pixel."""
    row, column = (q + n for q, n in zip(query, low, strict=True))
    distance = [abs(y + size[0] / 2 - row) + abs(x + size[1] / 2 - column) for y, x in places]
    return distance.index(min(distance))


def _padded(extent: int, size: int, step: int) -> tuple[int, int]:
    """Low pad and total extent: at least one window, a multiple of `step`."""
    total = max(size, math.ceil(extent / step) * step)
    return (total - extent) // 2 // step * step, total


def _starts(total: int, size: int, overlap: float, step: int) -> list[int]:
    reach = max(step, int(size * (1 - overlap)))
    count = 1 + math.ceil((total - size) / reach)
    if count == 1:
        return [0]
    return [round(i * (total - size) / (count - 1) / step) * step for i in range(count)]


def _pad(image: Tensor, low: Sequence[int], total: Sequence[int], stride: int, fill: float | None) -> Tensor:
    padding: list[int] = []
    for axis in (1, 0):
        before = low[axis] // stride
        padding += [before, total[axis] // stride - image.shape[2 + axis] - before]
    if not any(padding):
        return image
    if fill is not None:
        return F.pad(image, padding, value=fill)
    # Mirrored with the edge repeated, by index, because F.pad's "reflect" cannot pad by more than the image.
    for axis, (before, after) in ((3, padding[:2]), (2, padding[2:])):
        n = image.shape[axis]
        index = torch.arange(-before, n + after, device=image.device) % (2 * n)
        image = image.index_select(axis, torch.where(index < n, index, 2 * n - 1 - index))
    return image


def _weights(starts: Sequence[int], size: int, total: int) -> list[Tensor]:
    """Weight of each window along one axis: raised cosine over what neighbours share, summing to one."""
    ramps = []
    for i, start in enumerate(starts):
        weight = torch.ones(size)
        position = torch.arange(size) + 0.5
        if i > 0 and (shared := starts[i - 1] + size - start) > 0:
            weight = weight * torch.sin(0.5 * math.pi * (position / shared).clamp(max=1)) ** 2
        if i + 1 < len(starts) and (shared := start + size - starts[i + 1]) > 0:
            weight = weight * torch.sin(0.5 * math.pi * ((size - position) / shared).clamp(max=1)) ** 2
        ramps.append(weight)
    sums = torch.zeros(total)
    for start, weight in zip(starts, ramps, strict=True):
        sums[start : start + size] += weight
    return [weight / sums[start : start + size] for start, weight in zip(starts, ramps, strict=True)]


def _blend(
    parts: Tensor,
    places: Sequence[tuple[int, int]],
    size: Sequence[int],
    total: Sequence[int],
    weights: Sequence[list[Tensor]],
    stride: int,
    batch: int,
) -> Tensor:
    """Weighted sum of windows, on the lattice of `stride` output pixels; 0 where no window lies."""
    counts = [len(w) for w in weights]
    out = parts.new_zeros(batch, parts.shape[1], *(n // stride for n in total))
    h, w = (n // stride for n in size)
    for index, ((y, x), part) in enumerate(zip(places, parts.view(len(places), batch, *parts.shape[1:]), strict=True)):
        # Averaged over each map pixel, so that the weights of coarse maps still sum to one.
        rows, columns = (weights[a][i].view(-1, stride).mean(1).to(parts) for a, i in ((0, index // counts[1]), (1, index % counts[1])))
        out[:, :, y // stride : y // stride + h, x // stride : x // stride + w] += part * rows[:, None] * columns
    return out


class _Windows:
    """Tells a recorder, if one is at work, that the batch consists of windows, and puts what it kept back together."""

    def __init__(
        self,
        places: list[tuple[int, int]],
        low: Sequence[int],
        size: tuple[int, int],
        total: Sequence[int],
        batch: int,
        weights: Sequence[list[Tensor]],
    ) -> None:
        self.places, self.low, self.size, self.total, self.batch, self.weights = places, low, size, total, batch, weights
        self.recorder = active()

    def __enter__(self) -> None:
        if (recorder := self.recorder) is None:
            return
        self.before = (recorder.query, recorder.item, set(recorder.found))
        self.nearest = 0
        if recorder.query is not None:
            self.nearest = _nearest(self.places, self.low, self.size, recorder.query)
            place = self.places[self.nearest]
            recorder.query = tuple(q + n - p for q, n, p in zip(recorder.query, self.low, place, strict=True))
            recorder.item += self.nearest * self.batch

    def __exit__(self, *_: object) -> None:
        if (recorder := self.recorder) is None:
            return
        recorder.query, recorder.item, known = self.before
        for name in recorder.found.keys() - known:
            recorder.found[name] = self._whole(recorder.found[name])

    def _whole(self, kept: Recorded) -> Recorded:
        if kept.values.ndim == 3 and len(kept.values) == len(self.places) * self.batch:  # a table: that of the window asked about
            return Recorded(kept.values[self.nearest * self.batch : (self.nearest + 1) * self.batch])
        if kept.values.ndim == 4 and len(kept.values) == len(self.places) * self.batch and not kept.offset:
            values = _blend(kept.values, self.places, self.size, self.total, self.weights, kept.stride, self.batch)
            return Recorded(values, kept.stride, tuple(-n for n in self.low))
        if kept.values.ndim == 4 and self.recorder is not None and self.recorder.query is not None:
            origin = kept.offset or (0, 0)
            y, x = self.places[self.nearest]
            return Recorded(kept.values, kept.stride, (origin[0] + y - self.low[0], origin[1] + x - self.low[1]))
        return kept
