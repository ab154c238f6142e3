"""What can be seen of a training while it runs: one slice of the first validation volume, predicted anew at every validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mrsr.volume import Volume


@dataclass(frozen=True, eq=False)
class Slab:
    """The slice of a validation case that is shown.

    Attributes
    ----------
    part : int
        Which block or slice of the case.
    axis : {0, 1, 2}
        World axis across it.
    index : int or None
        Where along that axis it is cut from a block; None where the part is a slice already.
    affine : (4, 4) array
        Voxel index to mm of the slab, one voxel thick along `axis`.
    """

    part: int
    axis: int
    index: int | None
    affine: NDArray[np.float64]

    @classmethod
    def of(cls, volume: Volume, axis: int, at: int, *, part: int = 0, whole: bool = True) -> Slab:
        """Slab of a volume: slice `at` across `axis`; not `whole` where the case holds that slice alone."""
        block = [slice(at, at + 1) if a == axis else slice(None) for a in range(3)]
        return cls(part, axis, at if whole else None, volume.crop(block).affine)

    def cut(self, parts: NDArray[Any]) -> NDArray[np.float32]:
        """The slab of a case's (P, ...) array, as (X, Y, Z) with one voxel along the axis."""
        part = parts[self.part]
        plane = part if self.index is None else np.take(part, self.index, self.axis)
        return np.ascontiguousarray(np.expand_dims(plane, self.axis), np.float32)


@dataclass(frozen=True, eq=False)
class Preview:
    """What every prediction is held against.

    Attributes
    ----------
    name : str
        Validation volume.
    slab : Slab
    truth, cubic : (X, Y, Z) arrays
        Scanner units, one voxel thick.
    data_range : float
        Range R of the volume.
    """

    name: str
    slab: Slab
    truth: NDArray[np.float32]
    cubic: NDArray[np.float32]
    data_range: float
