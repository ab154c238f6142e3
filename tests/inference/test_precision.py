from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
import torch
from toy_network import Convolutions, textured

from napari_mrsr.inference import RunOptions, precision, super_resolve
from napari_mrsr.inference.precision import added_cost, candidates, choose, expected_psnr
from napari_mrsr.inference.setup import set_up
from napari_mrsr.intensity import intensity_range
from napari_mrsr.zoo import Card
from napari_mrsr.zoo.cards import Quality


@pytest.fixture(autouse=True)
def own_verdicts(monkeypatch, tmp_path):
    monkeypatch.delenv("NAPARI_MRSR_PRECISION")
    monkeypatch.setattr(precision, "verdicts_file", lambda: tmp_path / "cache" / "precision.json")
    monkeypatch.setattr(precision, "candidates", lambda _: ("bfloat16",))


@pytest.fixture
def feed(make_volume, toy):
    return set_up(textured(make_volume, (20, 18, 16)), RunOptions.create(model=toy), None).feed


def network(monkeypatch, error, fast):
    """Under autocast: an answer that is off by so much of the range, and sooner by so much."""
    good = Convolutions.forward

    def forward(self, lr, **more):
        out = good(self, lr)
        reduced = torch.is_autocast_enabled("cpu")
        time.sleep(0.0 if reduced == fast else 0.05)
        return out + (error if reduced else 0.0)

    monkeypatch.setattr(Convolutions, "forward", forward)


@pytest.mark.parametrize(
    ("error", "fast", "expected"), [(1e-5, True, "bfloat16"), (1e-5, False, "float32"), (5e-3, True, "float32"), (math.nan, True, "float32")]
)
def test_only_what_is_fast_and_good_enough_is_taken(monkeypatch, feed, error, fast, expected):
    network(monkeypatch, error, fast)
    assert choose(feed, "weights") == expected
    assert feed.precision == "float32"  # the run sets it


def test_cost_is_that_of_a_result_at_40_db():
    random = np.random.default_rng(0)
    truth = random.standard_normal((40, 40, 40))
    good = truth + 0.01 * random.standard_normal(truth.shape)
    added = 0.002 * random.standard_normal(truth.shape)

    def psnr(image):
        return -10 * np.log10(np.mean((image - truth) ** 2))

    assert psnr(good) == pytest.approx(40, abs=0.1)
    assert added_cost(good, good + added, 1.0) == pytest.approx(psnr(good) - psnr(good + added), abs=0.01)
    assert added_cost(good, good, 1.0) == 0


def test_a_model_is_judged_by_what_it_reaches():
    row = {"subject": "a", "convention": "mrsr-1", "protocol": "gaussian", "noise": 0.0, "ssim": {}}
    card = Card(name="m", title="M", architecture="toy", quality=[Quality(psnr={"m": p, "cubic": 50.0}, **row) for p in (30.0, 27.0)])
    assert expected_psnr(card) == 33.0
    assert expected_psnr(card.model_copy(update={"quality": ()})) == 40.0


def test_a_verdict_is_remembered_for_weights_and_program(monkeypatch, feed, tmp_path):
    network(monkeypatch, 1e-5, True)
    assert choose(feed, "a") == "bfloat16"
    network(monkeypatch, 1.0, True)
    assert choose(feed, "a") == "bfloat16"
    assert choose(feed, "b") == "float32"
    monkeypatch.setattr(torch, "__version__", "another")
    assert choose(feed, "a") == "float32"
    assert len(json.loads((tmp_path / "cache" / "precision.json").read_text())) == 3


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": 1}'])
def test_a_broken_memory_is_an_empty_one(monkeypatch, feed, tmp_path, text):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "precision.json").write_text(text)
    network(monkeypatch, 1e-5, True)
    assert choose(feed, "a") == "bfloat16"


def test_the_run_uses_and_tells_it(make_volume, toy):
    volume = textured(make_volume, (14, 12, 9))
    full, half = (super_resolve(volume, toy, precision=p) for p in ("float32", "bfloat16"))
    deviation = np.abs(full.data - half.data).max() / intensity_range(volume.data)
    assert 1e-5 < deviation < 0.05
    assert "bfloat16" in half.record["run"]["plan"]
    assert half.data.dtype == np.float32


def test_the_environment_decides_where_it_is_set(monkeypatch, feed):
    network(monkeypatch, 1e-5, True)
    monkeypatch.setenv("NAPARI_MRSR_PRECISION", "float32")
    assert choose(feed, "a") == "float32"


def test_cpus_without_instructions_for_it_are_not_tried(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert candidates(torch.device("cpu")) == ()
    assert candidates(torch.device("cuda")) == ("float16", "bfloat16")
    assert candidates(torch.device("mps")) == ()
