"""What the field does with a network and a volume: loops over patches or slices, and MONAI's sliding windows."""

from __future__ import annotations

from typing import Any

import numpy as np

PATCH, MARGIN = 26, 3
"""Patches of CFTN's paper, and half of what they overlap by."""
ROI = {"monai": 32, "monai best": 64}
AT_ONCE = {"monai": 1, "monai best": 4}
OVERLAP = 0.25


def network(feed: Any, out: np.ndarray, batch: int) -> None:
    """The network alone: a volume in one piece, slices in groups of `batch`."""
    shape = shape_of(feed)
    if _stack(feed) is None:
        out[...] = feed.run(_tile(shape))[""]
    else:
        _planes(feed, out, shape, batch)


def plain(feed: Any, out: np.ndarray) -> None:
    """The loop of the papers' code: slice by slice, or patch by patch."""
    from napari_mrsr.inference.tiles import make_tiles

    shape = shape_of(feed)
    if _stack(feed) is not None:
        _planes(feed, out, shape, 1)
        return
    scale = feed.job.scale
    for tile in make_tiles([slice(0, n) for n in shape], shape, [PATCH - 2 * MARGIN] * 3, MARGIN, 1):
        inside = (slice(scale * (c.start - p.start), scale * (c.stop - p.start)) for c, p in zip(tile.core, tile.padded, strict=True))
        out[tuple(slice(scale * s.start, scale * s.stop) for s in tile.core)] = feed.run(tile)[""][tuple(inside)]


def monai(feed: Any, out: np.ndarray, method: str, window: int | None = None) -> None:
    """MONAI's sliding-window inference; a reference of finer pixels goes in as channels, as its windows share one lattice.

    Slices are cut into windows of the network's own size, or of `window` pixels where it was trained on patches; its best is whole slices.
    """
    import torch
    import torch.nn.functional as F
    from monai.inferers import sliding_window_inference

    shape, tile = shape_of(feed), _tile(shape_of(feed), _stack(feed))
    low, reference, _, scaling = feed._inputs(tile)
    net = feed.network
    if low.ndim == 5:
        roi = [min(ROI[method], n) for n in shape]
    else:
        side = getattr(net, "size", None)
        fine = (side, side) if isinstance(side, int) else side
        ratio = 1 if feed.architecture.pre_interpolated else feed.job.scale
        asked = window if method == "monai" and window else None
        roi = [min(n, fine[i] // ratio) if fine else min(n, asked or n) for i, n in enumerate(low.shape[2:])]
    factor = 1 if reference is None else reference.shape[-1] // low.shape[-1]
    joined = low if reference is None else torch.cat([low, F.pixel_unshuffle(reference, factor)], 1)

    def predict(windows: Any) -> Any:
        second = F.pixel_shuffle(windows[:, 1:], factor) if reference is not None else None
        with feed.computing():
            return net(windows[:, :1], reference=second, noise_level=0.0).float()

    with torch.inference_mode():
        done = sliding_window_inference(joined, roi, AT_ONCE[method], predict, overlap=OVERLAP)
        out[...] = feed.to_fine(scaling.output(done[:, :1]), tile)


def _stack(feed: Any) -> int | None:
    return feed.job.stacks[0] if feed.architecture.tiling == "planes" else None


def shape_of(feed: Any) -> tuple[int, int, int]:
    """Lattice that goes into the network."""
    grid = feed.job.grid
    return grid.fine_shape if feed.architecture.pre_interpolated else grid.coarse_shape


def _tile(shape: tuple[int, int, int], stack: int | None = None) -> Any:
    from napari_mrsr.inference.tiles import Tile

    whole = tuple(slice(0, n) for n in shape)
    return Tile(whole, whole, stack)


def _planes(feed: Any, out: np.ndarray, shape: tuple[int, int, int], count: int) -> None:
    from napari_mrsr.inference.tiles import make_planes

    stack = _stack(feed)
    for tile in make_planes(slice(0, shape[stack]), shape, stack, count):
        index = [slice(None)] * 3
        index[stack] = tile.core[stack]
        out[tuple(index)] = feed.run(tile)[""]
