from __future__ import annotations

import json
import math
import re
import shutil
import struct
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_loop import losses, run, tiny_recipe, write_people
from torch import nn

from napari_mrsr.errors import InputError, OutputError, RunError
from napari_mrsr.training import objectives
from napari_mrsr.training.checkpoint import load_checkpoint
from napari_mrsr.training.loop import Noticed, StepDone, TrainingDone, ValidationDone, train
from napari_mrsr.training.parallel import Machines


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_volume):
    return write_people(tmp_path_factory.mktemp("data"), make_volume)


@pytest.fixture
def recipe(data):
    return partial(tiny_recipe, data)


# --- when numbers break down ----------------------------------------------------------------------------------------------------------


class Poison(nn.Module):
    """A pixel loss that goes wrong at one step: its value, or only its gradient."""

    kind, at = "value", 8

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, output, target):
        self.calls += 1
        loss = (output - target).abs().mean()
        if self.calls != self.at:
            return loss
        zero = (output * 0).sum()
        return loss + (zero * math.nan if self.kind == "value" else torch.sqrt(zero))


@pytest.fixture
def poison(monkeypatch):
    def at(kind, step):
        monkeypatch.setattr(Poison, "kind", kind)
        monkeypatch.setattr(Poison, "at", step)
        monkeypatch.setitem(objectives.PIXEL_LOSSES, "l1", Poison)

    return at


def finite(weights):
    return all(bool(torch.isfinite(v).all()) for v in weights.values())


def test_a_loss_that_is_nan_ends_the_run_with_the_best_kept(recipe, poison, tmp_path):
    poison("value", 8)
    checkpoint = tmp_path / "state.pt"
    events = run(recipe(loss={"pixel": "l1"}), checkpoint)
    (notice,) = [e.message for e in events if isinstance(e, Noticed)]
    assert re.match(r"The loss is no longer finite at step 7; the best weights so far are kept\. Lower the learning rate\.", notice)
    done = events[-1]
    assert isinstance(done, TrainingDone)
    assert done.note == "ended early: the loss is no longer finite at step 7"
    assert finite(done.weights)
    assert done.psnr == next(e.psnr for e in events if isinstance(e, ValidationDone))
    assert load_checkpoint(checkpoint)["step"] == 5


def test_a_loss_that_is_nan_before_the_first_validation_is_an_error(recipe, poison):
    poison("value", 3)
    with pytest.raises(RunError, match="no longer finite at step 2"):
        run(recipe(loss={"pixel": "l1"}))


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("step", [8, 10])
def test_a_gradient_that_is_nan_ends_the_run_with_the_best_kept(recipe, poison, tmp_path, clip, step):
    """Step 10 is validated right after the weights broke: they must not pass as the best."""
    poison("gradient", step)
    checkpoint = tmp_path / "state.pt"
    events = run(recipe(loss={"pixel": "l1"}, optimiser={"clip": clip}), checkpoint)
    assert any(isinstance(e, Noticed) and "the best weights so far are kept" in e.message for e in events)
    assert finite(events[-1].weights)
    state = load_checkpoint(checkpoint)
    assert math.isfinite(state["best_score"])
    assert finite(state["best"])


class Greedy(nn.Module):
    """A pixel loss that needs the memory of a whole batch at one step."""

    at, most, error = 4, 1, "memory"

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, output, target):
        self.calls += 1
        if self.calls >= self.at and len(output) > self.most:
            raise torch.OutOfMemoryError("no memory") if self.error == "memory" else RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return (output - target).abs().mean()


@pytest.mark.parametrize("error", ["memory", "host"])
def test_little_memory_cuts_the_batch_and_changes_nothing_else(recipe, monkeypatch, error):
    plan = recipe(loss={"pixel": "l1", "parameter_norm": 0}, patches={"batch": 4}, steps=8)
    expected = losses(run(plan))
    monkeypatch.setattr(Greedy, "error", error)
    monkeypatch.setitem(objectives.PIXEL_LOSSES, "l1", Greedy)
    events = run(plan)
    notices = [e.message for e in events if isinstance(e, Noticed)]
    assert notices == [f"cpu ran out of memory; each batch of 4 is now computed in {n} pieces." for n in (2, 4)]
    for step, terms in losses(events).items():
        assert terms["l1"] == pytest.approx(expected[step]["l1"], rel=1e-4)


def test_too_little_memory_is_one_sentence(recipe, monkeypatch):
    monkeypatch.setattr(Greedy, "most", 0)
    monkeypatch.setitem(objectives.PIXEL_LOSSES, "l1", Greedy)
    with pytest.raises(RunError, match="cpu ran out of memory; make the batch or the patches smaller"):
        run(recipe(loss={"pixel": "l1"}, steps=6))


def test_a_full_disk_leaves_the_older_checkpoint(recipe, tmp_path, monkeypatch):
    checkpoint = tmp_path / "state.pt"
    events = train(recipe(), checkpoint, accelerator="cpu")
    while not isinstance(next(events), ValidationDone):
        pass
    kept = checkpoint.read_bytes()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match="MiB free"):
        list(events)
    assert checkpoint.read_bytes() == kept
    assert load_checkpoint(checkpoint)["step"] == 5


# --- how it is computed ---------------------------------------------------------------------------------------------------------------


def test_accumulation_changes_nothing(recipe):
    """Up to rounding: a batch in two pieces has the gradient of the batch."""
    plan = recipe(steps=6)
    whole, pieces = losses(run(plan)), losses(run(plan.model_copy(update={"accumulate": 2})))
    for step, terms in whole.items():
        assert terms == pytest.approx(pieces[step], rel=1e-4)


def test_reduced_precision_trains(recipe):
    events = run(recipe(precision="bf16-mixed", steps=20))
    values = [terms["charbonnier"] for terms in losses(events).values()]
    assert np.mean(values[-5:]) < 0.8 * np.mean(values[:5])
    full = losses(run(recipe(steps=1)))[1]["charbonnier"]
    assert values[0] != full
    assert values[0] == pytest.approx(full, rel=0.05)


def test_half_precision_needs_a_gpu(recipe):
    with pytest.raises(InputError, match=r"16-mixed needs a GPU; take bf16-mixed or 32-true"):
        run(recipe(precision="16-mixed"))


def test_patience_ends_a_run_without_gain(recipe):
    events = run(recipe(patience=2, least_gain=50.0, steps=20))
    assert [e.step for e in events if isinstance(e, ValidationDone)] == [5, 10, 15]
    assert [e.message for e in events if isinstance(e, Noticed)] == ["No gain in 2 validations; the training ends at step 15."]
    assert events[-1].note == "ended early, after 2 validations without a gain"


def test_patience_survives_a_stop(recipe, tmp_path):
    plan, checkpoint = recipe(patience=2, least_gain=50.0, steps=20), tmp_path / "state.pt"
    for event in train(plan, checkpoint, accelerator="cpu"):
        if isinstance(event, StepDone) and event.step == 12:
            break
    events = run(plan, checkpoint, resume=True)
    assert [e.step for e in events if isinstance(e, ValidationDone)] == [15]


def test_curves_are_there_for_tensorboard(recipe, tmp_path):
    plan = recipe(steps=10)
    events = run(plan, tmp_path / "state.pt")
    (file,) = (tmp_path / "logs" / "state").glob("events.out.tfevents.*")
    found = scalars(file)
    assert found["loss/charbonnier"] == pytest.approx({s: t["charbonnier"] for s, t in losses(events).items()})
    assert found["validation/PSNR"] == pytest.approx({e.step: e.psnr for e in events if isinstance(e, ValidationDone)})
    assert set(found) == {"loss/charbonnier", "loss/parameter norm", "learning rate", "validation/PSNR"}


def scalars(file):
    """Curves of an event file: records of a length, its checksum, the message and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    content, found, at = file.read_bytes(), {}, 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        event = Event.FromString(content[at + 12 : at + 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag.replace("_", " "), {})[event.step] = value.simple_value
        at += 16 + length
    return found


# --- several processes ----------------------------------------------------------------------------------------------------------------


def test_two_processes_train_as_one(recipe, tmp_path):
    """Each takes half of every batch; losses and weights are those of one process with the whole batch."""
    plan = recipe(patches={"batch": 4}, steps=6, validate_every=3)
    expected = run(plan)
    code = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
from napari_mrsr.training.loop import StepDone, TrainingDone, train
from napari_mrsr.training.parallel import Machines
from napari_mrsr.training.recipe import Recipe
out = Path(sys.argv[2])
told = []
for event in train(Recipe.model_validate_json(sys.argv[1]), out / "state.pt", machines=Machines("cpu", 2)):
    if isinstance(event, StepDone):
        told.append(event.losses)
    if isinstance(event, TrainingDone):
        save_file(event.weights, out / "weights.safetensors")
        (out / "told.json").write_text(json.dumps(told))
"""
    script = tmp_path / "two.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script), plan.model_dump_json(), str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads((tmp_path / "told.json").read_text())
    assert len(told) == 6
    for step, terms in losses(expected).items():
        assert told[step - 1] == pytest.approx(terms, rel=1e-4)
    weights = load_file(tmp_path / "weights.safetensors")
    for name, value in expected[-1].weights.items():
        assert torch.allclose(weights[name], value, rtol=1e-3, atol=1e-5)


def test_processes_must_share_a_batch_evenly(recipe):
    with pytest.raises(InputError, match=r"3 processes cannot share a patches.batch of 2 evenly"):
        list(train(recipe(), machines=Machines("cpu", 3)))
    with pytest.raises(InputError, match="Strategy 'fsdp' is unknown"):
        list(train(recipe(), machines=Machines("cpu", 1, strategy="fsdp")))
