from __future__ import annotations

import numpy as np
import pytest

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.grid import SamplingGrid
from napari_mrsr.inference.background import bounds, busy_mask, enlarge
from napari_mrsr.intensity import foreground_mask
from napari_mrsr.io import read_volume


def ball(shape=(40, 44, 36), radius=0.55, value=500.0):
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.where(x**2 + y**2 + z**2 < radius**2, value, 0.0).astype(np.float32)


def test_air_is_left_out_and_everything_near_tissue_kept():
    head = ball()
    busy = busy_mask(head, (2.0, 2.0, 2.0))
    assert busy[head > 0].all()
    assert not busy[0, 0, 0]
    assert 0.1 < busy.mean() < 0.5
    assert all(s.start > 0 and s.stop < n for s, n in zip(bounds(busy), head.shape, strict=True))


def test_holes_and_dark_cavities_are_never_air():
    head = ball()
    head[18:22, :22, 16:20] = 0  # a canal that opens to the front
    inner = ball(radius=0.3) > 0
    head[inner] = 0
    busy = busy_mask(head, (2.0, 2.0, 2.0))
    assert busy[inner].all()
    assert busy[18:22, 12:22, 16:20].all()


@pytest.mark.parametrize("sigma", [5.0, 25.0])
def test_noisy_air_stays_air_when_the_noise_is_known(sigma):
    random = np.random.default_rng(0)
    noisy = np.hypot(ball() + random.normal(0, sigma, (40, 44, 36)), random.normal(0, sigma, (40, 44, 36))).astype(np.float32)
    busy = busy_mask(noisy, (2.0, 2.0, 2.0), sigma)
    assert busy[ball() > 0].all()
    assert busy.mean() < 0.5


def test_nothing_is_left_out_where_there_is_no_air_to_tell():
    assert busy_mask(np.zeros((8, 8, 8)), (1, 1, 1)).all()
    assert busy_mask(np.full((8, 8, 8), 7.0), (1, 1, 1)).all()


@pytest.mark.parametrize("name", ["t1_3d/test/sub-nvn/sub-nvn_T1w.nii.gz", "t1_3d/test/sub-arc2017/sub-arc2017_T1w.nii.gz"])
def test_no_tissue_of_a_real_head_is_left_out(shared_data, name):
    low = degrade(read_volume(shared_data(name)), Degradation(noise=2))
    clean = degrade(read_volume(shared_data(name)), Degradation())
    busy = busy_mask(low.data, low.voxel_size, low.record["degradation"]["noise_sigma"])
    assert busy[foreground_mask(clean.data)].mean() > 0.9999


@pytest.mark.parametrize("alignment", ["edges", "kspace", "corners"])
def test_linear_interpolation_lies_on_the_fine_lattice(alignment):
    grid = SamplingGrid.from_coarse((9, 8, 7), (2, 3, 1), alignment)
    x, y, z = np.meshgrid(*(axis.coarse_positions() for axis in grid.axes), indexing="ij")
    fine = enlarge(2 * x - y + 3 * z, grid, [slice(0, n) for n in grid.fine_shape])
    a, b, c = np.meshgrid(*(np.arange(n) for n in grid.fine_shape), indexing="ij")
    expected, inside = 2 * a - b + 3 * c, (slice(2, -2), slice(3, -3), slice(1, -1))
    np.testing.assert_allclose(fine[inside], expected[inside], atol=1e-4)
    block = (slice(3, 9), slice(2, 11), slice(0, 4))
    np.testing.assert_array_equal(enlarge(2 * x - y + 3 * z, grid, block), fine[block])
