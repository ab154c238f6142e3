"""Between volumes and networks: blocks and slices in the network's units in, pieces of the fine lattice in scanner units out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_mrsr.inference.enlarged import Enlarged
from napari_mrsr.inference.ensemble import mirrored_job
from napari_mrsr.inference.options import Job
from napari_mrsr.inference.process import free_memory
from napari_mrsr.inference.tiles import Tile
from napari_mrsr.intensity import intensity_range
from napari_mrsr.networks import MapInfo, create, get_architecture
from napari_mrsr.networks.blocks.recording import Recorded, Recorder
from napari_mrsr.volume import Volume

Block = tuple[slice, slice, slice]


class Feed:
    """Runs a network on tiles of a volume.

    Parameters
    ----------
    network : Module
        On `device`, in eval mode.
    volume : Volume
        Low resolution, scanner units.
    job : Job
    device : torch.device
    reference : (X, Y, Z) float32 array, optional
        Second contrast on the result's whole lattice, scanner units.
    """

    def __init__(self, network: nn.Module, volume: Volume, job: Job, device: torch.device, reference: NDArray[np.float32] | None = None) -> None:
        self.network, self.job, self.device, self._home = network, job, device, device
        self.precision = "float32"
        self.architecture = get_architecture(job.card.architecture)
        self._input: NDArray[Any] | Enlarged = _interpolated(volume, job) if self.architecture.pre_interpolated else volume.data
        self._reference, self._reference_low, self._reference_range = reference, None, 1.0
        if reference is not None:
            self._reference_low = job.protocol.operator(job.grid).image(reference)
            self._reference_range = intensity_range(reference)

    def mirrored(self, axes: tuple[int, ...]) -> Feed:
        """The same for the volume (and reference) turned round along some axes: the network sees mirror images, the lattices stay in place."""
        other = copy(self)
        other.job = mirrored_job(self.job, axes)
        other._input = self._input.flipped(axes) if isinstance(self._input, Enlarged) else np.flip(self._input, axes)
        if self._reference is not None and self._reference_low is not None:
            other._reference, other._reference_low = np.flip(self._reference, axes), np.flip(self._reference_low, axes)
        return other

    def move(self, device: torch.device) -> None:
        """Go on on another device, in float32: what was tried holds for the old one."""
        self.network.to(device)
        self.precision = "float32"
        self.device = self._home = device

    def leave_device(self) -> None:
        """Take the network out of the device's memory for a while."""
        self._home = self.device
        if self.device.type != "cpu":
            self.network.to("cpu")
            free_memory(self.device)

    def return_to_device(self) -> None:
        """Come back after :meth:`leave_device`."""
        self.network.to(self._home)

    def run(self, tile: Tile, recorder: Recorder | None = None) -> dict[str, NDArray[np.float32]]:
        """Super-resolve a tile.

        Parameters
        ----------
        tile : Tile
        recorder : Recorder, optional
            Dense maps it asks for are delivered too.

        Returns
        -------
        dict of arrays
            ``""``: the result in scanner units; others: maps by name. All cover :meth:`covers` of the tile.
        """
        return self.run_batch([tile], recorder)[0]

    def run_batch(self, tiles: Sequence[Tile], recorder: Recorder | None = None) -> list[dict[str, NDArray[np.float32]]]:
        """Super-resolve tiles of one size together; see :meth:`run`. Stacks of planes go one at a time: they are batches themselves."""
        prepared = [self._inputs(tile) for tile in tiles]
        sharp = [p[1] for p in prepared if p[1] is not None]
        lr, reference = torch.cat([p[0] for p in prepared]), torch.cat(sharp) if sharp else None
        level, counts = prepared[0][2], [len(p[0]) for p in prepared]
        with torch.inference_mode():
            with recorder or nullcontext(), self.computing():
                y = self.network(lr, reference=reference, noise_level=level).float()
            images = [p[3].output(part[:, :1]) for p, part in zip(prepared, torch.split(y, counts), strict=True)]
            pieces = [{"": self.to_fine(image, tile)} for image, tile in zip(images, tiles, strict=True)]
            infos = {info.name: info for info in self.architecture.maps(self.network)} if recorder else {}
            for name, kept in recorder.found.items() if recorder else ():
                shown = torch.split(spread(kept, y.shape[2:], self.sampled(infos[name])), counts)
                for piece, part, tile in zip(pieces, shown, tiles, strict=True):
                    piece[name] = self.to_fine(part, tile)
        return pieces

    def look(self, tile: Tile, recorder: Recorder) -> None:
        """Run the network on a tile only for what `recorder` asks."""
        lr, reference, level, _ = self._inputs(tile)
        with torch.inference_mode(), recorder, self.computing():
            self.network(lr, reference=reference, noise_level=level)

    def computing(self) -> AbstractContextManager[Any]:
        """Context of the network's precision."""
        return nullcontext() if self.precision == "float32" else torch.autocast(self.device.type, getattr(torch, self.precision))

    def covers(self, tile: Tile) -> Block:
        """Fine voxels that a tile's pieces cover."""
        x, y, z = (self._fine(part, axis) for axis, part in enumerate(tile.padded))
        return x, y, z

    def sampled(self, info: MapInfo) -> bool:
        """Whether a map's values lie on the input's samples at pixel ``stride i``, where a k-space crop leaves them, not on blocks of pixels."""
        return info.on == "input" and self.job.grid.alignment == "kspace" and not self.architecture.pre_interpolated

    def sample_shift(self, info: MapInfo, axis: int) -> float:
        """Fine voxels from the middle of an input pixel's block down to its sample."""
        return (self.job.grid.scale[axis] - 1) / 2 if self.sampled(info) else 0.0

    def origin(self, tile: Tile) -> tuple[int, ...]:
        """Fine voxel of the network's output pixel 0: (row, column) of slices, or (x, y, z)."""
        if tile.stack is None:
            return tuple(part.start for part in self.covers(tile))
        return tuple(shift - scale * (shift > 0) for shift, scale in self._shifts(tile.stack))

    def _inputs(self, tile: Tile) -> tuple[Tensor, Tensor | None, Any, Any]:
        for part in self.architecture.attention(self.network):
            part.start = tuple(s.start for s in tile.padded)
        lr = self._tensor(self._input, tile.padded, tile.stack)
        scaling = self.architecture.scaling(self.network, lr, self.job.gain)
        x, reference = scaling.lr(lr), None
        if self._reference is not None and self._reference_low is not None:
            low = self._tensor(self._reference_low, tile.padded, tile.stack)
            sharp = self._tensor(self._reference, self.covers(tile), tile.stack)
            reference = self.architecture.scaling(self.network, low, self._reference_range).target(sharp)
        if tile.stack is not None:
            shifts = self._shifts(tile.stack)
            x = _pad(x, [(int(s > 0), 0) for s, _ in shifts])
            if reference is not None:
                reference = _pad(reference, [(scale - s, s) if s else (0, 0) for s, scale in shifts])
        return x, reference, scaling.level(self.job.noise_sigma), scaling

    def _tensor(self, data: NDArray[Any] | Enlarged, block: Block, stack: int | None) -> Tensor:
        """(1, 1, X, Y, Z), or (planes, 1, H, W) of a stack."""
        cut = data[block]
        cut = cut[None, None] if stack is None else np.moveaxis(cut, stack, 0)[:, None]
        # A copy: what networks are given may lie in memory that others only lend.
        return torch.from_numpy(np.array(cut, np.float32, order="C")).to(self.device)

    def to_fine(self, y: Tensor, tile: Tile) -> NDArray[np.float32]:
        """The network's output lattice cut to the fine voxels that the tile covers, as a block of the volume."""
        if tile.stack is None:
            return y[0, 0].float().cpu().numpy()
        sizes = [part.stop - part.start for axis, part in enumerate(self.covers(tile)) if axis != tile.stack]
        for axis, ((shift, scale), size) in enumerate(zip(self._shifts(tile.stack), sizes, strict=True), start=2):
            y = y.narrow(axis, scale - shift if shift else 0, size)
        return np.moveaxis(y[:, 0].float().cpu().numpy(), 0, tile.stack)

    def _shifts(self, stack: int) -> list[tuple[int, int]]:
        """Fine voxel of LR sample 0 and the factor, per axis of a plane.

        Networks put LR sample 0 onto output pixel 0; a k-space crop leaves it there only for even sizes (NETWORKS 0.1). Elsewhere one more LR
        row goes in at the low end, and the output is cut where the lattice begins.
        """
        grid = self.job.grid
        axes = [axis for axis in range(3) if axis != stack]
        if grid.alignment != "kspace" or self.architecture.pre_interpolated:
            return [(0, 1) for _ in axes]
        return [(round(grid.axes[a].start) if grid.scale[a] != 1 else 0, round(grid.scale[a])) for a in axes]

    def plane(self, stack: int) -> list[int]:
        """Fine shape of the planes stacked along an axis."""
        return [n for axis, n in enumerate(self.job.grid.fine_shape) if axis != stack]

    def _fine(self, part: slice, axis: int) -> slice:
        if self.architecture.pre_interpolated:
            return part
        sampling, scale = self.job.grid.axes[axis], self.job.grid.scale[axis]
        stop = sampling.fine if part.stop == sampling.coarse else round(part.stop * scale)
        return slice(round(part.start * scale), stop)


def spread(kept: Recorded, size: Iterable[int], sampled: bool = False) -> Tensor:
    """A map on the network's output lattice by nearest neighbour: pixels get the value of their block, or of the nearest sample."""
    values = kept.values[:, :1]
    for axis, n in enumerate(size, start=2):
        offset = kept.offset[axis - 2] if kept.offset else 0
        index = (torch.arange(n, device=values.device) - offset + (kept.stride // 2 if sampled else 0)) // kept.stride
        values = values.index_select(axis, index.clamp(0, values.shape[axis] - 1))
    return values


def _interpolated(volume: Volume, job: Job) -> Enlarged:
    cubic: Any = create("cubic", job.scale, protocol=job.protocol.name, slice_axis=job.slice_axis, grid=job.grid)
    return Enlarged(volume.data, [None if m is None else m.astype(np.float32) for m in cubic.matrices(job.grid)])


def _pad(x: Tensor, widths: list[tuple[int, int]]) -> Tensor:
    flat = [w for pair in reversed(widths) for w in pair]
    return F.pad(x, flat, mode="replicate") if any(flat) else x
