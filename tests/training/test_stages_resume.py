from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_stages import FDVIT, losses, of

from napari_mrsr.errors import InputError, OutputError
from napari_mrsr.training.loop import Noticed, StageDone, StageScored, StageStarted, StepDone, TrainingDone, ValidationDone, train

# --- never lost -----------------------------------------------------------------------------------------------------------------------


def assert_same_end(events, expected):
    """All that came is as in the run that was never stopped."""
    found, whole = losses(events), losses(expected)
    assert found == {key: whole[key] for key in found}
    assert ("super-resolution", 4) in found
    assert (events[-1].psnr, events[-1].stages) == (expected[-1].psnr, expected[-1].stages)
    assert all(torch.equal(events[-1].weights[k], v) for k, v in expected[-1].weights.items())


@pytest.mark.parametrize(
    ("kind", "stage", "step"), [("fdvit", "vit", 5), ("fdvit", "disentangle", 4), ("fdvit", "super-resolution", 3), ("transmrsr", "prior", 5)]
)
def test_a_stage_goes_on_as_if_never_stopped(recipe, undisturbed, tmp_path, kind, stage, step):
    now = ""
    for event in train(recipe(kind), tmp_path / "state.pt", accelerator="cpu"):
        now = event.name if isinstance(event, StageStarted) else now
        if isinstance(event, StepDone) and (now, event.step) == (stage, step):
            break
    torch.manual_seed(7)  # whatever happened in between
    events = list(train(recipe(kind), tmp_path / "state.pt", True, accelerator="cpu"))
    begun = {e.name: e.first_step for e in of(events, StageStarted)}
    assert begun[stage] == {"super-resolution": 2}.get(stage, 3)
    assert_same_end(events, undisturbed(kind)[1])


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_kill_while_a_checkpoint_is_written_loses_nothing(recipe, undisturbed, tmp_path):
    """The process dies half-way through the second checkpoint of a stage with two networks."""
    code = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from napari_mrsr.training import checkpoint
from napari_mrsr.training.loop import train
from napari_mrsr.training.recipe import Recipe
written, whole = [], Path.write_bytes
def write(path, content):
    if path.name.startswith("disentangle") and path.suffix == ".pt":
        written.append(path)
        if len(written) == 2:
            whole(path, bytes(content)[:100])
            os.kill(os.getpid(), signal.SIGKILL)
    return whole(path, content)
Path.write_bytes = write
for event in train(Recipe.model_validate_json(sys.argv[1]), Path(sys.argv[2]), accelerator="cpu"):
    pass
"""
    plan, checkpoint = recipe("fdvit"), tmp_path / "state.pt"
    done = subprocess.run([sys.executable, "-c", code, plan.model_dump_json(), str(checkpoint)], timeout=200, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-1000:]
    assert any(p.name.startswith(".disentangle") for p in tmp_path.iterdir())
    events = list(train(plan, checkpoint, True, accelerator="cpu"))
    assert {e.name: e.first_step for e in of(events, StageStarted)} == {"vit": 6, "disentangle": 3, "super-resolution": 0}
    assert_same_end(events, undisturbed("fdvit")[1])
    assert not any(p.name.startswith(".") for p in tmp_path.iterdir())


def test_finished_stages_are_skipped_also_for_another_factor(recipe, undisturbed):
    folder, before = undisturbed("fdvit")
    network = {**FDVIT["network"], "scale": 4}
    plan = recipe("fdvit", network=network, degradation={"protocol": "bicubic", "scale": 4}, patches={"size": 4, "batch": 2}, steps=1)
    events = list(train(plan, folder / "other.pt", accelerator="cpu"))
    assert {stage for stage, _ in losses(events)} == {"super-resolution"}
    assert events[-1].stages == before[-1].stages
    assert [(e.name, e.first_step) for e in of(events, StageStarted)] == [("vit", 6), ("disentangle", 6), ("super-resolution", 0)]


def test_an_unfinished_stage_is_not_overwritten_silently(recipe, tmp_path):
    events = train(recipe("fdvit"), tmp_path / "state.pt", accelerator="cpu")
    while not isinstance(next(events), StageScored):
        pass
    events.close()
    with pytest.raises(OutputError, match=r"vit-\w+\.pt holds a training by this name already; go on with it \(--resume\)"):
        list(train(recipe("fdvit"), tmp_path / "state.pt", accelerator="cpu"))


def test_another_result_before_is_noticed(recipe, undisturbed, tmp_path):
    folder, events = undisturbed("fdvit")
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    vit = tmp_path / of(events, StageDone)[0].path.name
    save_file({k: v + 1 for k, v in load_file(vit).items()}, vit)
    with pytest.raises(InputError, match="The result of stage vit changed since this training began; begin anew"):
        list(train(recipe("fdvit"), tmp_path / "state.pt", True, accelerator="cpu"))


def test_a_damaged_result_is_named(recipe, undisturbed, tmp_path):
    path = of(undisturbed("fdvit")[1], StageDone)[0].path
    (tmp_path / path.name).write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"is damaged .*; delete it, and the stage vit is trained again"):
        list(train(recipe("fdvit"), tmp_path / "state.pt", accelerator="cpu"))


def test_one_stage_alone(recipe, undisturbed, tmp_path):
    plan = recipe("transmrsr")
    with pytest.raises(InputError, match=r"Stage centroids needs the result of stage prior; train that first \(--stage prior\)"):
        list(train(plan, tmp_path / "state.pt", accelerator="cpu", stage="centroids"))
    for name in ("prior", "centroids"):
        events = list(train(plan, tmp_path / "state.pt", accelerator="cpu", stage=name))
        assert events[-1].name == name
    expected = {e.name: e.sha256 for e in of(undisturbed("transmrsr")[1], StageDone)}
    assert events[-1].sha256 == expected["centroids"]
    with pytest.raises(InputError, match="no stage 'vit'; its stages are prior, centroids, super-resolution"):
        list(train(plan, tmp_path / "state.pt", accelerator="cpu", stage="vit"))


def test_cancelled_in_a_stage_keeps_its_checkpoint(recipe, tmp_path):
    count = []

    def cancelled():
        count.append(1)
        return len(count) > 4

    events = list(train(recipe("fdvit"), tmp_path / "state.pt", cancelled=cancelled, accelerator="cpu"))
    assert not of(events, (TrainingDone, StageDone, ValidationDone, Noticed))
    assert [p.name.split("-")[0] for p in tmp_path.glob("*.pt")] == ["vit"]


def test_without_files_everything_stays_in_memory(recipe, undisturbed):
    events = list(train(recipe("fdvit"), accelerator="cpu"))
    assert losses(events) == losses(undisturbed("fdvit")[1])
    assert all(e.path is None for e in of(events, StageDone))
