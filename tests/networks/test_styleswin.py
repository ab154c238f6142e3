from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mrsr.errors import InputError
from napari_mrsr.networks.blocks.style import AdaIN, EqualisedConv, EqualisedLinear, PixelNorm, axis_code, fir_filter, fir_upsample, position_code
from napari_mrsr.networks.blocks.swin import PatchMerging, RelativeBias, ResidualSwinStage, SwinBlock, window_attention
from napari_mrsr.networks.centroids import k_means, style_centroids
from napari_mrsr.networks.styleswin import StyleSwinBlock, StyleSwinDecoder, StyleSwinGenerator, Upsample, channel_widths
from napari_mrsr.networks.wavelet_discriminator import WaveletDiscriminator, batch_spread, haar
from napari_mrsr.zoo.official import transmrsr as official

TINY = {"size": 32, "channels": (16, 16, 16, 8), "style_dim": 12}


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


def generator(seed=0, **options):
    torch.manual_seed(seed)
    return enliven(StyleSwinGenerator(**{**TINY, "mapping_layers": 2, **options}), seed)


def randn(*shape, seed=1, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# --- counts and parity --------------------------------------------------------------------------------------------------------------------


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_published_parameter_counts():
    with torch.device("meta"):
        net = StyleSwinGenerator()
        assert count(net) == 40_628_048
        assert count(net.decoder) == 38_520_614
        assert count(WaveletDiscriminator()) == 26_211_585
        # The bias of the first linear layer is there twice with spectral norm, once without.
        assert count(WaveletDiscriminator(spectral_norm=False)) == 26_211_585 - 512
    assert [layer.blocks[0].heads for layer in net.decoder.layers] == [16, 16, 16, 16, 8, 4, 4]
    assert [layer.blocks[1].window for layer in net.decoder.layers] == [4, 8, 8, 8, 8, 8, 8]
    assert [layer.blocks[1].shift for layer in net.decoder.layers] == [0, 0, 4, 4, 4, 4, 4]


def test_generator_gives_the_reference_image(parity_file, parity_weights):
    state = parity_weights("styleswin_tiny64_keys.txt", "styleswin_tiny64")
    state = {name: value for name, value in state.items() if name.startswith(("style.", "input.", "layers.", "to_rgbs."))}
    net = StyleSwinGenerator(**official.options(state)).eval()
    net.load_state_dict(official.convert(state))
    fixture = {name: torch.from_numpy(values) for name, values in np.load(parity_file("styleswin_tiny64_generator.npz")).items() if name in "zwimg"}
    with torch.no_grad():
        torch.testing.assert_close(net.mapping(fixture["z"]), fixture["w"], rtol=0, atol=2e-5)
        torch.testing.assert_close(net(fixture["z"]), fixture["img"], rtol=0, atol=2e-4)


def test_discriminator_has_the_reference_shapes(parity_file):
    """Its key list ends the generator's file; names differ, so shapes are compared in order of use."""
    lines = parity_file("styleswin_tiny64_keys.txt").read_text().split("# discriminator")[1].splitlines()[1:]
    shapes = [line.split(" ", 1)[1] for line in lines if line.rsplit(".", 1)[-1].startswith(("weight", "bias"))]
    ours = WaveletDiscriminator(64, width_divisor=16, channels=(32, 32, 32, 32, 32), spectral_norm=False)
    assert sorted(str(tuple(p.shape)) for p in ours.parameters()) == sorted(shapes)


# --- layers against their formulas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1.0, 0.01])
@pytest.mark.parametrize("activation", [False, True])
def test_equalised_linear(rate, activation):
    torch.manual_seed(0)
    layer = EqualisedLinear(7, 300, rate, activation).double()
    assert layer.weight.std().item() == pytest.approx(1 / rate, rel=0.1)
    assert not layer.bias.any()
    layer.bias.data.copy_(randn(300))
    x = randn(4, 7)
    y = x @ (layer.weight * rate / math.sqrt(7)).T + layer.bias * rate
    if activation:
        y = torch.where(y > 0, y, 0.2 * y) * math.sqrt(2)
    torch.testing.assert_close(layer(x), y)


def test_equalised_convolution():
    torch.manual_seed(0)
    layer = EqualisedConv(3, 40).double()
    assert layer.weight.std().item() == pytest.approx(1, rel=0.1)
    assert not layer.bias.any()
    layer.bias.data.copy_(randn(40))
    x = randn(2, 3, 5, 6)
    expected = torch.nn.functional.conv2d(x, layer.weight / math.sqrt(27), layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected)


def test_adaptive_instance_norm():
    layer = enliven(AdaIN(6, 5).double())
    x, style = 3 + 2 * randn(2, 4, 7, 6), randn(2, 5, seed=2)
    out = layer(x, style)
    for item, channel in itertools.product(range(2), range(6)):
        weights = layer.style.weight / math.sqrt(5)
        gamma = weights[channel] @ style[item] + layer.style.bias[channel]
        beta = weights[6 + channel] @ style[item] + layer.style.bias[6 + channel]
        values = x[item, :, :, channel]
        deviation = values - values.mean()
        expected = gamma * deviation / torch.sqrt((deviation**2).mean() + 1e-5) + beta
        torch.testing.assert_close(out[item, :, :, channel], expected)


def test_pixel_norm():
    z = 5 * randn(3, 8)
    expected = torch.stack([row / math.sqrt(sum(v * v for v in row.tolist()) / 8 + 1e-8) for row in z])
    torch.testing.assert_close(PixelNorm()(z), expected)


def test_position_code_by_hand():
    size, channels = 6, 16
    code = position_code(axis_code(size, channels // 2))
    half = channels // 4
    for row, column in itertools.product(range(size), repeat=2):
        expected = []
        for position in (column + 1, row + 1):
            angles = [position * math.exp(-i * math.log(10_000) / (half - 1)) for i in range(half)]
            expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        np.testing.assert_allclose(code[row, column].numpy(), expected, atol=1e-6)


def test_fir_filters_by_hand():
    """Upsampling: zeros between the pixels, two of them before and one after, gain 4. Filtering: zeros around, gain 1."""
    kernel = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    x = randn(1, 2, 3, 5)
    spaced = np.zeros((2, 9, 13))
    spaced[:, 2:8:2, 2:12:2] = x[0].numpy()
    up = [[[4 * (kernel * spaced[c, i : i + 4, j : j + 4]).sum() for j in range(10)] for i in range(6)] for c in range(2)]
    np.testing.assert_allclose(fir_upsample(x)[0].numpy(), up, atol=1e-12)
    padded = np.pad(x[0].numpy(), [(0, 0), (2, 2), (2, 2)])
    blurred = np.array([[[(kernel * padded[c, i : i + 4, j : j + 4]).sum() for j in range(6)] for i in range(4)] for c in range(2)])
    np.testing.assert_allclose(fir_filter(x, 2)[0].numpy(), blurred, atol=1e-12)
    np.testing.assert_allclose(fir_filter(x, 1, 2)[0].numpy(), blurred[:, 1:-1:2, 1:-1:2], atol=1e-12)


def region(place, size, window, shift):
    """Which of the parts that rolling brings together a (rolled) row or column belongs to."""
    if shift == 0 or place < size - window:
        return 0
    return 1 if place < size - shift else 2


def plain_attention(qkv, table, window, scale, shift):
    """Window attention token by token: (H, W, 3, heads, d) and ((2 window - 1)^2, heads), float64."""
    height, width, _, heads, d = qkv.shape
    out = torch.zeros(height, width, heads, d, dtype=torch.float64)
    tokens = list(itertools.product(range(height), range(width)))
    rolled = {(y, x): ((y - shift) % height, (x - shift) % width) for y, x in tokens}
    for token in tokens:
        y, x = rolled[token]
        mates = [t for t in tokens if rolled[t][0] // window == y // window and rolled[t][1] // window == x // window]
        for head in range(heads):
            scores = []
            for mate in mates:
                v, u = rolled[mate]
                row = (y - v + window - 1) * (2 * window - 1) + (x - u + window - 1)
                apart = region(y, height, window, shift) != region(v, height, window, shift)
                apart |= region(x, width, window, shift) != region(u, width, window, shift)
                scores.append(scale * float(qkv[token][0, head] @ qkv[mate][1, head]) + float(table[row, head]) - 100 * apart)
            weights = np.exp(np.array(scores) - max(scores))
            out[token][head] = sum(w * qkv[mate][2, head] for w, mate in zip(weights / weights.sum(), mates, strict=True))
    return out.reshape(height, width, heads * d)


@pytest.mark.parametrize(("window", "shift", "size"), [(4, 0, (8, 4)), (4, 2, (8, 12)), (2, 1, (6, 4)), (4, 1, (8, 8))])
@pytest.mark.parametrize("gain", [1.0, 12.0])
def test_window_attention_token_by_token(window, shift, size, gain):
    """The larger gain gives scores beyond 100, against which the mask of -100 is no wall."""
    bias = RelativeBias(window, 2).double()
    bias.table.data.copy_(randn(*bias.table.shape))
    qkv = gain * randn(2, *size, 3, 2, 3, seed=2)
    with torch.no_grad():
        ours = window_attention(qkv, window, bias(), 1.0, shift)
    for item in range(2):
        expected = plain_attention(qkv[item], bias.table.detach(), window, 1.0, shift)
        torch.testing.assert_close(ours[item], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shift", [0, 2])
def test_more_windows_than_a_kernel_takes(shift, monkeypatch):
    qkv = randn(2, 8, 16, 3, 2, 4)
    bias = randn(2, 16, 16)
    whole = window_attention(qkv, 4, bias, 1.0, shift)
    monkeypatch.setattr("napari_mrsr.networks.blocks.attention.LAUNCH", 3)
    torch.testing.assert_close(window_attention(qkv, 4, bias, 1.0, shift), whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_beyond_half_precision_stay_finite(dtype):
    """300 * 300 * 4 is far above 65504."""
    qkv = (300 * randn(1, 8, 8, 3, 2, 4)).to(dtype)
    bias = torch.zeros(2, 16, 16)
    expected = window_attention(qkv.double(), 4, bias.double(), 1.0, 2)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            ours = window_attention(qkv, 4, bias.to(dtype), 1.0, 2)
        assert torch.isfinite(ours).all()
        assert (ours.double() - expected).abs().max() < 0.02 * expected.abs().max()


def plain_norm(layer, x):
    deviation = x - x.mean(-1, keepdim=True)
    return layer.weight * deviation / torch.sqrt((deviation**2).mean(-1, keepdim=True) + 1e-5) + layer.bias


def plain_mlp(mlp, x):
    inner = x @ mlp[0].weight.T + mlp[0].bias
    return (inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))) @ mlp[2].weight.T + mlp[2].bias


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("shift", [0, 2])
def test_swin_block(scaled, shift):
    block = enliven(SwinBlock(8, 2, 4, shift, 3.0, scaled).double())
    x = randn(1, 8, 8, 8)
    with torch.no_grad():
        qkv = plain_norm(block.norm1, x) @ block.qkv.weight.T + block.qkv.bias
        scale = 4**-0.5 if scaled else 1.0
        attended = plain_attention(qkv[0].view(8, 8, 3, 2, 4), block.bias.table, 4, scale, shift)
        y = x + attended[None] @ block.project.weight.T + block.project.bias
        y = y + plain_mlp(block.mlp, plain_norm(block.norm2, y))
        torch.testing.assert_close(block(x), y, rtol=1e-9, atol=1e-9)
    assert block.mlp[0].out_features == 24


def test_residual_swin_stage():
    stage = enliven(ResidualSwinStage(8, 8, 2, 4, 2.0, False).double())
    x = randn(2, 8, 8, 8)
    assert [block.shift for block in stage.blocks] == [0, 2]
    with torch.no_grad():
        inner = stage.blocks[1](stage.blocks[0](x)).permute(0, 3, 1, 2)
        torch.testing.assert_close(stage(x), x + stage.conv(inner).permute(0, 2, 3, 1))
    whole = ResidualSwinStage(4, 8, 2, 8, 2.0, False)
    assert [(block.window, block.shift) for block in whole.blocks] == [(4, 0), (4, 0)]


def test_patch_merging_order():
    merge = enliven(PatchMerging(3, 5).double())
    x = randn(1, 4, 6, 3)
    with torch.no_grad():
        for i, j in itertools.product(range(2), range(3)):
            patch = torch.cat([x[0, 2 * i, 2 * j], x[0, 2 * i + 1, 2 * j], x[0, 2 * i, 2 * j + 1], x[0, 2 * i + 1, 2 * j + 1]])
            torch.testing.assert_close(merge(x)[0, i, j], plain_norm(merge.norm, patch) @ merge.reduce.weight.T)
    assert merge.reduce.bias is None


@pytest.mark.parametrize(("resolution", "shift"), [(8, 2), (4, 0)])
def test_styleswin_block(resolution, shift):
    """Heads 0, 1: regular windows; heads 2, 3: shifted ones; scores scaled."""
    block = enliven(StyleSwinBlock(resolution, 8, 4, 5, 4, 2.0).double())
    x, style = randn(1, resolution, resolution, 8), randn(1, 5, seed=3)
    with torch.no_grad():
        qkv = (block.norm1(x, style) @ block.qkv.weight.T + block.qkv.bias).view(resolution, resolution, 3, 4, 2)
        halves = [plain_attention(part, bias.table, 4, 2**-0.5, s) for part, bias, s in zip(qkv.split(2, 3), block.biases, (0, shift), strict=True)]
        y = x + torch.cat(halves, -1)[None] @ block.project.weight.T + block.project.bias
        y = y + plain_mlp(block.mlp, block.norm2(y, style))
        torch.testing.assert_close(block(x, style), y, rtol=1e-9, atol=1e-9)


def test_upsampling_step():
    step = enliven(Upsample(4, 8, 12).double())
    x = randn(2, 4, 4, 8)
    with torch.no_grad():
        fine = torch.nn.functional.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
        expected = plain_norm(step.norm, fine) @ step.reduce.weight.T + step.alpha * position_code(axis_code(8, 6)).double()
        torch.testing.assert_close(step(x), expected)
    assert Upsample(4, 8, 12).alpha.item() == 0


# --- generator ----------------------------------------------------------------------------------------------------------------------------


def test_generator_adds_what_each_layer_sees():
    net = generator().double()
    z = randn(2, 12)
    with torch.no_grad():
        style = net.mapping(z)
        x = net.decoder.start.permute(0, 2, 3, 1).expand(2, -1, -1, -1)
        image = 0
        for i, (layer, head) in enumerate(zip(net.decoder.layers, net.heads, strict=True)):
            x = layer.blocks[1](layer.blocks[0](x, style), style)
            x = x if layer.upsample is None else layer.upsample(x)
            if 0 < i < 3:
                image = fir_upsample(image)
            image = image + head.conv(x.permute(0, 3, 1, 2)) + head.bias
        torch.testing.assert_close(net(z), image)
    assert image.shape == (2, 3, 32, 32)
    assert [head.conv.in_channels for head in net.heads] == [16, 16, 8, 8]


def test_each_layer_follows_its_own_two_styles():
    net = generator()
    styles = randn(1, 8, 12, dtype=torch.float32)
    with torch.no_grad():
        same = net.synthesise(styles)
        for i in range(8):
            other = styles.clone()
            other[:, i] += 1
            assert (net.synthesise(other) - same).abs().max() > 1e-3
        one = styles[:, 0]
        torch.testing.assert_close(net.synthesise(one), net.synthesise(one[:, None].expand(-1, 8, -1)))


def test_generator_batch_and_determinism():
    net = generator()
    z = randn(2, 12, dtype=torch.float32)
    with torch.no_grad():
        both = net(z)
        assert torch.equal(both, net(z))
        torch.testing.assert_close(both, torch.cat([net(z[:1]), net(z[1:])]), rtol=1e-4, atol=1e-5)
    assert (both[0] - both[1]).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_generator_in_other_precisions(dtype):
    net = generator()
    z = randn(2, 12, dtype=torch.float32)
    with torch.no_grad():
        expected, ours = net(z), net.to(dtype)(z.to(dtype))
    assert ours.dtype == dtype
    assert (ours.float() - expected).abs().max() < {torch.float64: 1e-4}.get(dtype, 0.15) * expected.abs().max()


def test_generator_learns_everywhere():
    net = StyleSwinGenerator(**TINY, mapping_layers=2)
    net(randn(2, 12, dtype=torch.float32)).square().mean().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


def test_start_of_a_fresh_generator():
    torch.manual_seed(0)
    net = StyleSwinGenerator(size=32, channels=(128, 128, 128, 64), style_dim=64, heads=(4, 4, 4, 4))
    block = net.decoder.layers[0].blocks[0]
    assert block.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not block.qkv.bias.any()
    assert block.norm1.style.weight.std().item() == pytest.approx(1, rel=0.05)
    assert block.biases[0].table.std().item() == pytest.approx(0.02, rel=0.2)
    assert net.mapping[1].weight.std().item() == pytest.approx(100, rel=0.05)
    assert net.heads[0].conv.weight.std().item() == pytest.approx(0.02 * math.sqrt(2 / 131), rel=0.2)
    assert not net.heads[0].conv.bias.any()
    assert net.decoder.start.std().item() == pytest.approx(1, rel=0.1)


def test_decoder_hook_sees_every_resolution():
    net = generator()
    seen = []
    with torch.no_grad():
        net.decoder(randn(1, 8, 12, dtype=torch.float32), lambda r, x: (seen.append((r, tuple(x.shape))), x)[1])
    assert seen == [(4, (1, 4, 4, 16)), (8, (1, 8, 8, 16)), (16, (1, 16, 16, 16)), (32, (1, 32, 32, 8))]
    assert isinstance(net.decoder, StyleSwinDecoder)


# --- options ------------------------------------------------------------------------------------------------------------------------------


def test_widths():
    assert channel_widths(256) == {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64}
    assert channel_widths(64, multiplier=2, divisor=4) == {4: 128, 8: 128, 16: 128, 32: 128, 64: 128}
    assert channel_widths(32, channels=[8, 12, 16, 20]) == channel_widths(32, channels={"32": 20, "4": 8, "8": 12, "16": 16, "64": 4})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 48}, "power of two, at least 32, not 48"),
        ({"size": 16}, "power of two"),
        ({"channels": (16, 16, 16)}, "takes 4 channel widths"),
        ({"channels": {4: 16, 8: 16, 32: 16}}, "missing for resolution 16"),
        ({"channels": (16, 16, 16, 6)}, "resolution 32 has 6"),
        ({"heads": (4, 4, 4)}, "4 layers"),
        ({"heads": (4, 4, 3, 4)}, "3 heads do not fit the 16 channels at resolution 16"),
        ({"heads": (4, 4, 4, 16)}, "16 heads do not fit the 8 channels"),
        ({"window": 6}, "window must be a power of two"),
    ],
)
def test_wrong_options_get_a_sentence(options, message):
    with pytest.raises(InputError, match=message):
        StyleSwinGenerator(**{**TINY, **options})


# --- discriminator ------------------------------------------------------------------------------------------------------------------------


def test_haar_by_hand():
    x = randn(2, 3, 4, 6)
    out = haar(x)
    for band, signs in enumerate([(1, 1, 1, 1), (1, 1, -1, -1), (1, -1, 1, -1), (1, -1, -1, 1)]):
        for c, i, j in itertools.product(range(3), range(2), range(3)):
            block = x[1, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten()
            assert out[1, 3 * band + c, i, j].item() == pytest.approx(0.5 * sum(s * v for s, v in zip(signs, block.tolist(), strict=True)))
    torch.testing.assert_close(out.square().sum(), x.square().sum())


@pytest.mark.parametrize(("batch", "group"), [(4, 4), (8, 4), (6, 3), (5, 1), (3, 3)])
def test_batch_spread(batch, group):
    x = randn(batch, 2, 3, 3)
    out = batch_spread(x)
    assert torch.equal(out[:, :2], x)
    for item in range(batch):
        members = x[item % (batch // group) :: batch // group].numpy()
        expected = np.sqrt(members.var(0) + 1e-8).mean()
        np.testing.assert_allclose(out[item, 2].numpy(), np.full((3, 3), expected))


def discriminator(**options):
    torch.manual_seed(0)
    return WaveletDiscriminator(32, channels=(12, 12, 8, 8), **options)


@pytest.mark.parametrize("spectral_norm", [True, False])
def test_discriminator_step_by_step(spectral_norm):
    net = discriminator(spectral_norm=spectral_norm).double().eval()
    image = randn(2, 3, 32, 32)
    with torch.no_grad():
        x, small = net.from_rgb[0](haar(image)), image
        for block, head in zip(net.blocks, list(net.from_rgb)[1:], strict=True):
            small = fir_filter(small, 1, 2)
            x = block(x) + head(haar(small))
        assert x.shape == (2, 12, 4, 4)
        expected = net.score(net.final(batch_spread(x)).flatten(1))
        torch.testing.assert_close(net(image), expected)
    assert expected.shape == (2, 1)


def test_gradient_penalty_can_be_trained():
    """R1 needs second derivatives through every layer."""
    net = discriminator()
    image = randn(2, 3, 32, 32, dtype=torch.float32).requires_grad_()
    (slope,) = torch.autograd.grad(net(image).sum(), image, create_graph=True)
    (net(image).sum() + slope.square().sum()).backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all() or not p.grad.any()]


def test_spectral_norm_is_one():
    net = discriminator()
    for _ in range(30):
        net(randn(2, 3, 32, 32, dtype=torch.float32))
    weight = net.eval().blocks[0][0][0].weight.detach()
    assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, rel=0.02)


# --- centroids ----------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.integers(1, 6), st.integers(0, 50))
def test_k_means_finds_planted_clusters(clusters, seed):
    random = torch.Generator().manual_seed(seed)
    corners = torch.tensor(list(itertools.product((-10.0, 10.0), repeat=3)))[:clusters]
    points = (corners[:, None] + torch.randn(clusters, 40, 3, generator=random)).flatten(0, 1)
    centres = k_means(points[torch.randperm(len(points), generator=random)], clusters, random)
    nearest = torch.cdist(corners, centres)
    assert sorted(nearest.argmin(1).tolist()) == list(range(clusters))
    torch.testing.assert_close(centres[nearest.argmin(1)], points.view(clusters, 40, 3).mean(1), rtol=1e-4, atol=1e-4)


def test_k_means_revives_empty_clusters():
    points = torch.cat([torch.zeros(50, 2), torch.tensor([[5.0, 0.0], [0.0, 7.0]])])
    centres = k_means(points, 3, torch.Generator().manual_seed(0), restarts=1)
    assert sorted(map(tuple, centres.round().tolist())) == [(0.0, 0.0), (0.0, 7.0), (5.0, 0.0)]


class Planted(torch.nn.Module):
    """A generator whose mapping makes three kinds of style, in dimensions of very different size, one of them constant."""

    style_dim = 4
    scale = torch.tensor([1e-3, 1.0, 1e3, 0.0])
    offset = torch.tensor([5.0, -2.0, 0.0, 3.0])

    def __init__(self):
        super().__init__()
        self.mapping = torch.nn.Linear(4, 4)
        self.mapping.forward = self.styles

    def kind(self, z):
        return (z[:, 0] > 0).long() + (z[:, 0] > 1).long()

    def styles(self, z):
        corners = torch.tensor([[-1.0, -1, 1, 0], [1, 1, 1, 0], [1, -1, -1, 0]])
        return (corners[self.kind(z)] + 0.01 * z) * self.scale + self.offset


def test_centroids_of_styles_are_in_their_own_units():
    """Without standardising, the third dimension would hide the others and two kinds would merge."""
    net = Planted()
    found = style_centroids(net, samples=5000, clusters=3, seed=2)
    z = torch.randn(5000, 4, generator=torch.Generator().manual_seed(2))
    styles, kinds = net.styles(z), net.kind(z)
    expected = torch.stack([styles[kinds == k].mean(0) for k in (0, 1, 2)])
    torch.testing.assert_close(found / expected, torch.ones(3, 4), rtol=0, atol=1e-3)


def test_centroids_repeat_and_follow_the_seed():
    net = generator()
    first = style_centroids(net, samples=500, clusters=3)
    assert first.shape == (3, 12)
    assert torch.equal(first, style_centroids(net, samples=500, clusters=3, seed=0))
    assert not torch.equal(first, style_centroids(net, samples=500, clusters=3, seed=1))


@pytest.mark.parametrize(("samples", "clusters"), [(3, 5), (5, 0)])
def test_too_few_samples_get_a_sentence(samples, clusters):
    with pytest.raises(InputError, match="clusters need at least as many samples"):
        style_centroids(generator(), samples=samples, clusters=clusters)
