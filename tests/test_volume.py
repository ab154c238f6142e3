from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_mrsr.errors import InputError
from napari_mrsr.volume import Box, Source, Volume, axcodes, axis_index, check_affine


def test_every_storage_order_gives_one_ras_view(storage_order, store, make_volume):
    truth = make_volume((5, 6, 7), (0.7, 0.9, 3.0), (7, -11, 13))
    stored, affine = store(truth.data, truth.affine, *storage_order)
    volume = Volume(stored, affine)
    np.testing.assert_array_equal(volume.data, truth.data)
    np.testing.assert_allclose(volume.affine, truth.affine, atol=1e-12)
    assert volume.source.axcodes == axcodes(affine)
    assert volume.voxel_size == pytest.approx((0.7, 0.9, 3.0))


def test_storage_round_trip(storage_order, store, make_volume):
    truth = make_volume((5, 6, 7), (0.7, 0.9, 3.0), (7, -11, 13))
    stored, affine = store(truth.data, truth.affine, *storage_order)
    back, back_affine = Volume(stored, affine).to_storage()
    np.testing.assert_array_equal(back, stored)
    np.testing.assert_allclose(back_affine, affine, atol=1e-12)


def test_storage_of_another_shape_keeps_world_positions(storage_order, store, make_volume):
    """A super-resolved or degraded copy has other sizes; it must still be written in the source's order."""
    truth = make_volume((4, 5, 6))
    volume = Volume(*store(truth.data, truth.affine, *storage_order))
    fine = volume.replace(data=np.arange(8 * 5 * 3.0).reshape(8, 5, 3), affine=volume.affine @ np.diag([0.5, 1, 2, 1]))
    stored, affine = fine.to_storage()
    assert stored.shape == tuple((8, 5, 3)[axis] for axis in storage_order[0])
    again = Volume(stored, affine)
    np.testing.assert_array_equal(again.data, fine.data)
    np.testing.assert_allclose(again.affine, fine.affine, atol=1e-12)


def test_data_is_a_view_of_the_given_array(make_volume, store):
    truth = make_volume((4, 5, 6))
    stored, affine = store(truth.data, truth.affine, (2, 0, 1), (-1, 1, -1))
    assert np.shares_memory(Volume(stored, affine).data, stored)


@pytest.mark.parametrize("angles", [(0, 0, 0), (5, 0, 0), (0, -20, 0), (30, 20, -25)])
def test_oblique_affine_is_kept_and_measured(make_affine, angles):
    affine = make_affine((1.0, 1.2, 2.0), angles)
    volume = Volume(np.zeros((3, 4, 5)), affine)
    np.testing.assert_array_equal(volume.affine, affine)
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    assert volume.obliquity == pytest.approx(max(np.degrees(np.arccos(directions[i, i])) for i in range(3)), abs=1e-5)
    assert sum(a != 0 for a in angles) != 1 or volume.obliquity == pytest.approx(max(map(abs, angles)), abs=1e-5)


def test_sheared_affine_is_kept(make_affine):
    affine = make_affine((1.0, 1.0, 2.0))
    affine[1, 2] = 0.6
    np.testing.assert_array_equal(Volume(np.zeros((3, 3, 3)), affine).affine, affine)


@pytest.mark.parametrize(
    ("voxel", "axis"),
    [
        ((1, 1, 5), 2),
        ((5, 1, 1), 0),
        ((1, 5, 1), 1),
        ((1, 1, 1), 2),
        ((2, 2, 1), 1),
        ((2, 1, 2), 2),
        ((1, 2, 2), 2),
        ((1.0004, 1.0, 1.0), 2),
        ((1.01, 1, 1), 0),
    ],
)
def test_slice_axis_is_the_coarsest_and_ties_are_axial(make_affine, voxel, axis):
    assert Volume(np.zeros((3, 4, 5)), make_affine(voxel, (3, -4, 5))).slice_axis() == axis


@pytest.mark.parametrize("letters", ["Rr", "Aa", "Ss"])
def test_axis_index(letters):
    assert {axis_index(x) for x in letters} == {"RAS".index(letters[0])}
    assert axis_index({"R": "L", "A": "p", "S": "I"}[letters[0]]) == "RAS".index(letters[0])


def test_axis_index_refuses_other_letters():
    with pytest.raises(InputError, match="Unknown axis 'X': use R, A or S"):
        axis_index("X")


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        (np.zeros((4, 4)), "3D volume is needed"),
        (np.zeros((4, 4, 4, 2)), "3D volume is needed"),
        (np.zeros((4, 0, 4)), "empty"),
        (np.zeros((2, 2, 2), complex), "not a real number"),
        (np.zeros((2, 2, 2), "S3"), "not a real number"),
    ],
)
def test_unusable_arrays_are_refused(data, fragment):
    with pytest.raises(InputError, match=fragment) as caught:
        Volume(data, np.eye(4), name="scan")
    assert "scan" in str(caught.value)


@pytest.mark.parametrize(
    "affine",
    [
        np.eye(3),
        np.full((4, 4), np.nan),
        np.diag([1, 1, 0, 1.0]),
        np.diag([1, np.inf, 1, 1]),
        np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    ],
)
def test_unusable_affines_are_refused(affine):
    with pytest.raises(InputError, match="voxel-to-world matrix"):
        Volume(np.zeros((2, 2, 2)), affine)
    with pytest.raises(InputError, match="voxel-to-world matrix"):
        check_affine(affine, "scan")


def test_tiny_voxels_are_not_singular():
    assert Volume(np.zeros((2, 2, 2)), np.diag([1e-3, 1e-3, 1e-3, 1])).voxel_size == pytest.approx((1e-3,) * 3)


def test_crop_moves_the_affine(make_volume):
    volume = make_volume((8, 9, 10), (0.7, 0.9, 3.0), (7, -11, 13))
    crop = volume.crop([slice(2, 6), slice(None), slice(-4, None)])
    assert crop.shape == (4, 9, 4)
    for index in ((0, 0, 0), (3, 8, 3), (1, 4, 2)):
        whole = np.add(index, (2, 0, 6))
        assert crop.data[index] == volume.data[tuple(whole)]
        np.testing.assert_allclose(crop.affine @ [*index, 1], volume.affine @ [*whole, 1], atol=1e-12)


def test_crop_is_written_in_the_source_order(store, make_volume):
    truth = make_volume((6, 7, 8))
    stored, affine = store(truth.data, truth.affine, (2, 0, 1), (-1, 1, -1))
    crop = Volume(stored, affine).crop([slice(1, 4), slice(2, 7), slice(3, 5)])
    back, back_affine = crop.to_storage()
    expected, expected_affine = store(crop.data, crop.affine, (2, 0, 1), (-1, 1, -1))
    np.testing.assert_array_equal(back, expected)
    np.testing.assert_allclose(back_affine, expected_affine, atol=1e-12)


def test_records_add_up(make_volume):
    volume = make_volume((2, 2, 2)).with_record(a=1).with_record(b=[2])
    assert volume.record == {"a": 1, "b": [2]}
    assert Source().axcodes == "RAS"


def test_box_of_a_volume_includes_voxel_edges(make_affine):
    box = Volume(np.zeros((4, 5, 6)), make_affine((1, 2, 3), origin=(10, 20, 30))).box()
    assert box.lower == pytest.approx((9.5, 19, 28.5))
    assert box.upper == pytest.approx((13.5, 29, 46.5))


@pytest.mark.parametrize("angles", [(0, 0, 0), (7, -11, 13), (-25, 30, 20)])
def test_box_holds_every_voxel_whose_centre_lies_inside(make_volume, angles):
    volume = make_volume((9, 8, 7), (0.7, 1.1, 2.0), angles)
    centres = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), -1) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    middle = centres[4, 4, 3]
    box = Box(tuple(np.subtract(middle, (1.6, 1.9, 2.3))), tuple(np.add(middle, (1.2, 2.1, 3.0))))
    slices = box.to_slices(volume)
    inside = ((centres >= box.lower) & (centres <= box.upper)).all(-1)
    assert inside.sum() > 10
    block = np.zeros_like(inside)
    block[slices] = True
    assert not (inside & ~block).any()
    if angles == (0, 0, 0):
        assert (inside == block).all()


def test_box_maps_all_eight_corners(make_volume):
    """Two opposite corners alone give a smaller block in a turned volume."""
    volume = make_volume((40, 40, 40), (1, 1, 1), (0, 0, 40))
    centre = (volume.affine @ [20, 20, 20, 1])[:3]
    box = Box(tuple(centre - 8), tuple(centre + 8))
    slices = box.to_slices(volume)
    inverse = np.linalg.inv(volume.affine)
    corners = np.array([(inverse @ [*c, 1])[:3] for c in itertools.product(*zip(box.lower, box.upper, strict=True))])
    for axis, part in enumerate(slices):
        assert part.start == np.ceil(corners[:, axis].min() - 1e-6)
        assert part.stop == np.floor(corners[:, axis].max() + 1e-6) + 1
    two = (np.array([(inverse @ [*c, 1])[:3] for c in (box.lower, box.upper)])).T
    assert np.ptp(two[1]) < slices[1].stop - slices[1].start - 2


def test_box_is_clipped(make_volume):
    volume = make_volume((5, 6, 7))
    huge = Box((-1e4,) * 3, (1e4,) * 3)
    assert huge.to_slices(volume) == (slice(0, 5), slice(0, 6), slice(0, 7))
    low = Box((-1e4,) * 3, tuple(volume.affine[:3, 3] + 1))
    assert low.to_slices(volume) == (slice(0, 2),) * 3


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_box_outside_is_refused_with_both_extents(make_volume, axis):
    volume = make_volume((5, 6, 7), name="head")
    lower, upper = np.array(volume.box().lower), np.array(volume.box().upper)
    lower[axis], upper[axis] = upper[axis] + 1, upper[axis] + 4
    with pytest.raises(InputError, match="lies outside head, which spans") as caught:
        Box(tuple(lower), tuple(upper)).to_slices(volume)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("mm.")


def test_box_parse():
    assert Box.parse("1,2,3,-4,5,6.5") == Box((-4, 2, 3), (1, 5, 6.5))


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5,6,7", "a,b,c,d,e,f", "1,2,3,1,5,6", "nan,0,0,1,1,1", "0,0,0,inf,1,1"])
def test_box_parse_refuses(text):
    with pytest.raises(InputError) as caught:
        Box.parse(text)
    assert "\n" not in str(caught.value)


@given(st.lists(st.integers(-3, 12), min_size=6, max_size=6))
def test_box_on_voxel_centres_selects_them(numbers):
    """Corners on voxel centres include those voxels, whatever rounding does."""
    volume = Volume(np.zeros((8, 9, 10)), np.diag([0.1, 0.7, 1.3, 1]))
    low, high = np.minimum(numbers[:3], numbers[3:]), np.maximum(numbers[:3], numbers[3:]) + 1
    scale = np.array([0.1, 0.7, 1.3])
    box = Box(tuple(low * scale), tuple(high * scale))
    if (high < 0).any() or (low >= volume.shape).any():
        with pytest.raises(InputError):
            box.to_slices(volume)
    else:
        assert box.to_slices(volume) == tuple(slice(max(a, 0), min(b + 1, n)) for a, b, n in zip(low, high, volume.shape, strict=True))
