"""What a number means: which voxels count, against which range, with which SSIM.

One image scores 28 or 35 dB depending on these choices (EVALUATION 2.3), so every number carries the name of its convention. A convention
is data and small functions; adding one is one entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation import metrics
from napari_mrsr.evaluation.metrics import Array, Mask
from napari_mrsr.intensity import foreground_mask, intensity_range


@dataclass(frozen=True)
class Convention:
    """A named way to score an image against its reference.

    Attributes
    ----------
    name : str
        Name in commands, tables and files.
    summary : str
        One line for help texts.
    mask : callable or None
        Voxels that count, from the whole reference, (X, Y, Z) to bool; None where all voxels of the common region count.
    mask_text : str
        The same in words.
    data_range : callable
        R in scanner units from the whole reference and the mask.
    ssim_text : str
        Window and moments of its SSIM.
    follows_plane : bool
        Whether SSIM is 2D per slice where the degradation was in plane.
    psnr, ssim, nmse, mae : callable
        Scores of (reference, image) arrays of the common region; signatures as in :mod:`~napari_mrsr.evaluation.metrics`.
    """

    name: str
    summary: str
    mask: Callable[[Array], Mask] | None
    mask_text: str
    data_range: Callable[[Array, Mask | None], float]
    ssim_text: str
    follows_plane: bool
    psnr: Callable[[Array, Array, float, Mask | None], float] = metrics.psnr
    ssim: Callable[[Array, Array, float, Mask | None, int | None], float] = metrics.ssim
    nmse: Callable[[Array, Array, Mask | None], float] = metrics.nmse
    mae: Callable[[Array, Array, Mask | None], float] = metrics.mae


def volume_maximum(data: Array, mask: Mask | None = None) -> float:
    """Largest value of the reference volume, in scanner units.

    Raises
    ------
    InputError
        If it is not positive.
    """
    value = float(np.max(data))
    if value <= 0:
        raise InputError("The reference has no positive intensities to measure against (empty or constant volume).")
    return value


_GAUSSIAN = f"Gaussian window sigma 1.5, {metrics.WINDOW} taps, population moments"

CONVENTIONS: Mapping[str, Convention] = MappingProxyType(
    {
        c.name: c
        for c in (
            Convention(
                name="mrsr-1",
                summary="inside the foreground M, R = 99.9th percentile of the reference in M; SSIM 3D, or 2D per slice for in-plane degradations",
                mask=foreground_mask,
                mask_text="foreground (reference > 5 % of its 99.9th percentile, holes filled)",
                data_range=intensity_range,
                ssim_text=_GAUSSIAN,
                follows_plane=True,
            ),
            Convention(
                name="volume-max",
                summary="all voxels of the common region, R = maximum of the reference volume; SSIM 3D",
                mask=None,
                mask_text="none (all voxels of the region)",
                data_range=volume_maximum,
                ssim_text=_GAUSSIAN,
                follows_plane=False,
            ),
        )
    }
)


def get_convention(name: str) -> Convention:
    """Convention of that name.

    Raises
    ------
    InputError
        If there is none.
    """
    try:
        return CONVENTIONS[name]
    except KeyError:
        raise InputError(f"Unknown convention {name!r}: use one of {', '.join(CONVENTIONS)}.") from None
