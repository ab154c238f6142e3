"""Opening and closing the viewer with all docks leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "cycles.py"
CYCLES = 23
SETTLED = 13
"""Cycles after which the allocator has its room."""
MIB_PER_CYCLE = 3.0
"""Growth that is allowed afterwards; one leaked volume of a run would already be more."""


@pytest.fixture(scope="module")
def cycles(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    command = [sys.executable, "-W", "ignore", str(SCRIPT), "--cycles", str(CYCLES), "--settings", str(home / "settings.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_no_widget_thread_process_or_dock_is_left(cycles):
    assert len(cycles) == CYCLES
    for kind in ("widgets", "pool", "children", "docks", "sessions", "volumes", "layers"):
        assert [line[kind] for line in cycles] == [0] * CYCLES, kind
    # Some of napari's come and go; one that stays adds to every later count.
    early, late = (min(line["threads"] for line in part) for part in (cycles[SETTLED : SETTLED + 5], cycles[-5:]))
    assert late <= early
    # Python's records of Qt's threads: one more may be made at any time, one of every cycle would be many by then.
    early, late = (min(line["foreign"] for line in part) for part in (cycles[SETTLED : SETTLED + 5], cycles[-5:]))
    assert late <= early + 1


@pytest.mark.slow
def test_memory_does_not_grow(cycles):
    early, late = (min(line["resident_mib"] for line in part) for part in (cycles[SETTLED : SETTLED + 5], cycles[-5:]))
    assert (late - early) / (CYCLES - SETTLED - 5) < MIB_PER_CYCLE
