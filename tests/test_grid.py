from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from napari_mrsr.errors import InputError
from napari_mrsr.grid import AxisSampling, SamplingGrid, lattice_offset
from napari_mrsr.volume import Volume

ALIGNMENTS = ("edges", "kspace", "corners")


@pytest.mark.parametrize(
    ("fine", "scale", "coarse", "first"),
    [
        (348, 4, 87, 2.0),
        (186, 2, 93, 1.0),
        (140, 4, 35, 2.0),
        (255, 3, 85, 1.0),
        (135, 2, 67, 67 - 135 / 67 * 33),
        (135, 3, 45, 1.0),
        (135, 4, 33, 67 - 135 / 33 * 16),
        (348, 2, 174, 0.0),
        (348, 3, 116, 0.0),
        (186, 3, 62, 0.0),
        (140, 2, 70, 0.0),
        (256, 2, 128, 0.0),
    ],
)
def test_kspace_positions_of_the_specification(fine, scale, coarse, first):
    axis = AxisSampling.from_fine(fine, scale, "kspace")
    assert axis.coarse == coarse
    assert axis.start == pytest.approx(first, abs=1e-12)
    np.testing.assert_allclose(axis.coarse_positions(), fine / coarse * (np.arange(coarse) - coarse // 2) + fine // 2, atol=1e-10)


@pytest.mark.parametrize(("fine", "scale"), [(135, 2), (140, 4), (186, 2), (255, 3), (348, 4), (31, 4), (30, 4)])
def test_kspace_positions_are_where_a_spectrum_crop_puts_a_phase_ramp(fine, scale):
    """A complex exponential inside the crop keeps its phase: the coarse samples read it at their true positions."""
    axis = AxisSampling.from_fine(fine, scale, "kspace")
    frequency = 2
    wave = np.exp(2j * np.pi * frequency * np.arange(fine) / fine)
    spectrum = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(wave)))
    low = fine // 2 - axis.coarse // 2
    coarse = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(spectrum[low : low + axis.coarse]))) * axis.coarse / fine
    np.testing.assert_allclose(coarse, np.exp(2j * np.pi * frequency * axis.coarse_positions() / fine), atol=1e-12)
    shifted = np.exp(2j * np.pi * frequency * (axis.coarse_positions() + 0.5) / fine)
    assert np.abs(coarse - shifted).max() > 1e-3


@given(st.integers(2, 400), st.integers(2, 8), st.sampled_from(ALIGNMENTS))
def test_coarse_size_is_floor(fine, scale, alignment):
    assume(fine >= scale)
    axis = AxisSampling.from_fine(fine, scale, alignment)
    assert axis.coarse == fine // scale
    margin = 0.5 if alignment == "kspace" else 0.0
    assert axis.coarse_positions().min() >= -margin - 1e-9
    assert axis.coarse_positions().max() <= fine - 1 + margin + 1e-9
    np.testing.assert_allclose(axis.fine_positions() * axis.step + axis.start, np.arange(fine), atol=1e-9)


@given(st.integers(1, 200), st.integers(2, 8), st.sampled_from(ALIGNMENTS))
def test_both_ways_agree_where_the_factor_divides(coarse, scale, alignment):
    down, up = AxisSampling.from_fine(coarse * scale, scale, alignment), AxisSampling.from_coarse(coarse, scale, alignment)
    assert (down.fine, down.coarse) == (up.fine, up.coarse)
    np.testing.assert_allclose(down.coarse_positions(), up.coarse_positions(), atol=1e-10)


def test_edges_and_corners_by_definition():
    edges = AxisSampling.from_fine(17, 3, "edges")
    np.testing.assert_allclose(edges.coarse_positions(), [1, 4, 7, 10, 13])
    assert edges.coarse_positions()[0] - edges.step / 2 == -0.5
    corners = AxisSampling.from_fine(17, 3, "corners")
    np.testing.assert_allclose(corners.coarse_positions(), np.linspace(0, 14, 5))
    np.testing.assert_allclose(AxisSampling.from_coarse(5, 3, "corners").fine_positions(), np.arange(15) * 4 / 14)
    single = AxisSampling.from_fine(3, 2, "corners")
    assert (single.coarse, single.start) == (1, 0.0)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_kept_axes_stay(alignment):
    grid = SamplingGrid.from_fine((11, 12, 13), (1, 2, 1), alignment)
    assert grid.coarse_shape == (11, 6, 13)
    assert grid.fine_shape == (11, 12, 13)
    matrix = grid.coarse_to_fine()
    np.testing.assert_array_equal(np.diag(matrix)[[0, 2, 3]], 1)
    np.testing.assert_array_equal(matrix[[0, 2], 3], 0)


def world(affine, indices):
    return np.asarray(indices) @ affine[:3, :3].T + affine[:3, 3]


def box_corners(lower, upper):
    return np.array(list(itertools.product(*zip(lower, upper, strict=True))), float)


@pytest.mark.parametrize("shape", [(13, 17, 11), (12, 16, 8), (31, 9, 14)])
@pytest.mark.parametrize("scale", [(2, 2, 2), (3, 3, 1), (1, 1, 4)])
def test_voxel_edges_coincide_in_mm(storage_orders, store, make_affine, shape, scale):
    data = np.arange(np.prod(shape), dtype=float).reshape(shape)
    for angles in ((0, 0, 0), (7, -11, 13)):
        affine = make_affine((0.7, 0.9, 2.5), angles)
        for order in storage_orders:
            high = Volume(*store(data, affine, *order))
            grid = SamplingGrid.from_fine(high.shape, scale, "edges")
            low_affine = grid.coarse_affine(high.affine)
            covered = np.array(grid.coarse_shape) * scale
            low_edges = world(low_affine, box_corners((-0.5,) * 3, np.array(grid.coarse_shape) - 0.5))
            np.testing.assert_allclose(low_edges, world(high.affine, box_corners((-0.5,) * 3, covered - 0.5)), atol=1e-9)
            # ... and still do in the axis order of the file.
            low = high.replace(data=np.zeros(grid.coarse_shape), affine=low_affine)
            stored, stored_affine = low.to_storage()
            file_edges = world(stored_affine, box_corners((-0.5,) * 3, np.array(stored.shape) - 0.5))
            np.testing.assert_allclose(np.sort(file_edges, 0), np.sort(low_edges, 0), atol=1e-9)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("shape", [(13, 17, 11), (12, 16, 8)])
def test_every_coarse_sample_lies_where_the_grid_says(alignment, shape, make_affine):
    affine = make_affine((0.7, 0.9, 2.5), (7, -11, 13))
    grid = SamplingGrid.from_fine(shape, (2, 3, 1), alignment)
    low = grid.coarse_affine(affine)
    for index in itertools.product(*(range(n) for n in grid.coarse_shape)):
        fine = [a.coarse_positions()[i] for a, i in zip(grid.axes, index, strict=True)]
        np.testing.assert_allclose(world(low, index), world(affine, fine), atol=1e-9)
    np.testing.assert_allclose(grid.fine_affine(low), affine, atol=1e-12)


def test_corner_alignment_joins_first_and_last_centres(make_affine):
    affine = make_affine((0.7, 0.9, 2.5), (7, -11, 13))
    grid = SamplingGrid.from_fine((13, 17, 12), (2, 3, 4), "corners")
    covered = np.array([12, 15, 12])
    low = grid.coarse_affine(affine)
    np.testing.assert_allclose(world(low, [0, 0, 0]), world(affine, [0, 0, 0]), atol=1e-12)
    np.testing.assert_allclose(world(low, np.array(grid.coarse_shape) - 1), world(affine, covered - 1), atol=1e-12)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_from_coarse_puts_fine_voxels_into_the_coarse_world(alignment, make_affine):
    low = make_affine((1.4, 1.8, 5), (7, -11, 13))
    down = SamplingGrid.from_fine((12, 18, 10), (2, 3, 1), alignment)
    up = SamplingGrid.from_coarse((6, 6, 10), (2, 3, 1), alignment)
    np.testing.assert_allclose(up.fine_affine(low), down.fine_affine(low), atol=1e-12)
    assert up.fine_shape == down.fine_shape


@pytest.mark.parametrize(
    ("shape", "scale", "alignment", "fragment"),
    [
        ((4, 4), (2, 2, 2), "edges", "three sizes"),
        ((4, 4, 4), (2, 2), "edges", "three sizes"),
        ((4, 4, 4), (0.5, 1, 1), "edges", "at least 1"),
        ((4, 4, 4), (np.nan, 1, 1), "edges", "at least 1"),
        ((4, 4, 4), (2, 2, 2), "centres", "Unknown alignment 'centres'"),
        ((4, 4, 1), (2, 2, 2), "edges", "axis of 1 voxels cannot be reduced by a factor of 2"),
        ((4, 2, 4), (3, 3, 3), "kspace", "axis of 2 voxels"),
    ],
)
def test_impossible_grids_are_refused(shape, scale, alignment, fragment):
    with pytest.raises(InputError, match=fragment) as caught:
        SamplingGrid.from_fine(shape, scale, alignment)
    assert "\n" not in str(caught.value)


def test_lattice_offset(make_affine):
    affine = make_affine((0.7, 0.9, 2.5), (7, -11, 13))
    moved = affine.copy()
    moved[:3, 3] = world(affine, [3, -2, 5])
    assert lattice_offset(affine, moved, (8, 9, 10)) == (3, -2, 5)
    assert lattice_offset(affine, affine, (8, 9, 10)) == (0, 0, 0)
    moved[:3, 3] = world(affine, [3, -2, 5.4])
    assert lattice_offset(affine, moved, (8, 9, 10)) is None
    moved[:3, 3] = world(affine, [3, -2, 5.005])
    assert lattice_offset(affine, moved, (8, 9, 10)) == (3, -2, 5)


def test_lattices_must_agree_over_the_whole_volume(make_affine):
    affine = make_affine((1, 1, 1))
    stretched = affine @ np.diag([1.0005, 1, 1, 1])
    assert lattice_offset(affine, stretched, (10, 10, 10)) == (0, 0, 0)
    assert lattice_offset(affine, stretched, (200, 10, 10)) is None
    assert lattice_offset(affine, make_affine((1, 1, 1), (0, 0, 1)), (60, 60, 60)) is None
    assert lattice_offset(affine, affine @ np.diag([2, 1, 1, 1]), (10, 10, 10)) is None


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_super_resolved_lattice_meets_the_truth(alignment, make_affine):
    """Degrade, enlarge again: where N = r n the new lattice is the old one; elsewhere edge-aligned ones still coincide."""
    affine = make_affine((0.7, 0.9, 2.5), (7, -11, 13))
    for shape in ((12, 18, 24), (13, 17, 23)):
        grid = SamplingGrid.from_fine(shape, (2, 3, 4), alignment)
        again = SamplingGrid.from_coarse(grid.coarse_shape, grid.scale, alignment)
        fine = again.fine_affine(grid.coarse_affine(affine))
        offset = lattice_offset(affine, fine, again.fine_shape)
        assert offset == (0, 0, 0) or (alignment == "kspace" and shape == (13, 17, 23))
