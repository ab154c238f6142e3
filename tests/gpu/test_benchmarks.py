"""The scripts that measure the engine, and ask a graphics processor its questions, run (here on the CPU, as small as they go)."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_mrsr.inference import engine

pytest.importorskip("monai")
SCRIPTS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch, tmp_path):
    """A script as a module, with folders of its own, that leaves this process's memory and threads as they are."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("napari_mrsr.inference.process.tune_process", lambda: None)
    monkeypatch.setattr(engine, "set_up", engine.set_up)  # the script replaces it; put back afterwards
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])

    def load(name):
        spec = importlib.util.spec_from_file_location(f"bench_{name}", SCRIPTS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load


PEAK = {"gemm float32": 100.0, "conv2d float32": 300.0, "conv3d float32": 200.0}


@pytest.mark.parametrize(("name", "dimension"), [("fdvit shipped x2", 2), ("cohft shipped x4", 2), ("cftn shipped x2", 3)])
def test_all_methods_of_a_row_give_one_result(script, tmp_path, name, dimension):
    engine = script("engine")
    found, images = {}, {}
    for method in engine.METHODS:
        found[method] = engine.measure(name, "tiny", method, "cpu", tmp_path / "out.npy")
        images[method] = np.load(tmp_path / "out.npy")
    row = engine._compared(engine.ROWS[name].shapes["tiny"], engine.ROWS[name].shapes["full"], found, images, PEAK, dimension)
    assert found["ours float32"]["seam"] < 1e-5
    assert found["monai"]["seam"] < 0.05
    assert found["plain"]["seam"] < 0.05
    assert found["ours float32"]["precision"] == "float32"
    assert 0 < found["ours watched"]["first_share"] <= 1
    assert row["network_of_peak"] == pytest.approx(found["network"]["flop"] / found["network"]["seconds"] / 1e9 / (300 if dimension == 2 else 200))
    text = engine.table({"machine": "m", "device": "cpu", "size": "tiny", "repeat": 1, "peak_gflops": PEAK, "rows": {name: row}})
    assert name in text
    json.dumps(row)


def test_every_network_is_there_at_paper_scale_and_as_shipped(script):
    rows = script("rows")
    kinds = {(row.architecture, bool(row.recipe)) for row in rows.ROWS.values()}
    assert kinds == {(name, shipped) for name in ("cftn", "fdvit", "dcamsr", "cohft", "transmrsr") for shipped in (True, False)}
    assert all(set(row.shapes) == {"tiny", "small", "full"} for row in rows.ROWS.values())


@pytest.mark.parametrize("check", ["convolutions", "sdpa", "shares", "batches"])
def test_questions_to_a_graphics_processor_can_be_asked(script, check):
    checks = script("gpu_checks")
    found = getattr(checks, check)("cpu", True)
    assert len(found) >= 4
    assert any((isinstance(v, float) and v > 0) or (isinstance(v, dict) and v["seconds"] > 0) for v in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("check", ["attention", "precision", "training"])
def test_long_questions_to_a_graphics_processor_can_be_asked(script, check):
    assert getattr(script("gpu_checks"), check)("cpu", True)


def test_a_question_that_fails_does_not_end_the_others(script, monkeypatch):
    checks = script("gpu_checks")

    def broken(device, tiny):
        """1: nothing."""
        raise RuntimeError("no kernel image\nand more")

    monkeypatch.setattr(checks, "CHECKS", (broken, checks.sdpa))
    found = checks.checks("cpu", tiny=True)
    assert found["broken"] == {"failed": "no kernel image"}
    assert "fp32, chosen" in found["sdpa"]
    assert "no kernel image" in checks.text(found)
