"""The region of interest: fitted to a slice or a head, and as a rectangle in napari's canvas."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mrsr.errors import InputError
from napari_mrsr.gui.session import Session
from napari_mrsr.gui.session_shape import SMALLEST, SessionShape
from napari_mrsr.intensity import foreground_mask
from napari_mrsr.planes import Space
from napari_mrsr.volume import AXES, Box, Volume

DEPTH = 40.0
"""Thickness in mm that a first rectangle gets across the slice it is drawn on."""


def slice_box(viewer: Any, volume: Volume) -> Box:
    """Slab of one LR slice around the position on screen, as wide as the volume.

    Raises
    ------
    InputError
        If the slice on screen lies outside the volume.
    """
    axis, space = Session.of(viewer).axis, Space.of(volume)
    position, half = float(space.coordinates(Session.of(viewer).position)[axis]), volume.voxel_size[axis] / 2
    whole = space.box(volume)
    if not whole.lower[axis] <= position <= whole.upper[axis]:
        raise InputError(f"The slice on screen ({AXES[axis]} = {position:.1f} mm) lies outside {volume.name}; move to a slice that shows it.")
    lower, upper = list(whole.lower), list(whole.upper)
    lower[axis], upper[axis] = position - half, position + half
    return replace(whole, lower=tuple(lower), upper=tuple(upper))


def head_box(volume: Volume) -> Box:
    """Box around what is not air.

    Raises
    ------
    InputError
        If the volume has no content.
    """
    places = np.argwhere(foreground_mask(volume.data))
    if not len(places):
        raise InputError(f"{volume.name} holds nothing but air.")
    head = volume.crop([slice(int(a), int(b) + 1) for a, b in zip(places.min(0), places.max(0), strict=True)])
    return Space.of(volume).box(head)


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes share at least :data:`SMALLEST` mm (or all of one that is thinner) on every axis."""
    one, other = one.along(np.eye(3)), other.along(np.eye(3))
    ends = zip(one.lower, one.upper, other.lower, other.upper, strict=True)
    return all(min(b, d) - max(a, c) >= min(SMALLEST, b - a, d - c) - 1e-6 for a, b, c, d in ends)


class RoiLayer(SessionShape):
    """The region of interest, cut by the plane on screen.

    A rectangle drawn anew gets the thickness of the former box across its plane (:data:`DEPTH` at first); moving or resizing it changes two
    axes.
    """

    VALUE, LAYER, SHAPE, TOOL, COLOUR, FACE = "roi", "ROI box", "rectangle", "select", "#f0e442", "#f0e44214"

    def _shown(self, value: Box) -> list[NDArray[np.float64]]:
        (across, at), (first, second) = self._across(), self._session.viewer.dims.displayed
        value = value.along(np.eye(3))
        if not value.lower[across] <= at <= value.upper[across]:
            return []
        corners = np.full((4, 3), at)
        corners[:, first] = [value.lower[first], value.lower[first], value.upper[first], value.upper[first]]
        corners[:, second] = [value.lower[second], value.upper[second], value.upper[second], value.lower[second]]
        return [corners]

    def _meant(self, corners: NDArray[np.float64], fresh: bool) -> Box:
        former, (across, middle) = self._session.roi, self._across()
        former = former.along(np.eye(3)) if former is not None else None
        lower, upper = corners.min(0), corners.max(0)
        if any(upper[axis] - lower[axis] < SMALLEST for axis in range(3) if axis != across):
            raise InputError("The rectangle is too small.")
        if former is not None and not fresh:
            lower[across], upper[across] = former.lower[across], former.upper[across]
        else:
            depth = former.upper[across] - former.lower[across] if former is not None else DEPTH
            lower[across], upper[across] = middle - depth / 2, middle + depth / 2
        box, images = Box(tuple(lower), tuple(upper)), self._images()
        if images and not any(overlap(box, image.box()) for image in images):
            raise InputError("The rectangle lies beside all images.")
        return box

    def _images(self) -> list[Volume]:
        volumes = []
        for layer in self._session.compared():
            with suppress(InputError):
                volumes.append(self._session.volume(layer))
        return volumes
