"""A small piece run first."""

from __future__ import annotations

import io
import json
import os

import numpy as np
import pytest

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.errors import InputError
from napari_mrsr.inference import RunOptions, worker
from napari_mrsr.inference.exchange import exchange_folder, put_volume
from napari_mrsr.inference.guard import Level
from napari_mrsr.inference.trial import EDGE, try_piece
from napari_mrsr.samples import read_sample
from napari_mrsr.zoo import WEIGHTS


@pytest.fixture(scope="module")
def low():
    return degrade(read_sample("arc2017_T1w"), Degradation())


def test_a_result_that_explains_its_input_is_green(low):
    found = try_piece(low, RunOptions.create(model="back-projection"))
    assert found.level is Level.GREEN
    assert f"{EDGE} x {EDGE} x {EDGE} voxels" in found.text


def test_a_network_that_invents_is_red_whatever_else_was_asked(low, toy):
    found = try_piece(low, RunOptions.create(model=toy, ensemble=True, maps=("no-such-map",), roi=(900, 900, 900, 901, 901, 901)))
    assert found.level is Level.RED
    assert "cubic interpolation by" in found.text


def test_cubic_is_no_better_than_itself(low):
    assert try_piece(low.replace(record={}), RunOptions.create(model="cubic")).level is Level.RED


@pytest.mark.skipif(not (WEIGHTS / "cftn-x2.json").exists(), reason="no trained weights are installed")
def test_the_shipped_network_explains_the_shipped_head(low):
    assert try_piece(low, RunOptions.create(model="cftn-x2")).level is Level.GREEN


def test_the_piece_lies_in_the_head_and_may_be_thinner_than_wished(low, toy):
    padded = np.pad(low.data[:, :, 40:52], ((90, 0), (0, 90), (0, 0)))
    found = try_piece(low.replace(data=padded, record={}), RunOptions.create(model=toy))
    assert f"{EDGE} x {EDGE} x 12 voxels" in found.text


def test_constant_volumes_are_refused(make_volume, toy):
    with pytest.raises(InputError, match="same value"):
        try_piece(make_volume((9, 9, 9)).replace(data=np.full((9, 9, 9), 2.0)), RunOptions.create(model=toy))


def test_the_worker_tries_pieces(low, toy, monkeypatch):
    monkeypatch.setattr(worker.os, "_exit", lambda _: None)
    folder, answers = exchange_folder(), io.StringIO()
    command = {"command": "try", "id": 7, "folder": str(folder), "volume": put_volume(low, folder), "reference": None}
    served = worker.Worker(answers)
    served._guarded(served._try, {**command, "options": RunOptions.create(model=toy).model_dump(mode="json")})
    served._guarded(served._try, {**command, "id": 8, "volume": put_volume(low, folder), "options": {"model": "wonder"}})
    tried, failed = (json.loads(line) for line in answers.getvalue().splitlines())
    assert (tried["event"], tried["id"], tried["level"]) == ("tried", 7, "red")
    assert (failed["event"], failed["id"]) == ("failed", 8)
    assert "Unknown model" in failed["message"]
    os.rmdir(folder)
