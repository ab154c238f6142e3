from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.brain import brain_mask
from napari_mrsr.intensity import foreground_mask
from napari_mrsr.io import read_volume
from napari_mrsr.volume import Volume


@pytest.fixture(scope="module")
def phantom():
    """Head of nested ellipsoids (brain, fluid, skull, scalp) in voxels of any size; gives volume and true brain with fluid."""

    def make(voxel=(2.0, 2.0, 2.0), levels=(100, 30, 5, 130), stored=None, seed=0):
        extent = np.array([176.0, 216.0, 176.0])
        shape = np.ceil(extent / voxel).astype(int)
        x, y, z = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * v for n, v in zip(shape, voxel, strict=True)), indexing="ij")

        def ball(a, b, c):
            return (x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 < 1

        brain, fluid, skull, scalp = ball(62, 80, 60), ball(65, 83, 63), ball(72, 90, 70), ball(79, 97, 77)
        data = np.zeros(x.shape)
        for region, level in zip((scalp, skull, fluid, brain), levels[::-1], strict=True):
            data[region] = level
        data = ndimage.gaussian_filter(data, 0.5) + np.abs(np.random.default_rng(seed).normal(0, 1, data.shape))
        affine = np.diag([*voxel, 1.0])
        if stored is not None:
            data, affine = stored(data, affine)
        return Volume(data, affine, name="head"), fluid

    return make


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize(
    ("levels", "voxel"),
    [((100, 30, 5, 130), (2.0, 2.0, 2.0)), ((60, 130, 5, 90), (1.5, 1.5, 1.5)), ((110, 15, 5, 50), (1.0, 1.2, 4.0))],
    ids=["T1", "T2", "FLAIR"],
)
def test_brain_of_a_phantom(phantom, levels, voxel):
    head, brain = phantom(voxel, levels)
    found = brain_mask(head)
    assert found.data.dtype == np.uint8
    assert found.shape == head.shape
    np.testing.assert_array_equal(found.affine, head.affine)
    assert dice(found.data > 0, brain) > 0.93
    # Half a voxel more or less in either lattice would shift it.
    shift = np.subtract(ndimage.center_of_mass(found.data), ndimage.center_of_mass(brain)) * voxel
    assert np.abs(shift).max() < 0.25
    assert found.record["mask"]["skull_stripped"] is False


def test_storage_order_and_units_do_not_matter(phantom, store):
    plain, _ = phantom((2.5, 2.5, 2.5))
    turned, _ = phantom((2.5, 2.5, 2.5), stored=lambda data, affine: store(data, affine, (2, 0, 1), (-1, 1, -1)))
    np.testing.assert_array_equal(brain_mask(plain).data, brain_mask(turned).data)
    bright = brain_mask(plain.replace(data=plain.data * 37))
    assert dice(bright.data > 0, brain_mask(plain).data > 0) > 0.999


def test_without_scalp_the_foreground_is_the_brain(phantom):
    head, brain = phantom((2.0, 2.0, 2.0))
    stripped = head.replace(data=np.where(brain, head.data, 0))
    found = brain_mask(stripped)
    assert found.record["mask"]["skull_stripped"] is True
    np.testing.assert_array_equal(found.data > 0, foreground_mask(stripped.data))


def test_nothing_to_find_is_refused():
    with pytest.raises(InputError, match="same value"):
        brain_mask(Volume(np.zeros((20, 20, 20)), np.eye(4)))
    with pytest.raises(InputError, match="NaN"):
        brain_mask(Volume(np.where(np.eye(20)[..., None] > np.zeros(20), np.nan, 1.0), np.eye(4)))


def test_a_piece_of_brain_is_all_brain(head_crop):
    found = brain_mask(head_crop)
    np.testing.assert_array_equal(found.data > 0, foreground_mask(head_crop.data))
    assert found.data.mean() > 0.95


def test_a_head_without_a_brain_is_refused():
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, 60) for _ in range(3)), indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    shell = 100.0 * ((radius > 0.75) & (radius < 0.8))
    with pytest.raises(InputError, match="No brain was found in shell"):
        brain_mask(Volume(shell, np.diag([3.0, 3.0, 3.0, 1.0]), name="shell"))


@pytest.mark.parametrize(
    ("name", "stripped", "litres"),
    [
        ("t1_3d/test/sub-arc2017/sub-arc2017_T1w.nii.gz", False, (1.3, 1.65)),
        ("t1_3d/test/sub-nvn/sub-nvn_T1w.nii.gz", True, (1.4, 1.55)),
        ("multi_thick/test/sub-msl04/sub-msl04_ses-1_T2w.nii.gz", False, (1.4, 2.1)),
        ("multi_thick/test/sub-msl04/native_grid/sub-msl04_ses-1_FLAIR.nii.gz", False, (1.4, 1.75)),
        ("t2_3d/test/sub-arc2208/sub-arc2208_T2w.nii.gz", True, (1.8, 2.0)),
        ("multi_1mm/train/sub-msx07/sub-msx07_FLAIR.nii.gz", True, (1.05, 1.2)),
    ],
)
def test_real_heads(shared_data, name, stripped, litres):
    """Ranges around masks that were judged by eye; the brain is one piece without holes."""
    head = read_volume(shared_data(name))
    found = brain_mask(head)
    assert found.record["mask"]["skull_stripped"] is stripped
    low, high = litres
    assert low < found.record["mask"]["litres"] < high
    if not stripped:
        _, parts = ndimage.label(found.data)
        assert parts == 1
        middle = found.data[tuple(slice(n // 2 - 2, n // 2 + 3) for n in found.shape)]
        assert middle.all()
