from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from napari_mrsr.degradation import degrade, get_protocol
from napari_mrsr.errors import InputError
from napari_mrsr.grid import SamplingGrid
from napari_mrsr.intensity import foreground_mask, intensity_range
from napari_mrsr.io import write_volume
from napari_mrsr.networks.scaling import by_range
from napari_mrsr.training.data import Study, find_volumes
from napari_mrsr.training.patches import PatchSampler as StudySampler
from napari_mrsr.training.patches import validation_case as study_case
from napari_mrsr.training.people import contrast_of, subject
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.volume import Volume

REACH = 3
"""LR voxels beyond which a patch border has no influence on the degraded patch."""


def PatchSampler(plan, volumes):
    return StudySampler(plan, [Study(volume) for volume in volumes])


def validation_case(volume, plan):
    return study_case(Study(volume), plan, lambda lr, volume_range: by_range(None, lr, volume_range))


def recipe(scale=2, protocol="gaussian", patches=None, augmentation=None, **changes):
    return Recipe.model_validate(
        {
            "name": "tiny",
            "network": {"name": "cftn", "scale": scale},
            "degradation": {"protocol": protocol, "scale": scale},
            "data": {"train": ["train"], "validation": ["val"]},
            "patches": {"size": 10, "batch": 2, "margin": 4, **(patches or {})},
            "augmentation": {"flips": False, "turns": False, **(augmentation or {})},
            **changes,
        }
    )


@pytest.fixture(scope="module")
def volumes(make_volume):
    """Two people, odd sizes, structure down to the voxel; one smaller than a patch with its margins."""
    return [make_volume((47, 51, 43), sigma=0.8, seed=1), make_volume((31, 33, 29), sigma=0.8, seed=2)]


def degraded(patch, plan):
    """The protocol applied to an HR patch on its own."""
    protocol = get_protocol(plan.degradation.protocol)
    grid = SamplingGrid.from_fine(patch.shape, protocol.scale_per_axis(plan.degradation.scale, 2), protocol.alignment)
    return protocol.operator(grid).forward(patch)


def items(batch):
    return zip(batch.lr[:, 0].numpy(), batch.hr[:, 0].numpy(), batch.noise_level.flatten().tolist(), strict=True)


# --- batches --------------------------------------------------------------------------------------------------------------------------

EVERYTHING = {
    "flips": True, "turns": True, "contrast_probability": 0.5, "bias_probability": 0.5, "intensity": 0.2, "noise": 5.0, "noise_probability": 0.5,
}  # fmt: skip


def test_a_batch_depends_on_seed_and_step_alone(volumes):
    plan = recipe(augmentation=EVERYTHING)
    first = PatchSampler(plan, volumes)
    forward = [first.batch(step) for step in range(4)]
    second = PatchSampler(plan, volumes)
    torch.manual_seed(99)
    np.random.default_rng().random(7)
    backward = [second.batch(step) for step in reversed(range(4))][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert torch.equal(a.lr, b.lr)
        assert torch.equal(a.hr, b.hr)
        assert torch.equal(a.noise_level, b.noise_level)
    assert not torch.equal(forward[0].hr, forward[1].hr)
    assert not torch.equal(forward[0].hr[0], forward[0].hr[1])
    assert not torch.equal(PatchSampler(recipe(augmentation=EVERYTHING, seed=1), volumes).batch(0).hr, forward[0].hr)


@pytest.mark.parametrize("scale", [2, 3])
def test_shapes_and_types(volumes, scale):
    batch = PatchSampler(recipe(scale, patches={"size": 8, "batch": 3}), volumes).batch(0)
    assert batch.lr.shape == (3, 1, 8, 8, 8)
    assert batch.hr.shape == (3, 1, *(8 * scale,) * 3)
    assert batch.noise_level.shape == (3, 1, 1, 1, 1)
    assert batch.lr.dtype == batch.hr.dtype == batch.noise_level.dtype == torch.float32
    assert batch.lr.is_contiguous()
    assert batch.hr.is_contiguous()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("protocol", "scale"), [("gaussian", 2), ("gaussian", 3)])
def test_lr_and_hr_patches_lie_on_each_other(volumes, protocol, scale, turned):
    plan = recipe(scale, protocol, patches={"size": 10, "batch": 4}, augmentation={"flips": turned, "turns": turned})
    sampler = PatchSampler(plan, volumes)
    inner = (slice(REACH, -REACH),) * 3
    for step in range(4):
        for lr, hr, level in items(sampler.batch(step)):
            assert level == 0
            np.testing.assert_allclose(lr[inner], degraded(hr, plan)[inner], atol=1e-5)
            # One voxel off would be seen.
            assert np.abs(lr[inner] - degraded(np.roll(hr, 1, 0), plan)[inner]).max() > 1e-3


def test_a_patch_is_a_piece_of_a_volume_in_units_of_its_range(volumes):
    sampler = PatchSampler(recipe(patches={"size": 5, "margin": 2}), volumes[:1])
    image = volumes[0].data / intensity_range(volumes[0].data)
    windows = np.lib.stride_tricks.sliding_window_view(image, (10, 10, 10))
    found = 0
    for step in range(4):
        for _, hr, _ in items(sampler.batch(step)):
            starts = np.argwhere(np.abs(windows[..., 0, 0, 0] - hr[0, 0, 0]) < 1e-5)
            found += any(np.allclose(windows[tuple(s)], hr, atol=1e-5) for s in starts)
    assert found >= 4  # the others touch the mirrored border


def test_patches_at_the_border_are_degraded_as_the_whole_volume_is(make_affine):
    """Tissue in one corner only, so every patch is there."""
    data = np.zeros((40, 40, 40))
    data[:6, :6, :6] = np.random.default_rng(0).uniform(500, 1000, (6, 6, 6))
    volume = Volume(data, make_affine())
    plan = recipe(patches={"size": 6, "batch": 8, "margin": 5})
    low = degrade(volume, plan.degradation).data / intensity_range(data)
    windows = np.lib.stride_tricks.sliding_window_view(low, (6, 6, 6)).reshape(-1, 6, 6, 6)
    matches = [float(np.abs(windows - lr).max((1, 2, 3)).min()) for lr, _, _ in items(PatchSampler(plan, [volume]).batch(0))]
    assert min(matches) < 1e-5


def test_turns_and_flips_happen(make_affine):
    ramp = np.add.outer(np.add.outer(100 * np.arange(40.0), 10 * np.arange(40.0)), np.arange(40.0)) + 500
    plan = recipe(augmentation={"flips": True, "turns": True}, patches={"batch": 8})
    slopes = set()
    for step in range(6):
        for _, hr, _ in items(PatchSampler(plan, [Volume(ramp, make_affine())]).batch(step)):
            inner = hr[6:14, 6:14, 6:14]
            slopes.add(tuple(int(np.sign(s)) * r for s, r in _ranked([np.diff(inner, axis=a).mean() for a in range(3)])))
    assert len(slopes) > 12


def _ranked(values):
    order = np.argsort(np.argsort(np.abs(values))) + 1
    return zip(values, order.tolist(), strict=True)


def test_every_volume_is_drawn(volumes):
    doubled = volumes[1].replace(data=volumes[1].data + 4000)  # after division by the range, much flatter
    sampler = PatchSampler(recipe(patches={"batch": 16}), [volumes[0], doubled])
    spread = sampler.batch(0).hr.std((1, 2, 3, 4))
    assert 2 < (spread < 0.06).sum() < 14


def test_patches_hold_as_much_tissue_as_asked(make_affine):
    data = np.zeros((64, 64, 64))
    data[:, :, :26] = np.random.default_rng(0).uniform(800, 1000, (64, 64, 26))
    plan = recipe(patches={"size": 6, "batch": 16, "margin": 3, "foreground": 0.9})
    for _, hr, _ in items(PatchSampler(plan, [Volume(data, make_affine())]).batch(0)):
        assert (hr > 0.1).mean() >= 0.9


# --- noise ----------------------------------------------------------------------------------------------------------------------------


def test_the_level_told_is_the_noise_added(volumes):
    patches = {"size": 14, "batch": 4, "margin": 2}
    clean = PatchSampler(recipe(patches=patches), volumes)
    noisy = PatchSampler(recipe(patches=patches, augmentation={"noise": 8.0, "noise_probability": 1.0}), volumes)
    levels = []
    for step in range(6):
        for (lr, hr, _), (dirty, truth, level) in zip(items(clean.batch(step)), items(noisy.batch(step)), strict=True):
            np.testing.assert_array_equal(hr, truth)
            bright = lr > max(0.2, 5 * level)
            assert bright.sum() > 500
            noise = (dirty - lr)[bright]
            assert noise.std() == pytest.approx(level, rel=5 / np.sqrt(2 * noise.size))
            # Rician: the mean of the magnitude rises by sigma^2 / 2A.
            expected = (level**2 / (2 * lr[bright])).mean()
            assert noise.mean() == pytest.approx(expected, abs=5 * level / np.sqrt(noise.size))
            levels.append(level)
    assert 0 < min(levels) < 0.02
    assert 0.06 < max(levels) <= 0.08


def test_some_patches_stay_without_noise(volumes):
    patches = {"batch": 16}
    clean = PatchSampler(recipe(patches=patches), volumes).batch(0)
    noisy = PatchSampler(recipe(patches=patches, augmentation={"noise": 5.0, "noise_probability": 0.5}), volumes).batch(0)
    silent = noisy.noise_level.flatten() == 0
    assert 2 < silent.sum() < 14
    assert torch.equal(noisy.lr[silent], clean.lr[silent])
    assert (noisy.lr[~silent] != clean.lr[~silent]).flatten(1).any(1).all()


# --- variations -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmentation", [{"contrast_probability": 1.0}, {"bias_probability": 1.0}, {"intensity": 0.3}])
def test_variations_change_both_sides_alike(volumes, augmentation):
    plan = recipe(augmentation=augmentation)
    plain, varied = PatchSampler(recipe(), volumes).batch(3), PatchSampler(plan, volumes).batch(3)
    assert not torch.allclose(plain.hr, varied.hr, atol=1e-3)
    inner = (slice(REACH, -REACH),) * 3
    for lr, hr, _ in items(varied):
        assert np.isfinite(hr).all()
        np.testing.assert_allclose(lr[inner], degraded(hr, plan)[inner], atol=1e-4)


# --- validation -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop", [12, 500])
@pytest.mark.parametrize(("protocol", "scale"), [("gaussian", 2), ("gaussian", 3), ("slice-profile", 2)])
def test_validation_block_lies_on_its_truth(volumes, protocol, scale, crop):
    plan = recipe(scale, protocol, validation_crop=crop, augmentation={"noise": 5.0})
    volume = volumes[0]
    case = validation_case(volume, plan)
    factors = get_protocol(protocol).scale_per_axis(scale, 2)
    lr = case.lr[0, 0].numpy()
    assert lr.shape == tuple(min(crop, int(n // f)) for n, f in zip(volume.shape, factors, strict=True))
    shape = tuple(int(n * f) for n, f in zip(lr.shape, factors, strict=True))
    assert case.hr.shape == case.mask.shape == case.cubic.shape == (1, *shape)
    grid = SamplingGrid.from_fine(shape, factors, "edges")
    inner = (slice(REACH, -REACH),) * 3
    expected = get_protocol(protocol).operator(grid).forward(case.hr[0])
    gain = intensity_range(degrade(volume, plan.degradation).data)
    np.testing.assert_allclose(lr[inner] * gain, expected[inner], atol=1e-5 * gain)
    assert case.scaling.target_gain == pytest.approx(gain)
    assert case.data_range == pytest.approx(intensity_range(volume.data))
    assert case.mask.mean() == pytest.approx(foreground_mask(volume.data).mean(), abs=0.1)


def test_validation_block_lies_in_the_middle_of_the_tissue(make_affine):
    data = np.zeros((64, 40, 40))
    data[40:60, 10:30, 5:25] = np.random.default_rng(0).uniform(500, 1000, (20, 20, 20))
    case = validation_case(Volume(data, make_affine()), recipe(validation_crop=10))
    assert case.mask.mean() > 0.9


# --- files ----------------------------------------------------------------------------------------------------------------------------


def test_volumes_are_found_by_folder_and_by_pattern(tmp_path, make_volume):
    for name in ("train/sub-b/sub-b_T1w.nii.gz", "train/sub-a/sub-a_T1w.nii.gz", "train/sub-a/sub-a_T2w.nii.gz"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(make_volume((4, 4, 4)), path)
    (tmp_path / "train" / "notes.txt").write_text("x")
    names = [p.name for p in find_volumes(tmp_path, ["train"])]
    assert names == ["sub-a_T1w.nii.gz", "sub-a_T2w.nii.gz", "sub-b_T1w.nii.gz"]
    assert [p.name for p in find_volumes(tmp_path, ["train/*/*_T1w.nii.gz", "train/sub-a"])] == [names[0], names[2], names[1]]
    assert find_volumes(tmp_path / "train/sub-b/sub-b_T1w.nii.gz", ["."]) == [tmp_path / "train/sub-b/sub-b_T1w.nii.gz"]
    assert [p.name for p in find_volumes("elsewhere", [str(tmp_path / "train/sub-a/*_T2w*"), str(tmp_path / "train/sub-b")])] == [names[1], names[2]]
    with pytest.raises(InputError, match=r"No image files found for 'test'.*--data"):
        find_volumes(tmp_path, ["train", "test"])
    with pytest.raises(InputError, match="No image files found"):
        find_volumes(tmp_path, ["train/*.txt"])


def test_a_bids_folder_gives_its_images_but_no_masks_derivatives_or_references(tmp_path, make_volume):
    wanted = "sub-a/ses-1/anat/sub-a_ses-1_T2w.nii.gz"
    others = (
        "sub-a/ses-1/anat/sub-a_ses-1_T1w.nii.gz",
        "sub-a/ses-1/anat/sub-a_ses-1_desc-brain_mask.nii.gz",
        "derivatives/sub-a/anat/sub-a_T2w.nii.gz",
    )
    for name in (wanted, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_volume(make_volume((4, 4, 4)), tmp_path / name)
    assert [p.name for p in find_volumes(tmp_path, ["."], leave_out=["T1w"])] == [Path(wanted).name]


@pytest.mark.parametrize(
    ("path", "person"),
    [
        ("data/sub-ann/anat/sub-ann_T1w.nii.gz", "ann"),
        ("data/sub-ann/scan.nii.gz", "ann"),
        ("sub-ann_ses-2_T1w.nii", "ann"),
        ("sub-ann.nii.gz", "ann"),
        ("data/kirby01.nii.gz", "kirby01"),
        ("data/kirby01_T1w.nii.gz", "kirby01"),
        ("data/kirby_01.nii.gz", "kirby_01"),
        ("data/p01/flair.nii.gz", "p01"),
    ],
)
def test_a_file_tells_its_person(path, person):
    assert subject(Path(path)) == person


def test_constant_training_volumes_are_refused(make_affine):
    with pytest.raises(InputError, match="all voxels have the same value"):
        PatchSampler(recipe(), [Volume(np.ones((9, 9, 9)), make_affine())])


def test_contrasts_are_told_by_the_last_part_of_a_name():
    names = {"sub-07_ses-1_T1w.nii.gz": "T1w", "p07/flair.nii": "flair", "sub-07_run-2.nii": "", "head.mgz": "", "x_T2star.nii": "T2star"}
    assert {name: contrast_of(Path(name)) for name in names} == names
