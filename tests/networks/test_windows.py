from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_mrsr.networks.blocks.recording import Complete, Recorder, active, wanted
from napari_mrsr.networks.blocks.windows import in_windows


def enlarge(x, factor):
    return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


class Fixed:
    """A network of fixed size, local in its input, that shows maps."""

    def __init__(self, size, scale):
        self.size, self.scale, self.calls = size, scale, 0

    def __call__(self, lr, reference):
        self.calls += 1
        assert tuple(reference.shape[2:]) == self.size
        assert tuple(n * self.scale for n in lr.shape[2:]) == self.size
        if recorder := wanted("half"):
            recorder.keep("half", reference[:, :, ::2, ::2], stride=2)
        if recorder := wanted("asked"):
            row, column = recorder.pixel()
            picture = torch.zeros(1, 1, *self.size)
            picture[0, 0, row, column] = 1 + recorder.item
            recorder.keep("asked", picture * reference[recorder.item : recorder.item + 1], offset=(0, 0))
        return enlarge(lr, self.scale) + reference


@given(
    height=st.integers(2, 40),
    width=st.integers(2, 40),
    scale=st.sampled_from([1, 2, 4]),
    overlap=st.sampled_from([0.0, 0.25, 0.5]),
    align=st.sampled_from([1, 8]),
    batch=st.integers(1, 2),
)
def test_a_local_network_gives_the_same_in_windows(height, width, scale, overlap, align, batch):
    lr = torch.rand(batch, 1, height, width)
    reference = torch.rand(batch, 1, height * scale, width * scale)
    out = in_windows(Fixed((32, 16), scale), [(lr, scale), (reference, 1)], (32, 16), overlap, align=align)
    torch.testing.assert_close(out, enlarge(lr, scale) + reference, atol=1e-6, rtol=0)


def test_the_exact_size_goes_through_untouched():
    lr, reference = torch.rand(2, 1, 16, 8), torch.rand(2, 1, 32, 16)
    network = Fixed((32, 16), 2)
    assert torch.equal(in_windows(network, [(lr, 2), (reference, 1)], (32, 16)), network(lr, reference))


def test_padding_is_mirrored_or_filled():
    seen = []

    def look(x):
        seen.append(x)
        return x

    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert torch.equal(in_windows(look, [(image, 1)], (4, 4)), image)
    assert torch.equal(seen[0][0, 0], torch.tensor([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]], dtype=torch.float32))
    in_windows(look, [(image, 1)], (4, 6), fill=-1.0)
    assert seen[1][0, 0, 0].tolist() == [-1] * 6
    assert seen[1][0, 0, 1].tolist() == [-1, -1, 1, 2, -1, -1]


def test_shared_parts_fade():
    """A network whose level differs from window to window leaves no step between neighbours."""

    def levels(x):
        return x + torch.arange(len(x), dtype=x.dtype).view(-1, 1, 1, 1)

    out = in_windows(levels, [(torch.zeros(1, 1, 16, 28), 1)], (16, 16), overlap=0.25)
    assert out[0, 0, 0, 0] == 0
    assert out[0, 0, 0, -1] == 1
    assert out.diff(dim=3).max() < 0.45
    assert out.diff(dim=3).min() >= 0


def test_windows_share_what_was_asked_for():
    starts = []

    def look(x):
        starts.append(len(x))
        return x

    in_windows(look, [(torch.zeros(1, 1, 16, 40), 1)], (16, 16), overlap=0.5)
    in_windows(look, [(torch.zeros(1, 1, 16, 40), 1)], (16, 16), overlap=0.0)
    assert starts == [4, 3]


def test_dense_maps_come_back_whole_and_weigh_one():
    lr, reference = torch.rand(2, 1, 19, 13), torch.rand(2, 1, 38, 26)
    with Recorder(("half",)) as recorder:
        in_windows(Fixed((16, 16), 2), [(lr, 2), (reference, 1)], (16, 16), align=2)
    kept = recorder.found["half"]
    assert kept.stride == 2
    size = [2 * n for n in kept.values.shape[2:]]
    assert all(o <= 0 and o + n >= m for o, n, m in zip(kept.offset, size, (38, 26), strict=True))
    rows = [(n - kept.offset[i]) // 2 for i, n in enumerate((0, 0))]
    cut = kept.values[:, :, rows[0] : rows[0] + 19, rows[1] : rows[1] + 13]
    torch.testing.assert_close(cut, reference[:, :, ::2, ::2], atol=1e-6, rtol=0)


@given(row=st.integers(0, 37), column=st.integers(0, 25), item=st.integers(0, 1))
def test_a_chosen_pixel_is_asked_in_the_window_that_holds_it(row, column, item):
    lr, reference = torch.rand(2, 1, 19, 13), torch.rand(2, 1, 38, 26) + 1
    with Recorder(("asked",), query=(row, column)) as recorder:
        recorder.item = item
        in_windows(Fixed((16, 16), 2), [(lr, 2), (reference, 1)], (16, 16))
    kept = recorder.found["asked"]
    assert recorder.query == (row, column)
    assert recorder.item == item
    place = torch.nonzero(kept.values[0, 0])
    assert len(place) == 1
    assert (place[0] + torch.tensor(kept.offset)).tolist() == [row, column]
    index = kept.values.max() / reference[item, 0, row, column]
    assert round(float(index) - 1) % 2 == item


def test_recording_changes_nothing_and_ends_with_its_block():
    lr, reference = torch.rand(1, 1, 19, 13), torch.rand(1, 1, 38, 26)
    images = [(lr, 2), (reference, 1)]
    plain = in_windows(Fixed((16, 16), 2), images, (16, 16))
    with Recorder(("half", "asked"), query=(3, 3)):
        assert active() is not None
        assert torch.equal(in_windows(Fixed((16, 16), 2), images, (16, 16)), plain)
    assert active() is None
    assert wanted("half") is None


def test_a_recorder_that_has_everything_leaves_the_network():
    after = []
    with Recorder(("half",), only=True) as recorder:
        in_windows(Fixed((16, 16), 2), [(torch.rand(1, 1, 19, 13), 2), (torch.rand(1, 1, 38, 26), 1)], (16, 16), align=2)
        after.append("not reached")
    assert not after
    assert recorder.found["half"].offset
    with pytest.raises(Complete):
        Recorder(("x",), only=True).keep("x", torch.zeros(1))


def test_one_channel():
    values = torch.tensor([[[[-3.0]], [[1.0]]]])
    assert Recorder(()).one_channel(values).item() == 2
    assert Recorder((), channel=0).one_channel(values).item() == -3
    with pytest.raises(ValueError, match="channels 0 to 1"):
        Recorder((), channel=2).one_channel(values)
    with pytest.raises(ValueError, match="chosen voxel"):
        Recorder(()).pixel()


def test_a_table_is_that_of_the_window_asked_about():
    def network(x):
        if recorder := wanted("table"):
            recorder.keep("table", x.mean((2, 3), keepdim=True)[:, 0])
        return x

    image = torch.cat([torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)], 3)
    for query, mean in (((3, 3), 0.0), ((3, 30), 1.0)):
        with Recorder(("table",), query=query) as recorder:
            in_windows(network, [(image, 1)], (16, 16), overlap=0.0)
        assert recorder.found["table"].values.tolist() == [[[mean]]]


def test_only_the_nearest_window_is_computed_where_that_is_enough():
    network = Fixed((16, 16), 2)
    images = [(torch.rand(1, 1, 19, 13), 2), (torch.rand(1, 1, 38, 26) + 1, 1)]
    found = {}
    for local in (False, True):
        seen = []

        def counted(lr, reference, seen=seen):
            seen.append(len(lr))
            return network(lr, reference)

        with Recorder(("asked",), query=(30, 20), local=local) as recorder:
            out = in_windows(counted, images, (16, 16))
        found[local] = (seen[0], recorder.found["asked"], out.shape)
    assert found[True][0] == 1 < found[False][0]
    assert torch.equal(found[True][1].values > 0, found[False][1].values > 0)
    assert found[True][1].offset == found[False][1].offset
    assert found[True][2] == found[False][2]
