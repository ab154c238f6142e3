from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.errors import InputError
from napari_mrsr.inference import RunOptions, prepare
from napari_mrsr.intensity import estimate_noise, intensity_range
from napari_mrsr.volume import Box, Volume
from napari_mrsr.zoo import Card, Domain, get_card


@pytest.fixture
def trained(monkeypatch):
    """Cards that need no weights: what `prepare` decides is decided by the card alone."""

    def add(**changes):
        values = {"name": "trained", "title": "Trained", "architecture": "cftn", "scale": 2, "protocol": "gaussian", "weights": "w.safetensors"}
        card = Card(**{**values, **changes})
        known = {card.name: card}
        monkeypatch.setattr("napari_mrsr.inference.options.get_card", lambda name: known.get(name) or get_card(name))
        return card

    return add


def job(volume, like=None, reference=None, **options):
    return prepare(volume, RunOptions.create(**{"model": "cubic", **options}), like, reference)


# --- options ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"scale": 9}, "Option scale: "),
        ({"scale": 1}, "Option scale: "),
        ({"scale": "two"}, "Option scale: "),
        ({"noise": -1}, "Option noise: "),
        ({"noise": float("nan")}, "Option noise: "),
        ({"tile": 7}, "Option tile: "),
        ({"roi": (1, 2, 3)}, "Option roi: "),
        ({"axis": "Z"}, "Unknown axis 'Z'"),
        ({"colour": "red"}, "Option colour: "),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(options, fragment):
    with pytest.raises(InputError) as caught:
        RunOptions.create(**options)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_options_survive_json():
    options = RunOptions.create(model="cubic", scale=3, protocol="bicubic", axis="l", noise=2.5, roi=(5, 4, 3, -1, -2, -3), device="cpu", tile=16)
    assert options.axis == "R"
    assert options.box == Box((-1, -2, -3), (5, 4, 3))
    assert RunOptions.create(**json.loads(options.model_dump_json())) == options


# --- what the options leave open ------------------------------------------------------------------------------------------------------


def test_scale_protocol_and_axis_come_from_option_then_record_then_default(make_volume):
    low = degrade(make_volume((24, 24, 24)), Degradation(protocol="slice-profile", scale=4, axis="A"))
    found = job(low)
    assert (found.protocol.name, found.scale, found.slice_axis, found.grid.scale) == ("slice-profile", 4, 1, (1, 4, 1))
    assert found.grid.fine_shape == (24, 24, 24)
    found = job(low, protocol="bicubic", scale=3, axis="R")
    assert (found.protocol.name, found.scale, found.slice_axis, found.grid.scale) == ("bicubic", 3, 0, (1, 3, 3))
    assert "degraded by a factor of 4, it is enlarged by 3" in found.warnings[0]
    found = job(low.replace(record={}))
    assert (found.protocol.name, found.scale) == ("gaussian", 2)
    assert job(make_volume((9, 9, 9), (3, 1, 1)), protocol="slice-profile").slice_axis == 0
    assert job(make_volume((9, 9, 9)), protocol="slice-profile").slice_axis == 2


def test_noise_given_recorded_or_estimated(make_volume):
    low = degrade(make_volume((48, 48, 48)), Degradation(noise=4, seed=1))
    gain = intensity_range(low.data)
    given = job(low, model="back-projection", noise=1.5)
    assert (given.noise_source, given.noise_sigma) == ("given", pytest.approx(0.015 * gain))
    assert given.gain == pytest.approx(gain)
    recorded = job(low, model="back-projection")
    assert (recorded.noise_source, recorded.noise_sigma) == ("sidecar", low.record["degradation"]["noise_sigma"])
    bare = job(low.replace(record={}), model="back-projection")
    assert (bare.noise_source, bare.noise_sigma) == ("estimated", estimate_noise(low.data))
    assert 0.7 < bare.noise_sigma / recorded.noise_sigma < 1.4
    assert job(low, model="cubic").noise_source == "not used"


def test_region_becomes_a_block_of_the_fine_lattice(make_volume):
    low = make_volume((10, 11, 12), (2, 2, 2), (10, -20, 15))
    whole = job(low)
    assert whole.block == tuple(slice(0, 2 * n) for n in low.shape)
    centre = whole.affine[:3, :3] @ [7, 8, 9] + whole.affine[:3, 3]
    part = job(low, roi=(*(centre - 0.2), *(centre + 0.2)))
    assert part.block == (slice(7, 8), slice(8, 9), slice(9, 10))


@pytest.mark.parametrize("shape", [(21, 22, 19), (20, 20, 20)])
@pytest.mark.parametrize("protocol", ["gaussian", "gaussian-zoom", "kspace", "slice-profile", "bicubic"])
@pytest.mark.parametrize("scale", [2, 3])
def test_like_gives_classic_methods_its_own_lattice(make_volume, shape, protocol, scale):
    high = make_volume(shape, (0.9, 1.1, 1.0), (7, -4, 11))
    low = degrade(high, Degradation(protocol=protocol, scale=scale))
    found = job(low, like=high)
    assert found.grid.fine_shape == shape
    np.testing.assert_array_equal(found.affine, high.affine)
    # A lattice that lies elsewhere is not taken for the input's own.
    moved = high.affine.copy()
    moved[:3, 3] += 0.3
    assert not np.array_equal(job(low, like=high.replace(affine=moved)).affine, moved)


# --- warnings --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("voxel", "far"), [((2, 2, 2), False), ((2.4, 1.8, 2), False), ((3, 3, 3), True), ((2, 2, 1.2), True)])
def test_far_voxel_sizes_are_named_with_numbers(make_volume, trained, voxel, far):
    trained(domain=Domain(voxel_size=(1.6, 2.2)))
    volume = make_volume((8, 8, 8), voxel)
    size = " x ".join(f"{v:.2f}" for v in voxel)
    expected = [f"Voxels of {size} mm are far from the 1.60 to 2.20 mm that trained was trained with."] if far else []
    assert list(job(volume, model="trained").warnings) == expected
    assert job(volume).warnings == ()


def test_noise_beyond_training_is_named(make_volume, trained):
    trained(uses_noise=True, domain=Domain(noise=(0, 4)))
    assert "Noise of 9.0 %" in job(make_volume((8, 8, 8)), model="trained", noise=9).warnings[0]
    assert job(make_volume((8, 8, 8)), model="trained", noise=4).warnings == ()


def test_another_protocol_of_the_same_pattern_is_a_warning(make_volume, trained):
    trained()
    assert "expect a loss of quality" in job(make_volume((8, 8, 8)), model="trained", protocol="gaussian-zoom").warnings[0]


# --- what is refused ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"model": "espcn"}, "Unknown model 'espcn': use one of "),
        ({"protocol": "blur"}, "Unknown protocol 'blur': use one of "),
        ({"model": "trained", "scale": 3}, "trained for a factor of 2, not 3"),
        ({"model": "trained", "protocol": "bicubic"}, "trained undoes 3d degradation (gaussian); synthetic is in-plane (bicubic)"),
        ({"model": "paired"}, "paired needs a reference contrast"),
        ({"roi": (900, 900, 900, 910, 910, 910)}, "lies outside"),
        ({"roi": (0, 0, 0, 0, 5, 5)}, "The region is empty"),
        ({"roi": (0, 0, 0, 1, 1, float("nan"))}, "six finite numbers"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(make_volume, trained, monkeypatch, options, fragment):
    card = trained()
    paired = card.model_copy(update={"name": "paired", "reference": "needed"})
    cards = {"trained": card, "paired": paired}
    monkeypatch.setattr("napari_mrsr.inference.options.get_card", lambda name: cards.get(name) or get_card(name))
    with pytest.raises(InputError) as caught:
        job(make_volume((12, 12, 12)), **options)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "options", "letter"),
    [((3, 9, 9), {}, "R"), ((9, 9, 3), {"protocol": "slice-profile"}, "S"), ((9, 3, 9), {"protocol": "bicubic"}, "A")],
)
def test_too_small_axes_are_named(make_volume, shape, options, letter):
    with pytest.raises(InputError, match=f"only 3 voxels along {letter}; at least 4"):
        job(make_volume(shape), **options)


def test_kept_axes_may_be_small(make_volume):
    assert job(make_volume((9, 9, 1)), protocol="bicubic").grid.fine_shape == (18, 18, 1)


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_constant_volumes_are_refused(make_affine, value):
    with pytest.raises(InputError, match="all voxels have the same value"):
        job(Volume(np.full((8, 8, 8), value), make_affine()))


def test_nan_is_refused_by_its_name(make_volume):
    volume = make_volume((8, 8, 8))
    data = volume.data.copy()
    data[3, 3, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        job(volume.replace(data=data))


def test_a_mask_is_a_volume_too(make_volume):
    volume = make_volume((8, 8, 8))
    found = job(volume.replace(data=volume.data > 500))
    assert found.gain == 1


def test_a_broken_record_is_refused(make_volume):
    with pytest.raises(InputError, match="not a table"):
        job(make_volume((8, 8, 8)).with_record(degradation="gaussian"))


def test_preparing_loads_no_torch():
    code = """
import sys, numpy as np
from napari_mrsr.inference import RunOptions, prepare
from napari_mrsr.volume import Volume
prepare(Volume(np.random.default_rng(0).random((8, 8, 8)), np.eye(4)), RunOptions(model="back-projection"))
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
