from __future__ import annotations

import json
import subprocess
import sys
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from napari_mrsr.errors import Cancelled, InputError
from napari_mrsr.inference import registration
from napari_mrsr.inference.reference import FINER, moved, register_rigid, resample_reference
from napari_mrsr.intensity import foreground_mask
from napari_mrsr.io import read_volume
from napari_mrsr.volume import Volume


def world(shape, affine):
    """World coordinates of all voxels, (X, Y, Z, 3)."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def lattice(voxel, angles, extent, centre=(0.0, 0.0, 0.0)):
    """Shape and affine of a lattice of `extent` mm around `centre`, its axes turned by Euler angles in degrees."""
    shape = tuple(int(n) for n in np.round(np.array(extent) / voxel))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(voxel)
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return shape, affine


def wave(points, period=(31.0, 43.0, 57.0)):
    """A smooth function of the place in the world, different in every direction."""
    r, a, s = np.moveaxis(points, -1, 0)
    return 300 + 100 * np.sin(2 * np.pi * r / period[0] + 0.4) + 60 * np.cos(2 * np.pi * a / period[1]) + 2.0 * s * np.cos(2 * np.pi * s / period[2])


def inner(array, margin):
    return array[tuple(slice(m, -m or None) for m in margin)]


def rigid(shift=(0.0, 0.0, 0.0), angles=(0.0, 0.0, 0.0), about=(0.0, 0.0, 0.0)):
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    motion[:3, 3] = np.array(about) - motion[:3, :3] @ np.array(about) + shift
    return motion


# --- resampling -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("voxel", "angles"),
    [((1.0, 1.0, 1.0), (0, 0, 0)), ((0.9, 1.1, 3.0), (0, 0, 0)), ((0.9, 1.1, 3.0), (7, -5, 4)), ((1.2, 0.8, 1.0), (-25, 10, 30))],
)
def test_values_are_those_of_the_place_in_the_world(voxel, angles):
    """A reference sampled from a function of the world, read on another lattice, gives that function: axes, sides and half voxels are right."""
    shape, affine = lattice(voxel, angles, (90, 90, 90), (4.0, -3.0, 2.0))
    reference = Volume(wave(world(shape, affine)), affine)
    onto, target = lattice((0.8, 0.9, 1.0), (3, 2, -6) if any(angles) else (0, 0, 0), (34, 38, 32), (-5.3, 6.1, 3.7))
    data, share = resample_reference(reference, onto, target)
    assert (data.dtype, data.shape, share) == (np.float32, onto, 1)
    assert np.abs(data - wave(world(onto, target))).max() < 0.6


def test_the_lattice_may_be_stored_in_any_axis_order(storage_order, store, make_volume):
    perm, flips = storage_order
    reference = make_volume((14, 13, 12), (1.1, 1.2, 0.9), (6, -4, 8))
    shape, affine = (12, 11, 9), reference.affine @ np.diag([0.9, 0.9, 0.95, 1]) @ rigid((0.3, 0.6, 0.2), (5, 2, -3))
    data, share = resample_reference(reference, shape, affine)
    stored, stored_affine = store(data, affine, perm, flips)
    again, same_share = resample_reference(reference, stored.shape, stored_affine)
    np.testing.assert_allclose(again, stored, atol=1e-3)
    assert same_share == share


@pytest.mark.parametrize("angles", [(0, 0, 0), (20, -15, 10)])
def test_lattices_that_coincide_are_copied_not_interpolated(make_volume, angles):
    reference = make_volume((12, 13, 14), (0.7, 0.9, 2.0), angles, sigma=0.5)
    affine = reference.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [-2, 3, 1]
    data, share = resample_reference(reference, (10, 15, 9), affine)
    np.testing.assert_array_equal(data[2:, :10], reference.data[:8, 3:, 1:10].astype(np.float32))
    # Outside, the nearest voxel's value is carried on.
    np.testing.assert_array_equal(data[:2, :10], np.broadcast_to(data[2, :10], (2, 10, 9)))
    np.testing.assert_array_equal(data[:, 10:], np.broadcast_to(data[:, 9:10], (10, 5, 9)))
    assert share == pytest.approx(8 * 10 / (10 * 15))


@pytest.mark.parametrize("angles", [(0, 0, 0), (0, 0, 12)])
def test_a_slab_ends_without_a_step(make_volume, angles):
    """Beyond the last slice its outermost value goes on; the share says how much was measured."""
    reference = make_volume((30, 30, 10), sigma=1.5)
    shape, affine = lattice((0.8, 0.8, 0.8), angles, (16, 16, 24), reference.affine[:3, :3] @ [14.5, 14.5, 4.5] + reference.affine[:3, 3])
    data, share = resample_reference(reference, shape, affine)
    assert share == pytest.approx(12 / 30)  # 10 mm hold the centres of 12 planes 0.8 mm apart
    top = np.flatnonzero(world(shape, affine)[0, 0, :, 2] > reference.box().upper[2])
    np.testing.assert_allclose(data[..., top], np.broadcast_to(data[..., top[:1]], (*shape[:2], len(top))), rtol=1e-6)
    steps = np.abs(np.diff(data, axis=2))
    assert steps[..., top[0] - 1].max() < steps[..., 12:18].max()
    assert data.std(axis=(0, 1)).min() > 0.3 * data.std(axis=(0, 1)).max()


@pytest.mark.parametrize(("angles", "target"), [((0, 0, 0), (0, 0, 0)), ((0, 0, 0), (12, -8, 10)), ((10, 20, -5), (-5, 0, 10))])
def test_detail_beyond_the_lattice_is_removed_and_coarse_structure_kept(angles, target):
    shape, affine = lattice((1.0, 1.0, 1.0), angles, (60, 60, 60))
    onto, coarse = lattice((0.9, 0.9, 4.0), target, (27, 27, 36))
    points, across = world(shape, affine), coarse[:3, 2] / 4.0
    where = world(onto, coarse) @ across

    def amplitude(period):
        data, _ = resample_reference(Volume(100 + np.cos(2 * np.pi * (points @ across) / period), affine), onto, coarse)
        model = np.stack([np.cos(2 * np.pi * where / period), np.sin(2 * np.pi * where / period)], -1).reshape(-1, 2)
        return np.abs(data - 100).max(), np.linalg.lstsq(model, data.ravel() - 100, rcond=None)[0]

    # A period of 4.4 mm would come back as one of 44 mm.
    assert amplitude(4.4)[0] < 0.1
    # A Gaussian that widens 1 mm voxels to 4 mm ones multiplies waves by its Fourier transform, and does not shift them.
    for period in (16.0, 10.0):
        expected = np.exp(-2 * np.pi**2 * (4.0**2 - 1) / (8 * np.log(2)) / period**2)
        np.testing.assert_allclose(amplitude(period)[1], [expected, 0], atol=0.01)


def test_along_the_other_axes_nothing_is_blurred():
    shape, affine = lattice((1.0, 1.0, 1.0), (0, 0, 0), (40, 40, 40))
    onto, coarse = lattice((0.9, 0.9, 4.0), (0, 0, 9), (27, 27, 24))
    period = (6.0, 7.0, 1e9)
    data, _ = resample_reference(Volume(wave(world(shape, affine), period), affine), onto, coarse)
    expected = wave(world(onto, coarse), period)
    assert np.abs(data - expected).max() < 0.03 * np.ptp(expected)


@pytest.mark.parametrize(("ratio", "plain"), [(FINER * 0.99, True), (FINER * 1.01, False)])
def test_slightly_finer_references_are_only_interpolated(make_volume, ratio, plain):
    reference = make_volume((24, 24, 24), sigma=0.8)
    affine = reference.affine @ np.diag([ratio, 1, 1, 1])
    affine[:3, 3] += affine[:3, :3] @ [2, 3.3, 4]
    data, _ = resample_reference(reference, (12, 16, 16), affine)
    matrix = np.linalg.inv(reference.affine) @ affine
    read = ndimage.affine_transform(reference.data, matrix[:3, :3], matrix[:3, 3], output_shape=data.shape, order=3, mode="reflect")
    assert np.allclose(data, read, atol=0.01) == plain


def test_the_spline_does_not_overshoot(make_affine):
    data = np.zeros((16, 16, 16))
    data[5:11, 5:11, 5:11] = 100
    reference = Volume(data, make_affine())
    affine = reference.affine @ rigid((0.4, 0.3, 0.5), (0, 0, 10), (8, 8, 8))
    result, _ = resample_reference(reference, data.shape, affine)
    matrix = np.linalg.inv(reference.affine) @ affine
    free = ndimage.affine_transform(data, matrix[:3, :3], matrix[:3, 3], order=3, mode="reflect")
    assert free.min() < -5
    assert free.max() > 105
    assert (result.min(), result.max()) == (0, 100)


@settings(max_examples=15)
@given(
    voxel=st.tuples(*[st.floats(0.5, 4)] * 3),
    angles=st.tuples(*[st.floats(-40, 40)] * 3),
    shift=st.tuples(*[st.floats(-8, 8)] * 3),
    value=st.floats(-1e4, 1e4, width=32),
)
def test_constants_stay_and_the_share_is_counted(voxel, angles, shift, value):
    reference = Volume(np.full((9, 8, 7), value), np.diag([1.5, 1.2, 2.0, 1.0]))
    shape, affine = lattice(voxel, angles, (12, 12, 12), np.array([6.0, 4.2, 6.0]) + shift)
    index = (world(shape, affine) - reference.affine[:3, 3]) / reference.voxel_size
    inside = ((index >= -0.5 - 0.01) & (index <= np.array(reference.shape) - 0.5 + 0.01)).all(-1)
    if not inside.any():
        with pytest.raises(InputError, match="covers no part"):
            resample_reference(reference, shape, affine)
        return
    data, share = resample_reference(reference, shape, affine)
    np.testing.assert_allclose(data, value, rtol=1e-5)
    assert share == pytest.approx(inside.mean(), abs=1.5 / inside.size)


def test_a_reference_beside_the_result_is_refused_with_both_extents(make_volume):
    reference = make_volume((8, 8, 8), name="T1")
    affine = reference.affine.copy()
    affine[0, 3] += 30
    with pytest.raises(InputError) as caught:
        resample_reference(reference, (8, 8, 8), affine)
    assert str(caught.value) == (
        "T1 covers no part of the result: the result spans (-2.0, 11.8, 6.6) to (6.0, 19.8, 14.6) mm, "
        "T1 spans (-32.0, 11.8, 6.6) to (-24.0, 19.8, 14.6) mm."
    )


def test_nan_is_refused(make_volume):
    data = make_volume((8, 8, 8)).data.copy()
    data[1, 2, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        resample_reference(Volume(data, np.eye(4)), (8, 8, 8), np.eye(4))


def test_integer_references_are_resampled_in_floating_point():
    data = np.arange(12, dtype=np.uint8)[:, None, None] * np.ones((1, 12, 12), np.uint8) * 20
    affine = np.eye(4)
    affine[0, 3] = 0.5
    result, _ = resample_reference(Volume(data, np.eye(4)), (11, 12, 12), affine)
    np.testing.assert_allclose(result[3:8, 5, 5], np.arange(3.5, 8) * 20, atol=0.2)


# --- registration ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(registration, "SAMPLES", 12_000)


_BLOBS = np.random.default_rng(3)
CENTRES = _BLOBS.uniform(-38, 38, (60, 3))
WIDTHS = _BLOBS.uniform(4, 9, 60)
HEIGHTS = _BLOBS.uniform(-1, 1, 60)


def head(points, contrast="T1"):
    """A head in the world: an ellipsoid longer to the front, full of blobs, with a marker on the patient's right; two contrasts."""
    tissue = np.zeros(points.shape[:-1])
    for centre, width, height in zip(CENTRES, WIDTHS, HEIGHTS, strict=True):
        tissue += height * np.exp(-((points - centre) ** 2).sum(-1) / (2 * width**2))
    marker = np.exp(-((points - [24.0, 5.0, 3.0]) ** 2).sum(-1) / (2 * 5.0**2))
    inside = 1 / (1 + np.exp((np.linalg.norm(points / [44, 52, 46], axis=-1) - 1) * 25))
    bright = 0.5 + 0.4 * np.tanh(tissue) if contrast == "T1" else 0.4 + 0.8 * np.tanh(tissue - 0.15) ** 2
    return 1000 * inside * (bright + 2 * marker)


def scan(voxel=(2.5, 2.5, 2.5), angles=(0, 0, 0), contrast="T1", motion=None, extent=(112, 124, 112), **changes):
    """A volume of the head after the head has been moved by `motion` (world to world)."""
    shape, affine = lattice(voxel, angles, extent)
    points = world(shape, affine)
    if motion is not None:
        back = np.linalg.inv(motion)
        points = points @ back[:3, :3].T + back[:3, 3]
    return Volume(head(points, contrast).astype(np.float32), affine, **{"name": contrast, **changes})


def miss(one, other, volume):
    """Largest distance in mm, over the foreground, between where two motions take a point."""
    points = np.argwhere(foreground_mask(volume.data))[::50]
    points = points @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    ends = [points @ m[:3, :3].T + m[:3, 3] for m in (one, other)]
    return np.linalg.norm(ends[0] - ends[1], axis=1).max()


def angle(matrix):
    return np.degrees(Rotation.from_matrix(matrix[:3, :3]).magnitude())


@pytest.mark.parametrize(
    ("fixed", "moving"),
    [
        ({"voxel": (2, 2, 2)}, {"voxel": (2, 2, 2)}),
        ({"voxel": (1.4, 1.4, 4), "angles": (9, -4, 3)}, {"voxel": (2, 1.7, 1.7), "angles": (-3, 5, 0)}),
        ({"voxel": (2, 1.7, 1.7), "angles": (-3, 5, 0)}, {"voxel": (1.4, 1.4, 4), "angles": (9, -4, 3)}),
    ],
)
def test_a_known_motion_is_undone(quick, fixed, moving):
    """The head lay elsewhere when the second contrast was taken: the matrix takes it back, whatever the two grids are."""
    motion = rigid((3.0, -4.0, 2.5), (4, -3, 5))
    fixed, moving = scan(**fixed), scan(**moving, contrast="T2", motion=motion)
    found = register_rigid(moving, fixed)
    assert miss(found.matrix, np.linalg.inv(motion), fixed) < 0.4
    assert found.angle_deg == pytest.approx(angle(motion), abs=0.2)
    assert found.metric_after > found.metric_before + 0.1
    assert found.warning == ""
    assert found.seconds > 0
    assert found.summary == f"The reference was moved by {found.shift_mm:.1f} mm and turned by {found.angle_deg:.1f} degrees to fit the input."


def test_right_is_right(quick):
    """A head that lay 6 mm further right is moved 6 mm to the left, and its marker then lies where the input's does, not on the other side."""
    fixed, moving = scan(), scan(contrast="T2", motion=rigid((6.0, 0, 0)))
    found = register_rigid(moving, fixed)
    np.testing.assert_allclose(found.shift_vector, (-6, 0, 0), atol=0.3)
    assert found.shift_mm == pytest.approx(np.linalg.norm(found.shift_vector))
    data, _ = resample_reference(moved(moving, found), fixed.shape, fixed.affine)
    place = fixed.affine @ [*np.unravel_index(data.argmax(), data.shape), 1]
    np.testing.assert_allclose(place[:3], [24, 5, 3], atol=2)
    assert np.corrcoef(data.ravel(), scan(contrast="T2").data.ravel())[0, 1] > 0.998


@pytest.mark.parametrize("axis", range(3))
def test_every_axis_turns_the_right_way(quick, axis):
    angles = np.eye(3)[axis] * 8
    fixed = scan()
    found = register_rigid(scan(contrast="T2", motion=rigid(angles=angles)), fixed)
    turned = Rotation.from_matrix(found.matrix[:3, :3]).as_rotvec(degrees=True)
    np.testing.assert_allclose(turned, -angles, atol=0.3)


def test_equal_inputs_give_equal_results(quick):
    fixed, moving = scan(), scan(contrast="T2", motion=rigid((2, 1, -1), (1, 2, 3)))
    one, two = register_rigid(moving, fixed), register_rigid(moving, fixed)
    np.testing.assert_array_equal(one.matrix, two.matrix)
    assert (one.metric_before, one.metric_after) == (two.metric_before, two.metric_after)


def test_sheared_axes_are_understood(quick):
    shape, affine = lattice((2, 2, 2), (0, 0, 0), (112, 124, 140))
    affine = rigid(angles=(3, 0, 0)) @ np.array([[1, 0, 0, 0], [0, 1, 0.25, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine
    motion = rigid((2, -3, 1), (2, 1, -2))
    back = np.linalg.inv(motion)
    moving = Volume(head(world(shape, affine) @ back[:3, :3].T + back[:3, 3], "T2").astype(np.float32), affine)
    fixed = scan()
    assert miss(register_rigid(moving, fixed).matrix, back, fixed) < 0.4
    assert miss(register_rigid(fixed, moving).matrix, motion, fixed) < 0.4


def test_shear_is_resampled_away():
    shape, affine = lattice((2, 2.5, 3), (10, 5, -3), (60, 60, 60))
    affine = np.array([[1, 0.2, 0, 0], [0, 1, -0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine
    straight = registration._without_shear(Volume(wave(world(shape, affine)), affine))
    axes = straight.affine[:3, :3] / straight.voxel_size
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    middle = np.ones(straight.shape, bool)
    # The sheared corners do not fill the box around them: 0 there.
    assert 0.2 < np.mean(straight.data == 0) < 0.7
    middle &= ndimage.binary_erosion(straight.data != 0, iterations=2)
    assert np.abs(straight.data - wave(world(straight.shape, straight.affine)))[middle].max() < 4
    plain = Volume(np.ones((5, 5, 5)), lattice((2, 2, 3), (10, 5, -3), (10, 10, 15))[1])
    assert registration._without_shear(plain) is plain


@pytest.mark.parametrize(("shape", "factors"), [((41, 50, 24), (4, 4, 2)), ((20, 8, 7), (2, 1, 1))])
def test_blocks_stay_where_they_are(make_affine, shape, factors):
    """The mean of a ramp over a block is its value at the block's centre; axes of few voxels are kept."""
    affine = make_affine((0.5, 0.5, 1.2), (4, 5, 6))
    points = world(shape, affine)
    small = registration._shrunk(Volume((points @ [1.0, 2.0, -3.0]).astype(np.float64), affine), 2.0)
    assert small.shape == tuple(n // f for n, f in zip(shape, factors, strict=True))
    assert small.data.dtype == np.float32
    np.testing.assert_allclose(small.data, world(small.shape, small.affine) @ [1, 2, -3], atol=1e-3)


def test_volumes_that_fit_are_left_or_hardly_moved(quick):
    found = register_rigid(scan((1.7, 1.9, 2.0), contrast="T2"), scan())
    assert found.shift_mm < 0.2
    assert found.angle_deg < 0.2
    assert found.warning == ""


def test_a_large_motion_is_found_and_warned_of(quick):
    fixed, motion = scan(), rigid((3, 14, 0), (12, 3, 0))
    found = register_rigid(scan(contrast="T2", motion=motion), fixed)
    assert miss(found.matrix, np.linalg.inv(motion), fixed) < 0.4
    size = f"moved by {found.shift_mm:.1f} mm and turned by {found.angle_deg:.1f} degrees"
    assert found.warning == f"The reference had to be {size}: check that it fits the input."


@pytest.mark.parametrize(
    ("shift", "degrees", "warned"), [((9.9, 0, 0), 0, False), ((0, 10.1, 0), 0, True), ((0, 0, 0), 9.9, False), ((0, 0, 0), 10.1, True)]
)
def test_more_than_ten_millimetres_or_degrees_are_large(shift, degrees, warned):
    """The travel is measured at the centre given, not at the world's origin."""
    centre = np.array([30.0, -40.0, 50.0])
    found = registration._conclude(rigid(shift, (0, degrees, 0), centre - shift), centre, 0.1, 0.2, 1.0)
    assert found.shift_vector == pytest.approx(shift)
    assert found.angle_deg == pytest.approx(degrees, abs=1e-6)
    assert bool(found.warning) == warned


@pytest.mark.parametrize(("shift", "warned"), [(20.0, True), (0.3, False)])
def test_a_search_that_ends_in_a_worse_place_moves_nothing(quick, monkeypatch, shift, warned):
    monkeypatch.setattr(registration._Search, "run", lambda self, motion, *_: motion.transform.SetTranslation([shift, 0.0, 0.0]))
    found = register_rigid(scan(contrast="T2"), scan())
    np.testing.assert_array_equal(found.matrix, np.eye(4))
    assert (found.shift_mm, found.angle_deg, found.metric_after) == (0, 0, found.metric_before)
    assert found.warning.startswith("Registration found no position") == warned
    assert found.summary == "The reference was not moved: no other position fits the input better."


def test_volumes_far_apart_are_refused_or_started_from_their_centres(quick):
    fixed, moving = scan(), scan(contrast="T2")
    far = moving.replace(affine=rigid((300, 0, -200), (4, 0, 0)) @ moving.affine)
    with pytest.raises(InputError, match=r"T2 and T1 do not overlap: T2 spans .* T1 spans "):
        register_rigid(far, fixed)
    found = register_rigid(far, fixed, start="centres")
    assert miss(found.matrix @ rigid((300, 0, -200), (4, 0, 0)), np.eye(4), fixed) < 0.4
    assert found.metric_before == 0
    with pytest.raises(InputError, match="Unknown start 'mass': use one of world, centres"):
        register_rigid(moving, fixed, start="mass")


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        (np.ones((8, 8, 8)), "all voxels have the same value"),
        (np.full((8, 8, 8), np.nan), "NaN"),
        (np.random.default_rng(0).random((8, 3, 8)), "has only 3 voxels along A; at least 4"),
    ],
)
def test_what_cannot_be_registered_is_refused(data, fragment):
    volume = Volume(data, np.eye(4), name="odd")
    good = Volume(np.random.default_rng(1).random((8, 8, 8)), np.eye(4))
    for pair in ((volume, good), (good, volume)):
        with pytest.raises(InputError, match=fragment):
            register_rigid(*pair)


def test_volumes_that_hardly_touch_are_refused_in_one_sentence(quick):
    fixed, moving = scan(), scan(contrast="T2")
    with pytest.raises(InputError) as caught:
        register_rigid(moving.replace(affine=rigid((111, 123, 111)) @ moving.affine), fixed)
    assert str(caught.value) == "T2 could not be registered to T1: they share too little space, or one of them has no contrast there."


@pytest.mark.parametrize("polls", [0, 1, 7])
def test_it_stops_when_told(quick, polls):
    asked = count()
    with pytest.raises(Cancelled):
        register_rigid(scan(contrast="T2", motion=rigid((5, 0, 0))), scan(), cancelled=lambda: next(asked) >= polls)
    # The search is over, not only its result thrown away.
    assert next(asked) <= polls + 2


def test_small_volumes_and_odd_values_are_registered(quick):
    """Negative values, few slices, small animals."""
    rng = np.random.default_rng(0)
    for data in (-ndimage.gaussian_filter(rng.random((16, 16, 5)), 1), (rng.random((9, 9, 9)) * 200).astype(np.uint8)):
        found = register_rigid(Volume(data, np.diag([0.1, 0.1, 0.4, 1])), Volume(data, np.diag([0.1, 0.1, 0.4, 1])))
        np.testing.assert_allclose(found.matrix[:3, :3] @ found.matrix[:3, :3].T, np.eye(3), atol=1e-9)
        assert found.shift_mm < 0.1


def test_moving_changes_the_affine_alone(quick):
    reference = scan(contrast="T2", motion=rigid((3, 0, 0)))
    found = register_rigid(reference, scan())
    result = moved(reference, found)
    assert result.data is reference.data
    np.testing.assert_allclose(result.affine, found.matrix @ reference.affine)
    record = json.loads(json.dumps(result.record))["registration"]
    np.testing.assert_allclose(record["matrix"], found.matrix)
    assert record["shift_mm"] == found.shift_mm


def test_importing_loads_neither_torch_nor_simpleitk():
    code = "import sys, napari_mrsr.inference.reference\nsys.exit(bool({'torch', 'SimpleITK', 'qtpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- real heads -----------------------------------------------------------------------------------------------------------------------


def correlation(one, other, mask):
    return np.corrcoef(one[mask], other[mask])[0, 1]


def test_a_real_t1_with_an_extra_motion_comes_back(shared_data, quick):
    """msl04: T1 as acquired (0.9 x 0.9 x 3 mm) onto T2 (0.6 x 0.6 x 3.3 mm), once as it is and once moved by 4 mm and 3 degrees."""
    folder = "multi_thick/test/sub-msl04/"
    fixed, known = (read_volume(shared_data(f"{folder}sub-msl04_ses-1_{name}.nii.gz")) for name in ("T2w", "T1w"))
    native = read_volume(shared_data(f"{folder}native_grid/sub-msl04_ses-1_T1w.nii.gz"))
    extra = rigid((2.5, -2.0, 2.4), (2.0, -1.5, 1.66), (0, 10, 20))
    assert (np.linalg.norm([2.5, -2.0, 2.4]), angle(extra)) == (pytest.approx(4, abs=0.01), pytest.approx(3, abs=0.05))
    displaced = native.replace(affine=extra @ native.affine)
    plain, found = register_rigid(native, fixed), register_rigid(displaced, fixed)
    assert miss(found.matrix @ extra, plain.matrix, fixed) < 0.3
    assert angle(found.matrix @ extra @ np.linalg.inv(plain.matrix)) < 0.2
    assert (plain.warning, found.warning) == ("", "")
    assert plain.shift_mm < 0.5
    assert plain.metric_after > plain.metric_before
    # The same volume, registered by others and brought onto the T2 grid, is the measure for the result.
    part = fixed.crop((slice(0, 348), slice(0, 384), slice(18, 26)))
    mask, target = foreground_mask(part.data), known.data[:, :, 18:26]
    before, after = (
        correlation(resample_reference(volume, part.shape, part.affine)[0], target, mask) for volume in (displaced, moved(displaced, found))
    )
    assert before < 0.5
    assert after > 0.985
