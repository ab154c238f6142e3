"""``napari-mrsr trust`` and ``run --ensemble``."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

import napari_mrsr
from napari_mrsr.io import read_sidecar, read_volume, write_volume
from napari_mrsr.networks import create
from napari_mrsr.samples import read_sample
from napari_mrsr.zoo import Card, save_weights, sha256_of

NETWORK = {"channels": 4, "blocks": 2, "ca_reduction": 2}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A piece of a head, its low resolution, two results of it, and a small network of random weights."""
    models = tmp_path / "models"
    models.mkdir()
    torch.manual_seed(0)
    path = save_weights(create("cftn", 2, **NETWORK).state_dict(), models / "small.safetensors", {})
    card = Card(
        name="small", title="small", architecture="cftn", options=NETWORK, scale=2, protocol="gaussian", weights=path.name, window=8, halo=24,
        sha256=sha256_of(path),
    )  # fmt: skip
    (models / "small.json").write_text(card.model_dump_json())
    monkeypatch.setattr("napari_mrsr.zoo.models.user_weights_folder", lambda: models)
    monkeypatch.setattr("napari_mrsr.inference.process.tune_process", lambda: None)
    here = tmp_path / "place"
    here.mkdir()
    monkeypatch.chdir(here)
    head = read_sample("arc2017_T1w").crop([slice(50, 100), slice(110, 158), slice(130, 182)]).replace(name="hr")
    low = napari_mrsr.degrade(head, napari_mrsr.Degradation(noise=2, seed=1))
    write_volume(head, "hr.nii.gz")
    write_volume(low, "lr.nii.gz")
    for model in ("cubic", "back-projection"):
        write_volume(napari_mrsr.super_resolve(low, model), f"{model}.nii.gz")
    return here


@pytest.fixture
def call(place, console):
    return console


def test_a_table_with_its_limits(call):
    result = call("trust", "lr.nii.gz", "cubic.nii.gz", "back-projection.nii.gz")
    assert result.code == 0, result.err
    shares = [float(s) for s in re.findall(r"^(?:cubic|back-projection) +(\d+\.\d+) %", result.out, re.MULTILINE)]
    assert len(shares) == 2
    assert shares[0] > 1.2 * shares[1]
    assert "degraded by gaussian x2 (recorded with the input)" in result.out
    assert "noise recorded with the input" in result.out
    assert "disagreement of 2 results" in result.out
    assert "checkerboard" in result.out
    assert result.out.rstrip().endswith("not for diagnosis.")


def test_maps_and_json_are_written_whole_and_nothing_is_replaced(call, place):
    options = ("trust", "lr.nii.gz", "cubic.nii.gz", "back-projection.nii.gz", "-o", "out", "--json")
    content = json.loads(call(*options).out)
    low, residual = read_volume("lr.nii.gz"), read_volume("out/cubic_consistency.nii.gz")
    assert residual.shape == low.shape
    np.testing.assert_allclose(residual.affine, low.affine, atol=1e-4)
    assert np.abs(residual.data).max() >= content["consistency"][0]["peak"] * 0.999
    assert read_sidecar("out/cubic_consistency.nii.gz")["map"]["kind"] == "data consistency"
    assert read_volume("out/disagreement.nii.gz").shape == read_volume("cubic.nii.gz").shape
    saved = json.loads((place / "out" / "trust.json").read_text())
    assert saved == {k: v for k, v in content.items() if k != "files"}
    before = {path: path.read_bytes() for path in (place / "out").iterdir()}
    again = call(*options)
    assert again.code == 2
    assert "exists" in again.err
    assert before == {path: path.read_bytes() for path in (place / "out").iterdir()}
    assert call(*options, "--overwrite").code == 0


def test_results_of_other_programs_need_a_protocol(call, place):
    for name in ("lr", "cubic"):
        (place / f"{name}.json").unlink()
    refused = call("trust", "lr.nii.gz", "cubic.nii.gz")
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert "is not known" in refused.err
    told = call("trust", "lr.nii.gz", "cubic.nii.gz", "--protocol", "gaussian")
    assert told.code == 0, told.err
    assert "gaussian x2 (given)" in told.out
    assert "noise estimated from the input" in told.out


def test_ensemble_writes_the_spread_beside_the_result(call):
    result = call("run", "lr.nii.gz", "--model", "small", "--ensemble", "-o", "sr.nii.gz")
    assert result.code == 0, result.err
    spread, volume = read_volume("sr_ensemble-spread.nii.gz"), read_volume("sr.nii.gz")
    assert spread.shape == volume.shape
    assert spread.data.min() >= 0
    assert spread.data.mean() > 0
    assert read_sidecar("sr.nii.gz")["run"]["options"]["ensemble"] is True
    refused = call("run", "lr.nii.gz", "--model", "cubic", "--ensemble", "-o", "other.nii.gz")
    assert refused.code == 2
    assert "self-ensemble is for networks" in refused.err
