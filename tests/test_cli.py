from __future__ import annotations

import csv
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
import typer
import yaml
from safetensors.torch import load, load_file

import napari_mrsr
from napari_mrsr import cli
from napari_mrsr.errors import MrsrError
from napari_mrsr.io import read_sidecar, read_volume, sidecar_path, write_volume
from napari_mrsr.networks import create
from napari_mrsr.samples import read_sample
from napari_mrsr.volume import Volume
from napari_mrsr.zoo import WEIGHTS, Card, save_weights, sha256_of

COMMANDS = sorted(typer.main.get_command(cli.app).commands)
SHIPPED = (WEIGHTS / "cftn-x2.json").exists()
NETWORK = {"channels": 4, "blocks": 2, "ca_reduction": 2}


def add_model(folder, name="small", **changes):
    """A CFTN of random weights, as a user's own model."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    path = save_weights(create("cftn", 2, **NETWORK).state_dict(), folder / f"{name}.safetensors", {})
    card = Card(
        name=name, title=name, architecture="cftn", options=NETWORK, scale=2, protocol="gaussian", weights=path.name, window=8, halo=24,
        **{"sha256": sha256_of(path), **changes},
    )  # fmt: skip
    (folder / f"{name}.json").write_text(card.model_dump_json())


@pytest.fixture(scope="module")
def head(store):
    """A piece of the shipped head, odd sizes, stored in another axis order."""
    sample = read_sample("arc2017_T1w")
    crop = sample.crop([slice(55, 104), slice(110, 157), slice(130, 182)])
    return Volume(*store(crop.data.astype(np.int16), crop.affine, (2, 0, 1), (-1, 1, -1)), name="hr")


@pytest.fixture(scope="module")
def files(head, tmp_path_factory):
    """Truth, low resolution with its sidecar, and files that are wrong in one way each."""
    folder = tmp_path_factory.mktemp("files")
    write_volume(head, folder / "hr.nii.gz")
    low = napari_mrsr.degrade(read_volume(folder / "hr.nii.gz"), napari_mrsr.Degradation(noise=1, seed=2))
    write_volume(low, folder / "lr.nii.gz")
    write_volume(low.replace(data=np.full(low.shape, 7, np.float32)), folder / "flat.nii.gz", sidecar=False)
    far = head.affine.copy()
    far[:3, 3] += 500
    write_volume(head.replace(affine=far), folder / "far.nii.gz")
    data, affine = low.to_storage()
    nib.save(nib.Nifti1Image(np.stack([data, 2 * data], -1), affine), folder / "two.nii.gz")
    nib.save(nib.Nifti1Image(data[:, :, 0], affine), folder / "plane.nii.gz")
    (folder / "words.nii.gz").write_text("hello")
    (folder / "cut.nii.gz").write_bytes((folder / "hr.nii.gz").read_bytes()[:5000])
    shutil.copy(folder / "lr.nii.gz", folder / "told.nii.gz")
    (folder / "told.json").write_text("{")
    shutil.copy(folder / "lr.nii.gz", folder / "odd.nii.gz")
    (folder / "odd.json").write_text('{"napari_mrsr": {"degradation": {"protocol": "blur", "scale": 2}}}')
    return folder


@pytest.fixture
def place(files, tmp_path, monkeypatch):
    """A folder of one's own with links to the files, as the current folder; the model folder lies beside it."""
    here = tmp_path / "place"
    here.mkdir()
    for path in files.iterdir():
        shutil.copy(path, here / path.name)
    monkeypatch.chdir(here)
    monkeypatch.setattr("napari_mrsr.zoo.models.user_weights_folder", lambda: tmp_path / "models")
    monkeypatch.setattr("napari_mrsr.training.jobs.user_weights_folder", lambda: tmp_path / "models", raising=False)
    monkeypatch.setattr("napari_mrsr.inference.process.tune_process", lambda: None)
    return here


@pytest.fixture
def call(place, console):
    return console


@pytest.fixture
def done(call):
    """Run a command that must succeed; gives what it printed."""

    def command(*arguments):
        result = call(*arguments)
        assert result.code == 0, result.err
        return result.out

    return command


def contents(folder):
    """Everything below a folder, hidden files included."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def refused(call, place):
    """Run a command that must fail with one sentence, exit code 2, and every file as it was."""

    def command(fragment, *arguments):
        before = contents(place.parent)
        result = call(*arguments)
        assert "Traceback" not in result.err
        assert (result.code, len(result.err.splitlines())) == (2, 1), result.err
        assert result.err.startswith("napari-mrsr: ")
        assert result.err.endswith("\n")
        assert re.search(fragment, result.err), result.err
        assert contents(place.parent) == before

    return command


@contextmanager
def full_disk(size):
    """Files may not grow beyond some bytes, as on a disk that is full."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- the main job ---------------------------------------------------------------------------------------------------------------------


def test_from_degrading_to_the_figure(done, place):
    models = ["cubic", "back-projection", *(["cftn-x2"] if SHIPPED else [])]
    printed = done("degrade", "hr.nii.gz", "--protocol", "gaussian", "--scale", 2, "-o", "low.nii.gz").split()
    assert printed == ["low.nii.gz", "low.json"]
    for model in models:
        assert done("run", "low.nii.gz", "--model", model, "-o", f"{model}.nii.gz").split() == [f"{model}.nii.gz", f"{model}.json"]
    result = json.loads(done("compare", "hr.nii.gz", *(f"{m}.nii.gz" for m in models), "--json"))
    assert {"convention", "mask", "data_range", "region", "results", "ssim", "reference"} <= result.keys()
    assert (result["convention"], result["reference"]) == ("mrsr-1", "hr")
    assert result["data_range"] > 0
    assert result["region"]["upper"] == [48, 46, 52]
    assert [r["name"] for r in result["results"]] == models
    for r in result["results"]:
        assert {"name", "psnr", "ssim", "nmse"} <= r.keys()
        assert 15 < r["psnr"] < 60
        assert 0 < r["ssim"] < 1
        assert 0 < r["nmse"] < 1
        assert r["resampled"] is False
    psnr = [r["psnr"] for r in result["results"]]
    assert psnr == sorted(psnr)
    for name in ("figure.png", "figure.svg", "figure.pdf"):
        assert done("figure", "hr.nii.gz", f"{models[-1]}.nii.gz", "--lr", "low.nii.gz", "-o", name).split() == [name]
    starts = {name: (place / name).read_bytes()[:200] for name in ("figure.png", "figure.svg", "figure.pdf")}
    assert starts["figure.png"].startswith(b"\x89PNG")
    assert b"<?xml" in starts["figure.svg"]
    assert starts["figure.pdf"].startswith(b"%PDF")


def test_results_lie_over_their_source_in_its_order(done):
    done("degrade", "hr.nii.gz", "-o", "low.nii.gz")
    done("run", "low.nii.gz", "--model", "cubic", "-o", "sr.nii.gz")
    high, low, sr = (nib.load(f"{name}.nii.gz") for name in ("hr", "low", "sr"))
    assert nib.aff2axcodes(high.affine) == nib.aff2axcodes(low.affine) == nib.aff2axcodes(sr.affine) == ("I", "R", "P")
    assert high.shape == (52, 49, 47)
    assert low.shape == (26, 24, 23)
    assert sr.shape == (52, 48, 46)
    assert sr.get_data_dtype() == np.float32
    # First voxel edges coincide in the source's RAS view; flips put the uncovered remainder at the stored start.
    a, b, c = (read_volume(f"{name}.nii.gz") for name in ("hr", "low", "sr"))
    edges = [v.affine @ [-0.5, -0.5, -0.5, 1] for v in (a, b, c)]
    np.testing.assert_allclose(edges[1], edges[0], atol=1e-4)
    np.testing.assert_allclose(edges[2], edges[0], atol=1e-4)

    def likeness(shift):
        inner, moved = tuple(slice(4, 42) for _ in shift), tuple(slice(4 + s, 42 + s) for s in shift)
        return np.corrcoef(c.data[moved].ravel(), a.data[inner].ravel())[0, 1]

    assert max(itertools.product((-1, 0, 1), repeat=3), key=likeness) == (0, 0, 0)
    assert b"cubic x2 gaussian" in bytes(sr.header["descrip"])
    assert b"degraded: gaussian x2" in bytes(low.header["descrip"])


def test_run_and_compare_read_the_sidecar(done):
    done("degrade", "hr.nii.gz", "--protocol", "kspace", "--scale", 3, "--axis", "R", "--noise", 2, "--seed", 5, "-o", "low.nii.gz")
    degradation = read_sidecar("low.nii.gz")["degradation"]
    assert {k: degradation[k] for k in ("protocol", "scale", "axis", "noise", "seed")} == {
        "protocol": "kspace", "scale": 3, "axis": "R", "noise": 2, "seed": 5,
    }  # fmt: skip
    done("run", "low.nii.gz", "--model", "back-projection", "-o", "sr.nii.gz")
    run = read_sidecar("sr.nii.gz")["run"]
    assert (run["protocol"], run["scale"], run["axis"], run["noise_source"]) == ("kspace", [1, 3, 3], "R", "sidecar")
    assert read_sidecar("sr.nii.gz")["degradation"] == degradation
    assert "2D in slices across R (in-plane degradation kspace)" in json.loads(done("compare", "hr.nii.gz", "sr.nii.gz", "--json"))["ssim"]
    done("run", "low.nii.gz", "--model", "cubic", "--protocol", "bicubic", "--scale", 2, "--axis", "S", "-o", "other.nii.gz")
    run = read_sidecar("other.nii.gz")["run"]
    assert (run["protocol"], run["scale"], run["axis"]) == ("bicubic", [2, 2, 1], "S")


@pytest.mark.parametrize("letter", ["R", "L", "A", "P", "S", "I", "r", "p"])
def test_axes_are_anatomical(done, letter):
    axis = "RAS".find(letter.upper()) if letter.upper() in "RAS" else "LPI".find(letter.upper())
    done("degrade", "hr.nii.gz", "--protocol", "slice-profile", "--scale", 4, "--axis", letter, "-o", "low.nii.gz")
    high, low = read_volume("hr.nii.gz"), read_volume("low.nii.gz")
    assert low.shape == tuple(n // 4 if a == axis else n for a, n in enumerate(high.shape))
    assert read_sidecar("low.nii.gz")["degradation"]["axis"] == "RAS"[axis]
    sidecar_path("low.nii.gz").unlink()
    done("run", "low.nii.gz", "--model", "cubic", "--protocol", "slice-profile", "--scale", 4, "--axis", letter, "-o", "sr.nii.gz")
    assert read_volume("sr.nii.gz").shape == tuple(n // 4 * 4 if a == axis else n for a, n in enumerate(high.shape))


def test_noise_and_seed(done):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        done("degrade", "hr.nii.gz", "--noise", 3, "--seed", seed, "-o", f"{name}.nii.gz")
    done("degrade", "hr.nii.gz", "-o", "clean.nii.gz")
    a, b, c, clean = (read_volume(f"{name}.nii.gz").data for name in ("a", "b", "c", "clean"))
    np.testing.assert_array_equal(a, b)
    sigma = read_sidecar("a.nii.gz")["degradation"]["noise_sigma"]
    bright = clean > 5 * sigma
    assert (a - clean)[bright].std() == pytest.approx(sigma, rel=0.05)
    assert (a - c)[bright].std() == pytest.approx(np.sqrt(2) * sigma, rel=0.05)


def test_a_region_is_the_cropped_whole(done):
    done("run", "lr.nii.gz", "--model", "cubic", "-o", "whole.nii.gz")
    whole = read_volume("whole.nii.gz")
    middle = (whole.affine @ [20, 22, 24, 1])[:3]
    half = np.array([4, -3, 5])
    corners = [*(middle + half), *(middle - half)]  # any order
    done("run", "lr.nii.gz", "--model", "cubic", "--roi", ",".join(f"{v:.2f}" for v in corners), "-o", "part.nii.gz")
    part = read_volume("part.nii.gz")
    offset = napari_mrsr.grid.lattice_offset(whole.affine, part.affine, part.shape)
    assert offset is not None
    assert part.data.size < 0.1 * whole.data.size
    np.testing.assert_array_equal(part.data, whole.data[tuple(slice(o, o + n) for o, n in zip(offset, part.shape, strict=True))])


def test_like_gives_the_truths_own_lattice(done):
    done("degrade", "hr.nii.gz", "--protocol", "kspace", "-o", "low.nii.gz")
    done("run", "low.nii.gz", "--model", "cubic", "--like", "hr.nii.gz", "-o", "sr.nii.gz")
    high, sr = nib.load("hr.nii.gz"), nib.load("sr.nii.gz")
    assert sr.shape == high.shape
    np.testing.assert_allclose(sr.affine, high.affine, atol=1e-5)


def test_one_volume_of_several(done):
    for index in (0, 1):
        done("run", "two.nii.gz", "--index", index, "--model", "nearest", "-o", f"sr{index}.nii.gz")
    np.testing.assert_allclose(read_volume("sr1.nii.gz").data, 2 * read_volume("sr0.nii.gz").data, rtol=1e-6)
    done("degrade", "two.nii.gz", "--index", 1, "-o", "low.nii.gz")


def test_a_second_contrast_is_taken(done):
    done("run", "lr.nii.gz", "--model", "cubic", "--reference", "hr.nii.gz", "-o", "sr.nii.gz")


@pytest.mark.parametrize("options", [("--noise", 0), ("--noise", 2.5), ("--tile", 16), ("--device", "cpu")])
def test_other_options_reach_the_run(done, options):
    done("run", "lr.nii.gz", "--model", "back-projection", *options, "-o", "sr.nii.gz")
    assert read_sidecar("sr.nii.gz")["run"]["options"][options[0].removeprefix("--")] == options[1]


# --- compare, figure ------------------------------------------------------------------------------------------------------------------


def test_compare_prints_a_table_that_names_its_convention(done):
    done("run", "lr.nii.gz", "--model", "cubic", "-o", "sr.nii.gz")
    text = done("compare", "hr.nii.gz", "sr.nii.gz", "hr.nii.gz", "--convention", "volume-max")
    assert "convention volume-max | mask: none" in text
    assert "range: 0 to " in text
    assert re.search(r"^sr +\d+\.\d\d ", text, re.MULTILINE)
    assert re.search(r"^hr +inf\* ", text, re.MULTILINE)


def test_equal_images_are_null_in_json(done):
    result = json.loads(done("compare", "hr.nii.gz", "hr.nii.gz", "--json"), parse_constant=pytest.fail)
    assert result["results"][0]["psnr"] is None
    assert result["results"][0]["nmse"] == 0


def test_compare_within_a_mask(done, head):
    data, affine = head.to_storage()
    mask = np.zeros(data.shape, np.uint8)
    mask[10:40, 10:40, 10:40] = 1
    nib.save(nib.Nifti1Image(mask, affine), "mask.nii.gz")
    done("run", "lr.nii.gz", "--model", "cubic", "-o", "sr.nii.gz")
    masked, plain = (json.loads(done("compare", "hr.nii.gz", "sr.nii.gz", "--json", *more)) for more in (("--mask", "mask.nii.gz"), ()))
    assert masked["mask"] == "given mask mask"
    assert masked["results"][0]["psnr"] != plain["results"][0]["psnr"]


def test_compare_in_regions(done, head):
    done("run", "lr.nii.gz", "--model", "cubic", "-o", "sr.nii.gz")
    middle = head.affine[:3, :3] @ (np.array(head.shape) // 2) + head.affine[:3, 3]
    box = ",".join(f"{v:.1f}" for v in (*(middle - 8), *(middle + 8)))

    def scores(*more):
        return json.loads(done("compare", "hr.nii.gz", "sr.nii.gz", "--json", *more))

    whole, roi = scores(), scores(f"--roi={box}")
    up, down = scores("--slice", f"A={middle[1]:.1f}"), scores("--slice", f"P={-middle[1]:.1f}")
    assert whole["data_range"] == roi["data_range"] == up["data_range"]
    assert roi["region"]["description"].startswith("box (")
    assert up["region"]["description"].startswith(f"slice A = {middle[1]:.1f} mm (voxel {head.shape[1] // 2})")
    assert up["results"] == down["results"]
    assert len({r["results"][0]["psnr"] for r in (whole, roi, up)}) == 3


def test_compare_writes_tables(done):
    for model in ("cubic", "nearest"):
        done("run", "lr.nii.gz", "--model", model, "-o", f"{model}.nii.gz")
    files = ("--per-slice", "slices.csv", "--axis", "R", "--csv", "table.csv", "--latex", "table.tex")
    text = done("compare", "hr.nii.gz", "cubic.nii.gz", "nearest.nii.gz", "--bootstrap", "--convention", "fastmri", *files)
    assert text.split()[-3:] == ["slices.csv", "table.csv", "table.tex"]
    assert re.search(r"^cubic +\d+\.\d\d \[\d+\.\d\d, \d+\.\d\d\]\*", text, re.MULTILINE)
    with open("slices.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["axis"], row["convention"]) for row in rows} == {("R", "fastmri")}
    assert len(rows) == 2 * 48
    with open("table.csv") as stream:
        cubic, _ = csv.DictReader(stream)
    assert float(cubic["psnr_db_low"]) < float(cubic["psnr_db"]) < float(cubic["psnr_db_high"])
    with open("table.tex") as stream:
        assert "\\toprule" in stream.read()


def test_compare_tissue(done):
    done("run", "lr.nii.gz", "--model", "cubic", "-o", "sr.nii.gz")
    done("run", "lr.nii.gz", "--model", "nearest", "-o", "nearest.nii.gz")
    result = json.loads(done("compare", "hr.nii.gz", "sr.nii.gz", "nearest.nii.gz", "--tissue", "--mask", "hr.nii.gz", "--json"))
    cubic, nearest = (r["dice"] for r in result["results"])
    assert 0.5 < nearest["mean"] < cubic["mean"] < 1
    assert any("dipy" in note and "T1" in note for note in result["notes"])


def test_compare_writes_maps(done):
    done("run", "lr.nii.gz", "--model", "cubic", "-o", "sr.nii.gz")
    paths = json.loads(done("compare", "hr.nii.gz", "sr.nii.gz", "--maps", "maps", "--json"))["maps"]
    assert sorted(os.listdir("maps")) == sorted(os.path.basename(p) for p in paths)
    assert {"sr_error-signed.nii.gz", "sr_error-absolute.nii.gz", "sr_error-squared.nii.gz", "sr_gradient.nii.gz", "hr_gradient.nii.gz"} <= set(
        os.listdir("maps")
    )
    signed, absolute = read_volume("maps/sr_error-signed.nii.gz"), read_volume("maps/sr_error-absolute.nii.gz")
    np.testing.assert_array_equal(np.abs(signed.data), absolute.data)


def test_maps_of_candidates_with_the_same_file_name_are_all_kept(done):
    for folder, model in (("a", "cubic"), ("b", "nearest")):
        os.mkdir(folder)
        done("run", "lr.nii.gz", "--model", model, "-o", f"{folder}/sr.nii.gz")
    done("compare", "hr.nii.gz", "a/sr.nii.gz", "b/sr.nii.gz", "--maps", "maps")
    assert len([name for name in os.listdir("maps") if "error-signed" in name]) == 2


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_figure_options(done, head, plane):
    centre = head.affine[:3, :3] @ (np.array(head.shape) / 2) + head.affine[:3, 3]
    zoom = ",".join(f"{v:.1f}" for v in (*(centre - 6), *(centre + 6)))
    position = centre[{"axial": 2, "coronal": 1, "sagittal": 0}[plane]]
    done("figure", "hr.nii.gz", "hr.nii.gz", "--lr", "lr.nii.gz", "--plane", plane, "--position", f"{position:.1f}", "--zoom", zoom, "-o", "f.png")
    assert os.path.getsize("f.png") > 20_000


# --- models, info, help ---------------------------------------------------------------------------------------------------------------


def test_models_are_listed(done, tmp_path):
    add_model(tmp_path / "models")
    names = [entry["name"] for entry in json.loads(done("models", "--json"))["models"]]
    assert {"small", "nearest", "cubic", "lanczos", "zero-fill", "back-projection"} <= set(names)
    assert ("cftn-x2" in names) == SHIPPED
    lines = done("models").splitlines()
    assert [line.split()[0] for line in lines] == names
    assert lines[names.index("small")].split()[1] == "x2"
    assert lines[names.index("cubic")].split()[1] == "any"


def test_a_users_own_model_runs(done, tmp_path):
    add_model(tmp_path / "models")
    done("run", "lr.nii.gz", "--model", "small", "-o", "sr.nii.gz")
    assert read_sidecar("sr.nii.gz")["run"]["model"] == "small"


def test_info_names_versions_and_devices(done):
    facts = dict(line.split(": ", 1) for line in done("info").splitlines())
    assert facts["torch"] == torch.__version__
    assert facts["napari-mrsr"] == napari_mrsr.__version__
    assert {"python", "platform", "napari", "numpy", "device cpu", "OpenGL"} <= facts.keys()


def test_version(done):
    assert done("--version") == f"napari-mrsr {napari_mrsr.__version__}\n"


def test_without_arguments_there_is_help(call):
    result = call()
    text = result.out + result.err
    for command in COMMANDS:
        assert command in text


def test_the_commands():
    assert COMMANDS == ["check", "compare", "degrade", "demo", "evaluate", "figure", "info", "look", "models", "run", "train", "trust"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(done, command):
    text = " ".join(done(command, "--help").split())
    assert f"Example: napari-mrsr {command}" in text


# --- demo -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_sample(monkeypatch, head):
    monkeypatch.setattr("napari_mrsr.samples.read_sample", lambda name: head.replace(name=name))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there is always a screen")
def test_demo_without_a_screen_writes_files(done, small_sample):
    model = "cftn-x2" if SHIPPED else "nearest"
    printed = done("demo", "--model", model)
    paths = [line for line in printed.splitlines() if line.startswith("out/")]
    assert all(os.path.getsize(p) > 100 for p in paths)
    names = {os.path.relpath(p, "out") for p in paths}
    expected = {f"{n}.nii.gz" for n in ("LR", "cubic", "back-projection", model)} | {"figure.png", "figure.pdf", "metrics.json", "metrics.csv"}
    assert expected | {f"maps/{model}_error-signed.nii.gz", "maps/HR_gradient.nii.gz"} <= names
    assert "convention mrsr-1" in printed
    assert done("demo", "--model", "nearest", "--no-window").count("out-2/") == len(paths)


def test_demo_into_a_named_folder(done, small_sample):
    done("demo", "--no-window", "--model", "nearest", "-o", "shown")
    assert os.path.exists("shown/figure.png")


@pytest.mark.parametrize("model", ["cubic", "back-projection"])
def test_demo_of_a_method_it_shows_anyway(done, small_sample, model):
    done("demo", "--no-window", "--model", model, "-o", "shown")
    assert os.path.exists("shown/figure.png")


def test_demo_keeps_what_is_there(refused, small_sample, place):
    (place / "shown").mkdir()
    (place / "shown" / "mine.txt").write_text("mine")
    refused("not empty", "demo", "--no-window", "-o", "shown")


def test_demo_into_a_file_is_refused_before_any_work(refused, small_sample):
    refused("hr.nii.gz", "demo", "--no-window", "-o", "hr.nii.gz")


# --- train, evaluate ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(place, make_volume, monkeypatch):
    """A YAML recipe with data beside it."""
    monkeypatch.setattr("napari_mrsr.training.jobs.halo_error", lambda *_: 0.0)
    for number, name in enumerate(("train/sub-ann", "val/sub-cy", "test/sub-dee")):
        (place / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        write_volume(make_volume((26, 27, 28), sigma=1.2, seed=number), place / "data" / f"{name}_T1w.nii.gz")
    content = {
        "name": "tiny",
        "network": {"name": "cftn", "options": NETWORK},
        "degradation": {"protocol": "gaussian", "scale": 2},
        "data": {"train": ["train"], "validation": ["val"]},
        "patches": {"size": 6, "batch": 1, "margin": 3},
        "steps": 50,
        "validate_every": 2,
        "validation_crop": 8,
    }
    (place / "tiny.yaml").write_text(yaml.safe_dump(content))
    return "tiny.yaml"


def test_train_then_evaluate(done, call, recipe, place, tmp_path):
    common = ("train", recipe, "--data", "data", "--steps", 4, "--device", "cpu")
    printed = done(*common).split()
    assert printed == [str(tmp_path / "models" / f"tiny{suffix}") for suffix in (".safetensors", ".json", ".md")]
    assert "tiny" in done("models")
    before = contents(tmp_path / "models")
    result = call(*common)
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert "exists already" in result.err
    assert contents(tmp_path / "models") == before
    done(*common, "--overwrite", "--resume")
    again, first = load_file(tmp_path / "models" / "tiny.safetensors"), load(before["tiny.safetensors"])
    assert all(torch.equal(again[key], first[key]) for key in first)
    done(*common, "--seed", 7, "-o", "seven")
    other = load_file(place / "seven" / "tiny.safetensors")
    assert not all(torch.equal(other[key], first[key]) for key in first)
    assert json.loads((place / "seven" / "tiny.json").read_text())["seed"] == 7
    table = done("evaluate", "tiny", "--data", "data/test/sub-dee_T1w.nii.gz", "--noise", 0, "--noise", 2, "--card").splitlines()
    assert table[0].split()[-1] == "tiny"
    assert len(table) == 4
    card = json.loads((tmp_path / "models" / "tiny.json").read_text())
    assert [q["noise"] for q in card["quality"]] == [0, 2]
    assert card["quality_command"] == "napari-mrsr evaluate tiny --data sub-dee_T1w.nii.gz --noise 0 --noise 2"


def test_train_refuses_with_a_sentence(refused, recipe, place):
    (place / "broken.yaml").write_text("a: [1")
    (place / "odd.yaml").write_text("name: odd\ncolour: red\n")
    refused("nothing.yaml does not exist", "train", "nothing.yaml")
    refused("broken.yaml is not a YAML file", "train", "broken.yaml")
    refused("odd.yaml, field ", "train", "odd.yaml")


def test_train_into_a_file_is_refused(refused, recipe):
    refused("hr.nii.gz", "train", recipe, "--data", "data", "--device", "cpu", "-o", "hr.nii.gz")


@pytest.mark.parametrize("device", ["abacus", "cuda:7"])
def test_train_on_a_device_that_is_not_there_is_refused(call, recipe, device):
    result = call("train", recipe, "--data", "data", "--device", device, "-o", ".")
    assert (result.code, len(result.err.splitlines())) == (2, 1), result.err
    assert device in result.err


def test_evaluate_refuses_with_a_sentence(refused):
    refused("Unknown model 'espcn'", "evaluate", "espcn", "--data", "hr.nii.gz")


# --- bad input ------------------------------------------------------------------------------------------------------------------------

RUN = ("run", "lr.nii.gz", "--model", "cubic")
FIGURE = ("figure", "hr.nii.gz", "hr.nii.gz", "--lr", "lr.nii.gz")
TO = ("-o", "new.nii.gz")


@pytest.mark.parametrize(
    ("fragment", "arguments"),
    [
        ("nothing.nii.gz does not exist", ("degrade", "nothing.nii.gz", *TO)),
        ("nothing.nii.gz does not exist", ("run", "nothing.nii.gz", *TO)),
        ("nothing.nii.gz does not exist", (*RUN, "--like", "nothing.nii.gz", *TO)),
        ("nothing.nii.gz does not exist", ("compare", "hr.nii.gz", "nothing.nii.gz")),
        ("nothing.nii.gz does not exist", ("figure", "hr.nii.gz", "hr.nii.gz", "--lr", "nothing.nii.gz", "-o", "f.png")),
        ("words.nii.gz: not a readable", ("run", "words.nii.gz", *TO)),
        ("cut.nii.gz: ", ("run", "cut.nii.gz", *TO)),
        ("plane.nii.gz: a 2D image", ("run", "plane.nii.gz", *TO)),
        ("two.nii.gz: holds 2 volumes.*--index", ("run", "two.nii.gz", *TO)),
        ("two.nii.gz: holds 2 volumes.*--index", ("degrade", "two.nii.gz", *TO)),
        ("two.nii.gz: there is no volume 2", ("run", "two.nii.gz", "--index", 2, *TO)),
        ("told.json cannot be read as JSON", ("run", "told.nii.gz", *TO)),
        ("Unknown protocol 'blur'", ("run", "odd.nii.gz", "--model", "cubic", *TO)),
        ("lr.nii.gz exists already", (*RUN, "-o", "lr.nii.gz")),
        ("lr.nii.gz exists already", ("degrade", "hr.nii.gz", "-o", "lr.nii.gz")),
        ("hr.nii.gz exists already", (*FIGURE, "-o", "hr.nii.gz")),
        ("folder .*nowhere does not exist", (*RUN, "-o", "nowhere/new.nii.gz")),
        ("is a folder", (*RUN, "-o", ".")),
        ("unknown image type", ("degrade", "hr.nii.gz", "-o", "new.txt")),
        ("unknown image type", (*RUN, "-o", "new.txt")),
        ("unknown figure type", (*FIGURE, "-o", "f.txt")),
        ("lies outside", (*RUN, "--roi", "900,900,900,910,910,910", *TO)),
        ("six numbers", (*RUN, "--roi", "1,2,3", *TO)),
        ("six numbers", (*RUN, "--roi", "a,b,c,d,e,f", *TO)),
        ("region is empty", (*RUN, "--roi", "1,2,3,1,5,6", *TO)),
        ("defined for factors 2, 3, 4, not 7", ("degrade", "hr.nii.gz", "--scale", 7, *TO)),
        ("Option scale", (*RUN, "--scale", 9, *TO)),
        ("Unknown protocol 'blur'", ("degrade", "hr.nii.gz", "--protocol", "blur", *TO)),
        ("Unknown protocol 'blur'", (*RUN, "--protocol", "blur", *TO)),
        ("Unknown axis 'Z'", ("degrade", "hr.nii.gz", "--axis", "Z", *TO)),
        ("Unknown axis 'Z'", (*RUN, "--axis", "Z", *TO)),
        ("Unknown model 'espcn'", ("run", "lr.nii.gz", "--model", "espcn", *TO)),
        ("exists already", ("compare", "hr.nii.gz", "hr.nii.gz", "--csv", "hr.nii.gz")),
        ("unknown table type; end the name in .csv", ("compare", "hr.nii.gz", "hr.nii.gz", "--csv", "t.txt")),
        ("Slice 'S' is not an axis and a number", ("compare", "hr.nii.gz", "hr.nii.gz", "--slice", "S")),
        ("Unknown axis 'Q'", ("compare", "hr.nii.gz", "hr.nii.gz", "--slice", "Q=3")),
        ("There is no slice at S = 9999 mm", ("compare", "hr.nii.gz", "hr.nii.gz", "--slice", "S=9999")),
        ("lies outside", ("compare", "hr.nii.gz", "hr.nii.gz", "--roi", "900,900,900,950,950,950")),
        ("Unknown convention", ("compare", "hr.nii.gz", "hr.nii.gz", "--convention", "mine")),
        ("Device 'cuda:7' is not available", (*RUN, "--device", "cuda:7", *TO)),
        ("noise", ("degrade", "hr.nii.gz", "--noise", 101, *TO)),
        ("Option noise", (*RUN, "--noise", -1, *TO)),
        ("Option tile", (*RUN, "--tile", 2, *TO)),
        ("all voxels have the same value", ("run", "flat.nii.gz", "--model", "cubic", *TO)),
        ("all voxels have the same value", ("degrade", "flat.nii.gz", *TO)),
        ("all voxels have the same value", ("compare", "hr.nii.gz", "flat.nii.gz")),
        ("all voxels have the same value", ("compare", "flat.nii.gz", "hr.nii.gz")),
        ("do not overlap", ("compare", "hr.nii.gz", "far.nii.gz")),
        ("do not overlap", ("compare", "hr.nii.gz", "far.nii.gz", "--maps", "maps")),
        ("overlap", (*RUN, "--like", "far.nii.gz", *TO)),
        ("holds no voxel", ("compare", "hr.nii.gz", "hr.nii.gz", "--mask", "far.nii.gz")),
    ],
)
def test_bad_input_is_one_sentence(refused, fragment, arguments):
    refused(fragment, *arguments)


@pytest.mark.parametrize("arguments", [("compare", "hr.nii.gz", "two.nii.gz"), ("compare", "two.nii.gz", "hr.nii.gz"), ("run", "two.nii.gz", *TO)])
def test_advice_can_be_followed(refused, call, arguments):
    """An option named in a sentence is one the command has."""
    refused("two.nii.gz: holds 2 volumes", *arguments)
    advised = set(re.findall(r"--[a-z]+", call(*arguments).err))
    assert advised <= set(re.findall(r"--[a-z]+", call(arguments[0], "--help").out))


@pytest.mark.parametrize(
    ("fragment", "arguments"),
    [
        ("do not overlap", ("hr.nii.gz", "hr.nii.gz", "--lr", "far.nii.gz")),
        ("Unknown plane 'diagonal'", (*FIGURE[1:], "--plane", "diagonal")),
        ("9999 mm", (*FIGURE[1:], "--position", 9999)),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_one_sentence(call, place, fragment, arguments):
    """The cubic interpolation it makes may say so before."""
    before = contents(place)
    result = call("figure", *arguments, "-o", "f.png")
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("napari-mrsr: ")
    assert fragment in result.err.splitlines()[-1]
    assert "Traceback" not in result.err
    assert contents(place) == before


def test_an_existing_sidecar_is_refused_before_the_run(refused, place):
    """BIDS data have a JSON file of that name beside the image already."""
    (place / "new.json").write_text('{"EchoTime": 0.003}')
    refused("new.json exists already", *RUN, *TO)


def test_a_wrong_checksum_is_one_sentence(refused, tmp_path):
    models = tmp_path / "models"
    add_model(models)
    weights = models / "small.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused("small.safetensors is damaged or was changed: its sha256", "run", "lr.nii.gz", "--model", "small", *TO)


@pytest.mark.parametrize("change", [{"scale": "two"}, {"colour": "red"}])
def test_a_broken_card_is_one_sentence(refused, tmp_path, change):
    add_model(tmp_path / "models")
    path = tmp_path / "models" / "small.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    refused("Model card small.json, field ", "run", "lr.nii.gz", "--model", "small", *TO)


@pytest.mark.parametrize("options", [("--scale", 3), ("--protocol", "kspace")])
def test_what_a_network_was_not_trained_for_is_refused(refused, tmp_path, options):
    add_model(tmp_path / "models")
    refused("small ", "run", "lr.nii.gz", "--model", "small", *options, *TO)


def test_far_voxel_sizes_are_warned_of(call, tmp_path):
    add_model(tmp_path / "models", domain={"voxel_size": (0.5, 0.9)})
    result = call("run", "lr.nii.gz", "--model", "small", *TO)
    assert result.code == 0
    assert re.search(r"warning: red: Voxels of 2\.00 x 2\.00 x 2\.00 mm are far from the 0\.50 to 0\.90 mm", result.err)


def test_a_full_disk_is_one_sentence(call, place):
    """The real thing: writing fails half way through."""
    before = contents(place)
    with full_disk(3000):
        result = call("degrade", "hr.nii.gz", *TO)
    assert (result.code, len(result.err.splitlines())) == (2, 1), result.err
    assert result.err.startswith("napari-mrsr: ")
    assert contents(place) == before


def test_a_disk_that_fills_up_between_maps_leaves_only_whole_ones(call, place):
    (place / "maps").mkdir()
    with full_disk(3000):
        result = call("compare", "hr.nii.gz", "hr.nii.gz", "--maps", "maps")
    assert (result.code, len(result.err.splitlines())) == (2, 1), result.err
    for path in (place / "maps").iterdir():
        assert read_volume(path).shape == read_volume("hr.nii.gz").shape


@pytest.mark.parametrize("name", ["f.png", "f.svg", "f.pdf"])
def test_a_disk_too_full_for_the_figure_is_one_sentence(call, place, name):
    before = contents(place)
    with full_disk(3000):
        result = call(*FIGURE, "-o", name)
    assert (result.code, result.err.splitlines()[-1][:13]) == (2, "napari-mrsr: "), result.err
    assert "Traceback" not in result.err
    assert contents(place) == before


def test_too_little_space_is_told_before_writing(refused, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10, used=0, free=10))
    refused("0 MiB free, new.nii.gz needs about", "degrade", "hr.nii.gz", *TO)


def test_no_permission_is_one_sentence(refused, monkeypatch, place):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
    refused("No permission to write into", "degrade", "hr.nii.gz", *TO)
    refused("No permission to write into", *RUN, *TO)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_closed_folder_is_one_sentence(refused, place):
    (place / "closed").mkdir(mode=0o500)
    refused("No permission to write into", *RUN, "-o", "closed/new.nii.gz")


def test_overwrite_replaces_image_and_sidecar(done, refused, place):
    done(*RUN, *TO)
    first = contents(place)
    refused("new.nii.gz exists already", "run", "lr.nii.gz", "--model", "nearest", *TO)
    done("run", "lr.nii.gz", "--model", "nearest", "--overwrite", *TO)
    changed = {name for name, data in contents(place).items() if data != first.get(name)}
    assert changed == {"new.nii.gz", "new.json"}
    assert read_sidecar("new.nii.gz")["run"]["model"] == "nearest"
    done("degrade", "hr.nii.gz", "--overwrite", *TO)
    assert "run" not in read_sidecar("new.nii.gz")
    done(*FIGURE, "-o", "f.png")
    refused("f.png exists already", *FIGURE, "-o", "f.png")
    done(*FIGURE, "-o", "f.png", "--overwrite")
    done("compare", "hr.nii.gz", "lr.nii.gz", "--maps", "maps")
    refused("exists already", "compare", "hr.nii.gz", "lr.nii.gz", "--maps", "maps")
    done("compare", "hr.nii.gz", "lr.nii.gz", "--maps", "maps", "--overwrite")


def test_a_run_that_fails_leaves_nothing(call, place, monkeypatch):
    before = contents(place)

    def broken(*_, **__):
        raise MrsrError("the network gave up\nhalf way")
        yield

    monkeypatch.setattr("napari_mrsr.inference.engine.run", broken)
    result = call(*RUN, *TO)
    assert (result.code, result.err) == (2, "napari-mrsr: the network gave up half way\n")
    assert contents(place) == before


# --- as a process ---------------------------------------------------------------------------------------------------------------------


def start(*arguments, module="napari_mrsr", **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def test_exit_codes_of_the_process(place):
    good, bad = start("degrade", "hr.nii.gz", *TO), start("run", "nothing.nii.gz", "-o", "other.nii.gz")
    out, err = good.communicate(timeout=60)
    assert (good.returncode, out.split()) == (0, ["new.nii.gz", "new.json"])
    out, err = bad.communicate(timeout=60)
    assert (bad.returncode, out, err) == (2, "", "napari-mrsr: nothing.nii.gz does not exist.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupt_stops_inside_a_tile_with_130(place, tmp_path, make_volume):
    home = tmp_path / "home"
    add_model(home / "napari-mrsr" / "weights")
    write_volume(make_volume((120, 120, 96), (2, 2, 2)), place / "large.nii.gz")
    before = contents(place)
    # A shell's background jobs ignore interrupts, and what they start would too.
    process = start(
        "run", "large.nii.gz", "--model", "small", *TO, env={"XDG_DATA_HOME": str(home)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    for line in process.stderr:
        if "1 tile of" in line:
            break
    # Long before a whole tile could end.
    threading.Timer(0.5, process.send_signal, [signal.SIGINT]).start()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("napari-mrsr: ")
    assert out == ""
    assert contents(place) == before
