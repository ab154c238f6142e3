from __future__ import annotations

import numpy as np
import pytest

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.align import align, mask_on, resample_onto
from napari_mrsr.evaluation.fit import resample, spline_slice, spline_weights
from napari_mrsr.volume import Volume


def wave(volume_shape, affine, period=40.0):
    """A smooth function of world position, so that the truth is known on every grid."""
    index = np.stack(np.meshgrid(*map(np.arange, volume_shape), indexing="ij"), -1)
    x, y, z = np.moveaxis(index @ affine[:3, :3].T + affine[:3, 3], -1, 0)
    return 500 + 200 * np.sin(2 * np.pi * x / period) + 150 * np.cos(2 * np.pi * (y + 0.3 * z) / period)


def wave_volume(shape, affine, name):
    return Volume(wave(shape, affine), affine, name=name)


def test_straight_and_general_interpolation_agree():
    data = np.random.default_rng(0).uniform(0, 1, (9, 11, 8))
    matrix = np.diag([0.5, 0.7, 1.3, 1.0])
    matrix[:3, 3] = [-0.25, 0.4, -0.5]
    shape = (18, 14, 6)
    assert resample(data, matrix, shape, True) == pytest.approx(resample(data, matrix, shape, False), abs=1e-5)


@pytest.mark.parametrize("angles", [(0, 0, 0), (4, -7, 11)])
def test_interpolation_goes_through_world_coordinates(make_affine, angles):
    reference = wave_volume((24, 26, 22), make_affine((1.0, 1.1, 1.2), (3, 5, -4)), "hr")
    candidate = wave_volume((33, 35, 33), make_affine((0.9, 0.95, 1.0), np.add((3, 5, -4), angles), (-33.0, 9.0, 4.0)), "sr")
    aligned = align(reference, [candidate])
    assert aligned.resampled == (True,)
    error = np.abs(aligned.candidates[0].data - aligned.reference.data)
    if aligned.covered is not None:
        error = error[aligned.covered]
    # The spline is exact inside; at the outer edges of the candidate it is mirrored.
    assert np.median(error) < 0.1
    assert np.percentile(error, 99.9) < 20


def test_covered_voxels_are_those_whose_centre_lies_inside(make_affine):
    reference = wave_volume((24, 26, 22), make_affine((1.0, 1.1, 1.2)), "hr")
    candidate = wave_volume((16, 18, 15), make_affine((1.3, 1.2, 1.1), (0, 0, 25), (-28.0, 16.0, 9.0)), "sr")
    aligned = align(reference, [candidate])
    index = np.stack(np.meshgrid(*map(np.arange, reference.shape), indexing="ij"), -1)
    world = index @ reference.affine[:3, :3].T + reference.affine[:3, 3]
    inverse = np.linalg.inv(candidate.affine)
    inside = world @ inverse[:3, :3].T + inverse[:3, 3]
    found = np.zeros(reference.shape, bool)
    found[aligned.slices] = aligned.covered
    # Distance of each centre to the outer voxel edges, positive inside; a hundredth of a voxel is slack for rounded headers.
    depth = np.minimum(inside + 0.5, np.array(candidate.shape) - 0.5 - inside).min(-1)
    assert found[depth > 0].all()
    assert not found[depth < -0.0101].any()
    assert 0.1 < found.mean() < 0.9
    assert aligned.covered.any((1, 2))[[0, -1]].all()


def test_straight_coverage_is_exact(make_affine):
    reference = wave_volume((12, 12, 12), make_affine(origin=(0, 0, 0)), "hr")
    coarse = wave_volume((3, 6, 6), make_affine((2, 2, 2), origin=(2.5, 0.5, 0.5)), "lr")
    aligned = align(reference, [coarse])
    # R edges at 1.5 and 7.5 mm: voxels 2 to 7; the other axes are covered whole.
    assert (aligned.lower, aligned.upper, aligned.covered) == ((2, 0, 0), (8, 12, 12), None)


def test_common_block_of_several(make_volume):
    reference = make_volume((20, 22, 18))
    a, b = reference.crop([slice(2, 15), slice(0, 22), slice(3, 18)]), reference.crop([slice(5, 20), slice(1, 20), slice(0, 16)])
    aligned = align(reference, [a, b])
    assert (aligned.lower, aligned.upper) == ((5, 1, 3), (15, 20, 16))
    for volume in aligned.candidates:
        assert np.array_equal(volume.data, aligned.reference.data)
        assert np.allclose(volume.affine, aligned.reference.affine)


def test_candidates_that_overlap_the_reference_but_not_each_other(make_volume):
    reference = make_volume((20, 22, 18))
    a, b = (reference.crop([s, slice(None), slice(None)]).replace(name=n) for s, n in ((slice(0, 8), "left"), (slice(9, 20), "right")))
    with pytest.raises(InputError, match=r"No part of synthetic is covered by all candidates: .*left spans .*right spans"):
        align(reference, [a, b])


def test_inputs_stay_as_they_are(make_volume):
    reference = make_volume((12, 14, 13))
    candidate = make_volume((12, 14, 13), angles=(0, 0, 20), seed=1)
    copies = reference.data.copy(), candidate.data.copy()
    for volume in (reference, candidate):
        volume.data.setflags(write=False)
    align(reference, [candidate, reference])
    assert np.array_equal(reference.data, copies[0])
    assert np.array_equal(candidate.data, copies[1])


def test_resample_onto_keeps_what_coincides(make_volume):
    reference = make_volume((12, 14, 13))
    part = reference.crop([slice(3, 9), slice(0, 14), slice(2, 13)]).replace(name="part")
    moved = resample_onto(reference, part)
    assert (moved.name, moved.shape) == ("part", (6, 14, 11))
    assert np.array_equal(moved.data, part.data.astype(np.float32))


def test_resample_onto_leaves_zero_where_a_rotated_volume_ends(make_affine):
    reference = wave_volume((24, 24, 24), make_affine(origin=(0, 0, 0)), "hr")
    turned = wave_volume((12, 12, 12), make_affine(angles=(0, 0, 45), origin=(12, 4, 6)), "sr")
    moved = resample_onto(reference, turned)
    assert (moved.data == 0).any()
    assert np.median(np.abs(moved.data - reference.data[reference_block(reference, moved)])[moved.data != 0]) < 0.1


def reference_block(reference, moved):
    lower = np.round((np.linalg.inv(reference.affine) @ moved.affine)[:3, 3]).astype(int)
    return tuple(slice(a, a + n) for a, n in zip(lower, moved.shape, strict=True))


# --- masks ---------------------------------------------------------------------------------------------------------------------------


def test_mask_of_a_part_of_the_volume(make_volume):
    reference = make_volume((12, 14, 13))
    part = reference.crop([slice(3, 9), slice(1, 14), slice(2, 13)])
    values = np.zeros(part.shape, np.uint8)
    values[0, 0, 0] = values[5, 12, 10] = 3
    mask, resampled = mask_on(reference, part.replace(data=values))
    assert not resampled
    assert np.argwhere(mask).tolist() == [[3, 1, 2], [8, 13, 12]]


def test_coarse_mask_is_taken_at_the_nearest_voxel(make_affine):
    reference = wave_volume((12, 12, 12), make_affine(origin=(0, 0, 0)), "hr")
    values = np.zeros((6, 6, 6), np.uint8)
    values[1, 2, 3] = 1
    mask, resampled = mask_on(reference, Volume(values, make_affine((2, 2, 2), origin=(0.5, 0.5, 0.5)), name="brain"))
    expected = np.zeros(reference.shape, bool)
    expected[2:4, 4:6, 6:8] = True
    assert resampled
    assert np.array_equal(mask, expected)


def test_mask_that_misses_the_volume(make_volume, make_affine):
    reference = make_volume((12, 14, 13))
    far = Volume(np.ones((4, 4, 4), np.uint8), make_affine(origin=(-131.5, 12.25, 7.125)), name="brain")
    near = Volume(np.zeros((12, 14, 13), np.uint8), reference.affine, name="brain")
    for mask in (far, near, far.replace(affine=make_affine((2, 2, 2), origin=(500, 0, 0)))):
        with pytest.raises(InputError, match=r"brain: the mask holds no voxel of synthetic \(synthetic spans"):
            mask_on(reference, mask)


def test_mask_with_nan(make_volume):
    reference = make_volume((12, 14, 13))
    with pytest.raises(InputError, match="NaN"):
        mask_on(reference, reference.replace(data=np.full((12, 14, 13), np.nan)))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("index", [0, 7, 17])
def test_one_slice_of_a_resampled_volume_is_that_of_the_whole(make_volume, axis, index):
    reference, candidate = make_volume((20, 22, 18), (1, 1.2, 0.9)), make_volume((11, 9, 12), (2.1, 2.4, 1.7), sigma=1.0)
    matrix = np.linalg.inv(candidate.affine) @ reference.affine
    whole = resample(candidate.data, matrix, reference.shape, straight=True)
    flat = spline_slice(candidate.data, spline_weights(matrix, reference.shape, candidate.shape), axis, index)
    np.testing.assert_allclose(flat, np.take(whole, index, axis), atol=1e-5 * np.ptp(whole))
