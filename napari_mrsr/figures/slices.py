"""Cutting volumes into flat pictures with their place in millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.fit import Fit, Mask, extents, is_empty
from napari_mrsr.evaluation.maps import physical_gradient
from napari_mrsr.planes import PLANES, Picture, Plane, Rect, edge_letters
from napari_mrsr.volume import AXES, Box, Volume

Show = Literal["radiological", "neurological"]
Array = NDArray[Any]

MARGIN_MM = 5.0
ZOOM_SHARE = 0.3


@dataclass(frozen=True, eq=False)
class Cut:
    """One slice through the common block of a comparison.

    Attributes
    ----------
    reference : Volume
        Cut to the common block; its voxel frame is the picture's.
    mask : (X, Y, Z) bool array
        Foreground of the block.
    plane : Plane
        Which way it is cut.
    index : int
        Slice of the block.
    show : {"radiological", "neurological"}
        radiological: the patient's right, or front, is on the left of the picture.
    """

    reference: Volume
    mask: Mask
    plane: Plane
    index: int
    show: Show

    @classmethod
    def choose(cls, reference: Volume, mask: Mask, plane: str, position: float | None, show: str) -> Cut:
        """Find the slice at a position in mm, or the one with the most foreground.

        Raises
        ------
        InputError
            Unknown plane or side convention, position outside the volume.
        """
        if plane not in PLANES:
            raise InputError(f"Unknown plane {plane!r}: use one of {', '.join(PLANES)}.")
        if show not in get_args(Show):
            raise InputError(f"Unknown side convention {show!r}: use one of {', '.join(get_args(Show))}.")
        chosen = PLANES[plane]
        index = int(np.argmax(mask.sum((chosen.across, chosen.up)))) if position is None else _slice_at(reference, chosen, position)
        return cls(reference, mask, chosen, index, "radiological" if show == "radiological" else "neurological")

    @property
    def edge_letters(self) -> tuple[str, str, str, str]:
        """Anatomical letters at the left, right, bottom and top of the picture."""
        return edge_letters(self.plane, self.show == "radiological")

    @property
    def position(self) -> float:
        """World coordinate in mm along the slice axis at the middle of the slice."""
        middle = (np.array(self.reference.shape) - 1) / 2
        middle[self.plane.slice_axis] = self.index
        row = self.reference.affine[self.plane.slice_axis]
        return float(row[:3] @ middle + row[3])

    def flat(self, array: Array) -> Array:
        """Slice of an array on the block's lattice, (across, up)."""
        return np.asarray(np.take(array, self.index, self.plane.slice_axis))

    def picture(self, array: Array) -> Picture:
        """Slice of an array on the block's lattice."""
        return Picture(self.flat(array), self._edges((0, 0), (array.shape[self.plane.across], array.shape[self.plane.up])))

    def foreign(self, volume: Volume) -> Picture:
        """Slice of a volume on another lattice, not interpolated.

        Where its axes are parallel to the reference's, these are its own voxels at their own size and place. Otherwise the value of the
        nearest voxel at every voxel of the reference.

        Raises
        ------
        InputError
            If it does not overlap the block.
        """
        fit = Fit.of(self.reference, volume)
        if is_empty(fit.block(self.reference.shape)):
            raise InputError(f"{self.reference.name} and {volume.name} do not overlap: {extents(self.reference, volume)}.")
        return self._own_voxels(volume, fit) if fit.straight else self._nearest(volume, fit)

    def field_of_view(self) -> Rect:
        """Foreground of the slice with a margin; the whole slice where it has none."""
        inside = self.flat(self.mask)
        if not inside.any():
            return self._edges((0, 0), inside.shape)
        margin = np.ceil(MARGIN_MM / np.array(self.spacing)).astype(int)
        voxels = np.argwhere(inside)
        lower, upper = np.maximum(voxels.min(0) - margin, 0), np.minimum(voxels.max(0) + 1 + margin, inside.shape)
        return self._edges(lower, upper)

    def zoom(self, box: Box | None) -> Rect:
        """Rectangle of a box in world mm, or the square of highest mean gradient near the middle of the foreground.

        Raises
        ------
        InputError
            If the box lies outside the block.
        """
        if box is not None:
            block = box.to_slices(self.reference)
            across, up = block[self.plane.across], block[self.plane.up]
            return self._edges((across.start, up.start), (across.stop, up.stop))
        view = self.field_of_view()
        side = ZOOM_SHARE * min(view.width, view.height)
        size = np.clip(np.round(side / np.array(self.spacing)), 1, self.flat(self.mask).shape).astype(int)
        lower = self._busiest(size)
        return self._edges(lower, lower + size)

    @property
    def spacing(self) -> tuple[float, float]:
        """Voxel size across and upwards, mm."""
        sizes = self.reference.voxel_size
        return sizes[self.plane.across], sizes[self.plane.up]

    def _busiest(self, size: NDArray[np.int_]) -> NDArray[np.int_]:
        """First voxel of the block of that size with the highest mean gradient, its middle in the central third of the foreground."""
        inside = self.flat(self.mask)
        if not inside.any():
            return (np.array(inside.shape) - size) // 2
        gradient = physical_gradient(self.flat(self.reference.data), self.spacing)
        # Capped, so that a rich texture beats a single bright edge of fat or air.
        capped = np.minimum(gradient, 3 * gradient[inside].mean())
        mean = ndimage.uniform_filter(capped, tuple(size))
        voxels = np.argwhere(inside)
        first, last = voxels.min(0), voxels.max(0)
        third = (last - first + 1) // 3
        central = tuple(slice(int(a + t), int(max(b - t, a + t)) + 1) for a, b, t in zip(first, last, third, strict=True))
        best = np.array(np.unravel_index(np.argmax(mean[central]), mean[central].shape)) + [s.start for s in central]
        return np.clip(best - size // 2, 0, np.array(inside.shape) - size)

    def _edges(self, lower: Any, upper: Any) -> Rect:
        (a, b), (c, d), (x, y) = lower, upper, self.spacing
        return Rect(float((a - 0.5) * x), float((c - 0.5) * x), float((b - 0.5) * y), float((d - 0.5) * y))

    def _own_voxels(self, volume: Volume, fit: Fit) -> Picture:
        inverse = np.linalg.inv(fit.matrix)
        step, start = np.diag(inverse)[:3], inverse[:3, 3]
        axis, plane = self.plane.slice_axis, self.plane
        index = int(np.clip(np.round((self.index - start[axis]) / step[axis]), 0, volume.shape[axis] - 1))
        lower, upper = start - step / 2, start + step * (np.array(volume.shape) - 0.5)
        # Positions in reference voxels; `_edges` takes the lower edge of a voxel, half a voxel below its centre.
        place = self._edges(lower[[plane.across, plane.up]] + 0.5, upper[[plane.across, plane.up]] + 0.5)
        return Picture(np.take(volume.data, index, axis), place)

    def _nearest(self, volume: Volume, fit: Fit) -> Picture:
        ranges = [np.arange(n) for n in self.reference.shape]
        ranges[self.plane.slice_axis] = np.array([self.index])
        grid = np.stack(np.meshgrid(*ranges, indexing="ij"), -1) @ fit.matrix[:3, :3].T + fit.matrix[:3, 3]
        index = np.round(grid).astype(int)
        inside = ((index >= 0) & (index < volume.shape)).all(-1)
        x, y, z = np.moveaxis(np.clip(index, 0, np.array(volume.shape) - 1), -1, 0)
        values = np.where(inside, volume.data[x, y, z], 0)
        return Picture(np.take(values, 0, self.plane.slice_axis), self._edges((0, 0), np.take(values, 0, self.plane.slice_axis).shape))


def _slice_at(reference: Volume, plane: Plane, position: float) -> int:
    middle = (np.array(reference.shape) - 1) / 2
    middle[plane.slice_axis] = 0
    row = reference.affine[plane.slice_axis]
    first = float(row[:3] @ middle + row[3])
    step, count = float(row[plane.slice_axis]), reference.shape[plane.slice_axis]
    index = (position - first) / step
    if not -0.5 <= index <= count - 0.5:
        last = first + step * (count - 1)
        where = f"{AXES[plane.slice_axis]} = {position:g} mm"
        raise InputError(f"No {plane.name} slice of {reference.name} lies at {where}: its slices run from {first:.1f} to {last:.1f} mm.")
    return int(np.clip(round(index), 0, count - 1))
