"""Given low- and high-resolution volumes: what fits, and what is refused with numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.errors import InputError
from napari_mrsr.io import write_volume
from napari_mrsr.networks.scaling import by_range
from napari_mrsr.training.data import Study, load_study
from napari_mrsr.training.pairs import match_pair
from napari_mrsr.training.patches import PatchSampler, validation_case
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.training.sources import find_split, load_split

CASES = [("gaussian", 2), ("gaussian", 3), ("bicubic", 2), ("slice-profile", 3), ("kspace", 2)]


def moved(volume, *shift):
    """The same voxels at another place, in voxels of the volume."""
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ shift
    return volume.replace(affine=affine)


def recipe(root, protocol="gaussian", network="cftn", scale=2, augmentation=None, **data):
    return Recipe.model_validate(
        {
            "name": "tiny",
            "network": {"name": network, "scale": scale},
            "degradation": {"protocol": protocol, "scale": scale},
            "data": {"root": str(root), "train": ["."], "low": "low", "split": "parts", **data},
            "patches": {"size": 6, "batch": 4, "margin": 3},
            "augmentation": augmentation or {},
        }
    )


@pytest.fixture(scope="module")
def image(make_volume):
    return make_volume((44, 48, 42), (1.0, 1.0, 1.2), sigma=1.0, seed=5)


@pytest.mark.parametrize(("protocol", "scale"), CASES)
def test_what_the_protocol_makes_fits(image, protocol, scale):
    how = Degradation(protocol=protocol, scale=scale)
    low = degrade(image, how)
    cut, small, block = match_pair(image, low.replace(data=3 * low.data), how)
    np.testing.assert_array_equal(cut.data, image.crop(block).data)
    factors = [round(a / b) for a, b in zip(cut.shape, small.shape, strict=True)]
    assert all(n == f * m for n, f, m in zip(cut.shape, factors, small.shape, strict=True))
    inner = (slice(2, -2),) * 3
    np.testing.assert_allclose(small.data[inner], degrade(cut, how).data[inner], atol=0.02 * image.data.max())  # in the image's units


@pytest.mark.parametrize("start", [(3, 0, 1), (1, 2, 5)])
def test_a_low_resolution_of_a_part_is_cut_to_fit(image, start):
    part = image.crop([slice(s, None) for s in start])
    low = degrade(part, Degradation(protocol="gaussian", scale=2))
    cut, small, block = match_pair(image, low, Degradation(protocol="gaussian", scale=2))
    assert tuple(b.start for b in block) == start
    assert cut.shape == tuple(2 * n for n in small.shape)
    wider, narrow, other = match_pair(part, degrade(image, Degradation(protocol="gaussian", scale=2)), Degradation(protocol="gaussian", scale=2))
    assert wider.shape == tuple(2 * n for n in narrow.shape)
    assert [b.start for b in other] == [s % 2 for s in start]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda v: moved(v, 0.25, 0, 0), r"along R its first voxel lies at voxel 1\.00 of the high resolution, protocol gaussian puts it at 0\.5"),
        (lambda v: v.replace(affine=v.affine @ np.diag([1.0, 1.5, 1.0, 1.0])), r"factor along A is 3\.000, protocol gaussian needs 2"),
        (lambda v: v.replace(data=np.roll(v.data, 1, 2)), r"displaced against synthetic by 1\.0 of its voxels along S \(correlation 0\.\d\d\)"),
        (lambda v: v.replace(data=np.random.default_rng(0).random(v.shape)), r"displaced|do not show the same: correlation -?0\.\d\d"),
        (lambda v: v.replace(data=v.data.max() - v.data), r"displaced|do not show the same: correlation -\d\.\d\d"),
        (lambda v: v.replace(data=np.full(v.shape, 3.0)), "all voxels have the same value"),
        (lambda v: moved(v, 300, 0, 0), "fewer than four common voxels"),
    ],
    ids=["half a voxel", "factor", "content", "noise", "inverted", "constant", "elsewhere"],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_numbers(image, change, sentence):
    how = Degradation(protocol="gaussian", scale=2)
    with pytest.raises(InputError, match=sentence):
        match_pair(image, change(degrade(image, how)), how)


def test_turned_grids_are_refused(image, make_affine):
    how = Degradation(protocol="gaussian", scale=2)
    low = degrade(image, how)
    turned = low.replace(affine=low.affine @ np.linalg.inv(make_affine()) @ make_affine(angles=(0, 0, 4)))
    with pytest.raises(InputError, match=r"axes are turned by [34]\.\d degrees"):
        match_pair(image, turned, how)


def test_a_protocol_without_steady_spacing_is_refused(image):
    how = Degradation(protocol="gaussian-zoom", scale=2)
    with pytest.raises(InputError, match="give pairs for another protocol"):
        match_pair(image, degrade(image, how), how)


def test_noisy_and_softer_low_resolutions_are_accepted(image):
    how = Degradation(protocol="gaussian", scale=2)
    low = degrade(image, how)
    noisy = low.replace(data=low.data + np.random.default_rng(0).normal(0, 30, low.shape))
    match_pair(image, noisy, how)
    match_pair(image, low.replace(data=ndimage.gaussian_filter(low.data, 0.4)), how)


# --- through the files to the batches -------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, image):
    low = degrade(image, Degradation(protocol="gaussian", scale=2))
    write_volume(image, tmp_path / "sub-ann_T1w.nii.gz")
    write_volume(low, tmp_path / "sub-ann_low.nii.gz")
    return tmp_path


def test_the_low_resolution_is_found_by_name_or_folder(files, image):
    path = files / "sub-ann_T1w.nii.gz"
    plan = recipe(files)
    assert load_study(path, plan.data, plan).low.shape == (22, 24, 21)
    (files / "thin").mkdir()
    (files / "sub-ann_low.nii.gz").rename(files / "thin" / "sub-ann_T1w.nii.gz")
    with pytest.raises(InputError, match=r"sub-ann_low\.nii\.gz.*does not exist"):
        load_study(path, plan.data, plan)
    plan = recipe(files, low="thin")
    assert load_study(path, plan.data, plan).low.shape == (22, 24, 21)
    with pytest.raises(InputError, match="exclude each other"):
        load_study(path, recipe(files, low="thin", in_plane=2.0).data, recipe(files, low="thin", in_plane=2.0))


@pytest.mark.parametrize("aug", [{"contrast_probability": 0.1, "curve_probability": 0.2}, {"blur": (0.9, 1.1)}])
def test_given_pairs_cannot_be_varied_in_contrast(files, aug):
    plan = recipe(files, train=["sub-ann_T1w.nii.gz"], augmentation=aug)
    with pytest.raises(InputError, match=f"leave out augmentation.{next(iter(aug))}"):
        load_split(plan, find_split(plan))


def test_patches_of_given_pairs_lie_on_each_other(files, image):
    plan = recipe(files, train=["sub-ann_T1w.nii.gz"], augmentation={"intensity": 0.2})
    (train,), (validation,) = load_split(plan, find_split(plan))
    simulated = PatchSampler(plan, [Study(train.image)])
    given = PatchSampler(plan, [train])
    protocol = simulated.protocol
    for step in range(6):
        pair = given.batch(step)
        for lr, hr in zip(pair.lr[:, 0].numpy(), pair.hr[:, 0].numpy(), strict=True):
            grid = Degradation(protocol="gaussian", scale=2).grid(hr.shape, 2)
            inner = (slice(2, -2),) * 3
            expected, wrong = (protocol.operator(grid).image(np.roll(hr, s, (0, 1, 2))) for s in (0, 1))
            near = np.abs(lr - expected)[inner].max()
            assert near < 0.03
            assert np.abs(lr - wrong)[inner].max() > 2 * near
    case = validation_case(validation, plan, lambda lr, r: by_range(None, lr, r))
    other = validation_case(Study(validation.image), plan, lambda lr, r: by_range(None, lr, r))
    inner = (..., slice(3, -3), slice(3, -3), slice(3, -3))
    np.testing.assert_allclose(case.lr.numpy()[inner], other.lr.numpy()[inner], rtol=0.05)
