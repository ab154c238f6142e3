"""The time left, told with a clock that only moves when the test says so."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from toy_network import LAYERS, Convolutions, Layer, textured

from napari_mrsr.inference import Control, Progress, Rested, RunOptions, engine, loop, run
from napari_mrsr.inference.pace import Pace

WITHIN = 0.2
"""Largest error of the time left after the first tenth of the work, as a share of it."""


class Clock:
    """Seconds that pass only where :attr:`now` is changed."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


# --- by itself ------------------------------------------------------------------------------------------------------------------------


def test_before_anything_is_known_nothing_is_told(clock):
    pace = Pace(1000, None, clock)
    assert pace.seconds_left() is None
    assert Pace(1000, 0.01, clock).seconds_left() == pytest.approx(10)
    assert pace.fraction() == 0


def test_what_is_measured_replaces_what_was_expected(clock):
    pace = Pace(1000, 5.0, clock)
    pace.begin(100)
    clock.now += 1
    pace.end()
    assert pace.seconds_left() == pytest.approx(9)
    assert pace.seconds_per_voxel == pytest.approx(0.01)
    assert pace.fraction() == pytest.approx(0.1)


def test_a_piece_under_way_counts_by_its_share(clock):
    pace = Pace(1000, None, clock)
    pace.begin(1000)
    clock.now += 2
    assert pace.seconds_left(0.2) == pytest.approx(8)
    assert pace.fraction(0.2) == pytest.approx(0.2)


def test_rests_do_not_count(clock):
    pace = Pace(1000, None, clock)
    pace.begin(500)
    clock.now += 1
    pace.rest(True)
    clock.now += 1000
    assert pace.seconds_left(0.2) == pytest.approx(9)
    pace.rest(False)
    clock.now += 4
    pace.end()
    assert pace.seconds_left() == pytest.approx(5)
    assert pace.spent == pytest.approx(5)


def test_what_was_given_up_does_not_count(clock):
    pace = Pace(1000, None, clock)
    for done in (False, True):
        pace.begin(100)
        clock.now += 1 if done else 50
        pace.end() if done else pace.give_up()
    assert pace.seconds_left() == pytest.approx(9)


def test_another_device_has_another_speed(clock):
    pace = Pace(1000, 0.001, clock)
    pace.begin(100)
    clock.now += 1
    pace.end()
    pace.change_speed()
    assert pace.seconds_left() is None
    pace.begin(100)
    clock.now += 100
    pace.end()
    assert pace.seconds_left() == pytest.approx(800)


# --- of whole runs --------------------------------------------------------------------------------------------------------------------


PER_VOXEL, PER_PASS = 1e-3, 0.5
"""Cost of what the network is given, in fake seconds."""


@pytest.fixture
def timed(monkeypatch, clock):
    """Networks take fake time; gives a function that runs one and returns (true time left, time told, fraction) by event."""
    good = Convolutions.forward

    def forward(self, lr, **more):
        clock.now += PER_VOXEL * lr.numel() + PER_PASS
        return good(self, lr)

    def pace(total, seconds_per_voxel=None):
        return Pace(total, seconds_per_voxel, clock)

    monkeypatch.setattr(Convolutions, "forward", forward)
    monkeypatch.setattr(engine, "Pace", pace)

    def follow(volume, model, control=None, on_event=lambda _: None, **options):
        told = []
        rested = 0.0
        for event in run(volume, RunOptions.create(model=model, **options), control=control or Control()):
            if isinstance(event, Progress):
                told.append((clock.now - rested, event.seconds_left, event.fraction))
            before = clock.now
            on_event(event)
            rested += clock.now - before
        end = told[-1][0]
        return [(end - now, left, fraction) for now, left, fraction in told]

    return follow


def assert_told_well(told):
    late = [(truth, left) for truth, left, fraction in told if 0.1 <= fraction < 1]
    assert len(late) > 3
    worst = max(abs(left - truth) / truth for truth, left in late if truth > 0)
    assert worst < WITHIN


def head_in_air(make_volume):
    """A block of tissue in empty air, off the middle."""
    inner = textured(make_volume, (26, 30, 34))
    data = np.zeros((60, 50, 70), np.float32)
    data[9:35, 12:42, 25:59] = inner.data + 200
    return inner.replace(data=data)


def test_tiles_of_unequal_size(make_volume, toy, timed):
    told = timed(textured(make_volume, (45, 30, 27)), toy, tile=10)
    assert_told_well(told)
    assert told[-1][1] == pytest.approx(0)


def test_air_left_out(make_volume, toy, timed):
    assert_told_well(timed(head_in_air(make_volume), toy, tile=9))


def test_the_slice_on_the_screen_first(make_volume, toy, timed):
    volume, control = textured(make_volume, (24, 22, 90)), Control()
    control.look(tuple(volume.affine[:3, :3] @ (12, 11, 60) + volume.affine[:3, 3]))
    told = timed(volume, toy, control=control, halo=LAYERS)
    assert [fraction for *_, fraction in told] == sorted(fraction for *_, fraction in told)
    told_tiles = timed(volume, toy, control=control, tile=12)
    assert_told_well(told_tiles)


def test_a_rest_between_tiles_changes_nothing(make_volume, toy, timed, clock):
    control, seen = Control(), []

    def rest(event):
        if isinstance(event, Progress) and event.tile == 3 and not seen:
            seen.append(event)
            control.pause()
        if isinstance(event, Rested) and event.resting:
            clock.now += 1e6
            threading.Timer(0.05, control.resume).start()

    told = timed(textured(make_volume, (45, 30, 27)), toy, control=control, on_event=rest, tile=10)
    assert seen
    assert_told_well(told)


def test_a_rest_inside_a_tile_changes_nothing(make_volume, toy, timed, clock, monkeypatch):
    """The second layer of the third tile waits for a run that rests, while hours go by."""
    monkeypatch.setattr(loop, "REPORT_EVERY", 0.005)
    control, good, passed, hours = Control(), Layer.forward, [], []

    def forward(self, x):
        passed.append(self)
        if len(passed) == 2 * (LAYERS - 1) + 1:
            control.pause()
        return good(self, x)

    def wait(event):
        if isinstance(event, Rested) and event.resting:
            hours.append(1)
            clock.now += 3600
            threading.Timer(0.05, control.resume).start()

    monkeypatch.setattr(Layer, "forward", forward)
    told = timed(textured(make_volume, (45, 30, 27)), toy, control=control, on_event=wait, tile=10)
    assert hours == [1]
    assert_told_well(told)
