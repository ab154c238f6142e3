from __future__ import annotations

import numpy as np
import pytest

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation import error_map, gradient_map
from napari_mrsr.evaluation.maps import DIFFERENCES, difference_slice, physical_gradient, shared_limits
from napari_mrsr.evaluation.metrics import ssim_map
from napari_mrsr.intensity import intensity_range
from napari_mrsr.volume import Volume

COHFT_FLOOR = np.sqrt(1e-6)


@pytest.fixture
def pair(make_volume):
    reference = make_volume((12, 14, 13), angles=(3, 4, 5), name="hr")
    data = reference.data.copy()
    data[4, 5, 6] += 3
    data[7, 5, 6] -= 2
    return reference, reference.replace(data=data, name="sr").with_record(model="m")


@pytest.mark.parametrize(("kind", "too_bright", "too_dark"), [("signed", 3, -2), ("absolute", 3, 2), ("squared", 9, 4)])
def test_error_values_and_signs(pair, kind, too_bright, too_dark):
    found = error_map(*pair, kind)
    expected = np.zeros(found.shape)
    expected[4, 5, 6], expected[7, 5, 6] = too_bright, too_dark
    assert found.data == pytest.approx(expected, abs=1e-3)
    assert found.data.dtype == np.float32
    assert np.allclose(found.affine, pair[0].affine)


def test_error_map_says_what_it_is(pair):
    found = error_map(*pair, "squared")
    assert found.name == "sr squared error"
    assert found.record == {
        "model": "m",
        "map": {"kind": "squared error", "unit": "scanner units squared", "reference": "hr", "candidate": "sr", "resampled": False},
    }


def test_error_map_of_a_part_lies_where_the_part_lies(pair):
    reference, candidate = pair
    part = candidate.crop([slice(2, 12), slice(5, 14), slice(0, 10)])
    found = error_map(reference, part)
    assert found.shape == (10, 9, 10)
    assert np.allclose(found.affine, part.affine)
    assert found.data[2, 0, 6] == pytest.approx(3, abs=1e-3)


def test_error_map_is_stored_like_the_reference(pair, store):
    reference, candidate = pair
    stored, affine = store(reference.data, reference.affine, (2, 0, 1), (1, -1, -1))
    found = error_map(Volume(stored, affine, name="hr"), candidate)
    array, written = found.to_storage()
    assert array.shape == stored.shape
    assert np.allclose(written, affine)
    assert found.data[4, 5, 6] == pytest.approx(3, abs=1e-3)


def test_error_outside_a_rotated_candidate_is_zero(make_volume, make_affine):
    reference = make_volume((20, 20, 20), sigma=4)
    turned = Volume(np.random.default_rng(0).uniform(5000, 6000, (14, 14, 14)), make_affine(angles=(0, 0, 45), origin=(-22, 13, 10)), name="sr")
    found = error_map(reference, turned, "absolute").data
    assert (found == 0).any()
    assert found[found != 0].min() > 1000


def test_unknown_kinds(pair):
    with pytest.raises(InputError, match=r"Unknown error map 'relative': use one of signed, absolute, squared, ssim, gradient\."):
        error_map(*pair, "relative")
    with pytest.raises(InputError, match="Unknown gradient map 'sobel'"):
        gradient_map(pair[0], "sobel")


def test_ssim_and_gradient_maps_are_those_of_the_volume(make_volume):
    reference = make_volume((20, 22, 24), (0.8, 1.0, 2.0), angles=(3, 4, 5), name="hr")
    candidate = reference.replace(data=np.roll(reference.data, 1, 0), name="sr")
    span = intensity_range(reference.data)
    ssim = error_map(reference, candidate, "ssim")
    np.testing.assert_allclose(ssim.data, ssim_map(reference.data, candidate.data, span), atol=1e-5)
    assert ssim.record["map"]["data_range"] == span
    assert error_map(reference, candidate, "ssim", data_range=span / 10).data.mean() < ssim.data.mean()
    gradient = error_map(reference, candidate, "gradient")
    expected = gradient_map(candidate).data - gradient_map(reference).data
    np.testing.assert_allclose(gradient.data, expected, atol=1e-3)
    assert gradient.name == "sr gradient error"
    assert gradient.record["map"]["unit"] == "scanner units per mm"


@pytest.mark.parametrize("kind", list(DIFFERENCES))
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_that_of_the_volume_or_says_that_it_is_in_plane(make_volume, kind, axis):
    reference = make_volume((20, 22, 24), (0.8, 1.0, 2.0), name="hr")
    candidate = reference.replace(data=np.roll(reference.data, 1, 0) + 3, name="sr")
    index, span = 9, intensity_range(reference.data)
    flat = [np.take(v.data, index, axis) for v in (reference, candidate)]
    spacing = tuple(v for i, v in enumerate(reference.voxel_size) if i != axis)
    found = difference_slice(kind, *flat, spacing, span)
    assert found.dtype == np.float32
    whole = np.take(error_map(reference, candidate, kind, span).data, index, axis)
    if DIFFERENCES[kind].flat == DIFFERENCES[kind].title:
        np.testing.assert_allclose(found, whole, atol=1e-3)
        return
    assert DIFFERENCES[kind].flat == f"in-plane {DIFFERENCES[kind].title}"
    assert np.abs(found - whole).max() > 1e-3
    if kind == "ssim":
        in_plane = np.take(ssim_map(reference.data, candidate.data, span, axis), index, axis)
    else:
        in_plane = physical_gradient(flat[1], spacing) - physical_gradient(flat[0], spacing)
    np.testing.assert_allclose(found, in_plane, atol=1e-3)


def test_equal_images_differ_nowhere(make_volume):
    data = make_volume((24, 24, 8)).data[:, :, 3]
    for kind in DIFFERENCES:
        expected = 1 if kind == "ssim" else 0
        np.testing.assert_allclose(difference_slice(kind, data, data, (1.0, 1.0), 1000.0), expected, atol=1e-4)


def test_one_range_for_several_maps():
    rng = np.random.default_rng(0)
    small, large = rng.normal(0, 1, (40, 50)), rng.normal(2, 10, (60, 40, 30))
    low, high = shared_limits([small, large], signed=True)
    assert low == -high
    assert np.mean(np.abs(large) > high) == pytest.approx(0.005, abs=0.002)
    low, high = shared_limits([np.abs(small), np.abs(large)], signed=False)
    assert low == 0
    assert np.mean(np.abs(large) > high) == pytest.approx(0.005, abs=0.002)
    spoiled = large.copy()
    spoiled[0, 0, 0], spoiled[1, 1, 1] = 1e9, np.nan
    assert shared_limits([spoiled], signed=True)[1] < 50


def test_ranges_of_maps_without_content_are_usable():
    for maps in ([], [np.zeros((5, 5))], [np.full((4, 4), np.nan)]):
        for signed in (True, False):
            low, high = shared_limits(maps, signed)
            assert high > low
    sparse = np.zeros((100, 100))
    sparse[3, 4] = -7
    assert shared_limits([sparse], signed=True) == (-7, 7)
    low, high = shared_limits([np.full((20, 20), 0.97)], signed=False)
    assert (low, high) == (0, pytest.approx(0.97))


# --- gradients -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angles", [(0, 0, 0), (10, -20, 15)])
def test_ramp_on_anisotropic_voxels_is_exact(make_affine, angles):
    voxel, slope = (0.5, 1.0, 3.0), np.array([7.0, -4.0, 2.0])
    index = np.stack(np.meshgrid(*map(np.arange, (8, 7, 6)), indexing="ij"), -1)
    volume = Volume((index * voxel) @ slope + 100, make_affine(voxel, angles))
    found = gradient_map(volume)
    # One-sided differences at the edges are exact on a ramp, too.
    assert found.data == pytest.approx(np.linalg.norm(slope), rel=1e-5)
    assert found.record["map"] == {"kind": "physical gradient", "unit": "scanner units per mm"}
    assert found.name == "volume physical gradient"


def test_physical_gradient_is_central_inside(make_affine):
    data = np.zeros((5, 3, 3))
    data[2] = 6
    found = gradient_map(Volume(data, make_affine((2, 1, 1)))).data
    assert found[:, 1, 1] == pytest.approx([0, 1.5, 0, 1.5, 0])


def test_physical_gradient_of_one_slice(make_affine):
    data = np.arange(5.0)[:, None, None] * np.ones((5, 4, 1))
    assert gradient_map(Volume(data, make_affine((0.5, 1, 9)))).data == pytest.approx(2)


def test_cohft_operator_by_hand(make_affine):
    data = np.zeros((3, 3, 2))
    data[1, 1, 0] = 5
    found = gradient_map(Volume(data, make_affine()), "cohft")
    cross = np.array([[0, 5, 0], [5, 0, 5], [0, 5, 0]])
    assert found.data[..., 0] == pytest.approx(np.sqrt(cross**2 + 1e-6))
    assert found.data[..., 1] == pytest.approx(COHFT_FLOOR)
    assert found.record["map"] == {"kind": "cohft gradient", "unit": "scanner units", "slice_axis": "S"}


def test_cohft_operator_pads_with_zeros_and_does_not_halve(make_affine):
    data = np.array([3.0, 4.0, 6.0, 9.0])[:, None, None] * np.ones((4, 3, 1))
    found = gradient_map(Volume(data, make_affine((0.5, 1, 9))), "cohft").data
    # Middle column: no change along A; along R 4 - 0, 6 - 3, 9 - 4, 0 - 6, whatever the voxel size.
    assert found[:, 1, 0] == pytest.approx([4, 3, 5, 6])


@pytest.mark.parametrize("given", [None, 1])
def test_cohft_slices(make_affine, given):
    data = np.zeros((4, 4, 4))
    data[:, :, 2] = 8
    voxel = (3, 1, 1) if given is None else (1, 1, 1)
    found = gradient_map(Volume(data, make_affine(voxel)), "cohft", given)
    assert found.record["map"]["slice_axis"] == ("R" if given is None else "A")
    assert found.data[1, 1] == pytest.approx([COHFT_FLOOR, 8, COHFT_FLOOR, 8]) if given is None else True
    # Changes across slices do not count.
    across = 0 if given is None else 1
    moved = gradient_map(Volume(np.moveaxis(data, 2, across), make_affine(voxel)), "cohft", given).data
    inner = np.moveaxis(moved, across, 0)[:, 1, 1]
    assert inner[[0, 1, 3]] == pytest.approx(COHFT_FLOOR)


@pytest.mark.parametrize("kind", ["physical", "cohft"])
def test_gradient_does_not_depend_on_storage(make_volume, store, kind):
    volume = make_volume((9, 8, 7), (1, 1, 2), (5, 5, 5))
    stored, affine = store(volume.data, volume.affine, (1, 2, 0), (-1, 1, -1))
    assert gradient_map(Volume(stored, affine), kind).data == pytest.approx(gradient_map(volume, kind).data, rel=1e-5)


def test_gradient_of_unsigned_integers(make_affine):
    data = np.array([200, 100, 0], np.uint8)[:, None, None] * np.ones((3, 3, 3), np.uint8)
    assert gradient_map(Volume(data, make_affine())).data == pytest.approx(100)
