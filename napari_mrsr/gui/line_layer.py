"""The profile line in napari's canvas: a line in world mm that is the session's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_mrsr.errors import InputError
from napari_mrsr.gui.session import Line
from napari_mrsr.gui.session_shape import SMALLEST, SessionShape

NEAR = 1.0
"""mm from the plane on screen within which a line is shown on it."""


class LineLayer(SessionShape):
    """The profile line; a line that is moved on another plane keeps its coordinates across that plane."""

    VALUE, LAYER, SHAPE, TOOL, COLOUR = "line", "profile line", "line", "direct", "#00e5ff"

    def _shown(self, value: Line) -> list[NDArray[np.float64]]:
        ends, (across, at) = np.array(value), self._across()
        if not ends[:, across].min() - NEAR <= at <= ends[:, across].max() + NEAR:
            return []
        ends[:, across] = at
        return [ends]

    def _meant(self, corners: NDArray[np.float64], fresh: bool) -> Line:
        ends, former = corners[[0, -1]], self._session.line
        if former is not None and not fresh:
            across, _ = self._across()
            ends[:, across] = np.array(former)[:, across]
        if np.linalg.norm(ends[1] - ends[0]) < SMALLEST:
            raise InputError("The line is too short.")
        (x0, y0, z0), (x1, y1, z1) = ends.tolist()
        return (x0, y0, z0), (x1, y1, z1)
