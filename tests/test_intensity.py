from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.errors import InputError
from napari_mrsr.intensity import estimate_noise, foreground_mask, intensity_range, require_content
from napari_mrsr.io import read_volume


def ball(shape=(40, 44, 36), radius=14.0):
    grid = np.indices(shape) - (np.array(shape) - 1).reshape(3, 1, 1, 1) / 2
    return np.sqrt((grid**2).sum(0)) < radius


def test_mask_is_brighter_than_five_percent_with_holes_filled():
    data = np.where(ball(), 100.0, 4.9)
    data[18:22, 20:23, 16:19] = 0
    np.testing.assert_array_equal(foreground_mask(data), ball())
    data[~ball()] = 5.1
    assert foreground_mask(data).all()


def test_mask_equals_scipys_hole_filling():
    data = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((24, 20, 22)), 1.0) + 0.15
    threshold = 0.05 * np.percentile(data, 99.9)
    expected = ndimage.binary_fill_holes(data > threshold)
    assert (expected & ~(data > threshold)).sum() > 0
    np.testing.assert_array_equal(foreground_mask(data), expected)


def test_mask_follows_intensity_scale(smooth_array):
    data = smooth_array((20, 20, 20)) - 300
    np.testing.assert_array_equal(foreground_mask(data), foreground_mask(1e-3 * data))


def test_hole_open_to_the_border_is_no_hole():
    data = np.where(ball(), 100.0, 0)
    data[:20, 22, 18] = 0
    assert not foreground_mask(data)[:20, 22, 18].any()


def test_range_is_the_percentile_inside_the_mask():
    rng = np.random.default_rng(0)
    data = np.where(ball(), rng.uniform(20, 100, ball().shape), 0.0)
    inside = foreground_mask(data)
    assert intensity_range(data) == pytest.approx(np.percentile(data[inside], 99.9))
    assert intensity_range(data) != pytest.approx(np.percentile(data, 99.9), rel=1e-6)
    half = np.zeros_like(inside)
    half[:20] = True
    assert intensity_range(data, half) == pytest.approx(np.percentile(data[half], 99.9))


@pytest.mark.parametrize("data", [np.zeros((4, 4, 4)), np.full((4, 4, 4), -3.0)])
def test_range_refuses_images_without_positive_values(data):
    with pytest.raises(InputError, match="no positive intensities"):
        intensity_range(data)


@pytest.mark.parametrize("data", [np.zeros((3, 3, 3)), np.full((3, 3, 3), 7), np.zeros((0, 3, 3))])
def test_constant_or_empty_volumes_are_refused(data):
    with pytest.raises(InputError, match="scan: all voxels have the same value"):
        require_content(data, "scan")
    require_content(np.arange(8.0).reshape(2, 2, 2), "scan")
    lone = np.zeros((70, 5, 40))
    lone[33, 2, 39] = 1
    require_content(lone, "scan")


def noisy_ball(smooth_array, shape, percent):
    clean = np.where(ball(shape), 500 + smooth_array(shape, 3.0), 0.0)
    sigma = percent / 100 * np.percentile(clean[ball(shape)], 99.9)
    rng = np.random.default_rng(2)
    return np.hypot(clean + sigma * rng.standard_normal(shape), sigma * rng.standard_normal(shape)), sigma


@pytest.mark.parametrize("percent", [0.5, 1, 3])
def test_noise_estimate_in_foreground(smooth_array, percent):
    noisy, sigma = noisy_ball(smooth_array, (40, 44, 36), percent)
    assert estimate_noise(noisy) == pytest.approx(sigma, rel=0.2)


def test_noise_estimate_is_not_taken_from_the_background(smooth_array):
    """Rician noise of 5 % lifts the background over the mask's threshold; its spread is only 0.66 sigma."""
    noisy, sigma = noisy_ball(smooth_array, (80, 80, 80), 5)
    assert estimate_noise(noisy) == pytest.approx(sigma, rel=0.2)


def test_noise_estimate_of_a_clean_image_is_small(smooth_array):
    clean = np.where(ball(), 500 + smooth_array(ball().shape, 3.0), 0.0)
    assert estimate_noise(clean) < 2
    assert estimate_noise(np.where(ball(), 100.0, 0)) == 0


def test_noise_estimate_scales_and_says_nothing_on_small_images():
    rng = np.random.default_rng(0)
    noisy = 100 + 5 * rng.standard_normal((40, 40, 1))
    assert estimate_noise(10 * noisy) == pytest.approx(10 * estimate_noise(noisy), rel=1e-4)
    assert estimate_noise(rng.uniform(1, 2, (6, 6, 6))) == 0


@pytest.mark.parametrize("percent", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("t1_3d/test/sub-nvn/sub-nvn_T1w.nii.gz", "gaussian"),
        ("t1_3d/test/sub-nvn/sub-nvn_T1w.nii.gz", "bicubic"),
        ("t1_3d/test/sub-arc2017/sub-arc2017_T1w.nii.gz", "gaussian"),
        ("multi_1mm/train/sub-msx07/sub-msx07_T1w.nii.gz", "gaussian"),
        ("brats_like/test/sub-fg6692/sub-fg6692_T2w.nii.gz", "kspace"),
    ],
)
def test_noise_of_real_low_resolution(shared_data, name, protocol, percent):
    """With scalp and stripped, T1 and T2: within 20 % of what was added."""
    truth = read_volume(shared_data(name))
    low = degrade(truth, Degradation(protocol=protocol, noise=percent))
    assert estimate_noise(low.data) == pytest.approx(percent / 100 * intensity_range(truth.data), rel=0.2)
