from __future__ import annotations

import json
import logging
import math
import time
from functools import cache

import numpy as np
import pytest
import torch
from toy_network import FLOAT32, LAYERS, Convolutions, Layer, textured

import napari_mrsr
from napari_mrsr.degradation import Degradation, degrade, get_protocol
from napari_mrsr.errors import Cancelled, InputError, RunError
from napari_mrsr.grid import lattice_offset
from napari_mrsr.inference import Control, Noticed, Progress, RunDone, RunOptions, RunStarted, TileDone, engine, loop, plan, run, super_resolve
from napari_mrsr.inference.monitor import Interrupted, Monitor
from napari_mrsr.intensity import intensity_range
from napari_mrsr.networks import create
from napari_mrsr.volume import Volume
from napari_mrsr.zoo import WEIGHTS, get_card, list_models

CLASSIC = ("nearest", "cubic", "lanczos", "zero-fill", "back-projection")


@pytest.fixture
def cftn(add_model):
    """The shipped network, or a small random one where none is shipped."""
    if (WEIGHTS / "cftn-x2.json").exists():
        return "cftn-x2"
    return add_model("cftn-small", "cftn", options=SMALL_CFTN, window=8, halo=24, halo_error=small_cftn_error())


SMALL_CFTN = {"channels": 4, "blocks": 2, "ca_reduction": 2}


@cache
def small_cftn_error():
    """What a trained network's card would state; some seconds."""
    from napari_mrsr.training.jobs import halo_error

    torch.manual_seed(2)
    return halo_error(create("cftn", 2, **SMALL_CFTN), 8, 24, 8)


def deviation(a, b, gain):
    """Largest difference as a fraction of the range."""
    return float(np.abs(a - b).max()) / gain


def edges(volume):
    """World positions of the two outermost voxel corners."""
    corners = np.array([[-0.5] * 3, [n - 0.5 for n in volume.shape]])
    return corners @ volume.affine[:3, :3].T + volume.affine[:3, 3]


# --- tiles ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("shape", [(21, 19, 17), (9, 24, 16)])
@pytest.mark.parametrize(("architecture", "options"), [("toy", {}), ("anchored", {"cell": 4})])
def test_tiles_equal_the_whole_by_maximum_error(make_volume, add_model, architecture, options, shape, scale):
    name = add_model("net", architecture, scale, options)
    volume = textured(make_volume, shape)
    gain = intensity_range(volume.data)
    whole = super_resolve(volume, name)
    tiled = super_resolve(volume, name, tile=8)
    assert whole.record["run"]["plan"].startswith("1 tile of")
    assert tiled.record["run"]["plan"].startswith(f"{math.prod(math.ceil(n / 8) for n in shape)} tiles of")
    assert whole.data.std() > 0.01 * gain
    assert deviation(tiled.data, whole.data, gain) < FLOAT32
    np.testing.assert_array_equal(tiled.affine, whole.affine)


def test_a_margin_one_voxel_too_small_would_be_seen(make_volume, add_model):
    name = add_model(halo=LAYERS - 1)
    volume = textured(make_volume, (21, 19, 17))
    assert deviation(super_resolve(volume, name, tile=8).data, super_resolve(volume, name).data, intensity_range(volume.data)) > 100 * FLOAT32


def test_tiles_of_the_shipped_network_stay_within_its_stated_error(make_volume, cftn):
    card = get_card(cftn)
    volume = textured(make_volume, (74, 17, 18))
    gain = intensity_range(volume.data)
    whole = super_resolve(volume, cftn, noise=1)
    tiled = super_resolve(volume, cftn, noise=1, tile=20)
    assert tiled.record["run"]["plan"].startswith("4 tiles of")
    assert card.halo_error is not None
    assert card.halo_error < 0.01
    assert deviation(tiled.data, whole.data, gain) <= card.halo_error + FLOAT32


@pytest.mark.parametrize("memory", [1.0, 0.25])
def test_little_memory_makes_more_tiles_and_the_same_result(make_volume, toy, monkeypatch, memory):
    volume = textured(make_volume, (40, 38, 37))
    whole = super_resolve(volume, toy)
    need = 1000 * 40 * 38 * 37
    monkeypatch.setattr(plan, "list_devices", lambda: [{"name": "cpu", "title": "", "free": 2 * need * memory}])
    events = list(run(volume, RunOptions.create(model=toy)))
    assert (events[0].tiles > 1) == (memory < 1)
    assert deviation(events[-1].volume.data, whole.data, intensity_range(volume.data)) < FLOAT32


# --- regions --------------------------------------------------------------------------------------------------------------------------


def centre_roi(volume, size):
    """Box of that many mm, off the centre and not on voxel borders."""
    middle = volume.affine[:3, :3] @ (np.array(volume.shape) * (0.45, 0.6, 0.5)) + volume.affine[:3, 3] + 0.123
    return (*(middle - np.array(size) / 2), *(middle + np.array(size) / 2))


def assert_region_of(part, whole, roi, bound):
    """`part` is the sub-block of `whole` that holds every voxel with its centre in the box."""
    offset = lattice_offset(whole.affine, part.affine, part.shape, tolerance=1e-6)
    assert offset is not None
    block = tuple(slice(o, o + n) for o, n in zip(offset, part.shape, strict=True))
    assert all(b.start >= 0 and b.stop <= n for b, n in zip(block, whole.shape, strict=True))
    assert part.data.size < whole.data.size
    assert deviation(part.data, whole.data[block], 1) <= bound
    lower, upper = np.array(roi).reshape(2, 3)
    places = np.moveaxis(np.indices(whole.shape), 0, -1) @ whole.affine[:3, :3].T + whole.affine[:3, 3]
    asked = ((places >= lower) & (places <= upper)).all(-1)
    assert asked.any()
    inside = np.zeros(whole.shape, bool)
    inside[block] = True
    assert not (asked & ~inside).any()


@pytest.mark.parametrize("angles", [(0, 0, 0), (12, -8, 20)])
@pytest.mark.parametrize("tile", [None, 8])
def test_region_equals_the_cropped_whole(make_volume, toy, angles, tile):
    volume = textured(make_volume, (19, 23, 16), (1.5, 2, 2.5), angles)
    roi = centre_roi(volume, (9, 12, 14))
    whole, part = super_resolve(volume, toy), super_resolve(volume, toy, roi=roi, tile=tile)
    assert_region_of(part, whole, roi, FLOAT32 * intensity_range(volume.data))


@pytest.mark.parametrize("angles", [(0, 0, 0), (12, -8, 20)])
@pytest.mark.parametrize(("model", "protocol"), [*((m, "gaussian") for m in CLASSIC), ("cubic", "kspace"), ("back-projection", "slice-profile")])
def test_region_of_classic_methods_is_exact(make_volume, model, protocol, angles):
    volume = textured(make_volume, (11, 13, 9), (1.5, 2, 2.5), angles)
    roi = centre_roi(volume, (6, 9, 8))
    options = {"protocol": protocol, "noise": 1}
    assert_region_of(super_resolve(volume, model, roi=roi, **options), super_resolve(volume, model, **options), roi, 0)


def test_region_of_the_shipped_network_stays_within_its_stated_error(make_volume, cftn):
    volume = textured(make_volume, (58, 17, 19), angles=(5, 10, -15))
    roi = centre_roi(volume, (12, 10, 8))
    whole, part = super_resolve(volume, cftn, noise=1), super_resolve(volume, cftn, noise=1, roi=roi)
    assert_region_of(part, whole, roi, (get_card(cftn).halo_error + FLOAT32) * intensity_range(volume.data))


def test_region_does_not_depend_on_storage_order(storage_orders, store, make_volume):
    volume = textured(make_volume, (8, 9, 7), (1.5, 2, 2.5), (9, -7, 14))
    roi = centre_roi(volume, (6, 8, 8))
    expected = super_resolve(volume, "cubic", roi=roi)
    for order in storage_orders:
        result = super_resolve(Volume(*store(volume.data, volume.affine, *order)), "cubic", roi=roi)
        np.testing.assert_array_equal(result.data, expected.data)
        np.testing.assert_allclose(result.affine, expected.affine, atol=1e-9)
        stored, affine = result.to_storage()
        wanted, wanted_affine = store(expected.data, expected.affine, *order)
        np.testing.assert_array_equal(stored, wanted)
        np.testing.assert_allclose(affine, wanted_affine, atol=1e-9)


def test_a_region_computes_only_its_surroundings(make_volume, toy):
    volume = textured(make_volume, (40, 40, 40))
    point = volume.affine[:3, :3] @ [20, 20, 20] + volume.affine[:3, 3]
    started = next(run(volume, RunOptions.create(model=toy, roi=(*(point - 3), *(point + 3)))))
    assert started.plan.startswith("1 tile of 3x3x3")


# --- geometry and units ---------------------------------------------------------------------------------------------------------------


EDGE_ALIGNED = [("gaussian", 2), ("gaussian", 3), ("slice-profile", 5), ("bicubic", 2)]


@pytest.mark.parametrize(
    ("model", "protocol", "scale"), [*((m, *kind) for m in ("cubic", "back-projection") for kind in EDGE_ALIGNED), ("toy-x2", "gaussian", 2)]
)
def test_voxel_edges_of_input_and_result_coincide(make_volume, toy, model, protocol, scale):
    volume = textured(make_volume, (9, 8, 7), (1.5, 2, 2.5), (9, -7, 14))
    result = super_resolve(volume, model, protocol=protocol, scale=scale)
    factors = np.array(result.record["run"]["scale"])
    np.testing.assert_allclose(edges(result), edges(volume), atol=1e-9)
    np.testing.assert_allclose(np.array(volume.voxel_size) / result.voxel_size, factors)
    assert result.shape == tuple(int(n * f) for n, f in zip(volume.shape, factors, strict=True))
    assert result.data.dtype == np.float32


@pytest.mark.parametrize("model", [*CLASSIC, "toy-x2", "cftn"])
def test_result_is_in_scanner_units(make_volume, toy, cftn, model):
    model = cftn if model == "cftn" else model
    volume = textured(make_volume, (12, 11, 10))
    plain = super_resolve(volume, model).data
    for factor in (1000, 0.001):
        scaled = super_resolve(volume.replace(data=volume.data * factor), model).data
        assert deviation(scaled / factor, plain, intensity_range(volume.data)) < 2e-5


def test_integers_are_taken_as_they_are(make_volume, toy):
    volume = textured(make_volume, (9, 8, 7))
    whole_numbers = volume.replace(data=np.round(volume.data).astype(np.int16))
    for model in ("cubic", toy):
        expected = super_resolve(volume.replace(data=np.round(volume.data)), model)
        np.testing.assert_array_equal(super_resolve(whole_numbers, model).data, expected.data)


def test_the_input_is_never_changed(make_volume, toy):
    volume = textured(make_volume, (9, 8, 7))
    volume.data.setflags(write=False)
    before, affine = volume.data.copy(), volume.affine.copy()
    for model in (toy, *CLASSIC):
        super_resolve(volume, model)
    np.testing.assert_array_equal(volume.data, before)
    np.testing.assert_array_equal(volume.affine, affine)
    assert not volume.record


@pytest.mark.parametrize("shape", [(21, 18, 13), (20, 18, 12)])
@pytest.mark.parametrize("protocol", ["gaussian", "gaussian-zoom", "kspace", "slice-profile", "bicubic"])
def test_like_puts_classic_results_exactly_onto_the_truth(make_volume, protocol, shape):
    high = textured(make_volume, shape, (1, 1.1, 0.9), (4, -6, 8))
    low = degrade(high, Degradation(protocol=protocol, scale=2))
    for model in CLASSIC:
        result = super_resolve(low, model, like=high)
        assert result.shape == shape
        np.testing.assert_array_equal(result.affine, high.affine)


def test_like_leaves_a_coinciding_lattice_alone(make_volume, toy):
    high = textured(make_volume, (21, 18, 13), (1, 1, 1), (4, -6, 8))
    low = degrade(high, Degradation())
    result, plain = super_resolve(low, toy, like=high), super_resolve(low, toy)
    np.testing.assert_array_equal(result.data, plain.data)
    assert lattice_offset(high.affine, result.affine, result.shape) == (0, 0, 0)


@pytest.mark.parametrize("model", ["cubic", "toy-x2"])
def test_like_resamples_onto_another_lattice(make_volume, toy, model):
    volume = make_volume((12, 12, 12), (2, 2, 2), sigma=3)
    other = volume.affine @ np.diag([0.4, 0.5, 0.6, 1])
    other[:3, 3] += (6.3, 5.2, 4.1)
    like = Volume(np.zeros((11, 9, 8)) + np.arange(8), other)
    result = super_resolve(volume, model, like=like)
    assert result.shape == like.shape
    np.testing.assert_array_equal(result.affine, like.affine)
    assert result.record["run"]["model"] == model
    if model == "cubic":
        direct = super_resolve(volume, model)
        at = np.round(np.linalg.solve(direct.affine, like.affine @ [5, 4, 4, 1]))[:3].astype(int)
        near = direct.data[tuple(slice(i - 1, i + 2) for i in at)]
        assert near.min() <= result.data[5, 4, 4] <= near.max()


@pytest.mark.parametrize("model", ["cubic", "toy-x2"])
def test_like_far_away_is_refused_before_anything_is_computed(make_volume, toy, model):
    volume = textured(make_volume, (9, 9, 9))
    far = volume.affine.copy()
    far[:3, 3] += 500
    with pytest.raises(InputError, match="overlap"):
        next(run(volume, RunOptions.create(model=model), like=volume.replace(affine=far, name="far")))


# --- record and events ----------------------------------------------------------------------------------------------------------------


def test_record_says_how_the_result_was_made(make_volume, toy):
    low = degrade(textured(make_volume, (22, 20, 18), (1, 1, 1), name="scan"), Degradation(noise=2, seed=3))
    result = super_resolve(low, toy, tile=8, device="cpu")
    record = result.record["run"]
    card = get_card(toy)
    assert record["options"] == RunOptions.create(model=toy, tile=8, device="cpu").model_dump(mode="json")
    assert (record["model"], record["weights_sha256"]) == (toy, card.sha256)
    assert (record["input"], record["protocol"], record["scale"], record["axis"]) == (low.name, "gaussian", [2, 2, 2], None)
    assert record["noise_source"] == "not used"
    assert record["input_range"] == pytest.approx(intensity_range(low.data))
    assert record["plan"].startswith("8 tiles of")
    assert record["program"] == f"napari-mrsr {napari_mrsr.__version__}"
    assert record["torch"] == torch.__version__
    assert record["warnings"] == []
    assert result.record["degradation"] == low.record["degradation"]
    assert result.name == f"{low.name} {toy}"
    json.dumps(dict(result.record), allow_nan=False)


def test_record_names_the_slice_axis_and_the_noise(make_volume):
    low = degrade(textured(make_volume, (12, 12, 12)), Degradation(protocol="slice-profile", axis="A", noise=2))
    record = super_resolve(low, "back-projection").record["run"]
    assert (record["axis"], record["noise_source"]) == ("A", "sidecar")
    assert record["noise_sigma"] == low.record["degradation"]["noise_sigma"]


def test_events_come_in_order_and_progress_grows_to_one(make_volume, toy, monkeypatch):
    monkeypatch.setattr(loop, "REPORT_EVERY", 0.005)
    calm = Layer.forward
    monkeypatch.setattr(Layer, "forward", lambda self, x: (time.sleep(0.02), calm(self, x))[1])
    events = list(run(textured(make_volume, (14, 12, 9)), RunOptions.create(model=toy, tile=8)))
    assert (type(events[0]), type(events[-1])) == (RunStarted, RunDone)
    assert {type(e) for e in events[1:-1]} == {Progress, TileDone}
    assert (events[0].device, events[0].tiles) == ("cpu", 8)
    steps = [e for e in events if isinstance(e, Progress)]
    fractions = [e.fraction for e in steps]
    assert fractions == sorted(fractions)
    assert fractions[0] >= 0
    assert fractions[-1] == 1
    # Inside tiles too, from the beginning of each on.
    inside = [[e.fraction for e in steps if e.tile == tile] for tile in range(8)]
    first_steps = [part[1] - part[0] for part in inside if len(part) > 1]
    assert len(first_steps) > 3
    assert np.median(first_steps) < 0.5 / 8
    assert [e.tile for e in steps] == sorted(e.tile for e in steps)
    assert steps[-1].tile == steps[-1].tiles == 8
    assert steps[-1].seconds_left == pytest.approx(0, abs=1e-6)
    assert all(e.seconds_left is None or e.seconds_left >= 0 for e in steps)
    assert events[-1].seconds > 0


# --- stopping -------------------------------------------------------------------------------------------------------------------------


class Token(Control):
    """Says stop from one question on."""

    def __init__(self, after=math.inf):
        super().__init__()
        self.after, self.asked = after, 0

    @property
    def cancelled(self):
        self.asked += 1
        return self.asked > self.after


@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.99])
def test_cancel_stops_at_the_very_question(make_volume, toy, share):
    volume, options = textured(make_volume, (20, 18, 9)), RunOptions.create(model=toy, tile=8)
    calm = Token()
    *_, last = run(volume, options, control=calm)
    assert isinstance(last, RunDone)
    tiles = last.volume.record["run"]["plan"].split()[0]
    assert calm.asked > 3 * int(tiles)  # inside tiles too
    token = Token(int(share * calm.asked))
    events = []
    with pytest.raises(Cancelled):
        events.extend(run(volume, options, control=token))
    assert token.asked == token.after + 1
    assert not any(isinstance(e, RunDone) for e in events)


@pytest.mark.parametrize("model", CLASSIC)
def test_classic_methods_can_be_stopped(make_volume, model):
    with pytest.raises(Cancelled):
        list(run(textured(make_volume, (9, 9, 9)), RunOptions.create(model=model), control=Token(1)))


def test_closing_the_generator_stops_inside_the_tile(make_volume, add_model, monkeypatch):
    """What Ctrl-C does: nobody asks for the rest of the tile, so nobody should wait for it."""
    monkeypatch.setattr(loop, "REPORT_EVERY", 0.005)
    calm, passed = Layer.forward, []

    def slow(self, x):
        time.sleep(0.05)
        passed.append(self)
        return calm(self, x)

    monkeypatch.setattr(Layer, "forward", slow)
    events = run(textured(make_volume, (9, 9, 9)), RunOptions.create(model=add_model(options={"layers": 12})))
    assert isinstance(next(events), RunStarted)
    assert isinstance(next(events), Progress)
    before = len(passed)
    assert before < 6
    given_back = []
    monkeypatch.setattr(engine, "free_memory", lambda device: given_back.append(len(passed)))
    events.close()
    assert len(passed) <= before + 2
    assert given_back == [len(passed)]  # after the pass has ended


def test_a_run_stopped_while_it_is_prepared_tries_no_precision(make_volume, toy, monkeypatch):
    control, tried, real = Control(), [], engine.set_up
    monkeypatch.setattr(engine, "choose", lambda *_: tried.append(1))
    monkeypatch.setattr(engine, "set_up", lambda *a: (real(*a), control.cancel())[0])
    with pytest.raises(Cancelled):
        list(run(textured(make_volume, (9, 9, 9)), RunOptions.create(model=toy), control=control))
    assert tried == []


def test_a_rest_during_the_trial_leaves_it_out(make_volume, toy, monkeypatch):
    """Devices that rest by leaving the pass."""
    monkeypatch.setattr(engine, "CALIBRATION_VOXELS", 1)

    def rest(self, forward):
        raise Interrupted

    monkeypatch.setattr(Monitor, "calibrate", rest)
    assert isinstance(list(run(textured(make_volume, (9, 9, 9)), RunOptions.create(model=toy)))[-1], RunDone)


# --- failures -------------------------------------------------------------------------------------------------------------------------


def failing(error):
    def forward(self, lr, reference=None, noise_level=None):
        raise error

    return forward


@pytest.mark.parametrize(
    ("error", "fragment"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nSee documentation"), "ran out of memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), "memory"),
        (MemoryError("Unable to allocate 20 GiB"), "memory"),
        (RuntimeError("a tensor is wrong\nand a long trace"), "toy-x2 failed on cpu: a tensor is wrong"),
        (RuntimeError(), "toy-x2 failed on cpu"),
    ],
    ids=["cuda-memory", "cpu-memory", "numpy-memory", "runtime", "runtime-without-text"],
)
def test_failures_become_one_sentence(make_volume, toy, monkeypatch, error, fragment):
    volume = textured(make_volume, (9, 9, 9))
    with monkeypatch.context() as broken:
        broken.setattr(Convolutions, "forward", failing(error))
        with pytest.raises(RunError) as caught:
            super_resolve(volume, toy)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)
    assert np.isfinite(super_resolve(volume, toy).data).all()


def test_memory_that_ends_at_any_tile_costs_only_smaller_tiles(make_volume, toy, monkeypatch):
    volume = textured(make_volume, (40, 20, 20))
    expected, gain = super_resolve(volume, toy).data, intensity_range(volume.data)
    good = Convolutions.forward
    for full in (1, 2, 3):
        calls = []

        def short(self, lr, reference=None, noise_level=None, full=full, calls=calls):
            calls.append(lr[0, 0].numel())
            if len(calls) == full:
                raise torch.OutOfMemoryError("full")
            return good(self, lr)

        with monkeypatch.context() as broken:
            broken.setattr(Convolutions, "forward", short)
            events = list(run(volume, RunOptions.create(model=toy, tile=20)))
        noticed = [e.message for e in events if isinstance(e, Noticed)]
        if full == 3:
            assert noticed == []
            continue
        assert noticed == ["cpu ran out of memory; going on with tiles of 10x20x20 voxels."]
        assert max(calls[full:]) < calls[full - 1]  # what failed is not tried again at the same size
        steps = [e for e in events if isinstance(e, Progress)]
        assert steps[-1].fraction == pytest.approx(1)
        np.testing.assert_allclose(events[-1].volume.data, expected, atol=FLOAT32 * gain)


def test_a_device_without_memory_for_the_smallest_tile_is_told(make_volume, toy, monkeypatch):
    def full(self, lr, reference=None, noise_level=None):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(Convolutions, "forward", full)
    with pytest.raises(RunError, match=r"cpu ran out of memory with .*choose a smaller region"):
        super_resolve(textured(make_volume, (40, 20, 20)), toy)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_not_returned(make_volume, toy, monkeypatch, bad):
    good = Convolutions.forward

    def poisoned(self, lr, reference=None, noise_level=None):
        out = good(self, lr)
        out[..., -1, -1, -1] = bad
        return out

    monkeypatch.setattr(Convolutions, "forward", poisoned)
    events = []
    with pytest.raises(RunError, match="not finite; nothing was kept"):
        events.extend(run(textured(make_volume, (9, 9, 9)), RunOptions.create(model=toy)))
    assert not any(isinstance(e, RunDone) for e in events)


def test_no_memory_for_the_smallest_tile(make_volume, toy, monkeypatch):
    monkeypatch.setattr(plan, "list_devices", lambda: [{"name": "cpu", "title": "", "free": 1000}])
    with pytest.raises(RunError, match="The smallest tile needs"):
        super_resolve(textured(make_volume, (40, 40, 40)), toy)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"model": "espcn"}, "Unknown model 'espcn'"),
        ({"model": "cubic", "protocol": "blur"}, "Unknown protocol 'blur'"),
        ({"model": "cubic", "scale": 9}, "Option scale"),
        ({"model": "toy-x2", "scale": 3}, "trained for a factor of 2, not 3"),
        ({"model": "toy-x2", "protocol": "kspace"}, "in-plane"),
        ({"model": "cubic", "roi": (900, 900, 900, 910, 910, 910)}, "lies outside synthetic|lies outside the result"),
        ({"model": "cubic", "device": "cuda:7"}, "Device 'cuda:7' is not available here; use auto or one of .*cpu"),
        ({"model": "cubic", "device": "abacus"}, "Device 'abacus' is not available"),
        ({"model": "cubic", "colour": "red"}, "Option colour"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(make_volume, toy, options, fragment):
    with pytest.raises(InputError, match=fragment) as caught:
        super_resolve(textured(make_volume, (9, 9, 9)), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("shape", "value"), [((9, 9, 9), 0.0), ((9, 9, 9), 7.0)])
def test_constant_volumes_are_refused(make_affine, shape, value):
    with pytest.raises(InputError, match="all voxels have the same value"):
        super_resolve(Volume(np.full(shape, value), make_affine()), "cubic")


def test_small_axes_are_refused(make_volume):
    with pytest.raises(InputError, match="only 3 voxels along A"):
        super_resolve(make_volume((9, 3, 9)), "cubic")


@pytest.mark.parametrize("shape", [(4, 4, 4), (4, 5, 9), (26, 25, 4), (25, 9, 17), (5, 30, 16), (33, 8, 24)])
def test_every_accepted_size_runs(make_volume, cftn, shape):
    volume = textured(make_volume, shape)
    for model in (cftn, *CLASSIC):
        assert super_resolve(volume, model, noise=0).shape == tuple(2 * n for n in shape)


# --- the one-call form ----------------------------------------------------------------------------------------------------------------


def test_super_resolve_is_the_run(make_volume, toy):
    volume = textured(make_volume, (9, 9, 9))
    *_, last = run(volume, RunOptions.create(model=toy))
    np.testing.assert_array_equal(napari_mrsr.super_resolve(volume, toy).data, last.volume.data)
    assert napari_mrsr.super_resolve(volume, model="cubic", scale=3).shape == (27, 27, 27)


def test_super_resolve_logs_warnings_with_numbers(make_volume, add_model, caplog):
    name = add_model(domain={"voxel_size": (0.8, 1.2)})
    volume = textured(make_volume, (9, 9, 9), (2, 2, 2.5))
    with caplog.at_level(logging.WARNING, "napari_mrsr"):
        result = super_resolve(volume, name)
    sentence = "Voxels of 2.00 x 2.00 x 2.50 mm are far from the 0.80 to 1.20 mm that toy-x2 was trained with."
    assert sentence in caplog.messages
    assert result.record["run"]["warnings"] == [sentence]


def test_every_listed_model_runs(make_volume):
    volume = textured(make_volume, (8, 8, 8), (2, 2, 2))
    second = textured(make_volume, (8, 8, 8), (2, 2, 2))
    for card in list_models():
        protocol = get_protocol(card.protocol or "gaussian")
        result = super_resolve(volume, card.name, reference=second if card.reference == "needed" else None)
        scales = protocol.scale_per_axis(card.scale or 2, volume.slice_axis())
        assert result.shape == tuple(round(8 * scale) for scale in scales), card.name
        if protocol.alignment != "kspace":  # whose samples lie where the crop leaves them
            np.testing.assert_allclose(edges(result), edges(volume), atol=1e-9)
