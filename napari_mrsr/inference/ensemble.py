"""Self-ensemble: a network's answers to a volume and its mirror images, averaged, and how far they part."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mrsr.inference.options import Job
from napari_mrsr.networks import MapInfo

SPREAD = MapInfo(
    "ensemble-spread",
    "Self-ensemble spread",
    "Standard deviation in scanner units between the network's answers to the volume and its mirror images, turned back. Where it is high the "
    "network is not sure. It is no error bar: errors are several times larger, and what the network has learned wrongly it repeats every time.",
)


def mirrors(job: Job, *, planes: bool) -> list[tuple[int, ...]]:
    """Sets of axes to turn round, none first: all combinations of the axes that the network sees.

    Parameters
    ----------
    job : Job
    planes : bool
        Whether the network sees slices; the order of slices says nothing to it.
    """
    seen = sorted({axis for axis in range(3) for stack in job.stacks if axis != stack}) if planes else [0, 1, 2]
    return [axes for count in range(len(seen) + 1) for axes in combinations(seen, count)]


def mirrored_job(job: Job, axes: tuple[int, ...]) -> Job:
    """The same run on a volume turned round along some axes.

    Samples that lie symmetrically (voxel edges coincide) stay in place; those of a k-space crop move by whole fine voxels, as the grid then says.
    """
    x, y, z = (slice(n - b.stop, n - b.start) if i in axes else b for i, (n, b) in enumerate(zip(job.grid.fine_shape, job.block, strict=True)))
    return replace(job, grid=job.grid.mirrored(axes), block=(x, y, z))


class Ensemble:
    """Running mean and spread of images of one shape; holds two of them, however many are added.

    Attributes
    ----------
    mean : (X, Y, Z) float32 array
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean: NDArray[np.float32] = np.zeros(shape, np.float32)
        self._squares: NDArray[np.float32] = np.zeros(shape, np.float32)
        self._count = 0

    def add(self, image: NDArray[Any]) -> None:
        """Count one more image in (Welford)."""
        self._count += 1
        change = image - self.mean
        self.mean += change / np.float32(self._count)
        change *= image - self.mean
        self._squares += change

    @property
    def spread(self) -> NDArray[np.float32]:
        """Standard deviation over the images, voxel by voxel."""
        return np.asarray(np.sqrt(self._squares / np.float32(self._count)))
