"""Separable linear operators on volumes: one small matrix per axis, exact adjoint included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def apply_along_axes(array: Any, matrices: Sequence[Any | None]) -> Any:
    """Multiply the last three axes of `array` by one matrix each.

    Parameters
    ----------
    array : numpy array or torch tensor, (..., X, Y, Z)
        Input; matrices must be of the same library (and device).
    matrices : sequence of three (m, n) matrices or None
        None keeps the axis. Reducing axes are taken first, so the work stays small.

    Returns
    -------
    (..., X', Y', Z') array or tensor
    """
    order = sorted((i for i in range(3) if matrices[i] is not None), key=lambda i: matrices[i].shape[0] / matrices[i].shape[1])  # type: ignore[union-attr]
    for axis in order:
        # matmul broadcasts over leading axes in numpy and torch alike.
        array = (array.swapaxes(axis - 3, -1) @ matrices[axis].T).swapaxes(axis - 3, -1)  # type: ignore[union-attr]
    return array


@dataclass(frozen=True, eq=False)
class SeparableOperator:
    """Linear map from a fine to a coarse volume.

    Attributes
    ----------
    matrices : tuple of (coarse, fine) arrays or None
        One per axis; complex for k-space crops.
    """

    matrices: tuple[NDArray[Any] | None, ...]

    def forward(self, fine: NDArray[Any]) -> NDArray[Any]:
        """Coarse volume of a fine one, (X, Y, Z) to (x, y, z); complex where a matrix is."""
        return np.asarray(apply_along_axes(fine, self._as(fine.dtype)))

    def image(self, fine: NDArray[Any]) -> NDArray[Any]:
        """:meth:`forward` as a scanner stores it: the magnitude where it is complex, (X, Y, Z) to real (x, y, z)."""
        coarse = self.forward(fine)
        return np.abs(coarse) if np.iscomplexobj(coarse) else coarse

    def adjoint(self, coarse: NDArray[Any]) -> NDArray[Any]:
        """Exact adjoint, (x, y, z) to (X, Y, Z): ``<A x, y> = <x, A* y>``."""
        return np.asarray(apply_along_axes(coarse, [None if m is None else m.conj().T for m in self._as(coarse.dtype)]))

    def _as(self, dtype: np.dtype[Any]) -> list[NDArray[Any] | None]:
        single = dtype in (np.float32, np.complex64)
        return [None if m is None else m.astype(np.complex64 if m.dtype.kind == "c" else np.float32) if single else m for m in self.matrices]
