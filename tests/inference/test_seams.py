"""What cutting a volume costs each of the five networks, by the largest error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_network import FLOAT32, textured

from napari_mrsr.inference import super_resolve
from napari_mrsr.intensity import intensity_range
from napari_mrsr.networks import create
from napari_mrsr.zoo import WEIGHTS

PLANES = {
    "fdvit": {"channels": 8, "blocks": 2},
    "dcamsr": {"size": 32, "channels": 16, "heads": 4, "projection": 8},
    "cohft": {"width": 8, "growth": 4, "stages": 1, "rrdbs": 1},
    "transmrsr": {"size": 32, "width_divisor": 16, "style_dim": 64},
}
"""Small forms of the networks that see slices."""
PROTOCOL = {"fdvit": "bicubic", "transmrsr": "slice-profile"}


def deviation(a, b, gain):
    return float(np.abs(a - b).max()) / gain


@pytest.mark.parametrize("scale", [2, 3])
@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(long=st.integers(33, 45), thin=st.tuples(st.integers(4, 8), st.integers(4, 8)), axis=st.integers(0, 2), tile=st.integers(12, 21))
def test_cftn_in_tiles_equals_cftn_in_one_piece(make_volume, add_model, scale, long, thin, axis, tile):
    """Any size, tile and factor: channel attention pools over windows that lie on the same voxels in every tile."""
    name = add_model(f"small-x{scale}", "cftn", scale, {"channels": 4, "blocks": 2, "ca_reduction": 2}, window=8, halo=24)
    shape = list(thin)
    shape.insert(axis, long)
    volume = textured(make_volume, tuple(shape))
    gain = intensity_range(volume.data)
    options = {"precision": "float32", "skip_air": False, "noise": 0.0}
    whole, tiled = (super_resolve(volume, name, tile=t, **options) for t in (None, tile))
    assert whole.record["run"]["planned"]["tiles"] == 1
    assert tiled.record["run"]["planned"]["tiles"] >= math.ceil(long / tile)
    assert deviation(tiled.data, whole.data, gain) < FLOAT32


@pytest.mark.skipif(not (WEIGHTS / "cftn-x2.json").exists(), reason="no weights are shipped")
def test_the_shipped_network_with_full_margins_equals_one_piece(make_volume, record_property):
    volume = textured(make_volume, (67, 13, 14))
    gain = intensity_range(volume.data)
    options = {"precision": "float32", "skip_air": False, "noise": 1.0, "exact": True}
    whole, tiled = (super_resolve(volume, "cftn-x2", tile=t, **options) for t in (None, 16))
    error = deviation(tiled.data, whole.data, gain)
    record_property("max_error", error)
    assert tiled.record["run"]["planned"]["tiles"] == 5
    assert error < 1e-4


def pair(architecture, make_volume, shape):
    """A volume and, where the network takes one, a reference."""
    volume = textured(make_volume, shape)
    reference = None
    if architecture in ("dcamsr", "cohft"):
        reference = super_resolve(volume, "cubic", protocol="kspace", scale=2, axis="S")
        reference = reference.replace(data=reference.data.max() - reference.data)
    return volume, reference


@pytest.mark.parametrize("architecture", PLANES)
@pytest.mark.parametrize("shape", [(21, 18, 5)])
def test_slices_do_not_feel_each_other(make_volume, add_model, architecture, shape):
    """However many go together, and whichever are asked for."""
    protocol = PROTOCOL.get(architecture, "kspace")
    name = add_model(
        architecture, architecture, 2, PLANES[architecture], protocol, reference="optional" if architecture in ("dcamsr", "cohft") else "none",
    )  # fmt: skip
    volume, reference = pair(architecture, make_volume, shape)
    gain = intensity_range(volume.data)
    options = {
        "protocol": protocol, "axis": "S", "orientations": "first", "precision": "float32", "skip_air": False,
        "noise": 0.0, "reference": reference,
    }  # fmt: skip
    single = super_resolve(volume, name, batch=1, **options)
    for batch in (2, 4):
        assert deviation(super_resolve(volume, name, batch=batch, **options).data, single.data, gain) < 10 * FLOAT32
    assert single.data.std() > 0.01 * gain


@pytest.mark.parametrize("architecture", ["dcamsr", "transmrsr"])
def test_windows_of_a_fixed_size_leave_no_step(architecture):
    """Neighbouring windows disagree: set side by side they leave a step at their ends, faded into one another none."""
    torch.manual_seed(0)
    network = create(architecture, 2, **PLANES[architecture]).eval()
    size, ratio = 32, 1 if architecture == "transmrsr" else 2
    lr = smooth(size // ratio, 3 * size // ratio)
    reference = smooth(size, 3 * size).flip(2) if architecture == "dcamsr" else None

    def roughness(overlap):
        network.overlap = overlap
        with torch.inference_mode():
            change = network(lr, reference=reference).diff(dim=3)
        across = (change[..., 1:-1] - (change[..., :-2] + change[..., 2:]) / 2).abs().mean((0, 1, 2))
        at_ends = across[[size - 2, 2 * size - 2]].max()
        return (at_ends / across[2:-2].mean()).item()

    assert roughness(0.0) > 3
    assert roughness(0.25) < 1.5


def smooth(height, width):
    """Waves without edges of their own."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 9, width), indexing="ij")
    return (torch.sin(x) + torch.cos(2 * y) + torch.sin(0.6 * x * y))[None, None] / 3
