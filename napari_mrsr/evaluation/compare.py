"""Scoring candidates against a reference in a named convention, all on the same voxels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from napari_mrsr.degradation import get_protocol, recorded_degradation
from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.align import Aligned, align, mask_on
from napari_mrsr.evaluation.conventions import Convention, get_convention
from napari_mrsr.evaluation.fit import Mask
from napari_mrsr.evaluation.metrics import WINDOW, window_axes
from napari_mrsr.volume import AXES, Volume

Decibel = Annotated[
    float,
    BeforeValidator(lambda value: math.inf if value is None else value),
    PlainSerializer(lambda value: None if math.isinf(value) else value, return_type=float | None, when_used="json"),
]
"""dB; infinite for identical images, which JSON cannot say: null there, and null reads back as infinite."""


class Region(BaseModel):
    """The reference voxels that every candidate covers.

    Attributes
    ----------
    description : str
        For people: block, what lies outside, what was resampled.
    lower, upper : list of int
        Block in the reference's RAS+ voxel lattice, upper exclusive.
    fraction : float
        Covered share of the reference's voxels, 0 to 1.
    """

    model_config = ConfigDict(frozen=True)

    description: str
    lower: list[int]
    upper: list[int]
    fraction: float


class Result(BaseModel):
    """Scores of one candidate.

    Attributes
    ----------
    name : str
        Name of the candidate, made unique.
    psnr, psnr_box : float
        dB inside the mask, and over all covered voxels of the region; infinite for identical images (null in JSON).
    ssim, nmse : float
        Inside the mask.
    mae : float
        Mean absolute error inside the mask, scanner units.
    resampled : bool
        Whether the candidate had to be interpolated onto the reference's grid.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    psnr: Decibel
    ssim: float
    nmse: float
    mae: float
    psnr_box: Decibel
    resampled: bool


class Comparison(BaseModel):
    """Scores of candidates with everything that gives them meaning; ``model_dump(mode="json")`` is what ``compare --json`` writes.

    Attributes
    ----------
    reference : str
        Name of the reference.
    convention : str
        Name of the :class:`~napari_mrsr.evaluation.conventions.Convention`.
    mask : str
        Voxels that count, in words.
    data_range : float
        R in scanner units.
    ssim : str
        2D or 3D, window, and why.
    region : Region
        Voxels that all candidates cover.
    results : list of Result
        In the order given.
    """

    model_config = ConfigDict(frozen=True)

    reference: str
    convention: str
    mask: str
    data_range: float
    ssim: str
    region: Region
    results: list[Result]


def compare(reference: Volume, candidates: Sequence[Volume], *, convention: str = "mrsr-1", mask: Volume | None = None) -> Comparison:
    """Score candidates against a reference.

    Parameters
    ----------
    reference : Volume
        Ground truth in scanner units.
    candidates : sequence of Volume
        Same units; on the reference's lattice, a sub-block of it, or (then resampled, and said so) any other grid.
    convention : str
        ``mrsr-1`` or ``volume-max``. Mask and range come from the whole reference, so a candidate that covers a region of interest is
        measured against the same range as one that covers everything.
    mask : Volume, optional
        Voxels that count (non-zero) instead of the convention's own.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        Unknown convention, no candidate, no overlap, NaN, constant volumes, an empty mask, a region too small for SSIM.
    """
    rules = get_convention(convention)
    aligned = align(reference, candidates)
    whole_mask, mask_text = _mask(reference, rules, mask)
    data_range = rules.data_range(reference.data, whole_mask)
    inside = _inside(aligned, whole_mask, reference.name)
    axis, ssim_text = _ssim_plane(reference, candidates, rules, aligned.reference.shape)
    names = unique_names(c.name for c in candidates)
    results = [
        _score(name, aligned, candidate, rules, data_range, inside, axis, resampled)
        for name, candidate, resampled in zip(names, aligned.candidates, aligned.resampled, strict=True)
    ]
    region = _region(reference, aligned, names)
    return Comparison(
        reference=reference.name, convention=rules.name, mask=mask_text, data_range=data_range, ssim=ssim_text, region=region, results=results
    )


def headline(comparison: Comparison) -> str:
    """Convention, mask, range, region and SSIM in one line: what every shown number must carry."""
    c = comparison
    return f"convention {c.convention} | mask: {c.mask} | range: 0 to {c.data_range:.6g} | region: {c.region.description} | SSIM: {c.ssim}"


def format_table(comparison: Comparison) -> str:
    """Lay the comparison out as text: :func:`headline`, then one row per candidate (MAE in scanner units; box: without the mask)."""
    header = ("", "PSNR [dB]", "SSIM", "NMSE", "MAE", "PSNR box [dB]")
    rows = [header, *(_cells(result) for result in comparison.results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = [headline(comparison), f"reference {comparison.reference}"]
    lines += ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]) for row in rows]
    return "\n".join(lines)


def _cells(result: Result) -> tuple[str, ...]:
    r = result
    return r.name, f"{r.psnr:.2f}", f"{r.ssim:.4f}", f"{r.nmse:.5f}", f"{r.mae:.4g}", f"{r.psnr_box:.2f}"


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
    if rules.mask is None:
        raise InputError(f"Convention {rules.name} scores all voxels and takes no mask: leave {given.name} out, or use mrsr-1.")
    inside, resampled = mask_on(reference, given)
    how = ", resampled to the reference's grid (nearest neighbour)" if resampled else ""
    return inside, f"given mask {given.name}{how}"


def _inside(aligned: Aligned, whole: Mask | None, name: str) -> Mask | None:
    """Voxels of the common block that count."""
    if whole is None:
        inside = aligned.covered
    else:
        inside = np.ascontiguousarray(whole[aligned.slices])
        if aligned.covered is not None:
            inside &= aligned.covered
    if inside is not None and not inside.any():
        raise InputError(f"The common region with {name} holds no voxel of the mask; choose a region with tissue or another mask.")
    truth = aligned.reference.data if inside is None else aligned.reference.data[inside]
    if not truth.any():
        raise InputError(f"{name} is zero throughout the common region; choose a region with tissue.")
    return inside


def _score(
    name: str, aligned: Aligned, candidate: Volume, rules: Convention, data_range: float, inside: Mask | None, axis: int | None, resampled: bool
) -> Result:
    truth, image = aligned.reference.data, candidate.data
    return Result(
        name=name,
        psnr=rules.psnr(truth, image, data_range, inside),
        ssim=rules.ssim(truth, image, data_range, inside, axis),
        nmse=rules.nmse(truth, image, inside),
        mae=rules.mae(truth, image, inside),
        psnr_box=rules.psnr(truth, image, data_range, aligned.covered),
        resampled=resampled,
    )


def _ssim_plane(reference: Volume, candidates: Sequence[Volume], rules: Convention, shape: Sequence[int]) -> tuple[int | None, str]:
    """Axis across the slices of a 2D SSIM (None for 3D), and the choice in words."""
    axis, why = _recorded_plane(reference, candidates) if rules.follows_plane else (None, "")
    flat = [AXES[i] for i in range(3) if i not in window_axes(shape, axis) and i != axis]
    kind = "3D" if axis is None else f"2D in slices across {AXES[axis]}"
    short = f"; no window along {', '.join(flat)} (fewer than {WINDOW} voxels)" if flat else ""
    return axis, f"{kind}{why}, {rules.ssim_text}{short}"


def _recorded_plane(reference: Volume, candidates: Sequence[Volume]) -> tuple[int | None, str]:
    """Slice axis of the in-plane degradation that the candidates' records name; those without a record follow the others."""
    planes: dict[int | None, str] = {}
    for candidate in candidates:
        degradation = recorded_degradation(candidate)
        if degradation is not None:
            in_plane = get_protocol(degradation.protocol).pattern == "in-plane"
            planes.setdefault(degradation.slice_axis(reference) if in_plane else None, degradation.protocol)
    if len(planes) > 1:
        stated = ", ".join(p if axis is None else f"{p} across {AXES[axis]}" for axis, p in planes.items())
        return None, f" because the candidates' records disagree ({stated})"
    axis, protocol = next(iter(planes.items()), (None, ""))
    return axis, "" if axis is None else f" (in-plane degradation {protocol})"


def _region(reference: Volume, aligned: Aligned, names: Sequence[str]) -> Region:
    block = aligned.reference.data
    count = block.size if aligned.covered is None else int(aligned.covered.sum())
    parts = [_block_text(reference.shape, aligned)]
    if aligned.covered is not None:
        parts.append(f"{block.size - count:,} of its voxels lie outside a rotated candidate and do not count")
    moved = [name for name, resampled in zip(names, aligned.resampled, strict=True) if resampled]
    if moved:
        parts.append(f"resampled onto the reference's grid by cubic B-spline: {', '.join(moved)}")
    fraction = count / float(np.prod(reference.shape))
    return Region(description="; ".join(parts), lower=list(aligned.lower), upper=list(aligned.upper), fraction=fraction)


def _block_text(shape: Sequence[int], aligned: Aligned) -> str:
    whole, size = _times(shape), _times(aligned.reference.shape)
    if aligned.reference.shape == tuple(shape):
        return f"whole reference ({whole} voxels)"
    ranges = [f"{axis} {a} to {b - 1}" for axis, a, b, n in zip(AXES, aligned.lower, aligned.upper, shape, strict=True) if b - a < n]
    return f"{size} of the reference's {whole} voxels ({', '.join(ranges)}; the rest is not covered)"


def _times(values: Sequence[Any]) -> str:
    return " x ".join(map(str, values))
