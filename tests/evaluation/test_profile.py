from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.profile import Profile, common_edge, line_profiles, measure_edge
from napari_mrsr.volume import Volume

TEN_TO_NINETY = 2.5631


def world(volume_shape, affine):
    index = np.stack(np.meshgrid(*(np.arange(n) for n in volume_shape), indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


@pytest.fixture
def blurred_edge(make_affine):
    """Volume with a plane edge through `point` along `normal`, blurred by a Gaussian of `sigma` mm, from 100 to 300."""

    def volume(point, normal, sigma, shape=(40, 44, 36), name="edge", **affine):
        matrix = make_affine(**affine)
        normal = np.asarray(normal, float) / np.linalg.norm(normal)
        depth = (world(shape, matrix) - point) @ normal
        return Volume(100 + 100 * (1 + erf(depth / (np.sqrt(2) * sigma))), matrix, name=name)

    return volume


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize(
    ("voxel", "angles"), [((1, 1, 1), (0, 0, 0)), ((0.6, 0.6, 0.6), (0, 0, 0)), ((1, 0.7, 1.3), (12, -20, 33)), ((1, 1, 1), (30, 40, -10))]
)
@pytest.mark.parametrize("normal", [(1, 0, 0), (0.3, -0.8, 0.5)])
def test_width_of_a_blurred_edge(blurred_edge, voxel, angles, normal, interpolation):
    sigma, shape = 1.8, (40, 44, 36)
    place = blurred_edge((0, 0, 0), (1, 0, 0), 1, voxel=voxel, angles=angles)
    centre = place.affine[:3, :3] @ (np.array(shape) / 2) + place.affine[:3, 3]
    volume = blurred_edge(centre, normal, sigma, voxel=voxel, angles=angles)
    unit = np.array(normal) / np.linalg.norm(normal)
    line = (tuple(centre - 8 * unit), tuple(centre + 9 * unit))
    (profile,) = line_profiles([volume], line, interpolation=interpolation)
    edge = measure_edge(profile)
    # Linear interpolation widens an edge by a sixth of a voxel squared, at most, in variance.
    blur = max(voxel) ** 2 / 6 if interpolation == "linear" else 0
    assert TEN_TO_NINETY * sigma * 0.99 < edge.width < TEN_TO_NINETY * np.sqrt(sigma**2 + blur) * 1.01
    assert edge.position == pytest.approx(8, abs=0.05)
    assert (edge.low, edge.high) == (pytest.approx(100, abs=1), pytest.approx(300, abs=1))
    assert edge.overshoot < 1


def test_falling_edges_and_lines_that_are_not_at_right_angles(blurred_edge):
    volume = blurred_edge((-10, 30, 25), (1, 0, 0), 1.5)
    slanted = np.array([-1.0, 1.0, 0.0]) / np.sqrt(2)
    centre = np.array([-10.0, 30.0, 25.0])
    (profile,) = line_profiles([volume], (centre - 10 * slanted, centre + 10 * slanted), interpolation="cubic")
    assert profile.values[0] > profile.values[-1]
    edge = measure_edge(profile)
    assert edge.width == pytest.approx(TEN_TO_NINETY * 1.5 * np.sqrt(2), rel=0.01)
    assert edge.position == pytest.approx(10, abs=0.02)


def test_all_images_are_read_at_the_same_places(make_affine):
    shape = (20, 20, 20)

    def ramp(voxel, angles, name):
        matrix = make_affine(voxel, angles, origin=(-10, -10, -10))
        return Volume(world(shape, matrix) @ (3.0, -2.0, 1.0), matrix, name=name)

    volumes = [ramp((1, 1, 1), (0, 0, 0), "a"), ramp((2, 1.5, 1.2), (5, 10, 15), "b")]
    start, stop = np.array([-3.0, -2.0, 1.0]), np.array([4.0, 3.0, 5.0])
    a, b = line_profiles(volumes, (start, stop), width=2.0, across=2)
    assert (a.name, b.name) == ("a", "b")
    assert np.diff(a.distance) == pytest.approx(0.25)
    length = np.linalg.norm(stop - start)
    expected = (start + a.distance[:, None] * (stop - start) / length) @ (3.0, -2.0, 1.0)
    np.testing.assert_allclose(a.values, expected, atol=1e-4)
    np.testing.assert_allclose(b.values, expected, atol=1e-4)


def test_a_width_averages_across_the_line_within_the_plane(make_affine):
    y, z = (world((20, 20, 20), np.eye(4))[..., k] for k in (1, 2))
    volume = Volume((y - 10) ** 2 + 1000 * z, np.eye(4))
    line = ((3.0, 10.0, 10.0), (15.0, 10.0, 10.0))
    (narrow,) = line_profiles([volume], line)
    (wide,) = line_profiles([volume], line, width=4.0, across=2)
    assert narrow.values == pytest.approx(10_000, abs=0.5)
    # Mean of y^2 over -2 to 2 is 4/3; linear interpolation and the ends' full weight add a little.
    assert wide.values == pytest.approx(10_001.5, abs=0.3)
    with pytest.raises(InputError, match="needs the plane"):
        line_profiles([volume], line, width=4.0)
    with pytest.raises(InputError, match="runs across the slices"):
        line_profiles([volume], ((3.0, 3.0, 3.0), (3.0, 3.0, 15.0)), width=4.0, across=2)


def test_outside_an_image_there_is_nothing(make_volume):
    inside = make_volume((20, 20, 20), voxel=(1, 1, 1))
    part = inside.crop([slice(0, 10), slice(0, 20), slice(0, 20)])
    start = inside.affine[:3, 3] + (2, 5, 5)
    whole, half = line_profiles([inside, part], (start, start + np.array([16, 0, 0])))
    assert np.isfinite(whole.values).all()
    # The part ends half a voxel beyond its last centre, 9 - 2 + 0.5 mm along the line.
    np.testing.assert_array_equal(np.isfinite(half.values), half.distance <= 7.5 + 0.01)
    near = half.distance <= 7
    np.testing.assert_allclose(half.values[near], whole.values[near], rtol=1e-9)
    with pytest.raises(InputError, match="lies outside"):
        measure_edge(Profile("x", np.arange(4.0), np.full(4, np.nan)))


def test_overshoot_is_told_in_percent_of_the_edge():
    x = np.arange(0, 30, 0.25)
    clean = 100 + 100 * (1 + erf((x - 15) / (np.sqrt(2) * 1.2)))
    rung = clean + 20 * np.exp(-(((x - 18.5) / 1.0) ** 2))
    assert measure_edge(Profile("clean", x, clean)).overshoot < 0.1
    assert measure_edge(Profile("rung", x, rung)).overshoot == pytest.approx(10, abs=2)


def test_a_neighbouring_edge_does_not_widen_the_steepest():
    x = np.arange(0, 40, 0.25)
    steep = 100 * (1 + erf((x - 14) / (np.sqrt(2) * 1.0)))
    up, down = (steep + s * 60 * (1 + erf((x - 26) / (np.sqrt(2) * 1.2))) for s in (1, -1))
    for values in (up, down):
        edge = measure_edge(Profile("two", x, values))
        assert edge.width == pytest.approx(TEN_TO_NINETY, rel=0.05)
        assert edge.position == pytest.approx(14, abs=0.05)


def test_all_images_are_judged_by_the_same_edge():
    x = np.arange(0, 40, 0.25)

    def rise(at, sigma, height):
        return height / 2 * (1 + erf((x - at) / (np.sqrt(2) * sigma)))

    first = Profile("a", x, rise(12, 1.0, 100) + rise(28, 1.0, 90))
    second = Profile("b", x, rise(12.5, 2.0, 100) + rise(28, 1.0, 130))
    third = Profile("c", x, np.where(x < 20, rise(12, 1.0, 80), np.nan))
    near = common_edge([first, second, third])
    assert near == pytest.approx(12, abs=0.3)
    places = [measure_edge(p, near).position for p in (first, second, third)]
    assert places == pytest.approx([12, 12.5, 12], abs=0.1)
    assert measure_edge(second).position == pytest.approx(28, abs=0.1)
    assert measure_edge(second, near).width == pytest.approx(2 * TEN_TO_NINETY, rel=0.05)
    assert common_edge([Profile("flat", x, np.ones(len(x)))]) is None
    assert common_edge([]) is None


def test_where_there_is_no_edge_it_says_so():
    x = np.arange(0, 30, 0.25)
    noise = np.random.default_rng(0).standard_normal(len(x))
    for values in (np.full(len(x), 7.0), 100 + noise):
        with pytest.raises(InputError, match="flat has no clear edge"):
            measure_edge(Profile("flat", x, values))
    with pytest.raises(InputError, match="ends inside the edge"):
        measure_edge(Profile("cut", x, 100 * (1 + erf((x - 29) / (np.sqrt(2) * 4)))))
    with pytest.raises(InputError, match="Too little of the line"):
        measure_edge(Profile("short", x[:8], x[:8]))


def test_lines_that_cannot_be_sampled(make_volume):
    volume = make_volume()
    with pytest.raises(InputError, match="at least one voxel"):
        line_profiles([volume], ((0, 0, 0), (0, 0.5, 0)))
    with pytest.raises(InputError, match="at least one voxel"):
        line_profiles([volume], ((0, 0, 0), (0, np.nan, 0)))
    with pytest.raises(InputError, match="no image"):
        line_profiles([], ((0, 0, 0), (0, 9, 0)))
    broken = volume.data.copy()
    broken[5, 5, 5] = np.nan
    start = volume.affine[:3, 3]
    with pytest.raises(InputError, match="near the line"):
        line_profiles([volume.replace(data=broken)], (start, start + 9))
