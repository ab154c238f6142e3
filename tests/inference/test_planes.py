"""Networks that see slices: geometry, units, references, thick slices, maps."""

from __future__ import annotations

import re
import sys
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.degradation.matrices import bspline_matrix
from napari_mrsr.errors import InputError, RunError
from napari_mrsr.inference import Control, RunDone, RunOptions, RunStarted, run, super_resolve
from napari_mrsr.inference.background import busy_mask
from napari_mrsr.inference.maps import Probe
from napari_mrsr.intensity import intensity_range
from napari_mrsr.networks import Architecture, MapInfo, create, register
from napari_mrsr.networks import registry as registry_module
from napari_mrsr.networks.blocks.recording import wanted
from napari_mrsr.networks.scaling import by_range, by_slice
from napari_mrsr.volume import Volume
from napari_mrsr.zoo import Card, save_weights, sha256_of


class Plane(nn.Module):
    """A network of slices whose answer is known: what `show` says, in the network's own units."""

    def __init__(self, scale: int = 2, show: str = "image", aligned: str = "kspace", amplitude: float = 1.0) -> None:
        super().__init__()
        self.scale, self.show, self.aligned, self.amplitude = scale, show, aligned, amplitude
        self.unit = nn.Parameter(torch.ones(1))
        self.calls = []

    def enlarge(self, x):
        if self.aligned == "same":
            return x
        for axis in (2, 3):
            n = x.shape[axis]
            shift = (self.scale - 1) / 2 if self.aligned == "edges" else 0
            matrix = torch.from_numpy(bspline_matrix((np.arange(n * self.scale) - shift) / self.scale, n)).float()
            x = torch.movedim(torch.movedim(x, axis, -1) @ matrix.T, -1, axis)
        return x

    def forward(self, lr, reference=None, noise_level=None):
        self.calls.append(tuple(lr.shape))
        image = self.enlarge(lr)
        if recorder := wanted("rows"):
            recorder.keep("rows", torch.arange(lr.shape[2]).view(1, 1, -1, 1).expand(len(lr), 1, -1, lr.shape[3]), stride=self.scale)
        if recorder := wanted("there"):
            row, column = recorder.pixel(self.scale)
            picture = torch.zeros(1, 1, *lr.shape[2:])
            picture[0, 0, row, column] = lr[recorder.item, 0, row, column]
            recorder.keep("there", picture, stride=self.scale)
        if recorder := wanted("sample"):
            row, column = recorder.pixel(self.scale)
            picture = torch.zeros(1, 1, *lr.shape[2:])
            picture[0, 0, row, column] = 1
            recorder.keep("sample", recorder.one_channel(picture), stride=self.scale)
        if recorder := wanted("table"):
            recorder.keep("table", torch.arange(6.0).view(1, 2, 3))
        if self.show == "reference":
            return reference * self.unit
        if self.show == "level":
            return torch.as_tensor(noise_level).expand_as(image[:, :, :1, :1]).expand_as(image) * self.unit
        return image * self.unit / self.amplitude


MAPS = (
    MapInfo("rows", "Rows", "Row numbers."),
    MapInfo("there", "There", "The voxel.", "query"),
    MapInfo("sample", "Sample", "The input's sample.", "query", "input"),
    MapInfo("table", "Table", "Six.", "table"),
)


@pytest.fixture
def add(monkeypatch, tmp_path):
    module = ModuleType("plane_networks")
    common = {"title": "Plane", "paper": "", "build": Plane, "dimension": 2, "scales": tuple(range(2, 9)), "tiling": "planes"}
    module.ARCHITECTURES = {
        "plane": Architecture(name="plane", reference="optional", maps=lambda _: MAPS, scaling=by_range, **common),
        "sliced": Architecture(name="sliced", reference="optional", scaling=by_slice, **common),
        "thick": Architecture(name="thick", pre_interpolated=True, maps=lambda _: MAPS, **common),
        "windowed": Architecture(name="windowed", pre_interpolated=True, windowed=True, **common),
    }
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry_module, "_MODULES", dict(registry_module._MODULES))
    for name in module.ARCHITECTURES:
        register(name, module.__name__)
    monkeypatch.setattr("napari_mrsr.zoo.models.user_weights_folder", lambda: tmp_path)

    def make(architecture="plane", scale=2, protocol="kspace", name=None, **options):
        name = name or f"{architecture}-x{scale}"
        path = save_weights(create(architecture, scale, **options).state_dict(), tmp_path / f"{name}.safetensors", {}, overwrite=True)
        card = Card(
            name=name, title=name, architecture=architecture, scale=scale, protocol=protocol, options=options, weights=path.name,
            sha256=sha256_of(path), reference="none" if architecture in ("thick", "windowed") else "optional", uses_noise=True,
        )  # fmt: skip
        (tmp_path / f"{name}.json").write_text(card.model_dump_json())
        return name

    return make


def matched(low, other):
    """Largest difference inside, as a fraction of the range."""
    assert other.shape == low.shape
    np.testing.assert_allclose(other.affine, low.affine, atol=1e-9)
    inner = tuple(slice(12, -12) if n > 30 else slice(4, -4) if n > 12 else slice(None) for n in low.shape)
    return float(np.abs(low.data[inner] - other.data[inner]).max()) / intensity_range(low.data)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("extent", [(36, 48), (42, 60), (39, 51), (52, 44)])
def test_sample_0_lies_on_pixel_0_for_every_size(make_volume, add, scale, extent):
    """Odd LR sizes shift the lattice by whole voxels under a k-space crop; the same spline through the lattice itself is the judge."""
    truth = make_volume((*(n // scale * scale for n in extent), 5), sigma=4.0)
    low = degrade(truth, Degradation(protocol="kspace", scale=scale, axis="S"))
    cubic = super_resolve(low, "cubic")
    found = super_resolve(low, add(scale=scale))
    assert matched(cubic, found) < 2e-3
    shifted = found.replace(data=np.roll(found.data, 1, 0))
    assert matched(cubic, shifted) > 1e-2


@pytest.mark.parametrize("axis", ["R", "A", "S"])
def test_slices_of_every_axis_with_edges_aligned(make_volume, add, axis):
    low = degrade(make_volume((24, 26, 28), (1, 1.2, 0.9), (10, 5, 20)), Degradation(protocol="bicubic", scale=2, axis=axis))
    found = super_resolve(low, add(protocol="bicubic", aligned="edges"))
    assert matched(super_resolve(low, "cubic"), found) < 1e-4


@pytest.mark.parametrize("architecture", ["plane", "sliced"])
def test_scanner_units_go_in_and_come_out(make_volume, add, architecture):
    low = degrade(make_volume((36, 40, 6)), Degradation(protocol="kspace", axis="S"))
    bright = low.replace(data=low.data * 1000 + 300)
    name = add(architecture)
    reference = super_resolve(low, name).data * 1000 + 300
    np.testing.assert_allclose(super_resolve(bright, name).data, reference, rtol=1e-4, atol=1e-2)


def test_orthonormal_amplitude(make_volume, add):
    """A network that answers in the sharp image's normalised units, fed r times as bright, is undone with the factor (NETWORKS 0.1, 0.2)."""
    low = degrade(make_volume((36, 40, 3)), Degradation(protocol="kspace", axis="S"))
    plane = torch.from_numpy(low.data[:, :, 1][None, None]).float()
    scaling = by_slice(Plane(amplitude=2.0), plane, 1.0)
    mean, sd = 2 * plane.mean(), 2 * plane.std()
    torch.testing.assert_close(scaling.lr(plane), ((2 * plane - mean) / (sd + 1e-11)).clamp(-6, 6), rtol=1e-5, atol=1e-6)
    sharp = plane[:, :, :8, :8] * 2 + torch.rand(1, 1, 8, 8)
    torch.testing.assert_close(scaling.target(sharp), ((sharp - mean) / (sd + 1e-11)).clamp(-6, 6), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scaling.output(scaling.target(sharp)), sharp, rtol=1e-4, atol=1e-2)


def test_a_region_equals_the_whole(make_volume, add):
    low = degrade(make_volume((30, 42, 9)), Degradation(protocol="kspace", axis="S"))
    name = add("sliced")
    whole = super_resolve(low, name)
    corner = np.array(whole.box().lower)
    part = super_resolve(low, name, roi=tuple(np.concatenate([corner + np.array([4, 7, 2]), corner + np.array([13, 18, 6.5])])))
    offset = np.round(np.linalg.solve(whole.affine, part.affine)[:3, 3]).astype(int)
    block = tuple(slice(o, o + n) for o, n in zip(offset, part.shape, strict=True))
    assert np.prod(part.shape) < np.prod(whole.shape)
    np.testing.assert_array_equal(part.data, whole.data[block])


@pytest.fixture
def cone(make_volume):
    """Tissue whose outline changes from slice to slice, in empty air; thick slices."""
    truth = make_volume((96, 88, 80))
    x, y, z = np.indices(truth.shape)
    inside = (x - 50) ** 2 + (y - 40) ** 2 < (0.3 * z + 4) ** 2
    body = truth.replace(data=np.where(inside, truth.data + 300, 0).astype(np.float32))
    return degrade(body, Degradation(protocol="slice-profile", scale=4, axis="S"))


def test_windows_of_air_are_not_computed_and_tissue_is_the_same(cone, add):
    name = add("windowed", 4, "slice-profile", aligned="same")
    whole, part = super_resolve(cone, name, skip_air=False), super_resolve(cone, name)
    busy = busy_mask(cone.data, cone.voxel_size).repeat(4, 2)
    np.testing.assert_allclose(part.data[busy], whole.data[busy], atol=1e-3)
    assert (part.data != whole.data).any()
    share = float(re.search(r"(\d+) % air", part.record["run"]["plan"])[1]) / 100
    planes = [busy.any(axis=tuple(a for a in range(3) if a != stack)).mean() for stack in (0, 1)]
    assert share > 1 - np.mean(planes) + 0.2, "more than the slices of air alone"


def test_windows_do_not_depend_on_what_is_asked_for(cone, add):
    """A network that answers with where it sees a pixel tells how the slice was cut."""

    class Place(nn.Module):
        def forward(self, lr, reference=None, noise_level=None):
            rows, columns = (torch.arange(n, dtype=lr.dtype) for n in lr.shape[2:])
            return (rows[:, None] + 1000 * columns).expand_as(lr)

    name = add("windowed", 4, "slice-profile", aligned="same")
    with patch.object(Plane, "forward", Place.forward):
        whole, single = (super_resolve(cone, name, batch=batch, precision="float32") for batch in (None, 1))
        x, y, z = whole.box().lower
        part = super_resolve(cone, name, roi=(x + 33, y + 27, z + 20, x + 66, y + 50, z + 41), precision="float32")
    np.testing.assert_array_equal(whole.data, single.data)
    offset = np.round(np.linalg.solve(whole.affine, part.affine)[:3, 3]).astype(int)
    block = tuple(slice(o, o + n) for o, n in zip(offset, part.shape, strict=True))
    np.testing.assert_array_equal(part.data, whole.data[block])


@pytest.mark.parametrize("extent", [(36, 48), (34, 50)])
@pytest.mark.parametrize("moved", [False, True])
def test_the_reference_lies_where_the_result_lies(make_volume, add, extent, moved):
    truth = make_volume((*extent, 6), sigma=3.0)
    low = degrade(truth, Degradation(protocol="kspace", axis="S"))
    reference = truth.replace(data=truth.data * 7 + 2, name="T1")
    if moved:  # another grid over the same world
        reference = Volume(ndimage.zoom(reference.data, 2, order=3, grid_mode=True, mode="nearest"), truth.affine @ half_voxels(), name="T1")
    found = super_resolve(low, add(show="reference"), reference=reference)
    scale = intensity_range(low.data) / intensity_range(reference.data)
    expected = truth.replace(data=((truth.data * 7 + 2) * scale).astype(np.float32))
    block = tuple(slice(0, n) for n in found.shape)
    offset = np.linalg.solve(truth.affine, found.affine)[:3, 3].round().astype(int)
    assert not offset.any()
    assert matched(expected.crop(block), found) < (0.03 if moved else 1e-2)


def half_voxels():
    matrix = np.diag([0.5, 0.5, 0.5, 1.0])
    matrix[:3, 3] = -0.25
    return matrix


def test_a_partial_reference_is_told_and_none_at_all_refused(make_volume, add):
    truth = make_volume((36, 40, 8))
    low = degrade(truth, Degradation(protocol="kspace", axis="S"))
    name = add(show="reference")
    events = list(run(low, RunOptions.create(model=name), reference=truth.crop((slice(0, 36), slice(0, 20), slice(0, 8)))))
    started = next(e for e in events if isinstance(e, RunStarted))
    assert any("covers 50 %" in w for w in started.warnings)
    record = events[-1].volume.record["run"]["reference"]
    assert record["cover"] == pytest.approx(0.5, abs=0.03)
    far = truth.affine.copy()
    far[0, 3] += 500
    with pytest.raises(InputError, match="covers no part"):
        super_resolve(low, name, reference=truth.replace(affine=far))


def test_noise_is_told_in_the_networks_units(make_volume, add):
    low = degrade(make_volume((36, 40, 4)), Degradation(protocol="kspace", axis="S"))
    found = super_resolve(low, add(show="level"), noise=3.0)
    np.testing.assert_allclose(found.data, 0.03 * intensity_range(low.data), rtol=1e-4)


# --- thick slices ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("voxel", "thickness"), [(1.0, 4.0), (1.2, 3.3), (0.55, 3.3)])
def test_any_ratio_lands_on_the_asked_grid(make_volume, add, voxel, thickness):
    low = make_volume((20, 24, 12), (0.5, 0.6, thickness), sigma=(1.0, 1.0, 1.5))
    add("thick", 8, "slice-profile", aligned="same")
    found = super_resolve(low, add("thick", 4, "slice-profile", aligned="same"), voxel=voxel)
    assert found.voxel_size == pytest.approx((0.5, 0.6, voxel))
    assert found.shape == (20, 24, int(12 * thickness / voxel + 1e-6))
    np.testing.assert_allclose(found.box().lower, low.box().lower, atol=1e-6)
    cubic = super_resolve(low, "cubic", voxel=voxel, protocol="slice-profile")
    assert matched(cubic, found) < 1e-5
    assert found.record["run"]["model"] == ("thick-x4" if thickness / voxel < 5.65 else "thick-x8")


@pytest.mark.parametrize(("spacing", "voxel", "slices"), [(2.99999921, 1.0, 36), (3.299998, 1.65, 24), (3.299998, 0.9, 44), (3.0, 1.1, 32)])
def test_rounded_headers_lose_no_slice(make_volume, add, spacing, voxel, slices):
    low = make_volume((12, 14, 12), (1, 1, spacing))
    events = list(run(low, RunOptions.create(model=add("thick", 2, "slice-profile", aligned="same"), voxel=voxel)))
    assert events[-1].volume.shape[2] == slices
    left = 12 * spacing - slices * voxel
    assert any("are not covered" in w for w in events[0].warnings) == (left > 0.03)


def test_small_ratios_and_unknown_factors(make_volume, add, tmp_path):
    low = make_volume((12, 14, 12), (1, 1, 3.0))
    assert super_resolve(low, "cubic", protocol="slice-profile", voxel=2.5).shape == (12, 14, 14)
    name = add("thick", 4, "slice-profile", aligned="same")
    path = tmp_path / f"{name}.json"
    path.write_text(path.read_text().replace('"scale":4', '"scale":null'))
    with pytest.raises(InputError, match="works for any factor"):
        super_resolve(low, name)
    assert super_resolve(low, name, voxel=1.5).shape == (12, 14, 24)


def test_only_models_of_one_name_stand_in_for_each_other(make_volume, add):
    low = make_volume((12, 14, 12), (1, 1, 3.0))
    add("thick", 2, "slice-profile", aligned="same", name="foreign")
    name = add("thick", 4, "slice-profile", aligned="same")
    assert super_resolve(low, name, voxel=1.5).record["run"]["model"] == name
    add("thick", 2, "slice-profile", aligned="same")
    assert super_resolve(low, name, voxel=1.5).record["run"]["model"] == "thick-x2"


def test_the_ratio_and_the_model_are_said(make_volume, add):
    low = make_volume((20, 24, 12), (1, 1, 3.3))
    add("thick", 8, "slice-profile", aligned="same")
    name = add("thick", 4, "slice-profile", aligned="same")
    for voxel, words in ((1.0, "trained for 4"), (3.3 / 7, "thick-x8 is used in place of thick-x4")):
        started = next(iter(run(low, RunOptions.create(model=name, voxel=voxel))))
        assert any(words in w for w in started.warnings), started.warnings
    started = next(iter(run(low, RunOptions.create(model=name, voxel=3.3 / 4))))
    assert not any("ratio" in w for w in started.warnings)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_of_both_orientations_are_averaged(make_volume, add, monkeypatch, axis):
    """A network that answers differently for the two orientations shows that each alone can be had and both are averaged."""
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 4.0
    shape = [17, 18, 19]
    shape[axis] = 6
    low = make_volume(tuple(shape), tuple(spacing))
    name = add("thick", 4, "slice-profile", aligned="same")
    others = [a for a in range(3) if a != axis]

    def by_size(self, lr, reference=None, noise_level=None):
        stacked = 1.0 if lr.shape[2:] == tuple(n for a, n in enumerate(fine) if a != others[0]) else 3.0
        return torch.full_like(lr, stacked)

    fine = [n * (4 if a == axis else 1) for a, n in enumerate(shape)]
    monkeypatch.setattr(Plane, "forward", by_size)
    gain = intensity_range(low.data)
    values = {which: np.unique(super_resolve(low, name, orientations=which).data / gain) for which in ("both", "first", "second")}
    assert values["first"] == pytest.approx([1.0])
    assert values["second"] == pytest.approx([3.0])
    assert values["both"] == pytest.approx([2.0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"voxel": 5.0}, "must lie between"),
        ({"voxel": 0.1}, "must lie between"),
        ({"voxel": 1.0, "scale": 4}, "not both"),
        ({"voxel": 1.0, "model": "cubic", "protocol": "kspace"}, "thick slices"),
    ],
)
def test_impossible_voxel_sizes_are_refused(make_volume, add, options, words):
    low = make_volume((20, 24, 12), (1, 1, 4.0))
    add("thick", 4, "slice-profile", aligned="same")
    with pytest.raises(InputError, match=words):
        super_resolve(low, **{"model": "thick-x4", **options})


# --- maps -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extent", [(36, 48), (34, 50)])
def test_dense_maps_lie_on_the_result(make_volume, add, extent):
    low = degrade(make_volume((*extent, 4)), Degradation(protocol="kspace", axis="S"))
    name = add()
    plain = super_resolve(low, name)
    done = list(run(low, RunOptions.create(model=name, maps=("rows",))))[-1]
    assert isinstance(done, RunDone)
    np.testing.assert_array_equal(done.volume.data, plain.data)
    (rows,) = done.maps
    assert rows.record["map"]["name"] == "rows"
    np.testing.assert_allclose(rows.affine, plain.affine)
    padded = low.shape[0] % 2  # one more LR row goes in, and the lattice begins in its middle
    expected = (np.arange(plain.shape[0]) + padded) // 2
    np.testing.assert_array_equal(rows.data[:, 3, 2], expected)
    probe = Probe(low, RunOptions.create(model=name)).look("rows", plain.affine[:3, 3] + (3, 4, 2))
    np.testing.assert_array_equal(probe.data[:, :, 0], rows.data[:, :, 2])
    np.testing.assert_allclose(probe.affine[:3, 3], plain.affine[:3, 3] + (0, 0, 2))


@pytest.mark.parametrize("extent", [(36, 48), (34, 50)])
def test_a_chosen_voxel_is_found_again(make_volume, add, extent):
    low = degrade(make_volume((*extent, 5), (1, 1, 3)), Degradation(protocol="kspace", axis="S"))
    probe = Probe(low, RunOptions.create(model=add()))
    for index in ((10, 11, 2), (4, 20, 0), (15, 3, 4)):
        at = low.affine[:3, :3] @ np.array(index) + low.affine[:3, 3]
        found = probe.look("there", at)
        place = np.argwhere(found.data)
        assert len(place) == 1
        world = found.affine[:3, :3] @ place[0] + found.affine[:3, 3]
        # The map pixel covers two output pixels, from the sample's own on; k-space samples sit on the first of them.
        assert np.abs(world - at).max() < 0.51
        assert found.data.max() == pytest.approx(low.data[index] / intensity_range(low.data), rel=1e-5)
        assert found.record["map"]["kind"] == "query"


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("odd", [0, 1])
def test_maps_of_the_input_lie_on_its_samples(make_volume, add, scale, odd):
    low = degrade(make_volume(((12 + odd) * scale, 14 * scale, 5), (1, 1, 3)), Degradation(protocol="kspace", scale=scale, axis="S"))
    found = Probe(low, RunOptions.create(model=add(scale=scale))).look("sample", low.affine[:3, :3] @ [4, 5, 2] + low.affine[:3, 3])
    offset = np.linalg.solve(low.affine, found.affine)
    np.testing.assert_allclose(offset[:3, :3], np.eye(3), atol=1e-6)
    place = offset[:3] @ [*np.argwhere(found.data)[0], 1]
    np.testing.assert_allclose(place, [4, 5, 2], atol=1e-6)


def test_channels_are_there_or_refused(make_volume, add):
    low = degrade(make_volume((36, 40, 4)), Degradation(protocol="kspace", axis="S"))
    probe = Probe(low, RunOptions.create(model=add()))
    at = low.affine[:3, :3] @ [5, 6, 2] + low.affine[:3, 3]
    assert probe.look("sample", at, channel=0).data.max() == 1
    with pytest.raises(RunError, match="Channel 7 is not there"):
        probe.look("sample", at, channel=7)
    with pytest.raises(InputError, match="no channels or heads"):
        probe.look("there", at, channel=0)


def test_maps_follow_the_result_onto_another_grid(make_volume, add):
    truth = make_volume((36, 40, 6), (1, 1, 3))
    low = degrade(truth, Degradation(protocol="kspace", axis="S"))
    like = make_volume((30, 34, 6), (1.1, 1.1, 3))
    like = like.replace(affine=like.affine + (truth.affine - like.affine) * np.array([[0, 0, 0, 1]]))
    done = list(run(low, RunOptions.create(model=add(), maps=("rows",)), like=like))[-1]
    assert done.maps[0].shape == done.volume.shape
    np.testing.assert_allclose(done.maps[0].affine, done.volume.affine)
    np.testing.assert_allclose(done.volume.affine[:3, :3], like.affine[:3, :3])


def test_a_registration_without_a_reference_is_refused(make_volume, add):
    low = degrade(make_volume((36, 40, 4)), Degradation(protocol="kspace", axis="S"))
    with pytest.raises(InputError, match="no reference to register"):
        super_resolve(low, add(), register_reference=True)


def test_thick_slices_are_looked_into_by_either_orientation(make_volume, add):
    low = make_volume((20, 24, 6), (1, 1, 4))
    probe = Probe(low, RunOptions.create(model=add("thick", 4, "slice-profile", aligned="same")))
    at = low.affine[:3, :3] @ np.array([9, 10, 3]) + low.affine[:3, 3]
    assert [probe.look("rows", at, stack=stack).shape for stack in (0, 1, None)] == [(1, 24, 24), (20, 1, 24), (1, 24, 24)]


def test_tables_and_wrong_questions(make_volume, add):
    low = degrade(make_volume((36, 40, 4)), Degradation(protocol="kspace", axis="S"))
    name = add()
    probe = Probe(low, RunOptions.create(model=name))
    at = low.affine[:3, 3] + (5, 5, 2)
    assert probe.look("table", at).data[:, :, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(InputError, match="offered: rows, there, sample, table"):
        probe.look("unknown", at)
    with pytest.raises(InputError, match="outside the result"):
        probe.look("there", (900, 0, 0))
    with pytest.raises(InputError, match="needs a chosen voxel; offered: rows"):
        super_resolve(low, name, maps=("there",))
    with pytest.raises(InputError, match="offered: none"):
        super_resolve(low, "cubic", maps=("rows",))


def test_a_plane_too_large_is_said_before_anything_runs(make_volume, add, monkeypatch):
    monkeypatch.setattr("napari_mrsr.inference.plan.MEMORY_SHARE", 0.0)
    low = degrade(make_volume((36, 40, 4)), Degradation(protocol="kspace", axis="S"))
    with pytest.raises(RunError, match="One slice needs"):
        super_resolve(low, add())


def test_slices_at_once_are_planned_watched_or_asked_for_and_change_nothing(make_volume, add):
    low, name = degrade(make_volume((24, 28, 60)), Degradation(protocol="kspace", axis="S")), add()
    expected = super_resolve(low, name).data
    control = Control()
    control.look(tuple(low.affine[:3, 3]))
    cases = (({}, None, 15), ({}, control, 20), ({"batch": 7}, None, 9), ({"batch": 7}, control, 9), ({"batch": 500}, None, 1))
    for options, watching, groups in cases:
        started, *_, last = run(low, RunOptions.create(model=name, skip_air=False, **options), control=watching)
        assert started.tiles == groups
        assert f"60 slices in {groups} groups" in started.plan
        np.testing.assert_allclose(last.volume.data, expected, atol=1e-3)
    with pytest.raises(InputError, match=r"sees whole slices; give the number at once \(batch\) in place of a tile size"):
        super_resolve(low, name, tile=16)
