"""A region that was measured: scores of all of it and of its slices, curves over slices, bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.bootstrap import RESAMPLES, resample_slices
from napari_mrsr.evaluation.comparison import Comparison, Interval, Region, Result
from napari_mrsr.evaluation.frame import Frame, require_inside
from napari_mrsr.evaluation.metrics import METRICS, Sum, Values
from napari_mrsr.evaluation.tally import Block, Sums, tally
from napari_mrsr.volume import AXES, Box, Volume

SMALLEST_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Curve:
    """One metric slice by slice.

    Attributes
    ----------
    metric : str
    axis : int
        Array axis across the slices.
    positions : (slices,) array
        World coordinate of the slices' centres along the axis, mm.
    values : (candidates, slices) array
        NaN where a slice holds no voxel of the mask.
    voxels : (slices,) array
        How many voxels count in each.
    """

    metric: str
    axis: int
    positions: Values
    values: Values
    voxels: Values

    def worst(self, candidate: int) -> int | None:
        """Slice in which a candidate scores worst, among those with at least a tenth of the fullest one's voxels; None where none has a score."""
        row = np.where(self.voxels >= SMALLEST_SHARE * self.voxels.max(), self.values[candidate], np.nan)
        if np.isnan(row).all():
            return None
        return int(np.nanargmin(row) if METRICS[self.metric].higher else np.nanargmax(row))


@dataclass(frozen=True, eq=False)
class Measured:
    """Sums of all slices of a region; every question is answered from them at once.

    Attributes
    ----------
    frame : Frame
    block : three slices
        The region in the common block's voxels.
    roi : Box or None
        What it was asked as.
    sums : list of Sums
        One per candidate.
    """

    frame: Frame
    block: Block
    roi: Box | None
    sums: list[Sums]

    @property
    def volume(self) -> Volume:
        """The reference in the region."""
        return self.frame.aligned.reference.crop(self.block)

    def positions(self, axis: int) -> Values:
        """World coordinates along an axis of the centres of its slices, mm."""
        volume = self.volume
        centres = np.tile((np.array(volume.shape) - 1) / 2, (volume.shape[axis], 1))
        centres[:, axis] = np.arange(volume.shape[axis])
        return np.asarray(centres @ volume.affine[axis, :3] + volume.affine[axis, 3])

    def slice_at(self, axis: int, point: Sequence[float]) -> int | None:
        """Slice of the region across an axis in which a world point lies; None outside."""
        inverse = np.linalg.inv(self.volume.affine)
        index = int(np.floor(inverse[axis, :3] @ np.asarray(point, float) + inverse[axis, 3] + 0.5 + 1e-6))
        return index if 0 <= index < self.volume.shape[axis] else None

    def point_in(self, axis: int, index: int, near: Sequence[float]) -> tuple[float, float, float]:
        """World point on a slice across an axis, reached from another point along the voxels' axis."""
        affine = self.volume.affine
        place = np.linalg.inv(affine[:3, :3]) @ (np.asarray(near, float) - affine[:3, 3])
        place[axis] = index
        x, y, z = affine[:3, :3] @ place + affine[:3, 3]
        return float(x), float(y), float(z)

    def slice_near(self, axis: int, position: float) -> int:
        """Slice of the region whose centre lies at a coordinate along its axis, mm.

        Raises
        ------
        InputError
            Outside the region.
        """
        positions, size = self.positions(axis), self.frame.reference.voxel_size[axis]
        index = int(np.argmin(np.abs(positions - position)))
        if abs(positions[index] - position) > size / 2 + 1e-6:
            span = f"{positions.min():.1f} to {positions.max():.1f} mm"
            raise InputError(f"There is no slice at {AXES[axis]} = {position:g} mm: the measured region reaches from {span}.")
        return index

    def scores(self, metric: str, plane: tuple[int, int] | None = None) -> Values:
        """Values of a metric, (candidates,): of the region, or of its slice `plane` = (axis, index)."""
        if plane is not None:
            axis, index = plane
            return self._values(metric, np.stack([sums[axis][index] for sums in self.sums]))
        sums = np.stack([sums[self.frame.slice_axis] for sums in self.sums])
        return self._pool(metric, sums, np.ones((1, sums.shape[1])))[:, 0]

    def curve(self, metric: str, axis: int) -> Curve:
        """A metric in every slice across an axis."""
        values = self._values(metric, np.stack([sums[axis] for sums in self.sums]))
        return Curve(metric, axis, self.positions(axis), values, self.sums[0][axis][:, Sum.VOXELS])

    def intervals(self) -> list[dict[str, Interval]]:
        """Bootstrap intervals of every metric for each candidate; empty where fewer than three slices count."""
        sums = np.stack([sums[self.frame.slice_axis] for sums in self.sums])
        weights = resample_slices(sums[0, :, Sum.BOX_VOXELS] > 0)
        found: list[dict[str, Interval]] = [{} for _ in self.sums]
        if weights is None:
            return found
        for name, metric in METRICS.items():
            drawn = self._pool(name, sums, weights)
            best = metric.best(list(self.scores(name)))
            low, high = np.percentile(drawn, (2.5, 97.5), axis=1, method="nearest")
            for i, entry in enumerate(found):
                behind = None
                if best is not None and best != i and np.isfinite(drawn[[i, best]]).all():
                    behind = np.percentile(drawn[i] - drawn[best], (2.5, 97.5))
                if not np.isnan(drawn[i]).any():
                    ends = {} if behind is None else {"behind_low": float(behind[0]), "behind_high": float(behind[1])}
                    entry[name] = Interval(low=float(low[i]), high=float(high[i]), **ends)
        return found

    def comparison(self, plane: tuple[int, int] | None = None, bootstrap: bool = False) -> Comparison:
        """Scores of the region, or of its slice `plane` = (axis, index), with everything that gives them meaning.

        Raises
        ------
        InputError
            If no voxel of the mask lies there, or no window of SSIM.
        """
        self._require(plane)
        frame = self.frame
        scores = {name: self.scores(name, plane) for name in METRICS}
        if np.isnan(scores["ssim"]).any():
            raise InputError("The region holds no whole window of SSIM; choose a larger one, away from the edge.")
        intervals = self.intervals() if bootstrap and plane is None else [{}] * len(frame.names)
        results = [
            Result(name=name, resampled=moved, intervals=interval, **{key: float(values[i]) for key, values in scores.items()})
            for i, (name, moved, interval) in enumerate(zip(frame.names, frame.aligned.resampled, intervals, strict=True))
        ]
        notes = [interval_note(frame.slice_axis)] if any(intervals) else []
        return Comparison(
            reference=frame.reference.name, convention=frame.rules.name, mask=frame.mask_text, data_range=frame.data_range,
            ssim=frame.ssim_text, region=self._region(plane), notes=notes, results=results,
        )  # fmt: skip

    def _values(self, metric: str, sums: Values) -> Values:
        return METRICS[metric].function(sums, self.frame.data_range)

    def _pool(self, metric: str, sums: Values, weights: Values) -> Values:
        """Values of regions made of weighted slices: (candidates, slices, sums) and (regions, slices) to (candidates, regions)."""
        if metric not in self.frame.rules.slice_mean:
            return self._values(metric, np.einsum("rs,csk->crk", weights, sums))
        values = self._values(metric, sums)
        # Slices without voxels have no value; identical ones have no PSNR.
        counts = np.isfinite(values).astype(float)
        weight = np.einsum("rs,cs->cr", weights, counts)
        with np.errstate(invalid="ignore"):
            mean = np.einsum("rs,cs->cr", weights, np.where(counts > 0, values, 0)) / weight
        nothing = np.where(np.isinf(values).any(1), np.inf, np.nan)[:, None]
        return np.where(weight > 0, mean, nothing)

    def _require(self, plane: tuple[int, int] | None) -> None:
        volume, inside = self.volume, self.frame.inside
        block = self.block if plane is None else _thin(self.block, *plane)
        if plane is not None:
            volume = self.frame.aligned.reference.crop(block)
        where = "slice" if plane is not None else "common region" if self.roi is None else "region"
        require_inside(None if inside is None else inside[block], volume, where)

    def _region(self, plane: tuple[int, int] | None) -> Region:
        frame, aligned = self.frame, self.frame.aligned
        block = self.block if plane is None else _thin(self.block, *plane)
        covered = None if aligned.covered is None else aligned.covered[block]
        size = int(np.prod([s.stop - s.start for s in block]))
        count = size if covered is None else int(covered.sum())
        lower = [low + part.start for low, part in zip(aligned.lower, block, strict=True)]
        upper = [low + part.stop for low, part in zip(aligned.lower, block, strict=True)]
        parts = [_block_text(frame.reference.shape, lower, upper, self.roi)]
        if plane is not None:
            axis, index = plane
            parts = [f"slice {AXES[axis]} = {self.positions(axis)[index]:.1f} mm (voxel {lower[axis]})"]
            parts += [] if self.roi is None else [f"within {_box_text(self.roi)}"]
        if count < size:
            parts.append(f"{size - count:,} of its voxels lie outside a rotated candidate and do not count")
        moved = [name for name, resampled in zip(frame.names, aligned.resampled, strict=True) if resampled]
        if moved:
            parts.append(f"resampled onto the reference's grid by cubic B-spline: {', '.join(moved)}")
        return Region(description="; ".join(parts), lower=lower, upper=upper, fraction=count / float(np.prod(frame.reference.shape)))


def measure(frame: Frame, roi: Box | None = None, *, known: Measured | None = None, stopped: Callable[[], bool] = lambda: False) -> Measured:
    """Measure all candidates in a region.

    Parameters
    ----------
    frame : Frame
        From :func:`~napari_mrsr.evaluation.frame.prepare`.
    roi : Box, optional
        World mm; on an oblique reference the block of voxels that holds it. The whole common block where missing.
    known : Measured, optional
        An earlier measurement, whose sums are taken for the candidates that it holds on the same voxels.
    stopped : callable
        Asked now and then.

    Raises
    ------
    InputError
        If the region lies outside, or holds nothing to measure.
    Cancelled
        If it was stopped.
    """
    volume = frame.aligned.reference
    x, y, z = (slice(0, n) for n in volume.shape)
    block = (x, y, z) if roi is None else roi.to_slices(volume)
    inside = None if frame.inside is None else frame.inside[block]
    require_inside(inside, volume.crop(block), "common region" if roi is None else "region")
    found = _known_sums(frame, block, known) if known is not None else {}
    missing = [i for i in range(len(frame.names)) if i not in found]
    if missing:
        found.update(zip(missing, tally(frame, block, missing, stopped), strict=True))
    return Measured(frame, block, roi, [found[i] for i in range(len(frame.names))])


def _known_sums(frame: Frame, block: Block, known: Measured) -> dict[int, Sums]:
    """Sums of an earlier measurement by index of the candidate; none where anything they rest on differs."""
    former, aligned, before = known.frame, frame.aligned, known.frame.aligned
    same_block = (aligned.lower, aligned.upper, block) == (before.lower, before.upper, known.block)
    same_rules = frame.rules is former.rules and frame.plane == former.plane and frame.data_range == former.data_range
    open_blocks = aligned.covered is None and before.covered is None
    if not (same_block and same_rules and open_blocks and same_volume(frame.reference, former.reference)):
        return {}
    if not np.array_equal(frame.whole_mask, former.whole_mask):  # type: ignore[arg-type]
        return {}
    pairs = ((i, j) for i, new in enumerate(frame.candidates) for j, old in enumerate(former.candidates) if same_volume(new, old))
    return {i: known.sums[j] for i, j in pairs}


def same_volume(a: Volume | None, b: Volume | None) -> bool:
    """Whether two volumes are one array at one place, whatever their names."""
    return a is b or (a is not None and b is not None and a.data is b.data and np.array_equal(a.affine, b.affine))


def interval_note(axis: int) -> str:
    """What the intervals are, in words."""
    return (
        f"[ ]: 95 % bootstrap interval over slices across {AXES[axis]} ({RESAMPLES} resamples, percentiles); neighbouring slices are alike, "
        "so it is too narrow, and it says nothing about other people"
    )


def _thin(block: Block, axis: int, index: int) -> Block:
    x, y, z = (slice(s.start + index, s.start + index + 1) if a == axis else s for a, s in enumerate(block))
    return x, y, z


def _box_text(box: Box) -> str:
    corners = ("(" + ", ".join(f"{v:.1f}" for v in ends) + ")" for ends in (box.lower, box.upper))
    return f"box {' to '.join(corners)} mm" + (f" along axes tilted by {box.tilt:.1f} degrees" if box.tilt > 0.01 else "")


def _block_text(shape: Sequence[int], lower: Sequence[int], upper: Sequence[int], roi: Box | None) -> str:
    whole, size = (" x ".join(map(str, values)) for values in (shape, np.subtract(upper, lower)))
    if roi is not None:
        return f"{_box_text(roi)}, {size} of the reference's {whole} voxels"
    if size == whole:
        return f"whole reference ({whole} voxels)"
    ranges = [f"{axis} {a} to {b - 1}" for axis, a, b, n in zip(AXES, lower, upper, shape, strict=True) if b - a < n]
    return f"{size} of the reference's {whole} voxels ({', '.join(ranges)}; the rest is not covered)"
