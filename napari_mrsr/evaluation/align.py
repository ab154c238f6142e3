"""Bringing candidates onto the reference's lattice: shared by scores, maps and figures, so that all speak of the same voxels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from scipy import ndimage

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.fit import SLACK, Fit, Index, Mask, extents, is_empty, resample
from napari_mrsr.intensity import require_content
from napari_mrsr.volume import Volume

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Aligned:
    """Reference and candidates cut to the block of reference voxels that all of them cover.

    Attributes
    ----------
    reference : Volume
        float32, cut to the block.
    candidates : tuple of Volume
        float32, same shape and affine as `reference`; name and record kept.
    lower, upper : tuple of int
        The block in the whole reference's lattice, upper exclusive.
    covered : (X, Y, Z) bool array or None
        Voxels of the block that every candidate covers; None where that is all of them (always so unless a candidate is rotated).
    resampled : tuple of bool
        Which candidates had to be interpolated.
    """

    reference: Volume
    candidates: tuple[Volume, ...]
    lower: Index
    upper: Index
    covered: Mask | None
    resampled: tuple[bool, ...]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The block as slices of the whole reference."""
        x, y, z = (slice(a, b) for a, b in zip(self.lower, self.upper, strict=True))
        return x, y, z


def align(reference: Volume, candidates: Sequence[Volume]) -> Aligned:
    """Put candidates on the reference's lattice and cut everything to the common block.

    Lattices that coincide up to a whole-voxel offset are only cut, never resampled. Other candidates are interpolated by cubic B-spline
    through world coordinates; only voxels whose centre lies within a candidate's outer voxel edges count.

    Parameters
    ----------
    reference : Volume
        Any scanner units.
    candidates : sequence of Volume
        Same units, on any grid.

    Returns
    -------
    Aligned

    Raises
    ------
    InputError
        If there is no candidate, one holds NaN or infinite values, a volume is constant, or no reference voxel is covered by all.
    """
    if not candidates:
        raise InputError("Nothing to compare: give at least one volume beside the reference.")
    for volume in (reference, *candidates):
        require_finite(volume)
        require_content(volume.data, volume.name)
    fits = [Fit.of(reference, candidate) for candidate in candidates]
    block, covered = _common_block(reference, candidates, fits)
    cut = reference.crop(block)
    moved = tuple(_onto(cut, candidate, fit, block) for candidate, fit in zip(candidates, fits, strict=True))
    return Aligned(
        reference=_single(cut),
        candidates=moved,
        lower=_index(s.start for s in block),
        upper=_index(s.stop for s in block),
        covered=covered,
        resampled=tuple(fit.offset is None for fit in fits),
    )


def resample_onto(reference: Volume, volume: Volume) -> Volume:
    """Put one volume on another's lattice, as :func:`align` does.

    Parameters
    ----------
    reference : Volume
        Gives the lattice.
    volume : Volume
        On any grid that overlaps it.

    Returns
    -------
    Volume
        float32, the block of the reference's lattice that `volume` covers; 0 in voxels of the block that a rotated volume leaves open.

    Raises
    ------
    InputError
        As :func:`align`.
    """
    aligned = align(reference, [volume])
    moved = aligned.candidates[0]
    return moved if aligned.covered is None else moved.replace(data=np.where(aligned.covered, moved.data, np.float32(0)))


def require_finite(volume: Volume) -> None:
    """Refuse NaN and infinite voxels.

    Raises
    ------
    InputError
        If there are any; the text says how many.
    """
    if volume.data.dtype.kind == "f" and not (finite := np.isfinite(volume.data)).all():
        count = finite.size - int(finite.sum())
        raise InputError(f"{volume.name}: {count:,} voxels are NaN or infinite; repair or mask them before comparing.")


def mask_on(reference: Volume, mask: Volume) -> tuple[Mask, bool]:
    """Non-zero voxels of a mask on the reference's whole lattice.

    Parameters
    ----------
    reference : Volume
        Gives the lattice.
    mask : Volume
        On any grid; outside it nothing is masked in.

    Returns
    -------
    (X, Y, Z) bool array, bool
        The mask, and whether it had to be resampled (nearest neighbour through world coordinates).

    Raises
    ------
    InputError
        If the mask holds NaN or infinite values, or no reference voxel lies in it.
    """
    require_finite(mask)
    inside = mask.data != 0
    fit = Fit.of(reference, mask)
    result = np.zeros(reference.shape, bool)
    if fit.offset is not None:
        block = fit.block(reference.shape)
        result[block] = inside[fit.source_block(block)]
    else:
        # The nudge makes voxels halfway between two mask voxels fall on the same side in every storage order.
        offset = fit.matrix[:3, 3] + SLACK
        ndimage.affine_transform(inside.astype(np.uint8), fit.matrix[:3, :3], offset, output=result.view(np.uint8), order=0)
        log.warning("%s: resampled to the grid of %s by nearest neighbour.", mask.name, reference.name)
    if not result.any():
        raise InputError(f"{mask.name}: the mask holds no voxel of {reference.name} ({extents(reference, mask)}).")
    return result, fit.offset is None


def _common_block(reference: Volume, candidates: Sequence[Volume], fits: Sequence[Fit]) -> tuple[tuple[slice, ...], Mask | None]:
    blocks = []
    for candidate, fit in zip(candidates, fits, strict=True):
        blocks.append(fit.block(reference.shape))
        if is_empty(blocks[-1]):
            raise InputError(f"{reference.name} and {candidate.name} do not overlap: {extents(reference, candidate)}.")
    block = tuple(slice(max(b[i].start for b in blocks), min(b[i].stop for b in blocks)) for i in range(3))
    if is_empty(block):
        raise InputError(f"No part of {reference.name} is covered by all candidates: {extents(reference, *candidates)}.")
    masks = [mask for fit in fits if (mask := fit.covers(block)) is not None]
    if not masks:
        return block, None
    covered = reduce(np.logical_and, masks)
    if not covered.any():
        raise InputError(f"No part of {reference.name} is covered by all candidates: {extents(reference, *candidates)}.")
    tight = ndimage.find_objects(covered.view(np.uint8))[0]
    covered = covered[tight]
    block = tuple(slice(s.start + t.start, s.start + t.stop) for s, t in zip(block, tight, strict=True))
    return block, None if covered.all() else covered


def _onto(cut: Volume, candidate: Volume, fit: Fit, block: Sequence[slice]) -> Volume:
    if fit.offset is not None:
        return _single(candidate.replace(data=candidate.data[fit.source_block(block)], affine=cut.affine))
    log.warning("%s: not on the grid of %s; resampled by cubic B-spline.", candidate.name, cut.name)
    matrix = fit.matrix.copy()
    matrix[:3, 3] += matrix[:3, :3] @ [s.start for s in block]
    return candidate.replace(data=resample(candidate.data, matrix, cut.shape, fit.straight), affine=cut.affine)


def _single(volume: Volume) -> Volume:
    return volume.replace(data=np.ascontiguousarray(volume.data, np.float32))


def _index(values: Any) -> Index:
    x, y, z = (int(v) for v in values)
    return x, y, z
