from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.trust import data_consistency, disagreement
from napari_mrsr.inference import super_resolve
from napari_mrsr.intensity import intensity_range
from napari_mrsr.volume import Volume

PROTOCOLS = [
    Degradation(),
    Degradation(scale=3),
    Degradation(protocol="gaussian-zoom"),
    Degradation(protocol="kspace", axis="S"),
    Degradation(protocol="kspace", scale=3, axis="R"),
    Degradation(protocol="slice-profile", scale=4, axis="A"),
    Degradation(protocol="bicubic", axis="S"),
]


@pytest.fixture
def truth(make_volume):
    return make_volume((36, 41, 38), (1, 1.1, 0.9), (6, -4, 9), sigma=1.5, name="truth")


@pytest.mark.parametrize("degradation", PROTOCOLS, ids=lambda d: f"{d.protocol}-x{d.scale}")
def test_the_truth_explains_its_own_low_resolution(truth, degradation):
    """Also where sizes are no multiple of the factor."""
    low = degrade(truth, degradation)
    numbers, residual = data_consistency(low, truth)
    assert numbers.nrmse < 1e-6
    assert not numbers.resampled
    assert residual.shape == low.shape
    np.testing.assert_allclose(residual.affine, low.affine)
    assert "recorded with the input" in numbers.protocol
    wrong, _ = data_consistency(low, truth.replace(data=ndimage.gaussian_filter(truth.data, 1.0)))
    assert wrong.nrmse > 0.01


def test_the_residual_is_degraded_result_minus_input(truth):
    low = degrade(truth, Degradation())
    numbers, residual = data_consistency(low, truth.replace(data=truth.data + 5))
    np.testing.assert_allclose(residual.data, 5, atol=1e-2)
    assert numbers.rms == pytest.approx(5, abs=1e-2)
    assert numbers.nrmse == pytest.approx(5 / np.sqrt(np.mean(low.data**2)), rel=1e-2)
    assert residual.record["map"]["unit"] == "scanner units"


@pytest.mark.parametrize("model", ["cubic", "back-projection"])
def test_runs_say_what_they_assumed_and_back_projection_beats_cubic(head_crop, model):
    low = degrade(head_crop, Degradation()).replace(record={})
    numbers, _ = data_consistency(low, super_resolve(low, model, scale=2, protocol="gaussian"))
    assert "gaussian x2 (assumed by the run)" in numbers.protocol
    assert (numbers.nrmse < 0.01) == (model == "back-projection")


def test_a_planted_lesion_is_seen_and_a_checkerboard_is_not(head_crop):
    """What data consistency can and cannot find (EVALUATION 4); the reason for the limits that are shown."""
    low = degrade(head_crop, Degradation(noise=1, seed=3))
    size, at = 64 / 255 * intensity_range(head_crop.data), (33, 30, 28)
    plain, _ = data_consistency(low, head_crop)

    blob = head_crop.data.copy()
    blob[tuple(slice(i - 1, i + 2) for i in at)] += size
    seen, _ = data_consistency(low, head_crop.replace(data=blob))
    assert seen.peak_sigmas > 2 * plain.peak_sigmas
    assert seen.peak_sigmas > 10
    place = head_crop.affine[:3, :3] @ np.array(at) + head_crop.affine[:3, 3]
    assert np.linalg.norm(np.array(seen.at_mm) - place) < 2

    board = head_crop.data.copy()
    block = tuple(slice(i - 2, i + 2) for i in at)
    board[block] += size * (1 - 2 * (np.indices((4, 4, 4)).sum(0) % 2))
    hidden, _ = data_consistency(low, head_crop.replace(data=board))
    assert hidden.peak_sigmas == pytest.approx(plain.peak_sigmas, rel=0.02)


def test_sigma_is_the_recorded_noise_else_estimated_else_unknown(head_crop):
    noisy = degrade(head_crop, Degradation(noise=3, seed=1))
    recorded, _ = data_consistency(noisy, head_crop)
    assert recorded.sigma == noisy.record["degradation"]["noise_sigma"]
    assert recorded.rms_sigmas == pytest.approx(1, abs=0.15)
    estimated, _ = data_consistency(noisy.replace(record={}), head_crop, "gaussian")
    assert estimated.sigma == pytest.approx(recorded.sigma, rel=0.3)
    assert "estimated" in estimated.sigma_source
    clean = degrade(head_crop, Degradation())
    off = head_crop.replace(data=head_crop.data + np.random.default_rng(0).normal(0, 20, head_crop.shape))
    unknown, _ = data_consistency(clean, off)
    assert (unknown.sigma, unknown.rms_sigmas, unknown.peak_sigmas) == (None, None, None)
    assert "made without noise" in unknown.sigma_source
    tiny = clean.crop((slice(8, 12),) * 3).replace(record={})
    silent, _ = data_consistency(tiny, off, "gaussian")
    assert silent.sigma is None
    assert "none was found" in silent.sigma_source
    exact, _ = data_consistency(clean, head_crop)
    assert exact.peak == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("degradation", [Degradation(), Degradation(protocol="slice-profile", scale=3, axis="S")], ids=lambda d: d.protocol)
def test_a_region_is_compared_where_all_of_a_voxels_surroundings_are_known(truth, degradation):
    low = degrade(truth, degradation)
    whole, residual = data_consistency(low, truth.replace(data=truth.data * 1.1))
    part = truth.replace(data=truth.data * 1.1).crop([slice(7, 30), slice(3, 36), slice(8, 34)])
    numbers, found = data_consistency(low, part)
    assert 100 < numbers.voxels < whole.voxels
    assert "surroundings" in numbers.region
    offset = np.round(np.linalg.solve(low.affine, found.affine)[:3, 3]).astype(int)
    block = tuple(slice(o, o + n) for o, n in zip(offset, found.shape, strict=True))
    np.testing.assert_allclose(found.data, residual.data[block], atol=0.05)
    inner = data_consistency(low, truth.crop([slice(7, 30), slice(3, 36), slice(8, 34)]))[0]
    assert inner.nrmse < 1e-3


def test_kspace_needs_whole_slices(make_volume):
    truth = make_volume((36, 42, 24), sigma=1.5)
    low = degrade(truth, Degradation(protocol="kspace", axis="S"))
    numbers, found = data_consistency(low, truth.crop([slice(0, 36), slice(0, 42), slice(10, 20)]))
    assert numbers.nrmse < 1e-6
    assert found.shape == (18, 21, 10)
    with pytest.raises(InputError, match="covers too little"):
        data_consistency(low, truth.crop([slice(5, 30), slice(5, 30), slice(10, 20)]))


@pytest.mark.parametrize("angles", [(0, 0, 0), (3, 5, -4)])
def test_results_on_another_grid_are_resampled_and_it_is_said(head_crop, make_affine, angles):
    smooth = head_crop.replace(data=ndimage.gaussian_filter(head_crop.data, 1.2))
    low = degrade(smooth, Degradation())
    turn = make_affine((0.8, 0.8, 0.8), angles, origin=(0, 0, 0))
    middle = smooth.affine[:3, :3] @ np.full(3, 31.5) + smooth.affine[:3, 3]
    affine = turn.copy()
    affine[:3, 3] = middle - turn[:3, :3] @ np.full(3, 39.5)
    matrix = np.linalg.inv(smooth.affine) @ affine
    other = Volume(ndimage.affine_transform(smooth.data, matrix[:3, :3], matrix[:3, 3], (80, 80, 80), order=3, mode="nearest"), affine, name="tool")
    numbers, residual = data_consistency(low, other)
    assert numbers.resampled
    assert numbers.nrmse < 0.02
    inner = residual.data[4:-4, 4:-4, 4:-4]
    assert np.abs(inner).max() < 0.03 * intensity_range(low.data)


def test_a_mask_says_what_counts(truth):
    low = degrade(truth, Degradation())
    result = truth.data.copy()
    result[:18] += 30
    mask = truth.replace(data=np.zeros(truth.shape, np.uint8), name="right")
    mask.data[24:] = 1
    inside, _ = data_consistency(low, truth.replace(data=result), mask=mask)
    assert inside.rms < 0.1
    assert inside.region == "mask right"
    assert data_consistency(low, truth.replace(data=result))[0].rms > 10


def test_air_full_of_noise_does_not_count(make_volume):
    truth = make_volume((40, 40, 40), sigma=2.0)
    grid = np.indices(truth.shape) - 19.5
    inside = (grid**2).sum(0) < 14**2
    truth = truth.replace(data=np.where(inside, 500 + truth.data / 2, 0))
    numbers, _ = data_consistency(degrade(truth, Degradation(noise=4, seed=1)), truth)
    assert inside.sum() / 8 < numbers.voxels < 1.5 * inside.sum() / 8  # the blur makes the ball larger
    assert numbers.rms_sigmas == pytest.approx(1.1, abs=0.2)  # Rician noise is no longer normal at the rim


def test_what_cannot_be_checked(truth):
    low = degrade(truth, Degradation())
    bare = low.replace(record={})
    with pytest.raises(InputError, match="is not known"):
        data_consistency(bare, truth.replace(record={}))
    with pytest.raises(InputError, match="not finer"):
        data_consistency(bare, bare.replace(name="same"), "gaussian")
    far = truth.affine.copy()
    far[:3, 3] += 900
    with pytest.raises(InputError, match="does not overlap"):
        data_consistency(low, truth.replace(affine=far))
    with pytest.raises(InputError, match="NaN"):
        data_consistency(low, truth.replace(data=np.where(truth.data > 900, np.nan, truth.data)))
    with pytest.raises(InputError, match="same value"):
        data_consistency(low, truth.replace(data=np.ones(truth.shape)))


# --- disagreement ----------------------------------------------------------------------------------------------------------------------


def test_disagreement_is_the_deviation_between_results(truth):
    rng = np.random.default_rng(0)
    results = [truth.replace(data=truth.data + rng.normal(0, 30, truth.shape), name=name) for name in "abc"]
    numbers, found = disagreement(results)
    expected = np.std([r.data for r in results], axis=0)
    np.testing.assert_allclose(found.data, expected, rtol=1e-3, atol=1e-2)
    assert numbers.names == ["a", "b", "c"]
    assert numbers.peak == pytest.approx(expected.max(), rel=1e-3)
    assert numbers.percent == pytest.approx(100 * numbers.rms / intensity_range(np.mean([r.data for r in results], axis=0)), rel=1e-4)
    two, half = disagreement(results[:2])
    np.testing.assert_allclose(half.data, np.abs(results[0].data - results[1].data) / 2, rtol=1e-3, atol=1e-2)
    assert disagreement([truth, truth])[0].rms == 0
    assert two.resampled == []


def test_disagreement_where_all_are(truth):
    coarse = super_resolve(degrade(truth, Degradation()), "cubic")
    part = truth.crop([slice(4, 30), slice(2, 33), slice(0, 38)]).replace(name="part")
    lattice = truth.affine @ np.diag([0.5, 0.5, 0.5, 1])
    fine = Volume(ndimage.zoom(truth.data, 2, order=1, grid_mode=True, mode="nearest")[4:60, 4:60, 4:60], lattice, name="fine")
    numbers, found = disagreement([part, coarse, fine])
    assert found.voxel_size == pytest.approx(fine.voxel_size)
    assert set(numbers.resampled) == {part.name, coarse.name}
    mask = found.replace(data=np.zeros(found.shape, np.uint8), name="few")
    mask.data[:3] = 1
    assert disagreement([part, coarse, fine], mask)[0].rms == pytest.approx(np.sqrt(np.mean(found.data[:3].astype(float) ** 2)), rel=1e-4)


def test_what_a_rotated_result_leaves_open_does_not_count(truth, make_affine):
    turned = make_affine((1, 1, 1), (0, 0, 40), origin=(0, 0, 0))
    middle = truth.affine[:3, :3] @ (np.array(truth.shape) / 2) + truth.affine[:3, 3]
    turned[:3, 3] = middle - turned[:3, :3] @ np.full(3, 12)
    other = Volume(np.full((25, 25, 25), 3000.0) + np.indices((25, 25, 25))[0], turned, name="turned")
    numbers, found = disagreement([truth.replace(data=truth.data * 0 + 1000 + np.indices(truth.shape)[0]), other])
    assert (found.data == 0).any()
    assert numbers.rms == pytest.approx(1000, rel=0.05)


def test_one_result_cannot_disagree(truth):
    with pytest.raises(InputError, match="at least two"):
        disagreement([truth])
