"""Who is learned from and who is validated; leaks; divided volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_mrsr.errors import InputError
from napari_mrsr.grid import lattice_offset
from napari_mrsr.training.data import load_study
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.training.sources import GAP_MM, check_people, find_split, load_split


def recipe(root, protocol="gaussian", network="cftn", scale=2, size=6, seed=0, augmentation=None, **data):
    return Recipe.model_validate(
        {
            "name": "tiny",
            "network": {"name": network, "scale": scale},
            "degradation": {"protocol": protocol, "scale": scale},
            "data": {"root": str(root), "train": ["."], **data},
            "patches": {"size": size, "batch": 2, "margin": 3},
            "augmentation": augmentation or {},
            "seed": seed,
        }
    )


# --- people ---------------------------------------------------------------------------------------------------------------------------


def test_one_folder_is_split_by_person(put, tmp_path):
    for number in range(5):
        for session in (1, 2):
            put(f"sub-{number}/ses-{session}/anat/sub-{number}_ses-{session}_T1w.nii.gz", 2 * number + session)
    splits = [find_split(recipe(tmp_path, seed=seed, held_out=0.4)) for seed in range(4)]
    for split in splits:
        people = [{p.name.split("_")[0] for p in side} for side in (split.train, split.validation)]
        assert (len(people[0]), len(people[1])) == (3, 2)
        assert not people[0] & people[1]
        assert len(split.train) + len(split.validation) == 10
        assert "2 of 5 people" in split.note
        assert all(p.removeprefix("sub-") in split.note for p in people[1])
    assert len({s.validation for s in splits}) > 1
    assert find_split(recipe(tmp_path, held_out=0.4)) == splits[0]
    assert len({p.name for p in find_split(recipe(tmp_path, held_out=0.05)).validation}) == 2  # one person at least
    assert "3 of 5 people" in find_split(recipe(tmp_path, held_out=3)).note
    with pytest.raises(InputError, match="leaves nobody of 5 people"):
        find_split(recipe(tmp_path, held_out=5))


def test_files_from_anywhere_can_be_named(put, tmp_path):
    files = [str(put(f"{folder}/{name}.nii.gz", seed)) for seed, (folder, name) in enumerate([("a", "x"), ("b", "y")])]
    split = find_split(recipe("elsewhere", train=files))
    assert {*split.train, *split.validation} == {Path(f) for f in files}


def test_one_person_alone_gets_one_sentence(put, tmp_path):
    put("sub-ann_T1w.nii.gz")
    with pytest.raises(InputError, match=r"One volume was found.*data\.split to parts"):
        find_split(recipe(tmp_path))
    put("sub-ann_T2w.nii.gz", 1)
    with pytest.raises(InputError, match=r"2 volumes of one person \(ann\)"):
        find_split(recipe(tmp_path))
    assert find_split(recipe(tmp_path, split="auto")).parts
    put("sub-bob_T2w.nii.gz", 2)
    assert not find_split(recipe(tmp_path, split="auto")).parts
    with pytest.raises(InputError, match="of 2 people"):
        find_split(recipe(tmp_path, split="parts"))


def test_the_same_person_on_both_sides_is_refused():
    check_people([Path("a/sub-ann_T1w.nii.gz")], [Path("b/sub-bob_T1w.nii.gz")])
    with pytest.raises(InputError, match=r"same person is in training and validation: ann, bob \(sub-ann_T1w.nii.gz and sub-ann_T2w.nii.gz\)"):
        check_people(
            [Path("a/sub-ann_T1w.nii.gz"), Path("a/sub-bob_ses-1_T1w.nii.gz"), Path("a/sub-cy_T1w.nii.gz")],
            [Path("b/sub-ann_T2w.nii.gz"), Path("sub-bob/scan.nii")],
        )


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v,
        lambda v: v.replace(data=3 * v.data + 40),
        lambda v: v.replace(data=v.data + np.random.default_rng(0).normal(0, 30, v.shape)),
        lambda v: v.replace(data=1000 * (v.data / 1000) ** 0.8),
        lambda v: v.replace(affine=np.diag([0.5, 0.5, 0.5, 1.0])),
    ],
    ids=["copy", "scaled", "noisy", "gamma", "moved"],
)
def test_the_same_head_under_two_names_is_refused(put, tmp_path, change):
    put("train/sub-ann.nii.gz", 1)
    put("train/sub-bob.nii.gz", 2)
    put("val/sub-cy.nii.gz", 3)
    plan = recipe(tmp_path, train=["train"], validation=["val"])
    train, validation = load_split(plan, find_split(plan))
    assert (len(train), len(validation)) == (2, 1)
    put("val/sub-dee.nii.gz", 2, change=change)
    with pytest.raises(InputError, match=r"sub-bob.nii.gz \(training\) and sub-dee.nii.gz \(validation\) show the same head"):
        load_split(plan, find_split(plan))


def test_people_at_hand_are_told_apart(shared_data, tmp_path):
    files = [
        str(shared_data(f"multi_thick/{name}")) for name in ("train/sub-msl12/sub-msl12_ses-1_T2w.nii.gz", "val/sub-msl03/sub-msl03_ses-2_T2w.nii.gz")
    ]
    plan = recipe("/", "kspace", "dcamsr", train=files[:1], validation=files[1:])
    load_split(plan, find_split(plan))


# --- parts ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("protocol", "network", "voxel", "axis"), [
    ("gaussian", "cftn", (1.0, 1.0, 1.0), 1),
    ("kspace", "dcamsr", (0.9, 0.9, 3.0), 2),
    ("slice-profile", "transmrsr", (1.0, 1.0, 4.0), 2),
    ("slice-profile", "transmrsr", (1.0, 1.0, 1.0), 1),
])  # fmt: skip
def test_a_volume_is_divided_with_a_gap(put, protocol, network, voxel, axis):
    path = put("sub-ann_T1w.nii.gz", shape=(40, 60, 38), voxel=voxel)
    plan = recipe(path, protocol, network, split="parts", held_out=0.25)
    split = find_split(plan)
    assert "held-out part of the same person (ann)" in split.note
    (whole,) = (load_study(p, plan.data, plan) for p in split.train)
    (train,), (validation,) = load_split(plan, split)
    first = lattice_offset(whole.image.affine, train.image.affine, train.image.shape)
    assert lattice_offset(whole.image.affine, validation.image.affine, validation.image.shape) == (0, 0, 0)
    for other in {0, 1, 2} - {axis}:
        assert first[other] == 0
        assert train.image.shape[other] == validation.image.shape[other] == whole.image.shape[other]
    gap = (first[axis] - validation.image.shape[axis]) * voxel[axis]
    assert GAP_MM - voxel[axis] <= gap <= GAP_MM + 2 * voxel[axis]
    assert first[axis] + train.image.shape[axis] == whole.image.shape[axis]
    block = [slice(first[a], None) for a in range(3)]
    np.testing.assert_array_equal(train.image.data, whole.image.data[tuple(block)])
    assert 0.2 < validation.image.shape[axis] / whole.image.shape[axis] < 0.35


def test_contrasts_of_one_grid_are_divided_alike_others_are_refused(put, tmp_path):
    put("sub-ann_T1w.nii.gz", 1)
    put("sub-ann_T2w.nii.gz", 2)
    plan = recipe(tmp_path, split="parts")
    train, validation = load_split(plan, find_split(plan))
    assert len({s.image.shape for s in train}) == len({s.image.shape for s in validation}) == 1
    put("sub-ann_FLAIR.nii.gz", 3, shape=(40, 44, 36))
    with pytest.raises(InputError, match="different grids"):
        load_split(plan, find_split(plan))


def test_too_much_of_a_volume_cannot_be_held_out(put):
    plan = recipe(put("one.nii.gz"), split="parts", held_out=0.7)
    with pytest.raises(InputError, match=r"at most 0\.5 of the tissue"):
        load_split(plan, find_split(plan))


def test_a_volume_too_small_to_be_divided_is_refused(put):
    path = put("one.nii.gz", shape=(30, 16, 14))
    plan = recipe(path, split="parts")
    with pytest.raises(InputError, match=r"one has \d+ voxels along A|too small to be divided"):
        load_split(plan, find_split(plan))


def test_thick_slices_are_brought_to_the_pixels_the_network_will_make(put):
    path = put("one.nii.gz", shape=(60, 64, 14), voxel=(0.5, 0.5, 3.2))
    plan = recipe(path, "slice-profile", "transmrsr", 4, size=16, split="parts")
    study = load_study(path, plan.data, plan)
    assert study.image.voxel_size == pytest.approx((0.8, 0.8, 3.2), rel=0.03)
    assert load_study(path, plan.data).image.voxel_size == pytest.approx((0.5, 0.5, 3.2))


# --- what is wrong with volumes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("protocol", "network", "shape", "fits"), [
    ("gaussian", "cftn", (40, 11, 40), False),
    ("gaussian", "cftn", (12, 12, 12), True),
    ("kspace", "dcamsr", (40, 11, 40), False),
    ("kspace", "dcamsr", (40, 40, 3), True),
    ("slice-profile", "transmrsr", (40, 5, 40), False),
    ("slice-profile", "transmrsr", (6, 40, 40), True),
])  # fmt: skip
def test_volumes_smaller_than_a_patch_are_refused(put, protocol, network, shape, fits):
    path = put("one.nii.gz", shape=shape, voxel=(1.0, 1.0, 3.0) if network == "dcamsr" else (1.0, 1.0, 1.0))
    plan = recipe(path, protocol, network)
    if fits:
        load_study(path, plan.data, plan)
        return
    with pytest.raises(InputError, match=rf"one has {min(shape)} voxels along A, fewer than a patch of \d+"):
        load_study(path, plan.data, plan)


def test_constant_and_broken_volumes_are_refused(put, tmp_path):
    plan = recipe(tmp_path)
    flat = put("flat.nii.gz", change=lambda v: v.replace(data=np.full(v.shape, 7.0)))
    with pytest.raises(InputError, match="flat: all voxels have the same value"):
        load_study(flat, plan.data, plan)
    holed = put("holed.nii.gz", change=lambda v: v.replace(data=np.where(np.arange(v.data.size).reshape(v.shape) % 99, v.data, np.nan)))
    with pytest.raises(InputError, match=r"holed.*NaN"):
        load_study(holed, plan.data, plan)
    (tmp_path / "junk.nii.gz").write_bytes(b"no image")
    with pytest.raises(InputError, match="junk"):
        load_study(tmp_path / "junk.nii.gz", plan.data, plan)


# --- references -----------------------------------------------------------------------------------------------------------------------


def test_references_are_resampled_and_on_request_registered(put, make_affine):
    path = put("sub-ann_T2w.nii.gz", 4, shape=(48, 52, 44))

    def moved(v):
        shift = np.eye(4)
        shift[:3, 3] = (2.0, -1.5, 1.0)
        return v.replace(affine=shift @ v.affine)

    put("sub-ann_T1w.nii.gz", 4, shape=(48, 52, 44), change=moved)
    inner = (slice(8, -8),) * 3

    def likeness(plan):
        study = load_study(path, plan.data, plan)
        assert study.references[0].shape == study.image.shape
        return np.corrcoef(study.image.data[inner].ravel(), study.references[0].data[inner].ravel())[0, 1]

    common = {"protocol": "kspace", "network": "dcamsr", "references": ["T1w"]}
    assert likeness(recipe(path.parent, **common)) < 0.7
    assert likeness(recipe(path.parent, register_references=True, **common)) > 0.97


def test_a_reference_that_covers_too_little_is_refused(put):
    path = put("sub-ann_T2w.nii.gz", 4)
    put("sub-ann_T1w.nii.gz", 5, change=lambda v: v.crop([slice(0, 40), slice(0, 20), slice(0, 38)]))
    plan = recipe(path, "kspace", "dcamsr", references=["T1w"])
    with pytest.raises(InputError, match=r"sub-ann_T1w covers 45% of sub-ann_T2w"):
        load_study(path, plan.data, plan)


def test_unpaired_contrasts_are_refused(put):
    path = put("sub-ann_T2w.nii.gz", 4)
    plan = recipe(path, "kspace", "dcamsr", references=["T1w"])
    with pytest.raises(InputError, match=r"sub-ann_T2w.nii.gz: no reference contrast \(T1w\)"):
        load_study(path, plan.data, plan)
