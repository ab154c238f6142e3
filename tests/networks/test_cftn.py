from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mrsr.errors import InputError
from napari_mrsr.networks import create, get_architecture
from napari_mrsr.networks.blocks.cross_scale import cross_scale_attention
from napari_mrsr.networks.blocks.cross_scale_transformer import CrossScaleTransformer
from napari_mrsr.networks.blocks.recording import Recorder
from napari_mrsr.networks.blocks.resample import cubic_upsample, voxel_shuffle
from napari_mrsr.networks.cftn import ABLATIONS, CFTN, MFEM, SAFM, WINDOW


def small_net(seed=0, **options):
    torch.manual_seed(seed)
    return CFTN(**{"channels": 8, "blocks": 3, "ca_reduction": 2, **options}).eval()


def volume(*size, batch=1, seed=1, dtype=torch.float32):
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(seed)).to(dtype)


# --- parameter tables (NETWORKS 1.1 and 6) ------------------------------------------------------------------------------------------------


def count(**options):
    with torch.device("meta"):
        return sum(p.numel() for p in create("cftn", **options).parameters())


ALL = ("pre", "mid", "post")


@pytest.mark.parametrize(
    ("mfem", "ca16", "ca8", "megabytes"),
    [
        ((), 2_371_327, 2_374_237, (9.046, 9.057)),
        (("mid",), 3_495_974, 3_498_884, (13.336, 13.347)),
        (("pre", "mid"), 4_620_566, 4_623_476, (17.626, 17.637)),
        (ALL, 5_745_158, 5_748_068, (21.916, 21.927)),
    ],
)
def test_parameter_table_x2(mfem, ca16, ca8, megabytes):
    assert count(scale=2, mfem=mfem) == ca16
    assert count(scale=2, mfem=mfem, ca_reduction=8) == ca8
    assert tuple(round(4 * n / 2**20, 3) for n in (ca16, ca8)) == megabytes


@pytest.mark.parametrize("mfem", [c for n in (1, 2, 3) for c in itertools.combinations(ALL, n)])
def test_every_position_of_table_2_has_the_count_of_its_number(mfem):
    assert count(mfem=mfem) == 2_371_327 + 1_124_592 * len(mfem) + 55


@pytest.mark.parametrize("mfem", [(), ("mid",), ("pre", "mid"), ALL])
def test_parameter_table_x3(mfem):
    more = 3_488_496 * len(mfem) + (55 if mfem else 0)
    assert count(scale=3, mfem=mfem) == 3_554_191 + more
    assert count(scale=3, mfem=mfem, ca_reduction=8) == 3_557_101 + more
    assert count(scale=3, mfem=mfem, prelu=True) == 3_554_191 + more + 6 * len(mfem)


def test_x4_follows_the_same_layout():
    sub_pixel = 27 * 48 * 48 * 64 + 48 * 64
    mfem = 2 * (12**3 * 48 * 48 + 48) + 2352 + 2 * 1176 + 62_256 + 62_208
    assert count(scale=4) == 2_371_327 - 498_048 + sub_pixel + mfem + 55


def test_ablations_and_prelus():
    assert count(safm=False) == 3_495_974 - 55
    assert count(mfem=(), safm=False) == count(mfem=())
    assert count(prelu=True) == 3_495_974 + 6
    assert count(prelu=True, mfem=ALL) == 5_745_158 + 18
    assert count(noise_channel=True) == 3_495_974 + 27 * 48
    for same in ({"match": "cosine10"}, {"fold": "mean"}, {"slope": 0.1}, {"init": "residual"}):
        assert count(**same) == 3_495_974


def test_default_layout_is_the_papers():
    with torch.device("meta"):
        net = create("cftn")
    mfem = net.mfems["5"]
    assert list(net.mfems) == ["5"]
    assert list(create("cftn", channels=4, mfem=ALL).mfems) == ["1", "5", "9"]
    assert (mfem.cst.patch, mfem.cst.stride, mfem.cst.match, mfem.cst.fold) == (3, 2, "literal", "sum")
    assert (mfem.cst.embed_v.out_channels, mfem.cst.embed_q.out_channels, mfem.cst.embed_k.out_channels) == (48, 24, 24)
    assert mfem.up.kernel_size == (6, 6, 6)
    assert (mfem.up.stride, mfem.up.padding) == ((2, 2, 2), (2, 2, 2))
    assert net.fuse.in_channels == 528
    assert net.slope == 0.2
    architecture = get_architecture("cftn")
    assert (architecture.dimension, architecture.scales, architecture.reference, architecture.size_multiple) == (3, (2, 3, 4), "none", WINDOW)


def test_ablations_have_the_counts_of_their_tables():
    counts = {name: count(**options) for name, options in ABLATIONS.items()}
    by_number = [2_371_327, 3_495_974, 4_620_566, 5_745_158]
    expected = {"no MFEM": by_number[0], "MFEM without SAFM": by_number[1] - 55}
    expected |= {f"MFEM {', '.join(c)}": by_number[n] for n in (1, 2, 3) for c in itertools.combinations(ALL, n)}
    assert counts == expected


def test_ablations_run_and_differ():
    lr = volume(8, 7, 9)
    with torch.no_grad():
        full = small_net(blocks=6)(lr)
        outputs = {name: small_net(**{"blocks": 6, **options})(lr) for name, options in ABLATIONS.items()}
    assert torch.equal(outputs.pop("MFEM mid"), full)
    for one in outputs.values():
        assert torch.isfinite(one).all()
        assert (one - full).abs().max() > 1e-3
    for one, other in itertools.combinations(outputs.values(), 2):
        assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"stride": 4}, "patches of 3 voxels need a stride from 1 to 3, not 4"),
        ({"stride": 0}, "patches of 3 voxels need a stride from 1 to 3, not 0"),
        ({"match": "cosine"}, "match is literal or cosine10, not 'cosine'"),
        ({"fold": "max"}, "fold is sum or mean, not 'max'"),
        ({"init": "zero"}, "init is default or residual, not 'zero'"),
        ({"blocks": 0}, "blocks is the number of RCABs, at least 1, not 0"),
    ],
)
def test_options_that_do_not_fit(options, sentence):
    with pytest.raises(InputError, match=sentence):
        create("cftn", channels=4, **options)


def test_windows_need_a_stride_that_divides_them():
    net = small_net(patch=5, stride=3, mfem=("mid",))
    with pytest.raises(InputError, match="windows of 8 voxels need a stride of the patches that divides them, not 3"):
        net.set_windows(8)
    net.set_windows(6)
    with torch.no_grad():
        assert net(volume(19, 9, 7)).shape == (1, 1, 38, 18, 14)


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("position", ALL)
def test_few_blocks(blocks, position):
    net = small_net(blocks=blocks, mfem=(position,))
    with torch.no_grad():
        assert net(volume(5, 6, 7)).shape == (1, 1, 10, 12, 14)
    assert len(net.mfems) == 1


def test_wrong_options_get_a_sentence():
    with pytest.raises(InputError, match="defined for factors 2, 3, 4, not 5"):
        create("cftn", scale=5)
    with pytest.raises(InputError, match="an MFEM can follow pre, mid, post or an RCAB from 1 to 3"):
        create("cftn", blocks=3, channels=4, mfem=(7,))
    with pytest.raises(InputError, match=r"CFTN has no option 'width'"):
        create("cftn", width=3)


def test_unknown_mfem_position_gets_a_sentence():
    with pytest.raises(InputError):
        create("cftn", blocks=3, channels=4, mfem=("middle",))


# --- CST against loops --------------------------------------------------------------------------------------------------------------------


def keys_cubic(x):
    x = abs(x)
    return 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def shrink(x, r):
    """Cubic convolution at half-voxel centres without antialiasing, axis by axis; ends replicated."""
    for axis in range(1, 4):
        n = x.shape[axis]
        matrix = np.zeros((n // r, n))
        for i in range(n // r):
            centre = (i + 0.5) * r - 0.5
            for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
                matrix[i, min(max(tap, 0), n - 1)] += keys_cubic(centre - tap)
        x = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
    return x


def embed(layer, x):
    weight, bias = layer.weight.detach().double().numpy()[:, :, 0, 0, 0], layer.bias.detach().double().numpy()
    return np.tensordot(weight, x, 1) + bias[:, None, None, None]


def pad_for(n, p, q):
    """Number of patches along an axis and the zero padding on its left and right (NETWORKS 1.4, step 3)."""
    patches = math.ceil(n / q)
    total = (patches - 1) * q + p - n
    return patches, total // 2, total - total // 2


def cut(array, counts, size, step):
    corners = itertools.product(*(range(n) for n in counts))
    return [array[(slice(None), *(slice(step * c, step * c + size) for c in corner))] for corner in corners]


def naive_rebuild(cst, x, queries):
    """Query patches, each as the softmax-weighted sum of the value patches of `x`."""
    r, p, q = cst.scale, cst.patch, cst.stride
    coarse = [math.ceil(n / r) for n in x.shape[1:]]
    filled = np.pad(x, [(0, 0), *((0, r * z - n) for z, n in zip(coarse, x.shape[1:], strict=True))], mode="edge")
    plan = [pad_for(z, p, q) for z in coarse]
    counts = [n for n, _, _ in plan]
    key = np.pad(embed(cst.embed_k, shrink(filled, r)), [(0, 0), *((a, b) for _, a, b in plan)])
    value = np.pad(embed(cst.embed_v, filled), [(0, 0), *((r * a, r * b) for _, a, b in plan)])
    keys, values = cut(key, counts, p, q), cut(value, counts, r * p, r * q)
    if cst.match == "cosine10":
        keys = [10 * k / max(np.linalg.norm(k), 1e-4) for k in keys]
    scores = np.stack([s.ravel() for s in queries]) @ np.stack([k.ravel() for k in keys]).T
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    return (weights @ np.stack([v.ravel() for v in values])).reshape(-1, *values[0].shape)


def naive_fold(pieces, corners, step, fold):
    """Patches added up at their corners; `mean` divides by how many met."""
    edge = pieces[0].shape[-1]
    out = np.zeros((pieces[0].shape[0], *(step * max(c) + edge for c in zip(*corners, strict=True))))
    times = np.zeros(out.shape[1:])
    for corner, piece in zip(corners, pieces, strict=True):
        at = tuple(slice(step * c, step * c + edge) for c in corner)
        out[(slice(None), *at)] += piece
        times[at] += 1
    return out / times if fold == "mean" else out


def naive_cst(cst, x):
    """One sample, (C, X, Y, Z) float64 numpy; nothing shared with the module but its weights."""
    r, p, q = cst.scale, cst.patch, cst.stride
    sizes = x.shape[1:]
    plan = [pad_for(n, p, q) for n in sizes]
    query = np.pad(embed(cst.embed_q, x), [(0, 0), *((a, b) for _, a, b in plan)])
    counts = [n for n, _, _ in plan]
    corners = list(itertools.product(*(range(n) for n in counts)))
    out = naive_fold(naive_rebuild(cst, x, cut(query, counts, p, q)), corners, r * q, cst.fold)
    return out[(slice(None), *(slice(r * left, r * left + r * n) for (_, left, _), n in zip(plan, sizes, strict=True)))]


def naive_windowed_cst(cst, x):
    """Queries in blocks of `window` voxels, each seeing its block and one more on every side (ends replicated)."""
    r, p, q, w = cst.scale, cst.patch, cst.stride, cst.window
    sizes = x.shape[1:]
    blocks = [math.ceil(n / w) for n in sizes]
    padded = np.pad(x, [(0, 0), *((w, (b + 1) * w - n) for b, n in zip(blocks, sizes, strict=True))], mode="edge")
    pieces, corners = [], []
    for block in itertools.product(*(range(b) for b in blocks)):
        region = padded[(slice(None), *(slice(w * c, w * c + 3 * w) for c in block))]
        inner = embed(cst.embed_q, region)[(slice(None), *(slice(w, 2 * w + p - q),) * 3)]
        pieces += list(naive_rebuild(cst, region, cut(inner, [w // q] * 3, p, q)))
        corners += [tuple(w // q * c + i for c, i in zip(block, local, strict=True)) for local in itertools.product(range(w // q), repeat=3)]
    return naive_fold(pieces, corners, r * q, cst.fold)[(slice(None), *(slice(0, r * n) for n in sizes))]


def make_cst(scale, channels=4, **options):
    torch.manual_seed(scale)
    cst = CrossScaleTransformer(channels, 2, scale, **options).double()
    with torch.no_grad():
        for layer in (cst.embed_v, cst.embed_q, cst.embed_k):
            layer.bias.uniform_(-0.5, 0.5)
    return cst


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(13, 14, 15), (16, 17, 18), (19, 20, 13), (5, 6, 7)])
def test_cst_by_hand(scale, size):
    cst = make_cst(scale)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    with torch.no_grad():
        ours = cst(x)
    assert ours.shape == (2, 4, *(scale * n for n in size))
    for sample in range(2 if size == (5, 6, 7) else 1):
        np.testing.assert_allclose(ours[sample].numpy(), naive_cst(cst, x[sample].numpy()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{"match": "cosine10"}, {"fold": "mean"}, {"patch": 5, "stride": 3}, {"patch": 3, "stride": 3, "fold": "mean"}])
def test_cst_options_by_hand(options):
    cst = make_cst(2, **options)
    x = torch.randn(1, 4, 9, 10, 11, dtype=torch.float64)
    with torch.no_grad():
        np.testing.assert_allclose(cst(x)[0].numpy(), naive_cst(cst, x[0].numpy()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"fold": "mean"}, {"match": "cosine10"}])
@pytest.mark.parametrize(("scale", "size"), [(2, (13, 14, 9)), (3, (16, 5, 7)), (2, (3, 14, 8))])
def test_cst_in_windows_by_hand(options, scale, size):
    cst = make_cst(scale, **options)
    cst.window = 4
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    with torch.no_grad():
        ours = cst(x)
    for sample in range(2):
        np.testing.assert_allclose(ours[sample].numpy(), naive_windowed_cst(cst, x[sample].numpy()), rtol=1e-9, atol=1e-9)


def test_published_patch_has_the_published_sizes(monkeypatch):
    """26^3 at x2: 13^3 queries, 7^3 keys, 648 numbers each, values of 6^3 a channel."""
    seen = {}

    def watched(q, k, v, stride, entropy, progress):
        seen.update(q=q.shape, k=k.shape, v=v.shape, stride=stride)
        assert entropy is None
        assert progress is None
        return cross_scale_attention(q, k, v, stride)

    monkeypatch.setattr("napari_mrsr.networks.blocks.cross_scale_transformer.cross_scale_attention", watched)
    with torch.no_grad():
        assert CrossScaleTransformer(1, 24, 2)(torch.zeros(1, 1, 26, 26, 26)).shape == (1, 1, 52, 52, 52)
    assert seen == {"q": (1, 13, 13, 13, 648), "k": (1, 343, 648), "v": (1, 343, 1, 6, 6, 6), "stride": 4}


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("size", [(6, 7, 8), (13, 5, 10)])
def test_mean_fold_of_equal_patches_is_that_constant(scale, size):
    """With all value patches alike the averaged fold is flat, the summed one counts overlaps."""
    cst = make_cst(scale, fold="mean")
    grid = [math.ceil(n / 2) for n in size]
    values = torch.full((1, 5, 2, 3 * scale, 3 * scale, 3 * scale), 7.0, dtype=torch.float64)
    folded = cross_scale_attention(torch.randn(1, *grid, 6).double(), torch.randn(1, 5, 6).double(), values, 2 * scale)
    if len(set(folded.flatten().tolist())) == 1:
        pytest.fail("the patches must overlap for this test to say anything")
    torch.testing.assert_close(cst._normalise(folded), torch.full_like(folded, 7.0))


def test_sum_and_mean_differ_by_the_count():
    x = torch.randn(1, 4, 8, 9, 10, dtype=torch.float64)
    with torch.no_grad():
        ratio = make_cst(2)(x) / make_cst(2, fold="mean")(x)
    times = set(np.round(ratio.numpy().ravel(), 6).tolist())
    assert times == {1.0, 2.0, 4.0, 8.0}


# --- MFEM, SAFM, forward pass -------------------------------------------------------------------------------------------------------------


def plain_convolution(x, layer, stride, padding):
    """(B, C, X, Y, Z), one kernel tap after another."""
    k, sizes = layer.weight.shape[-1], [(n + 2 * padding - layer.weight.shape[-1]) // stride + 1 for n in x.shape[2:]]
    padded = F.pad(x, [padding] * 6)
    out = layer.bias.view(1, -1, 1, 1, 1).expand(len(x), -1, *sizes)
    for tap in itertools.product(range(k), repeat=3):
        seen = padded[(slice(None), slice(None), *(slice(t, t + stride * (n - 1) + 1, stride) for t, n in zip(tap, sizes, strict=True)))]
        out = out + torch.einsum("oi,bixyz->boxyz", layer.weight[(slice(None), slice(None), *tap)], seen)
    return out


def plain_transposed_convolution(x, layer, stride, padding):
    """Every voxel lays its kernel down."""
    k = layer.weight.shape[-1]
    out = torch.zeros(len(x), layer.weight.shape[1], *(stride * (n - 1) + k for n in x.shape[2:]), dtype=x.dtype)
    for tap in itertools.product(range(k), repeat=3):
        at = (slice(t, t + stride * (n - 1) + 1, stride) for t, n in zip(tap, x.shape[2:], strict=True))
        out[(slice(None), slice(None), *at)] += torch.einsum("io,bixyz->boxyz", layer.weight[(slice(None), slice(None), *tap)], x)
    return out[:, :, padding:-padding, padding:-padding, padding:-padding] + layer.bias.view(1, -1, 1, 1, 1)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("prelu", [False, True])
def test_mfem_is_equations_4_and_5(scale, prelu):
    torch.manual_seed(0)
    mfem = MFEM(4, 2, scale, prelu, 3, 2, "literal", "sum").double()
    slopes = [m for n, m in mfem.named_parameters() if m.numel() == 1]
    assert len(slopes) == (6 if prelu else 0)
    x = torch.randn(2, 4, 5, 6, 7, dtype=torch.float64)

    def layer_of(module):
        return module[0] if prelu else module

    def activated(y, module):
        return torch.where(y > 0, y, module[1].weight * y) if prelu else y

    with torch.no_grad():
        for i, slope in enumerate(slopes):
            slope.fill_(0.1 + 0.1 * i)
        fine, coarse = mfem(x)
        lifted = activated(plain_transposed_convolution(x, layer_of(mfem.up), scale, scale), mfem.up)
        torch.testing.assert_close(fine, lifted + mfem.cst(x))
        shrunk = activated(plain_convolution(fine, layer_of(mfem.down[0]), scale, scale), mfem.down[0])
        torch.testing.assert_close(coarse, activated(plain_convolution(shrunk, layer_of(mfem.down[1]), 1, 1), mfem.down[1]))
    assert fine.shape == (2, 4, 5 * scale, 6 * scale, 7 * scale)
    assert coarse.shape == x.shape


def test_safm_is_equation_9():
    torch.manual_seed(0)
    safm = SAFM().double()
    y = torch.randn(2, 5, 4, 5, 6, dtype=torch.float64)
    pooled = F.pad(torch.stack([y.sum(1) / 5, y.max(1).values], 1), [1] * 6)
    weight, bias = safm.conv.weight[0], safm.conv.bias[0]
    logit = torch.zeros(2, 4, 5, 6, dtype=torch.float64) + bias
    for c, i, j, k in itertools.product(range(2), range(3), range(3), range(3)):
        logit = logit + weight[c, i, j, k] * pooled[:, c, i : i + 4, j : j + 5, k : k + 6]
    torch.testing.assert_close(safm(y), y / (1 + torch.exp(-logit))[:, None])


def literal_forward(net, lr, order):
    """NETWORKS 1.2, step by step; `order` holds the RCABs that an MFEM follows."""
    x = F.leaky_relu(net.head(lr), 0.2)
    kept, fine = [], []
    for m in range(1, len(net.rcabs) + 1):
        x = net.rcabs[m - 1](x)
        kept.append(x)
        if m in order:
            y, x = net.mfems[str(m)](x)
            kept.append(x)
            fine.append(y)
    y = voxel_shuffle(net.subpixel(net.fuse(torch.cat(kept, 1))), net.scale)
    y = y + sum(fine)
    y = net.safm(y) if net.safm is not None else y
    return cubic_upsample(lr, net.scale) + net.tail(y)


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize(("mfem", "order"), [((), ()), (("pre",), (1,)), (("mid",), (2,)), (("post",), (4,)), (ALL, (1, 2, 4))])
@pytest.mark.parametrize("safm", [True, False])
def test_forward_pass_step_by_step(scale, mfem, order, safm):
    net = small_net(scale=scale, mfem=mfem, blocks=5, safm=safm).double()
    lr = volume(7, 6, 5, dtype=torch.float64)
    with torch.no_grad():
        expected = literal_forward(net, lr, order)
        torch.testing.assert_close(net(lr), expected, rtol=1e-12, atol=1e-12)
    assert (net.safm is None) == (not safm or not order)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"scale": 3, "match": "cosine10", "fold": "mean", "prelu": True}, {"scale": 4, "noise_channel": True}])
@pytest.mark.parametrize("window", [None, 4])
def test_every_precision_runs(dtype, options, window):
    net = small_net(**options)
    net.set_windows(window)
    lr = volume(13, 9, 8)
    with torch.no_grad():
        expected = net(lr)
        out = net.to(dtype)(lr.to(dtype))
    assert out.dtype == dtype
    allowed = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 1e-6, torch.float64: 2e-6}[dtype]
    assert (out.float() - expected).abs().max() < allowed * expected.abs().max()


def test_half_precision_gradients_are_finite():
    net = small_net(mfem=ALL).bfloat16().train()
    net(volume(7, 8, 6).bfloat16()).float().square().mean().backward()
    for name, p in net.named_parameters():
        assert p.grad.dtype == torch.bfloat16, name
        assert torch.isfinite(p.grad).all(), name


@settings(max_examples=25)
@given(st.tuples(*[st.integers(1, 11)] * 3), st.sampled_from([2, 3, 4]), st.sampled_from([(), ("mid",), ALL]))
def test_any_size_and_scale(size, scale, mfem):
    net = small_net(scale=scale, channels=4, mfem=mfem)
    with torch.no_grad():
        out = net(volume(*size))
    assert out.shape == (1, 1, *(scale * n for n in size))
    assert torch.isfinite(out).all()


@pytest.mark.parametrize(
    "options", [{}, {"mfem": ALL, "prelu": True, "noise_channel": True}, {"scale": 3}, {"match": "cosine10", "fold": "mean"}, {"mfem": ()}]
)
def test_gradients_reach_every_parameter(options):
    net = small_net(**options).train()
    net(volume(7, 8, 6), noise_level=0.05).square().mean().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert not silent


def test_gradients_equal_those_of_finite_differences():
    net = small_net(channels=4, blocks=3).double()
    lr = volume(5, 4, 6, dtype=torch.float64)
    parameters = dict(net.named_parameters())
    loss = net(lr).square().sum()
    for name in ("head.weight", "mfems.1.cst.embed_q.weight", "mfems.1.cst.embed_k.weight", "mfems.1.cst.embed_v.weight", "safm.conv.weight"):
        p = parameters[name]
        (grad,) = torch.autograd.grad(loss, p, retain_graph=True)
        step = torch.randn_like(p) * 1e-6
        with torch.no_grad():
            p.add_(step)
            high = net(lr).square().sum()
            p.sub_(2 * step)
            low = net(lr).square().sum()
            p.add_(step)
        assert ((high - low) / 2).item() == pytest.approx((grad * step).sum().item(), rel=1e-4)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("scale", [2, 3])
def test_batch_of_two_is_two_batches_of_one(scale, window):
    net = small_net(scale=scale)
    net.set_windows(window)
    lr = volume(13, 8, 7, batch=2)
    with torch.no_grad():
        both = net(lr)
        torch.testing.assert_close(both, torch.cat([net(lr[:1]), net(lr[1:])]), rtol=1e-4, atol=1e-5)
    assert (both[0] - both[1]).abs().max() > 0.1


def test_evaluation_is_deterministic():
    lr = volume(9, 8, 7)
    net, twin = small_net(), small_net(seed=5)
    twin.load_state_dict(net.state_dict())
    with torch.no_grad():
        first = net(lr)
        assert torch.equal(first, net(lr))
        assert torch.equal(first, twin(lr))


def test_noise_channel():
    net, plain = small_net(noise_channel=True), small_net()
    lr = volume(6, 5, 4, batch=2)
    with torch.no_grad():
        clean, noisy = net(lr), net(lr, noise_level=0.2)
        assert torch.equal(clean, net(lr, noise_level=0.0))
        assert (clean - noisy).abs().max() > 1e-4
        levels = torch.tensor([0.0, 0.2]).view(2, 1, 1, 1, 1)
        torch.testing.assert_close(net(lr, noise_level=levels), torch.stack([clean[0], noisy[1]]), rtol=1e-4, atol=1e-5)
        assert torch.equal(plain(lr, noise_level=0.2), plain(lr))
        assert torch.equal(plain(lr, reference=None), plain(lr))


def test_residual_start_is_cubic_interpolation():
    net = small_net(init="residual", channels=8)
    lr = volume(8, 7, 6)
    with torch.no_grad():
        torch.testing.assert_close(net(lr), cubic_upsample(lr, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_residual_start_passes_features_through(scale):
    torch.manual_seed(0)
    mfem = MFEM(6, 3, scale, False, 3, 2, "literal", "sum")
    mfem.pass_through()
    ramp = torch.arange(12.0).view(1, 1, 12, 1, 1).expand(1, 6, 12, 9, 9).contiguous()
    with torch.no_grad():
        fine, coarse = mfem(ramp)
    expected = ((torch.arange(12.0 * scale) + 0.5) / scale - 0.5).view(1, 1, -1, 1, 1)
    inside = (slice(None), slice(None), *(slice(3 * scale, -3 * scale),) * 3)
    assert (fine - expected)[inside].abs().mean() < 0.2
    assert (coarse - ramp)[:, :, 3:-3, 3:-3, 3:-3].abs().mean() < 0.8
    assert torch.equal(mfem.cst(ramp), torch.zeros_like(fine))


@pytest.mark.parametrize("mode", ["weights", "autocast"])
def test_bfloat16_stays_finite_and_near(mode):
    net = small_net()
    lr = volume(9, 8, 7)
    with torch.no_grad():
        expected = net(lr)
        if mode == "weights":
            ours = net.bfloat16()(lr.bfloat16())
            assert ours.dtype == torch.bfloat16
        else:
            with torch.autocast("cpu", torch.bfloat16):
                ours = net(lr)
    assert torch.isfinite(ours).all()
    assert (ours.float() - expected).abs().max() < 0.05 * expected.abs().max()


# --- windows ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(24, 24, 24), (24, 9, 13), (5, 6, 7)])
def test_windows_change_nothing_up_to_three_of_them(size):
    net = small_net(channels=4, mfem=("mid", "post"))
    lr = volume(*size)
    with torch.no_grad():
        whole = net(lr)
        net.set_windows(8)
        assert torch.equal(net(lr), whole)
        net.set_windows(4)
        if max(size) > 12 and min(size) > 8:
            assert not torch.equal(net(lr), whole)
        net.set_windows(None)
        assert torch.equal(net(lr), whole)


@pytest.mark.parametrize("fold", ["sum", "mean"])
@pytest.mark.parametrize("size", [(40, 26, 27), (25, 24, 24), (31, 29, 26)])
def test_windowed_shapes_and_scale(fold, size):
    net = small_net(channels=4, fold=fold, blocks=2)
    with torch.no_grad():
        whole = net(volume(*size))
        net.set_windows(8)
        out = net(volume(*size))
    assert out.shape == whole.shape
    assert torch.isfinite(out).all()
    assert 0 < (out - whole).abs().max() < 0.5 * whole.abs().max()


@pytest.mark.parametrize("size", [(40, 40, 12), (30, 3, 30), (1, 1, 40), (8, 30, 16)])
def test_windows_on_thin_volumes(size):
    """A slab of a few slices, or a region around one slice."""
    net = small_net(channels=4, blocks=2)
    net.set_windows(8)
    with torch.no_grad():
        assert net(volume(*size)).shape == (1, 1, *(2 * n for n in size))


def windowed_error(start, anchored=True, gain=1.0, **options):
    """Largest deviation of one tile's inside from the whole volume, relative to the largest correction to cubic interpolation."""
    net = small_net(blocks=10, **options)
    net.set_windows(8)
    with torch.no_grad():
        for rcab in net.rcabs:
            rcab.conv1.weight.mul_(gain)
            rcab.conv2.weight.mul_(gain)
    lr = volume(80, 26, 25)
    low, high = max(start - 24, 0), min(start + 32, 80)
    low += 0 if anchored else 4
    with torch.no_grad():
        whole, tile = net(lr), net(lr[:, :, low:high])
        correction = (whole - cubic_upsample(lr, 2)).abs().max()
    moved = 2 * (start - low)
    return ((tile[:, :, moved : moved + 16] - whole[:, :, 2 * start : 2 * start + 16]).abs().max() / correction).item()


@pytest.mark.parametrize(
    ("start", "options"),
    [(32, {}), (0, {}), (72, {}), (32, {"fold": "mean"}), (32, {"match": "cosine10", "gain": 2.0})],
    ids=["middle", "low end", "high end", "mean fold", "lively weights"],
)
def test_anchored_tiles_agree_with_the_whole(start, options, record_property):
    error = windowed_error(start, **options)
    record_property("max_relative_error", error)
    print(f"tile at {start}, {options}: max error {error:.2e} of the largest correction")
    assert error < 1e-3


def test_a_tile_off_the_anchor_would_be_seen():
    assert windowed_error(32, anchored=False) > 5e-3


# --- attention over a whole volume from its parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"fold": "mean"}, {"match": "cosine10"}, {"patch": 5}, {"patch": 4, "stride": 4}])
@pytest.mark.parametrize(("scale", "size"), [(2, (23, 20, 17)), (3, (22, 13, 24)), (4, (17, 21, 8))])
def test_parts_of_a_surveyed_volume_see_all_of_it(scale, size, options):
    """Every part gives what the whole gives, but for the patches that its own cut ends would have to share with its neighbour."""
    cst = make_cst(scale, **options)
    x = torch.randn(1, 4, *size, dtype=torch.float64)
    reach, checked = cst.patch, 0
    with torch.no_grad():
        whole = cst(x)
        cst.survey(x)
        torch.testing.assert_close(cst(x), whole, rtol=1e-12, atol=1e-12)
        for start in itertools.product(*(range(0, n, 8) for n in size)):
            part, inner = [], []
            for s, n in zip(start, size, strict=True):
                low, high = max(0, s - 8), min(n, s + 16)
                part.append(slice(low, high))
                inner.append(slice(low + (reach if low else 0), high - (reach if high < n else 0)))
            cst.start = tuple(s.start for s in part)
            out = cst(x[(..., *part)])
            at = tuple(slice(scale * (i.start - p.start), scale * (i.stop - p.start)) for i, p in zip(inner, part, strict=True))
            there = tuple(slice(scale * i.start, scale * i.stop) for i in inner)
            torch.testing.assert_close(out[(..., *at)], whole[(..., *there)], rtol=1e-11, atol=1e-11)
            checked += 1
        assert checked > 3
        cst.start = (0, 0, 0)
        cst.forget()
        torch.testing.assert_close(cst(x), whole, rtol=0, atol=0)


def test_a_survey_takes_the_memory_it_says():
    cst = make_cst(2, patch=3)
    cst.survey(torch.randn(1, 4, 23, 20, 17, dtype=torch.float64))
    assert sum(b.nbytes for b in cst.buffers()) == cst.survey_bytes((23, 20, 17), 8)
    assert not any("of_all" in name for name in cst.state_dict())


def test_the_input_of_the_attention_is_found_without_the_rest_of_the_network():
    net = small_net(channels=4, mfem=("mid", "post"))
    lr, seen = volume(9, 10, 11), []
    net.tail.register_forward_hook(lambda *_: seen.append("tail"))
    attention = net.cross_scale()
    attention[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    name = attention[1].entrance
    with torch.no_grad(), Recorder((name,), only=True) as recorder:
        net(lr)
    assert len(seen) == 1
    torch.testing.assert_close(recorder.found[name].values, seen[0], rtol=0, atol=0)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_long_attention_tells_its_progress_and_can_be_stopped_inside(share):
    """The share grows to one; what the listener raises ends the computation at that very chunk."""
    shares = []
    q, k, v = torch.randn(1, 7, 5, 6, 8), torch.randn(1, 9, 8), torch.randn(1, 9, 2, 4, 4, 4)
    cross_scale_attention(q, k, v, 2, 1000, progress=shares.append)
    assert len(shares) > 10
    assert shares == sorted(set(shares))
    assert shares[-1] == 1.0
    told = []

    def stop(done):
        told.append(done)
        if done > share:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cross_scale_attention(q, k, v, 2, 1000, progress=stop)
    assert told == shares[: len(told)]
    assert len(told) < len(shares)
