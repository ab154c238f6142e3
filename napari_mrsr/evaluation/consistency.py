"""Data consistency: does a result, degraded as its input was, give back that input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import ndimage

from napari_mrsr.degradation import Protocol, SeparableOperator, get_protocol, recorded_degradation
from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.align import mask_on, require_finite
from napari_mrsr.evaluation.fit import Fit, Mask, extents, is_empty, resample
from napari_mrsr.grid import SamplingGrid, lattice_offset
from napari_mrsr.intensity import estimate_noise, foreground_mask, require_content
from napari_mrsr.volume import AXES, Volume, axis_index

CONSISTENCY_LIMITS = (
    "Necessary, not sufficient: a residual far above the noise shows that the result contradicts its input, but detail that the degradation "
    "removes, such as a checkerboard of single voxels, leaves no residual. It also grows where the assumed degradation is not the scanner's."
)
OUTSIDE = 1e-3
"""Largest share of an input voxel's weight that may lie outside a result for the voxel to count."""
WHOLE = 0.02
"""Share by which spacings may miss a whole ratio."""
CLEAR_OF_NOISE = 3.0
"""Noise levels above which the input counts as tissue."""


class Consistency(BaseModel):
    """How well a result, degraded as its input was, gives back that input.

    Attributes
    ----------
    name, low : str
        Result and input.
    protocol : str
        Degradation, factor and axis, and where that is known from.
    nrmse : float
        ``||Ax - y|| / ||y||`` over the voxels that count (x the result, A the degradation, y the input).
    rms, peak : float
        Root mean square and largest size of the residual, scanner units.
    rms_sigmas, peak_sigmas : float or None
        The same in units of `sigma`; None where that is not known.
    sigma, sigma_source : float or None, str
        Noise of the input in scanner units and where it is known from; None, and why, where there is none to measure a residual against.
    at_mm : list of three floats
        World position of the largest residual.
    voxels : int
        Input voxels that count.
    region : str
        Which ones, in words.
    resampled : bool
        Whether the result had to be interpolated onto the lattice of the degradation.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    low: str
    protocol: str
    nrmse: float
    rms: float
    peak: float
    rms_sigmas: float | None
    peak_sigmas: float | None
    sigma: float | None
    sigma_source: str
    at_mm: list[float]
    voxels: int
    region: str
    resampled: bool


@dataclass(frozen=True)
class _Assumption:
    """A degradation and where it is known from."""

    protocol: Protocol
    grid: SamplingGrid
    text: str


def data_consistency(low: Volume, candidate: Volume, protocol: str | None = None, mask: Volume | None = None) -> tuple[Consistency, Volume]:
    """Degrade a result as its input was, and compare with the input.

    Parameters
    ----------
    low : Volume
        Input of the super-resolution, scanner units.
    candidate : Volume
        Its result, same units; may cover a part only. On another lattice than the degradation's it is resampled (cubic) and said so.
    protocol : str, optional
        How the input was made; its own record's protocol where missing, else the one that the run of the result assumed.
    mask : Volume, optional
        Voxels that count (non-zero), on any grid; the input's foreground where missing.

    Returns
    -------
    Consistency, Volume
        The numbers, and the residual degraded result minus input: float32, scanner units, on the input's lattice cut to the voxels whose
        whole neighbourhood the result covers.

    Raises
    ------
    InputError
        If the degradation is not known, the volumes do not overlap enough, one holds NaN, or is constant.
    """
    for volume in (low, candidate):
        require_finite(volume)
        require_content(volume.data, volume.name)
    assumed = _assume(low, candidate, protocol)
    grid, frame = _lattice(low, candidate, assumed)
    fine, seen, resampled = _onto(frame, candidate)
    operator = assumed.protocol.operator(grid)
    complete = np.ones(low.shape, bool) if seen is None else _complete(operator, seen)
    if not complete.any():
        raise InputError(
            f"{candidate.name} covers too little of {low.name} for {assumed.protocol.name}: a voxel of the input counts only where the result "
            f"holds all of its surroundings ({extents(low, candidate)})."
        )
    residual = np.where(complete, operator.image(fine) - np.asarray(low.data, np.float32), np.float32(0))
    sigma, source = _noise(low)
    inside, region = _inside(low, complete, mask, sigma or 0.0)
    found = residual[inside].astype(np.float64)
    place = np.argwhere(inside)[int(np.argmax(np.abs(found)))]
    rms, peak = float(np.sqrt(np.mean(found**2))), float(np.abs(found).max())
    power = float(np.sqrt(np.mean(low.data[inside].astype(np.float64) ** 2)))
    numbers = Consistency(
        name=candidate.name,
        low=low.name,
        protocol=assumed.text,
        nrmse=rms / power if power else float("nan"),
        rms=rms,
        peak=peak,
        rms_sigmas=rms / sigma if sigma else None,
        peak_sigmas=peak / sigma if sigma else None,
        sigma=sigma,
        sigma_source=source,
        at_mm=[round(float(v), 3) for v in low.affine[:3, :3] @ place + low.affine[:3, 3]],
        voxels=len(found),
        region=region,
        resampled=resampled,
    )
    entry = {"kind": "data consistency", "unit": "scanner units", "candidate": candidate.name, "low": low.name}
    entry |= numbers.model_dump(include={"protocol", "sigma", "sigma_source"})
    block = ndimage.find_objects(complete.view(np.uint8))[0]
    found_map = low.replace(data=residual.astype(np.float32), name=f"{candidate.name} data consistency", record={"map": entry})
    return numbers, found_map.crop(block)


def _assume(low: Volume, candidate: Volume, told: str | None) -> _Assumption:
    """The degradation between a result and its input."""
    recorded, run = recorded_degradation(low), _run_record(candidate)
    stated = ((told, "given"), (recorded.protocol if recorded else None, "recorded with the input"), (run.get("protocol"), "assumed by the run"))
    name, source = next(((n, s) for n, s in stated if n), (None, ""))
    if name is None:
        raise InputError(f"How {low.name} was made is not known; say with which protocol it is to be compared.")
    protocol = get_protocol(name)
    letter = (recorded.axis if recorded else None) or run.get("axis")
    slice_axis = axis_index(letter) if letter else low.slice_axis()
    if recorded is not None and recorded.protocol == name and protocol.pattern != "through-plane":
        ratio = float(recorded.scale)
    else:
        ratio = _ratio(low, candidate, protocol, slice_axis)
    factors = protocol.scale_per_axis(ratio, slice_axis)
    across = "" if protocol.pattern == "3d" else f" across {AXES[slice_axis]}"
    return _Assumption(protocol, SamplingGrid.from_coarse(low.shape, factors, protocol.alignment), f"{name} x{ratio:.4g}{across} ({source})")


def _run_record(candidate: Volume) -> Mapping[str, Any]:
    entry = candidate.record.get("run")
    return entry if isinstance(entry, Mapping) else {}


def _ratio(low: Volume, candidate: Volume, protocol: Protocol, slice_axis: int) -> float:
    """Factor from the spacings along the axes that the protocol degrades."""
    degraded = [axis for axis, s in enumerate(protocol.scale_per_axis(2, slice_axis)) if s != 1]
    ratio = max(low.voxel_size[axis] / candidate.voxel_size[axis] for axis in degraded)
    whole = round(ratio)
    # A slice profile is known for any thickness; the other protocols blur in units of a whole factor.
    if protocol.pattern != "through-plane" or abs(ratio - whole) < WHOLE:
        ratio = float(whole)
    if ratio <= 1:
        raise InputError(f"{candidate.name} is not finer than {low.name} along {', '.join(AXES[a] for a in degraded)}; nothing can be compared.")
    return ratio


def _lattice(low: Volume, candidate: Volume, assumed: _Assumption) -> tuple[SamplingGrid, Volume]:
    """Grid of the degradation, and a volume without content on its fine lattice."""
    scale, alignment = assumed.grid.scale, assumed.grid.alignment
    if all(n >= s for n, s in zip(candidate.shape, scale, strict=True)):
        own = SamplingGrid.from_fine(candidate.shape, scale, alignment)
        # Sizes that are no multiple of the factor keep a remainder, and k-space crops then have another step.
        if own.coarse_shape == low.shape and lattice_offset(low.affine, own.coarse_affine(candidate.affine), low.shape) == (0, 0, 0):
            return own, candidate
    affine = assumed.grid.fine_affine(low.affine)
    return assumed.grid, Volume(np.broadcast_to(np.float32(0), assumed.grid.fine_shape), affine, name="the lattice of the degradation")


def _onto(frame: Volume, candidate: Volume) -> tuple[NDArray[np.float32], Mask | None, bool]:
    """Result on the whole fine lattice, its edges continued outwards; voxels it covers (None: all); whether it was resampled."""
    fit = Fit.of(frame, candidate)
    block = fit.block(frame.shape)
    if is_empty(block):
        raise InputError(f"{candidate.name} does not overlap its input ({extents(frame, candidate)}).")
    if fit.offset is not None:
        values = np.asarray(candidate.data[fit.source_block(block)], np.float32)
    else:
        matrix = fit.matrix.copy()
        matrix[:3, 3] += matrix[:3, :3] @ [s.start for s in block]
        values = resample(candidate.data, matrix, _sizes(block), fit.straight)
    covered = fit.covers(block)
    if covered is None and _sizes(block) == frame.shape:
        return values, None, fit.offset is None
    seen = np.zeros(frame.shape, bool)
    seen[block] = True if covered is None else covered
    margins = [(s.start, n - s.stop) for s, n in zip(block, frame.shape, strict=True)]
    return np.pad(values, margins, mode="edge"), seen, fit.offset is None


def _sizes(block: Sequence[slice]) -> tuple[int, int, int]:
    x, y, z = (s.stop - s.start for s in block)
    return x, y, z


def _complete(operator: SeparableOperator, seen: Mask) -> Mask:
    """Input voxels whose weights lie on fine voxels that were seen."""
    shares = [None if m is None else np.abs(m) / np.abs(m).sum(1, keepdims=True) for m in operator.matrices]
    return np.asarray(SeparableOperator(tuple(shares)).forward(seen.astype(np.float32)) >= 1 - OUTSIDE)


def _inside(low: Volume, complete: Mask, mask: Volume | None, noise: float) -> tuple[Mask, str]:
    """Input voxels that count, and which ones in words."""
    # The mean of pure Rician background is 1.25 sigma: what lies near it is air.
    counted = foreground_mask(np.where(low.data > CLEAR_OF_NOISE * noise, low.data, 0)) if mask is None else mask_on(low, mask)[0]
    inside = counted & complete
    if not inside.any():
        raise InputError(f"The part of {low.name} that can be compared holds no voxel that counts; choose another region or mask.")
    where = "foreground of the input" if mask is None else f"mask {mask.name}"
    return inside, where if complete.all() else f"{where}, where the result covers all surroundings ({inside.sum():,} of {counted.sum():,} voxels)"


def _noise(low: Volume) -> tuple[float | None, str]:
    """Noise of the input as recorded or estimated, and which; None where there is none that a residual can be measured against."""
    recorded = low.record.get("degradation")
    known = recorded.get("noise_sigma") if isinstance(recorded, Mapping) else None
    if isinstance(known, (int, float)):
        return (float(known), "noise recorded with the input") if known > 0 else (None, "the input was made without noise")
    noise = estimate_noise(low.data)
    return (noise, "noise estimated from the input") if noise > 0 else (None, "no noise is recorded with the input, and none was found in it")
