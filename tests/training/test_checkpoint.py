from __future__ import annotations

import pickle
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from napari_mrsr.errors import InputError, OutputError
from napari_mrsr.training.checkpoint import PARTS, load_checkpoint, save_checkpoint

STATE = {"recipe": {"name": "tiny"}, "step": 3, "best_score": -float("inf"), "network": {"weight": torch.arange(6.0)}, "list": [1, "a", None]}
STATE = {**dict.fromkeys(PARTS, 0), **STATE}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.pt"


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


def half_then(error):
    def write(path, _content):
        path.write_text("half")
        raise error

    return write


def test_a_state_survives_its_file(path):
    assert save_checkpoint(STATE, path) == path
    state = load_checkpoint(path)
    assert torch.equal(state.pop("network")["weight"], STATE["network"]["weight"])
    assert state == {k: v for k, v in STATE.items() if k != "network"}


def test_a_newer_state_replaces_the_older(path):
    save_checkpoint(STATE, path)
    save_checkpoint({**STATE, "step": 4}, path)
    assert load_checkpoint(path)["step"] == 4
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_older_state(path, monkeypatch):
    save_checkpoint(STATE, path)
    before = path.read_bytes()

    monkeypatch.setattr(Path, "write_bytes", half_then(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="No space left on device"):
        save_checkpoint({**STATE, "step": 4}, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupt_while_writing_leaves_the_older_state(path, monkeypatch):
    save_checkpoint(STATE, path)
    before = path.read_bytes()

    monkeypatch.setattr(Path, "write_bytes", half_then(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(STATE, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_one_sentence_and_leaves_the_older_state(path):
    """The real thing: torch's own error, not one raised by hand."""
    save_checkpoint(STATE, path)
    before = path.read_bytes()
    with full_disk(20_000), pytest.raises(OutputError):
        save_checkpoint({**STATE, "network": torch.zeros(100_000)}, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        save_checkpoint(STATE, tmp_path / "nothing" / "state.pt")


class Trap:
    """Runs code when unpickled by a careless reader."""

    def __reduce__(self):
        return (pytest.fail, ("the file was unpickled",))


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "pickle", "trap", "list", "other"])
def test_foreign_files_are_refused_by_one_sentence(path, kind):
    save_checkpoint(STATE, path)
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("hello")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Trap()))
    elif kind == "trap":
        torch.save({"recipe": Trap()}, path)
    else:
        torch.save([1, 2] if kind == "list" else {"weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"state\.pt (is not a|holds more than)") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(path):
    with pytest.raises(InputError, match="does not exist"):
        load_checkpoint(path)
