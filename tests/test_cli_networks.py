"""Commands that look into networks, use references, and bring in weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.io import read_sidecar, read_volume, write_volume
from napari_mrsr.networks import create
from napari_mrsr.zoo import Card, card_page, get_card, save_weights, sha256_of

NETWORKS = {
    "cftn": ("gaussian", {"channels": 4, "blocks": 2, "ca_reduction": 2}),
    "fdvit": ("bicubic", {"channels": 4, "blocks": 1}),
    "cohft": ("kspace", {"width": 8, "growth": 4, "stages": 1, "rrdbs": 1}),
    "transmrsr": ("slice-profile", {"size": 32, "width_divisor": 32, "style_dim": 16}),
}


@pytest.fixture
def call(tmp_path, monkeypatch, console):
    """Run commands in a folder of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("napari_mrsr.zoo.models.user_weights_folder", lambda: tmp_path / "models")
    monkeypatch.setattr("napari_mrsr.inference.process.tune_process", lambda: None)
    return console


@pytest.fixture
def done(call):
    def command(*arguments):
        result = call(*arguments)
        assert result.code == 0, result.err
        return result.out

    return command


@pytest.fixture
def refused(call, tmp_path):
    def command(fragment, *arguments):
        before = sorted(tmp_path.rglob("*"))
        result = call(*arguments)
        assert (result.code, len(result.err.splitlines())) == (2, 1), result.err
        assert fragment in result.err
        assert sorted(tmp_path.rglob("*")) == before

    return command


@pytest.fixture
def add(tmp_path):
    def model(architecture, scale=2, name=None):
        folder = tmp_path / "models"
        folder.mkdir(exist_ok=True)
        protocol, options = NETWORKS[architecture]
        name = name or f"{architecture}-x{scale}s"
        torch.manual_seed(0)
        path = save_weights(create(architecture, scale, **options).state_dict(), folder / f"{name}.safetensors", {})
        tiled = {"window": 8, "halo": 24} if architecture == "cftn" else {}
        card = Card(
            name=name, title=name, architecture=architecture, options=options, scale=scale, protocol=protocol, weights=path.name,
            sha256=sha256_of(path), reference="needed" if architecture == "cohft" else "none", **tiled,
        )  # fmt: skip
        (folder / f"{name}.json").write_text(card.model_dump_json())
        return name

    return model


@pytest.fixture
def low(make_volume, tmp_path):
    truth = make_volume((36, 40, 38), (1, 1, 1), (8, 4, 12))
    write_volume(degrade(truth, Degradation()), tmp_path / "lr.nii.gz")
    return truth


def test_a_card_is_printed_as_a_page(done):
    page = done("models", "card", "cftn-x2")
    assert page.startswith("# cftn-x2\n")
    assert "arc2017" in page
    assert page == card_page(get_card("cftn-x2"))


def test_a_model_describes_itself(done, add):
    facts = json.loads(done("models", "show", add("cftn")))
    assert facts["title"] == "CFTN"
    assert facts["parameters"] == sum(p.numel() for p in create("cftn", 2, **NETWORKS["cftn"][1]).parameters())
    assert {"safm", "cst-attention", "cst-entropy", "channel-attention"} <= {m["name"] for m in facts["maps"]}
    assert json.loads(done("models", "show", "cubic"))["maps"] == []


def test_maps_are_written_beside_the_result(done, refused, add, low):
    name = add("cftn")
    arguments = ("run", "lr.nii.gz", "--model", name, "--map", "safm", "--map", "cst-entropy", "-o", "sr.nii.gz")
    printed = done(*arguments).split()
    assert printed == ["sr.nii.gz", "sr.json", "sr_safm.nii.gz", "sr_safm.json", "sr_cst-entropy.nii.gz", "sr_cst-entropy.json"]
    result = read_volume("sr.nii.gz")
    for path in ("sr_safm.nii.gz", "sr_cst-entropy.nii.gz"):
        values = read_volume(path)
        np.testing.assert_allclose(values.affine, result.affine, atol=1e-5)
        assert values.shape == result.shape
        assert 0 <= values.data.min() <= values.data.max() <= 1.001
    assert read_sidecar("sr_safm.nii.gz")["map"]["name"] == "safm"
    refused("sr.nii.gz exists already", *arguments)
    refused("no name of a map", "run", "lr.nii.gz", "--model", name, "--map", "../x", "-o", "new.nii.gz")
    dotted = done("run", "lr.nii.gz", "--model", name, "--map", "safm", "-o", "T1_0.8mm.nii.gz").split()
    assert "T1_0.8mm_safm.nii.gz" in dotted
    refused("offered: safm, cst-entropy", "run", "lr.nii.gz", "--model", name, "--map", "gate", "-o", "new.nii.gz")


def test_a_voxel_is_looked_at(done, refused, add, low):
    name = add("cftn")
    at = low.affine[:3, :3] @ [18, 20, 19] + low.affine[:3, 3]
    place = "--at=" + ",".join(f"{v:.3f}" for v in at)
    assert done("look", "lr.nii.gz", "--model", name, "--map", "cst-attention", place, "-o", "map.nii.gz").split() == ["map.nii.gz", "map.json"]
    attention = read_volume("map.nii.gz")
    assert attention.data.sum() == pytest.approx(1, abs=1e-3)
    box = attention.box()
    assert all(a < v < b for a, v, b in zip(box.lower, at, box.upper, strict=True))
    told = read_sidecar("map.nii.gz")
    assert told["map"]["kind"] == "query"
    assert told["run"]["model"] == name
    assert len(told["run"]["weights_sha256"]) == 64
    refused("no channels or heads", "look", "lr.nii.gz", "--model", name, "--map", "safm", place, "--channel", 3, "-o", "new.nii.gz")
    refused("not three numbers", "look", "lr.nii.gz", "--model", name, "--map", "safm", "--at", "1,2", "-o", "new.nii.gz")
    refused("outside the result", "look", "lr.nii.gz", "--model", name, "--map", "safm", "--at", "900,0,0", "-o", "new.nii.gz")
    refused("not three numbers", "look", "lr.nii.gz", "--model", name, "--map", "safm", "--at=nan,0,0", "-o", "new.nii.gz")


def test_a_reference_is_asked_for_and_registered(done, refused, call, add, make_volume, tmp_path):
    truth = make_volume((40, 44, 6), (1, 1, 3), sigma=1.5)
    write_volume(degrade(truth, Degradation(protocol="kspace")), tmp_path / "t2.nii.gz")
    write_volume(truth.replace(data=truth.data.max() - truth.data), tmp_path / "t1.nii.gz")
    name = add("cohft")
    refused("needs a reference contrast", "run", "t2.nii.gz", "--model", name, "-o", "sr.nii.gz")
    result = call("run", "t2.nii.gz", "--model", name, "--reference", "t1.nii.gz", "--register", "--map", "gradient", "-o", "sr.nii.gz")
    assert result.code == 0, result.err
    record = read_sidecar("sr.nii.gz")["run"]["reference"]
    assert record["registered"] is True
    assert record["angle_deg"] < 5
    assert "reference was" in result.err


def test_thick_slices_to_a_voxel_size(done, call, add, make_volume, tmp_path):
    write_volume(make_volume((20, 22, 8), (1, 1, 3.3), sigma=(1.5, 1.5, 0.8)), tmp_path / "thick.nii.gz")
    name = add("transmrsr", 4)
    result = call("run", "thick.nii.gz", "--model", name, "--voxel", 1.0, "-o", "sr.nii.gz")
    assert result.code == 0, result.err
    assert f"{name} was trained for 4" in result.err
    assert read_volume("sr.nii.gz").voxel_size == pytest.approx((1, 1, 1), abs=1e-4)
    assert read_volume("sr.nii.gz").shape == (20, 22, 26)


def test_foreign_weights_are_brought_in(done, refused, parity_weights, tmp_path, monkeypatch):
    monkeypatch.setattr("napari_mrsr.zoo.imports.user_weights_folder", lambda: tmp_path / "models", raising=False)
    state = {f"network.{k}": v for k, v in parity_weights("dcamsr_32_keys.txt", "dcamsr32").items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "public.ckpt")
    refused("scale", "models", "import", "public.ckpt")
    printed = done("models", "import", "public.ckpt", "--scale", 2, "--name", "public").splitlines()
    assert printed[-1] == "model: public"
    assert "public" in done("models")
    refused("public", "models", "import", "public.ckpt", "--scale", 2, "--name", "public")
    (tmp_path / "words.pth").write_text("hello")
    refused("words.pth", "models", "import", "words.pth")
