"""Training pairs of slices: geometry, references, thick slices, validation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_mrsr.degradation import Degradation, degrade, reduce_in_plane
from napari_mrsr.errors import InputError
from napari_mrsr.io import write_volume
from napari_mrsr.networks import get_architecture
from napari_mrsr.networks.scaling import by_range, by_slice
from napari_mrsr.training.data import Study, load_study, reference_paths
from napari_mrsr.training.planes import PlaneSampler, plane_case
from napari_mrsr.training.recipe import DataPart, Recipe
from napari_mrsr.volume import Volume


def recipe(protocol="kspace", scale=2, network="dcamsr", patches=None, augmentation=None, **changes):
    return Recipe.model_validate(
        {
            "name": "tiny",
            "network": {"name": network, "scale": scale},
            "degradation": {"protocol": protocol, "scale": scale},
            "data": {"train": ["train"], "validation": ["val"]},
            "patches": {"size": 8, "batch": 3, **(patches or {})},
            "augmentation": {"flips": False, "turns": False, **(augmentation or {})},
            **changes,
        }
    )


def unit(_lr, _range):
    return by_range(None, _lr, 1.0)


def sampler(plan, studies, network="dcamsr", fit=unit):
    return PlaneSampler(plan, studies, get_architecture(network), fit)


def waves(shape=(40, 44, 6), cycles=(3, 2), affine=None):
    """Periodic in plane, so that a k-space crop only takes samples; brightness tells the slice."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    data = 1000 + 300 * np.cos(2 * np.pi * cycles[0] * x / shape[0]) + 200 * np.sin(2 * np.pi * cycles[1] * y / shape[1]) + 20 * z
    return Volume(data, np.eye(4) if affine is None else affine, name="waves")


EVERYTHING = {
    "flips": True, "turns": True, "contrast_probability": 0.5, "bias_probability": 0.5, "intensity": 0.2, "noise": 5.0, "noise_probability": 0.5,
    "reference_dropout": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("protocol", ["kspace", "bicubic", "slice-profile"])
def test_a_batch_depends_on_seed_and_step_alone(make_volume, protocol):
    plan = recipe(protocol, augmentation=EVERYTHING)
    network = "transmrsr" if protocol == "slice-profile" else "dcamsr"
    studies = [Study(make_volume((30, 41, 26)), (make_volume((30, 41, 26), seed=3),))]
    first, second = sampler(plan, studies, network), sampler(plan, studies, network)
    forward = [first.batch(s) for s in range(4)]
    backward = [second.batch(s) for s in reversed(range(4))][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert torch.equal(a.lr, b.lr)
        assert torch.equal(a.hr, b.hr)
        assert torch.equal(a.noise_level, b.noise_level)
        assert (a.reference is None) == (b.reference is None)
        assert a.reference is None or torch.equal(a.reference, b.reference)
    assert {a.reference is None for a in forward} == {True, False} or protocol != "kspace"
    assert not torch.equal(forward[0].hr, forward[1].hr)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("extent", [(40, 48), (41, 51)])
def test_sample_0_lies_on_pixel_0_of_every_patch(scale, extent):
    size = tuple(n // (2 * scale) * 2 * scale for n in extent)
    volume = waves((*size, 5))
    padded = Volume(np.pad(volume.data, [(0, extent[0] - size[0]), (0, extent[1] - size[1]), (0, 0)]), np.eye(4))
    pair = sampler(recipe(scale=scale, patches={"size": 4, "batch": 6}), [Study(padded)]).batch(0)
    assert pair.lr.shape == (6, 1, 4, 4)
    assert pair.hr.shape == (6, 1, 4 * scale, 4 * scale)
    torch.testing.assert_close(pair.hr[..., ::scale, ::scale], pair.lr, atol=1e-5, rtol=0)
    assert (pair.hr[..., 1::scale, ::scale] - pair.lr).abs().max() > 1e-3


def test_edges_coincide_under_bicubic(make_volume):
    pair = sampler(recipe("bicubic", patches={"size": 6, "batch": 4}), [Study(make_volume((41, 39, 5), sigma=4.0))]).batch(0)
    means = torch.nn.functional.avg_pool2d(pair.hr, 2)
    inner = (..., slice(1, -1), slice(1, -1))
    assert (means - pair.lr)[inner].abs().max() < 0.02
    assert (torch.roll(means, 1, -1) - pair.lr)[inner].abs().max() > 0.03


def test_the_reference_lies_on_the_truth():
    volume = waves()
    study = Study(volume, (volume.replace(data=volume.data * 3),))
    plan = recipe(augmentation={"flips": True, "turns": True})
    pair = sampler(plan, [study]).batch(1)
    assert pair.reference is not None
    torch.testing.assert_close(pair.reference, pair.hr, atol=1e-5, rtol=0)


def test_slices_run_through_tissue_and_never_mix(make_affine):
    data = np.zeros((40, 44, 9))
    data[12:30, 10:32, 4] = 1000.0
    data[0, 0, :] = 1.0
    pair = sampler(recipe(patches={"size": 8, "batch": 8}), [Study(Volume(data, make_affine()))]).batch(0)
    assert (pair.hr.flatten(1).amax(1) > 0.9).all()


@pytest.mark.parametrize("turns", [False, True])
def test_thick_slices_are_interpolated_and_blurred_along_one_axis_only(turns):
    x, y, z = np.meshgrid(*(np.arange(n) for n in (40, 44, 48)), indexing="ij")
    data = 1000 + 200 * np.sin(x * 1.3) + 200 * np.sin(y * 1.3) + 200 * np.sin(z * 1.3)
    plan = recipe("slice-profile", 4, "transmrsr", {"size": 16, "batch": 12}, {"turns": turns})
    pair = sampler(plan, [Study(Volume(data, np.eye(4)))], "transmrsr").batch(0)
    assert pair.lr.shape == pair.hr.shape == (12, 1, 16, 16)
    rows = pair.lr.diff(dim=2).abs().mean((1, 2, 3))
    columns = pair.lr.diff(dim=3).abs().mean((1, 2, 3))
    sharp = pair.hr.diff(dim=2).abs().mean()
    blurred_rows = rows < 0.3 * sharp
    blurred_columns = columns < 0.3 * sharp
    assert (blurred_rows ^ blurred_columns).all()
    assert blurred_rows.any() == turns  # S is thick by default, the last axis of either plane
    assert blurred_columns.any()


@pytest.mark.parametrize("turns", [False, True])
def test_thick_slices_teach_within_their_plane(turns):
    """What is blurred in training lies in plane; across the slices nothing is known."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in (72, 68, 12)), indexing="ij")
    data = 1000 + 200 * np.sin(x * 1.3) + 200 * np.sin(y * 1.3) + 100.0 * (z % 2)
    study = Study(Volume(data, np.diag([0.8, 0.8, 3.2, 1.0])))
    plan = recipe("slice-profile", 4, "transmrsr", {"size": 16, "batch": 12}, {"turns": turns})
    pair = sampler(plan, [study], "transmrsr").batch(0)
    sharp = pair.hr.diff(dim=2).abs().mean((1, 2, 3)), pair.hr.diff(dim=3).abs().mean((1, 2, 3))
    assert min(s.min() for s in sharp) > 0.05  # every slice is an in-plane one: both of its axes are sharp
    blurred_rows = pair.lr.diff(dim=2).abs().mean((1, 2, 3)) < 0.3 * sharp[0]
    blurred_columns = pair.lr.diff(dim=3).abs().mean((1, 2, 3)) < 0.3 * sharp[1]
    assert (blurred_rows ^ blurred_columns).all()
    case = plane_case(study, plan, get_architecture("transmrsr"), unit)
    assert case.hr.shape[1:] == (72, 68)


def test_small_slices_are_filled_up(make_volume):
    pair = sampler(recipe(patches={"size": 32, "batch": 2}), [Study(make_volume((20, 22, 4)))]).batch(0)
    assert pair.hr.shape == (2, 1, 64, 64)
    assert torch.isfinite(pair.lr).all()


def test_units_come_from_the_whole_slice_and_noise_with_them():
    volume = waves()

    class Amplitude:
        amplitude = 2.0

    def fit(lr, volume_range):
        return by_slice(Amplitude, lr, volume_range)

    plan = recipe(augmentation={"noise": 5.0, "noise_probability": 1.0})
    pair = sampler(plan, [Study(volume)], fit=fit).batch(0)
    plain = sampler(plan, [Study(volume)]).batch(0)
    slope = (pair.lr.std() / plain.lr.std()).item()
    assert slope > 2
    torch.testing.assert_close(pair.noise_level, plain.noise_level * (pair.lr.flatten(1).std(1) / plain.lr.flatten(1).std(1)).view(-1, 1, 1, 1))
    ratio = pair.hr.flatten(1).std(1) / plain.hr.flatten(1).std(1)
    torch.testing.assert_close(ratio, pair.lr.flatten(1).std(1) / plain.lr.flatten(1).std(1) / 2)


@pytest.mark.parametrize(("protocol", "network"), [("kspace", "dcamsr"), ("bicubic", "fdvit"), ("slice-profile", "transmrsr")])
def test_validation_slices(make_volume, protocol, network):
    volume = make_volume((37, 41, 31), sigma=3.0)
    study = Study(volume, (volume,))
    plan = recipe(protocol, 2, network, data={"train": ["a"], "validation": ["b"], "validation_slices": 3})
    case = plane_case(study, plan, get_architecture(network), unit)
    assert len(case.lr) == len(case.hr) == len(case.mask) == len(case.cubic) == 3
    factor = 1 if network == "transmrsr" else 2
    assert tuple(n * factor for n in case.lr.shape[2:]) == case.hr.shape[1:]
    inner = (slice(None), slice(6, -6), slice(6, -6))
    assert np.abs(case.cubic - case.hr)[inner].max() < 0.05
    assert np.abs(np.roll(case.cubic, 1, 2) - case.hr)[inner].max() > 0.06
    assert case.reference is not None
    torch.testing.assert_close(case.reference[:, 0].numpy(), case.hr, atol=1e-4, rtol=0)


# --- given low resolutions -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("protocol", "network", "scale"), [("kspace", "dcamsr", 2), ("bicubic", "fdvit", 3), ("slice-profile", "transmrsr", 2)])
def test_given_low_resolutions_lie_where_simulated_ones_do(make_volume, protocol, network, scale):
    image = waves((48, 60, 36)) if protocol == "kspace" else make_volume((48, 60, 36), sigma=3.0)
    low = degrade(image, Degradation(protocol=protocol, scale=scale))
    plan = recipe(protocol, scale, network, {"size": 8, "batch": 4}, {"flips": True, "turns": True, "intensity": 0.2})
    given = sampler(plan, [Study(image, (), low)], network)
    factor = 1 if network == "transmrsr" else scale
    degrader = given.degrader
    for step in range(6):
        pair = given.batch(step)
        assert pair.lr.shape[2:] == (8, 8)
        assert pair.hr.shape[2:] == (8 * factor, 8 * factor)
        for lr, hr in zip(pair.lr[:, 0].numpy(), pair.hr[:, 0].numpy(), strict=True):
            if network == "transmrsr":
                inner = (slice(3, -3),) * 2
                assert np.abs(lr - hr)[inner].max() < 0.03
                assert np.abs(np.roll(lr, 1, (0, 1)) - hr)[inner].max() > np.abs(lr - hr)[inner].max()
                continue
            inner = (slice(2, -2),) * 2
            expected = hr[::scale, ::scale] if protocol == "kspace" else degrader(hr, 0, 0.0, np.random.default_rng(0))
            assert np.abs(lr - expected)[inner].max() < 0.01
            moved = np.roll(hr, 1, (0, 1))
            wrong = moved[::scale, ::scale] if protocol == "kspace" else degrader(moved, 0, 0.0, np.random.default_rng(0))
            assert np.abs(lr - wrong)[inner].max() > 0.012
    case = plane_case(Study(image, (), low), plan, get_architecture(network), unit)
    simulated = plane_case(Study(image), plan, get_architecture(network), unit)
    torch.testing.assert_close(case.lr, simulated.lr, atol=0.02, rtol=0)


# --- files ----------------------------------------------------------------------------------------------------------------------------


def test_references_are_found_beside_the_volume(tmp_path, make_volume):
    volume = make_volume((12, 14, 6), (0.6, 0.6, 3.0))
    for name in ("T2w", "T1w", "FLAIR"):
        write_volume(volume.replace(data=volume.data + len(name)), tmp_path / f"sub-1_{name}.nii.gz")
    path = tmp_path / "sub-1_T2w.nii.gz"
    assert [p.name for p in reference_paths(path, ["T1w", "PD", "FLAIR", "T2w"])] == ["sub-1_T1w.nii.gz", "sub-1_FLAIR.nii.gz"]
    study = load_study(path, DataPart(train=("a",), validation=("b",), references=("T1w",)))
    assert len(study.references) == 1
    reduced = load_study(path, DataPart(train=("a",), validation=("b",), references=("T1w", "FLAIR"), in_plane=0.9))
    assert reduced.image.shape == (8, 9, 6)
    assert all(r.shape == (8, 9, 6) for r in reduced.references)
    np.testing.assert_allclose(reduced.references[0].affine, reduced.image.affine)
    with pytest.raises(InputError, match=r"sub-1_T2w.*PD"):
        load_study(path, DataPart(train=("a",), validation=("b",), references=("PD",)))


def test_reduction_in_plane_keeps_what_the_coarser_grid_holds():
    volume = waves((40, 60, 4), affine=np.diag([0.6, 0.6, 3.0, 1.0]))
    reduced = reduce_in_plane(volume, 0.9)
    assert reduced.shape == (26, 40, 4)
    assert reduced.voxel_size == pytest.approx((0.6 * 40 / 26, 0.9, 3.0))
    j = np.arange(40)
    position = (reduced.affine[1, 3] + reduced.affine[1, 1] * j) / 0.6
    assert position[20] == pytest.approx(30.0)  # DC stays where it is
    expected = 200 * np.sin(2 * np.pi * 2 * position / 60)
    found = reduced.data[0, :, 0]
    np.testing.assert_allclose(found - found.mean(), expected - expected.mean(), atol=0.5)
    same = reduce_in_plane(volume, 0.5)
    np.testing.assert_allclose(same.data, volume.data, rtol=1e-5)
