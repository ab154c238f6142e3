"""Given low- and high-resolution volumes of one person: checked against the degradation, and cut to fit each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from skimage.registration import phase_cross_correlation

from napari_mrsr.degradation import Degradation, Protocol, get_protocol
from napari_mrsr.errors import InputError
from napari_mrsr.grid import AxisSampling, SamplingGrid
from napari_mrsr.intensity import foreground_mask, require_content
from napari_mrsr.volume import AXES, Volume

Block = tuple[slice, slice, slice]

PLACE_TOLERANCE = 0.25
"""Voxels of the sharp lattice by which low-resolution samples may miss their places, anywhere in the volume."""
SHIFT_TOLERANCE = 0.3
"""Low-resolution voxels by which the images themselves may be displaced."""
LEAST_CORRELATION = 0.8
"""Correlation of the low resolution with the degraded high resolution inside its foreground."""


def match_pair(image: Volume, low: Volume, degradation: Degradation) -> tuple[Volume, Volume, Block]:
    """Check that a low resolution belongs to a high resolution, and cut both so that their first voxels lie as the networks expect it.

    Parameters
    ----------
    image : Volume
        High resolution.
    low : Volume
        Low resolution, any scanner units.
    degradation : Degradation
        Protocol and factor that relate the two.

    Returns
    -------
    Volume, Volume, tuple of slice
        Both cut, the low resolution in the units of the high one; and the block that was cut out of the high resolution.

    Raises
    ------
    InputError
        With numbers, where factor, position, content or orientation do not fit.
    """
    require_content(low.data, low.name)
    protocol = get_protocol(degradation.protocol)
    if protocol.alignment == "corners":
        raise InputError(f"Protocol {protocol.name} puts samples where no cut keeps them; give pairs for another protocol, for example gaussian.")
    scale = protocol.scale_per_axis(degradation.scale, degradation.slice_axis(image))
    starts = _starts(image, low, scale, protocol)
    fine, coarse = zip(
        *(
            _common(start, n, m, round(s), even=protocol.alignment == "kspace" and s != 1)
            for start, n, m, s in zip(starts, image.shape, low.shape, scale, strict=True)
        ),
        strict=True,
    )
    if any(s.stop - s.start < 4 for s in coarse):
        raise InputError(f"{low.name} and {image.name} have fewer than four common voxels along an axis; give volumes of the same place.")
    cut, small = image.crop(fine), low.crop(coarse)
    gain = _require_same_content(cut, small, scale, protocol)
    return cut, small.replace(data=small.data.astype(np.float32) * np.float32(gain)), (fine[0], fine[1], fine[2])


def _starts(image: Volume, low: Volume, scale: Sequence[float], protocol: Protocol) -> list[int]:
    """Whole fine voxels by which the low resolution begins after its place at the beginning of the fine lattice, axis by axis."""
    relative = np.linalg.inv(image.affine) @ low.affine
    steps = np.diag(relative)[:3]
    turned = np.abs(relative[:3, :3] - np.diag(steps)) * low.shape
    names = f"{low.name} does not fit {image.name}"
    if turned.max() > PLACE_TOLERANCE:
        angle = np.degrees(np.arcsin(min(1.0, float(turned.max() / np.max(low.shape) / steps.max()))))
        raise InputError(f"{names}: its axes are turned by {angle:.1f} degrees; give both on parallel grids.")
    found = []
    for axis, (step, factor) in enumerate(zip(steps, scale, strict=True)):
        if abs(step - factor) * low.shape[axis] > 2 * PLACE_TOLERANCE:
            raise InputError(f"{names}: the factor along {AXES[axis]} is {step:.3f}, protocol {protocol.name} needs {factor:g}.")
        place = AxisSampling.from_coarse(2, factor, protocol.alignment).start
        start = float(relative[axis, 3]) - place
        if abs(start - round(start)) > PLACE_TOLERANCE:
            raise InputError(
                f"{names}: along {AXES[axis]} its first voxel lies at voxel {relative[axis, 3]:.2f} of the high resolution, protocol {protocol.name} "
                f"puts it at {place:g} or whole voxels from there."
            )
        found.append(round(start))
    return found


def _common(start: int, fine: int, coarse: int, factor: int, even: bool) -> tuple[slice, slice]:
    """Fine and coarse samples of one axis that both volumes have."""
    first = max(0, -(start // factor)) if start < 0 else 0
    count = min(coarse - first, (fine - start - first * factor) // factor)
    count = max(0, count - (count % 2 if even else 0))
    begin = start + first * factor
    return slice(begin, begin + count * factor), slice(first, first + count)


def _require_same_content(image: Volume, low: Volume, scale: Sequence[float], protocol: Protocol) -> float:
    """Factor that brings the low resolution to the units of the image."""
    grid = SamplingGrid.from_fine(image.shape, scale, protocol.alignment)
    expected = protocol.operator(grid).image(image.data.astype(np.float32))
    given: NDArray[np.float32] = low.data.astype(np.float32)
    mask = foreground_mask(expected)
    require_content(given[mask], low.name)
    correlation = float(np.corrcoef(expected[mask], given[mask])[0, 1])
    shift, _, _ = phase_cross_correlation(expected, given, upsample_factor=20)  # type: ignore[no-untyped-call]
    furthest = int(np.abs(shift).argmax())
    if abs(shift[furthest]) > SHIFT_TOLERANCE and correlation < 0.999:
        raise InputError(
            f"{low.name} is displaced against {image.name} by {abs(shift[furthest]):.1f} of its voxels along {AXES[furthest]} "
            f"(correlation {correlation:.2f}); register it first."
        )
    if not correlation >= LEAST_CORRELATION:
        raise InputError(
            f"{low.name} and {image.name} do not show the same: correlation {correlation:.2f} after protocol {protocol.name}, "
            f"at least {LEAST_CORRELATION} is needed."
        )
    return float((expected[mask] * given[mask]).sum() / (given[mask] ** 2).sum())
