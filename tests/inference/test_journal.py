"""Interrupted runs go on from their finished tiles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
from toy_network import Convolutions, textured

from napari_mrsr.errors import RunError
from napari_mrsr.inference import Progress, RunDone, RunOptions, RunStarted, run, super_resolve
from napari_mrsr.inference.journal import KEY, LINES, Journal, fingerprint
from napari_mrsr.inference.tiles import make_planes, make_tiles
from napari_mrsr.io import write_volume


def interrupted(volume, model, keep, after, **options):
    """Leave a run after so many tiles, as Ctrl-C does."""
    events = run(volume, RunOptions.create(model=model, tile=8, **options), keep=keep)
    for event in events:
        if isinstance(event, Progress) and event.tile == after:
            events.close()
            return
    raise AssertionError("the run ended first")


@pytest.fixture
def passes(monkeypatch):
    """Sizes of what the network was given."""
    seen, good = [], Convolutions.forward
    monkeypatch.setattr(Convolutions, "forward", lambda self, lr, **more: (seen.append(lr[0, 0].numel()), good(self, lr))[1])
    return seen


def test_a_run_goes_on_where_it_was_left_and_gives_the_same(make_volume, toy, tmp_path, passes):
    volume, keep = textured(make_volume, (14, 12, 9)), tmp_path / "tiles"
    expected = super_resolve(volume, toy, tile=8).data
    interrupted(volume, toy, keep, 5)
    assert keep.is_dir()
    passes.clear()
    events = list(run(volume, RunOptions.create(model=toy, tile=8), keep=keep))
    assert len(passes) == 3
    started, *_, last = events
    assert isinstance(started, RunStarted)
    assert "5 tiles of an interrupted run are done already." in started.warnings
    steps = [e for e in events if isinstance(e, Progress)]
    assert (steps[-1].tile, steps[-1].fraction) == (8, pytest.approx(1))
    np.testing.assert_array_equal(last.volume.data, expected)
    assert not keep.exists()


def test_another_cutting_uses_what_is_done(make_volume, toy, tmp_path, passes):
    volume, keep = textured(make_volume, (16, 16, 16)), tmp_path / "tiles"
    expected = super_resolve(volume, toy).data
    interrupted(volume, toy, keep, 4)
    passes.clear()
    *_, last = run(volume, RunOptions.create(model=toy, tile=16), keep=keep)
    assert len(passes) == 1
    np.testing.assert_allclose(last.volume.data, expected, atol=1e-3)


@pytest.mark.parametrize("change", ["voxel", "place", "option"])
def test_another_run_starts_anew(make_volume, toy, tmp_path, passes, change):
    volume, keep = textured(make_volume, (14, 12, 9)), tmp_path / "tiles"
    interrupted(volume, toy, keep, 5)
    options = {"noise": 3.0} if change == "option" else {}
    if change == "voxel":
        data = volume.data.copy()
        data[0, 0, 0] += 1
        volume = volume.replace(data=data)
    if change == "place":
        affine = volume.affine.copy()
        affine[0, 3] += 1
        volume = volume.replace(affine=affine)
    passes.clear()
    *_, last = run(volume, RunOptions.create(model=toy, tile=8, **options), keep=keep)
    assert isinstance(last, RunDone)
    assert len(passes) == 8
    assert not keep.exists()


def test_nothing_is_left_where_no_tile_was_finished(make_volume, toy, tmp_path):
    events = run(textured(make_volume, (14, 12, 9)), RunOptions.create(model=toy), keep=tmp_path / "tiles")
    next(events)
    events.close()
    assert not (tmp_path / "tiles").exists()


def test_a_half_written_average_is_never_gone_on_with(tmp_path):
    first, second = make_planes(slice(0, 4), (4, 4, 4), 0, 4)[0], make_planes(slice(0, 4), (4, 4, 4), 1, 4)[0]
    with suppress(KeyError), Journal(tmp_path / "t", "key", (4, 4, 4), [""]) as journal:
        journal.begin(first, 0)
        journal.end(first, 0)
        journal.begin(second, 1)
        raise KeyError
    assert not (tmp_path / "t").exists()


def test_a_torn_last_line_costs_one_tile(tmp_path):
    tiles = make_tiles([slice(0, 8)] * 3, (8, 8, 8), (4, 8, 8), 0, 1)
    with suppress(KeyError), Journal(tmp_path / "t", "key", (8, 8, 8), [""]) as journal:
        for tile in tiles:
            journal.end(tile, 0)
        raise KeyError
    lines = tmp_path / "t" / LINES
    lines.write_text(lines.read_text()[:-9])
    assert json.loads((tmp_path / "t" / KEY).read_text()) == {"key": "key"}
    with Journal(tmp_path / "t", "key", (8, 8, 8), [""]) as journal:
        assert journal.resumed == 1
        done = journal.done((8, 8, 8), 0)
    assert done[:4].all()
    assert not done[4:].any()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be kept"):
        Journal(tmp_path / "file" / "t", "key", (2, 2, 2), [""])


def test_what_does_not_decide_the_result_does_not_change_the_fingerprint(make_volume):
    volume, options = make_volume((6, 6, 6)), RunOptions()
    same = options.model_copy(update={"device": "cpu", "tile": 16})
    assert fingerprint(volume, options, "a") == fingerprint(volume, same, "a")
    assert fingerprint(volume, options, "a") != fingerprint(volume, options, "b")
    assert fingerprint(volume, options, "a") != fingerprint(volume, options, "a", volume)


def test_a_killed_command_goes_on(make_volume, tmp_path):
    """``kill -9`` of the program, then the same command again."""
    low = tmp_path / "low.nii.gz"
    write_volume(textured(make_volume, (24, 16, 16)), low)
    command = [
        sys.executable,
        "-c",
        "from napari_mrsr.cli import main; main()",
        "run",
        str(low),
        "-o",
        str(tmp_path / "sr.nii.gz"),
        "--tile",
        "8",
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        lines, patience = tmp_path / ".sr.nii.gz.tiles" / LINES, time.monotonic() + 120
        while not (lines.exists() and lines.read_text().count("\n") >= 2):
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < patience
            time.sleep(0.02)
        process.kill()
    assert not (tmp_path / "sr.nii.gz").exists()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "tiles of an interrupted run are done already" in again.stderr
    assert (tmp_path / "sr.nii.gz").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["low.nii.gz", "sr.json", "sr.nii.gz"]
