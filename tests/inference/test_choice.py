"""Which shipped model is proposed for real volumes, and that the guard agrees."""

from __future__ import annotations

from functools import cache

import pytest

from napari_mrsr.degradation import Degradation, degrade, reduce_in_plane
from napari_mrsr.inference.choice import choose
from napari_mrsr.inference.guard import Level, find_facts
from napari_mrsr.io import read_volume
from napari_mrsr.zoo import WEIGHTS, list_models
from napari_mrsr.zoo.cards import read_card

SAMPLES = WEIGHTS.parent / "samples"
SHIPPED = {path.stem for path in WEIGHTS.glob("*.json")}
IN_PLANE = 0.9


@cache
def sample(name):
    volume = read_volume(SAMPLES / f"{name}.nii.gz")
    return reduce_in_plane(volume, IN_PLANE) if name.startswith("msl04") else volume


@cache
def cards():
    return [read_card(path) for path in sorted(WEIGHTS.glob("*.json"))] + [card for card in list_models() if not card.learned]


def case(name, protocol, scale, reference, *expected):
    missing = [model for model in expected if model not in SHIPPED]
    marks = [pytest.mark.skip(reason=f"{missing[0]} is not shipped")] if missing else []
    return pytest.param(name, protocol, scale, reference, expected, marks=marks, id=f"{name} {protocol} x{scale}{' guided' if reference else ''}")


@pytest.mark.parametrize(
    ("name", "protocol", "scale", "reference", "expected"),
    [
        case("arc2017_T1w", "gaussian", 2, None, "cftn-x2"),
        case("arc2017_T1w", "gaussian", 3, None, "cftn-x3"),
        case("arc2017_T1w", "bicubic", 2, None, "fdvit-x2"),
        case("arc2017_T1w", "bicubic", 4, None, "fdvit-x4"),
        case("arc2017_T1w", "slice-profile", 4, None, "transmrsr-x4"),
        case("arc2208_T2w", "slice-profile", 4, None, "transmrsr-x4"),
        case("arc2017_T1w", "slice-profile", 8, None, "transmrsr-x8"),
        case("msl04_T2w", "kspace", 2, None, "dcamsr-x2"),
        case("msl04_T2w", "kspace", 4, None, "dcamsr-x4"),
        case("msl04_T2w", "kspace", 2, "msl04_T1w_registered", "dcamsr-x2", "cohft-x2"),
        case("msl04_T2w", "kspace", 3, "msl04_T1w_registered", "cohft-x3"),
        case("msl04_T2w", "kspace", 4, "msl04_T1w_registered", "dcamsr-x4", "cohft-x4"),
    ],
)
def test_what_is_made_for_a_volume_is_proposed(name, protocol, scale, reference, expected):
    low = degrade(sample(name), Degradation.create(protocol=protocol, scale=scale))
    found = choose(cards(), low, find_facts(low), sample(reference) if reference else None)
    assert found.model in expected
    assert found.why.startswith(found.model)
    assert found.verdict.level is not Level.RED
    assert found.verdict.model == found.model


def test_without_a_record_voxels_tell_what_is_wanted():
    low = degrade(sample("arc2017_T1w"), Degradation.create(protocol="gaussian", scale=2)).replace(record={})
    assert choose(cards(), low, find_facts(low)).model == "cftn-x2"
