"""What a number means: which voxels count, against which range, with which SSIM.

One image scores 28 or 35 dB depending on these choices (EVALUATION 2.3), so every number carries the name of its convention. A convention
is data and small functions; adding one is one entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.metrics import GAUSSIAN, Array, Mask, Window
from napari_mrsr.intensity import foreground_mask, intensity_range

GREY_LEVELS = 255


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
        Voxels that count, from the whole reference, (X, Y, Z) to bool; None where all voxels of the region count.
    mask_text : str
        The same in words.
    data_range : callable
        R in scanner units from the whole reference and the mask.
    range_text : str
        Where R comes from, in words.
    window : Window
        Of SSIM.
    slices : {"never", "in-plane", "always"}
        Whether SSIM and HFEN look at slices (2D) or at the volume (3D): never, where the degradation was in plane, or always.
    slice_mean : frozenset of str
        Metrics that are the mean over slices of their values in slices; the others are one quotient over the region.
    eight_bit : bool
        Whether both images are scaled so that R becomes 255, clipped to 0 to 255 and rounded to whole grey levels first.
    """

    name: str
    summary: str
    mask: Callable[[Array], Mask] | None
    mask_text: str
    data_range: Callable[[Array, Mask | None], float]
    range_text: str
    window: Window = GAUSSIAN
    slices: Literal["never", "in-plane", "always"] = "never"
    slice_mean: frozenset[str] = frozenset()
    eight_bit: bool = False

    def prepare(self, data: Array, data_range: float) -> Array:
        """Image as the convention sees it: itself, or with 256 grey levels; scanner units."""
        if not self.eight_bit:
            return data
        levels = np.rint(np.clip(data * np.float32(GREY_LEVELS / data_range), 0, GREY_LEVELS))
        return np.asarray(levels * np.float32(data_range / GREY_LEVELS), np.float32)


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


_ALL_VOXELS = "none (all voxels of the region)"
_MAXIMUM = "maximum of the reference volume"

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
                range_text="99.9th percentile of the reference in the mask",
                slices="in-plane",
            ),
            Convention(
                name="volume-max",
                summary="all voxels of the common region, R = maximum of the reference volume; SSIM 3D",
                mask=None,
                mask_text=_ALL_VOXELS,
                data_range=volume_maximum,
                range_text=_MAXIMUM,
            ),
            Convention(
                name="fastmri",
                summary="all voxels, R = maximum of the reference volume; PSNR and NMSE of the volume, SSIM 2D with scikit-image's defaults "
                "(uniform 7 x 7, sample moments, whole windows), mean over slices; as the fastMRI code, DCAMSR and MTrans",
                mask=None,
                mask_text=_ALL_VOXELS,
                data_range=volume_maximum,
                range_text=_MAXIMUM,
                window=Window(taps=7, sigma=0, sample=True, valid=True),
                slices="always",
                slice_mean=frozenset({"ssim"}),
            ),
            Convention(
                name="basicsr8",
                summary="all voxels of slices with 256 grey levels (maximum of the reference volume = 255, clipped, rounded); PSNR (R = 255, "
                "identical slices left out) and SSIM (Gaussian 11 x 11, sigma 1.5, whole windows) are means over slices, no border cut, no "
                "padding to 256 x 256; as BasicSR and TransMRSR measure grey PNG slices",
                mask=None,
                mask_text=_ALL_VOXELS,
                data_range=volume_maximum,
                range_text=f"{_MAXIMUM} = grey level {GREY_LEVELS}",
                window=Window(valid=True),
                slices="always",
                slice_mean=frozenset({"psnr", "ssim", "psnr_box"}),
                eight_bit=True,
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
