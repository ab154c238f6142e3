from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mrsr.degradation.matrices import bspline_matrix
from napari_mrsr.errors import InputError
from napari_mrsr.grid import AxisSampling
from napari_mrsr.networks import create, get_architecture
from napari_mrsr.networks.blocks import head_correlation_attention as attention_module
from napari_mrsr.networks.blocks.cross_modality import AdaptIN, CNNBlock
from napari_mrsr.networks.blocks.gradient import gradient_magnitude
from napari_mrsr.networks.blocks.head_correlation_attention import (
    HeadCorrelationAttention,
    ResidualMLP,
    from_windows,
    head_correlation,
    pad_to_multiple,
    to_windows,
)
from napari_mrsr.networks.blocks.recording import Recorder
from napari_mrsr.networks.blocks.rrdb import RRDB, DenseBlock
from napari_mrsr.networks.cohft import ABLATIONS, PRESETS, CohfT
from napari_mrsr.networks.losses.gradient import CohfTLoss
from napari_mrsr.networks.scaling import by_range

TINY = {"width": 8, "growth": 4, "stages": 2, "rrdbs": 1, "dense_blocks": 1, "convolutions": 2}


def small_net(seed=0, wake=True, **options):
    """Tiny network; `wake` gives the layers that start at zero (and the small RRDBs) something to do."""
    torch.manual_seed(seed)
    net = CohfT(**{**TINY, **options}).eval()
    if wake:
        with torch.no_grad():
            for name, p in net.named_parameters():
                if "blocks" in name or "beta" in name or "gamma" in name:
                    p.normal_(0, 0.2)
    return net


def slices(h, w, scale=2, batch=1, seed=1, dtype=torch.float32):
    """LR slices and references on the output grid."""
    generator = torch.Generator().manual_seed(seed)
    lr = torch.rand(batch, 1, h, w, generator=generator)
    return lr.to(dtype), torch.rand(batch, 1, scale * h, scale * w, generator=generator).to(dtype)


# --- parameters (NETWORKS 4.2, 4.7, 6) ----------------------------------------------------------------------------------------------------


def number(module):
    return sum(p.numel() for p in module.parameters())


@cache
def count(**options):
    with torch.device("meta"):
        return number(create("cohft", **{"scale": 4, **options}))


@pytest.mark.parametrize(("width", "growth", "expected"), [(32, 32, 415_200), (32, 16, 180_000), (64, 32, 719_424)])
def test_rrdb_counts(width, growth, expected):
    with torch.device("meta"):
        assert number(RRDB(width, growth)) == expected


def test_counts_of_the_literal_reading():
    assert count() == 18_468_014
    assert count(growth=16) == 13_058_414
    assert round(count() / 1e6, 1) == 18.5
    assert round(count(growth=16) / 1e6) == 13
    with torch.device("meta"):
        block = create("cohft", scale=4, stages=1, rrdbs=0).stages[0].block
    projections = [number(layer) for layer in (block.inter.query, block.inter.key, block.inter.value)]
    assert projections == [800 * 800 + 800] * 3
    assert round(number(block) / 1e6, 2) == 2.15


def test_presets_are_the_papers_sizes():
    assert 2.1e6 < count(preset="M") < 2.9e6
    assert 1.3e6 < count(preset="S") < 1.8e6
    expected = {"S": (16, 2, 2, 3), "M": (16, 3, 3, 3), "L": (32, 4, 3, 5)}
    for preset, (width, stages, dense_blocks, convolutions) in expected.items():
        with torch.device("meta"):
            net = create("cohft", preset=preset, rrdbs=1)
        rrdb = net.stages[0].rrdbs[0]
        assert (net.width, len(net.stages), len(rrdb.blocks), len(rrdb.blocks[0].convolutions)) == (width, stages, dense_blocks, convolutions)
    assert set(PRESETS) == set(expected)


def test_explicit_options_win_over_presets():
    with torch.device("meta"):
        net = create("cohft", preset="S", width=8, stages=5, rrdbs=1)
    assert (net.width, len(net.stages), len(net.stages[0].rrdbs[0].blocks)) == (8, 5, 2)
    assert count(preset="S", rrdbs=0, **PRESETS["L"]) == count(rrdbs=0)


def test_default_layout_is_the_papers():
    with torch.device("meta"):
        net = create("cohft", scale=3, stages=1)
    block = net.stages[0].block
    assert len(net.stages[0].rrdbs) == 5
    attentions = (block.short[0], block.long[0], block.inter)
    assert [(a.heads, a.patch, a.ratio, a.window, a.dilated) for a in attentions] == [(4, 1, 1, 6, False), (4, 1, 1, 6, True), (4, 5, 3, None, False)]
    assert all(a.inter_head for a in attentions)
    assert block.mlp.layers[1].out_channels == 32
    assert len(net.gate_image) == len(net.gate_structure) == len(net.gate_context) == 2
    assert (net.skip, net.upsampling, net.domain, net.noise_channel) == (True, "bicubic", "gradient", False)
    assert net.stages[0].select.kernel_size == (3, 3)
    architecture = get_architecture("cohft")
    assert (architecture.dimension, architecture.scales, architecture.reference, architecture.tiling) == (2, (2, 3, 4), "needed", "planes")
    assert architecture.scaling is by_range
    assert architecture.halo(net) is None
    assert architecture.global_statistics
    assert not architecture.pre_interpolated


def test_rrdbs_start_small():
    torch.manual_seed(0)
    net = CohfT(stages=1, rrdbs=1)
    for convolution in net.stages[0].rrdbs[0].blocks[1].convolutions:
        fan = convolution.in_channels * 9
        assert convolution.weight.std().item() == pytest.approx(0.1 * math.sqrt(2 / fan), rel=0.05)
        assert not convolution.bias.any()


def test_wrong_options_get_a_sentence():
    with pytest.raises(InputError, match="defined for factors 2, 3, 4, not 5"):
        create("cohft", scale=5)
    with pytest.raises(InputError, match="scale must be one of 2, 3, 4, not 8"):
        CohfT(scale=8)
    with pytest.raises(InputError, match="preset must be one of None, S, M, L, not 'XL'"):
        create("cohft", preset="XL")
    with pytest.raises(InputError, match="domain must be one of gradient, image, not 'wavelet'"):
        create("cohft", domain="wavelet")
    with pytest.raises(InputError, match="multiples of 4, not 6 x 1 x 1"):
        create("cohft", width=6)
    with pytest.raises(InputError, match="stages must be at least 1, not 0"):
        create("cohft", stages=0)
    with pytest.raises(InputError, match="needs skip=True"):
        create("cohft", init="residual", skip=False)
    for name, value in (("blocks", "rnn"), ("init", "zero"), ("upsampling", "linear"), ("selection_kernel", 5)):
        with pytest.raises(InputError, match=f"{name} must be one of"):
            create("cohft", **{name: value})


def test_reference_is_needed_and_must_fit():
    net = small_net()
    lr, reference = slices(6, 7)
    with pytest.raises(InputError, match="needs a reference"):
        net(lr)
    with pytest.raises(InputError, match="1 slices of 12 x 14 pixels, not 1 of 12 x 12"):
        net(lr, reference[..., :12])
    with pytest.raises(InputError, match="not 2 of 12 x 14"):
        net(lr, reference.repeat(2, 1, 1, 1))


# --- RRDB ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convolutions", [1, 3, 5])
def test_dense_block_step_by_step(convolutions):
    torch.manual_seed(0)
    block = DenseBlock(3, 2, convolutions).double()
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    known = [x]
    for index, layer in enumerate(block.convolutions):
        y = F.conv2d(torch.cat(known, 1), layer.weight, layer.bias, padding=1)
        known.append(torch.where(y > 0, y, 0.2 * y) if index < convolutions - 1 else y)
    torch.testing.assert_close(block(x), x + 0.2 * known[-1])


def test_rrdb_step_by_step():
    torch.manual_seed(0)
    rrdb = RRDB(3, 2, blocks=2, convolutions=3).double()
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(rrdb(x), x + 0.2 * rrdb.blocks[1](rrdb.blocks[0](x)))


# --- basic attention module (eq. 3 to 5) against loops ------------------------------------------------------------------------------------


def softmax(x):
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def naive_heads(q, k, v, inter_head=True, penalty=None):
    """One window: (M, N, d') arrays to (N, M, d'), element by element; `penalty`, (M, N, N), is taken from the logits."""
    heads, tokens, width = q.shape
    attended = np.zeros((tokens, heads, width))
    for m, i in itertools.product(range(heads), range(tokens)):
        logits = np.array([np.sum(q[m, i] * k[m, j]) / math.sqrt(width) for j in range(k.shape[1])])
        weights = softmax(logits if penalty is None else logits - penalty[m, i])
        attended[i, m] = sum(weights[j] * v[m, j] for j in range(k.shape[1]))
    if not inter_head:
        return attended
    out = np.zeros_like(attended)
    for n, m in itertools.product(range(tokens), range(heads)):
        row = softmax(np.array([np.sum(attended[n, m] * attended[n, j]) for j in range(heads)]))
        for j in range(heads):
            out[n, m] += ((m == j) + row[j]) * attended[n, j]
    return out


@pytest.mark.parametrize("inter_head", [True, False])
def test_equations_3_to_5(inter_head):
    q, k, v = (torch.randn(2, 4, n, 3, dtype=torch.float64) for n in (5, 7, 7))
    ours = head_correlation(q, k, v, inter_head)
    assert ours.shape == (2, 5, 12)
    for item in range(2):
        expected = naive_heads(q[item].numpy(), k[item].numpy(), v[item].numpy(), inter_head)
        np.testing.assert_allclose(ours[item].numpy(), expected.reshape(5, 12), rtol=1e-10, atol=1e-12)


def test_more_windows_than_a_kernel_takes(monkeypatch):
    q, k, v = torch.randn(3, 10, 2, 4, 3, dtype=torch.float64)
    whole = head_correlation(q, k, v)
    monkeypatch.setattr("napari_mrsr.networks.blocks.attention.LAUNCH", 4)
    torch.testing.assert_close(head_correlation(q, k, v), whole)


def numbers(t):
    return t.detach().double().numpy()


def naive_norm(layer, x):
    deviation = x - x.mean(0)
    scaled = deviation / np.sqrt((deviation**2).mean(0) + 1e-5)
    return scaled * numbers(layer.weight)[:, None, None] + numbers(layer.bias)[:, None, None]


def naive_gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def naive_conv(layer, x, stride=1, pad=0):
    weight, bias = numbers(layer.weight), numbers(layer.bias)
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad)])
    k = weight.shape[-1]
    size = [(n - k) // stride + 1 for n in x.shape[1:]]
    out = np.zeros((len(weight), *size))
    for i, j in itertools.product(*map(range, size)):
        out[:, i, j] = np.tensordot(weight, x[:, stride * i : stride * i + k, stride * j : stride * j + k], 3) + bias
    return out


def naive_embedding(layers, x, ratio):
    return naive_gelu(naive_norm(layers[2], naive_conv(layers[1], naive_norm(layers[0], x), stride=ratio)))


def naive_extend(x, multiple):
    for axis in (1, 2):
        missing = -x.shape[axis] % multiple
        pads = [(0, missing) if a == axis else (0, 0) for a in range(3)]
        x = np.pad(x, pads, mode="reflect" if missing < x.shape[axis] else "edge")
    return x


def naive_windows(rows, columns, window, dilated):
    """Lists of token coordinates that attend to one another (NETWORKS 4.5)."""
    if window is None:
        return [list(itertools.product(range(rows), range(columns)))]
    found = []
    for i, j in itertools.product(range(rows // window), range(columns // window)):
        inside = itertools.product(range(window), repeat=2)
        if dilated:
            found.append([(i + a * rows // window, j + b * columns // window) for a, b in inside])
        else:
            found.append([(window * i + a, window * j + b) for a, b in inside])
    return found


def naive_projections(module, x1, x2):
    """Queries, keys and values of all tokens, (M, rows, columns, d') each, by patches of p x p pixels."""
    p, multiple = module.patch, module.patch * (module.window or 1)
    target = naive_embedding(module.embed_1, naive_extend(x1, multiple), 1)
    context = naive_embedding(module.embed_2, naive_extend(x2, multiple * module.ratio), module.ratio)
    rows, columns = (n // p for n in target.shape[1:])
    found = []
    for layer, features in ((module.query, target), (module.key, context), (module.value, context)):
        projected = np.zeros((module.heads, rows, columns, layer.out_features // module.heads))
        for i, j in itertools.product(range(rows), range(columns)):
            token = features[:, p * i : p * i + p, p * j : p * j + p].ravel()
            projected[:, i, j] = (numbers(layer.weight) @ token + numbers(layer.bias)).reshape(module.heads, -1)
        found.append(projected)
    return found


def naive_penalty(module, window):
    """Slopes times squared distances of a window's tokens, (M, N, N)."""
    slopes = np.zeros(module.heads) if module.near is None else numbers(module.near.log_slope.exp())
    return np.array([[[slope * ((a - c) ** 2 + (b - d) ** 2) for c, d in window] for a, b in window] for slope in slopes])


def naive_attention(module, x1, x2=None):
    """O of one sample, (C, h, w)."""
    q, k, v = naive_projections(module, x1, x1 if x2 is None else x2)
    _, rows, columns, _ = q.shape
    p, channels = module.patch, x1.shape[0]
    u = np.zeros((channels, rows * p, columns * p))
    for window in naive_windows(rows, columns, module.window, module.dilated):
        picked = [np.stack([projected[:, i, j] for i, j in window], 1) for projected in (q, k, v)]
        tokens = naive_heads(*picked, inter_head=module.inter_head, penalty=naive_penalty(module, window))
        for (i, j), token in zip(window, tokens, strict=True):
            u[:, p * i : p * i + p, p * j : p * j + p] = token.reshape(channels, p, p)
    return x1 + naive_conv(module.post, u[:, : x1.shape[1], : x1.shape[2]], pad=1)


def lively_attention(**options):
    torch.manual_seed(0)
    module = HeadCorrelationAttention(4, heads=2, **options).double()
    with torch.no_grad():
        if module.near is not None:
            module.near.log_slope.copy_(torch.tensor([-1.0, -3.0]))
        for p in module.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return module


KINDS = {
    "short": {"window": 3},
    "long": {"window": 3, "dilated": True},
    "whole": {"patch": 2},
    "reference": {"patch": 2, "ratio": 3},
    "windows of patches": {"patch": 2, "window": 2, "dilated": True},
    "near reference": {"patch": 2, "ratio": 3, "distance_penalty": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(6, 9), (7, 4), (2, 5)])
@pytest.mark.parametrize("inter_head", [True, False])
def test_attention_by_hand(kind, size, inter_head):
    module = lively_attention(inter_head=inter_head, **KINDS[kind])
    x1 = torch.randn(2, 4, *size, dtype=torch.float64)
    x2 = torch.randn(2, 4, *(module.ratio * n for n in size), dtype=torch.float64) if module.ratio > 1 else None
    with torch.no_grad():
        ours = module(x1, x2)
    assert ours.shape == x1.shape
    for item in range(2):
        expected = naive_attention(module, x1[item].numpy(), None if x2 is None else x2[item].numpy())
        np.testing.assert_allclose(ours[item].numpy(), expected, rtol=1e-9, atol=1e-11)


def test_penalty_in_half_precision_keeps_the_place():
    module = lively_attention(**KINDS["near reference"]).float()
    with torch.no_grad():
        module.near.log_slope.fill_(2.0)
        x1, x2 = torch.randn(1, 4, 60, 60), torch.randn(1, 4, 180, 180)
        expected = module(x1, x2)
        found = module.half()(x1.half(), x2.half())
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.05)


def test_penalty_is_for_attention_without_windows():
    with pytest.raises(InputError, match="within windows"):
        HeadCorrelationAttention(4, window=3, distance_penalty=True)


def test_published_inter_modality_tokens():
    """BraTS at x4: 60 x 60 pixels are 144 tokens of 800 numbers, 200 a head."""
    seen = {}

    def watched(q, k, v, inter_head):
        seen.update(q=q.shape, k=k.shape, v=v.shape)
        return head_correlation(q, k, v, inter_head)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(attention_module, "head_correlation", watched)
        HeadCorrelationAttention(32, patch=5, ratio=4)(torch.zeros(1, 32, 60, 60), torch.zeros(1, 32, 240, 240))
        assert seen == dict.fromkeys("qkv", (1, 4, 144, 200))
        HeadCorrelationAttention(32, window=6, dilated=True)(torch.zeros(2, 32, 60, 60))
        assert seen == dict.fromkeys("qkv", (200, 4, 36, 8))


@pytest.mark.parametrize("dilated", [False, True])
def test_windows_hold_the_points_of_figure_4(dilated):
    coordinates = torch.stack(torch.meshgrid(torch.arange(12), torch.arange(18), indexing="ij"))[None]
    windows = to_windows(coordinates, 6, dilated)
    assert [[tuple(t) for t in window] for window in windows.tolist()] == naive_windows(12, 18, 6, dilated)
    if dilated:
        assert windows[1, :3].tolist() == [[0, 1], [0, 4], [0, 7]]
    assert torch.equal(from_windows(windows, (12, 18), 6, dilated), coordinates)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 7))
def test_padding_mirrors_or_repeats_the_high_end(height, width, multiple):
    x = torch.randn(1, 2, height, width)
    np.testing.assert_array_equal(pad_to_multiple(x, multiple)[0].numpy(), naive_extend(x[0].numpy(), multiple))


def test_mlp_step_by_step():
    torch.manual_seed(0)
    for expansion in (1, 4):
        mlp = ResidualMLP(4, expansion).double()
        x = torch.randn(1, 4, 3, 5, dtype=torch.float64)
        first, conv_1, second, _, conv_2 = mlp.layers
        hidden = naive_gelu(naive_norm(second, naive_conv(conv_1, naive_norm(first, x[0].numpy()))))
        assert hidden.shape[0] == 4 * expansion
        np.testing.assert_allclose(mlp(x)[0].detach().numpy(), x[0].numpy() + naive_conv(conv_2, hidden), rtol=1e-9, atol=1e-12)


# --- AdaptIN (eq. 6, 7) -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3])
def test_equations_6_and_7(scale):
    torch.manual_seed(0)
    module = AdaptIN(3, scale).double()
    with torch.no_grad():
        for layer in (module.beta, module.gamma):
            layer.weight.normal_()
            layer.bias.normal_()
    x1, x2 = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, 4 * scale, 5 * scale, dtype=torch.float64)
    ours = module(x1, x2).detach().numpy()
    for item in range(2):
        a, b = x1[item].numpy(), x2[item].numpy()
        lifted = naive_conv(module.align, a, pad=1)
        aligned = np.zeros_like(b)
        for c, i, j in itertools.product(range(3), range(scale), range(scale)):
            aligned[c, i::scale, j::scale] = lifted[c * scale**2 + i * scale + j]
        mixed = naive_conv(module.mix, np.concatenate([b, aligned]), pad=1)
        beta, gamma = naive_conv(module.beta, mixed, pad=1)[0], naive_conv(module.gamma, mixed, pad=1)[0]
        for c in range(3):
            mean_1, sd_1 = a[c].mean(), math.sqrt(a[c].var() + 1e-5)
            mean_2, sd_2 = b[c].mean(), math.sqrt(b[c].var() + 1e-5)
            np.testing.assert_allclose(ours[item, c], (b[c] - mean_2) / sd_2 * (sd_1 + gamma) + mean_1 + beta, rtol=1e-9, atol=1e-11)


def test_adaptive_normalisation_starts_as_the_plain_one():
    torch.manual_seed(0)
    module, x1, x2 = AdaptIN(4, 2).double(), torch.randn(1, 4, 9, 9).double() * 3 + 5, torch.randn(1, 4, 18, 18).double()
    out = module(x1, x2)
    torch.testing.assert_close(out.mean((2, 3)), x1.mean((2, 3)))
    torch.testing.assert_close(out.std((2, 3), correction=0), x1.std((2, 3), correction=0), rtol=1e-4, atol=0)


# --- the network --------------------------------------------------------------------------------------------------------------------------


def literal_output(layers, x, scale):
    """Figure 3a."""
    layers = iter(layers)
    x = next(layers)(x)
    for step in {2: (2,), 3: (3,), 4: (2, 2)}[scale]:
        x = F.gelu(F.pixel_shuffle(next(layers)(x), step))
        next(layers), next(layers)
    x = F.gelu(next(layers)(x))
    next(layers)
    return next(layers)(x)


def literal_block(block, s, c):
    if block.short is not None:
        s = block.short[1](block.short[0](s))
    if block.long is not None:
        s = block.long[1](block.long[0](s))
    if block.inter is not None:
        s = block.mlp(block.inter(s, block.adapt(s, c) if block.adapt is not None else c))
    return s


def literal_forward(net, lr, reference, gradient=gradient_magnitude):
    """NETWORKS 4.3, step by step."""
    f, p = net.gate_image(lr), net.gate_structure(gradient(lr))
    c = net.gate_context(gradient(reference)) if net.gate_context is not None else None
    for stage in net.stages:
        e = stage.rrdbs(f)
        extracted = stage.extract(e)
        p = literal_block(stage.block, stage.combine(torch.cat([p, extracted], 1)), c)
        f = e + torch.sigmoid(stage.select(extracted)) * p
    image = literal_output(net.output_image, torch.cat([f, p], 1), net.scale)
    return image + F.interpolate(lr, scale_factor=net.scale, mode="bicubic"), literal_output(net.output_gradient, p, net.scale)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(
    "options",
    [{}, {"adaptive_in": False}, {"short": False}, {"long": False}, {"inter_modality": False}, {"selection_kernel": 1}, {"attention": False}],
    ids=str,
)
def test_forward_pass_step_by_step(scale, options):
    net = small_net(scale=scale, **options).double()
    lr, reference = slices(7, 6, scale, dtype=torch.float64)
    with torch.no_grad():
        image, gradient = net.forward_with_gradient(lr, reference)
        for ours, expected in zip((image, gradient), literal_forward(net, lr, reference), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(net(lr, reference), image)
    block = net.stages[0].block
    parts = {"short": block.short, "long": block.long, "inter_modality": block.inter, "adaptive_in": block.adapt}
    for name, part in parts.items():
        expected = options.get(name, True) and options.get("attention", True)
        assert (part is not None) == (expected and (name != "adaptive_in" or block.inter is not None))


def test_image_domain_sees_the_images():
    net = small_net(domain="image").double()
    lr, reference = slices(7, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(lr, reference), literal_forward(net, lr, reference, lambda x: x)[0], rtol=1e-12, atol=1e-12)


def test_residual_blocks_in_the_place_of_attention():
    torch.manual_seed(0)
    block = CNNBlock(4, 3, 2, True, True, True).double()
    s, c = torch.randn(1, 4, 5, 6).double(), torch.randn(1, 4, 15, 18).double()
    x = s
    for first, _, second in block.intra:
        x = x + second(F.relu(first(x)))
    x = block.fuse(torch.cat([x, block.down(c)], 1))
    for first, _, second in block.inter:
        x = x + second(F.relu(first(x)))
    torch.testing.assert_close(block(s, c), x)
    assert (len(block.intra), len(block.inter)) == (4, 2)
    assert isinstance(small_net(blocks="cnn").stages[1].block, CNNBlock)


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_of_tables_2_and_3(name):
    full = small_net().double()
    net = small_net(seed=3, **ABLATIONS[name]).double()
    net.load_state_dict({k: v for k, v in full.state_dict().items() if k in net.state_dict()}, strict=False)
    lr, reference = slices(8, 7, dtype=torch.float64)
    with torch.no_grad():
        out = net(lr, reference)
        assert out.shape == reference.shape
        assert torch.isfinite(out).all()
        assert (out - full(lr, reference)).abs().max() > 1e-4


def test_ablations_are_complete():
    published = {"baseline", "w/o S-IntraM-WA or L-IntraM-WA", "w/o S-IntraM-WA", "w/o L-IntraM-WA", "w/o InterM-A", "w/o InterH-Corr", "w/o AdaptIN"}
    assert set(ABLATIONS) == published | {"Input CNN-RB", "Input Cohf-T", "Gradient CNN-RB"}
    assert not any(a.inter_head for a in small_net(inter_head=False).modules() if isinstance(a, HeadCorrelationAttention))


@pytest.mark.parametrize("name", ["baseline", "w/o InterM-A"])
def test_without_inter_modality_attention_there_is_no_reference(name):
    net = small_net(**ABLATIONS[name])
    lr, reference = slices(6, 7)
    with torch.no_grad():
        assert torch.equal(net(lr), net(lr, reference))


def test_reference_and_every_corner_of_it_matter():
    """Attention to the reference has no reach: a change far away changes the result."""
    net = small_net().double()
    lr, reference = slices(12, 12, dtype=torch.float64)
    other = reference.clone()
    other[..., -2:, -2:] += 1
    with torch.no_grad():
        assert (net(lr, other) - net(lr, reference))[..., :4, :4].abs().max() > 1e-8


@settings(max_examples=25)
@given(st.integers(1, 13), st.integers(1, 13), st.sampled_from([2, 3, 4]), st.sampled_from(["cohft", "cnn"]))
def test_any_size_and_scale(height, width, scale, blocks):
    net = small_net(scale=scale, stages=1, blocks=blocks)
    lr, reference = slices(height, width, scale)
    with torch.no_grad():
        image, gradient = net.forward_with_gradient(lr, reference)
    assert image.shape == gradient.shape == reference.shape
    assert torch.isfinite(image).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("options", [{}, {"blocks": "cnn"}, {"noise_channel": True}, {"distance_penalty": True}], ids=str)
def test_gradients_reach_every_parameter(options):
    net = small_net(**options).train()
    lr, reference = slices(7, 8)
    image, gradient = net.forward_with_gradient(lr, reference, noise_level=0.05)
    CohfTLoss()(image, gradient, torch.rand_like(image)).backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    # A key's bias adds the same to all logits of a query, which the softmax takes away again: zero but for rounding.
    assert not [name for name in silent if not name.endswith("key.bias")]


def test_gradients_equal_those_of_finite_differences():
    net = small_net(stages=1).double()
    lr, reference = slices(5, 7, dtype=torch.float64)
    parameters = dict(net.named_parameters())
    names = ("short.0.query.weight", "long.0.key.weight", "inter.value.weight", "adapt.gamma.weight", "mlp.layers.1.weight")
    chosen = [parameters[f"stages.0.block.{name}"] for name in names]
    grads = torch.autograd.grad(net(lr, reference).square().sum(), chosen)
    for p, grad in zip(chosen, grads, strict=True):
        step = torch.randn_like(p) * 1e-6
        with torch.no_grad():
            p.add_(step)
            high = net(lr, reference).square().sum()
            p.sub_(2 * step)
            low = net(lr, reference).square().sum()
            p.add_(step)
        assert ((high - low) / 2).item() == pytest.approx((grad * step).sum().item(), rel=1e-4)


def test_batch_of_two_is_two_batches_of_one():
    net = small_net()
    lr, reference = slices(9, 8, batch=2)
    with torch.no_grad():
        both = net(lr, reference)
        ones = [net(lr[i : i + 1], reference[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(both, torch.cat(ones), rtol=1e-4, atol=1e-5)
    assert (both[0] - both[1]).abs().max() > 0.1


def test_evaluation_is_deterministic():
    lr, reference = slices(9, 8)
    net, twin = small_net(), small_net(seed=5)
    twin.load_state_dict(net.state_dict())
    with torch.no_grad():
        first = net(lr, reference)
        assert torch.equal(first, net(lr, reference))
        assert torch.equal(first, twin(lr, reference))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float16, 0.02), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("options", [{}, {"upsampling": "lattice", "noise_channel": True}], ids=str)
def test_precisions(dtype, tolerance, options):
    net = small_net(**options)
    lr, reference = slices(9, 8)
    with torch.no_grad():
        expected = net(lr, reference)
        ours = net.to(dtype)(lr.to(dtype), reference.to(dtype))
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), expected.double(), rtol=0, atol=tolerance)


def test_autocast():
    net = small_net()
    lr, reference = slices(9, 8)
    with torch.no_grad():
        expected = net(lr, reference)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(net(lr, reference).float(), expected, rtol=0, atol=0.1)


def test_attention_logits_beyond_half_precision():
    """Inner products over 65504 are infinite in float16."""
    q, k, v = (torch.full((1, 2, 3, 200), value, dtype=torch.float16) for value in (40.0, 40.0, 30.0))
    assert torch.isfinite(head_correlation(q, k, v)).all()


def test_noise_channel():
    net, plain = small_net(noise_channel=True), small_net()
    lr, reference = slices(6, 5, batch=2)
    with torch.no_grad():
        clean, noisy = net(lr, reference), net(lr, reference, noise_level=0.2)
        assert torch.equal(clean, net(lr, reference, noise_level=0.0))
        assert (clean - noisy).abs().max() > 1e-4
        levels = torch.tensor([0.0, 0.2]).view(2, 1, 1, 1)
        torch.testing.assert_close(net(lr, reference, noise_level=levels), torch.stack([clean[0], noisy[1]]), rtol=1e-4, atol=1e-5)
        assert torch.equal(plain(lr, reference, noise_level=0.2), plain(lr, reference))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_residual_start_is_the_interpolation(scale):
    lr, reference = slices(8, 7, scale)
    with torch.no_grad():
        bicubic = small_net(scale=scale, init="residual", wake=False)(lr, reference)
        torch.testing.assert_close(bicubic, F.interpolate(lr, scale_factor=scale, mode="bicubic"), rtol=0, atol=1e-6)
        with_skip, without = small_net(scale=scale)(lr, reference), small_net(scale=scale, skip=False)(lr, reference)
        torch.testing.assert_close(with_skip - without, bicubic, rtol=0, atol=1e-5)


def test_residual_start_predicts_no_gradient():
    net = small_net(init="residual", wake=False)
    assert not net.forward_with_gradient(*slices(8, 7))[1].any()


def test_residual_start_lets_the_reference_through():
    """The attention starts quiet but open: all that is missing is the last convolution, and the reference changes the image at its own place."""
    torch.manual_seed(0)
    net = CohfT(scale=2, init="residual", distance_penalty=True, adaptive_in=False, short=False, long=False, **{**TINY, "width": 16})
    lr, reference = slices(30, 30)
    touched = reference.clone()
    touched[:, :, 10:16, 10:16] = 1.0
    with torch.no_grad():
        net.output_image[-1].weight.normal_(0, 0.1)
        change = (net(lr, reference) - net(lr, touched)).abs()[0, 0]
    assert change[6:24, 6:24].max() > 1e-3
    assert change[6:24, 6:24].max() > 20 * change[36:, 36:].max()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_interpolations_know_where_the_samples_lie(scale):
    """Samples of a ramp: at pixels r i after a k-space crop of an even size, in the middle of r pixels where edges coincide."""
    start = {
        "lattice": AxisSampling.from_fine(28 * scale, scale, "kspace").start,
        "bicubic": AxisSampling.from_fine(28 * scale, scale, "edges").start,
    }
    assert start["lattice"] == 0
    for upsampling, first in start.items():
        net = small_net(scale=scale, init="residual", upsampling=upsampling, wake=False).double()
        places = torch.arange(28, dtype=torch.float64) * scale + first
        lr = (places[:, None] + 2 * places).view(1, 1, 28, 28)
        with torch.no_grad():
            out = net(lr, torch.zeros(1, 1, 28 * scale, 28 * scale).double())[0, 0]
        fine = torch.arange(28 * scale, dtype=torch.float64)
        error = (out - fine[:, None] - 2 * fine)[12 * scale : -12 * scale, 12 * scale : -12 * scale]
        assert error.mean().abs() < 1e-4
        if upsampling == "lattice":  # the framework's bicubic kernel (a = -0.75) bends ramps
            assert error.abs().max() < 1e-4


def test_lattice_interpolation_keeps_the_samples_and_is_a_spline():
    lr, reference = slices(6, 7, 4, dtype=torch.float64)
    with torch.no_grad():
        out = small_net(scale=4, init="residual", upsampling="lattice", wake=False).double()(lr, reference)
    torch.testing.assert_close(out[..., ::4, ::4], lr)
    weights = torch.from_numpy(bspline_matrix(np.array([2.25]), 7))[0]
    torch.testing.assert_close(out[0, 0, 8, 9], weights @ lr[0, 0, 2])


# --- maps ---------------------------------------------------------------------------------------------------------------------------------


def test_maps_are_listed_and_can_be_kept():
    net = small_net(scale=3)
    lr, reference = slices(8, 7, 3, batch=2)
    infos = get_architecture("cohft").maps(net)
    kinds = ("selection", "short-attention", "long-attention", "inter-modality-attention")
    assert [i.name for i in infos] == ["gradient", *(f"{kind}-{stage}" for stage in (1, 2) for kind in kinds)]
    assert all(i.title and len(i.description) > 30 for i in infos)
    assert {i.on for i in infos if i.name.startswith(("short", "long"))} == {"input"}
    assert {i.on for i in infos if i.name.startswith("inter")} == {"reference"}
    with torch.no_grad():
        plain = net(lr, reference)
        for info in infos:
            with Recorder([info.name], query=(10, 20)) as recorder:
                assert torch.equal(net(lr, reference), plain)
            assert list(recorder.found) == [info.name]
            assert len(recorder.found[info.name].values) == (2 if info.kind == "dense" else 1)
            with Recorder([info.name], query=(10, 20), only=True) as recorder:
                net(lr, reference)
                pytest.fail("the forward pass should have ended early")
            assert list(recorder.found) == [info.name]


@pytest.mark.parametrize("name", ["baseline", "w/o InterM-A", "w/o S-IntraM-WA", "Gradient CNN-RB"])
def test_maps_of_parts_that_are_not_there_are_not_listed(name):
    net = small_net(**ABLATIONS[name])
    lr, reference = slices(6, 6)
    names = [i.name for i in get_architecture("cohft").maps(net)]
    with Recorder(names, query=(3, 3)) as recorder, torch.no_grad():
        net(lr, reference)
    assert set(recorder.found) == set(names)
    assert any(n.startswith("short") for n in names) == (name == "w/o InterM-A")
    assert any(n.startswith("inter") for n in names) == (name == "w/o S-IntraM-WA")


def test_dense_maps():
    net = small_net(scale=3)
    lr, reference = slices(8, 7, 3, batch=2)
    with Recorder(["gradient", "selection-1", "selection-2"]) as recorder, torch.no_grad():
        _, gradient = net.forward_with_gradient(lr, reference)
    assert torch.equal(recorder.found["gradient"].values, gradient)
    assert recorder.found["gradient"].stride == 1
    for name in ("selection-1", "selection-2"):
        kept = recorder.found[name]
        assert (kept.values.shape, kept.stride, kept.offset) == ((2, 1, 8, 7), 3, ())
        assert kept.values.min() > 0
        assert kept.values.max() < 1
    stage = net.stages[0]
    with torch.no_grad():
        expected = torch.sigmoid(stage.select(stage.extract(stage.rrdbs(net.gate_image(lr)))))
    assert torch.equal(recorder.found["selection-1"].values, expected)


def test_nothing_is_recorded_unasked(monkeypatch):
    def forbidden(*_):
        pytest.fail("computed without being asked for")

    monkeypatch.setattr(HeadCorrelationAttention, "_record", forbidden)
    net = small_net()
    monkeypatch.setattr(net, "_gradient", forbidden)
    lr, reference = slices(6, 6)
    with torch.no_grad():
        net(lr, reference)
        with Recorder(["selection-1"], query=(1, 1)):
            net(lr, reference)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(6, 12), (7, 5)])
@pytest.mark.parametrize("head", [None, 1])
def test_query_maps_by_hand(kind, size, head):
    """One row of eq. 3, put where its tokens lie."""
    stride = 3
    module = lively_attention(name="asked", stride=stride, **KINDS[kind])
    x1 = torch.randn(2, 4, *size, dtype=torch.float64)
    x2 = torch.randn(2, 4, *(module.ratio * n for n in size), dtype=torch.float64)
    query = (stride * size[0] - 1, stride * 2 + 1)
    recorder = Recorder(["asked"], query=query, channel=head)
    recorder.item = 1
    with recorder, torch.no_grad():
        module(x1, x2 if module.ratio > 1 else None)
    kept = recorder.found["asked"]
    p = module.patch
    q, k, _ = naive_projections(module, x1[1].numpy(), (x2 if module.ratio > 1 else x1)[1].numpy())
    _, rows, columns, width = q.shape
    row, column = (size[0] - 1) // p, 2 // p
    (window,) = [w for w in naive_windows(rows, columns, module.window, module.dilated) if (row, column) in w]
    penalty = naive_penalty(module, window)[:, window.index((row, column))]
    expected = np.zeros((rows, columns))
    for m in range(2) if head is None else (head,):
        weights = softmax(np.array([np.sum(q[m, row, column] * k[m, i, j]) / math.sqrt(width) for i, j in window]) - penalty[m])
        for (i, j), weight in zip(window, weights, strict=True):
            expected[i, j] += weight / (2 if head is None else 1)
    shown = expected[: math.ceil(size[0] / p), : math.ceil(size[1] / p)]
    assert (kept.stride, kept.offset) == (stride * p, ())
    np.testing.assert_allclose(kept.values[0, 0].numpy(), shown, atol=1e-6)
    if expected.shape == shown.shape:
        assert kept.values.sum().item() == pytest.approx(1, abs=1e-5)


def test_query_maps_of_the_network_lie_on_its_lattices():
    net = small_net(scale=3)
    lr, reference = slices(12, 18, 3)
    names = ["short-attention-1", "long-attention-2", "inter-modality-attention-2"]
    with Recorder(names, query=(13, 41)) as recorder, torch.no_grad():  # LR pixel (4, 13)
        net(lr, reference)
    short, long, inter = (recorder.found[name] for name in names)
    assert [m.stride for m in (short, long, inter)] == [3, 3, 15]
    assert short.values.shape == long.values.shape == (1, 1, 12, 18)
    assert inter.values.shape == (1, 1, 3, 4)
    assert [tuple(t) for t in short.values[0, 0].nonzero().tolist()] == list(itertools.product(range(6), range(12, 18)))
    assert [tuple(t) for t in long.values[0, 0].nonzero().tolist()] == list(itertools.product(range(0, 12, 2), range(1, 18, 3)))
    assert inter.values.min() > 0


def test_unknown_head_gets_a_sentence():
    net = small_net()
    lr, reference = slices(6, 6)
    with Recorder(["short-attention-1"], query=(0, 0), channel=7), pytest.raises(InputError, match="no attention head 7: use 0 to 3"):
        net(lr, reference)


def test_memory_claim_grows_with_what_is_held():
    claim = get_architecture("cohft").bytes_per_voxel
    assert claim(small_net(scale=4)) > claim(small_net(scale=2)) > claim(small_net(scale=2, inter_modality=False)) > 0
    assert claim(small_net(growth=8)) > claim(small_net())
    with torch.device("meta"):
        # 33 to 36 kB per LR pixel were measured on slices of 60 and 120 pixels at x4.
        assert 33_000 < claim(create("cohft", scale=4, stages=1, rrdbs=1)) < 50_000
