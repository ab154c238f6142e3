from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation import CONVENTIONS, get_convention


@pytest.fixture
def data():
    """Background 4, a block of 100 with a hole, one voxel of 6, one outlier of 5000."""
    array = np.full((12, 12, 12), 4.0)
    array[2:10, 2:10, 2:10] = 100
    array[5, 5, 5] = 0
    array[0, 0, 0] = 6
    array[3, 3, 3] = 5000
    return array


def test_names():
    assert list(CONVENTIONS) == ["mrsr-1", "volume-max"]
    assert all(name == c.name and c.summary and c.mask_text and c.ssim_text for name, c in CONVENTIONS.items())


def test_mrsr_1_mask_is_five_percent_of_the_whole_volume_with_holes_filled(data):
    data[3, 3, 3] = 100
    mask = get_convention("mrsr-1").mask(data)
    expected = np.zeros(data.shape, bool)
    expected[2:10, 2:10, 2:10] = True
    expected[0, 0, 0] = True
    assert np.array_equal(mask, expected)


def test_ranges(data):
    mask = data >= 6
    # 512 values: the 99.9th percentile lies 0.489 of the way from the last 100 to the outlier.
    assert get_convention("mrsr-1").data_range(data, mask) == pytest.approx(np.percentile(data[mask], 99.9))
    assert get_convention("volume-max").data_range(data, None) == 5000
    assert get_convention("volume-max").mask is None


def test_a_range_needs_positive_values():
    with pytest.raises(InputError, match="no positive intensities"):
        get_convention("volume-max").data_range(-np.ones((3, 3, 3)), None)


def test_unknown_name_is_one_sentence():
    with pytest.raises(InputError, match=r"Unknown convention 'psnr': use one of mrsr-1, volume-max\."):
        get_convention("psnr")


def test_a_new_convention_is_data_only(data):
    """Slice-mean PSNR, as other communities report it, needs no change elsewhere."""

    def slice_mean(reference, image, data_range, mask):
        return float(np.mean([10 * np.log10(data_range**2 / np.mean((a - b) ** 2)) for a, b in zip(reference, image, strict=True)]))

    mine = dataclasses.replace(get_convention("volume-max"), name="mine", psnr=slice_mean)
    assert mine.psnr(data, data + 1, 100, None) == pytest.approx(40)
    assert get_convention("volume-max").psnr is not slice_mean
