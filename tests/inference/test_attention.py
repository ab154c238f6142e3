"""Attention over the whole volume from tiles (RunOptions.attention)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_network import textured

from napari_mrsr.errors import Cancelled, InputError, RunError
from napari_mrsr.inference import Control, Noticed, RunDone, RunOptions, RunStarted, attention, run, super_resolve
from napari_mrsr.inference.setup import set_up
from napari_mrsr.networks.blocks import cross_scale

SMALL = {"channels": 4, "blocks": 2, "ca_reduction": 2}
EXACT = 1e-5
"""Share of the range; what the pooling of channel attention leaves at a margin of 24 voxels, and float32."""


@pytest.fixture
def model(add_model):
    def make(**options):
        return add_model("cftn-small", "cftn", options={**SMALL, **options}, window=8, halo=24)

    return make


def whole(volume, name):
    """The network on the whole volume at once, its attention without windows: the formula itself."""
    setup = set_up(volume, RunOptions.create(model=name, noise=0.0))
    for part in setup.network.cross_scale():
        part.window = None
    low = torch.from_numpy(np.array(volume.data, np.float32) / np.float32(setup.job.gain))[None, None]
    with torch.inference_mode():
        return setup.network(low)[0, 0].numpy() * setup.job.gain, setup.job.gain


@pytest.mark.parametrize(("shape", "tile"), [((37, 11, 9), 16), ((9, 26, 31), 17), ((27, 10, 12), None)])
@pytest.mark.parametrize("options", [{}, {"mfem": ("pre", "post"), "blocks": 3}, {"fold": "mean"}])
def test_tiles_see_the_whole_volume(make_volume, model, shape, tile, options):
    volume, name = textured(make_volume, shape), model(**options)
    expected, gain = whole(volume, name)
    found = super_resolve(volume, name, attention="global", tile=tile, precision="float32", skip_air=False)
    assert np.abs(found.data - expected).max() < EXACT * gain
    record = found.record["run"]
    assert record["planned"]["attention"] == "global"
    assert "attention over the whole volume" in record["plan"]
    windows = super_resolve(volume, name, tile=tile, precision="float32", skip_air=False)
    assert np.abs(windows.data - expected).max() > 20 * EXACT * gain


def test_the_spread_of_attention_is_that_over_the_whole_volume(make_volume, model):
    volume, name = textured(make_volume, (37, 10, 9)), model()
    options = {"model": name, "attention": "global", "maps": ("cst-entropy",), "precision": "float32", "skip_air": False}
    one, cut = (list(run(volume, RunOptions.create(tile=tile, **options)))[-1].maps[0].data for tile in (None, 16))
    assert 0 < one.min() <= one.max() <= 1 + 1e-6
    np.testing.assert_allclose(cut, one, atol=1e-4)


def test_a_region_sees_the_whole_volume(make_volume, model):
    volume, name = textured(make_volume, (37, 18, 9)), model()
    expected, gain = whole(volume, name)
    box = volume.box()
    roi = (*(np.array(box.lower) + 3), *((np.array(box.lower) + np.array(box.upper)) / 2))
    found = super_resolve(volume, name, attention="global", roi=roi, precision="float32")
    fine = super_resolve(volume, "nearest", scale=2)
    start = np.round(np.linalg.solve(fine.affine, [*found.affine[:3, 3], 1.0])[:3]).astype(int)
    part = expected[tuple(slice(s, s + n) for s, n in zip(start, found.shape, strict=True))]
    assert part.size < expected.size / 4
    assert np.abs(found.data - part).max() < EXACT * gain


def test_mirror_images_are_surveyed_anew(make_volume, model):
    volume, name = textured(make_volume, (28, 9, 10)), model()
    options = {"attention": "global", "ensemble": True, "precision": "float32", "skip_air": False}
    whole_at_once, tiled = (super_resolve(volume, name, tile=tile, **options).data for tile in (None, 16))
    assert np.abs(whole_at_once - tiled).max() < EXACT * volume.data.max()


def test_memory_that_ends_while_gathering_changes_nothing(make_volume, model, monkeypatch):
    volume, name = textured(make_volume, (36, 9, 10)), model()
    options = RunOptions.create(model=name, attention="global", precision="float32", skip_air=False)
    expected, gain = whole(volume, name)
    real, failed = attention.Feed.look, []

    def look(self, tile, recorder):
        if not failed:
            failed.append(tile)
            raise torch.OutOfMemoryError("no memory")
        real(self, tile, recorder)

    monkeypatch.setattr(attention.Feed, "look", look)
    events = list(run(volume, options))
    assert len(failed) == 1
    assert any("out of memory" in e.message for e in events if isinstance(e, Noticed))
    assert np.abs(next(e for e in events if isinstance(e, RunDone)).volume.data - expected).max() < EXACT * gain


def test_cancel_is_heard_inside_the_attention(make_volume, model, monkeypatch):
    """Between two chunks, not at the end of the layer."""
    monkeypatch.setattr(cross_scale, "CHUNK_ELEMENTS", 2000)
    volume, control, chunks = textured(make_volume, (30, 20, 18)), Control(), []
    real = cross_scale.fold_patches

    def fold(*arguments):
        chunks.append(control.cancelled)
        if len(chunks) == 5:
            control.cancel()
        real(*arguments)

    monkeypatch.setattr(cross_scale, "fold_patches", fold)
    with pytest.raises(Cancelled):
        list(run(volume, RunOptions.create(model=model(), attention="global", precision="float32"), control=control))
    assert chunks == [False] * 5


def test_the_user_is_told_what_is_gathered(make_volume, model):
    events = list(run(textured(make_volume, (12, 13, 14)), RunOptions.create(model=model(), attention="global")))
    started = next(i for i, e in enumerate(events) if isinstance(e, RunStarted))
    assert any(isinstance(e, Noticed) and "attention" in e.message for e in events[started:])


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"model": "toy-x2"}, "no attention"), ({"model": "cubic"}, "no attention"), ({"compile": True}, "windows"), ({"batch": 3}, "one at a time")],
)
def test_what_cannot_look_at_the_whole_volume_is_refused(make_volume, toy, model, changes, words):
    options = RunOptions.create(**{"model": model(), "attention": "global"} | changes)
    with pytest.raises(InputError, match=words):
        list(run(textured(make_volume, (12, 13, 14)), options))


def test_keys_and_values_that_do_not_fit_are_told_with_numbers(make_volume, model, monkeypatch):
    monkeypatch.setattr(attention, "list_devices", lambda: [{"name": "cpu", "title": "", "free": 1000}])
    with pytest.raises(RunError, match="GiB are free on cpu"):
        super_resolve(textured(make_volume, (12, 13, 14)), model(), attention="global", device="cpu")
