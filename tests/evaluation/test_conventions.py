from __future__ import annotations

import numpy as np
import pytest
from skimage import metrics

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation import CONVENTIONS, compare, get_convention
from napari_mrsr.volume import Volume


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
    assert list(CONVENTIONS) == ["mrsr-1", "volume-max", "fastmri", "basicsr8"]
    assert all(name == c.name and c.summary and c.mask_text and c.range_text for name, c in CONVENTIONS.items())


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
    with pytest.raises(InputError, match=r"Unknown convention 'psnr': use one of mrsr-1, volume-max, fastmri, basicsr8\."):
        get_convention("psnr")


def test_grey_levels(data):
    rules = get_convention("basicsr8")
    seen = rules.prepare(np.array([-3.0, 0.0, 1.9, 2.1, 510.0, 600.0], np.float32), 510.0)
    assert seen == pytest.approx([0, 0, 2, 2, 510, 510])
    assert get_convention("fastmri").prepare(data, 100.0) is data


@pytest.fixture
def pair(make_affine, smooth_array):
    """A noisy image of which the first and third slice are as they should be, in slices across S."""
    truth = Volume(smooth_array((24, 22, 9), 1.5), make_affine((1, 1, 2)), name="hr")
    error = np.random.default_rng(0).normal(0, 40, truth.shape)
    error[..., [0, 2]] = 0
    return truth, truth.replace(data=truth.data + error, name="sr")


def test_fastmri_is_what_the_fastmri_code_computes(pair):
    """fastmri/evaluate.py: mse, nmse, psnr and ssim of stacks of slices, skimage's defaults, range of the whole volume."""
    truth, image = (v.data.transpose(2, 0, 1) for v in pair)
    largest = truth.max()
    (score,) = compare(pair[0], [pair[1]], convention="fastmri").results
    assert score.nmse == pytest.approx(np.linalg.norm(truth - image) ** 2 / np.linalg.norm(truth) ** 2, rel=1e-5)
    assert score.psnr == score.psnr_box == pytest.approx(metrics.peak_signal_noise_ratio(truth, image, data_range=largest), abs=1e-4)
    expected = np.mean([metrics.structural_similarity(a, b, data_range=largest) for a, b in zip(truth, image, strict=True)])
    assert score.ssim == pytest.approx(expected, abs=2e-5)


def test_basicsr8_is_the_mean_over_grey_slices(pair):
    truth, image = (np.rint(np.clip(v.data * 255 / pair[0].data.max(), 0, 255)).transpose(2, 0, 1) for v in pair)
    (score,) = compare(pair[0], [pair[1]], convention="basicsr8").results
    noisy = [i for i in range(9) if i not in (0, 2)]
    assert score.psnr == pytest.approx(np.mean([10 * np.log10(255**2 / np.mean((truth[i] - image[i]) ** 2)) for i in noisy]), abs=1e-3)

    def structure(a, b):
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
        return metrics.structural_similarity(a, b, data_range=255, **options)[1][5:-5, 5:-5].mean()

    assert score.ssim == pytest.approx(np.mean([structure(a, b) for a, b in zip(truth, image, strict=True)]), abs=2e-5)
    assert compare(pair[0], [pair[0]], convention="basicsr8").results[0].psnr == np.inf


def test_slices_of_thick_slices_hold_the_thick_axis(pair):
    record = {"protocol": "slice-profile", "scale": 2, "axis": "S", "noise_sigma": 0.0}
    thick = pair[1].replace(data=np.repeat(pair[1].data, 3, 2), affine=pair[1].affine @ np.diag([1, 1, 1 / 3, 1])).with_record(degradation=record)
    text = compare(thick, [thick], convention="basicsr8").ssim
    assert text.startswith("2D in slices across R (through-plane degradation slice-profile), Gaussian")
    assert compare(thick, [thick]).ssim.startswith("3D, ")
