"""How far a pass is, by what its layers take."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from toy_network import LAYERS, textured

from napari_mrsr.errors import Cancelled
from napari_mrsr.inference import Control, RunDone, RunOptions, engine, run
from napari_mrsr.inference import monitor as monitor_module
from napari_mrsr.inference.costs import Cost, known_cost, remember_cost
from napari_mrsr.inference.monitor import Monitor


class Slow(nn.Module):
    """Takes its time, on a clock that only it moves."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds, self.look = clock, seconds, lambda: None

    def forward(self, x):
        self.look()
        self.clock.now += self.seconds
        return x


class Looped(nn.Module):
    """A layer of 2 s, one of 4 s that comes `times` times, and one of 4 s."""

    def __init__(self, clock, times):
        super().__init__()
        self.first, self.again, self.last, self.times = Slow(clock, 2), Slow(clock, 4), Slow(clock, 4), times

    def forward(self, x):
        x = self.first(x)
        for _ in range(self.times):
            x = self.again(x)
        return self.last(x)


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=7.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(monitor_module, "time", clock)
    return clock


@contextmanager
def after_the_first_layer(clock, shares):
    """A network whose second layer reports from within, and its monitor."""
    network = Looped(clock, 1)
    network.again.on_chunk = None
    with Monitor(network, Control()) as monitor:
        monitor.expect(shares)
        monitor.restart()
        network.first(torch.zeros(1))
        yield network, monitor


def test_shares_are_those_of_the_time_and_a_layer_in_a_loop_counts_once(clock):
    network = Looped(clock, 2)
    with Monitor(network, Control()) as monitor:
        assert monitor.shares == ()
        monitor.restart()
        network(torch.zeros(1))
        assert monitor.shares == pytest.approx((2 / 14, 6 / 14, 1), abs=1e-4)
        monitor.expect((0.1, 0.3, 1.0))
        fractions = []
        for layer in (network.first, network.again, network.last):
            layer.look = lambda: fractions.append(monitor.fraction)
        monitor.restart()
        network(torch.zeros(1))
        assert fractions == pytest.approx([0, 0.1, 0.3, 0.3 + 4 * 0.3 / 6])
        assert monitor.fraction == 1
        monitor.expect(())
        assert monitor.fraction == 1


def test_progress_never_goes_back(clock):
    """Before the first word from within, time alone tells, and may tell too much."""
    with after_the_first_layer(clock, (0.4, 0.9, 1.0)) as (network, monitor):
        clock.now += 2
        assert monitor.fraction == pytest.approx(0.8)
        network.again.on_chunk(0.2)
        assert monitor.fraction == pytest.approx(0.8)
        network.again.on_chunk(0.9)
        assert monitor.fraction == pytest.approx(0.85)
        monitor.restart()
        assert monitor.fraction == 0


def test_trials_give_shares_and_speed(clock):
    network = Looped(clock, 1)
    with Monitor(network, Control()) as monitor:
        edges = []
        assert monitor.calibrate(lambda edge: edges.append(edge) or network(torch.zeros(1))) == pytest.approx(10 / edges[-1] ** 3)
        monitor.restart()
        network.first(torch.zeros(1))
        assert monitor.fraction == pytest.approx(0.2)


def test_what_reports_within_fills_the_gap_to_the_next_layer(clock):
    with after_the_first_layer(clock, (0.1, 0.5, 1.0)) as (network, monitor):
        network.again.on_chunk(0.25)
        assert monitor.fraction == pytest.approx(0.1 + 0.25 * 0.4)
        network.again(torch.zeros(1))
        assert monitor.fraction == 0.5
        clock.now += 3
        assert monitor.fraction == pytest.approx(0.5 + 0.5 * 3 / 6)
        clock.now += 30
        assert monitor.fraction == 1
    assert network.again.on_chunk is None


class Resting(Control):
    """Rests once, for 100 s of the clock."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def wait(self, seconds):
        self.clock.now += 100
        self.resume()


def test_rests_are_not_part_of_a_pass(clock):
    network, control = Looped(clock, 1), Resting(clock)
    with Monitor(network, control) as monitor:
        monitor.restart()
        network.again.look = control.pause
        network(torch.zeros(1))
        assert clock.now == 7 + 100 + 10
        assert monitor.shares == pytest.approx((0.2, 0.6, 1))


def test_a_pass_that_begins_after_the_end_is_not_begun(clock):
    control = Control()
    monitor = Monitor(Looped(clock, 1), control)
    control.cancel()
    with pytest.raises(Cancelled):
        monitor.restart()


def test_all_of_torch_happens_on_one_thread(make_volume, toy, monkeypatch):
    """Two threads that each use all cores would slow each other."""
    seen, real = {}, {name: getattr(engine, name) for name in ("set_up", "choose")}

    def watched(name):
        def call(*arguments):
            seen.setdefault(name, set()).add(threading.get_ident())
            return real[name](*arguments)

        return call

    for name in real:
        monkeypatch.setattr(engine, name, watched(name))
    forward = nn.Module.__call__
    monkeypatch.setattr(nn.Module, "__call__", lambda *a, **k: (seen.setdefault("network", set()).add(threading.get_ident()), forward(*a, **k))[1])
    events = list(run(textured(make_volume, (12, 12, 12)), RunOptions.create(model=toy, tile=8)))
    assert isinstance(events[-1], RunDone)
    (thread,) = set.union(*seen.values())
    assert set(seen) == {"set_up", "choose", "network"}
    assert thread != threading.get_ident()
    assert thread not in {t.ident for t in threading.enumerate()}


def test_shares_are_remembered_and_spare_the_next_run_its_trial(make_volume, toy, monkeypatch):
    monkeypatch.setattr(engine, "CALIBRATION_VOXELS", 1)
    monkeypatch.setattr(engine, "WORTH_KEEPING", 0.0)
    trials, calibrate = [], Monitor.calibrate
    monkeypatch.setattr(Monitor, "calibrate", lambda self, forward: trials.append(1) or calibrate(self, forward))
    keys, key = [], engine._cost_key
    monkeypatch.setattr(engine, "_cost_key", lambda *a: keys.append(key(*a)) or keys[-1])
    volume = textured(make_volume, (12, 12, 12))
    list(run(volume, RunOptions.create(model=toy)))
    shares = known_cost(keys[0]).shares
    assert trials == [1]
    assert len(shares) == LAYERS
    assert list(shares) == sorted(shares)
    assert shares[-1] == 1
    list(run(volume, RunOptions.create(model=toy)))
    assert trials == [1]
    remember_cost(keys[0], Cost(1e-6))
    list(run(volume, RunOptions.create(model=toy)))
    assert trials == [1, 1]
