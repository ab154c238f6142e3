from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from napari_mrsr.networks import get_architecture
from napari_mrsr.networks.blocks import cross_scale, cross_scale_transformer
from napari_mrsr.networks.blocks.cross_scale import cross_scale_attention
from napari_mrsr.networks.blocks.cross_scale_transformer import CrossScaleTransformer
from napari_mrsr.networks.blocks.recording import Recorder
from napari_mrsr.networks.blocks.resample import cubic_downsample
from napari_mrsr.networks.cftn import CFTN

ALL = ("pre", "mid", "post")


def small_net(**options):
    torch.manual_seed(0)
    net = CFTN(**{"channels": 6, "blocks": 4, "ca_reduction": 2, **options}).eval()
    with torch.no_grad():
        for module in net.mfems.values():
            # Default weights attend to everything alike, which would hide mistakes.
            for name in ("embed_q", "embed_k"):
                next(getattr(module.cst, name).parameters()).mul_(4)
    return net


def volume(*size, batch=1, seed=1, dtype=torch.float32):
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def listed(net):
    return {info.name: info for info in get_architecture("cftn").maps(net)}


def record(net, x, *names, query=(3, 3, 3), **options):
    with torch.no_grad(), Recorder(names, query, **options) as recorder:
        net(x)
    return recorder.found


# --- what is there ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, {"safm", "cst-attention", "cst-entropy", "channel-attention"}),
        ({"safm": False}, {"cst-attention", "cst-entropy", "channel-attention"}),
        ({"mfem": ()}, {"channel-attention"}),
        ({"mfem": (1, "post")}, {"safm", "cst-attention-1", "cst-attention-3", "cst-entropy-1", "cst-entropy-3", "channel-attention"}),
    ],
)
@pytest.mark.parametrize("window", [None, 4])
def test_maps_are_listed_and_kept(options, names, window):
    net = small_net(**options)
    net.set_windows(window)
    infos = listed(net)
    assert set(infos) == names
    kept = record(net, volume(14, 9, 8, batch=2), *names)
    assert set(kept) == names
    for name, one in kept.items():
        info = infos[name]
        assert info.kind == ("table" if name == "channel-attention" else "query" if "attention" in name else "dense")
        assert one.values.dtype == torch.float32
        assert one.values.shape[:2] == {"table": (2, 4), "query": (1, 1), "dense": (2, 1)}[info.kind]
        assert one.values.ndim == (3 if info.kind == "table" else 5)
        assert one.values.min() >= 0
        assert one.values.max() <= 1 + 1e-5
        assert not info.signed
        assert info.description.endswith(".")


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("options", [{}, {"mfem": ALL}, {"scale": 3, "prelu": True, "fold": "mean", "match": "cosine10"}])
def test_recording_changes_nothing(options, window):
    net = small_net(**options)
    net.set_windows(window)
    x = volume(13, 9, 8, batch=2)
    expected = net(x)
    expected.square().sum().backward()
    grads = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    with Recorder(listed(net), (5, 6, 7)) as recorder:
        ours = net(x)
    ours.square().sum().backward()
    assert recorder.found.keys() == listed(net).keys()
    assert torch.equal(ours, expected)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(net.parameters(), grads, strict=True))


def test_nothing_is_computed_when_nothing_is_wanted(monkeypatch):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr(torch.special, "entr", never)
    monkeypatch.setattr(cross_scale_transformer, "attention_row", never)
    monkeypatch.setattr(cross_scale_transformer, "_room_for_entropies", never)
    net, x = small_net(), volume(9, 8, 7)
    for window in (None, 2):
        net.set_windows(window)
        with torch.no_grad():
            net(x)
        assert record(net, x, "safm").keys() == {"safm"}
    with pytest.raises(AssertionError):
        record(net, x, "cst-attention")
    with pytest.raises(AssertionError):
        record(net, x, "cst-entropy")


@pytest.mark.parametrize(
    ("names", "reached"),
    [
        (("cst-attention",), {"head"}),
        (("cst-entropy",), {"head", "embed_v"}),
        (("cst-attention", "cst-entropy"), {"head", "embed_v"}),
        (("channel-attention",), {"head", "embed_v", "down"}),
        (("safm",), {"head", "embed_v", "down", "subpixel", "gate"}),
        (("safm", "cst-attention", "channel-attention"), {"head", "embed_v", "down", "subpixel", "gate"}),
    ],
)
@pytest.mark.parametrize("window", [None, 4])
def test_the_network_is_left_early(names, reached, window):
    net = small_net()
    net.set_windows(window)
    mfem = net.mfems["2"]
    seen = set()
    parts = {"head": net.head, "embed_v": mfem.cst.embed_v, "down": mfem.down, "subpixel": net.subpixel, "gate": net.safm.conv, "tail": net.tail}
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: seen.add(name))
    assert record(net, volume(13, 9, 8), *names, only=True).keys() == set(names)
    assert seen == reached


def test_attention_needs_a_chosen_voxel():
    with pytest.raises(ValueError, match="chosen voxel"):
        record(small_net(), volume(6, 6, 6), "cst-attention", query=None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("window", [None, 4])
def test_maps_of_other_precisions(dtype, window):
    net, x = small_net(), volume(13, 9, 8)
    net.set_windows(window)
    expected = record(net, x, *listed(net))
    found = record(net.to(dtype), x.to(dtype), *listed(net))
    for name, one in found.items():
        assert (one.stride, one.offset) == (expected[name].stride, expected[name].offset)
        torch.testing.assert_close(one.values, expected[name].values, rtol=0.3, atol=0.03)


# --- gates --------------------------------------------------------------------------------------------------------------------------------


def test_spatial_gate():
    net = small_net(scale=3)
    seen = []
    net.safm.register_forward_hook(lambda _module, inputs, output: seen.append((inputs[0], output)))
    kept = record(net, volume(7, 6, 5, batch=2), "safm")["safm"]
    (before, after) = seen[0]
    assert kept.values.shape == (2, 1, 21, 18, 15)
    assert (kept.stride, kept.offset) == (1, ())
    torch.testing.assert_close(before * kept.values, after)


@pytest.mark.parametrize("window", [None, 4])
def test_channel_gates(window):
    net = small_net()
    net.set_windows(window)
    seen = []
    for rcab in net.rcabs:
        rcab.attention.gate.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    kept = record(net, volume(14, 9, 8, batch=2), "channel-attention")["channel-attention"].values
    assert kept.shape == (2, 4, 6)
    assert seen[0].shape[2:] == ((1, 1, 1) if window is None else (4, 3, 2))
    for index, gates in enumerate(seen):
        torch.testing.assert_close(kept[:, index], gates.flatten(2).mean(2))


# --- attention against an explicitly built score matrix -----------------------------------------------------------------------------------


def make_cst(scale, **options):
    torch.manual_seed(scale)
    return CrossScaleTransformer(4, 3, scale, **options).double()


def corners(n, patch, stride):
    """First voxel of each patch along an axis, in the "same" padding with less on the left; negative inside the padding."""
    count = math.ceil(n / stride)
    left = ((count - 1) * stride + patch - n) // 2
    return [stride * i - left for i in range(count)]


def cut(x, axes, patch):
    """Patches of one sample at corners that may lie outside, zeros there; (product of counts, C p^3)."""
    far = F.pad(x, [patch] * 6)
    return torch.stack([far[(slice(None), *(slice(c + patch, c + 2 * patch) for c in place))].flatten() for place in itertools.product(*axes)])


def explicit_keys(cst, x):
    """All key patches of one sample (C, X, Y, Z), and their centres per axis in output voxels (edges at whole numbers)."""
    r, p, q = cst.scale, cst.patch, cst.stride
    filled = F.pad(x[None], [pad for n in reversed(x.shape[1:]) for pad in (0, -n % r)], mode="replicate")
    coarse = cubic_downsample(filled, r)
    axes = [corners(n, p, q) for n in coarse.shape[2:]]
    keys = cut(cst.embed_k(coarse)[0], axes, p)
    if cst.match == "cosine10":
        keys = 10 * keys / keys.norm(dim=1, keepdim=True)
    return keys, [[r * r * (c + p / 2) for c in axis] for axis in axes]


def explicit_weights(cst, x):
    """Softmax matrix of one sample and the centres of queries and keys in output voxels."""
    r, p, q = cst.scale, cst.patch, cst.stride
    axes = [corners(n, p, q) for n in x.shape[1:]]
    queries = cut(cst.embed_q(x[None])[0], axes, p)
    keys, key_centres = explicit_keys(cst, x)
    return torch.softmax(queries @ keys.T, 1), [[r * (c + p / 2) for c in axis] for axis in axes], key_centres


def nearest(centres, voxel):
    """Index of the centre nearest to the middle of a voxel; of two, the higher."""
    return max(range(len(centres)), key=lambda i: (-abs(centres[i] - voxel - 0.5), i))


def check_cells(kept, centres):
    """Cells lie around the centres, up to the rounding of half voxels."""
    for axis, line in enumerate(centres):
        for i, centre in enumerate(line):
            middle = kept.offset[axis] + kept.stride * (i + 0.5)
            assert middle == centre or middle == centre - 0.5


OPTIONS = [{}, {"match": "cosine10"}, {"patch": 5, "stride": 2}, {"patch": 3, "stride": 3}, {"patch": 4, "stride": 2}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("scale", "size"), [(2, (9, 8, 10)), (3, (8, 7, 9)), (4, (5, 9, 6))])
def test_query_map_is_the_row_of_the_score_matrix(scale, size, options):
    cst = make_cst(scale, **options)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    output = [scale * n for n in size]
    generator = torch.Generator().manual_seed(0)
    random = [tuple(int(torch.randint(n, (), generator=generator)) for n in output) for _ in range(6)]
    with torch.no_grad():
        for item in (0, 1):
            weights, query_centres, key_centres = explicit_weights(cst, x[item])
            rows = weights.view(*(len(c) for c in query_centres), *(len(c) for c in key_centres))
            for voxel in [(0, 0, 0), tuple(n - 1 for n in output), *random]:
                with Recorder(("cst-attention",), voxel) as recorder:
                    recorder.item = item
                    cst(x)
                kept = recorder.found["cst-attention"]
                index = tuple(nearest(c, v) for c, v in zip(query_centres, voxel, strict=True))
                torch.testing.assert_close(kept.values[0, 0], rows[index].float(), rtol=1e-5, atol=1e-7)
                assert kept.stride == scale**2 * cst.stride
                check_cells(kept, key_centres)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("scale", "size"), [(2, (9, 8, 10)), (3, (8, 7, 9)), (4, (5, 9, 6)), (2, (2, 2, 2))])
def test_entropy_map_is_the_entropy_of_the_rows(scale, size, options):
    cst = make_cst(scale, **options)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    kept = record(cst, x, "cst-entropy")["cst-entropy"]
    assert kept.stride == scale * cst.stride
    for item in (0, 1):
        with torch.no_grad():
            weights, query_centres, _ = explicit_weights(cst, x[item])
        entropy = -(weights * weights.log()).sum(1) / max(math.log(weights.shape[1]), 1e-9)
        check_dense(kept, entropy.view(*(len(c) for c in query_centres)), query_centres, item, [scale * n for n in size])


def check_dense(kept, expected, centres, item, output):
    """Every output voxel has, by the map's own stride and offset, the value of the patch nearest to it."""
    lines = []
    for axis, line in enumerate(centres):
        voxels = range(output[axis])
        cells = [(v - kept.offset[axis]) // kept.stride for v in voxels]
        assert min(cells) >= 0
        assert max(cells) < kept.values.shape[2 + axis]
        lines.append((torch.tensor(cells), torch.tensor([nearest(line, v) for v in voxels])))
    ours, theirs = kept.values[item, 0], expected.float()
    for axis, (cells, patches) in enumerate(lines):
        ours, theirs = ours.index_select(axis, cells), theirs.index_select(axis, patches)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"match": "cosine10"}, {"patch": 5, "stride": 2}])
@pytest.mark.parametrize(("scale", "size"), [(2, (13, 14, 9)), (3, (16, 5, 7))])
def test_maps_in_windows(scale, size, options):
    """Queries in blocks of four voxels, each seeing its block and one more on every side (ends replicated)."""
    cst = make_cst(scale, **options)
    w = cst.window = 4
    p, q = cst.patch, cst.stride
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    blocks = [math.ceil(n / w) for n in size]
    padding = [pad for n, b in zip(reversed(size), reversed(blocks), strict=True) for pad in (w, (b + 1) * w - n)]
    padded = F.pad(x, padding, mode="replicate")
    per = w // q
    centres = [[scale * (q * i + p / 2) for i in range(per * b)] for b in blocks]
    output = [scale * n for n in size]
    entropies = record(cst, x, "cst-entropy")["cst-entropy"]
    expected = torch.zeros([per * b for b in blocks], dtype=torch.float64)
    for block in itertools.product(*(range(b) for b in blocks)):
        region = padded[1][(slice(None), *(slice(w * c, w * c + 3 * w) for c in block))]
        with torch.no_grad():
            keys, _ = explicit_keys(cst, region)
            queries = cut(cst.embed_q(region[None])[0], [[w + q * i for i in range(per)]] * 3, p)
        weights = torch.softmax(queries @ keys.T, 1)
        entropy = -(weights * weights.log()).sum(1) / math.log(len(keys))
        expected[tuple(slice(per * c, per * c + per) for c in block)] = entropy.view(per, per, per)
    check_dense(entropies, expected, centres, 1, output)

    generator = torch.Generator().manual_seed(0)
    random = [tuple(int(torch.randint(n, (), generator=generator)) for n in output) for _ in range(5)]
    for voxel in [(0, 0, 0), tuple(n - 1 for n in output), *random]:
        with torch.no_grad(), Recorder(("cst-attention",), voxel) as recorder:
            recorder.item = 1
            cst(x)
        kept = recorder.found["cst-attention"]
        index = [nearest(c, v) for c, v in zip(centres, voxel, strict=True)]
        block = [i // per for i in index]
        region = padded[1][(slice(None), *(slice(w * c, w * c + 3 * w) for c in block))]
        with torch.no_grad():
            keys, key_centres = explicit_keys(cst, region)
            query = cut(cst.embed_q(region[None])[0], [[w + q * (i % per)] for i in index], p)
        torch.testing.assert_close(kept.values.flatten(), torch.softmax(query @ keys.T, 1)[0].float(), rtol=1e-5, atol=1e-7)
        check_cells(kept, [[scale * w * (c - 1) + centre for centre in line] for c, line in zip(block, key_centres, strict=True)])


@settings(max_examples=25)
@given(st.tuples(*[st.integers(1, 13)] * 3), st.sampled_from([2, 3, 4]), st.sampled_from([None, 2, 4]), st.data())
def test_maps_cover_the_output(size, scale, window, data):
    cst = make_cst(scale)
    cst.window = window
    output = [scale * n for n in size]
    voxel = data.draw(st.tuples(*(st.integers(0, n - 1) for n in output)))
    with torch.no_grad(), Recorder(("cst-attention", "cst-entropy"), voxel) as recorder:
        cst(torch.randn(1, 4, *size, dtype=torch.float64))
    entropy, attention = recorder.found["cst-entropy"], recorder.found["cst-attention"]
    for start, cells, n in zip(entropy.offset, entropy.values.shape[2:], output, strict=True):
        assert -entropy.stride < start <= 0
        assert start + entropy.stride * cells >= n
        assert start + entropy.stride * (cells - 1) < n + scale * (window or 0)
    assert entropy.values.min() >= 0
    assert entropy.values.max() <= 1 + 1e-6
    assert attention.values.sum().item() == pytest.approx(1, abs=1e-5)


def test_uniform_and_peaked_attention_are_the_ends_of_the_scale():
    cst = make_cst(2)
    x = torch.randn(1, 4, 8, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        cst.embed_q.weight.zero_()
        cst.embed_q.bias.zero_()
        torch.testing.assert_close(record(cst, x, "cst-entropy")["cst-entropy"].values, torch.ones(1, 1, 5, 5, 5))
        cst.embed_q.weight.normal_().mul_(1e4)
        assert record(cst, x, "cst-entropy")["cst-entropy"].values.max() < 1e-3


@pytest.mark.parametrize("chunk", [1, 300, 2000, 2**20])
def test_entropy_does_not_depend_on_chunks(chunk):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 9, 6), torch.randn(2, 9, 1, 4, 4, 4)
    entropy = torch.full((2, 3, 4, 5), math.nan)
    out = cross_scale_attention(q, k, v, 2, chunk, entropy)
    weights = torch.softmax(torch.einsum("bxyzd,bkd->bxyzk", q, k), -1)
    torch.testing.assert_close(entropy, -(weights * weights.log()).sum(-1))
    assert torch.equal(out, cross_scale_attention(q, k, v, 2, chunk))


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor._base is None:
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def test_no_score_matrix_is_built(monkeypatch):
    """One row for the query map; a chunk at a time for the entropy."""
    torch.manual_seed(0)
    cst = CrossScaleTransformer(1, 1, 2)
    x = torch.randn(1, 1, 40, 40, 40)
    everything = 20**3 * 10**3
    monkeypatch.setattr(cross_scale._Streamed, "forward", staticmethod(lambda *_: torch.zeros(1, 1, 82, 82, 82)))
    with Largest() as seen:
        record(cst, x, "cst-attention")
    assert seen.elements < everything / 10
    monkeypatch.undo()
    q, k, v = torch.randn(1, 20, 20, 20, 5), torch.randn(1, 500, 5), torch.randn(1, 500, 1, 2, 2, 2)
    entropy = torch.zeros(1, 20, 20, 20)
    with Largest() as seen:
        cross_scale_attention(q, k, v, 1, 100_000, entropy)
    assert seen.elements <= 100_000 < 20**3 * 500 / 10


# --- where things lie ---------------------------------------------------------------------------------------------------------------------


def planted(size, scale, query, place, patch=3):
    """Faint noise with a pattern of `patch` voxels at `query` and, `scale` times as large, at `place` (LR voxels)."""
    generator = torch.Generator().manual_seed(4)
    pattern = torch.randn(patch, patch, patch, generator=generator).sign()
    x = 0.02 * torch.randn(1, 1, *size, generator=generator)
    for corner, piece in ((query, pattern), (place, F.interpolate(pattern[None, None], scale_factor=scale)[0, 0])):
        x[(0, 0, *(slice(c, c + n) for c, n in zip(corner, piece.shape, strict=True)))] = piece
    return x


@pytest.mark.parametrize("match", ["literal", "cosine10"])
@pytest.mark.parametrize(
    ("scale", "size", "window", "query", "place"),
    [
        (2, (24, 28, 20), None, (4, 8, 12), (12, 16, 4)),
        (2, (24, 28, 20), None, (14, 4, 2), (4, 20, 12)),
        (3, (36, 30, 30), None, (6, 4, 20), (18, 18, 6)),
        (4, (32, 48, 32), None, (26, 2, 4), (8, 32, 16)),
        (2, (30, 28, 26), 8, (10, 12, 20), (20, 8, 16)),
        (2, (40, 27, 26), 8, (24, 20, 2), (28, 20, 12)),
    ],
)
def test_a_lookalike_attracts_the_attention(scale, size, window, query, place, match):
    """The brightest cell lies over the middle of the enlarged copy."""
    cst = CrossScaleTransformer(1, 1, scale, match=match)
    cst.window = window
    with torch.no_grad():
        for layer in (cst.embed_q, cst.embed_k, cst.embed_v):
            layer.weight.fill_(1)
            layer.bias.zero_()
    x = planted(size, scale, query, place)
    kept = record(cst, x, "cst-attention", query=[scale * c + 3 * scale // 2 for c in query])["cst-attention"]
    brightest = torch.unravel_index(kept.values[0, 0].argmax(), kept.values.shape[2:])
    for axis, index in enumerate(brightest):
        middle = scale * place[axis] + scale**2 * 3 / 2
        begin = kept.offset[axis] + kept.stride * int(index)
        assert begin < middle < begin + kept.stride
        assert abs(begin + kept.stride / 2 - middle) <= 0.5
    assert kept.values.max() > 3 * kept.values.flatten().sort().values[-2]
    elsewhere = record(cst, x, "cst-attention", query=[scale * (c + 6) for c in query])["cst-attention"]
    assert elsewhere.values.max() < kept.values.max()


def test_channel_attention_in_half_precision_cells():
    net, x = small_net(mfem=()), volume(14, 9, 8)
    net.set_windows(4)
    expected = record(net, x, "channel-attention")["channel-attention"].values
    for dtype in (torch.bfloat16, torch.float16):
        found = record(net.to(dtype), x.to(dtype), "channel-attention")["channel-attention"].values
        torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
