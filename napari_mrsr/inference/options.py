"""One run described once: command line flags, dock form, worker message and provenance record are this model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from napari_mrsr.degradation import AxisName, Options, Protocol, get_protocol, recorded_degradation
from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.align import require_finite
from napari_mrsr.evaluation.contrast import tell_contrast
from napari_mrsr.evaluation.fit import extents
from napari_mrsr.grid import SamplingGrid, lattice_offset
from napari_mrsr.inference.choice import AUTO, Wish, choose
from napari_mrsr.inference.guard import MIN_SIZE, Facts, Verdict, find_facts, judge
from napari_mrsr.intensity import estimate_noise, foreground_mask, intensity_range, require_content
from napari_mrsr.volume import AXES, WORLD, Box, Volume, axis_index
from napari_mrsr.zoo import Card, get_card, list_models

END = ("right", "anterior", "superior")
MAX_RATIO = 8
"""Largest thickness of slices over asked voxel size."""
WHOLE = 0.02
"""Voxels by which the asked spacing may miss a whole number over all slices to count as that number."""


class RunOptions(Options):
    """Options of one super-resolution run.

    Attributes
    ----------
    model : str
        Name in the model list, or ``auto``: the one that suits the input best (:func:`~napari_mrsr.inference.choice.choose`).
    scale : int or None
        Factor; None takes the model's, else the sidecar's, else 2.
    protocol : str or None
        How the input was degraded; None takes the sidecar's, else the model's.
    axis : {"R", "A", "S"} or None
        Axis across slices; None takes the sidecar's, else the axis of coarsest spacing.
    noise : float or None
        Noise in percent of the input's range; None takes the sidecar's, else estimates it.
    voxel : float or None
        Thick slices: wanted spacing across slices in mm; the ratio to the input's may be any number from 1 to 8.
    orientations : {"both", "first", "second"}
        Thick slices: whether the planes of both orientations that hold the thick axis are computed and averaged, or those of one alone
        (stacked along the first or the second of the other axes, in the order R, A, S).
    register_reference : bool
        Move the reference rigidly onto the input before it is used.
    roi : six floats or None
        Region in mm: x0, y0, z0, x1, y1, z1.
    roi_axes : nine floats or None
        Axes along which the region's edges lie, where they are not the world's (:attr:`napari_mrsr.volume.Box.axes`).
    device : str
        auto, cpu, cuda, cuda:1, mps.
    tile : int or None
        Networks that see volumes: largest tile edge in LR voxels; None lets the planner choose.
    halo : int or None
        Networks that see volumes: margin around tiles in LR voxels; None takes what was measured for the model, or with `exact` the full one.
    batch : int or None
        Slices, or tiles of one size, that the network is given together; None lets the planner choose.
    maps : tuple of str
        Internal maps of the network to keep beside the result.
    ensemble : bool
        Networks: run on the volume and its mirror images, average, and keep their spread beside the result (8 or, for slices, 4 times the work).
    exact : bool
        Tiles with the full margin of the network, so that the result equals that of one piece to float32 accuracy; else with the margin beyond
        which influence was measured to be negligible (model card: halo, halo_error).
    precision : {"auto", "float32", "float16", "bfloat16"}
        Numbers the network computes in; auto takes the fastest that costs less than 0.02 dB on a tile of this volume.
    attention : {"window", "global"}
        Networks that attend across scales (CFTN): within windows as they were trained, or exactly over the whole volume as the paper words it,
        which takes far longer.
    skip_air : bool
        Networks: leave empty air around the head out, and fill it by linear interpolation.
    compile : bool
        Networks: translate the network for this device first (``torch.compile``); takes up to some minutes, and needs a C++ compiler.
    """

    model: str = "cftn-x2"
    scale: Annotated[int, Field(ge=2, le=8)] | None = None
    protocol: str | None = None
    axis: AxisName | None = None
    noise: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    voxel: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    orientations: Literal["both", "first", "second"] = "both"
    register_reference: bool = False
    roi: tuple[float, float, float, float, float, float] | None = None
    roi_axes: tuple[float, ...] | None = None
    device: str = "auto"
    tile: Annotated[int, Field(ge=8)] | None = None
    halo: Annotated[int, Field(ge=0)] | None = None
    batch: Annotated[int, Field(ge=1)] | None = None
    maps: tuple[str, ...] = ()
    ensemble: bool = False
    exact: bool = False
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    attention: Literal["window", "global"] = "window"
    skip_air: bool = True
    compile: bool = False

    @property
    def box(self) -> Box | None:
        """Region of interest."""
        if self.roi is None:
            return None
        corners = np.array(self.roi).reshape(2, 3)
        return Box(tuple(corners.min(0)), tuple(corners.max(0)), self.roi_axes or WORLD)

    @property
    def wish(self) -> Wish:
        """What bears on the choice of a model."""
        return Wish(self.scale, self.protocol, self.axis, self.voxel)


@dataclass(frozen=True, eq=False)
class Job:
    """A run whose open questions are answered.

    Attributes
    ----------
    card, protocol : Card, Protocol
    scale, slice_axis : int
    grid : SamplingGrid
        From the input's lattice to the result's.
    affine : (4, 4) array
        Of the whole result.
    block : tuple of slice
        Part of the result's lattice that was asked for.
    stacks : tuple of int
        Networks that see slices: axes along which planes are stacked, one per orientation that is averaged.
    gain : float
        Range of the input.
    noise_sigma, noise_source : float, str
        Noise in scanner units and where that figure comes from.
    exact : bool
        Whether tiles get the full margin.
    halo : int or None
        Margin asked for by hand.
    verdict : Verdict
        How the input compares with what the model has seen.
    why : str
        Why this model was chosen; empty where the user named it.
    warnings : tuple of str
        What the user should know before trusting the result.
    """

    card: Card
    protocol: Protocol
    scale: int
    slice_axis: int
    grid: SamplingGrid
    affine: Any
    block: tuple[slice, slice, slice]
    stacks: tuple[int, ...]
    gain: float
    noise_sigma: float
    noise_source: str
    exact: bool
    halo: int | None
    verdict: Verdict
    why: str
    warnings: tuple[str, ...]


def prepare(volume: Volume, options: RunOptions, like: Volume | None = None, reference: Volume | None = None) -> Job:
    """Answer what the options leave open, and refuse what cannot run. Imports no torch.

    Parameters
    ----------
    volume : Volume
        Low-resolution input.
    options : RunOptions
    like : Volume, optional
        Grid the result should lie on; classic methods then interpolate straight onto it.
    reference : Volume, optional
        Second contrast.

    Raises
    ------
    InputError
        Unknown model, protocol or factor, constant or too small volume, ROI outside, missing reference.
    """
    require_finite(volume)
    require_content(volume.data, volume.name)
    choice = choose(list_models(), volume, find_facts(volume), reference, options.wish) if options.model == AUTO else None
    card = get_card(choice.model if choice else options.model)
    if options.ensemble and not card.learned:
        raise InputError(f"{card.name} gives the same result for mirror images; the self-ensemble is for networks, leave it out.")
    if like is not None:
        _require_overlap(volume, like)
    recorded = recorded_degradation(volume)
    name = options.protocol or (recorded.protocol if recorded else None) or card.protocol or (choice.protocol if choice else None) or "gaussian"
    protocol = get_protocol(name)
    letter = options.axis or (recorded.axis if recorded else None)
    slice_axis = axis_index(letter) if letter else volume.slice_axis()
    card, scale, factor, warnings = _enlargement(volume, options, card, protocol, slice_axis, recorded.scale if recorded else None)
    warnings += _about_reference(card, options, reference)
    grid, affine = _lattice(volume, protocol.scale_per_axis(factor, slice_axis), protocol, None if card.learned else like)
    frame = Volume(np.broadcast_to(np.float32(0), grid.fine_shape), affine, name="the result")
    whole = tuple(slice(0, n) for n in grid.fine_shape)
    mask = foreground_mask(volume.data)
    gain = intensity_range(volume.data, mask)
    sigma, source = _noise(volume, options, gain, mask) if card.uses_noise else (0.0, "not used")
    facts = Facts(tell_contrast(volume), 100 * sigma / gain if card.uses_noise else None, source) if card.learned else None
    verdict = judge(card, volume, facts, reference, options.protocol, options.axis)
    return Job(
        card=card,
        protocol=protocol,
        scale=scale,
        slice_axis=slice_axis,
        grid=grid,
        affine=affine,
        block=options.box.to_slices(frame) if options.box else (whole[0], whole[1], whole[2]),
        stacks=_stacks(protocol, slice_axis, options),
        gain=gain,
        noise_sigma=sigma,
        noise_source=source,
        exact=options.exact,
        halo=options.halo,
        verdict=verdict,
        why=choice.why if choice else "",
        warnings=(*warnings, *verdict.concerns),
    )


def _enlargement(
    volume: Volume, options: RunOptions, card: Card, protocol: Protocol, slice_axis: int, recorded: int | None
) -> tuple[Card, int, float, list[str]]:
    """The card whose weights fit best, the factor they are for, the factor that is wanted, and what to tell the user."""
    ratio = _ratio(volume, options, protocol, slice_axis)
    warnings: list[str] = []
    if ratio is not None:
        card, warnings = _nearest_trained(card, ratio)
        warnings += _remainder(volume, ratio, slice_axis)
    elif card.learned and card.scale is None and options.scale is None and recorded is None:
        raise InputError(f"{card.name} works for any factor; say which (scale), or the voxel size that is wanted.")
    scale = options.scale or card.scale or (max(2, round(ratio)) if ratio else None) or recorded or 2
    if card.learned:
        _check_learned(card, protocol, scale, volume)
    factor = ratio or scale
    if recorded and recorded != factor:
        warnings.append(f"The input was degraded by a factor of {recorded}, it is enlarged by {factor:.4g}.")
    return card, scale, factor, warnings


def _about_reference(card: Card, options: RunOptions, reference: Volume | None) -> list[str]:
    """Refuse what is missing; tell what is not used."""
    if card.reference == "needed" and reference is None:
        raise InputError(f"{card.name} needs a reference contrast of the same person; give one.")
    if options.register_reference and reference is None:
        raise InputError("There is no reference to register; give one, or leave the registration out.")
    if card.reference == "none" and reference is not None:
        return [f"{card.name} takes no reference contrast; {reference.name} is not used."]
    return []


def _lattice(volume: Volume, factors: Sequence[float], protocol: Protocol, like: Volume | None) -> tuple[SamplingGrid, Any]:
    """Grid from the input's lattice to the result's, and the result's affine; that of `like` where it is a lattice the input was made from."""
    for axis, (n, s) in enumerate(zip(volume.shape, factors, strict=True)):
        if s != 1 and n < MIN_SIZE:
            raise InputError(f"{volume.name} has only {n} voxels along {AXES[axis]}; at least {MIN_SIZE} are needed.")
    grid = SamplingGrid.from_coarse(volume.shape, factors, protocol.alignment)
    if like is not None and min(like.shape) >= max(factors):
        onto = SamplingGrid.from_fine(like.shape, factors, protocol.alignment)
        if onto.coarse_shape == volume.shape and lattice_offset(volume.affine, onto.coarse_affine(like.affine), volume.shape) == (0, 0, 0):
            return onto, like.affine
    return grid, grid.fine_affine(volume.affine)


def _ratio(volume: Volume, options: RunOptions, protocol: Protocol, slice_axis: int) -> float | None:
    """Spacing across slices over the wanted one, where one is wanted."""
    if options.voxel is None:
        return None
    if protocol.pattern != "through-plane":
        raise InputError(f"A voxel size can be asked for thick slices (protocol slice-profile), not with protocol {protocol.name}; leave it out.")
    if options.scale is not None:
        raise InputError("Give a factor or a voxel size, not both.")
    spacing = volume.voxel_size[slice_axis]
    ratio = spacing / options.voxel
    if not 1 < ratio <= MAX_RATIO + 1e-6:
        allowed = f"between {spacing / MAX_RATIO:.3g} and {spacing:.4g} mm"
        raise InputError(f"{volume.name} has slices {spacing:.4g} mm apart; the voxel size must lie {allowed}, not {options.voxel:g}.")
    # Headers store rounded spacings: a whole number of voxels up to rounding is meant as one.
    count = volume.shape[slice_axis] * ratio
    return round(count) / volume.shape[slice_axis] if abs(count - round(count)) < WHOLE else ratio


def _nearest_trained(card: Card, ratio: float) -> tuple[Card, list[str]]:
    """The network's weights trained for the factor nearest to `ratio`, and what to tell the user."""
    if not card.learned or card.scale is None:
        return card, []
    stem = card.name.rpartition("-x")[0]
    kin = (c for c in list_models() if c.learned and c.architecture == card.architecture and c.protocol == card.protocol)
    family = [c for c in kin if c.scale and stem and c.name.rpartition("-x")[0] == stem]
    nearest = min([card, *family], key=lambda c: abs(np.log((c.scale or 1) / ratio)))
    if nearest.scale != card.scale:
        return nearest, [f"{nearest.name} is used in place of {card.name}: it was trained for {nearest.scale}, nearer to the ratio of {ratio:.3g}."]
    if abs(ratio - card.scale) > 1e-3 * ratio:
        return card, [f"The ratio of slice spacing to voxel size is {ratio:.3g}; {card.name} was trained for {card.scale}."]
    return card, []


def _remainder(volume: Volume, ratio: float, slice_axis: int) -> list[str]:
    """What whole voxels of the asked size leave uncovered at the high end."""
    voxels = volume.shape[slice_axis] * ratio
    rest = (voxels - int(voxels + 1e-9)) * volume.voxel_size[slice_axis] / ratio
    if rest < 0.01 * volume.voxel_size[slice_axis]:
        return []
    return [f"The last {rest:.2g} mm at the {END[slice_axis]} end are not covered: they are no whole voxel of the asked size."]


def _stacks(protocol: Protocol, slice_axis: int, options: RunOptions) -> tuple[int, ...]:
    if protocol.pattern != "through-plane":
        return (slice_axis,)
    others = tuple(axis for axis in range(3) if axis != slice_axis)
    return {"both": others, "first": others[:1], "second": others[1:]}[options.orientations]


def _require_overlap(volume: Volume, like: Volume) -> None:
    ours, theirs = volume.box(), like.box()
    if any(a >= d or c >= b for a, b, c, d in zip(ours.lower, ours.upper, theirs.lower, theirs.upper, strict=True)):
        raise InputError(f"{volume.name} and {like.name} do not overlap: {extents(volume, like)}.")


def _check_learned(card: Card, protocol: Protocol, scale: int, volume: Volume) -> None:
    if card.scale is not None and scale != card.scale:
        raise InputError(f"{card.name} is trained for a factor of {card.scale}, not {scale}; choose another model or leave the factor out.")
    trained = get_protocol(card.protocol or "gaussian")
    if protocol.pattern != trained.pattern:
        raise InputError(f"{card.name} undoes {trained.pattern} degradation ({trained.name}); {volume.name} is {protocol.pattern} ({protocol.name}).")


def _noise(volume: Volume, options: RunOptions, gain: float, mask: Any) -> tuple[float, str]:
    if options.noise is not None:
        return options.noise / 100 * gain, "given"
    entry = volume.record.get("degradation")
    if isinstance(entry, dict) and isinstance(entry.get("noise_sigma"), (int, float)):
        return float(entry["noise_sigma"]), "sidecar"
    return estimate_noise(volume.data, mask), "estimated"
