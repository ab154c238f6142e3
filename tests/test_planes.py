from __future__ import annotations

import numpy as np
import pytest

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.planes import PLANES, Rect, Space, cut, edge_letters
from napari_mrsr.volume import Volume

WORLD = Space()
TILT = (12.0, -7.0, 20.0)


@pytest.fixture
def ramp(make_affine):
    """Volume whose values are a linear function of world mm, on a tilted grid."""

    def volume(shape=(30, 34, 28), voxel=(1.1, 0.9, 1.7), angles=TILT):
        affine = make_affine(voxel, angles)
        index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        world = index @ affine[:3, :3].T + affine[:3, 3]
        return Volume(linear(world), affine, name="ramp")

    return volume


def linear(world):
    return np.asarray(world) @ np.array([2.0, -3.0, 0.5]) + 100.0


def centres(picture, shape):
    """In-plane coordinates of a picture's pixel centres."""
    place = picture.place
    across = place.left + (np.arange(shape[0]) + 0.5) * place.width / shape[0]
    up = place.bottom + (np.arange(shape[1]) + 0.5) * place.height / shape[1]
    return np.meshgrid(across, up, indexing="ij")


@pytest.mark.parametrize("plane", PLANES.values(), ids=PLANES)
def test_edges_of_low_and_high_resolution_coincide(make_volume, plane):
    high = make_volume((24, 20, 28), (0.9, 1.1, 0.7))
    low = degrade(high, Degradation())
    depth = float(high.affine[plane.slice_axis, 3]) + 5.0
    one, other = (cut(v, WORLD, plane, depth).picture for v in (high, low))
    assert one.data.shape != other.data.shape
    edges = [[p.place.left, p.place.right, p.place.bottom, p.place.top] for p in (one, other)]
    np.testing.assert_allclose(*edges, rtol=0, atol=1e-9)


@pytest.mark.parametrize("plane", PLANES.values(), ids=PLANES)
def test_a_picture_fills_its_outer_voxel_edges(make_volume, plane):
    volume = make_volume((10, 12, 14), (1.0, 2.0, 3.0))
    picture = cut(volume, WORLD, plane, float(volume.affine[plane.slice_axis, 3])).picture
    for axis, low, high in ((plane.across, picture.place.left, picture.place.right), (plane.up, picture.place.bottom, picture.place.top)):
        assert low == pytest.approx(volume.affine[axis, 3] - volume.voxel_size[axis] / 2)
        assert high - low == pytest.approx(volume.shape[axis] * volume.voxel_size[axis])


@pytest.mark.parametrize("plane", PLANES.values(), ids=PLANES)
def test_depth_picks_the_slice_that_holds_it(make_volume, plane):
    volume = make_volume((10, 11, 12), (0.7, 1.3, 2.1))
    axis = plane.slice_axis
    step, origin, count = volume.voxel_size[axis], volume.affine[axis, 3], volume.shape[axis]
    for index in (0, 1, count - 1):
        for share in (-0.499, 0.0, 0.499):
            section = cut(volume, WORLD, plane, origin + (index + share) * step)
            assert section.index == index
            assert np.array_equal(section.picture.data, np.take(volume.data, index, axis))
            assert section.picture.data.base is not None
    # A boundary belongs to the slice above it, whatever arithmetic makes of it.
    assert [cut(volume, WORLD, plane, origin + (i + 0.5) * step).index for i in range(count - 1)] == list(range(1, count))
    assert cut(volume, WORLD, plane, origin - 0.5 * step).index == 0
    for outside in (-0.51, count - 0.5, count + 3.0):
        assert cut(volume, WORLD, plane, origin + outside * step) is None


@pytest.mark.parametrize("plane", PLANES.values(), ids=PLANES)
def test_interpolation_of_a_linear_ramp_is_exact(ramp, plane):
    volume = ramp()
    middle = WORLD.extent(volume).mean(0)
    section = cut(volume, WORLD, plane, middle[plane.slice_axis])
    assert section.index is None
    picture = section.picture
    world = np.empty((*picture.data.shape, 3))
    world[..., plane.across], world[..., plane.up] = centres(picture, picture.data.shape)
    world[..., plane.slice_axis] = middle[plane.slice_axis]
    inside = np.isfinite(picture.data)
    assert 0.3 < inside.mean() < 1.0
    np.testing.assert_allclose(picture.data[inside], linear(world)[inside], rtol=0, atol=2e-4)
    # What is left empty lies outside the volume, and nothing else does.
    index = (world - volume.affine[:3, 3]) @ np.linalg.inv(volume.affine[:3, :3]).T
    within = ((index >= 1e-6) & (index <= np.array(volume.shape) - 1 - 1e-6)).all(-1)
    assert np.array_equal(inside[within], np.ones(within.sum(), bool))
    assert not inside[~((index >= -0.5) & (index <= np.array(volume.shape) - 0.5)).all(-1)].any()


def test_a_plane_beside_a_tilted_volume_gives_nothing(ramp):
    volume = ramp()
    low, high = WORLD.extent(volume)[:, 2]
    assert cut(volume, WORLD, PLANES["axial"], low - 0.1) is None
    assert cut(volume, WORLD, PLANES["axial"], high + 0.1) is None


def test_integer_voxels_are_interpolated_too(ramp):
    volume = ramp()
    whole = volume.replace(data=np.round(volume.data).astype(np.int16))
    picture = cut(whole, WORLD, PLANES["coronal"], WORLD.extent(whole)[:, 1].mean()).picture
    assert picture.data.dtype == np.float32
    assert np.isnan(picture.data).any()
    assert len(np.unique(picture.data % 1)) > 10


@pytest.mark.parametrize("plane", PLANES.values(), ids=PLANES)
def test_an_oblique_volume_shows_its_own_voxels_in_its_own_space(ramp, plane):
    volume = ramp()
    space = Space.of(volume)
    index = volume.shape[plane.slice_axis] // 3
    corner = np.zeros(3)
    corner[plane.slice_axis] = index
    depth = space.coordinates(volume.affine[:3, :3] @ corner + volume.affine[:3, 3])[plane.slice_axis]
    section = cut(volume, space, plane, depth)
    assert section.index == index
    assert np.array_equal(section.picture.data, np.take(volume.data, index, plane.slice_axis))


def test_space_of_straight_volumes_is_the_world(make_volume):
    assert np.array_equal(Space.of(None).rotation, np.eye(3))
    assert np.array_equal(Space.of(make_volume(voxel=(1, 2, 3))).rotation, np.eye(3))
    assert Space.of(make_volume(angles=(0.005, 0, 0))).angle == 0


def test_space_of_oblique_volumes_is_their_rotation(make_volume, make_affine):
    volume = make_volume(voxel=(1, 2, 3), angles=TILT)
    space = Space.of(volume)
    np.testing.assert_allclose(space.rotation, make_affine(angles=TILT)[:3, :3], atol=1e-12)
    assert space.angle == pytest.approx(volume.obliquity)
    turned = space.matrix(volume)[:3, :3]
    np.testing.assert_allclose(turned, np.diag((1, 2, 3)), atol=1e-12)


def test_space_of_a_sheared_volume_is_perpendicular_and_close(make_volume):
    volume = make_volume()
    affine = volume.affine.copy()
    affine[0, 1] = 0.2
    sheared = volume.replace(affine=affine)
    space = Space.of(sheared)
    np.testing.assert_allclose(space.rotation.T @ space.rotation, np.eye(3), atol=1e-12)
    assert np.linalg.det(space.rotation) == pytest.approx(1)
    # The shear is shared out: no axis is turned by more than the shear's own angle.
    assert (np.degrees(np.arccos(np.diag(space.rotation))) <= np.degrees(np.arctan(0.2))).all()
    assert cut(sheared, space, PLANES["axial"], space.extent(sheared)[:, 2].mean()).index is None


@pytest.mark.parametrize("angles", [(0, 0, 0), TILT])
def test_world_and_coordinates_are_inverse(make_volume, angles):
    space = Space.of(make_volume(angles=angles))
    point = (12.3, -45.6, 78.9)
    assert space.world(space.coordinates(point)) == pytest.approx(point, abs=1e-12)


def test_extent_holds_all_corners(make_volume):
    volume = make_volume((8, 10, 12), (1, 2, 3))
    low, high = WORLD.extent(volume)
    np.testing.assert_allclose(low, volume.affine[:3, 3] - np.array((1, 2, 3)) / 2)
    np.testing.assert_allclose(high - low, (8, 20, 36))
    tilted = make_volume((8, 10, 12), (1, 2, 3), TILT)
    np.testing.assert_allclose(np.ptp(Space.of(tilted).extent(tilted), axis=0), (8, 20, 36))
    assert (np.ptp(WORLD.extent(tilted), axis=0) > (8, 20, 36)).all()


def test_every_storage_order_gives_the_same_pictures(make_volume, store, storage_order):
    volume = make_volume((9, 10, 11), (1.0, 1.5, 2.0))
    again = Volume(*store(volume.data, volume.affine, *storage_order))
    for plane in PLANES.values():
        depth = float(volume.affine[plane.slice_axis, 3] + 4.2 * volume.voxel_size[plane.slice_axis])
        one, other = (cut(v, WORLD, plane, depth) for v in (volume, again))
        assert one.index == other.index == 4
        assert np.array_equal(one.picture.data, other.picture.data)
        assert [*vars(one.picture.place).values()] == pytest.approx([*vars(other.picture.place).values()])


def test_letters_at_the_edges():
    assert edge_letters(PLANES["axial"], True) == ("R", "L", "P", "A")
    assert edge_letters(PLANES["axial"], False) == ("L", "R", "P", "A")
    assert edge_letters(PLANES["coronal"], True) == ("R", "L", "I", "S")
    assert edge_letters(PLANES["sagittal"], True) == ("A", "P", "I", "S")
    assert edge_letters(PLANES["sagittal"], False) == ("P", "A", "I", "S")


def test_a_rectangle_grows_about_its_centre():
    grown = Rect(0, 10, 0, 2).with_ratio(0.5, 2.0)
    assert (grown.width, grown.height) == (10, 5)
    assert (grown.bottom, grown.top) == (-1.5, 3.5)
    slim = Rect(0, 1, 0, 10).with_ratio(0.5, 2.0)
    assert (slim.width, slim.height) == (5, 10)
    assert Rect(0, 4, 0, 4).with_ratio(0.5, 2.0) == Rect(0, 4, 0, 4)
