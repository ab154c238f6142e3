from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import metrics as skimage_metrics

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.metrics import mae, nmse, psnr, ssim, ssim_map

REFERENCE = np.array([0.0, 0.0, 0.0, 10.0]).reshape(2, 2, 1)
IMAGE = np.array([0.0, 0.0, 2.0, 8.0]).reshape(2, 2, 1)
LAST_TWO = np.array([False, False, True, True]).reshape(2, 2, 1)


def pair(shape, seed=0):
    rng = np.random.default_rng(seed)
    reference = rng.uniform(0, 1000, shape)
    return reference, reference + rng.normal(0, 60, shape)


def skimage_ssim(a, b, data_range):
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    return skimage_metrics.structural_similarity(a, b, data_range=data_range, **options)[1]


def test_golden_numbers_by_hand():
    # squared errors 0, 0, 4, 4
    assert psnr(REFERENCE, IMAGE, 10) == pytest.approx(10 * np.log10(100 / 2))
    assert psnr(REFERENCE, IMAGE, 10, LAST_TWO) == pytest.approx(10 * np.log10(100 / 4))
    assert psnr(REFERENCE, IMAGE, 20) - psnr(REFERENCE, IMAGE, 10) == pytest.approx(20 * np.log10(2))
    assert nmse(REFERENCE, IMAGE) == pytest.approx(8 / 100)
    assert mae(REFERENCE, IMAGE) == pytest.approx(1.0)
    assert mae(REFERENCE, IMAGE, LAST_TWO) == pytest.approx(2.0)


def test_nmse_is_normalised_by_the_reference():
    assert nmse(IMAGE, REFERENCE) == pytest.approx(8 / 68)


def test_psnr_of_equal_images_is_infinite():
    assert psnr(REFERENCE, REFERENCE, 10) == np.inf


def test_unsigned_integers_do_not_wrap():
    a, b = np.full((2, 2, 2), 200, np.uint8), np.full((2, 2, 2), 203, np.uint8)
    assert psnr(b, a, 255) == pytest.approx(psnr(a, b, 255)) == pytest.approx(20 * np.log10(255 / 3))


def test_psnr_and_nmse_equal_skimage():
    a, b = pair((9, 8, 7))
    assert psnr(a, b, 1000) == pytest.approx(skimage_metrics.peak_signal_noise_ratio(a, b, data_range=1000))
    assert nmse(a, b) == pytest.approx(skimage_metrics.normalized_root_mse(a, b, normalization="euclidean") ** 2)


def test_ssim_of_flat_images_by_hand():
    # No variance, no covariance: only the luminance term is left.
    a, b = np.full((12, 12, 12), 100.0), np.full((12, 12, 12), 150.0)
    c1 = (0.01 * 255) ** 2
    assert ssim_map(a, b, 255) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), abs=1e-5)


def test_ssim_of_equal_images_is_one():
    a, _ = pair((14, 12, 13))
    assert ssim(a, a, 1000) == pytest.approx(1, abs=1e-6)
    assert ssim_map(a, a, 1000).max() <= 1


def test_ssim_3d_equals_skimage():
    a, b = pair((17, 12, 15))
    assert ssim_map(a, b, 1000) == pytest.approx(skimage_ssim(a, b, 1000), abs=2e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ssim_2d_equals_skimage_slice_by_slice(axis):
    a, b = pair((13, 12, 11))
    slices = zip(np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0), strict=True)
    expected = np.moveaxis(np.stack([skimage_ssim(x, y, 1000) for x, y in slices]), 0, axis)
    assert ssim_map(a, b, 1000, axis) == pytest.approx(expected, abs=2e-5)


def test_single_slice_has_2d_windows():
    a, b = pair((20, 1, 16))
    assert ssim_map(a, b, 1000)[:, 0] == pytest.approx(skimage_ssim(a[:, 0], b[:, 0], 1000), abs=2e-5)


@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 18), st.integers(0, 13)), min_size=1, max_size=3), st.sampled_from([None, 0, 1, 2]))
def test_masked_ssim_is_the_mean_of_the_whole_map(voxels, axis):
    a, b = pair((30, 19, 14))
    mask = np.zeros(a.shape, bool)
    mask[tuple(np.array(voxels).T)] = True
    assert ssim(a, b, 1000, mask, axis) == pytest.approx(float(ssim_map(a, b, 1000, axis)[mask].mean()), abs=1e-5)


def test_masked_ssim_of_a_thin_volume():
    a, b = pair((30, 30, 5))
    mask = np.zeros(a.shape, bool)
    mask[12:15, 3:9, 1:3] = True
    assert ssim(a, b, 1000, mask) == pytest.approx(float(ssim_map(a, b, 1000)[mask].mean()), abs=1e-5)


@pytest.mark.parametrize(("shape", "axis"), [((10, 10, 30), None), ((30, 30, 4), 0)])
def test_regions_without_a_window_are_refused(shape, axis):
    a, b = pair(shape)
    with pytest.raises(InputError, match="at least 11 voxels along two axes"):
        ssim_map(a, b, 1000, axis)
