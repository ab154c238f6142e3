"""Looking into a network at a chosen voxel: its attention, tables, and dense maps of one slice, without a whole run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mrsr.errors import InputError, RunError
from napari_mrsr.inference.feed import spread
from napari_mrsr.inference.options import RunOptions
from napari_mrsr.inference.setup import Setup, set_up
from napari_mrsr.inference.tiles import Tile, make_planes, make_tiles
from napari_mrsr.networks import MapInfo, get_architecture
from napari_mrsr.networks.blocks.recording import Recorded, Recorder
from napari_mrsr.volume import AXES, Volume


class Probe:
    """A network made ready once and asked about many voxels.

    Parameters
    ----------
    volume : Volume
        Low-resolution input, scanner units.
    options : RunOptions
        As of a run; `roi`, `tile` and `maps` play no part, and attention is that within windows.
    reference : Volume, optional
        Second contrast.
    cancelled : callable
        Asked during a registration.

    Raises
    ------
    InputError
        As :func:`napari_mrsr.inference.run`.
    """

    def __init__(self, volume: Volume, options: RunOptions, reference: Volume | None = None, cancelled: Callable[[], bool] = lambda: False) -> None:
        self.setup: Setup = set_up(volume, options.model_copy(update={"roi": None}), reference, None, cancelled)
        self.name, self._source = volume.name, volume.source
        self._tables: dict[str, MapInfo] = {info.name: info for info in self.setup.maps()}

    def look(self, name: str, at: Sequence[float], channel: int | None = None, stack: int | None = None) -> Volume:
        """One internal map at a place.

        Parameters
        ----------
        name : str
            A map that the network offers (:attr:`~napari_mrsr.networks.Architecture.maps`).
        at : three floats
            World position in mm (RAS): the voxel that attends (``query`` maps), or whose slice or surroundings are shown.
        channel : int, optional
            Channel or head; None: mean (absolute) value over all.
        stack : {0, 1, 2}, optional
            Thick slices: which orientation's planes to look into; None: the first.

        Returns
        -------
        Volume
            In the input's axis order.

            ``query`` maps: on the lattice of what is attended to, in one slice where the network sees slices. ``dense`` maps: the slice (or the
            block around the voxel) on the result's lattice. ``table`` maps: rows and columns as a (rows, columns, 1) volume without a place.
            Its record tells map, voxel and channel.

        Raises
        ------
        InputError
            If the map is unknown, or the position lies outside the result.
        RunError
            If the network did not show the map.
        """
        self.setup.require_maps((name,), ("dense", "query", "table"))
        info, feed = self._tables[name], self.setup.feed
        voxel = self._voxel(at)
        tile = self._tile(voxel, stack)
        plane = [axis for axis in range(3) if axis != tile.stack]
        origin = feed.origin(tile)
        query = [voxel[a] - o for a, o in zip(plane, origin, strict=True)]
        recorder = Recorder((name,), query, channel, only=True, local=info.kind != "dense")
        model = self.setup.job.card.name
        try:
            feed.look(tile, recorder)
        except (RuntimeError, ValueError, IndexError) as error:
            raise RunError(f"Map {name!r} of {model} could not be computed: {str(error).splitlines()[0]}") from error
        if channel is not None and not recorder.channel_asked:
            raise InputError(f"Map {name!r} of {model} has no channels or heads to choose from; leave the channel out.")
        if name not in recorder.found:
            raise RunError(f"{model} did not show map {name!r} for this input.")
        if not recorder.found[name].values.numel():
            raise InputError(f"Map {name!r} of {model} has no channel or head {channel}; choose a smaller one.")
        record = {"name": name, "title": info.title, "kind": info.kind, "at_mm": [round(float(v), 3) for v in at], "channel": channel}
        if tile.stack is not None:
            record["planes_along"] = AXES[tile.stack]
        kept = recorder.found[name]
        if info.kind == "table":
            volume = self._table(kept)
        else:
            made = self._dense(kept, tile, info) if info.kind == "dense" else self._lattice(kept, tile, info)
            volume = made.replace(source=self._source)
        return volume.replace(name=f"{name} of {self.name} {model}").with_record(map=record, run=self.setup.record())

    def _voxel(self, at: Sequence[float]) -> tuple[int, ...]:
        """Voxel of the whole result that holds a world position."""
        job = self.setup.job
        index = np.linalg.solve(job.affine, [*at, 1.0])[:3]
        voxel = np.floor(index + 0.5).astype(int)
        if (voxel < 0).any() or (voxel >= job.grid.fine_shape).any():
            raise InputError(f"The position ({', '.join(f'{v:.1f}' for v in at)}) mm lies outside the result; choose a voxel inside the image.")
        return tuple(int(v) for v in voxel)

    def _tile(self, voxel: tuple[int, ...], stack: int | None) -> Tile:
        job = self.setup.job
        architecture = get_architecture(job.card.architecture)
        coarse = [min(int(v // s), n - 1) for v, s, n in zip(voxel, job.grid.scale, job.grid.coarse_shape, strict=True)]
        if architecture.tiling == "planes":
            axis = stack if stack in job.stacks else job.stacks[0]
            shape = job.grid.fine_shape if architecture.pre_interpolated else job.grid.coarse_shape
            return make_planes(slice(voxel[axis], voxel[axis] + 1), shape, axis, 1)[0]
        if architecture.tiling == "whole":
            raise InputError(f"{job.card.name} has no internal maps.")
        halo = job.card.halo if job.card.halo is not None else architecture.halo(self.setup.network) or 0
        step = architecture.size_multiple
        block = [slice(c // step * step, min(n, c // step * step + step)) for c, n in zip(coarse, job.grid.coarse_shape, strict=True)]
        return make_tiles(block, job.grid.coarse_shape, [step] * 3, halo, step)[0]

    def _lattice(self, kept: Recorded, tile: Tile, info: MapInfo) -> Volume:
        """A map on its own lattice: pixel i covers output pixels offset + stride i up to the next, or lies on the input's samples."""
        job, feed = self.setup.job, self.setup.feed
        values: NDArray[Any] = kept.values[0, 0].cpu().numpy()
        first = [o + k for o, k in zip(feed.origin(tile), kept.offset or (0,) * values.ndim, strict=True)]
        step, start = np.ones(3), np.zeros(3)
        plane = [axis for axis in range(3) if axis != tile.stack]
        for axis, low in zip(plane, first, strict=True):
            step[axis], start[axis] = kept.stride, low + (kept.stride - 1) / 2 - feed.sample_shift(info, axis)
        if tile.stack is not None:
            values = np.expand_dims(values, tile.stack)
            start[tile.stack] = tile.core[tile.stack].start
        to_fine = np.diag([*step, 1.0])
        to_fine[:3, 3] = start
        return Volume(values, job.affine @ to_fine)

    def _dense(self, kept: Recorded, tile: Tile, info: MapInfo) -> Volume:
        """A dense map on the result's lattice, over the part that the tile covers."""
        feed = self.setup.feed
        block = feed.covers(tile)
        if tile.stack is None:
            size = [b.stop - b.start for b in block]
        else:
            size = [n - o for n, o in zip(feed.plane(tile.stack), feed.origin(tile), strict=True)]
        data = feed.to_fine(spread(kept, size, feed.sampled(info)), tile)
        affine = self.setup.job.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.array([b.start for b in block], float)
        return Volume(data, affine)

    @staticmethod
    def _table(kept: Recorded) -> Volume:
        return Volume(np.atleast_2d(kept.values[0].cpu().numpy())[..., None], np.eye(4))
