"""Intensity along a line through several images, and how wide the edge is that the line crosses."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import erf

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.fit import SLACK
from napari_mrsr.volume import Volume

Values = NDArray[np.float64]
Line = tuple[Sequence[float], Sequence[float]]
Interpolation = Literal["linear", "cubic"]

PER_VOXEL = 4
"""Samples per edge of the finest voxel."""
MARGIN = 12
"""Voxels around the line that a spline is fitted to; its memory ends before."""
SHORTEST = 4
"""Fewest voxels of the finest image that a line for an edge must cross."""
TEN_TO_NINETY = 2.563103
"""10-90 % width of an error function in units of its sigma."""
SMOOTH = 2.0
"""Samples (half a voxel) over which slopes are smoothed."""
REVERSAL, OTHER_EDGE = 0.25, 0.35
"""Share of an edge's height by which a profile may turn back, and of its slope by which it may rise anew, before another structure begins."""
NEAR = 2.5
"""mm by which the same edge may lie apart in several images."""
BESIDE = 0.05
"""Share of an edge's height by which its level may differ from a turning point."""
CLEAR = 4.0
"""An edge must be so many times as high as what its fit leaves over."""


@dataclass(frozen=True, eq=False)
class Profile:
    """Intensity of one image along a line.

    Attributes
    ----------
    name : str
        Of the image.
    distance : (n,) array
        mm from the first end.
    values : (n,) array
        Scanner units; NaN outside the image.
    """

    name: str
    distance: Values
    values: Values


@dataclass(frozen=True)
class Edge:
    """The steepest edge of a profile.

    Attributes
    ----------
    width : float
        10-90 % width in mm.
    position : float
        mm from the first end to the middle of the edge.
    overshoot : float
        How far the profile goes beyond the levels beside the edge, in percent of its height; the larger of both sides, at least 0.
    low, high : float
        Levels on the darker and the brighter side, scanner units.
    """

    width: float
    position: float
    overshoot: float
    low: float
    high: float


def line_profiles(
    volumes: Sequence[Volume], line: Line, width: float = 0.0, across: int | None = None, interpolation: Interpolation = "linear"
) -> list[Profile]:
    """Sample images along one line, all at the same places.

    Parameters
    ----------
    volumes : sequence of Volume
        Scanner units, on any grids.
    line : two points
        Ends in world mm (R, A, S).
    width : float
        mm across the line over which samples are averaged.
    across : {0, 1, 2}, optional
        World axis perpendicular to the plane in which that width lies (2: axial); needed where `width` is not 0.
    interpolation : {"linear", "cubic"}
        Cubic is a B-spline; it may overshoot by itself at sharp edges.

    Returns
    -------
    list of Profile
        In the order given; sampled every quarter of the finest voxel of all images.

    Raises
    ------
    InputError
        If there is no image, the line is not finite or shorter than one voxel, lies along `across`, or an image holds NaN near it.
    """
    if not volumes:
        raise InputError("There is no image to draw a profile of; give one a role first.")
    start, stop = (np.asarray(end, float) for end in line)
    finest = min(min(volume.voxel_size) for volume in volumes)
    length = float(np.linalg.norm(stop - start))
    if not np.isfinite(length) or length < finest or width < 0:
        raise InputError(f"A profile needs a line of at least one voxel ({finest:.2f} mm); this one is {length:.2f} mm long.")
    step = finest / PER_VOXEL
    distance = np.arange(0, length + 1e-6 * step, step)
    direction = (stop - start) / length
    aside = _aside(direction, across, width, step)
    points = start + distance[:, None, None] * direction + aside[None]
    return [Profile(volume.name, distance, _sample(volume, points, interpolation).mean(1)) for volume in volumes]


def common_edge(profiles: Sequence[Profile]) -> float | None:
    """Place where profiles are steepest together, so that all images are judged by the same edge.

    Parameters
    ----------
    profiles : sequence of Profile
        Sampled at the same places.

    Returns
    -------
    float or None
        mm from the first end; None where no profile changes.
    """
    total = np.zeros(len(profiles[0].distance)) if profiles else np.zeros(0)
    for profile in profiles:
        # Beyond an image there is no slope; filling it with the nearest value makes none.
        known = np.isfinite(profile.values)
        if known.any():
            slope = np.abs(_slope(np.interp(profile.distance, profile.distance[known], profile.values[known])))
            total += slope / (slope.max() or 1.0)
    return float(profiles[0].distance[np.argmax(total)]) if total.any() else None


def measure_edge(profile: Profile, near: float | None = None) -> Edge:
    """Width, place and overshoot of the steepest edge along a profile, by fitting an error function to it.

    Parameters
    ----------
    profile : Profile
        Crosses one edge; further ones are left out of the fit.
    near : float, optional
        mm from the first end: the steepest place within :data:`NEAR` mm of it is taken.

    Returns
    -------
    Edge

    Raises
    ------
    InputError
        If there is no clear edge, or the line ends inside it.
    """
    stretch, cut = _stretch(profile, near)
    x, y = profile.distance[stretch], profile.values[stretch]
    span, reach = float(np.ptp(y)), float(x[-1] - x[0])
    if span == 0:
        raise _no_edge(profile)
    # Where another structure begins, the level beside the edge is that of the turning point; even tissue tells its own.
    slack = [BESIDE * span if ended else np.inf for ended in cut]
    guess = (float(y[0]), float(y[-1]), float(x[_steepest(x, _slope(y), near)]), reach / 8)
    lower = (y[0] - slack[0], y[-1] - slack[1], x[0] - reach, 0.0)
    upper = (y[0] + slack[0], y[-1] + slack[1], x[-1] + reach, 2 * reach)
    try:
        with warnings.catch_warnings():
            # Of the covariance, which nobody asks for.
            warnings.simplefilter("ignore", OptimizeWarning)
            (left, right, position, sigma), _ = curve_fit(_step, x, y, guess, bounds=(lower, upper))
    except (RuntimeError, ValueError):
        raise _no_edge(profile) from None
    low, high = sorted((left, right))
    left_over = float(np.sqrt(np.mean((y - _step(x, left, right, position, sigma)) ** 2)))
    if high - low <= CLEAR * left_over:
        raise _no_edge(profile)
    width = TEN_TO_NINETY * sigma
    beyond_ends = position - width / 2 < x[0], position + width / 2 > x[-1]
    if any(out and ended for out, ended in zip(beyond_ends, cut, strict=True)):
        raise _no_edge(profile)
    if any(beyond_ends):
        raise InputError(f"{profile.name}: the line ends inside the edge; draw it further across.")
    beyond = max(float(y.max()) - high, low - float(y.min()), 0.0)
    return Edge(float(width), float(position), 100 * beyond / (high - low), float(low), float(high))


def _step(x: Values, left: float, right: float, position: float, sigma: float) -> Values:
    return np.asarray(left + (right - left) / 2 * (1 + erf((x - position) / (np.sqrt(2) * sigma))))


def _no_edge(profile: Profile) -> InputError:
    return InputError(f"{profile.name} has no clear edge along this line; draw it across one border, with even tissue on both sides.")


def _slope(values: Values) -> Values:
    return np.asarray(ndimage.gaussian_filter1d(values, SMOOTH, order=1, mode="nearest"))


def _steepest(distance: Values, slope: Values, near: float | None) -> int:
    allowed = np.ones(len(slope), bool) if near is None else np.abs(distance - near) <= NEAR
    return int(np.argmax(np.where(allowed, np.abs(slope), -1)))


def _stretch(profile: Profile, near: float | None) -> tuple[slice, tuple[bool, bool]]:
    """Samples around the steepest place, up to where another structure begins; whether one does on the left and on the right."""
    known = np.isfinite(profile.values)
    parts, count = ndimage.label(known)
    if not count:
        raise InputError(f"The line lies outside {profile.name}.")
    inside = ndimage.find_objects(parts)[int(np.argmax(np.bincount(parts[known])[1:]))][0]
    values = profile.values[inside]
    if len(values) < SHORTEST * PER_VOXEL:
        raise InputError(f"Too little of the line lies in {profile.name} to tell an edge; draw a longer one.")
    slope = _slope(values)
    steepest = _steepest(profile.distance[inside], slope, near)
    if slope[steepest] == 0:
        raise _no_edge(profile)
    # From here on the edge rises to the right, by 1 per sample where it is steepest.
    slope, values = slope / slope[steepest], values / slope[steepest]
    height = _rise(slope[steepest:]) + _rise(slope[steepest::-1])
    right = _end(values[steepest:], slope[steepest:], height)
    left = _end(-values[steepest::-1], slope[steepest::-1], height)
    first, last = steepest - left, steepest + right
    return slice(inside.start + first, inside.start + last + 1), (first > 0, last < len(values) - 1)


def _rise(slope: Values) -> float:
    """How far a profile goes on rising."""
    falling = np.flatnonzero(slope < 0)
    return float(slope[: falling[0] if len(falling) else len(slope)].sum())


def _end(values: Values, slope: Values, height: float) -> int:
    """Index where an edge that is steepest at 0 and rises from there gives way to something else, or the last sample.

    Ringing belongs to the edge; a fall by a larger part of its height, or another rise after a flat stretch, does not.
    """
    highest = flattest = 0
    for index, (value, rise) in enumerate(zip(values, slope, strict=True)):
        highest = index if value > values[highest] else highest
        flattest = index if abs(rise) < abs(slope[flattest]) else flattest
        if values[highest] - value > REVERSAL * height:
            return highest
        if rise - slope[flattest] > OTHER_EDGE:
            return flattest
    return len(values) - 1


def _aside(direction: Values, across: int | None, width: float, step: float) -> Values:
    """Offsets in mm of the parallel lines that are averaged, (m, 3)."""
    if width == 0:
        return np.zeros((1, 3))
    if across is None:
        raise InputError("A width needs the plane in which it lies.")
    sideways = np.cross(direction, np.eye(3)[across])
    size = float(np.linalg.norm(sideways))
    if size < 1e-3:
        raise InputError("The line runs across the slices, so that a width within the slice has no direction; set the width to 0.")
    count = max(2, round(width / step) + 1)
    return np.linspace(-width / 2, width / 2, count)[:, None] * sideways / size


def _sample(volume: Volume, points: Values, interpolation: Interpolation) -> Values:
    inverse = np.linalg.inv(volume.affine)
    index = points @ inverse[:3, :3].T + inverse[:3, 3]
    sizes = np.array(volume.shape)
    inside = ((index >= -0.5 - SLACK) & (index <= sizes - 0.5 + SLACK)).all(-1)
    if not inside.any():
        return np.full(inside.shape, np.nan)
    data, order, where = volume.data, 1, np.moveaxis(index, -1, 0)
    if interpolation == "cubic":
        # A spline depends on all voxels, those far away by next to nothing.
        low = np.clip(np.floor(index[inside].min(0)).astype(int) - MARGIN, 0, sizes - 1)
        high = np.clip(np.ceil(index[inside].max(0)).astype(int) + MARGIN + 1, 1, sizes)
        data, order = np.asarray(data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], np.float64), 3
        where = np.moveaxis(index - low, -1, 0)
    # Voxels hold the value of their whole extent: up to half a voxel beyond the outermost centres the image is mirrored.
    found = ndimage.map_coordinates(data, where, np.float64, order, mode="reflect")
    if not np.isfinite(found[inside]).all():
        raise InputError(f"{volume.name} holds NaN or infinite values near the line; repair it, or draw the line elsewhere.")
    return np.where(inside, found, np.nan)
