from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import structural_similarity

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.errors import InputError
from napari_mrsr.evaluation import Comparison, compare, format_table, headline, metrics
from napari_mrsr.evaluation.align import align
from napari_mrsr.evaluation.metrics import METRICS
from napari_mrsr.intensity import foreground_mask, intensity_range
from napari_mrsr.volume import Volume


@pytest.fixture
def block(make_affine):
    """Background 4, a block of 100 with a hole, one voxel of 6 in the corner: M is the filled block and the corner, R is 100."""
    data = np.full((12, 12, 12), 4.0)
    data[2:10, 2:10, 2:10] = 100
    data[5, 5, 5] = 0
    data[0, 0, 0] = 6
    return Volume(data, make_affine(), name="hr")


@pytest.fixture
def block_mask(block):
    mask = np.zeros(block.shape, bool)
    mask[2:10, 2:10, 2:10] = mask[0, 0, 0] = True
    return mask


@pytest.fixture(scope="module")
def head(make_affine, smooth_array):
    """A textured ball in noise-free air, on odd sizes and an oblique grid."""
    shape = (27, 31, 29)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    ball = np.linalg.norm((index - (np.array(shape) - 1) / 2) / np.array([12, 14, 13]), axis=-1) < 1
    return Volume(np.where(ball, 300 + smooth_array(shape, 1.2), 0), make_affine((1.0, 1.1, 0.9), (6, -4, 9)), name="hr")


@pytest.fixture(scope="module")
def noisy(head):
    """The head with an error of 20 everywhere (standard deviation)."""
    return head.replace(data=head.data + np.random.default_rng(3).normal(0, 20, head.shape), name="sr")


def scores(comparison):
    return [(r.psnr, r.ssim, r.nmse, r.mae, r.psnr_box) for r in comparison.results]


def with_degradation(volume, protocol, axis=None, scale=2):
    return volume.with_record(degradation={"protocol": protocol, "scale": scale, "axis": axis, "noise_sigma": 0.0})


# --- numbers -------------------------------------------------------------------------------------------------------------------------


def test_mrsr_1_by_hand(block, block_mask):
    candidate = block.replace(data=block.data + np.where(block_mask, 1.0, 50.0), name="sr")
    result = compare(block, [candidate])
    (score,) = result.results
    inside, total = 513, 12**3
    assert result.data_range == pytest.approx(100)
    assert score.psnr == pytest.approx(40)
    assert score.mae == pytest.approx(1)
    assert score.nmse == pytest.approx(inside / (511 * 100**2 + 6**2))
    assert score.psnr_box == pytest.approx(10 * np.log10(100**2 / ((inside + (total - inside) * 50**2) / total)))
    assert (score.name, score.resampled) == ("sr", False)
    assert (result.reference, result.convention) == ("hr", "mrsr-1")
    assert "5 %" in result.mask


def test_volume_max_by_hand(block, block_mask):
    block.data[4, 4, 4] = 400
    candidate = block.replace(data=block.data + np.where(block_mask, 1.0, 50.0))
    result = compare(block, [candidate], convention="volume-max")
    (score,) = result.results
    error = (513 + (12**3 - 513) * 50**2) / 12**3
    assert result.data_range == 400
    assert score.psnr == score.psnr_box == pytest.approx(10 * np.log10(400**2 / error))
    assert score.nmse == pytest.approx(error * 12**3 / float((block.data**2).sum()))
    assert "none" in result.mask
    assert score.ssim == pytest.approx(metrics.ssim_map(block.data, candidate.data, 400).mean(), abs=1e-5)


def test_ssim_is_the_3d_map_averaged_in_the_mask(head, noisy):
    mask = foreground_mask(head.data)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    full = structural_similarity(head.data, noisy.data, data_range=intensity_range(head.data, mask), **options)[1]
    result = compare(head, [noisy])
    assert result.results[0].ssim == pytest.approx(full[mask].mean(), abs=2e-5)
    assert result.ssim.startswith("3D, Gaussian")


def test_identical_images_and_json(head):
    result = compare(head, [head])
    (score,) = result.results
    assert (score.psnr, score.psnr_box, score.nmse, score.mae) == (np.inf, np.inf, 0, 0)
    assert score.ssim == pytest.approx(1, abs=1e-6)
    content = result.model_dump(mode="json")
    text = json.dumps(content, allow_nan=False)
    assert json.loads(text)["results"][0]["psnr"] is None
    assert Comparison.model_validate_json(text) == result
    assert json.loads(result.model_dump_json()) == content


def test_json_keys(head, noisy):
    content = compare(head, [noisy]).model_dump(mode="json")
    assert list(content) == ["reference", "convention", "mask", "data_range", "ssim", "region", "notes", "results"]
    assert list(content["results"][0]) == ["name", *METRICS, "resampled", "intervals", "dice"]
    assert content["region"] == {
        "description": "whole reference (27 x 31 x 29 voxels)",
        "lower": [0, 0, 0],
        "upper": [27, 31, 29],
        "fraction": 1.0,
    }


def test_integers_score_as_their_values(head, noisy):
    rounded = [v.replace(data=np.clip(v.data, 0, None).astype(np.uint16)) for v in (head, noisy)]
    as_float = [v.replace(data=v.data.astype(np.float64)) for v in rounded]
    assert scores(compare(rounded[0], [rounded[1]]))[0] == pytest.approx(scores(compare(as_float[0], [as_float[1]]))[0])


def test_names_are_unique(head, noisy):
    result = compare(head, [noisy, noisy, noisy.replace(name="sr (2)")])
    assert [r.name for r in result.results] == ["sr", "sr (2)", "sr (2) (2)"]


# --- 2D SSIM for in-plane degradations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("protocol", "axis"), [("kspace", "S"), ("bicubic", "A"), ("kspace", "R")])
def test_in_plane_protocols_get_2d_ssim(head, noisy, protocol, axis):
    number = "RAS".index(axis)
    mask = foreground_mask(head.data)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    data_range = intensity_range(head.data, mask)
    pairs = zip(*(np.moveaxis(v.data, number, 0) for v in (head, noisy)), strict=True)
    maps = np.moveaxis(np.stack([structural_similarity(a, b, data_range=data_range, **options)[1] for a, b in pairs]), 0, number)
    result = compare(head, [with_degradation(noisy, protocol, axis)])
    assert result.results[0].ssim == pytest.approx(maps[mask].mean(), abs=2e-5)
    assert result.results[0].ssim != pytest.approx(compare(head, [noisy]).results[0].ssim, abs=1e-3)
    assert result.ssim.startswith(f"2D in slices across {axis} (in-plane degradation {protocol})")


def test_record_without_an_axis_means_the_reference_slices(head, noisy):
    assert compare(head, [with_degradation(noisy, "kspace")]).ssim.startswith("2D in slices across A")  # 1.1 mm is the coarsest


def test_candidates_without_a_record_follow(head, noisy):
    result = compare(head, [noisy, with_degradation(noisy, "kspace", "S")])
    assert result.ssim.startswith("2D in slices across S")
    assert result.results[0].ssim == result.results[1].ssim


@pytest.mark.parametrize("other", [("kspace", "R"), ("gaussian", None)])
def test_disagreeing_records_get_3d_ssim(head, noisy, other):
    result = compare(head, [with_degradation(noisy, "kspace", "S"), with_degradation(noisy, *other)])
    assert result.ssim.startswith("3D because the candidates' records disagree (kspace across S, ")
    assert result.results[0].ssim == compare(head, [noisy]).results[0].ssim


def test_other_patterns_and_conventions_stay_3d(head, noisy):
    assert compare(head, [with_degradation(noisy, "slice-profile", "S")]).ssim.startswith("3D, ")
    assert compare(head, [with_degradation(noisy, "kspace", "S")], convention="volume-max").ssim.startswith("3D, ")


def test_degraded_volume_is_scored_by_its_own_record(head):
    lr = degrade(head, Degradation(protocol="kspace", scale=2, axis="S"))
    assert compare(head, [lr]).ssim.startswith("2D in slices across S (in-plane degradation kspace)")


def test_thin_volumes_name_the_axis_without_window(head, noisy):
    thin = [v.crop([slice(None), slice(None), slice(10, 15)]) for v in (head, noisy)]
    assert compare(thin[0], [thin[1]]).ssim.endswith("no window along S (fewer than 11 voxels)")


# --- geometry ------------------------------------------------------------------------------------------------------------------------


def test_scores_do_not_depend_on_storage(head, noisy, store, storage_order):
    lr = degrade(head, Degradation(scale=2))
    expected = scores(compare(head, [noisy, lr]))

    def stored(volume):
        data, affine = store(volume.data, volume.affine, *storage_order)
        return Volume(data, affine, name=volume.name)

    assert np.allclose(scores(compare(stored(head), [noisy, lr])), expected, rtol=1e-5)
    assert np.allclose(scores(compare(head, [stored(noisy), stored(lr)])), expected, rtol=1e-5)


@pytest.fixture
def no_resampling(monkeypatch):
    def refuse(*_args):
        raise AssertionError("resampled although the lattices coincide")

    monkeypatch.setattr("napari_mrsr.evaluation.align.resample", refuse)


@pytest.mark.usefixtures("no_resampling")
def test_coinciding_lattices_are_never_resampled(head, noisy, store):
    part = noisy.crop([slice(3, 20), slice(4, 31), slice(0, 25)])
    wide = np.pad(noisy.data, 2, mode="edge")
    wider = Volume(wide, noisy.affine @ np.block([[np.eye(3), np.full((3, 1), -2)], [np.zeros((1, 3)), 1]]), name="wider")
    flipped = Volume(*store(noisy.data, noisy.affine, (2, 1, 0), (-1, 1, -1)), name="flipped")
    rounded = Volume(noisy.data, noisy.affine.astype(np.float32), name="rounded header")
    rounded.affine[:3, 3] += 1e-3
    for candidate in (noisy, part, wider, flipped, rounded):
        (score,) = compare(head, [candidate]).results
        assert not score.resampled
    together = compare(head, [noisy, part, wider, flipped, rounded])
    assert np.ptp([r.psnr for r in together.results]) == 0


@pytest.mark.usefixtures("no_resampling")
def test_odd_sizes_leave_a_remainder_that_is_named(head):
    covered = head.crop([slice(0, 26), slice(0, 30), slice(0, 28)])
    result = compare(head, [covered])
    assert result.region.upper == [26, 30, 28]
    assert result.region.fraction == pytest.approx(26 * 30 * 28 / (27 * 31 * 29))
    expected = "26 x 30 x 28 of the reference's 27 x 31 x 29 voxels (R 0 to 25, A 0 to 29, S 0 to 27; the rest is not covered)"
    assert result.region.description == expected
    assert result.results[0].psnr == np.inf


@pytest.mark.usefixtures("no_resampling")
def test_region_of_interest_is_scored_on_itself_only(head, noisy):
    slices = (slice(5, 20), slice(6, 25), slice(4, 22))
    roi = noisy.crop(slices).replace(name="roi")
    spoiled = noisy.data.copy()
    outside = np.ones(spoiled.shape, bool)
    outside[slices] = False
    spoiled[outside] += 500
    result = compare(head, [roi, noisy.replace(data=spoiled, name="whole")])
    mask = foreground_mask(head.data)
    expected = metrics.psnr(head.data[slices], roi.data, intensity_range(head.data, mask), mask[slices])
    assert [r.psnr for r in result.results] == pytest.approx([expected, expected], abs=1e-4)
    assert (result.region.lower, result.region.upper) == ([5, 6, 4], [20, 25, 22])
    # Same range as for the whole volume, so numbers of regions can be set side by side.
    assert result.data_range == compare(head, [noisy]).data_range


def test_other_grids_are_resampled_and_said_so(head, caplog):
    lr = degrade(head, Degradation(scale=2))
    with caplog.at_level(logging.WARNING, "napari_mrsr"):
        result = compare(head, [head, lr])
    assert [r.resampled for r in result.results] == [False, True]
    assert f"resampled onto the reference's grid by cubic B-spline: {lr.name}" in result.region.description
    assert result.region.upper == [26, 30, 28]
    assert f"{lr.name}: not on the grid of hr" in caplog.text
    assert result.results[0].psnr == np.inf


def test_rotated_grid_counts_only_what_it_covers(head, make_affine):
    turned = Volume(np.full((26, 26, 26), 3.0), make_affine((1, 1, 1), (0, 0, 40), origin=(-20.0, 20.0, 10.0)), name="turned")
    turned.data[0, 0, 0] = 4
    aligned = align(head, [turned])
    result = compare(head, [turned])
    assert result.region.fraction == pytest.approx(aligned.covered.sum() / head.data.size)
    assert result.region.fraction < np.prod(np.subtract(result.region.upper, result.region.lower)) / head.data.size
    assert "lie outside a rotated candidate and do not count" in result.region.description
    truth = aligned.reference.data[aligned.covered]
    expected = 10 * np.log10(result.data_range**2 / np.mean((truth - 3.0) ** 2))
    assert result.results[0].psnr_box == pytest.approx(expected, abs=0.01)


def test_half_a_voxel_of_shift_is_punished(head_crop):
    rng = np.random.default_rng(0)
    good = head_crop.replace(data=head_crop.data + rng.normal(0, 0.005 * intensity_range(head_crop.data), head_crop.shape))
    shift = np.eye(4)
    shift[0, 3] = 0.5
    moved = good.replace(affine=good.affine @ shift)
    right, wrong = compare(head_crop, [good]).results[0], compare(head_crop, [moved]).results[0]
    assert right.psnr > 44
    assert wrong.psnr < right.psnr - 15
    assert wrong.ssim < right.ssim


def test_swapped_axes_are_punished(head_crop):
    swapped = head_crop.replace(data=np.swapaxes(head_crop.data, 0, 1))
    blurred = head_crop.replace(data=ndimage.gaussian_filter(head_crop.data, 1.0))
    result = compare(head_crop, [swapped, blurred])
    assert result.results[0].psnr < result.results[1].psnr - 5


# --- masks ---------------------------------------------------------------------------------------------------------------------------


def test_given_mask(block):
    chosen = np.zeros(block.shape, np.uint8)
    chosen[2:10, 2:10, 2] = 1
    candidate = block.replace(data=block.data + np.where(chosen, 2.0, 30.0))
    result = compare(block, [candidate], mask=block.replace(data=chosen, name="brain"))
    assert result.mask == "given mask brain"
    assert result.results[0].psnr == pytest.approx(20 * np.log10(100 / 2))


def test_given_mask_on_another_grid_is_named(head, noisy, make_affine):
    affine = head.affine @ np.diag([2, 2, 2, 1.0])
    affine[:3, 3] += head.affine[:3, :3] @ [0.5, 0.5, 0.5]
    coarse = np.zeros((13, 15, 14), np.uint8)
    coarse[4:9, 5:10, 4:9] = 1
    fine = np.zeros(head.shape, np.uint8)
    fine[8:18, 10:20, 8:18] = 1
    result = compare(head, [noisy], mask=Volume(coarse, affine, name="brain"))
    assert result.mask == "given mask brain, resampled to the reference's grid (nearest neighbour)"
    assert scores(result) == scores(compare(head, [noisy], mask=head.replace(data=fine)))


# --- bad input -----------------------------------------------------------------------------------------------------------------------


def spoil(volume, value):
    data = volume.data.copy()
    data[3, 4, 5] = value
    return volume.replace(data=data, name="spoiled")


def far_away(volume):
    affine = volume.affine.copy()
    affine[:3, 3] += 500
    return volume.replace(affine=affine, name="far")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda hr, sr: (hr, []), r"Nothing to compare"),
        (lambda hr, sr: (hr, [spoil(sr, np.nan)]), r"spoiled: 1 voxels are NaN or infinite"),
        (lambda hr, sr: (hr, [spoil(sr, np.inf)]), r"spoiled: 1 voxels are NaN or infinite"),
        (lambda hr, sr: (spoil(hr, np.nan), [sr]), r"spoiled: 1 voxels are NaN or infinite"),
        (lambda hr, sr: (hr.replace(data=np.zeros(hr.shape)), [sr]), r"hr: all voxels have the same value"),
        (lambda hr, sr: (hr, [sr.replace(data=np.ones(hr.shape))]), r"sr: all voxels have the same value"),
        (lambda hr, sr: (hr, [sr, far_away(sr)]), r"hr and far do not overlap: hr spans \(-?\d+\.\d, .*\) mm, far spans .* mm\."),
        (lambda hr, sr: (hr, [sr.crop([slice(8, 18)] * 3)]), r"SSIM needs at least 11 voxels along two axes, the region has 10 x 10 x 10"),
        (lambda hr, sr: (hr, [with_degradation(sr, "nonsense")]), r"Unknown protocol 'nonsense'"),
    ],
)
def test_bad_input_is_one_sentence(head, noisy, change, sentence):
    reference, candidates = change(head, noisy)
    with pytest.raises(InputError, match=sentence) as caught:
        compare(reference, candidates)
    assert "\n" not in str(caught.value)


def test_region_without_tissue(make_affine):
    data = np.random.default_rng(0).uniform(0, 1, (40, 16, 16))
    data[20:] += 1000
    hr = Volume(data, make_affine(), name="hr")
    with pytest.raises(InputError, match="holds no voxel of the mask"):
        compare(hr, [hr.crop([slice(0, 15), slice(None), slice(None)])])
    hr.data[:20] = 0
    corner = hr.crop([slice(0, 15), slice(None), slice(None)])
    corner = corner.replace(data=np.random.default_rng(1).uniform(0, 1, corner.shape))
    with pytest.raises(InputError, match="hr is zero throughout the common region"):
        compare(hr, [corner], convention="volume-max")


def test_options(head, noisy):
    with pytest.raises(InputError, match="Unknown convention 'psnr'"):
        compare(head, [noisy], convention="psnr")
    with pytest.raises(InputError, match="brain: the mask holds no voxel of hr"):
        compare(head, [noisy], mask=head.replace(data=np.zeros(head.shape), name="brain"))


# --- text ----------------------------------------------------------------------------------------------------------------------------


def test_table(head, noisy):
    result = compare(head, [noisy, head.replace(name="a longer name")])
    lines = format_table(result).splitlines()
    assert lines[0] == headline(result)
    for part in ("mrsr-1", result.mask, f"{result.data_range:.6g}", result.region.description, result.ssim):
        assert part in lines[0]
    assert lines[1] == "reference hr; * best"
    assert lines[2].split() == ["PSNR", "[dB]", "SSIM", "NMSE", "MAE", "Grad.", "error", "HFEN", "PSNR", "box", "[dB]"]
    score = result.results[0]
    expected = [f"{score.psnr:.2f}", f"{score.ssim:.4f}", f"{score.nmse:.5f}", f"{score.mae:.4g}"]
    expected += [f"{score.gradient_error:.4f}", f"{score.hfen:.4f}", f"{score.psnr_box:.2f}"]
    assert lines[3].split() == ["sr", *expected]
    assert lines[4].split() == ["a", "longer", "name", "inf*", "1.0000*", "0.00000*", "0*", "0.0000*", "0.0000*", "inf*"]
    assert len({len(line) for line in lines[2:]}) == 1
