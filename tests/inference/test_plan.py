"""What the planner chooses, says and refuses."""

from __future__ import annotations

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from toy_network import FLOAT32, LAYERS, Convolutions, textured

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.errors import InputError, OutputError, RunError
from napari_mrsr.inference import Control, Noticed, Progress, RunOptions, RunStarted, TileDone, costs, engine, plan, run, super_resolve
from napari_mrsr.inference.background import busy_mask
from napari_mrsr.inference.control import Look
from napari_mrsr.inference.costs import Cost
from napari_mrsr.inference.options import prepare
from napari_mrsr.inference.plan import Plan, duration, lr_position, make_plan, size
from napari_mrsr.inference.tiles import make_planes, make_tiles
from napari_mrsr.intensity import intensity_range
from napari_mrsr.io import write_volume
from napari_mrsr.networks import Architecture, create
from napari_mrsr.networks import registry as registry_module
from napari_mrsr.samples import read_sample

CPU = torch.device("cpu")


def with_free(monkeypatch, free, name="cpu"):
    monkeypatch.setattr(plan, "list_devices", lambda: [{"name": name, "title": "", "free": free}])


def planned(volume, model, look=None, **options):
    """Plan of a run without running it."""
    chosen = RunOptions.create(model=model, **options)
    job = prepare(volume, chosen)
    return make_plan(job, create(job.card.architecture, 2, **job.card.options), CPU, chosen.tile, None, look, chosen.batch)


def world(volume, voxel):
    return tuple(volume.affine[:3, :3] @ np.asarray(voxel, float) + volume.affine[:3, 3])


# --- the line ---------------------------------------------------------------------------------------------------------------------------


def test_the_plan_is_one_line():
    tiles = make_tiles([slice(0, 192)] * 3, (192,) * 3, (96,) * 3, 8, 8)
    one = Plan("cuda:0", tuple(tiles), 8, int(3.1 * 2**30), precision="float16", expected=40.2)
    assert f"{one.summary}, {duration(one.seconds)}" == "8 tiles of 96x96x96 voxels, margin 8, float16, 3.1 GiB on cuda:0, about 40 s"
    planes = Plan("cpu", tuple(make_planes(slice(0, 30), (64, 64, 30), 2, 4)), 0, 50 * 2**20, air=0.25, times=4, expected=60.0)
    assert f"{planes.summary}, {duration(planes.seconds)}" == "30 slices in 8 groups, float32, 50 MiB on cpu, 25 % air left out, 4 times, about 4 min"
    json.dumps(one.record(), allow_nan=False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "first run: time not known yet"),
        (0.3, "about a second"),
        (7.2, "about 7 s"),
        (43.4, "about 43 s"),
        (89.6, "about 90 s"),
        (150, "about 2 min"),
        (5400, "about 1.5 h"),
    ],
)
def test_times_for_people(seconds, text):
    assert duration(seconds) == text


def test_sizes_for_people():
    assert (size(3.14 * 2**30), size(2**20 * 7)) == ("3.1 GiB", "7 MiB")


# --- costs ------------------------------------------------------------------------------------------------------------------------------


def test_the_second_run_knows_what_the_first_one_took(make_volume, toy, monkeypatch):
    monkeypatch.setattr(engine, "WORTH_KEEPING", 0.0)
    volume = textured(make_volume, (20, 18, 16))
    first, *_, last = run(volume, RunOptions.create(model=toy))
    assert first.plan.endswith("first run: time not known yet")
    (cost,) = json.loads(costs.costs_file().read_text()).values()
    assert 0 < cost["seconds"] < last.seconds / (20 * 18 * 16)
    second, *more = run(volume, RunOptions.create(model=toy))
    assert second.plan.endswith(duration(cost["seconds"] * 20 * 18 * 16))
    assert more[-1].volume.record["run"]["plan"] in second.plan


def test_short_runs_tell_nothing(make_volume, toy):
    super_resolve(textured(make_volume, (9, 9, 9)), toy)
    assert not costs.costs_file().exists()


@pytest.mark.parametrize("change", ["network", "precision", "torch", "threads"])
def test_costs_hold_for_what_they_were_measured_on(monkeypatch, change):
    key = partial(costs.cost_key, device=CPU)
    costs.remember_cost(key("a", precision="float32"), Cost(1e-6, 500))
    assert costs.known_cost(key("a", precision="float32")) == Cost(1e-6, 500)
    if change == "torch":
        monkeypatch.setattr(torch, "__version__", "another")
    if change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert costs.known_cost(key("b" if change == "network" else "a", precision="float16" if change == "precision" else "float32")) is None


@pytest.mark.parametrize(
    "entry", ['{"seconds": "x"}', '{"seconds": -1.0}', '{"seconds": NaN}', "7", '{"second": 1}', "[", '{"seconds": 1, "bytes": -1}']
)
def test_broken_costs_are_unknown(entry):
    costs.costs_file().write_text('{"k": ' + entry + "}")
    assert costs.known_cost("k") is None


def test_measured_memory_decides_the_tile(make_volume, toy, monkeypatch):
    volume = textured(make_volume, (40, 38, 37))
    with_free(monkeypatch, 2 * 1000 * 40 * 38 * 37)
    job = prepare(volume, RunOptions.create(model=toy))
    network = create("toy", 2)
    as_modelled, as_measured = make_plan(job, network, CPU), make_plan(job, network, CPU, cost=Cost(1e-6, 8000))
    assert len(as_modelled.tiles) == 1 < len(as_measured.tiles)
    assert as_measured.peak_bytes <= 1000 * 40 * 38 * 37
    assert as_measured.seconds == pytest.approx(1e-6 * as_measured.voxels)
    assert as_measured.voxels > as_modelled.voxels  # margins are work


# --- by hand ----------------------------------------------------------------------------------------------------------------------------


def test_what_is_asked_for_by_hand_is_done_and_recorded(make_volume, toy):
    volume = textured(make_volume, (20, 18, 16))
    record = super_resolve(volume, toy, tile=10, halo=5, batch=2, precision="float32").record["run"]
    assert record["planned"] | {"peak_bytes": 0} == {
        "device": "cpu", "tiles": 8, "largest_tile": [15, 14, 13], "halo": 5, "batch": 2, "precision": "float32", "peak_bytes": 0, "air": 0.0,
    } | ({"attention": "window"} if "attention" in record["planned"] else {})  # fmt: skip
    assert (record["options"]["halo"], record["options"]["batch"]) == (5, 2)


def test_a_tile_larger_than_memory_is_refused_with_numbers(make_volume, toy, monkeypatch):
    with_free(monkeypatch, 10 * 2**20)
    volume = textured(make_volume, (40, 40, 40))
    with pytest.raises(InputError, match=r"A tile of 30 voxels with its margin of 3 needs 1[12] MiB, 10 MiB are free on cpu; choose a smaller"):
        super_resolve(volume, toy, tile=30)
    with pytest.raises(InputError, match=r"The tiles asked for need \d+ MiB, 10 MiB are free"):
        super_resolve(volume, toy, tile=12, batch=8)
    assert super_resolve(volume, toy, tile=12).shape == (80, 80, 80)


def test_a_device_that_has_gone_is_told(make_volume, toy, monkeypatch):
    answers = iter(([{"name": "cpu", "title": "", "free": 2**30}], [{"name": "cuda:0", "title": "", "free": 2**30}]))
    monkeypatch.setattr(plan, "list_devices", lambda: next(answers))
    with pytest.raises(RunError, match="cpu is not there any more; choose another device"):
        super_resolve(textured(make_volume, (9, 9, 9)), toy)


def test_a_device_that_goes_while_the_network_is_loaded_is_told(make_volume, toy, monkeypatch):
    def gone(*_, **__):
        raise RuntimeError("CUDA error: no CUDA-capable device is detected\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(Convolutions, "to", gone)
    with pytest.raises(RunError) as caught:
        super_resolve(textured(make_volume, (9, 9, 9)), toy)
    assert str(caught.value) == "The run cannot start on the device auto: CUDA error: no CUDA-capable device is detected; choose another one."


# --- together ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [2, 3, 50])
def test_tiles_together_give_the_same_as_one_by_one(make_volume, toy, monkeypatch, batch):
    volume = textured(make_volume, (35, 21, 20))
    expected, gain = super_resolve(volume, toy, tile=9).data, intensity_range(volume.data)
    counts, good = [], Convolutions.forward
    monkeypatch.setattr(Convolutions, "forward", lambda self, lr, **more: (counts.append(len(lr)), good(self, lr))[1])
    events = list(run(volume, RunOptions.create(model=toy, tile=9, batch=batch)))
    tiles = events[0].tiles
    assert sum(counts) == tiles
    assert 1 < max(counts) <= batch
    assert [e for e in events if isinstance(e, Progress)][-1].tile == tiles
    assert sum(isinstance(e, TileDone) for e in events) == tiles
    np.testing.assert_allclose(events[-1].volume.data, expected, atol=FLOAT32 * gain)


def test_small_tiles_go_together_where_a_device_would_idle():
    cpu, gpu = (plan._Memory(1000, 2**36, name) for name in ("cpu", "cuda:0"))
    assert plan._together(24**3, 100, cpu) == 1
    assert plan._together(24**3, 100, gpu) == 64**3 // 24**3
    assert plan._together(24**3, 4, gpu) == 4
    assert plan._together(96**3, 100, gpu) == 1
    assert plan._together(24**3, 100, plan._Memory(1000, 2 * 1000 * 24**3 * 3, "cuda:0")) == 3


def test_memory_that_ends_with_many_at_once_costs_only_fewer(make_volume, toy, monkeypatch):
    volume = textured(make_volume, (35, 21, 20))
    expected, gain = super_resolve(volume, toy).data, intensity_range(volume.data)
    counts, good = [], Convolutions.forward

    def forward(self, lr, **more):
        counts.append(len(lr))
        if len(lr) > 2:
            raise torch.OutOfMemoryError("full")
        return good(self, lr)

    monkeypatch.setattr(Convolutions, "forward", forward)
    events = list(run(volume, RunOptions.create(model=toy, tile=9, batch=8)))
    told = [f"cpu ran out of memory; going on with {math.ceil(n / 2)} tiles at once." for n in counts if n > 2]
    assert [e.message for e in events if isinstance(e, Noticed)] == told
    assert told
    assert counts[-1] <= 2
    np.testing.assert_allclose(events[-1].volume.data, expected, atol=FLOAT32 * gain)


# --- the slice on the screen --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lattice(add_model, monkeypatch):
    """A model with the margin and lattice of the shipped CFTN, on a toy."""
    architecture = Architecture("toy", "Toy", "", Convolutions, size_multiple=8, halo=lambda _: 8, bytes_per_voxel=lambda _: 10)
    monkeypatch.setitem(registry_module.importlib.import_module("toy_networks").ARCHITECTURES, "toy", architecture)
    return add_model()


def shares(one, job, look):
    """Share of the work before the slice is exact, and how much more work the whole is than in one piece."""
    at = round(lr_position(job, look.at)[look.axis])
    first = 0
    for tile in one.tiles:
        first += tile.voxels
        if tile.core[look.axis].start <= at < tile.core[look.axis].stop:
            break
    return first / one.voxels, one.voxels / one.tiles[-1].voxels - 1


@pytest.mark.parametrize("slices", [72, 88, 104, 128, 240])
def test_the_slice_on_the_screen_is_exact_within_a_quarter(make_volume, lattice, slices):
    volume = make_volume((16, 16, slices), (2, 2, 2))
    job = prepare(volume, RunOptions.create(model=lattice))
    for k in (0, 3, slices // 2, slices - 1):
        look = Look(world(volume, (8, 8, k)), 2)
        one = planned(volume, lattice, look)
        share, more = shares(one, job, look)
        assert len(one.tiles) == 2
        assert share <= 0.25 + 1e-9
        assert more <= 24 / slices + 1e-9
    assert slices < 240 or more <= 0.1


def test_few_slices_have_no_room_for_a_slab(make_volume, lattice):
    volume = make_volume((16, 16, 64), (2, 2, 2))
    assert len(planned(volume, lattice, Look(world(volume, (8, 8, 30)), 2)).tiles) == 1


def test_tiles_that_show_the_slice_early_need_no_slab(make_volume, lattice, monkeypatch):
    with_free(monkeypatch, 2 * 10 * 24 * 24 * 96)
    volume = make_volume((24, 24, 400), (2, 2, 2))
    one = planned(volume, lattice, Look(world(volume, (8, 8, 150)), 2))
    assert len(one.tiles) > 4
    assert one.tiles[0].core[2].start == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_shipped_sample_shows_its_slice_within_a_quarter(axis):
    low = degrade(read_sample("arc2017_T1w"), Degradation())
    options = RunOptions.create(model="cftn-x2")
    job = prepare(low, options)
    busy = busy_mask(low.data, low.voxel_size, job.noise_sigma)
    centre = world(low, [n / 2 for n in low.shape])
    network = create("cftn", 2, **job.card.options)
    alone, seen = (make_plan(job, network, CPU, None, busy, look) for look in (None, Look(centre, axis)))
    if len(alone.tiles) > 1:
        pytest.skip("the memory that is free is too little for one tile")
    share, more = shares(seen, job, Look(centre, axis))
    cut = alone.tiles[0].size[axis]
    assert (share <= 0.25) == (cut >= 72)
    assert more == pytest.approx(24 / cut if cut >= 72 else 0)


def test_where_somebody_looks_does_not_change_the_result(make_volume, lattice):
    volume, control = textured(make_volume, (16, 16, 80)), Control()
    control.look(world(volume, (8, 8, 33)))
    events = list(run(volume, RunOptions.create(model=lattice), control=control))
    np.testing.assert_array_equal(events[-1].volume.data, super_resolve(volume, lattice).data)
    blocks = [e.block[2] for e in events if isinstance(e, TileDone)]
    assert blocks == [(66, 68), (64, 80), (0, 160)]
    fractions = [e.fraction for e in events if isinstance(e, Progress)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


def test_an_eye_that_moves_before_the_slab_costs_no_slab(make_volume, lattice):
    volume, control = textured(make_volume, (16, 16, 80)), Control()
    control.look(world(volume, (8, 8, 33)))
    events = []
    for event in run(volume, RunOptions.create(model=lattice), control=control):
        events.append(event)
        if isinstance(event, RunStarted):
            control.look(world(volume, (8, 8, 70)))
    assert [e.block[2] for e in events if isinstance(e, TileDone) and not e.preview] == [(0, 160)]
    last = [e for e in events if isinstance(e, Progress)][-1]
    assert (last.fraction, last.tile, last.tiles) == (1, 2, 2)


# --- disks ------------------------------------------------------------------------------------------------------------------------------


def test_a_disk_without_room_for_the_tiles_is_told_with_numbers(make_volume, toy, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    volume = textured(make_volume, (9, 9, 9))
    with pytest.raises(RunError, match=r"Finished tiles need 0.00 GiB in .*, \d+\.\d\d GiB are free there \(No space left on device\); free space"):
        list(run(volume, RunOptions.create(model=toy), keep=tmp_path / "tiles"))
    assert list(tmp_path.glob("*")) == list(tmp_path.glob("toy*"))
    monkeypatch.setattr("napari_mrsr.inference.store.MEMORY_SHARE", 0.0)
    with pytest.raises(RunError, match=r"The result needs 0.00 GiB in .*, \d+\.\d\d GiB are free there"):
        super_resolve(volume, toy)


def test_a_disk_without_room_for_the_result_is_told_before_the_work(make_volume, monkeypatch, tmp_path):
    from napari_mrsr.cli import common

    volume = make_volume((9, 9, 9))
    monkeypatch.setattr(common.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(OutputError, match=r"0.00 GiB are free, the result needs 0.00 GiB; free space"):
        common.check_space([tmp_path / "a.nii"], volume)
    monkeypatch.undo()
    common.check_space([tmp_path / "a.nii"], volume)
    common.check_space([], volume)


def test_a_margin_is_what_was_asked_for(make_volume, toy):
    volume = textured(make_volume, (20, 18, 16))
    assert planned(volume, toy, tile=10, halo=0).halo == 0
    assert planned(volume, toy, tile=10).halo == LAYERS
    assert math.prod(planned(volume, toy, tile=10, halo=0).tiles[0].size) == 10 * 9 * 8


# --- the command line ---------------------------------------------------------------------------------------------------------------------


def test_the_command_prints_the_plan_and_takes_it_by_hand(make_volume, console, tmp_path):
    low = tmp_path / "low.nii"
    write_volume(textured(make_volume, (26, 20, 18)), low)
    by_hand = ("--tile", 13, "--halo", 8, "--batch", 2, "--precision", "float32", "--device", "cpu")
    done = console("run", low, "-o", tmp_path / "high.nii", "--model", "cftn-x2", *by_hand)
    assert done.code == 0, done.err
    assert "tiles of 13x10x9 voxels, 2 at once, margin 8, float32, " in done.err
    assert "first run: time not known yet" in done.err
    refused = console("run", low, "-o", tmp_path / "other.nii", "--model", "cftn-x2", "--halo", -1)
    assert refused.code == 2
    assert "halo" in refused.err
