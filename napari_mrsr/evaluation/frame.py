"""What scores are measured against: everything that follows from the volumes and the convention before any error is looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from napari_mrsr.degradation import Degradation, get_protocol, recorded_degradation
from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.align import Aligned, align, mask_on
from napari_mrsr.evaluation.conventions import Convention, get_convention
from napari_mrsr.evaluation.metrics import Mask
from napari_mrsr.volume import AXES, Volume


@dataclass(frozen=True, eq=False)
class Frame:
    """Reference and candidates on common voxels, with mask and range of a convention.

    Attributes
    ----------
    reference : Volume
        The whole reference.
    candidates : tuple of Volume
        As they were given.
    aligned : Aligned
        Reference and candidates cut to the block that all cover.
    names : tuple of str
        Names of the candidates, made unique.
    rules : Convention
    whole_mask : (X, Y, Z) bool array or None
        Voxels of the whole reference that count; None for all.
    mask_text : str
    data_range : float
        R in scanner units, of the whole reference.
    plane : int or None
        Axis across the slices in which SSIM and HFEN are measured; None for 3D.
    ssim_text : str
    """

    reference: Volume
    candidates: tuple[Volume, ...]
    aligned: Aligned
    names: tuple[str, ...]
    rules: Convention
    whole_mask: Mask | None
    mask_text: str
    data_range: float
    plane: int | None
    ssim_text: str

    @property
    def slice_axis(self) -> int:
        """Axis across the slices over which means and intervals run."""
        return self.reference.slice_axis() if self.plane is None else self.plane

    @cached_property
    def inside(self) -> Mask | None:
        """Voxels of the common block that count; None for all."""
        covered = self.aligned.covered
        if self.whole_mask is None:
            return covered
        inside = np.ascontiguousarray(self.whole_mask[self.aligned.slices])
        return inside if covered is None else inside & covered


def prepare(reference: Volume, candidates: Sequence[Volume], convention: str = "mrsr-1", mask: Volume | None = None) -> Frame:
    """Put candidates on the reference's lattice and find mask and range.

    Parameters
    ----------
    reference : Volume
        Ground truth in scanner units.
    candidates : sequence of Volume
        Same units; on the reference's lattice, a sub-block of it, or (then resampled, and said so) any other grid.
    convention : str
        A name of :data:`~napari_mrsr.evaluation.conventions.CONVENTIONS`. Mask and range come from the whole reference, so that numbers of
        regions are measured against the same range.
    mask : Volume, optional
        Voxels that count (non-zero) instead of the convention's own.

    Returns
    -------
    Frame

    Raises
    ------
    InputError
        Unknown convention, no candidate, no overlap, NaN, constant volumes, an empty mask, a common block too small for SSIM.
    """
    rules = get_convention(convention)
    aligned = align(reference, candidates)
    whole_mask, mask_text = _mask(reference, rules, mask)
    data_range = rules.data_range(reference.data, whole_mask)
    plane, why = _plane(reference, candidates, rules)
    shape = aligned.reference.shape
    flat = [AXES[i] for i in range(3) if i not in rules.window.axes(shape, plane) and i != plane]
    kind = "3D" if plane is None else f"2D in slices across {AXES[plane]}"
    short = f"; no window along {', '.join(flat)} (fewer than {rules.window.taps} voxels)" if flat else ""
    text = f"{kind}{why}, {rules.window.text}{short}"
    names = tuple(unique_names(c.name for c in candidates))
    return Frame(reference, tuple(candidates), aligned, names, rules, whole_mask, mask_text, data_range, plane, text)


def unique_names(names: Iterable[str]) -> list[str]:
    """Names with `` (2)``, `` (3)`` added where one is taken."""
    taken: list[str] = []
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        candidate = name if seen[name] == 1 else f"{name} ({seen[name]})"
        while candidate in taken:
            seen[name] += 1
            candidate = f"{name} ({seen[name]})"
        taken.append(candidate)
    return taken


def _mask(reference: Volume, rules: Convention, given: Volume | None) -> tuple[Mask | None, str]:
    if given is None:
        return (None if rules.mask is None else rules.mask(reference.data)), rules.mask_text
    inside, resampled = mask_on(reference, given)
    how = ", resampled to the reference's grid (nearest neighbour)" if resampled else ""
    return inside, f"given mask {given.name}{how}"


def _plane(reference: Volume, candidates: Sequence[Volume], rules: Convention) -> tuple[int | None, str]:
    """Axis across the slices of a 2D SSIM (None for 3D), and why; candidates without a record follow the others."""
    if rules.slices == "never":
        return None, ""
    otherwise = reference.slice_axis() if rules.slices == "always" else None
    planes: dict[int | None, str] = {}
    for candidate in candidates:
        degradation = recorded_degradation(candidate)
        if degradation is not None:
            planes.setdefault(_degraded_plane(degradation, reference, rules), degradation.protocol)
    if len(planes) > 1:
        stated = ", ".join(p if axis is None else f"{p} across {AXES[axis]}" for axis, p in planes.items())
        return otherwise, f" because the candidates' records disagree ({stated})"
    axis, protocol = next(iter(planes.items()), (None, ""))
    if axis is None:
        return otherwise, ""
    return axis, f" ({get_protocol(protocol).pattern} degradation {protocol})"


def _degraded_plane(degradation: Degradation, reference: Volume, rules: Convention) -> int | None:
    """Axis across the slices in which a degradation is looked at: those it was made in, or some that hold the thick axis."""
    pattern, across = get_protocol(degradation.protocol).pattern, degradation.slice_axis(reference)
    if pattern == "in-plane":
        return across
    if pattern == "through-plane" and rules.slices == "always":
        return 1 if across == 0 else 0
    return None


def require_inside(inside: Mask | None, truth: Volume, where: str) -> None:
    """Refuse a region in which there is nothing to measure.

    Raises
    ------
    InputError
        If no voxel counts, or the reference is zero in all of them.
    """
    if inside is not None and not inside.any():
        raise InputError(f"The {where} with {truth.name} holds no voxel of the mask; choose a region with tissue or another mask.")
    values = truth.data if inside is None else truth.data[inside]
    if not values.any():
        raise InputError(f"{truth.name} is zero throughout the {where}; choose a region with tissue.")
