from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mrsr.errors import InputError
from napari_mrsr.networks import create, get_architecture
from napari_mrsr.networks.blocks.recording import Recorder
from napari_mrsr.networks.blocks.scale_shift import ChannelwiseScaleShift, ConvolutionStage
from napari_mrsr.networks.blocks.style import EqualisedConv, EqualisedLinear
from napari_mrsr.networks.styleswin import StyleSwinGenerator
from napari_mrsr.networks.transmrsr import ABLATIONS, MEAN, SD, TransMRSR
from napari_mrsr.zoo.official import transmrsr as official

TINY = {"size": 32, "channels": (16, 16, 16, 8), "style_dim": 12}
"""Levels 32, 16, 8; eight styles."""


def enliven(module, seed=0):
    """Weights that make every part matter, because those of a fresh network hardly do."""
    random = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        fan_in = math.prod(p.shape[1:]) if p.ndim > 1 else 1
        last = name.rsplit(".", 1)[-1]
        spread = {"table": 0.7, "start": 1.0, "alpha": 0.5, "bias": 0.1}.get(last, fan_in**-0.5 if p.ndim > 1 else 0.3)
        new = spread * torch.randn(p.shape, generator=random, dtype=torch.float32)
        p.data.copy_(new + 1 if p.ndim == 1 and last == "weight" else new)
    for layer in module.modules():
        if isinstance(layer, (EqualisedLinear, EqualisedConv)):
            layer.weight.data.mul_(layer.weight[0].numel() ** 0.5 / getattr(layer, "rate", 1.0))
    return module.eval()


def centres(clusters=5, seed=9):
    return torch.randn(clusters, 12, generator=torch.Generator().manual_seed(seed))


def small_net(seed=0, **options):
    return enliven(TransMRSR(**{**TINY, **options}), seed)


def slices(*size, batch=1, seed=1, dtype=torch.float32):
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def colours(batch=2, seed=2, size=32, dtype=torch.float32):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)).to(dtype)


# --- parity and counts --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(parity_file, parity_weights):
    """The network with the fixture's weights, and the fixture."""
    state = parity_weights("transmrsr_tiny64_keys.txt", "transmrsr_tiny64")
    net = TransMRSR(**official.options(state, scale=4)).eval()
    net.load_state_dict(official.convert(state))
    arrays = np.load(parity_file("transmrsr_tiny64.npz"))
    return net, {name: torch.from_numpy(arrays[name]) for name in arrays if arrays[name].dtype == np.float32}


def test_every_stage_gives_the_reference_values(reference):
    net, fixture = reference
    seen = {}

    def watch(module, name, arrange=lambda x: x):
        return module.register_forward_hook(lambda _module, _inputs, out: seen.__setitem__(name, arrange(out)))

    def flat(x):
        return x.flatten(1, 2)

    def image(x):
        return x.permute(0, 3, 1, 2)

    hooks = [
        watch(net.shallow, "shallow"),
        watch(net.encoder[0], "enc0", flat),
        watch(net.encoder[-1], "enc_last", flat),
        watch(net.to_styles, "latent_flat"),
        watch(net.modulation["32"].scale, "scale0"),
        watch(net.modulation["32"].shift, "shift0"),
        watch(net.decoder.layers[0], "gen0", image),
        watch(net.decoder.layers[1], "gen1", image),
        watch(net.decoder, "gen_last", flat),
    ]
    with torch.no_grad():
        seen["out"] = net.body(fixture["x"])
    for hook in hooks:
        hook.remove()
    assert len(seen) == 10
    for name, ours in seen.items():
        torch.testing.assert_close(ours, fixture[name], rtol=0, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_both_truncations_give_the_reference_values(reference):
    net, fixture = reference
    outs = {}
    try:
        net.set_centroids(fixture["centers"])
        for net.truncation in ("nearest", "farthest", None):
            with torch.no_grad():
                outs[net.truncation] = net.body(fixture["x"])
    finally:
        net.centroids, net.truncation = None, "nearest"
    torch.testing.assert_close(outs["nearest"], fixture["out_trunc_nearest_argmin"], rtol=0, atol=2e-4)
    torch.testing.assert_close(outs["farthest"], fixture["out_trunc_official_argmax"], rtol=0, atol=2e-4)
    torch.testing.assert_close(outs[None], fixture["out"], rtol=0, atol=2e-4)
    assert (outs["nearest"] - outs["farthest"]).abs().max() > 0.1


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_published_parameter_counts():
    with torch.device("meta"):
        net = create("transmrsr", 4)
    parts = {name: count(module) for name, module in net.named_children()}
    cwss = parts.pop("modulation")
    assert parts == {
        "shallow": 149_504,
        "embed": 128,
        "encoder": 32_728_280,
        "style_norm": 1_024,
        "to_styles": 58_727_424,
        "decoder": 38_520_614,
        "deep": 184_640,
        "last": 195,
    }
    assert cwss == 2 * 15_265_344
    assert count(net) == 160_842_497
    stages = [level.stage for level in net.encoder]
    assert [stage.blocks[0].heads for stage in stages] == [16, 16, 16, 16, 8, 4]
    assert [stage.conv.in_channels for stage in stages] == [64, 128, 256, 512, 512, 512]
    assert [stage.blocks[1].shift for stage in stages] == [4, 4, 4, 4, 4, 0]
    assert {block.scale for stage in stages for block in stage.blocks} == {1.0}
    assert list(net.modulation) == ["4", "8", "16", "32", "64", "128"]


def test_descriptor():
    architecture = get_architecture("transmrsr")
    assert (architecture.dimension, architecture.scales, architecture.reference) == (2, (2, 3, 4, 5, 6, 7, 8), "none")
    assert (architecture.tiling, architecture.pre_interpolated, architecture.global_statistics) == ("planes", True, True)
    net = create("transmrsr", 8, **TINY)
    assert net.scale == 8
    assert architecture.halo(net) is None
    assert architecture.bytes_per_voxel(net) > 4 * 8 * 16
    assert architecture.maps(net) == net.maps()


def test_channel_options_of_a_file():
    """Options come from JSON."""
    options = json.loads(json.dumps({"size": 64, "channels": {"4": 64, "8": 64, "16": 64, "32": 64, "64": 32}, "style_dim": 64, "clusters": 8}))
    with torch.device("meta"):
        net = create("transmrsr", 4, **options)
    assert [level.stage.conv.in_channels for level in net.encoder] == [32, 64, 64, 64]
    assert net.state_dict()["centroids"].shape == (8, 64)
    with torch.device("meta"):
        assert TransMRSR(size=64, width_divisor=16).last.in_channels == 16
        assert TransMRSR(size=64, channel_multiplier=2, width_divisor=16).last.in_channels == 32


# --- parts against their equations --------------------------------------------------------------------------------------------------------


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def plain_conv(x, layer):
    padded = torch.nn.functional.pad(x, [1] * 4)
    weight = layer.weight / math.sqrt(9 * x.shape[1]) if isinstance(layer, EqualisedConv) else layer.weight
    height, width = x.shape[2:]
    parts = [
        torch.einsum("oc,bchw->bohw", weight[:, :, i, j], padded[:, :, i : i + height, j : j + width])
        for i, j in itertools.product(range(3), repeat=2)
    ]
    return sum(parts) + layer.bias[:, None, None]


@pytest.mark.parametrize("half", [True, False])
def test_channelwise_scale_and_shift(half):
    cwss = enliven(ChannelwiseScaleShift(4, 8, 6, half).double())
    x, encoded = (torch.randn(2, 4, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    with torch.no_grad():
        out = cwss(x, encoded).permute(0, 3, 1, 2)
        condition = encoded.permute(0, 3, 1, 2)
        scale, shift = (plain_conv(leaky(plain_conv(condition, net[0])), net[2]) for net in (cwss.scale, cwss.shift))
    x = x.permute(0, 3, 1, 2)
    changed = 3 if half else 6
    assert scale.shape[1] == changed
    torch.testing.assert_close(out[:, :changed], x[:, :changed] * scale + shift)
    assert torch.equal(out[:, changed:], x[:, changed:])


def test_modulation_starts_without_biases():
    cwss = ChannelwiseScaleShift(4, 8, 6, True)
    assert not any(bool(p.any()) for name, p in cwss.named_parameters() if name.endswith("bias"))


def test_convolution_stage():
    stage = enliven(ConvolutionStage(3, 5).double())
    x = colours(1, size=6, dtype=torch.float64)
    with torch.no_grad():
        y = plain_conv(x, stage.conv).clamp_min(0)
        for first, _, second in stage.blocks:
            y = y + plain_conv(plain_conv(y, first).clamp_min(0), second)
        torch.testing.assert_close(stage(x), y)


def test_body_step_by_step():
    """NETWORKS 5.2 in order, with each level's map modulating the decoder at its own resolution."""
    net = small_net(centroids=centres()).double()
    x = colours(dtype=torch.float64)
    with torch.no_grad():
        shallow = net.shallow(x)
        features = net.embed(shallow.permute(0, 2, 3, 1))
        encoded = []
        for level in net.encoder:
            features = level.merge(level.stage(features))
            encoded.append(features)
        assert [e.shape[1] for e in encoded] == [16, 8, 4]
        styles = net.truncate(net.to_styles(net.style_norm(features).reshape(2, -1)).view(2, 8, 12))
        y = net.decoder.start.permute(0, 2, 3, 1).expand(2, -1, -1, -1)
        for i, layer in enumerate(net.decoder.layers):
            if i < 3:
                y = net.modulation[str(4 * 2**i)](y, encoded[2 - i])
            y = layer.blocks[1](layer.blocks[0](y, styles[:, 2 * i]), styles[:, 2 * i + 1])
            y = y if layer.upsample is None else layer.upsample(y)
        expected = x + net.last(net.deep(y.permute(0, 3, 1, 2) + shallow))
        torch.testing.assert_close(net.body(x), expected)


@pytest.mark.parametrize("which", ["nearest", "farthest"])
@pytest.mark.parametrize("psi", [0.9, 0.3])
def test_truncation_of_each_style(which, psi):
    net = small_net(centroids=centres(), truncation=which, psi=psi)
    styles = torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(3))
    ours = net.truncate(styles)
    choose = min if which == "nearest" else max
    for item, code in itertools.product(range(3), range(8)):
        w = styles[item, code]
        c = choose(centres(), key=lambda c, w=w: float(((w - c) ** 2).sum()))
        torch.testing.assert_close(ours[item, code], c + psi * (w - c))


def test_no_truncation():
    styles = torch.randn(3, 8, 12)
    for options in ({}, {"centroids": centres(), "truncation": None}):
        assert torch.equal(small_net(**options).truncate(styles), styles)


def test_scaled_scores_are_an_option():
    net, scaled = small_net(), small_net(scaled_attention=True)
    assert [block.scale for level in scaled.encoder for block in level.stage.blocks] == [2**-0.5] * 2 + [4**-0.5] * 4
    with torch.no_grad():
        assert (net.body(colours()) - scaled.body(colours())).abs().max() > 1e-3


# --- one slice in and out -----------------------------------------------------------------------------------------------------------------


def test_grey_and_colour():
    net = small_net()
    lr = slices(32, 32, batch=2)
    mean, sd = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, SD))
    with torch.no_grad():
        out = (net.body((lr.expand(-1, 3, -1, -1) - mean) / sd) * sd + mean).mean(1, keepdim=True)
        torch.testing.assert_close(net(lr), out)
    assert (out - lr).abs().max() > 0.1


def test_small_slices_lie_in_the_middle_of_black():
    """Of an odd difference the larger half comes first, as in the public data loader."""
    net = small_net()
    seen = []
    net.body = lambda x: (seen.append(x), x)[1]
    lr = slices(21, 26) + 1
    torch.testing.assert_close(net(lr), lr)
    grey = seen[0] * torch.tensor(SD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    torch.testing.assert_close(grey[:, :, 6:27, 3:29], lr.expand(-1, 3, -1, -1))
    grey[:, :, 6:27, 3:29] = 0
    assert grey.abs().max() < 1e-6
    assert seen[0].shape == (1, 3, 32, 32)


def test_large_slices_are_blended_windows():
    net = small_net()
    seen = []
    net.body = lambda x: (seen.append(x), x)[1]
    lr = slices(45, 20, batch=2)
    torch.testing.assert_close(net(lr), lr)
    assert seen[0].shape == (2 * 2, 3, 32, 32)
    # 45 is brought to 48, a multiple of the coarsest stride, two black rows before.
    black = -torch.tensor(MEAN) / torch.tensor(SD)
    torch.testing.assert_close(seen[0][0, :, 1], black[:, None].expand(-1, 32))
    assert (seen[0][0, 0, 2, 6:26] - black[0]).abs().min() > 0


def test_overlap_is_an_option():
    counts = []
    for overlap in (0.0, 0.25, 0.5):
        net = small_net(overlap=overlap)
        net.body = lambda x: (counts.append(len(x)), x)[1]
        net(slices(64, 32))
    assert counts == [2, 3, 3]


@settings(max_examples=15)
@given(st.tuples(st.integers(4, 50), st.integers(4, 50)), st.booleans())
def test_any_size(size, truncated):
    net = small_net(centroids=centres() if truncated else None)
    with torch.no_grad():
        out = net(slices(*size))
    assert out.shape == (1, 1, *size)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("size", [(32, 32), (20, 27), (40, 30)])
def test_batch_of_two_is_two_batches_of_one(size):
    net = small_net(centroids=centres())
    lr = slices(*size, batch=2)
    with torch.no_grad():
        both = net(lr)
        torch.testing.assert_close(both, torch.cat([net(lr[:1]), net(lr[1:])]), rtol=1e-4, atol=1e-5)
        assert torch.equal(both, net(lr))
    assert (both[0] - both[1]).abs().max() > 0.1


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    net = TransMRSR(**TINY, noise_channel=True, centroids=centres()).train()
    net(slices(30, 32), noise_level=0.05).square().mean().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


def test_gradients_equal_those_of_finite_differences():
    net = small_net(centroids=centres()).double()
    x = colours(1, dtype=torch.float64)
    parameters = dict(net.named_parameters())
    names = ("encoder.0.stage.blocks.1.bias.table", "to_styles.weight", "modulation.8.scale.0.weight", "decoder.layers.3.blocks.0.qkv.weight")
    loss = net.body(x).square().sum()
    grads = torch.autograd.grad(loss, [parameters[n] for n in names])
    for name, grad in zip(names, grads, strict=True):
        p = parameters[name]
        step = 1e-7 * grad / grad.norm() * p.detach().norm()
        with torch.no_grad():
            p.add_(step)
            high = net.body(x).square().sum()
            p.sub_(2 * step)
            low = net.body(x).square().sum()
            p.add_(step)
        assert ((high - low) / 2).item() == pytest.approx((grad * step).sum().item(), rel=1e-3)


def test_noise_channel():
    net = small_net(noise_channel=True)
    lr = slices(32, 24, batch=2)
    with torch.no_grad():
        clean, noisy = net(lr), net(lr, noise_level=0.1)
        assert torch.equal(clean, net(lr, noise_level=0.0))
        assert (clean - noisy).abs().max() > 1e-3
        levels = torch.tensor([0.0, 0.1]).view(2, 1, 1, 1)
        torch.testing.assert_close(net(lr, noise_level=levels), torch.stack([clean[0], noisy[1]]), rtol=1e-4, atol=1e-5)
        plain = small_net()
        assert torch.equal(plain(lr, noise_level=0.1), plain(lr))
        seen = []
        net.body = lambda x: (seen.append(x), x[:, :3])[1]
        net(lr, noise_level=0.1)
    torch.testing.assert_close(seen[0][:, 3], torch.full((2, 32, 32), 2.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions(dtype):
    net = small_net(centroids=centres(), noise_channel=True)
    lr = slices(30, 40)
    with torch.no_grad():
        expected = net(lr, noise_level=0.02)
        ours = net.to(dtype)(lr.to(dtype), noise_level=0.02)
    assert ours.dtype == dtype
    assert (ours.float() - expected).abs().max() < (1e-4 if dtype == torch.float64 else 0.2) * (expected - lr).abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    net = small_net(centroids=centres())
    lr = slices(32, 32)
    with torch.no_grad():
        expected = net(lr)
        with torch.autocast("cpu", dtype):
            ours = net(lr)
    assert torch.isfinite(ours).all()
    assert (ours.float() - expected).abs().max() < 0.2 * (expected - lr).abs().max()


def test_residual_start_returns_its_input():
    torch.manual_seed(0)
    net = TransMRSR(**TINY, init="residual")
    lr = slices(20, 40)
    with torch.no_grad():
        torch.testing.assert_close(net(lr), lr)
    net(lr).square().sum().backward()
    assert net.last.weight.grad.abs().max() > 0


def test_start_of_a_fresh_network():
    """N(0, 0.02) outside the prior, StyleSwin's own start inside."""
    torch.manual_seed(0)
    net = TransMRSR(size=32, channels=(64, 64, 64, 64), style_dim=64)
    for weight in (
        net.deep.conv.weight,
        net.encoder[0].stage.conv.weight,
        net.encoder[1].stage.blocks[0].qkv.weight,
        net.encoder[0].merge.reduce.weight,
    ):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    for module in net.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)) and module.bias is not None:
            assert not module.bias.any()
    assert net.to_styles.weight.std().item() == pytest.approx(100, rel=0.05)
    assert net.modulation["8"].scale[0].weight.std().item() == pytest.approx(1, rel=0.05)
    block = net.decoder.layers[1].blocks[0]
    assert block.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.norm1.style.weight.std().item() == pytest.approx(1, rel=0.05)


# --- centroids, prior, ablations ----------------------------------------------------------------------------------------------------------


def test_centroids_travel_with_the_weights():
    net = small_net(centroids=centres())
    state = net.state_dict()
    assert torch.equal(state["centroids"], centres())
    twin = TransMRSR(**TINY, clusters=5)
    assert not twin.centroids.any()
    twin.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(twin.eval()(slices(32, 32)), net(slices(32, 32)))
    assert "centroids" not in small_net().state_dict()
    late = small_net()
    late.set_centroids(centres().tolist())
    assert late.clusters == 5
    assert late.state_dict().keys() == state.keys()
    late.double().set_centroids(centres())
    assert late.centroids.dtype == torch.float64


@pytest.mark.parametrize(
    "table", [torch.zeros(3, 11), torch.zeros(12), torch.zeros(0, 12), torch.full((2, 12), math.nan)], ids=["width", "flat", "none", "nan"]
)
def test_wrong_centroids_get_a_sentence(table):
    with pytest.raises(InputError, match=r"[Cc]entroids"):
        small_net().set_centroids(table)


def generator(**options):
    return enliven(StyleSwinGenerator(**{**TINY, "mapping_layers": 2, **options}), seed=4)


def test_prior_fills_the_decoder_and_nothing_else():
    net, source = small_net(), generator()
    before = {name: p.clone() for name, p in net.named_parameters()}
    assert net.load_prior(source) == ()
    for name, p in net.named_parameters():
        if name.startswith("decoder."):
            assert torch.equal(p, source.get_parameter(name))
        else:
            assert torch.equal(p, before[name])


def test_part_of_a_prior_is_named():
    net = small_net()
    state = generator().decoder.state_dict()
    left_out = ("start", "layers.2.blocks.1.mlp.0.bias")
    assert net.load_prior({name: value for name, value in state.items() if name not in left_out}) == left_out
    with pytest.raises(InputError, match="no StyleSwin decoder"):
        net.load_prior({"style.1.weight": torch.zeros(2)})
    with pytest.raises(InputError, match=r"another size or width: .* is \(.*\), this decoder has"):
        net.load_prior(generator(channels=(16, 16, 8, 8)))


def test_every_ablation_builds_runs_and_differs():
    full = small_net(centroids=centres())
    full.load_prior(generator())
    lr = slices(28, 32)
    with torch.no_grad():
        expected = full(lr)
    assert set(ABLATIONS) == {"w/o GP", "w/o SDT", "w/o MREF", "w/o SC", "frozen GP", "fixed GP, w/o MREF"}
    for name, options in ABLATIONS.items():
        net = TransMRSR(**TINY, centroids=centres(), **options).eval()
        net.load_state_dict(full.state_dict() if name != "w/o GP" else small_net(seed=3, centroids=centres()).state_dict(), strict=False)
        with torch.no_grad():
            out = net(lr)
        assert torch.isfinite(out).all()
        if name == "frozen GP":
            torch.testing.assert_close(out, expected)
        else:
            assert (out - expected).abs().max() > 1e-3, name


def test_without_prior_none_is_loaded():
    with pytest.raises(InputError, match="without a generative prior"):
        small_net(prior="none").load_prior(generator())


@pytest.mark.parametrize("name", ["frozen GP", "fixed GP, w/o MREF"])
def test_a_frozen_prior_does_not_learn(name):
    net = TransMRSR(**TINY, **ABLATIONS[name])
    net.load_prior(generator())
    net(slices(32, 32)).square().mean().backward()
    for part, p in net.named_parameters():
        assert (p.grad is None) == part.startswith("decoder."), part


def test_without_encoder_features_the_decoder_sees_styles_only():
    """What the released class without MREF does: no modulation and no skip, so that only the styles carry the image."""
    net = small_net(**ABLATIONS["w/o MREF"])
    assert not len(net.modulation)
    assert len(small_net(modulation=False).modulation) == 0
    net.to_styles.register_forward_hook(lambda _module, _inputs, out: torch.ones_like(out))
    with torch.no_grad():
        assert torch.equal(net.body(colours(seed=1)), net.body(colours(seed=2)))


def test_without_skips():
    net, plain = small_net(), small_net(**ABLATIONS["w/o SC"])
    x = colours()
    deep = []
    plain.deep.register_forward_pre_hook(lambda _module, inputs: deep.append(inputs[0]))
    with torch.no_grad():
        out = plain.body(x)
        torch.testing.assert_close(out, plain.last(plain.deep(deep[0])))
        torch.testing.assert_close(net.body(x), x + net.last(net.deep(deep[0] + net.shallow(x))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 9}, "defined for factors 2, 3, 4, 5, 6, 7, 8, not 9"),
        ({"size": 100}, "power of two"),
        ({"window": 16}, "window must be one of 2, 4, 8, not 16"),
        ({"truncation": "closest"}, "truncation must be one of 'nearest', 'farthest', None, not 'closest'"),
        ({"prior": "random"}, "prior must be one of"),
        ({"init": "zero"}, "init must be one of"),
        ({"overlap": 0.7}, "0 to 0.5 of their side, not 0.7"),
        ({"encoder_heads": (4, 4)}, "3 levels"),
        ({"encoder_heads": (3, 4, 4)}, "3 encoder heads do not divide the 8 channels at resolution 32"),
        ({"decoder_heads": (4, 4, 4, 1)}, "1 heads do not fit"),
        ({"clusters": 3, "centroids": torch.zeros(4, 12)}, "4 centroids, but clusters is 3"),
        ({"init": "residual", "skip": False}, "needs the skip connections"),
        ({"width": 3}, r"TransMRSR has no option 'width'"),
    ],
)
def test_wrong_options_get_a_sentence(options, message):
    with pytest.raises(InputError, match=message):
        create("transmrsr", **{**TINY, **options})


def test_heads_are_options():
    net = small_net(encoder_heads=(1, 2, 8), decoder_heads=(2, 8, 4, 2))
    assert [level.stage.blocks[1].heads for level in net.encoder] == [1, 2, 8]
    assert [layer.blocks[1].heads for layer in net.decoder.layers] == [2, 8, 4, 2]
    with torch.no_grad():
        assert net(slices(32, 32)).shape == (1, 1, 32, 32)


# --- looking inside -----------------------------------------------------------------------------------------------------------------------


def record(net, names, lr, **options):
    with torch.no_grad(), Recorder(names, **options) as recorder:
        out = net(lr)
    return recorder.found, out


def test_every_listed_map_can_be_seen_and_changes_nothing():
    net = small_net(centroids=centres())
    maps = {info.name: info for info in net.maps()}
    assert len(maps) == 2 * 3 + 3 + 4 + 1
    assert all(info.title and info.description.endswith(".") for info in maps.values())
    lr = slices(27, 45, batch=2)
    with torch.no_grad():
        expected = net(lr)
    found, out = record(net, maps, lr, query=(12, 30))
    assert torch.equal(out, expected)
    assert found.keys() == maps.keys()
    for name, kept in found.items():
        kind = maps[name].kind
        resolution = int(name.rsplit("-", 1)[-1]) if kind != "table" else 0
        if kind == "dense":
            assert kept.stride == 32 // resolution
            assert kept.values.shape == (2, 1, resolution, 48 // kept.stride)
            assert kept.offset == (-3, -2)
        elif kind == "query":
            assert kept.values.shape == (1, 1, min(8, resolution), min(8, resolution))
            extent = kept.stride * min(8, resolution)
            assert all(low <= q < low + extent for q, low in zip((12, 30), kept.offset, strict=True))
            assert kept.values.sum().item() == pytest.approx(1, rel=1e-5)
        else:
            assert kept.values.shape == (2, 8, 5)


def test_maps_without_their_part():
    names = {info.name for info in small_net(modulation=False, skip=False).maps()}
    assert names == {*(f"encoder-attention-{r}" for r in (32, 16, 8)), *(f"decoder-attention-{r}" for r in (32, 16, 8, 4))}
    assert record(small_net(), ("style-distance",), slices(32, 32))[0] == {}


def test_modulation_maps():
    net = small_net()
    seen = {}
    for part in ("scale", "shift"):
        getattr(net.modulation["8"], part).register_forward_hook(lambda _module, _inputs, out, part=part: seen.__setitem__(part, out))
    lr = slices(32, 32, batch=2)
    for channel in (None, 2):
        found, _ = record(net, ("cwss-scale-8", "cwss-shift-8"), lr, channel=channel)
        for part, values in seen.items():
            expected = values.abs().mean(1, keepdim=True) if channel is None else values[:, 2:3]
            torch.testing.assert_close(found[f"cwss-{part}-8"].values, expected)
            assert (found[f"cwss-{part}-8"].stride, found[f"cwss-{part}-8"].offset) == (4, (0, 0))


def attention_matrix(block, qkv, window, item, y, x, scale):
    """Whole softmax of one regular window from a block's queries and keys (B, H, W, 3, heads, d); (heads, tokens, tokens)."""
    top, left = y // window * window, x // window * window
    part = qkv[item, top : top + window, left : left + window].flatten(0, 1).double()
    scores = scale * torch.einsum("nhd,mhd->hnm", part[:, 0], part[:, 1]) + block().double()
    return torch.softmax(scores, -1), (y - top) * window + x - left, (top, left)


@pytest.mark.parametrize("channel", [None, 1])
@pytest.mark.parametrize("resolution", [32, 16, 8])
def test_encoder_attention_of_a_pixel(resolution, channel):
    net = small_net()
    index = {32: 0, 16: 1, 8: 2}[resolution]
    stride = 32 // resolution
    block = net.encoder[index].stage.blocks[0]
    seen = []
    block.qkv.register_forward_hook(lambda _module, _inputs, out: seen.append(out.view(*out.shape[:3], 3, block.heads, -1)))
    # The slice lies 4 rows and 3 columns inside the frame.
    name = f"encoder-attention-{resolution}"
    found, _ = record(net, (name,), slices(25, 27), query=(13, 21), channel=channel)
    with torch.no_grad():
        matrix, row, origin = attention_matrix(block.bias, seen[0], block.window, 0, (13 + 4) // stride, (21 + 3) // stride, 1.0)
    expected = matrix[:, row].mean(0) if channel is None else matrix[channel, row]
    kept = found[name]
    torch.testing.assert_close(kept.values[0, 0], expected.view(block.window, block.window).float())
    assert kept.stride == stride
    assert kept.offset == (stride * origin[0] - 4, stride * origin[1] - 3)


@pytest.mark.parametrize("channel", [None, 0])
@pytest.mark.parametrize("resolution", [32, 16, 4])
def test_decoder_attention_of_a_pixel(resolution, channel):
    net = small_net(decoder_heads=(4, 4, 8, 4))
    layer = net.decoder.layers[{4: 0, 16: 2, 32: 3}[resolution]]
    stride, block = 32 // resolution, layer.blocks[0]
    seen = []
    block.qkv.register_forward_hook(lambda _module, _inputs, out: seen.append(out.view(*out.shape[:3], 3, block.heads, -1)))
    name = f"decoder-attention-{resolution}"
    found, _ = record(net, (name,), slices(32, 32), query=(9, 30), channel=channel)
    with torch.no_grad():
        half = seen[0][..., : block.heads // 2, :]
        matrix, row, origin = attention_matrix(block.biases[0], half, block.window, 0, 9 // stride, 30 // stride, block.scale)
    expected = matrix[:, row].mean(0) if channel is None else matrix[channel, row]
    torch.testing.assert_close(found[name].values[0, 0], expected.view(block.window, block.window).float())
    assert found[name].offset == (stride * origin[0], stride * origin[1])


def test_attention_of_the_chosen_slice():
    net = small_net()
    lr = slices(32, 32, batch=2)
    name = "encoder-attention-32"
    with torch.no_grad(), Recorder((name,), query=(5, 6)) as recorder:
        recorder.item = 1
        net(lr)
    alone, _ = record(net, (name,), lr[1:], query=(5, 6))
    torch.testing.assert_close(recorder.found[name].values, alone[name].values)
    assert recorder.query == (5, 6)


def test_attention_on_large_slices_comes_from_the_nearest_window():
    net = small_net(centroids=centres())
    lr = slices(32, 56)
    names = ("encoder-attention-32", "style-distance")
    found, _ = record(net, names, lr, query=(20, 50))
    # The last window begins at column 24.
    alone, _ = record(net, names, lr[..., 24:], query=(20, 26))
    for name in names:
        torch.testing.assert_close(found[name].values, alone[name].values)
    assert found["encoder-attention-32"].offset == (16, 48)


def test_distances_of_styles():
    net = small_net(centroids=centres())
    seen = []
    net.to_styles.register_forward_hook(lambda _module, _inputs, out: seen.append(out.view(2, 8, 12)))
    found, _ = record(net, ("style-distance",), slices(32, 32, batch=2))
    expected = (seen[0][:, :, None] - centres()).square().sum(-1).sqrt()
    torch.testing.assert_close(found["style-distance"].values, expected)


def test_recording_can_stop_early():
    net = small_net()
    after = []
    net.deep.register_forward_hook(lambda *_: after.append(1))
    with torch.no_grad(), Recorder(("cwss-scale-4",), only=True) as recorder:
        net(slices(20, 32))
    assert recorder.found["cwss-scale-4"].offset == (-6, 0)
    assert not after
