from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.errors import InputError, MrsrError, OutputError
from napari_mrsr.inference import super_resolve
from napari_mrsr.io import read_volume, write_volume
from napari_mrsr.networks import create
from napari_mrsr.training import jobs
from napari_mrsr.training.checkpoint import load_checkpoint
from napari_mrsr.training.data import Study
from napari_mrsr.training.evaluate import _about_reference, _entries, _laid_over, evaluate_model
from napari_mrsr.training.jobs import halo_error, train_to_files
from napari_mrsr.training.parallel import Machines
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.zoo import Card, Quality, TrainingData, get_card, list_models, load_network, sha256_of


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_volume):
    root = tmp_path_factory.mktemp("data")
    for number, name in enumerate(("train/sub-ann", "train/sub-bob", "val/sub-cy", "test/sub-dee", "test/sub-ann")):
        (root / name).parent.mkdir(exist_ok=True)
        write_volume(make_volume((30, 31, 32), (0.9, 1.0, 1.2), sigma=0.9, seed=number), root / f"{name}_T1w.nii.gz")
    return root


@pytest.fixture(scope="module")
def recipe(data):
    return Recipe.model_validate(
        {
            "name": "tiny",
            "summary": "A test.",
            "network": {"name": "cftn", "options": {"channels": 4, "blocks": 2, "ca_reduction": 2, "noise_channel": True, "init": "residual"}},
            "degradation": {"protocol": "gaussian", "scale": 2},
            "data": {"root": str(data), "train": ["train"], "validation": ["val"], "contrasts": ["T1w"], "licences": {"ann": "PDDL-1.0"}},
            "patches": {"size": 6, "batch": 2, "margin": 3},
            "augmentation": {"noise": 4.0},
            "steps": 4,
            "validate_every": 2,
            "validation_crop": 10,
            "seed": 5,
        }
    )


def go(recipe, output, resume=False, overwrite=False):
    said: list[str] = []
    return train_to_files(recipe, output, resume=resume, machines=Machines("cpu"), overwrite=overwrite, say=said.append), said


def cheap_halo_error(network, window, halo, multiple):
    """A stand-in that takes what CFTN gives; the real one needs two passes over a large block."""
    assert (window, multiple) == (8, 8)
    assert {v.dtype for v in network.state_dict().values()} == {torch.float32}
    return {8: 0.0125, 16: 0.004}[halo]


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    """Folder of a finished job, the files it named, what it said."""
    folder = tmp_path_factory.mktemp("job")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(jobs, "halo_error", cheap_halo_error)
        files, said = go(recipe, folder / "models" / "new")
    return folder, files, said


@pytest.fixture
def at_work(trained, monkeypatch):
    """In the job's folder, with its models in the list."""
    monkeypatch.chdir(trained[0])
    monkeypatch.setattr("napari_mrsr.zoo.models.user_weights_folder", lambda: trained[0] / "models" / "new")
    return trained


def test_a_job_writes_weights_and_card(trained, recipe):
    _, files, said = trained
    assert [p.name for p in files] == ["tiny.safetensors", "tiny.json", "tiny.md"]
    assert sorted(p.name for p in files[0].parent.iterdir()) == ["tiny.json", "tiny.md", "tiny.safetensors"]
    card = json.loads(files[1].read_text())
    assert card["sha256"] == sha256_of(files[0])
    assert card["size"] == files[0].stat().st_size
    assert (card["scale"], card["protocol"], card["uses_noise"], card["seed"], card["recipe_hash"]) == (2, "gaussian", True, 5, recipe.hash)
    assert card["summary"] == "A test."
    assert card["domain"] == {"contrasts": ["T1w"], "voxel_size": [1.8, 2.4], "other_voxel_size": None, "noise": [0.0, 4.0]}
    assert card["data"] == [
        {"subject": "ann", "file": "sub-ann_T1w.nii.gz", "licence": "PDDL-1.0", "use": "train"},
        {"subject": "bob", "file": "sub-bob_T1w.nii.gz", "licence": "", "use": "train"},
        {"subject": "cy", "file": "sub-cy_T1w.nii.gz", "licence": "", "use": "validation"},
    ]
    assert str(trained[0]) not in files[1].read_text()  # nobody's folders
    assert (card["window"], card["halo"], card["halo_error"], card["full_halo"]) == (8, 16, 0.004, 24)
    assert card["training"].startswith("4 steps in ")
    assert any("parameters, 2 training volumes" in line for line in said)
    assert any(line.startswith("step 4: validation") for line in said)


def test_the_checkpoint_lies_in_runs(trained, recipe):
    state = load_checkpoint(trained[0] / "runs" / f"tiny-{recipe.hash}.pt")
    assert state["step"] == 4


def test_a_trained_model_can_be_listed_loaded_and_run(at_work, data):
    assert "tiny" in [card.name for card in list_models()]
    card = get_card("tiny")
    assert sum(p.numel() for p in load_network(card).parameters()) == card.parameters
    low = degrade(read_volume(data / "test" / "sub-dee_T1w.nii.gz"), Degradation())
    result = super_resolve(low, "tiny")
    assert result.shape == tuple(2 * n for n in low.shape)
    assert result.record["run"]["weights_sha256"] == card.sha256
    assert not result.record["run"]["warnings"]
    assert np.corrcoef(result.data.ravel(), super_resolve(low, "cubic").data.ravel())[0, 1] > 0.9


def test_resuming_a_finished_job_writes_the_same_weights(at_work, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "halo_error", lambda *_: 0.0)
    files, _ = go(recipe, tmp_path, resume=True)
    again, first = load_file(files[0]), load_file(at_work[1][0])
    assert again.keys() == first.keys()
    assert all(torch.equal(again[key], first[key]) for key in first)


def test_a_model_may_keep_its_weights_in_half_precision(at_work, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "halo_error", lambda *_: 0.0)
    files, _ = go(recipe.model_copy(update={"storage": "float16"}), tmp_path, resume=True)
    stored, first = load_file(files[0]), load_file(at_work[1][0])
    assert {v.dtype for v in stored.values()} == {torch.float16}
    assert all(torch.equal(stored[key], first[key].half()) for key in first)
    assert files[0].stat().st_size < 0.7 * at_work[1][0].stat().st_size


def test_a_job_begins_with_given_weights_and_says_so(at_work, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "halo_error", lambda *_: 0.0)
    files, _ = go(recipe.model_copy(update={"name": "tuned", "start": "tiny", "steps": 1}), tmp_path)
    card = json.loads(files[1].read_text())
    assert card["training"].startswith(f"started from tiny, sha256 {get_card('tiny').sha256}; 1 steps in ")
    assert card["recipe"]["start"] == "tiny"
    again, _ = go(recipe.model_copy(update={"name": "again", "start": str(at_work[1][0]), "steps": 1}), tmp_path)
    assert json.loads(again[1].read_text())["recipe"]["start"] == "tiny.safetensors"
    assert str(at_work[0]) not in again[1].read_text()


def test_existing_files_are_kept_before_any_work(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.json").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        go(recipe, tmp_path)
    assert (tmp_path / "tiny.json").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.json"]


def test_an_output_that_is_a_file_is_refused(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").write_text("mine")
    with pytest.raises(MrsrError, match="models"):
        go(recipe, tmp_path / "models")


def test_a_job_that_fails_writes_nothing(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "make_card", lambda *_: (_ for _ in ()).throw(InputError("no card")))
    with pytest.raises(InputError, match="no card"):
        go(recipe, tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


# --- margins --------------------------------------------------------------------------------------------------------------------------


class Convolutions(nn.Module):
    """Reach of three voxels."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(*(nn.Conv3d(1, 1, 3, padding=1) for _ in range(3)), nn.Upsample(scale_factor=2))

    def forward(self, lr, reference=None, noise_level=None):
        return self.body(lr)


def test_halo_error_of_convolutions():
    torch.manual_seed(0)
    network = Convolutions()
    assert halo_error(network, None, 3, 1) < 1e-6
    assert halo_error(network, None, 4, 4) < 1e-6
    assert halo_error(network, None, 2, 1) > 1e-5
    assert halo_error(network, None, 1, 1) > halo_error(network, None, 2, 1)


def test_halo_error_sees_statistics_of_the_whole_input():
    torch.manual_seed(0)
    network = create("cftn", channels=4, blocks=1, mfem=(), ca_reduction=2)
    network.rcabs[0].attention.gate[0].weight.data *= 30
    assert halo_error(network, None, 8, 4) > 1e-6


# --- quality --------------------------------------------------------------------------------------------------------------------------


def test_evaluation_scores_the_model_and_every_classic_method(at_work, data):
    lines = list(evaluate_model("tiny", [data / "test" / "sub-dee_T1w.nii.gz"], [0.0, 3.0]))
    names = ["nearest", "cubic", "lanczos", "zero-fill", "back-projection", "tiny"]
    assert lines[0].split() == ["volume", "noise", *names]
    assert [line.split()[:2] for line in lines[1:]] == [["dee", "0%"], ["dee", "3%"]]
    scores = np.array([[float(v) for v in line.split()[2::3]] for line in lines[1:]])
    assert scores.shape == (2, 6)
    assert (scores[0] > scores[1]).all()  # noise costs
    assert scores[0, 4] > scores[0, 1] > scores[0, 0]


@pytest.mark.parametrize("name", ["test/sub-ann_T1w.nii.gz", "val/sub-cy_T1w.nii.gz"])
def test_people_the_model_knows_are_refused(at_work, data, name):
    with pytest.raises(InputError, match="was used to train or choose tiny"):
        list(evaluate_model("tiny", [data / name], [0.0]))


def test_the_table_goes_into_the_card_with_its_command(at_work, data):
    before = get_card("tiny")
    assert before.quality == ()
    lines = list(evaluate_model("tiny", [data / "test" / "sub-dee_T1w.nii.gz"], [0.0], "napari-mrsr evaluate tiny"))
    assert lines[-1].startswith("written: ")
    card = get_card("tiny")
    assert card.quality_command == "napari-mrsr evaluate tiny"
    (row,) = card.quality
    assert (row.subject, row.convention, row.protocol, row.noise) == ("dee", "mrsr-1", "gaussian x2", 0)
    assert set(row.psnr) == set(row.ssim) == {"nearest", "cubic", "lanczos", "zero-fill", "back-projection", "tiny"}
    assert f"{row.psnr['tiny']:.2f} / {row.ssim['tiny']:.4f}" in lines[1]
    assert card.model_copy(update={"quality": (), "quality_command": ""}) == before


def test_lines_that_a_card_lacks_are_added(at_work, data):
    paths, command = [data / "test" / "sub-dee_T1w.nii.gz"], "napari-mrsr evaluate tiny"
    list(evaluate_model("tiny", paths, [2.0], command))
    first = get_card("tiny").quality
    lines = list(evaluate_model("tiny", paths, [0.0, 2.0], command, missing=True))
    assert [line.split()[:2] for line in lines[1:-1]] == [["dee", "0%"]]
    both = get_card("tiny").quality
    assert [line.noise for line in both] == [0, 2]
    assert both[1:] == first
    assert list(evaluate_model("tiny", paths, [0.0, 2.0], command, missing=True)) == ["The card of tiny has these lines already."]


@pytest.mark.parametrize(
    ("wrong", "told"), [(32.9, ["Makes little use of its reference: somebody else's changes PSNR by -0.10 dB in the mean."]), (31.0, [])]
)
def test_a_card_says_where_a_wrong_reference_does_as_well(wrong, told):
    psnr = {"cubic": 30.0, "toy T1w": 33.0, "toy T1w of another": wrong}
    lines = [
        Quality(subject=s, convention="mrsr-1", protocol="kspace x4", noise=n, psnr=p, ssim=p)
        for s, n, p in (("bob", 0, psnr), ("bob", 3, {"cubic": 29.0, "toy T1w": 32.0}), ("eve", 0, psnr))
    ]
    assert list(_about_reference(lines)) == told


def test_a_method_without_weights_has_no_card_to_write(at_work, data):
    before = sorted(at_work[0].iterdir())
    with pytest.raises(InputError):
        list(evaluate_model("cubic", [data / "test" / "sub-dee_T1w.nii.gz"], [0.0], "napari-mrsr evaluate cubic"))
    assert sorted(at_work[0].iterdir()) == before


@pytest.mark.parametrize(("takes", "alone"), [("optional", ["toy alone"]), ("needed", [])])
def test_references_have_columns_and_so_has_a_wrong_one(make_volume, takes, alone):
    card = Card(name="toy", title="Toy", architecture="toy", weights="toy.safetensors", reference=takes)
    mine, other = ((make_volume(seed=s).replace(name=f"sub-{s}_T1w"), make_volume(seed=s + 5).replace(name=f"sub-{s}_FLAIR")) for s in (1, 2))
    study, stranger = Study(make_volume(), mine), Study(make_volume(), other)
    learned = [e for e in _entries(card, study, [stranger]) if e.model == "toy"]
    assert [e.name for e in learned] == [*alone, "toy T1w", "toy FLAIR", "toy T1w of another"]
    np.testing.assert_array_equal(learned[-1].reference.data, other[0].data.astype(np.float32))
    assert [e.name for e in _entries(card, study, []) if e.model == "toy"] == [*alone, "toy T1w", "toy FLAIR"]
    assert [e.name for e in _entries(card, study, [Study(make_volume(), other[1:])]) if e.model == "toy"][-1] == "toy FLAIR"


def test_a_wrong_reference_lies_centre_on_centre(make_volume):
    image, other = make_volume((8, 7, 5)), make_volume((4, 9, 5), seed=3)
    laid = _laid_over(other, image)
    assert laid.shape == image.shape
    np.testing.assert_array_equal(laid.affine, image.affine)
    np.testing.assert_array_equal(laid.data[2:6], other.data[:, 1:8].astype(np.float32))
    assert (laid.data[:2] == np.float32(other.data.min())).all()


def test_a_card_tells_what_its_starting_weights_have_seen(recipe):
    seen = TrainingData(subject="old", file="sub-old_T1w.nii.gz", licence="PDDL-1.0", use="train")
    done = SimpleNamespace(recipe=recipe, start=SimpleNamespace(data=(seen,)))
    assert {d.subject for d in jobs._data(done)} == {"old", "ann", "bob", "cy"}
