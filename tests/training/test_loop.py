from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from tiny_loop import losses, run, tiny_recipe, write_people

from napari_mrsr.errors import InputError, OutputError
from napari_mrsr.training.checkpoint import load_checkpoint, save_checkpoint
from napari_mrsr.training.loop import StepDone, TrainingDone, TrainingStarted, ValidationDone, train
from napari_mrsr.training.recipe import Recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_volume):
    return write_people(tmp_path_factory.mktemp("data"), make_volume)


@pytest.fixture
def recipe(data):
    return partial(tiny_recipe, data)


def assert_same_end(events, expected, first):
    """From step `first` on, everything is as in the run that was never stopped."""
    assert losses(events) == {step: terms for step, terms in losses(expected).items() if step > first}
    scores = {e.step: (e.psnr, e.best) for e in events if isinstance(e, ValidationDone)}
    assert scores == {e.step: (e.psnr, e.best) for e in expected if isinstance(e, ValidationDone) and e.step > first}
    assert (events[-1].step, events[-1].psnr) == (expected[-1].step, expected[-1].psnr)
    for key, value in expected[-1].weights.items():
        assert torch.equal(events[-1].weights[key], value)


@pytest.fixture(scope="module")
def undisturbed():
    """Events of the whole run, made once."""
    kept = {}

    def events(plan):
        if plan.hash not in kept:
            kept[plan.hash] = run(plan)
        return kept[plan.hash]

    return events


# --- an undisturbed run ---------------------------------------------------------------------------------------------------------------


def test_events_come_in_order(recipe, undisturbed):
    events = undisturbed(recipe())
    kinds = [StepDone] * 5 + [ValidationDone]
    assert [type(e) for e in events] == [TrainingStarted, *kinds * 4, TrainingDone]
    assert list(losses(events)) == list(range(1, 21))
    assert [e.step for e in events if isinstance(e, ValidationDone)] == [5, 10, 15, 20]
    started, done = events[0], events[-1]
    assert started.train == ("sub-ann_T1w.nii.gz", "sub-bob_T1w.nii.gz")
    assert started.validation == ("sub-cy_T1w.nii.gz",)
    assert started.first_step == 0
    assert started.parameters == sum(v.numel() for v in done.weights.values())
    assert 10 < started.cubic < 60
    assert set(losses(events)[1]) == {"charbonnier", "parameter norm"}
    assert done.recipe == recipe()
    assert done.minutes > 0


@pytest.mark.parametrize("pixel", ["mse-ssim-gradient", "charbonnier-gradient"])
def test_losses_on_gradients_need_a_network_that_predicts_them(recipe, tmp_path, pixel):
    asked = recipe()
    asked = asked.model_copy(update={"loss": asked.loss.model_copy(update={"pixel": pixel})})
    with pytest.raises(InputError, match=f"predicts no gradients, which {pixel} needs"):
        list(train(asked, tmp_path / "state.pt", accelerator="cpu"))


def test_losses_fall_and_validation_rises(recipe, undisturbed):
    events = undisturbed(recipe())
    values = [terms["charbonnier"] for terms in losses(events).values()]
    assert np.mean(values[-5:]) < 0.7 * np.mean(values[:5])
    scores = [e.psnr for e in events if isinstance(e, ValidationDone)]
    assert scores[-1] > scores[0] + 1


def test_the_best_validation_is_returned(recipe, undisturbed):
    events = undisturbed(recipe())
    scores = [e for e in events if isinstance(e, ValidationDone)]
    best = -math.inf
    for e in scores:
        assert e.best == (e.psnr > best)
        best = max(best, e.psnr)
    assert events[-1].psnr == best


def cosine(steps, warmup, peak, final):
    """Rate of every step of one cycle."""
    fade = [final + (1 - final) * 0.5 * (1 + math.cos(math.pi * k / (steps - warmup))) for k in range(steps - warmup)]
    return [peak * share for share in [*((k + 1) / warmup for k in range(warmup)), *fade]]


def test_each_step_tells_the_rate_it_was_made_with(recipe, undisturbed):
    rates = [e.learning_rate for e in undisturbed(recipe()) if isinstance(e, StepDone)]
    assert rates == pytest.approx(cosine(20, 3, 0.004, 0.01))
    restarted = run(recipe(optimiser={"cycles": 2, "warmup": 2}, steps=12, validate_every=12))
    assert [e.learning_rate for e in restarted if isinstance(e, StepDone)] == pytest.approx(2 * cosine(6, 2, 0.004, 0.01))
    constant = run(recipe(optimiser={"schedule": "constant", "warmup": 2}, steps=4))
    assert [e.learning_rate for e in constant if isinstance(e, StepDone)] == pytest.approx([0.002, 0.004, 0.004, 0.004])


def test_the_last_step_is_always_validated(recipe):
    events = run(recipe(steps=3, validate_every=2))
    assert [e.step for e in events if isinstance(e, ValidationDone)] == [2, 3]


def test_the_seed_decides(recipe):
    first, again, other = (losses(run(recipe(steps=2, seed=seed))) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("pixel", ["l1", "mse"])
def test_other_losses(recipe, pixel):
    assert set(losses(run(recipe(loss={"pixel": pixel, "parameter_norm": 0}, steps=1)))[1]) == {pixel}


# --- stopping and going on ------------------------------------------------------------------------------------------------------------


def test_cancel_ends_with_the_best_so_far(recipe, undisturbed):
    steps = []
    events = []
    for event in train(recipe(), cancelled=lambda: len(steps) >= 7, accelerator="cpu"):
        events.append(event)
        if isinstance(event, StepDone):
            steps.append(event)
    assert isinstance(events[-1], TrainingDone)
    assert len(steps) == events[-1].step == 7
    whole = undisturbed(recipe())
    assert events[-1].psnr == next(e.psnr for e in whole if isinstance(e, ValidationDone))


@pytest.mark.parametrize("stop", [7, 10, 19])
def test_a_resumed_run_goes_on_as_if_never_stopped(recipe, undisturbed, tmp_path, stop):
    plan, checkpoint = recipe(), tmp_path / "state.pt"
    for event in train(plan, checkpoint, accelerator="cpu"):
        if isinstance(event, StepDone) and event.step == stop:
            break
    last = (stop - 1) // 5 * 5
    torch.manual_seed(123)  # whatever happened in between
    events = run(plan, checkpoint, resume=True)
    assert events[0].first_step == last
    assert_same_end(events, undisturbed(plan), last)


def test_resuming_a_finished_run_gives_its_result(recipe, undisturbed, tmp_path):
    plan, checkpoint = recipe(), tmp_path / "state.pt"
    run(plan, checkpoint)
    events = run(plan, checkpoint, resume=True)
    assert [type(e) for e in events] == [TrainingStarted, TrainingDone]
    assert_same_end(events, undisturbed(plan), 20)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_run_goes_on_as_if_never_stopped(recipe, undisturbed, tmp_path):
    plan, checkpoint = recipe(), tmp_path / "state.pt"
    code = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from napari_mrsr.training.loop import StepDone, train
from napari_mrsr.training.recipe import Recipe
for event in train(Recipe.model_validate_json(sys.argv[1]), Path(sys.argv[2]), accelerator="cpu"):
    if isinstance(event, StepDone):
        print(event.step, flush=True)
        sys.stdin.readline()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, plan.model_dump_json(), str(checkpoint)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if int(line) == 13:
            os.kill(process.pid, signal.SIGKILL)
            break
        process.stdin.write("go on\n")
        process.stdin.flush()
    assert process.wait(60) == -signal.SIGKILL
    process.stdin.close()
    process.stdout.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["logs", "state.pt"]
    events = run(plan, checkpoint, resume=True)
    assert events[0].first_step == 10
    assert_same_end(events, undisturbed(plan), 10)


def test_the_checkpoint_is_of_the_last_validation(recipe, tmp_path):
    plan, checkpoint = recipe(), tmp_path / "state.pt"
    for event in train(plan, checkpoint, accelerator="cpu"):
        if isinstance(event, StepDone):
            assert checkpoint.exists() == (event.step > 5)
        if isinstance(event, StepDone) and event.step == 8:
            break
    state = load_checkpoint(checkpoint)
    assert (state["step"], state["hash"]) == (5, plan.hash)
    assert Recipe.model_validate(state["recipe"]) == plan


def test_another_recipe_is_refused(recipe, tmp_path):
    checkpoint = tmp_path / "state.pt"
    run(recipe(steps=1), checkpoint)
    before = checkpoint.read_bytes()
    with pytest.raises(InputError, match="another recipe"):
        run(recipe(steps=2), checkpoint, resume=True)
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize("content", [{"recipe": {}}, {"recipe": {}, "hash": "HASH", "step": 1}])
def test_a_checkpoint_that_lacks_parts_is_refused(recipe, tmp_path, content):
    plan, checkpoint = recipe(), tmp_path / "state.pt"
    save_checkpoint({k: plan.hash if v == "HASH" else v for k, v in content.items()}, checkpoint)
    with pytest.raises(InputError):
        run(plan, checkpoint, resume=True)


def test_resuming_needs_a_place_but_not_a_checkpoint(recipe, undisturbed, tmp_path):
    with pytest.raises(InputError, match="Nothing to resume"):
        run(recipe(), None, resume=True)
    events = run(recipe(), tmp_path / "state.pt", resume=True)
    assert events[0].first_step == 0
    assert_same_end(events, undisturbed(recipe()), 0)


def test_an_older_checkpoint_is_not_overwritten_silently(recipe, tmp_path):
    plan, checkpoint = recipe(steps=1), tmp_path / "state.pt"
    run(plan, checkpoint)
    before = checkpoint.read_bytes()
    with pytest.raises(OutputError, match=r"--resume.*--overwrite"):
        run(plan, checkpoint)
    assert checkpoint.read_bytes() == before
    assert isinstance(run(plan, checkpoint, overwrite=True)[-1], TrainingDone)


def test_what_a_killed_process_left_half_written_is_cleared(recipe, tmp_path):
    plan, checkpoint = recipe(steps=2, validate_every=1), tmp_path / "state.pt"
    for event in train(plan, checkpoint, accelerator="cpu"):
        if isinstance(event, ValidationDone):
            break
    half = tmp_path / ".state.pt.abc123"
    half.mkdir()
    (half / "state.pt").write_bytes(checkpoint.read_bytes()[:100])
    events = run(plan, checkpoint, resume=True)
    assert events[0].first_step == 1
    assert not half.exists()


# --- what is refused before the first step --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"data": {"train": ["nothing"]}}, "No image files found for 'nothing'"),
        ({"data": {"validation": ["train"]}}, "same person is in training and validation"),
        ({"network": {"name": "espcn"}}, "Unknown network 'espcn'"),
        ({"network": {"name": "cubic", "options": {}}}, ""),
        ({"network": {"options": {"colour": "red"}}}, "CFTN"),
        ({"network": {"scale": 3}}, ""),
        ({"degradation": {"protocol": "slice-profile"}}, ""),
    ],
    ids=["no-files", "same-person", "network", "no-weights", "option", "scales-differ", "not-3d"],
)
def test_what_does_not_fit_is_refused_before_the_first_step(recipe, changes, fragment):
    events = []
    with pytest.raises(InputError) as caught:
        events.extend(train(recipe(**changes), accelerator="cpu"))
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not any(isinstance(e, StepDone) for e in events)


def test_a_device_that_is_not_there_is_refused(recipe):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError):
        next(train(recipe(), accelerator="cuda"))
