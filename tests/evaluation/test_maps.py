from __future__ import annotations

import numpy as np
import pytest

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation import error_map, gradient_map
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
    with pytest.raises(InputError, match=r"Unknown error map 'relative': use one of signed, absolute, squared\."):
        error_map(*pair, "relative")
    with pytest.raises(InputError, match="Unknown gradient map 'sobel'"):
        gradient_map(pair[0], "sobel")


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
