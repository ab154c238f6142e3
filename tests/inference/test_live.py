"""A run that somebody watches: what is on the screen comes first, grows in place, rests and stops on request."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from toy_network import FLOAT32, LAYERS, Convolutions, Layer, textured

from napari_mrsr.errors import Cancelled
from napari_mrsr.inference import Control, Progress, Rested, RunDone, RunOptions, RunStarted, TileDone, loop, run, super_resolve
from napari_mrsr.inference.feed import Feed
from napari_mrsr.inference.order import TileQueue, distance
from napari_mrsr.inference.store import Store
from napari_mrsr.inference.tiles import halves, make_planes, make_tiles, slab
from napari_mrsr.intensity import intensity_range


def world(volume, voxel):
    return tuple(volume.affine[:3, :3] @ np.asarray(voxel, float) + volume.affine[:3, 3])


def watched(volume, model, at, axis=2, control=None, **options):
    control = control or Control()
    control.look(at, axis)
    return list(run(volume, RunOptions.create(model=model, **options), control=control))


# --- geometry -------------------------------------------------------------------------------------------------------------------------


def test_the_nearest_tile_comes_first_and_the_list_rules_without_a_focus():
    tiles = make_tiles([slice(0, 40)] * 3, (40, 40, 40), (10, 10, 10), 0, 1)
    assert TileQueue(tiles).pop() == [tiles[0]]
    at = [33.0, 5.0, 22.0]
    queue = TileQueue(tiles, lambda: at)
    (first,) = queue.pop()
    assert [s.start for s in first.core] == [30, 0, 20]
    at[:] = 0.0, 0.0, 0.0
    assert queue.pop() == [tiles[0]]
    seen = [distance(queue.pop()[0], at) for _ in range(len(queue))]
    assert seen == sorted(seen)


def test_planes_are_ordered_across_themselves():
    groups = make_planes(slice(0, 20), (30, 30, 20), 2, 4)
    assert TileQueue(groups, lambda: (0.0, 0.0, 13.0)).pop()[0].core[2] == slice(12, 16)


@pytest.mark.parametrize(("axis", "at"), [(0, 8.0), (1, 40.0), (2, 79.4)])
@pytest.mark.parametrize("multiple", [1, 8])
def test_a_slab_is_the_thinnest_block_of_the_lattice_that_holds_the_position(axis, at, multiple):
    region = (slice(8, 80), slice(0, 88), slice(4, 80))
    block = slab(region, axis, at, multiple)
    assert [b == r for b, r in zip(block, region, strict=True)] == [a != axis for a in range(3)]
    assert block[axis].start <= round(at) < block[axis].stop
    assert block[axis].stop - block[axis].start <= multiple
    (tile,) = make_tiles(block, (88, 88, 88), [100] * 3, multiple, multiple)
    assert tile.size[axis] <= 3 * multiple


def test_no_slab_outside_the_region():
    assert slab((slice(8, 80),) * 3, 2, 4.0, 8) is None


def test_tiles_that_another_one_covers_are_dropped():
    whole, *parts = (make_tiles([slice(0, 20)] * 3, (20,) * 3, edge, 2, 1) for edge in ((20,) * 3, (20, 20, 10), (10, 20, 20)))
    queue = TileQueue([*parts[0], *parts[1]])
    assert queue.drop_inside(parts[0][0]) == [parts[0][0]]
    assert len(queue) == 3
    assert len(queue.drop_inside(whole[0])) == 3
    assert len(queue) == 0


def test_tiles_of_one_size_come_together():
    tiles = make_tiles([slice(0, 35)] * 3, (35,) * 3, (10, 35, 35), 2, 1)
    sizes = [t.size for t in tiles]
    queue = TileQueue(tiles)
    taken = []
    while len(queue):
        group = queue.pop(2)
        assert len({t.size for t in group}) == 1
        taken.append(len(group))
    assert sum(taken) == len(sizes)
    assert max(taken) == 2


@pytest.mark.parametrize("stack", [None, 1])
def test_halves_do_the_same_work(stack):
    shape = (30, 25, 20)
    tile = (make_tiles([slice(0, n) for n in shape], shape, shape, 3, 4) if stack is None else make_planes(slice(0, 25), shape, stack, 25))[0]
    count = np.zeros(shape, int)
    parts = halves(tile, shape, 3, 4, 8)
    for part in parts:
        count[part.core] += 1
        assert part.voxels < tile.voxels
        assert part.stack == stack
    assert len(parts) == 2
    assert (count == 1).all()
    assert halves(make_planes(slice(3, 4), shape, 1, 1)[0], shape, 0, 1, 8) == []
    assert halves(make_tiles([slice(0, 8)] * 3, shape, (8, 8, 8), 3, 4)[0], shape, 3, 4, 8) == []


# --- what is looked at first -----------------------------------------------------------------------------------------------------------


def test_the_slice_on_the_screen_is_previewed_then_exact_within_a_quarter(make_volume, toy):
    volume = textured(make_volume, (24, 24, 96))
    at, gain = world(volume, (12, 12, 70)), intensity_range(volume.data)
    control = Control()
    control.look(at)
    seen, live, share = [], None, None
    for event in run(volume, RunOptions.create(model=toy), control=control):
        if isinstance(event, RunStarted):
            live = event.live
            started = np.array(live.data)
        if isinstance(event, TileDone):
            seen.append((event, np.array(live.data[..., 140:142])))
        if isinstance(event, Progress) and event.tile == 1 and share is None:
            share = event.fraction
    result = event.volume
    assert isinstance(event, RunDone)
    preview, exact = seen[0], seen[1]
    assert preview[0].preview
    assert not exact[0].preview
    assert preview[0].block == ((0, 48), (0, 48), (140, 142))
    np.testing.assert_allclose(exact[1], result.data[..., 140:142], atol=1e-6 * gain)
    assert 0 < np.abs(preview[1] - result.data[..., 140:142]).max() < 0.2 * gain
    assert share <= 0.3
    assert np.abs(started[..., 140:142] - result.data[..., 140:142]).max() > 0
    assert started.std() > 0.2 * volume.data.std()  # linear interpolation, not an empty image
    np.testing.assert_allclose(result.data, super_resolve(volume, toy).data, atol=FLOAT32 * gain)
    assert live.data is result.data


def test_moving_to_another_slice_changes_what_comes_next(make_volume, toy):
    volume, control = textured(make_volume, (16, 16, 64)), Control()
    control.look(world(volume, (8, 8, 5)))
    blocks = []
    for event in run(volume, RunOptions.create(model=toy, tile=16), control=control):
        if isinstance(event, TileDone) and not event.preview:
            blocks.append(event.block[2])
            control.look(world(volume, (8, 8, 60)))
    # The tile that is under way when the first one is shown is not thrown away.
    assert blocks == [(0, 32), (32, 64), (96, 128), (64, 96)]


def test_a_run_nobody_watches_has_no_previews_and_one_tile(make_volume, toy):
    events = list(run(textured(make_volume, (24, 24, 96)), RunOptions.create(model=toy)))
    assert [e.preview for e in events if isinstance(e, TileDone)] == [False]


def test_finished_tiles_are_written_while_the_next_ones_are_computed(make_volume, toy, monkeypatch):
    volume = textured(make_volume, (16, 16, 64))
    expected = super_resolve(volume, toy, tile=16)
    begun, overlapped = [threading.Event() for _ in range(4)], []
    compute, write = Feed.run_batch, loop.paste
    starts = iter(begun)

    def run_batch(self, tiles, recorder=None):
        next(starts).set()
        return compute(self, tiles, recorder)

    def paste(*arguments):
        following = len(overlapped) + 1
        overlapped.append(following == len(begun) or begun[following].wait(20))
        return write(*arguments)

    monkeypatch.setattr(Feed, "run_batch", run_batch)
    monkeypatch.setattr(loop, "paste", paste)
    result = super_resolve(volume, toy, tile=16)
    assert overlapped == [True] * 4
    np.testing.assert_array_equal(result.data, expected.data)


def test_what_is_finished_is_written_when_a_run_is_stopped(make_volume, toy):
    volume, control = textured(make_volume, (16, 16, 64)), Control()
    events = run(volume, RunOptions.create(model=toy, tile=16), control=control)
    live = next(events).live
    before = np.array(live.data)
    for event in events:
        if isinstance(event, Progress) and event.tile == 2:
            control.cancel()
            break
    with pytest.raises(Cancelled):
        list(events)
    changed = [bool((live.data[..., 32 * i : 32 * i + 32] != before[..., 32 * i : 32 * i + 32]).any()) for i in range(4)]
    assert sum(changed) == 2


# --- rest and stop --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch):
    """Layers that take their time, and how many have run."""
    monkeypatch.setattr(loop, "REPORT_EVERY", 0.005)
    calm, passed = Layer.forward, []

    def forward(self, x):
        time.sleep(0.02)
        passed.append(self)
        return calm(self, x)

    monkeypatch.setattr(Layer, "forward", forward)
    return passed


def test_pause_rests_inside_a_tile_and_the_result_is_the_same(make_volume, toy, slow):
    volume, control = textured(make_volume, (14, 12, 9)), Control()
    expected = super_resolve(volume, toy, tile=8).data
    slow.clear()
    states, counts = [], []
    for event in run(volume, RunOptions.create(model=toy, tile=8), control=control):
        if isinstance(event, Progress) and event.tile == 3 and not states:
            control.pause()
            threading.Timer(0.3, lambda: (counts.append(len(slow)), control.resume())).start()
        if isinstance(event, Rested):
            states.append(event.resting)
            counts.append(len(slow))
    assert states == [True, False]
    assert counts[1] - counts[0] <= 1  # what was under way when it was asked
    assert len(slow) == 8 * (LAYERS - 1)  # nothing is done twice on a CPU
    np.testing.assert_array_equal(event.volume.data, expected)


def test_a_resting_run_can_be_stopped(make_volume, toy, slow):
    control, events = Control(), []

    def follow():
        for event in run(textured(make_volume, (14, 12, 9)), RunOptions.create(model=toy, tile=8), control=control):
            events.append(event)
            if isinstance(event, Progress):
                control.pause()
            if isinstance(event, Rested):
                control.cancel()

    with pytest.raises(Cancelled):
        follow()
    assert not any(isinstance(event, RunDone) for event in events)


# --- air and where results grow -------------------------------------------------------------------------------------------------------


def test_air_is_not_computed_and_tissue_is_the_same(make_volume, toy, monkeypatch):
    inner = textured(make_volume, (20, 22, 18))
    data = np.zeros((60, 60, 60), np.float32)
    data[20:40, 20:42, 20:38] = inner.data + 200
    volume = inner.replace(data=data)
    whole = super_resolve(volume, toy, skip_air=False)
    seen, good = [], Convolutions.forward
    monkeypatch.setattr(Convolutions, "forward", lambda self, lr, **more: (seen.append(lr[0, 0].numel()), good(self, lr))[1])
    part = super_resolve(volume, toy)
    assert sum(seen) < 0.5 * data.size
    assert "air left out" in part.record["run"]["plan"]
    assert "air" not in whole.record["run"]["plan"]
    body = (slice(40, 80), slice(40, 84), slice(40, 76))
    np.testing.assert_allclose(part.data[body], whole.data[body], atol=FLOAT32 * 1000)
    assert (part.data[:10] == 0).all()


def test_large_results_grow_in_files_that_go_with_them(make_volume, toy, monkeypatch, tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    volume = textured(make_volume, (9, 9, 9))
    expected = super_resolve(volume, toy)
    with monkeypatch.context() as full:
        full.setattr("tempfile.tempdir", str(folder))
        full.setattr("napari_mrsr.inference.store.MEMORY_SHARE", 0.0)
        result = super_resolve(volume, toy)
    assert isinstance(result.data, np.memmap)
    assert list(folder.iterdir()) == []
    np.testing.assert_array_equal(result.data, expected.data)


def test_a_stopped_run_leaves_no_file(make_volume, toy, tmp_path):
    folder, control = tmp_path / "exchange", Control()
    folder.mkdir()
    events = run(textured(make_volume, (9, 9, 9)), RunOptions.create(model=toy), control=control, folder=folder)
    next(events)
    assert len(list(folder.iterdir())) == 1
    control.cancel()
    with pytest.raises(Cancelled):
        list(events)
    assert list(folder.iterdir()) == []


def test_a_store_starts_empty(tmp_path):
    for folder in (None, tmp_path):
        store = Store((3, 4, 5), ("", "map"), folder)
        assert {name: (a.shape, a.dtype, a.any()) for name, a in store.arrays.items()} == dict.fromkeys(
            ("", "map"), ((3, 4, 5), np.float32, np.False_)
        )
        store.close()
    assert list(tmp_path.iterdir()) == []
