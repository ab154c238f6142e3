"""The self-ensemble: mirror images go through the network, turned back they lie on each other."""

from __future__ import annotations

import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.degradation.matrices import bspline_matrix
from napari_mrsr.errors import Cancelled, InputError
from napari_mrsr.grid import SamplingGrid
from napari_mrsr.inference import Control, Progress, RunDone, RunOptions, RunStarted, run, super_resolve
from napari_mrsr.inference.ensemble import SPREAD, Ensemble
from napari_mrsr.intensity import intensity_range
from napari_mrsr.networks import Architecture, MapInfo, create, register
from napari_mrsr.networks import registry as registry_module
from napari_mrsr.networks.blocks.recording import wanted
from napari_mrsr.networks.blocks.resample import voxel_shuffle
from napari_mrsr.networks.scaling import by_range
from napari_mrsr.zoo import Card, save_weights, sha256_of


class Uneven(nn.Module):
    """3D network that answers mirror images differently."""

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale, self.conv = scale, nn.Conv3d(1, scale**3, 3, padding=1)

    def forward(self, lr, reference=None, noise_level=None):
        if recorder := wanted("input"):
            recorder.keep("input", lr, stride=self.scale)
        return voxel_shuffle(self.conv(lr), self.scale)


class Spline(nn.Module):
    """Network of slices that interpolates (or answers with the reference): the same for mirror images, sample 0 on pixel 0."""

    def __init__(self, scale: int = 2, show: str = "image") -> None:
        super().__init__()
        self.scale, self.show, self.unit = scale, show, nn.Parameter(torch.ones(1))

    def forward(self, lr, reference=None, noise_level=None):
        if self.show == "reference":
            return reference * self.unit
        x = lr
        for axis in (2, 3):
            n = x.shape[axis]
            matrix = torch.from_numpy(bspline_matrix(np.arange(n * self.scale) / self.scale, n)).float()
            x = torch.movedim(torch.movedim(x, axis, -1) @ matrix.T, -1, axis)
        return x * self.unit


@pytest.fixture
def add(monkeypatch, tmp_path):
    module = ModuleType("mirror_networks")
    maps = (MapInfo("input", "Input", "What the network is given."),)
    module.ARCHITECTURES = {
        "uneven": Architecture("uneven", "Uneven", "", Uneven, halo=lambda _: 1, maps=lambda _: maps),
        "spline": Architecture(
            "spline", "Spline", "", Spline, dimension=2, scales=(2, 3, 4), tiling="planes", reference="optional", scaling=by_range
        ),
        "thick": Architecture("thick", "Thick", "", Spline, dimension=2, scales=(2, 3, 4), tiling="planes", pre_interpolated=True),
    }
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry_module, "_MODULES", dict(registry_module._MODULES))
    for name in module.ARCHITECTURES:
        register(name, module.__name__)
    monkeypatch.setattr("napari_mrsr.zoo.models.user_weights_folder", lambda: tmp_path)

    def make(architecture, scale=2, protocol="gaussian", **options):
        torch.manual_seed(0)
        path = save_weights(create(architecture, scale, **options).state_dict(), tmp_path / f"{architecture}.safetensors", {}, overwrite=True)
        card = Card(
            name=architecture, title=architecture, architecture=architecture, scale=scale, protocol=protocol, options=options, weights=path.name,
            sha256=sha256_of(path), reference="optional" if architecture == "spline" else "none",
        )  # fmt: skip
        (tmp_path / f"{architecture}.json").write_text(card.model_dump_json())
        return architecture

    return make


def done(volume, reference=None, **options):
    *_, last = run(volume, RunOptions.create(ensemble=True, **options), reference)
    assert isinstance(last, RunDone)
    return last


def test_mean_and_spread_are_those_of_eight_runs(make_volume, add):
    model, volume = add("uneven"), make_volume((12, 14, 10), angles=(5, 10, 15))
    answers = []
    for code in range(8):
        axes = tuple(axis for axis in range(3) if code >> axis & 1)
        plain = super_resolve(volume.replace(data=np.flip(volume.data, axes)), model)
        answers.append(np.flip(plain.data, axes))
    found = done(volume, model=model)
    np.testing.assert_allclose(found.volume.data, np.mean(answers, 0), rtol=1e-5, atol=1e-3)
    (spread,) = found.maps
    np.testing.assert_allclose(spread.data, np.std(answers, 0), rtol=1e-3, atol=1e-2)
    assert spread.data.mean() > 1
    assert spread.record["map"]["name"] == SPREAD.name
    np.testing.assert_array_equal(spread.affine, found.volume.affine)
    np.testing.assert_allclose(found.volume.affine, super_resolve(volume, model).affine)
    assert found.volume.record["run"]["options"]["ensemble"] is True
    assert found.volume.record["run"]["plan"].endswith(", 8 times")


def test_tiles_and_regions_are_those_of_the_whole(make_volume, add):
    model, volume = add("uneven"), make_volume((19, 17, 15))
    whole = done(volume, model=model)
    tiled = done(volume, model=model, tile=8)
    np.testing.assert_allclose(tiled.volume.data, whole.volume.data, atol=2e-3)
    corner = np.array(volume.box().lower)
    part = done(volume, model=model, roi=tuple(np.concatenate([corner + np.array([3.2, 4.1, 2.3]), corner + np.array([9.9, 15.2, 8.8])])))
    offset = np.round(np.linalg.solve(whole.volume.affine, part.volume.affine)[:3, 3]).astype(int)
    block = tuple(slice(o, o + n) for o, n in zip(offset, part.volume.shape, strict=True))
    assert part.volume.data.size < whole.volume.data.size / 4
    np.testing.assert_allclose(part.volume.data, whole.volume.data[block], atol=2e-3)
    np.testing.assert_allclose(part.maps[0].data, whole.maps[0].data[block], atol=2e-3)


def test_internal_maps_are_those_of_the_volume_as_it_is(make_volume, add):
    model, volume = add("uneven"), make_volume((8, 9, 10))
    *_, plain = run(volume, RunOptions.create(model=model, maps=("input",)))
    found = done(volume, model=model, maps=("input",))
    assert [v.record["map"]["name"] for v in found.maps] == ["input", SPREAD.name]
    np.testing.assert_array_equal(found.maps[0].data, plain.maps[0].data)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("extent", [(36, 48), (42, 60), (39, 51), (52, 44)])
def test_a_kspace_lattice_moves_with_its_mirror_image(make_volume, add, scale, extent):
    """A k-space crop leaves samples off the middle: turned round without care, answers would part by up to r - 1 fine voxels."""
    truth = make_volume((*(n // scale * scale for n in extent), 4), sigma=4.0)
    low = degrade(truth, Degradation(protocol="kspace", scale=scale, axis="S"))
    model = add("spline", scale, "kspace")
    plain, found = super_resolve(low, model), done(low, model=model)
    inner = (slice(12, -12), slice(12, -12))
    assert found.maps[0].data[inner].max() < 2e-3 * intensity_range(low.data)
    np.testing.assert_allclose(found.volume.data[inner], plain.data[inner], atol=2e-3 * intensity_range(low.data))
    assert found.volume.record["run"]["plan"].endswith(", 4 times")


@pytest.mark.parametrize("extent", [(36, 48), (34, 50)])
def test_the_reference_is_turned_round_too(make_volume, add, extent):
    truth = make_volume((*extent, 4), sigma=1.0)
    low = degrade(truth, Degradation(protocol="kspace", axis="S"))
    model = add("spline", protocol="kspace", show="reference")
    plain = super_resolve(low, model, reference=truth)
    found = done(low, truth, model=model)
    assert found.maps[0].data.max() < 1e-4 * plain.data.max()
    np.testing.assert_allclose(found.volume.data, plain.data, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("orientations", "times"), [("both", 8), ("first", 4)])
def test_thick_slices_with_a_ratio_that_is_no_whole_number(make_volume, add, orientations, times):
    low = make_volume((16, 18, 9), (1, 1, 3.5))
    model = add("thick", 4, "slice-profile")

    def same(self, lr, reference=None, noise_level=None):
        return lr * self.unit

    Spline.forward, kept = same, Spline.forward
    try:
        plain = super_resolve(low, model, voxel=1.0, orientations=orientations)
        found = done(low, model=model, voxel=1.0, orientations=orientations)
    finally:
        Spline.forward = kept
    np.testing.assert_allclose(found.volume.data, plain.data, rtol=1e-5)
    assert found.maps[0].data.max() < 1e-4 * plain.data.max()
    assert found.volume.record["run"]["plan"].endswith(f", {times} times")


def test_progress_runs_once_over_all_and_cancel_stops_in_any_of_them(make_volume, add):
    model, volume = add("uneven"), make_volume((12, 14, 10))

    class Counted(Control):
        asked, limit = 0, math.inf

        @property
        def cancelled(self):
            self.asked += 1
            return self.asked > self.limit

    control = Counted()
    events = list(run(volume, RunOptions.create(model=model, ensemble=True), control=control))
    shares = [e.fraction for e in events if isinstance(e, Progress)]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    started = next(e for e in events if isinstance(e, RunStarted))
    assert started.tiles == 8
    assert [e.tile for e in events if isinstance(e, Progress)][-1] == 8
    stopped = Counted()
    stopped.limit = int(0.8 * control.asked)
    with pytest.raises(Cancelled):
        list(run(volume, RunOptions.create(model=model, ensemble=True), control=stopped))


@pytest.mark.parametrize("model", ["cubic", "zero-fill", "back-projection"])
def test_classic_methods_are_refused(make_volume, model):
    with pytest.raises(InputError, match="same result for mirror images"):
        done(make_volume((9, 9, 9)), model=model)


@pytest.mark.parametrize("alignment", ["edges", "kspace", "corners"])
@pytest.mark.parametrize("shape", [(8, 9, 12), (15, 16, 21)])
def test_mirrored_grids(alignment, shape):
    grid = SamplingGrid.from_coarse(shape, (2.0, 3.0, 1.0), alignment)
    turned = grid.mirrored((0, 1))
    for axis in range(3):
        expected = grid.axes[axis].coarse_positions()
        if axis < 2:
            expected = (grid.axes[axis].fine - 1 - expected)[::-1]
        np.testing.assert_allclose(turned.axes[axis].coarse_positions(), expected, atol=1e-12)
    moved = [a.start - b.start for a, b in zip(turned.axes, grid.axes, strict=True)]
    assert any(abs(shift) > 0.5 for shift in moved) == (alignment == "kspace")


def test_running_mean_and_spread():
    images = np.random.default_rng(0).normal(500, 20, (6, 3, 4, 5)).astype(np.float32)
    ensemble = Ensemble(images.shape[1:])
    for image in images:
        ensemble.add(image)
    np.testing.assert_allclose(ensemble.mean, images.mean(0), rtol=1e-5)
    np.testing.assert_allclose(ensemble.spread, images.std(0), rtol=1e-4)
