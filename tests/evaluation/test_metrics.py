from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage import metrics as skimage_metrics

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.metrics import METRICS, Sum, Window, laplacian_of_gaussian, psnr, ssim_map

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


def score(metric, data_range=10.0, **sums):
    array = np.zeros(len(Sum))
    for name, value in sums.items():
        array[Sum[name.upper()]] = value
    return float(METRICS[metric].function(array, data_range))


def test_golden_numbers_by_hand():
    # squared errors 0, 0, 4, 4
    assert psnr(REFERENCE, IMAGE, 10) == pytest.approx(10 * np.log10(100 / 2))
    assert psnr(REFERENCE, IMAGE, 10, LAST_TWO) == pytest.approx(10 * np.log10(100 / 4))
    assert psnr(REFERENCE, IMAGE, 20) - psnr(REFERENCE, IMAGE, 10) == pytest.approx(20 * np.log10(2))
    assert score("psnr", square=8, voxels=4) == pytest.approx(10 * np.log10(100 / 2))
    assert score("psnr_box", box_square=8, box_voxels=2) == pytest.approx(10 * np.log10(100 / 4))
    assert score("nmse", square=8, power=100) == pytest.approx(8 / 100)
    assert score("mae", absolute=4, voxels=4) == 1
    assert score("ssim", ssim=3, windows=4) == 0.75
    assert score("gradient_error", gradient=4, edges=100) == pytest.approx(0.2)
    assert score("hfen", log=9, structure=100) == pytest.approx(0.3)


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_counted_has_no_score(metric):
    assert np.isnan(score(metric))


def test_the_best_is_the_largest_or_smallest():
    assert METRICS["psnr"].best([20, np.inf, 30]) == 1
    assert METRICS["nmse"].best([0.2, np.nan, 0.1]) == 2
    assert METRICS["psnr"].best([20]) is METRICS["psnr"].best([20, 20]) is METRICS["psnr"].best([20, np.nan]) is None


def test_psnr_of_equal_images_is_infinite():
    assert psnr(REFERENCE, REFERENCE, 10) == np.inf


def test_unsigned_integers_do_not_wrap():
    a, b = np.full((2, 2, 2), 200, np.uint8), np.full((2, 2, 2), 203, np.uint8)
    assert psnr(b, a, 255) == pytest.approx(psnr(a, b, 255)) == pytest.approx(20 * np.log10(255 / 3))


def test_psnr_equals_skimage():
    a, b = pair((9, 8, 7))
    assert psnr(a, b, 1000) == pytest.approx(skimage_metrics.peak_signal_noise_ratio(a, b, data_range=1000))


def test_ssim_of_flat_images_by_hand():
    # No variance, no covariance: only the luminance term is left.
    a, b = np.full((12, 12, 12), 100.0), np.full((12, 12, 12), 150.0)
    c1 = (0.01 * 255) ** 2
    assert ssim_map(a, b, 255) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), abs=1e-5)


def test_ssim_of_equal_images_is_one():
    a, _ = pair((14, 12, 13))
    equal = ssim_map(a, a, 1000)
    assert equal == pytest.approx(1, abs=1e-6)
    assert equal.max() <= 1


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


@pytest.mark.parametrize("axis", [None, 0, 2])
def test_ssim_of_uniform_windows_equals_skimage(axis):
    a, b = pair((13, 12, 11))
    window = Window(taps=7, sigma=0, sample=True, valid=True)
    if axis is None:
        expected = skimage_metrics.structural_similarity(a, b, data_range=1000, full=True)[1]
    else:
        slices = zip(np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0), strict=True)
        maps = [skimage_metrics.structural_similarity(x, y, data_range=1000, full=True)[1] for x, y in slices]
        expected = np.moveaxis(np.stack(maps), 0, axis)
    assert ssim_map(a, b, 1000, axis, window) == pytest.approx(expected, abs=2e-5)
    assert window.text == "uniform window, 7 taps, sample moments, whole windows only"


def test_laplacian_of_gaussian_is_the_15_tap_kernel():
    """Dense kernel as MATLAB's fspecial("log", 15, 1.5), which Ravishankar and Bresler use, on a slice."""
    y, x = np.mgrid[-7:8, -7:8]
    bell = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    kernel = bell / bell.sum() * (x**2 + y**2 - 2 * 1.5**2) / 1.5**4
    kernel -= kernel.mean()
    image = pair((31, 29, 2))[0]
    for index in range(2):
        expected = ndimage.convolve(image[..., index], kernel, mode="reflect")
        assert laplacian_of_gaussian(image, 2)[..., index] == pytest.approx(expected, abs=2e-3 * np.abs(expected).max())


def test_laplacian_of_gaussian_in_space_and_of_one_slice():
    x = np.arange(40.0)
    parabola = (x[:, None, None] ** 2 + 2 * x[None, :, None] ** 2 + 3 * x[None, None] ** 2).astype(np.float32)
    assert laplacian_of_gaussian(parabola)[10:-10, 10:-10, 10:-10] == pytest.approx(2 * (1 + 2 + 3), rel=1e-2)
    flat = parabola[:, :, :1]
    assert laplacian_of_gaussian(flat)[10:-10, 10:-10] == pytest.approx(2 * (1 + 2), rel=1e-2)


@pytest.mark.parametrize(("shape", "axis"), [((10, 10, 30), None), ((30, 30, 4), 0)])
def test_regions_without_a_window_are_refused(shape, axis):
    a, b = pair(shape)
    with pytest.raises(InputError, match="at least 11 voxels along two axes"):
        ssim_map(a, b, 1000, axis)
