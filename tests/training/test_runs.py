"""Runs in folders, and the processes that work on them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from tiny_training import tiny_recipe, write_people

from napari_mrsr.errors import InputError, OutputError, RunError
from napari_mrsr.io import read_volume
from napari_mrsr.training import runs as module
from napari_mrsr.training.events import TrainingDone
from napari_mrsr.training.history import History
from napari_mrsr.training.jobs import write_model
from napari_mrsr.training.process import check, main
from napari_mrsr.training.runs import ALIVE, RunFolder, State, Wish, list_runs, new_run, runs_folder
from napari_mrsr.zoo import get_card, list_models

PATIENCE = 120


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Runs and models of the test's own, also for the processes it starts."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("NAPARI_MRSR_RUNS", raising=False)
    monkeypatch.setattr("napari_mrsr.training.process.tune_process", lambda: None)  # meant for processes of their own
    return tmp_path / "home"


def wait(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def told(run):
    history = History(run)
    history.read()
    return history


# --- folders --------------------------------------------------------------------------------------------------------------------------


def test_runs_lie_in_the_users_folder_or_where_the_variable_says(home, tmp_path, monkeypatch):
    assert runs_folder() == home / "napari-mrsr" / "runs"
    assert list_runs() == []
    monkeypatch.setenv("NAPARI_MRSR_RUNS", str(tmp_path / "elsewhere"))
    assert runs_folder() == tmp_path / "elsewhere"


def test_a_new_run_remembers_recipe_and_device(people):
    recipe = tiny_recipe(people, steps=3)
    run = new_run(recipe, "cpu")
    assert run.name.startswith("tiny-")
    assert (run.recipe(), run.device, run.state(), run.wish()) == (recipe, "cpu", State.NEW, Wish.RUN)
    assert told(run).step == 0


def test_runs_of_one_second_have_folders_of_their_own_and_the_newest_is_first(people):
    first, second = (new_run(tiny_recipe(people)) for _ in range(2))
    os.utime(first.path / "order.json", (1, 1))
    assert list_runs() == [second, first]
    (runs_folder() / ".draft-1").mkdir()
    (runs_folder() / ".draft-1" / "recipe.yaml").write_text("x")
    (runs_folder() / "other").mkdir()
    assert list_runs() == [second, first]


def test_a_folder_that_cannot_be_made_is_said(people, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("NAPARI_MRSR_RUNS", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="cannot be created"):
        new_run(tiny_recipe(people))


def test_a_damaged_recipe_is_said(people):
    run = new_run(tiny_recipe(people))
    (run.path / "recipe.yaml").write_text("name: [")
    with pytest.raises(InputError, match="not a YAML file"):
        run.recipe()


def test_states_follow_from_the_last_event_and_the_process(people, monkeypatch):
    run = new_run(tiny_recipe(people))
    run.tell("launched")
    assert run.state() is State.LOST
    run.claim(os.getpid())
    assert run.state() is State.RUNNING
    run.ask(Wish.PAUSE)
    assert run.state() is State.PAUSED
    for event, state in (("stopped", State.STOPPED), ("failed", State.FAILED), ("done", State.DONE)):
        run.tell(event)
        assert run.state() is state
    run.tell("launched")
    assert run.state() is State.PAUSED


def test_a_number_given_to_another_process_is_not_taken_for_ours(people):
    run = new_run(tiny_recipe(people))
    run.tell("launched")
    since = psutil.Process(os.getpid()).create_time()
    (run.path / "process.json").write_text(json.dumps({"pid": os.getpid(), "since": since - 100}))
    assert run.state() is State.LOST
    (run.path / "process.json").write_text("{")
    assert run.state() is State.LOST


def test_a_run_under_way_is_neither_started_nor_deleted(people):
    run = new_run(tiny_recipe(people))
    run.tell("launched")
    run.claim(os.getpid())
    with pytest.raises(RunError, match="running already"):
        run.start()
    with pytest.raises(RunError, match="stop it"):
        run.delete()
    run.tell("done")
    run.delete()
    assert list_runs() == []


def test_a_process_that_cannot_be_started_is_said(people, monkeypatch):
    run = new_run(tiny_recipe(people))
    monkeypatch.setattr(module.sys, "executable", "/no/such/python")
    with pytest.raises(RunError, match="could not be started"):
        run.start()


# --- history --------------------------------------------------------------------------------------------------------------------------


def test_history_takes_whole_lines_only_and_forgets_what_is_trained_again(people):
    run, history = new_run(tiny_recipe(people)), None
    history = History(run)
    assert not history.read()
    run.tell("launched")
    run.tell("started", first_step=0, classic={"cubic": 30.0}, preview={})
    for step in (1, 2, 3, 4):
        run.tell("step", step=step, losses={"l1": 1 / step}, learning_rate=0.1, rate=0.5)
    run.tell("validation", step=2, psnr=31.0, best=True, file="a.npy")
    run.tell("validation", step=4, psnr=30.0, best=False, file="b.npy")
    assert history.read()
    assert not history.read()
    assert (history.step, history.best.step, history.seconds_left(10)) == (4, 2, 3.0)
    with run.events_file.open("a") as stream:
        stream.write('{"event": "step", "st')  # killed while it wrote
    assert not history.read()
    run.tell("launched")
    run.tell("started", first_step=2, classic={"cubic": 30.0}, preview={})
    run.tell("step", step=3, losses={"l1": 0.25}, learning_rate=0.1, rate=0.5)
    run.tell("noticed", message="The batch was halved.")
    assert history.read()
    assert history.losses == {"l1": ([1, 2, 3], [1.0, 0.5, 0.25])}
    assert [s.step for s in history.scores] == [2]
    assert history.notices == ["The batch was halved."]


def test_every_stage_has_curves_of_its_own(people):
    run = new_run(tiny_recipe(people))
    run.tell("stage", name="vit", index=0, count=2, steps=50, first_step=0)
    run.tell("step", step=5, losses={"class": 2.0}, learning_rate=0.1, rate=0.5)
    run.tell("scored", step=5, score=91.0, measure="accuracy (%)", best=True)
    history = told(run)
    assert (history.stage, history.stage_steps, history.stage_score, set(history.losses)) == ("vit", 50, "accuracy (%) 91", {"class"})
    run.tell("stage", name="super-resolution", index=1, count=2, steps=12, first_step=0)
    run.tell("step", step=1, losses={"l1": 2.0}, learning_rate=0.1, rate=0.5)
    history.read()
    assert (history.step, history.stage_steps, history.stage_score, set(history.losses)) == (1, 12, "", {"l1"})


# --- the process ----------------------------------------------------------------------------------------------------------------------


def test_a_run_trains_shows_a_slice_and_gives_a_model(people):
    run = new_run(tiny_recipe(people), "cpu")
    assert main(str(run.path)) == 0
    history = told(run)
    assert run.state() is State.DONE
    assert (history.step, history.model, [s.step for s in history.scores]) == (12, "tiny", [4, 8, 12])
    assert "dB" in history.message
    assert history.started["classic"]["back-projection"] > history.started["classic"]["nearest"]
    card = get_card("tiny")
    assert f"{history.best.psnr:.2f} dB" in card.training
    assert sorted(p.name for p in run.path.glob("tiny.*")) == ["tiny.json", "tiny.md", "tiny.safetensors"]
    # The slab is a slice of the validation volume, at its place.
    volume = read_volume(people / "val" / "sub-cy_T1w.nii.gz")
    facts, truth = history.started["preview"], np.load(run.path / "preview" / "truth.npy")
    index = np.linalg.inv(volume.affine) @ np.array(facts["affine"])[:, 3]
    assert (facts["axis"], truth.shape) == (2, (24, 24, 1))
    np.testing.assert_allclose(index[:2], 0, atol=1e-6)
    plane = volume.data[:24, :24, round(index[2])]
    np.testing.assert_allclose(truth[..., 0] / truth.max(), plane / plane.max(), rtol=1e-5)
    shown = [np.load(run.path / "preview" / s.file) for s in history.scores]
    assert all(s.shape == truth.shape for s in shown)
    assert not np.array_equal(shown[0], shown[-1])
    assert np.corrcoef(shown[-1].ravel(), truth.ravel())[0, 1] > 0.8


def test_a_second_run_of_a_name_gets_a_number_and_nothing_is_replaced(people):
    for _ in range(2):
        assert main(str(new_run(tiny_recipe(people, steps=2, validate_every=2), "cpu").path)) == 0
    assert {"tiny", "tiny-2"} <= {card.name for card in list_models()}


def test_fine_tuning_is_scored_before_its_first_step(people):
    """What the starting weights can do is the first point of the curve; what is no better makes no new model."""
    first = new_run(tiny_recipe(people), "cpu")
    assert main(str(first.path)) == 0
    second = new_run(tiny_recipe(people, name="tuned", start="tiny", optimiser={"learning_rate": 0.5}, steps=3, validate_every=3), "cpu")
    assert main(str(second.path)) == 0
    scores = told(second).scores
    assert [s.step for s in scores] == [0, 3]
    assert scores[0].psnr == pytest.approx(told(first).best.psnr, abs=1e-4)
    assert scores[1].psnr < scores[0].psnr
    assert (told(second).best, told(second).model) == (scores[0], "")
    assert f"{scores[0].psnr:.2f} dB of the starting weights" in told(second).message
    assert {card.name for card in list_models() if card.name in ("tiny", "tuned")} == {"tiny"}
    third = new_run(tiny_recipe(people, name="tuned", start="tiny", optimiser={"learning_rate": 1e-3}, steps=60, validate_every=20), "cpu")
    assert main(str(third.path)) == 0
    gain = told(third).best.psnr - told(third).scores[0].psnr
    assert gain > 0
    assert f"{gain:+.2f} dB to the starting weights" in told(third).message
    assert told(third).model == "tuned"


def test_a_run_that_fails_says_why(people, tmp_path):
    run = new_run(tiny_recipe(people, data={"train": ["nothing"]}), "cpu")
    assert main(str(run.path)) == 1
    assert run.state() is State.FAILED
    assert "No image files found" in told(run).message
    assert not any(card.name == "tiny" for card in list_models())


def test_a_stop_before_the_first_validation_keeps_no_model(people, monkeypatch):
    run = new_run(tiny_recipe(people), "cpu")
    run.ask(Wish.STOP)
    assert main(str(run.path)) == 0
    assert run.state() is State.STOPPED
    assert told(run).model == ""
    assert "before the first validation" in told(run).message


def test_weights_no_better_than_those_it_began_with_make_no_model(people, monkeypatch):
    done = TrainingDone(6, 23.24, 23.24, {}, tiny_recipe(people), 0.1, None, {}, "was stopped by its user")
    monkeypatch.setattr("napari_mrsr.training.process.train", lambda *_, **__: iter([done]))
    run = new_run(tiny_recipe(people), "cpu")
    assert main(str(run.path)) == 0
    assert told(run).model == ""
    assert told(run).message.startswith("No validation was better than the 23.24 dB of the starting weights")
    assert told(run).message.endswith("The training was stopped by its user.")
    assert not any(card.name == "tiny" for card in list_models())
    with pytest.raises(InputError, match="no new model"):
        write_model(done, run.path, overwrite=True)


def test_killed_is_seen_and_resumed_to_the_same_end(people):
    """The weights of a run that was killed and resumed are those of one that was never disturbed."""
    recipe = tiny_recipe(people, steps=160, validate_every=20)
    run = new_run(recipe, "cpu")
    run.start()
    assert run.state() is State.RUNNING
    history = History(run)
    wait(lambda: history.read() and len(history.scores) >= 2)
    os.kill(json.loads((run.path / "process.json").read_text())["pid"], signal.SIGKILL)
    wait(lambda: run.state() not in ALIVE)
    assert run.state() is State.LOST
    run.start()
    wait(lambda: run.state() not in ALIVE)
    history.read()
    assert run.state() is State.DONE, (run.path / "log.txt").read_text()
    assert [s.step for s in history.scores] == list(range(20, 161, 20))
    steps = history.losses["l1"][0]
    assert steps == sorted(set(steps))
    undisturbed = new_run(recipe, "cpu")
    assert main(str(undisturbed.path)) == 0
    assert [s.psnr for s in told(undisturbed).scores] == [s.psnr for s in history.scores]


def test_pause_stop_and_the_best_is_kept(people):
    run = new_run(tiny_recipe(people, steps=100_000, validate_every=5), "cpu")
    run.start()
    history = History(run)
    wait(lambda: history.read() and history.scores)
    run.ask(Wish.PAUSE)
    wait(lambda: history.read() and history.resting)
    assert run.state() is State.PAUSED
    step = history.step
    time.sleep(0.5)
    history.read()
    assert history.step == step
    run.ask(Wish.RUN)
    wait(lambda: history.read() and history.step > step)
    assert not history.resting
    run.ask(Wish.STOP)
    wait(lambda: run.state() not in ALIVE)
    history.read()
    assert run.state() is State.STOPPED, (run.path / "log.txt").read_text()
    assert f"{history.best.psnr:.2f} dB" in get_card(history.model).training


def test_a_process_that_cannot_work_leaves_its_last_words(people, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = new_run(tiny_recipe(people), "cpu")
    run.start()
    wait(lambda: run.state() not in ALIVE)
    assert run.state() is State.LOST
    assert run.last_words() == "ImportError: no torch here"
    (run.path / "log.txt").write_text("UserWarning: something\n")
    assert run.last_words() == ""


@pytest.mark.skipif(sys.platform == "win32", reason="sessions are POSIX")
def test_the_process_outlives_the_program_that_started_it(people, home):
    """It is in a session of its own, and goes on when its parent has gone."""
    run = new_run(tiny_recipe(people, steps=100_000, validate_every=5), "cpu")
    starter = f"from pathlib import Path; from napari_mrsr.training.runs import RunFolder; RunFolder(Path({str(run.path)!r})).start()"
    subprocess.run([sys.executable, "-c", starter], check=True, timeout=PATIENCE)
    pid = json.loads((run.path / "process.json").read_text())["pid"]
    assert os.getsid(pid) == pid != os.getsid(0)
    history = History(RunFolder(run.path))
    wait(lambda: history.read() and history.scores)
    assert run.state() is State.RUNNING
    run.ask(Wish.STOP)
    wait(lambda: run.state() not in ALIVE)
    assert run.state() is State.STOPPED


# --- the check ------------------------------------------------------------------------------------------------------------------------


def test_a_check_tells_problems_or_what_there_is(people, tmp_path):
    path = new_run(tiny_recipe(people)).path / "recipe.yaml"
    found = check(str(path), "cpu")
    assert found["problems"] == []
    assert "cpu" in found["devices"]
    assert any("2 volumes of 2 people" in fact for fact in found["facts"])
    assert any("s a step" in fact for fact in found["facts"])
    bad = new_run(tiny_recipe(people, data={"validation": ["train"]})).path / "recipe.yaml"
    assert "same person" in check(str(bad), "cpu")["problems"][0]
    bad.write_text("nonsense: 1")
    assert "recipe.yaml" in check(str(bad), "cpu")["problems"][0]
