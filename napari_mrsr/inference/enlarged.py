"""A low-resolution volume on the fine lattice, interpolated where it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mrsr.degradation import apply_along_axes

Matrix = NDArray[np.float32] | None


class Enlarged:
    """Indexed like the interpolated array, block by block, so that the whole of it is never held.

    Parameters
    ----------
    data : (x, y, z) array
        Low resolution.
    matrices : three (fine, coarse) float32 arrays or None
        Interpolation along each axis; None where an axis stays as it is.
    """

    def __init__(self, data: NDArray[Any], matrices: Sequence[Matrix]) -> None:
        self._data, self._matrices = data, tuple(matrices)

    def __getitem__(self, block: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        cut = tuple(part if matrix is None else slice(None) for part, matrix in zip(block, self._matrices, strict=True))
        rows = [None if matrix is None else matrix[part] for part, matrix in zip(block, self._matrices, strict=True)]
        return np.asarray(apply_along_axes(self._data[cut].astype(np.float32), rows))

    def flipped(self, axes: tuple[int, ...]) -> Enlarged:
        """The same turned round along some axes."""
        turned = [None if m is None else np.ascontiguousarray(m[::-1, ::-1]) if axis in axes else m for axis, m in enumerate(self._matrices)]
        return Enlarged(np.flip(self._data, axes), turned)
