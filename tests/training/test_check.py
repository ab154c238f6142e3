"""What is told about a recipe before its first step."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.training.check import check_recipe
from napari_mrsr.training.recipe import Recipe, load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "resources" / "recipes"
CONTENT = {
    "name": "tiny",
    "network": {"name": "cftn", "options": {"channels": 4, "blocks": 1, "ca_reduction": 2, "mfem": ["mid"], "init": "residual"}},
    "degradation": {"protocol": "gaussian", "scale": 2},
    "patches": {"size": 8, "batch": 2, "margin": 3},
    "steps": 30,
}


def recipe(root, network="cftn", protocol="gaussian", augmentation=None, start=None, **data):
    content = {**CONTENT, "data": {"root": str(root), "train": ["."], **data}, "augmentation": augmentation or {}, "start": start}
    if network != "cftn":
        content |= {"network": {"name": network}, "degradation": {"protocol": protocol, "scale": 2}}
    return Recipe.model_validate(content)


@pytest.fixture
def three(put, tmp_path):
    for number in range(3):
        put(f"sub-{number}_T1w.nii.gz", number)
    return tmp_path


def test_a_good_recipe_is_told_in_numbers(three):
    report = check_recipe(recipe(three))
    assert report.ok
    assert report.warnings == ()
    assert (report.people, report.volumes, report.pairs, len(report.validation)) == (2, 2, 0, 1)
    assert 0.8 * 2 * 40 * 44 * 38 < report.patches_per_epoch * 16**3 < 1.05 * 2 * 40 * 44 * 38  # nearly all of the volumes is tissue
    assert report.steps_per_epoch == -(-report.patches_per_epoch // 2)
    assert report.epochs == pytest.approx(30 / report.steps_per_epoch)
    assert report.cost is None
    text = "\n".join(report.lines())
    assert "2 volumes of 2 people" in text
    assert "1 of 3 people" in text


def test_time_and_memory_are_measured(three):
    report = check_recipe(recipe(three), measure=True, accelerator="cpu")
    assert 0 < report.cost.seconds_per_step < 60
    small = report.cost.memory
    assert 2 * 4 * 2 * 40 * 44 * 38 < small < 2**30
    wide = recipe(three)
    wide = wide.model_copy(update={"patches": wide.patches.model_copy(update={"batch": 8})})
    assert check_recipe(wide, measure=True, accelerator="cpu").cost.memory > small + 2**20
    assert any("s a step" in line for line in report.lines())
    assert any(line.startswith("memory: about") for line in report.lines())


def test_references_and_given_low_resolutions_are_counted_as_pairs(put, tmp_path):
    for number in range(2):
        put(f"sub-{number}_T2w.nii.gz", number)
        put(f"sub-{number}_T1w.nii.gz", 10 + number)
    assert check_recipe(recipe(tmp_path, "dcamsr", "kspace", references=["T1w"])).pairs == 1
    lows = tmp_path / "lows"
    for number in range(2):
        put(f"lows/sub-{number}_T2w.nii.gz", number, change=lambda v: degrade(v, Degradation(protocol="gaussian", scale=2)))
    assert check_recipe(recipe(tmp_path, train=["sub-*_T2w.nii.gz"], low=str(lows))).pairs == 1


def problems(plan):
    report = check_recipe(plan)
    assert not report.ok
    for sentence in report.errors:
        assert "\n" not in sentence
        assert "Traceback" not in sentence
        assert sentence.endswith(".")
    assert report.lines()[0].startswith("problem: ")
    return " ".join(report.errors)


def test_all_broken_volumes_are_named_at_once(three, put):
    put("sub-3_T1w.nii.gz", change=lambda v: v.replace(data=np.full(v.shape, 5.0)))
    put("sub-4_T1w.nii.gz", change=lambda v: v.replace(data=np.where(np.indices(v.shape).sum(0) % 7, v.data, np.nan)))
    put("sub-5_T1w.nii.gz", shape=(40, 12, 40))
    (three / "sub-6_T1w.nii.gz").write_bytes(b"\x1f\x8b nothing")
    text = problems(recipe(three))
    for name, why in (("sub-3", "same value"), ("sub-4", "NaN"), ("sub-5", "fewer than a patch of 16"), ("sub-6", "not a readable|damaged")):
        assert name in text
        assert any(w in text for w in why.split("|"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"train": ["nothing"]}, "No image files found for 'nothing'"),
        ({"train": ["sub-0*"]}, "One volume was found"),
        ({"train": ["sub-0*"], "validation": ["sub-0*"]}, "same person is in training and validation: 0"),
        ({"references": ["T2w"]}, "no reference contrast (T2w) lies beside it"),
        ({"low": "LR"}, "does not exist"),
        ({"augmentation": {"blur": [1.2, 0.8]}}, "give the smaller factor first"),
        ({"network": "dcamsr"}, "in-plane protocol"),
        ({"network": "cohft", "protocol": "kspace"}, "needs a reference contrast"),
        ({"start": "no-such-model"}, "no-such-model"),
    ],
)
def test_bad_input_gets_one_sentence_before_the_first_step(three, options, sentence):
    assert sentence in problems(recipe(three, **options))


def test_the_same_head_twice_is_named(three, put):
    put("again/sub-9_T1w.nii.gz", 1)
    text = problems(recipe(three, train=["sub-*"], validation=["again"]))
    assert "sub-1_T1w.nii.gz (training) and sub-9_T1w.nii.gz (validation) show the same head" in text


def test_what_may_go_wrong_is_noted(put, tmp_path):
    path = put("one.nii.gz", shape=(40, 44, 36), voxel=(1.0, 1.0, 3.0), change=lambda v: v.replace(data=np.minimum(v.data, 700)))
    notes = " ".join(check_recipe(recipe(path, split="parts", held_out=0.3)).warnings)
    for words in ("only one person", "clipped", "1 x 1 x 3 mm are no sharp truth"):
        assert words in notes
    for number, name in enumerate("abcd"):
        put(f"many/sub-{name}.nii.gz", number, voxel=(0.5, 0.5, 0.5) if name in "ab" else (1.0, 1.0, 1.0))
    plan = recipe(tmp_path, train=["many/sub-a*", "many/sub-c*"], validation=["many/sub-d*"])
    assert "voxel sizes differ from 0.5 to 1 mm" in " ".join(check_recipe(plan).warnings)


# --- command line and recipes ---------------------------------------------------------------------------------------------------------


def test_the_command_tells_and_trains_nothing(three, tmp_path, console, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**CONTENT, "data": {"train": ["."]}}))
    told = console("train", path, "--data", three, "--check", "--device", "cpu", "-o", tmp_path / "out")
    assert told.code == 0
    assert "one epoch:" in told.out
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "runs").exists()
    (tmp_path / "empty").mkdir()
    told = console("train", path, "--data", tmp_path / "empty", "--check", "--json")
    assert told.code == 2
    assert json.loads(told.out)["ok"] is False
    path.write_text(path.read_text() + "colour: red\n")
    told = console("train", path, "--data", three, "--check")
    assert told.code == 2
    assert "tiny.yaml, field colour" in told.err


FINETUNE = sorted(RECIPES.glob("*_finetune.yaml"))


@pytest.mark.parametrize("path", FINETUNE, ids=lambda p: p.stem)
def test_fine_tune_recipes_start_from_the_compact_model(path):
    ours, compact = load_recipe(path), load_recipe(path.with_name(path.name.replace("finetune", "compact")))
    assert (ours.start, ours.network, ours.degradation) == (compact.name, compact.network, compact.degradation)
    assert ours.steps < compact.steps
    assert ours.data.split == "auto"


def test_every_network_has_a_fine_tune_recipe():
    assert {load_recipe(p).network.name for p in FINETUNE} == {"cftn", "cohft", "dcamsr", "fdvit", "transmrsr"}
