"""The check command, and what run says of the model that it takes."""

from __future__ import annotations

import json

import pytest

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.io import read_sidecar, write_volume
from napari_mrsr.samples import read_sample
from napari_mrsr.zoo import get_card, list_models


@pytest.fixture
def low(tmp_path, monkeypatch):
    """A piece of the shipped head at low resolution, as a file that says its contrast."""
    monkeypatch.setattr("napari_mrsr.zoo.models.user_weights_folder", lambda: tmp_path / "models")
    sample = read_sample("arc2017_T1w")
    piece = degrade(sample.crop([slice(60, 108), slice(110, 158), slice(130, 178)]), Degradation())

    def write(name="sub-1_T1w", **changes):
        path = tmp_path / f"{name}.nii.gz"
        write_volume(piece.replace(**changes), path)
        return path

    return write


@pytest.fixture
def learned():
    """A shipped network for isotropic T1."""
    card = next((c for c in list_models() if c.protocol == "gaussian" and c.scale == 2 and "T1w" in c.domain.targets), None)
    if card is None:
        pytest.skip("no trained weights are installed")
    return card.name


def test_check_proposes_a_model_and_says_why(console, low, learned):
    result = console("check", low())
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].startswith(f"chosen: {learned}: isotropic voxels of")
    assert lines[1] == f"{learned}: green"
    assert all(line.split()[0] in ("green", "amber", "red") for line in lines[2:])
    assert "T1w (from the file name)" in result.out


def test_check_of_a_chosen_model_as_json_with_a_piece(console, low, learned):
    result = console("check", low("sub-1_T2w"), "--model", learned, "--piece", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert (found["model"], found["level"], found["choice"]) == (learned, "amber", "")
    assert any("Degraded again" in reason["text"] for reason in found["reasons"])
    assert found["reasons"][0]["level"] == "amber"
    assert "T2w (from the file name)" in found["reasons"][0]["text"]


def test_run_auto_says_what_it_chose_and_keeps_the_light(console, low, learned, tmp_path):
    result = console("run", low(), "--model", "auto", "--json", "-o", tmp_path / "sr.nii.gz")
    assert result.code == 0, result.err
    assert f"chosen: {learned}: " in result.err
    assert "green: " in result.err
    assert "warning" not in result.err
    told = json.loads(result.out)
    assert told["files"] == [str(tmp_path / "sr.nii.gz"), str(tmp_path / "sr.json")]
    kept = read_sidecar(tmp_path / "sr.nii.gz")["run"]
    assert kept == {key: value for key, value in told.items() if key != "files"}
    assert kept["model"] == kept["domain"]["model"] == learned
    assert kept["domain"]["level"] == "green"
    assert kept["choice"].startswith(learned)


def test_run_warns_where_the_light_is_not_green(console, low, learned, tmp_path):
    result = console("run", low("sub-1_FLAIR"), "--model", learned, "-o", tmp_path / "sr.nii.gz")
    assert result.code == 0, result.err
    assert [line for line in result.err.splitlines() if "trained on T1w" in line] == [
        f"warning: amber: FLAIR (from the file name), but {learned} was trained on T1w: expect a smaller gain."
    ]


def test_thick_slices_without_a_network_go_to_a_classic_method(console, tmp_path, make_volume, monkeypatch):
    monkeypatch.setattr("napari_mrsr.zoo.models.WEIGHTS", tmp_path)
    monkeypatch.setattr("napari_mrsr.zoo.models.user_weights_folder", lambda: tmp_path)
    path = tmp_path / "thick.nii.gz"
    write_volume(make_volume((16, 16, 8), (1, 1, 5)), path)
    result = console("run", path, "--model", "auto", "-o", tmp_path / "sr.nii.gz")
    assert result.code == 0, result.err
    assert "classic method" in result.err
    kept = read_sidecar(tmp_path / "sr.nii.gz")["run"]
    assert kept["protocol"] == "slice-profile"
    assert kept["scale"][:2] == [1, 1]
    assert not get_card(kept["model"]).learned


@pytest.mark.parametrize("command", ["check", "run"])
def test_an_unknown_model_is_one_sentence(console, low, command, tmp_path):
    more = ("-o", tmp_path / "sr.nii.gz") if command == "run" else ()
    result = console(command, low(), "--model", "wonder", *more)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert "Unknown model 'wonder'" in result.err
