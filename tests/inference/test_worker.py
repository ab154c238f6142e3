from __future__ import annotations

import errno
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_mrsr.inference import super_resolve, worker
from napari_mrsr.inference.exchange import exchange_folder, put_volume, take_volume
from napari_mrsr.networks import create
from napari_mrsr.zoo import Card, save_weights, sha256_of

PATIENCE = 25
MODULE = ("-m", "napari_mrsr.inference.worker")


class Owner:
    """The other side: starts a worker, gives it lines, reads its events."""

    def __init__(self, environment, log, arguments=MODULE):
        self.folder = exchange_folder()
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("wb"), env=environment
        )
        self.lines: queue.Queue = queue.Queue()
        self.number = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def say(self, **command):
        self.write(json.dumps(command))

    def write(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def run(self, volume, like=None, **options):
        self.number += 1
        shared = {role: put_volume(v, self.folder) for role, v in (("volume", volume), ("like", like)) if v is not None}
        self.say(command="run", id=self.number, folder=str(self.folder), options=options, **shared)
        return self.number

    def event(self):
        line = self.lines.get(timeout=PATIENCE)
        assert line is not None, "the worker ended: " + self.log.read_text()[-2000:]
        return json.loads(line)

    def until(self, *names):
        """Events up to and including the first of that name."""
        events = [self.event()]
        while events[-1]["event"] not in names:
            events.append(self.event())
        return events

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model folder with a small CFTN of random weights."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "napari-mrsr" / "weights"
    folder.mkdir(parents=True)
    options = {"channels": 4, "blocks": 2, "ca_reduction": 2}
    torch.manual_seed(0)
    path = save_weights(create("cftn", 2, **options).state_dict(), folder / "small.safetensors", {})
    card = Card(
        name="small", title="Small", architecture="cftn", options=options, scale=2, protocol="gaussian", weights=path.name, sha256=sha256_of(path),
        window=8, halo=24,
    )  # fmt: skip
    (folder / "small.json").write_text(card.model_dump_json())
    return home


@pytest.fixture(scope="module")
def environment(models):
    return {**os.environ, "XDG_DATA_HOME": str(models), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def start(environment, tmp_path):
    """Start a worker of one's own."""
    owners = []

    def new(*arguments):
        owners.append(Owner(environment, tmp_path / f"worker{len(owners)}.log", arguments or MODULE))
        return owners[-1]

    yield new
    for owner in owners:
        owner.end()


@pytest.fixture(scope="module")
def owner(environment, tmp_path_factory):
    """A worker that several tests use one after another."""
    shared = Owner(environment, tmp_path_factory.mktemp("worker") / "worker.log")
    yield shared
    shared.end()


@pytest.fixture
def local_models(models, monkeypatch):
    monkeypatch.setattr("napari_mrsr.zoo.models.user_weights_folder", lambda: models / "napari-mrsr" / "weights")


def test_devices(owner):
    owner.say(command="devices")
    answer = owner.event()
    assert answer["event"] == "devices"
    names = [d["name"] for d in answer["devices"]]
    assert "cpu" in names
    assert all(d["free"] > 0 and d["title"] for d in answer["devices"])


@pytest.mark.parametrize("model", ["cubic", "back-projection", "small"])
def test_a_run_equals_the_same_run_in_this_process(owner, make_volume, local_models, model):
    volume = make_volume((11, 12, 13), (2, 2, 2), (10, 5, -15), name="scan").with_record(note={"kept": True})
    number = owner.run(volume, model=model, noise=2.0, device="cpu", tile=8)
    events = owner.until("done", "failed")
    assert (events[0]["event"], events[-1]["event"]) == ("started", "done")
    assert {e["event"] for e in events[1:-1]} == {"tile", "progress"}
    assert {e["id"] for e in events} == {number}
    fractions = [e["fraction"] for e in events if e["event"] == "progress"]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    result = take_volume(events[-1]["volume"])
    expected = super_resolve(volume, model, noise=2.0, device="cpu", tile=8)
    np.testing.assert_allclose(result.data, expected.data, rtol=1e-5, atol=1e-4)
    assert result.data.dtype == np.float32
    np.testing.assert_array_equal(result.affine, expected.affine)
    assert (result.name, result.record["note"]) == (expected.name, {"kept": True})
    assert result.record["run"]["options"] == expected.record["run"]["options"]
    assert events[0]["tiles"] == int(expected.record["run"]["plan"].split()[0])
    assert list(owner.folder.iterdir()) == []


def test_like_travels_too(owner, make_volume):
    volume = make_volume((8, 8, 8), (2, 2, 2))
    like = make_volume((10, 9, 8), (1, 1.5, 1.2))
    owner.run(volume, like, model="cubic")
    assert take_volume(owner.until("done", "failed")[-1]["volume"]).shape == like.shape


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": "espcn"}, "Unknown model 'espcn': use one of "),
        ({"model": "cubic", "scale": 99}, "Option scale: "),
        ({"model": "cubic", "colour": "red"}, "Option colour: "),
        ({"model": "cubic", "roi": [900, 900, 900, 901, 901, 901]}, "lies outside"),
        ({"model": "cubic", "device": "cuda:9"}, "is not available here"),
    ],
)
def test_bad_options_answer_with_the_sentence(owner, make_volume, options, sentence):
    number = owner.run(make_volume((8, 8, 8)), **options)
    answer = owner.event()
    assert (answer["event"], answer["id"]) == ("failed", number)
    assert sentence in answer["message"]
    assert "\n" not in answer["message"]
    assert "Traceback" not in owner.log.read_text()


def test_a_volume_that_is_not_there_is_told(owner, make_volume):
    description = put_volume(make_volume((4, 4, 4)), owner.folder)
    os.unlink(description["path"])
    for volume in (description, None):
        owner.number += 1
        owner.say(command="run", id=owner.number, folder=str(owner.folder), options={"model": "cubic"}, volume=volume)
        answer = owner.event()
        assert (answer["event"], answer["id"]) == ("failed", owner.number)


def served(folder, volume, monkeypatch):
    """Events of one run in a worker within this process."""
    answers, commands = StringIO(), queue.Queue()
    monkeypatch.setattr(worker.Worker, "_listen", lambda *_: None)
    serving = worker.Worker(answers)
    monkeypatch.setattr(serving, "_commands", commands)
    commands.put({"command": "run", "id": 1, "folder": str(folder), "options": {"model": "cubic"}, "volume": volume})
    commands.put(None)
    serving.serve(StringIO())
    return [json.loads(line) for line in answers.getvalue().splitlines()]


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_result_that_does_not_fit_into_shared_memory_goes_to_the_disk_or_is_told(make_volume, monkeypatch, tmp_path, everywhere):
    """Containers give /dev/shm 64 MB, less than the result of one head at 0.8 mm."""
    folder = exchange_folder()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    volume = put_volume(make_volume((8, 8, 8)), folder)
    good, full = os.posix_fallocate, iter([True] if not everywhere else [True, True])

    def fallocate(*arguments):
        if next(full, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        return good(*arguments)

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    last = served(folder, volume, monkeypatch)[-1]
    folder.rmdir()
    if everywhere:
        assert (last["event"], list(tmp_path.iterdir())) == ("failed", [])
        assert last["message"].startswith("The result needs")
        assert "No space left on device" in last["message"]
    else:
        assert last["event"] == "done"
        assert Path(last["volume"]["path"]).parent == tmp_path
        assert take_volume(last["volume"]).data.any()
        assert list(tmp_path.iterdir()) == []


def test_cancel_answers_cancelled_and_the_next_run_works(owner, make_volume):
    volume = make_volume((64, 64, 24), (2, 2, 2))
    first = owner.run(volume, model="small", tile=8)
    second = owner.run(volume, model="small", tile=8)
    third = owner.run(make_volume((8, 8, 8)), model="cubic")
    assert owner.until("started")[-1]["tiles"] == 192
    owner.say(command="cancel", id=second)  # while it still waits
    owner.say(command="cancel", id=first)
    answers = owner.until("cancelled", "done", "failed")
    assert (answers[-1]["event"], answers[-1]["id"]) == ("cancelled", first)
    answers = owner.until("cancelled", "done", "failed")
    assert (answers[-1]["event"], answers[-1]["id"]) == ("cancelled", second)
    answers = owner.until("cancelled", "done", "failed")
    assert (answers[-1]["event"], answers[-1]["id"]) == ("done", third)
    take_volume(answers[-1]["volume"])
    assert list(owner.folder.iterdir()) == []


def test_what_libraries_print_does_not_reach_the_owner(start, make_volume):
    code = """
import os
import napari_mrsr.inference.engine as engine
from napari_mrsr.inference import worker
quiet = engine.run
def noisy(*arguments):
    print("chatter by print", flush=True)
    os.write(1, b"chatter by descriptor\\n")
    os.system("echo chatter by a child")
    yield from quiet(*arguments)
engine.run = noisy
worker.main()
"""
    owner = start("-c", code)
    owner.run(make_volume((8, 8, 8)), model="cubic")
    events = owner.until("done", "failed")
    assert events[-1]["event"] == "done"
    take_volume(events[-1]["volume"])
    assert owner.log.read_text().count("chatter") == 3


def test_lines_that_are_no_commands_are_passed_over(start):
    owner = start()
    for line in ("not json", "[1, 2]", "42", '{"command": "cancel"}', '{"command": "dance"}', "{}"):
        owner.write(line)
    owner.say(command="devices")
    assert owner.event()["event"] == "devices"
    owner.process.stdin.close()
    assert owner.process.wait(PATIENCE) == 0


def test_it_ends_with_its_input_even_during_a_run(start, make_volume):
    owner = start()
    owner.run(make_volume((64, 64, 24), (2, 2, 2)), model="small", tile=8)
    owner.until("started")
    owner.process.stdin.close()
    assert owner.process.wait(PATIENCE) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_worker_leaves_a_folder_the_owner_can_remove(start, make_volume):
    owner = start()
    owner.run(make_volume((64, 64, 24), (2, 2, 2)), model="small", tile=8)
    owner.until("started")
    put_volume(make_volume((8, 8, 8)), owner.folder)
    os.kill(owner.process.pid, signal.SIGKILL)
    assert owner.process.wait(PATIENCE) == -signal.SIGKILL
    while owner.lines.get(timeout=PATIENCE) is not None:
        pass
    shutil.rmtree(owner.folder)
    assert not owner.folder.exists()
