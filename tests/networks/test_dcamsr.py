from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mrsr.errors import InputError
from napari_mrsr.networks import create, get_architecture
from napari_mrsr.networks.blocks.dual_cross_attention import DCAT, DualCrossAttention, resample_projection
from napari_mrsr.networks.blocks.recording import Recorder
from napari_mrsr.networks.blocks.resample import lattice_upsample
from napari_mrsr.networks.dcamsr import ABLATIONS, DCAMSR, NOISE_GAIN, SAM
from napari_mrsr.networks.scaling import by_slice
from napari_mrsr.zoo.official import dcamsr as official

TINY = {"size": 32, "channels": 16, "heads": 4, "projection": 6, "encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1, 1, 1, 1, 1)}


def lively(module, seed=0):
    """Weights away from their start, so that nothing is silent (the SAM starts at zero, temperatures at one)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator).to(p))
    return module


def small_net(seed=0, **options):
    torch.manual_seed(seed)
    return lively(DCAMSR(**{**TINY, **options})).eval()


def images(h, w, scale=2, batch=1, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    lr = torch.randn(batch, 1, h, w, generator=generator)
    return lr.to(dtype), torch.randn(batch, 1, scale * h, scale * w, generator=generator).to(dtype)


def array(tensor):
    return tensor.detach().numpy()


def linear(layer, x):
    return x @ array(layer.weight).T + array(layer.bias)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# --- parameter table and the public implementation ----------------------------------------------------------------------------------------


def count(module):
    return sum(p.numel() for p in module.parameters())


def on_meta(**options):
    with torch.device("meta"):
        return create("dcamsr", **options)


@pytest.mark.parametrize(("size", "parameters"), [(256, 9_286_705), (320, 12_383_281)])
def test_parameter_table(size, parameters):
    assert count(on_meta(size=size)) == parameters
    assert count(on_meta(size=size, scale=4, exact_layout=False, reference="self", other_sizes="resample", upsampling="lattice")) == parameters


def test_parameters_by_part():
    net = on_meta(size=256)
    assert count(net.encoder) == 960_768
    assert count(net.decoder) == 2_732_929
    assert count(net.decoder.sam) == 147_648
    assert [count(dcat) for dcat in net.dcats] == [4_223_632, 1_077_904, 291_472]
    assert count(on_meta(size=256, noise_channel=True)) == 9_286_705 + 9 * 64
    assert count(on_meta(size=256, multi_scale=False)) == 9_286_705 - 4_223_632 - 1_077_904


@pytest.fixture(scope="module")
def published(parity_file, parity_weights):
    """The public implementation's numbers, and everything our network computes on the way to them."""
    state = parity_weights("dcamsr_32_keys.txt", "dcamsr32")
    expected = np.load(parity_file("dcamsr_32_x2.npz"))
    net = DCAMSR(**official.options(state, scale=int(expected["scale"]))).eval()
    net.load_state_dict(official.convert(state))
    seen = {}
    encodings = []
    net.encoder.register_forward_hook(lambda _m, args, out: encodings.append((args[0], out)))
    for level, dcat in enumerate(net.dcats, start=1):
        dcat.register_forward_hook(lambda _m, _args, out, level=level: seen.update({f"tex{level}": out}))
    net.dcats[2].attention.register_forward_hook(lambda _m, _args, out: seen.update(dca3=out))
    with torch.no_grad():
        seen["out"] = net(torch.from_numpy(expected["lr"]), torch.from_numpy(expected["ref"]))
    seen["lr_up"], features = encodings[0]
    seen.update({f"enc_lr_L{level}": f for level, f in enumerate(features, start=1)})
    return expected, seen


@pytest.mark.parametrize("name", ["lr_up", "enc_lr_L1", "enc_lr_L2", "enc_lr_L3", "tex1", "tex2", "dca3", "tex3", "out"])
def test_parity_with_the_public_implementation(published, name, record_property):
    expected, seen = published
    assert seen[name].shape == expected[name].shape
    error = np.abs(seen[name].numpy() - expected[name]).max()
    record_property("max_absolute_error", float(error))
    print(f"{name}: max error {error:.1e}")
    assert error < 1e-5


# --- the paper's equations by hand --------------------------------------------------------------------------------------------------------


def naive_dca(dca, x, ref):
    """Eq. 1 to 5 with the public code's scores, one head and one number at a time; (N, C) arrays."""
    n, channels = x.shape
    heads, d = dca.heads, channels // dca.heads
    q = linear(dca.q, x)
    k, *values = np.split(linear(dca.kvv, ref), dca.kvv.out_features // channels, axis=1)
    spatial, channel = np.zeros((n, channels)), np.zeros((n, channels))
    stored = {}
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        unit_q, unit_k = (t[:, part] / np.linalg.norm(t[:, part], axis=0) for t in (q, k))
        if dca.temperature_channel is not None:
            weights = softmax(unit_q.T @ unit_k * dca.temperature_channel[h].item())
            channel[:, part] = values[0][:, part] @ weights.T
        if dca.temperature_spatial is not None:
            matrix, bias = array(dca.project.weight), array(dca.project.bias)
            projected_k, projected_v = (matrix @ t + bias[:, None] for t in (unit_k, values[-1][:, part]))
            weights = softmax(unit_q @ projected_k.T * dca.temperature_spatial[h].item())
            assert weights.shape == (n, len(matrix))
            for c, column in enumerate((weights @ projected_v).T):
                stored[c, h] = column
                spatial[:, h * d + c] = column
    if dca.exact_layout and stored:
        flat = np.concatenate([stored[c, h] for c in range(d) for h in range(heads)])
        spatial = np.array([[flat[token * channels + c] for c in range(channels)] for token in range(n)])
    parts = []
    if dca.out_spatial is not None:
        parts.append(linear(dca.out_spatial, spatial))
    if dca.out_channel is not None:
        parts.append(linear(dca.out_channel, channel))
    return np.concatenate(parts, 1)


def make_dca(seed=0, grid=(6, 4), **options):
    torch.manual_seed(seed)
    dca = lively(DualCrossAttention(12, 3, grid, **{"projection": 5, **options})).double().eval()
    with torch.no_grad():
        for t in (dca.temperature_channel, dca.temperature_spatial):
            if t is not None:
                t.mul_(torch.tensor([2.0, -1.0, 6.0]).view(3, 1, 1))
    return dca


@pytest.mark.parametrize(
    "options",
    [{}, {"exact_layout": False}, {"channel_attention": False}, {"spatial_attention": False}, {"channel_attention": False, "exact_layout": False}],
)
def test_dual_cross_attention_by_hand(options):
    dca = make_dca(**options)
    x, ref = torch.randn(2, 2, 24, 12, dtype=torch.float64)
    with torch.no_grad():
        ours = dca(x, ref)
    assert ours.shape == x.shape
    for item in range(2):
        np.testing.assert_allclose(array(ours[item]), naive_dca(dca, array(x[item]), array(ref[item])), rtol=1e-10, atol=1e-12)


def test_sane_layout_keeps_each_token_at_home():
    """Without the quirk, one query's channel values are the only thing its output depends on besides its length; with it, others change."""
    moved = {}
    for exact in (False, True):
        dca = make_dca(exact_layout=exact, channel_attention=False)
        with torch.no_grad():
            x, ref = torch.randn(2, 1, 24, 12, generator=torch.Generator().manual_seed(3)).double()
            q = dca.q(x)
            lengths = q.norm(dim=1, keepdim=True)
            swapped = q.clone()
            swapped[:, [4, 9]] = q[:, [9, 4]]
            assert torch.equal(swapped.norm(dim=1, keepdim=True).round(decimals=9), lengths.round(decimals=9))
            dca.q = torch.nn.Identity()
            dca.q.out_features = 12
            moved[exact] = (dca(q, ref) - dca(swapped, ref)).abs().amax(-1)[0] > 1e-9
    assert moved[False].nonzero().flatten().tolist() == [4, 9]
    assert moved[True].nonzero().flatten().tolist() != [4, 9]


def test_dcat_by_hand():
    torch.manual_seed(0)
    dcat = lively(DCAT(12, 3, (4, 6), projection=5)).double().eval()
    x, ref = torch.randn(2, 2, 12, 4, 6, dtype=torch.float64)

    def normed(image):
        t = image.reshape(12, 24).T
        t = (t - t.mean(1, keepdims=True)) / np.sqrt(t.var(1, keepdims=True) + 1e-5)
        return t * array(dcat.norm.weight) + array(dcat.norm.bias)

    with torch.no_grad():
        ours = dcat(x, ref)
    for item in range(2):
        tokens = array(x[item]).reshape(12, 24).T + naive_dca(dcat.attention, normed(array(x[item])), normed(array(ref[item])))
        first, last = dcat.ffn[0], dcat.ffn[2]
        hidden = np.maximum(tokens @ array(first.weight)[:, :, 0, 0].T + array(first.bias), 0)
        tokens = tokens + hidden @ array(last.weight)[:, :, 0, 0].T + array(last.bias)
        np.testing.assert_allclose(array(ours[item]), tokens.T.reshape(12, 4, 6), rtol=1e-10, atol=1e-12)


def test_sam_by_hand():
    torch.manual_seed(0)
    sam = lively(SAM(6)).double()
    features, texture = torch.randn(2, 2, 6, 5, 7, dtype=torch.float64)
    style = torch.relu(F.conv2d(torch.cat([features, texture], 1), sam.shared.weight, sam.shared.bias, padding=1))
    gamma, beta = (F.conv2d(style, layer.weight, layer.bias, padding=1) for layer in (sam.gamma, sam.beta))
    expected = torch.empty_like(features)
    for b in range(2):
        for c in range(6):
            f, t = array(features[b, c]), array(texture[b, c])
            n = (t - t.mean()) / np.sqrt(t.var() + 1e-5)
            local = array(gamma[b, c]) + np.sqrt(((f - f.mean()) ** 2).sum() / (f.size - 1))
            expected[b, c] = torch.from_numpy(n * local + array(beta[b, c]) + f.mean())
    torch.testing.assert_close(sam(features, texture, 1), expected, rtol=1e-12, atol=1e-12)


def test_sam_starts_as_matching_of_mean_and_spread():
    sam = SAM(6)
    features, texture = 3 + 2 * torch.randn(1, 6, 16, 16), torch.randn(1, 6, 16, 16)
    with torch.no_grad():
        adapted = sam(features, texture, 1)
    torch.testing.assert_close(adapted.mean((2, 3)), features.mean((2, 3)), rtol=0, atol=1e-4)
    torch.testing.assert_close(adapted.std((2, 3)), features.std((2, 3)), rtol=0.01, atol=0)


def literal_forward(net, lr, ref):
    """NETWORKS 3.2 at the trained size, step by step."""

    def up2(x, r=2):
        return F.interpolate(x, scale_factor=r, mode="bilinear", align_corners=False)

    def encode(x):
        e1 = net.encoder.blocks[0](F.relu(net.encoder.convs[0](x)))
        e2 = net.encoder.blocks[1](F.relu(net.encoder.convs[1](e1)))
        return e1, e2, net.encoder.blocks[2](F.relu(net.encoder.convs[2](e2)))

    u = up2(lr, net.scale)
    own, other = encode(u), encode(u if ref is None else ref)
    if net.multi_scale:
        t1, t2, t3 = (net.dcats[i](own[i], other[i]) for i in range(3))
    else:
        t3 = net.dcats[0](own[2], other[2])
        t2, t1 = up2(t3), up2(t3, 4)
    convs, blocks, sam = net.decoder.convs, net.decoder.blocks, net.decoder.sam
    a = blocks[0](F.relu(convs[0](own[2])))
    a = up2(blocks[1](F.relu(convs[1](a))))
    f = blocks[2](F.relu(convs[2](torch.cat([a, own[2]], 1))))
    f = up2(blocks[3](F.relu(convs[3](torch.cat([sam(f, t3, 3), f], 1)))))
    f = up2(blocks[4](F.relu(convs[4](torch.cat([sam(f, t2, 2), f], 1)))))
    f = blocks[5](F.relu(convs[5](torch.cat([sam(f, t1, 1), f], 1))))
    return net.decoder.out(f) + u


@pytest.mark.parametrize("options", [{}, *ABLATIONS.values(), {"spatial_attention": False}, {"exact_layout": False}])
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("other_sizes", ["windows", "resample"])
def test_forward_pass_step_by_step(options, scale, other_sizes):
    net = small_net(scale=scale, other_sizes=other_sizes, size=(32, 48), **options).double()
    lr, ref = images(32 // scale, 48 // scale, scale, dtype=torch.float64)
    with torch.no_grad():
        expected = literal_forward(net, lr, None if net.reference == "self" else ref)
        torch.testing.assert_close(net(lr, ref), expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(net(lr), literal_forward(net, lr, None), rtol=1e-10, atol=1e-10)


# --- options ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_differ_from_the_full_network(name):
    full, ablation = small_net(), small_net(**ABLATIONS[name])
    own = ablation.state_dict()
    ablation.load_state_dict(
        {k: full.state_dict()[k] if full.state_dict()[k].shape == v.shape else v for k, v in own.items() if k in full.state_dict()}
    )
    lr, ref = images(16, 16)
    with torch.no_grad():
        assert (full(lr, ref) - ablation(lr, ref)).abs().max() > 1e-3


def test_ablations_are_those_of_table_2():
    assert set(ABLATIONS) == {"w/o reference", "w/o multi-scale attention", "w/o channel attention"}


def test_self_reference():
    net, alone = small_net(), small_net(reference="self")
    alone.load_state_dict(net.state_dict())
    lr, ref = images(16, 16)
    with torch.no_grad():
        single = net(lr)
        assert torch.equal(alone(lr, ref), single)
        assert torch.equal(alone(lr), single)
        up = F.interpolate(lr, scale_factor=2, mode="bilinear", align_corners=False)
        torch.testing.assert_close(net(lr, up), single, rtol=1e-5, atol=1e-5)
        assert (net(lr, ref) - single).abs().max() > 1e-3


def test_reference_of_another_size_is_refused():
    net = small_net()
    lr, ref = images(16, 16)
    for bad in (ref[:, :, :-1], lr, ref.expand(2, -1, -1, -1)):
        with pytest.raises(InputError, match=r"reference is .* 2 times"):
            net(lr, bad)
    assert small_net(reference="self")(lr, lr).shape == ref.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 5}, "factors"),
        ({"size": 30}, "multiples of 8"),
        ({"size": (32, 36)}, "multiples of 8"),
        ({"size": 0}, "multiples of 8"),
        ({"encoder_blocks": (1, 1)}, "3 encoder and 6 decoder"),
        ({"decoder_blocks": (1,) * 5}, "3 encoder and 6 decoder"),
        ({"heads": 5}, "5 heads"),
        ({"heads": 16}, "16 heads"),
        ({"channel_attention": False, "spatial_attention": False}, "at least one"),
        ({"reference": "none"}, "given or self"),
        ({"other_sizes": "crop"}, "windows or resample"),
        ({"upsampling": "nearest"}, "bilinear or lattice"),
        ({"init": "zero"}, "default or residual"),
        ({"overlap": 0.6}, "overlap"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        create("dcamsr", **{**TINY, **options})


def test_noise_channel():
    net, plain = small_net(noise_channel=True), small_net()
    lr, ref = images(12, 10, batch=2)
    with torch.no_grad():
        clean, noisy = net(lr, ref), net(lr, ref, noise_level=0.2)
        assert torch.equal(clean, net(lr, ref, noise_level=0.0))
        assert (clean - noisy).abs().max() > 1e-3
        levels = torch.tensor([0.0, 0.2]).view(2, 1, 1, 1)
        torch.testing.assert_close(net(lr, ref, noise_level=levels), torch.stack([clean[0], noisy[1]]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net(lr, ref, noise_level=levels.expand(2, 1, 12, 10)), torch.stack([clean[0], noisy[1]]), rtol=1e-4, atol=1e-5)
        assert torch.equal(plain(lr, ref, noise_level=0.2), plain(lr, ref))


def test_a_reference_counts_as_free_of_noise():
    net = small_net(noise_channel=True)
    seen = []
    net.encoder.register_forward_hook(lambda _m, args, _out: seen.append(args[0]))
    lr, ref = images(16, 16)
    with torch.no_grad():
        net(lr, ref, noise_level=0.3)
        assert torch.equal(seen[0][:, 1], torch.full((1, 32, 32), 0.3 * NOISE_GAIN))
        assert torch.equal(seen[1], torch.cat([ref, torch.zeros_like(ref)], 1))


@pytest.mark.parametrize("upsampling", ["bilinear", "lattice"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_residual_start_is_plain_upsampling(upsampling, scale):
    torch.manual_seed(0)
    net = DCAMSR(**TINY, scale=scale, init="residual", upsampling=upsampling).eval()
    lr, ref = images(9, 12, scale)
    up = lattice_upsample(lr, scale) if upsampling == "lattice" else F.interpolate(lr, scale_factor=scale, mode="bilinear", align_corners=False)
    with torch.no_grad():
        assert torch.equal(net(lr, ref), up)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lattice_upsampling_is_exact_where_a_kspace_crop_has_its_samples(scale):
    n = 40
    fine = torch.arange(n * scale, dtype=torch.float64)
    wave = torch.cos(2 * math.pi * fine / (8 * scale))[:, None] + torch.sin(2 * math.pi * fine / (10 * scale))
    lr = wave[::scale, ::scale][None, None]
    up = lattice_upsample(lr, scale)
    torch.testing.assert_close(up[:, :, ::scale, ::scale], lr, rtol=0, atol=1e-12)
    inside = slice(6 * scale, -6 * scale)
    error = (up[0, 0] - wave)[inside, inside].abs().max()
    shifted = (F.interpolate(lr, scale_factor=scale, mode="bilinear", align_corners=False)[0, 0] - wave)[inside, inside].abs().max()
    assert error < 0.01 < 0.2 < shifted
    constant = lattice_upsample(torch.full((2, 3, 5, 7), 4.0), scale)
    assert constant.shape == (2, 3, 5 * scale, 7 * scale)
    torch.testing.assert_close(constant, torch.full_like(constant, 4.0))


def test_lattice_upsampling_learns_after_inference_mode():
    with torch.inference_mode():
        lattice_upsample(torch.zeros(1, 1, 11, 13).double(), 2)
    x = torch.zeros(1, 1, 11, 13, dtype=torch.float64, requires_grad=True)
    lattice_upsample(x, 2).sum().backward()
    torch.testing.assert_close(x.grad.sum(), torch.tensor(4.0 * 11 * 13).double())


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_amplitude_is_that_of_the_orthonormal_crop(scale):
    """What goes in and what is learned are those of the public pipeline, whose low resolution is `scale` times brighter."""
    lr, hr = 300 + 100 * torch.randn(2, 1, 8, 8), 300 + 100 * torch.randn(2, 1, 8 * scale, 8 * scale)
    net = small_net(scale=scale)
    assert net.amplitude == scale
    scaling = by_slice(net, lr, 1.0)
    bright = scale * lr
    mean, sd = (f(bright.flatten(1), 1).view(2, 1, 1, 1) for f in (torch.mean, torch.std))
    torch.testing.assert_close(scaling.lr(lr), ((bright - mean) / sd).clamp(-6, 6))
    torch.testing.assert_close(scaling.target(hr), ((hr - mean) / sd).clamp(-6, 6))
    assert small_net(scale=scale, rescale_lr=True).amplitude == 1.0


# --- sizes --------------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(
    st.tuples(st.integers(1, 23), st.integers(1, 23)),
    st.sampled_from([2, 3, 4]),
    st.sampled_from(["windows", "resample"]),
    st.sampled_from(["bilinear", "lattice"]),
    st.booleans(),
    st.booleans(),
)
def test_any_size_and_scale(size, scale, other_sizes, upsampling, referenced, multi_scale):
    net = small_net(channels=8, scale=scale, other_sizes=other_sizes, upsampling=upsampling, multi_scale=multi_scale)
    lr, ref = images(*size, scale)
    with torch.no_grad():
        out = net(lr, ref if referenced else None)
    assert out.shape == ref.shape
    assert torch.isfinite(out).all()


def correction(net, lr, ref):
    with torch.no_grad():
        return net(lr, ref) - F.interpolate(lr, scale_factor=net.scale, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("other_sizes", ["windows", "resample"])
@pytest.mark.parametrize("size", [(5, 7), (17, 23), (16, 40)])
def test_odd_sizes_keep_their_scale(size, other_sizes):
    net = small_net(other_sizes=other_sizes)
    assert 0.5 < correction(net, *images(*size)).std() / correction(net, *images(16, 16)).std() < 2


def test_one_size_of_output_at_every_factor():
    """x3 with a size that is no multiple of it: windows are cut from the upsampled image."""
    net = small_net(scale=3)
    lr, ref = images(11, 20, 3)
    with torch.no_grad():
        assert net(lr, ref).shape == (1, 1, 33, 60)


def test_windows_agree_with_their_part_alone():
    """80 x 64 in windows of 32: starts 0, 24, 48 and 0, 16, 32, so the first 24 rows and 16 columns belong to one window."""
    net = small_net().double()
    lr, ref = images(40, 32, dtype=torch.float64)
    with torch.no_grad():
        out = net(lr, ref)
        up = F.interpolate(lr, scale_factor=2, mode="bilinear", align_corners=False)
        first = up[:, :, :32, :32] + net._correction(up[:, :, :32, :32], ref[:, :, :32, :32])
        last = up[:, :, 48:, 32:] + net._correction(up[:, :, 48:, 32:], ref[:, :, 48:, 32:])
    torch.testing.assert_close(out[:, :, :24, :16], first[:, :, :24, :16])
    torch.testing.assert_close(out[:, :, 56:, 48:], last[:, :, 8:, 16:])
    assert (out[:, :, :32, :32] - first).abs().max() > 1e-6


def test_windows_start_at_multiples_of_the_coarsest_features():
    """36 rows: the second of two windows of 32 starts at 8, not at 4."""
    _, found = recorded(small_net(), *images(18, 16), query=(35, 0), names=["spatial-1"])
    assert found["spatial-1"].offset == (8, 0)


def test_whole_slices_are_padded_after_their_end():
    net = small_net(other_sizes="resample").double()
    lr, ref = images(10, 13, dtype=torch.float64)
    with torch.no_grad():
        up = F.interpolate(lr, scale_factor=2, mode="bilinear", align_corners=False)
        filled = [torch.cat([x, x[:, :, -1:].expand(-1, -1, 4, -1)], 2) for x in (up, ref)]
        filled = [torch.cat([x, x[:, :, :, -1:].expand(-1, -1, -1, 6)], 3) for x in filled]
        torch.testing.assert_close(net(lr, ref), up + net._correction(*filled)[:, :, :20, :26])


def test_overlap_matters():
    lr, ref = images(40, 32)
    with torch.no_grad():
        assert (small_net(overlap=0.0)(lr, ref) - small_net(overlap=0.5)(lr, ref)).abs().max() > 1e-4


@pytest.mark.parametrize("size", [(24, 20), (6, 8), (12, 16), (11, 40)])
def test_resampled_projection_keeps_constants_and_smooth_images(size):
    torch.manual_seed(0)
    grid = (12, 16)
    weight = torch.randn(4, 192, dtype=torch.float64)
    resampled = resample_projection(weight, grid, size)
    assert resampled.shape == (4, math.prod(size))
    torch.testing.assert_close(resampled.sum(1), weight.sum(1))
    if size == (12, 16):
        torch.testing.assert_close(resampled, weight)

    def wave(n, periods):
        return torch.cos(periods * math.pi * (torch.arange(n, dtype=torch.float64) + 0.5) / n)

    smooth = {shape: wave(shape[0], 1)[:, None] * wave(shape[1], 2) for shape in (grid, size)}
    pattern = torch.stack([smooth[grid].flatten(), (wave(12, 1)[:, None] + wave(16, 1)).flatten()])
    before, after = pattern @ smooth[grid].flatten(), resample_projection(pattern, grid, size) @ smooth[size].flatten()
    torch.testing.assert_close(after, before, rtol=0, atol=0.1 * float(before.max()))
    assert before.max() > 40


def test_resampled_attention_does_not_depend_on_sampling_density():
    dca = make_dca(grid=(16, 16), exact_layout=False, projection=3)
    ramp = torch.linspace(-1, 1, 16, dtype=torch.float64)
    with torch.no_grad():
        dca.project.weight.copy_(torch.stack([ramp.repeat(16), ramp.repeat_interleave(16), torch.ones(256)]) / 4)
        coarse = torch.stack([torch.cos((1 + i / 4) * ramp[:, None] + i / 3 * ramp + i) for i in range(12)])[None]
        fine = F.interpolate(coarse, scale_factor=2, mode="bilinear")
        at_coarse = dca(*[coarse.flatten(2).transpose(1, 2)] * 2).transpose(1, 2).view(coarse.shape)
        at_fine = dca(*[fine.flatten(2).transpose(1, 2)] * 2, (32, 32)).transpose(1, 2).view(fine.shape)
    back = F.avg_pool2d(at_fine, 2)
    spread = (at_coarse - at_coarse.mean((2, 3), keepdim=True)).abs().max()
    assert (back - at_coarse)[:, :, 1:-1, 1:-1].abs().max() < 0.05 * spread


# --- numbers, gradients -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (19, 9)])
def test_batch_of_two_is_two_batches_of_one(size):
    net = small_net()
    lr, ref = images(*size, batch=2)
    with torch.no_grad():
        both = net(lr, ref)
        torch.testing.assert_close(both, torch.cat([net(lr[:1], ref[:1]), net(lr[1:], ref[1:])]), rtol=1e-4, atol=1e-5)
    assert (both[0] - both[1]).abs().max() > 0.1


def test_evaluation_is_deterministic_and_training_drops_attention():
    net, twin = small_net(), small_net(seed=5)
    twin.load_state_dict(net.state_dict())
    lr, ref = images(16, 16)
    with torch.no_grad():
        first = net(lr, ref)
        assert torch.equal(first, net(lr, ref))
        assert torch.equal(first, twin(lr, ref))
        net.train()
        assert not torch.equal(net(lr, ref), net(lr, ref))
    for branch in ({"channel_attention": False}, {"spatial_attention": False}):
        part = small_net(**branch).train()
        with torch.no_grad():
            assert not torch.equal(part(lr, ref), part(lr, ref))
    still = small_net(dropout=0.0).train()
    with torch.no_grad():
        torch.testing.assert_close(still(lr, ref), first)


def silent(net, lr, ref):
    net(lr, ref).square().mean().backward()
    return [name for name, p in net.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]


@pytest.mark.parametrize("options", [{}, {"noise_channel": True}, {"other_sizes": "resample"}, {"exact_layout": False}, *ABLATIONS.values()])
def test_gradients_reach_every_parameter(options):
    assert not silent(small_net(**options).train(), *images(12, 18))


def test_gradients_at_the_start():
    """Only what lies behind the SAM's silent convolutions waits for them."""
    torch.manual_seed(0)
    assert silent(DCAMSR(**TINY), *images(16, 16)) == ["decoder.sam.shared.weight", "decoder.sam.shared.bias"]


def test_gradients_equal_those_of_finite_differences():
    net = small_net(size=16).double()
    lr, ref = images(11, 8, dtype=torch.float64)
    parameters = dict(net.named_parameters())
    net(lr, ref).square().sum().backward()
    attention = ("q.weight", "kvv.weight", "project.weight", "project.bias", "temperature_channel", "temperature_spatial")
    for name in ("encoder.convs.0.weight", "decoder.sam.shared.weight", *(f"dcats.1.attention.{part}" for part in attention)):
        p = parameters[name]
        step = torch.randn(p.shape, generator=torch.Generator().manual_seed(0)).double() * 1e-6
        values = []
        with torch.no_grad():
            for move in (1, -2):
                p.add_(move * step)
                values.append(net(lr, ref).square().sum())
            p.add_(step)
        assert ((values[0] - values[1]) / 2).item() == pytest.approx((p.grad * step).sum().item(), rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"other_sizes": "resample", "upsampling": "lattice"}])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02), (torch.float64, 1e-4)])
def test_other_precisions_stay_near(dtype, tolerance, options):
    net = small_net(noise_channel=True, **options)
    lr, ref = images(13, 18)
    with torch.no_grad():
        expected = net(lr, ref, 0.1)
        ours = net.to(dtype)(lr.to(dtype), ref.to(dtype), 0.1)
    assert ours.dtype == dtype
    assert torch.isfinite(ours).all()
    assert (ours.float() - expected).abs().max() < tolerance * expected.abs().max()


def test_autocast_stays_near():
    net = small_net()
    lr, ref = images(16, 16)
    with torch.no_grad():
        expected = net(lr, ref)
        with torch.autocast("cpu", torch.bfloat16):
            ours = net(lr, ref)
    assert (ours.float() - expected).abs().max() < 0.1 * expected.abs().max()


def test_lengths_along_many_tokens_do_not_overflow():
    dca = make_dca(grid=(64, 64), exact_layout=False)
    x, ref = 300 * torch.randn(2, 1, 4096, 12, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        expected = dca(x, ref)
        ours = dca.half()(x.half(), ref.half())
    assert (ours.double() - expected).abs().max() < 0.01 * expected.abs().max()


# --- maps ---------------------------------------------------------------------------------------------------------------------------------


def recorded(net, *args, names=None, **options):
    names = [info.name for info in net.maps()] if names is None else names
    with torch.no_grad(), Recorder(names, **options) as recorder:
        out = net(*args)
    return out, recorder.found


@pytest.mark.parametrize("size", [(16, 16), (21, 13)])
@pytest.mark.parametrize("other_sizes", ["windows", "resample"])
def test_recording_changes_nothing(size, other_sizes):
    net = small_net(other_sizes=other_sizes)
    lr, ref = images(*size)
    out, found = recorded(net, lr, ref, query=(9, 20))
    with torch.no_grad():
        assert torch.equal(out, net(lr, ref))
    assert set(found) == {f"{kind}-{level}" for kind in ("spatial", "channel-attention", "sam-gamma", "sam-beta") for level in (1, 2, 3)}
    for level in (1, 2, 3):
        for kind in ("spatial", "sam-gamma", "sam-beta"):
            assert found[f"{kind}-{level}"].stride == 2 ** (level - 1)
            assert found[f"{kind}-{level}"].values.shape[:2] == (1, 1)


def test_nothing_is_computed_that_is_not_wanted(monkeypatch):
    def forbidden(*_args):
        raise AssertionError

    monkeypatch.setattr(DualCrossAttention, "_row", forbidden)
    monkeypatch.setattr(Recorder, "one_channel", forbidden)
    net = small_net()
    recorded(net, *images(16, 16), names=["channel-attention-2"])
    for name in ("spatial-2", "sam-beta-1"):
        with pytest.raises(AssertionError):
            recorded(net, *images(16, 16), names=[name], query=(0, 0))


@pytest.mark.parametrize("size", [None, (8, 4)])
@pytest.mark.parametrize("exact", [True, False])
def test_spatial_map_is_the_row_of_the_full_matrix(size, exact):
    """With a field of one-hot values the branch writes its full matrix down, bias included."""
    dca = make_dca(level=2, exact_layout=exact)
    x, ref = torch.randn(2, 2, 32 if size else 24, 12, dtype=torch.float64)
    h, w = size or (6, 4)
    for item, query in ((0, (0, 0)), (1, (2 * h - 1, 2 * w - 2)), (1, (6, 5))):
        rows = []
        for head in range(3):
            with torch.no_grad(), Recorder(["spatial-2"], query=query, channel=head) as recorder:
                recorder.item = item
                dca(x, ref, size)
            rows.append(recorder.found["spatial-2"].values)
        assert recorder.found["spatial-2"].stride == 2
        with torch.no_grad():
            q, k = (t[item].T.reshape(3, 4, -1) for t in (dca.q(x), dca.kvv(ref)[..., :12]))
            gain = math.sqrt(h * w / 24)
            q, k = gain * q / q.norm(dim=-1, keepdim=True), gain * k / k.norm(dim=-1, keepdim=True)
            matrix = dca.project.weight if size is None else resample_projection(dca.project.weight, (6, 4), size)
            token = query[0] // 2 * w + query[1] // 2
            for head in range(3):
                projected = matrix @ k[head].T + dca.project.bias[:, None]
                full = torch.softmax(dca.temperature_spatial[head] * (q[head].T @ projected.T), -1) @ matrix
                assert full.shape == (h * w, h * w)
                torch.testing.assert_close(rows[head][0, 0], full[token].view(h, w).float(), rtol=1e-5, atol=1e-7)
        with torch.no_grad(), Recorder(["spatial-2"], query=query) as recorder:
            recorder.item = item
            dca(x, ref, size)
        torch.testing.assert_close(recorder.found["spatial-2"].values, torch.stack(rows).mean(0))
        assert recorder.found["spatial-2"].values.min() < 0 < recorder.found["spatial-2"].values.max()


def test_spatial_map_explains_the_collected_values():
    """Weights of the map times the values, plus the projection's bias, are what the branch gives at the chosen pixel."""
    dca = make_dca(channel_attention=False, exact_layout=False)
    x, ref = torch.randn(2, 1, 24, 12, dtype=torch.float64)
    query = (4, 3)
    with torch.no_grad():
        dca.project.bias.fill_(0.3)
        dca.out_spatial.weight.copy_(torch.eye(12))
        dca.out_spatial.bias.zero_()
        values = dca.kvv(ref)[0, :, 12:]
        for head in range(3):
            with Recorder(["spatial-1"], query=query, channel=head) as recorder:
                out = dca(x, ref)
            weights = recorder.found["spatial-1"].values.flatten().double()
            part = slice(4 * head, 4 * head + 4)
            torch.testing.assert_close(weights @ values[:, part] + 0.3, out[0, 4 * 4 + 3, part], rtol=1e-5, atol=1e-6)


def test_spatial_map_in_windows_is_that_of_its_window():
    net = small_net()
    lr, ref = images(40, 32)
    _, found = recorded(net, lr, ref, query=(70, 5), names=["spatial-1", "spatial-3"])
    with torch.no_grad():
        up = F.interpolate(lr, scale_factor=2, mode="bilinear", align_corners=False)
        with Recorder(["spatial-1", "spatial-3"], query=(70 - 48, 5)) as recorder:
            net._correction(up[:, :, 48:, :32], ref[:, :, 48:, :32])
    for name in ("spatial-1", "spatial-3"):
        assert found[name].offset == (48, 0)
        torch.testing.assert_close(found[name].values, recorder.found[name].values)


def test_channel_tables():
    net = small_net()
    _, found = recorded(net, *images(16, 16, batch=2), query=(3, 3))
    for level in (1, 2, 3):
        table = found[f"channel-attention-{level}"].values
        assert table.shape == (2, 16, 4)
        torch.testing.assert_close(table.sum(-1), torch.ones(2, 16))
        assert (table[0] - table[1]).abs().max() > 1e-6
    dca = make_dca(grid=(6, 4))
    x, ref = torch.randn(2, 1, 24, 12, dtype=torch.float64)
    with torch.no_grad(), Recorder(["channel-attention-1"]) as recorder:
        dca(x, ref)
        q, k = dca.q(x)[0], dca.kvv(ref)[0, :, :12]
    q, k = q / q.norm(dim=0), k / k.norm(dim=0)
    parts = [(h, slice(4 * h, 4 * h + 4)) for h in range(3)]
    expected = torch.cat([torch.softmax(dca.temperature_channel[h].detach() * q[:, part].T @ k[:, part], -1) for h, part in parts])
    torch.testing.assert_close(recorder.found["channel-attention-1"].values[0], expected.float())


def test_sam_maps():
    net = small_net()
    lr, ref = images(16, 16, batch=2)
    shown = {c: recorded(net, lr, ref, channel=c, query=(0, 0))[1] for c in (None, *range(16))}
    for kind in ("gamma", "beta"):
        for level in (1, 2, 3):
            single = torch.cat([shown[c][f"sam-{kind}-{level}"].values for c in range(16)], 1)
            assert single.shape == (2, 16, 32 >> level - 1, 32 >> level - 1)
            torch.testing.assert_close(shown[None][f"sam-{kind}-{level}"].values, single.abs().mean(1, keepdim=True))
    sam = lively(SAM(4))
    features, texture = torch.randn(2, 1, 4, 8, 8)
    values = {}
    for channel in range(4):
        with torch.no_grad(), Recorder(["sam-gamma-2", "sam-beta-2"], channel=channel) as recorder:
            out = sam(features, texture, 2)
        values.update({(name, channel): kept.values[0, 0] for name, kept in recorder.found.items()})
    for channel in range(4):
        rebuilt = F.instance_norm(texture)[0, channel] * values["sam-gamma-2", channel] + values["sam-beta-2", channel]
        torch.testing.assert_close(out[0, channel], rebuilt)


def test_listed_maps_follow_the_options():
    infos = {info.name: info for info in small_net().maps()}
    assert len(infos) == 12
    assert all(info.title and len(info.description) > 40 for info in infos.values())
    assert {info.kind for name, info in infos.items() if name.startswith("spatial")} == {"query"}
    assert all(info.on == "reference" and info.signed for name, info in infos.items() if name.startswith("spatial"))
    assert "layout" in infos["spatial-1"].description
    assert all(info.kind == "table" for name, info in infos.items() if name.startswith("channel"))
    assert all(info.kind == "dense" and not info.signed and info.on == "result" for name, info in infos.items() if name.startswith("sam"))
    assert "layout" not in small_net(exact_layout=False).maps()[0].description
    assert small_net(reference="self").maps()[0].on == "result"
    for options, gone in (({"channel_attention": False}, "channel-"), ({"spatial_attention": False}, "spatial-")):
        assert not [info for info in small_net(**options).maps() if info.name.startswith(gone)]
    coarse = small_net(multi_scale=False)
    assert {info.name for info in coarse.maps()} == {"spatial-3", "channel-attention-3"} | {n for n in infos if n.startswith("sam")}
    _, found = recorded(coarse, *images(16, 16), query=(0, 0))
    assert set(found) == {info.name for info in coarse.maps()}


# --- descriptor ---------------------------------------------------------------------------------------------------------------------------


def test_descriptor():
    architecture = get_architecture("dcamsr")
    assert (architecture.dimension, architecture.tiling, architecture.reference) == (2, "planes", "optional")
    assert architecture.scales == (2, 3, 4)
    assert architecture.global_statistics
    assert architecture.scaling is by_slice
    net = small_net()
    assert architecture.halo(net) is None
    assert architecture.bytes_per_voxel(net) > 4 * 16 * 13 * 4
    assert [info.name for info in architecture.maps(net)] == [info.name for info in net.maps()]
