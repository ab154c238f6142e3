from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mrsr.errors import InputError
from napari_mrsr.networks.disentangling import DisentanglingAutoencoder, DisentanglingEncoder, resized
from napari_mrsr.networks.losses.disentangling import AutoencoderDiscriminatorLoss, AutoencoderLoss, cosine_distance

SMALL = {"size": 32, "widths": (5, 6, 4, 3), "texture_size": 4}
VARIANTS = list(itertools.product(("shallow", "deep"), ("pooled", "spatial"), ("bottom", "modulation")))


def small(seed=0, **options):
    torch.manual_seed(seed)
    return DisentanglingAutoencoder(**{**SMALL, **options})


def image(*size, batch=1, seed=1, dtype=torch.float32):
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(seed)).to(dtype)


# --- layout -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("structure", "texture", "injection"), VARIANTS)
def test_codes_have_the_papers_sizes(structure, texture, injection):
    torch.manual_seed(0)
    net = DisentanglingAutoencoder(widths=(3, 3, 2, 2), structure=structure, texture=texture, injection=injection)
    with torch.no_grad():
        codes = net.encode(image(256, 256))
        assert codes[0].shape == (1, 1, 64, 64)
        assert codes[1].shape == (1, 256)
        assert net.decode(*codes).shape == (1, 1, 256, 256)


def test_parameter_counts():
    """By hand from NETWORKS 2.3, variant i."""
    with torch.device("meta"):
        net = DisentanglingAutoencoder()
    encoder = 640 + 36_928 + 18_464 + 9_248 + 65 + 8_448
    decoder = (256 * 8192 + 8192) + 9_248 + 9_248 + 19_072 + 36_928 + 577
    assert sum(p.numel() for p in net.encoder.parameters()) == encoder
    assert sum(p.numel() for p in net.decoder.parameters()) == decoder


def test_forward_pass_step_by_step():
    net = small().double()
    x = image(32, 32, batch=2, dtype=torch.float64)

    def conv(layer, y):
        return F.conv2d(y, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)

    def up(y):
        return y.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def pooled(y):
        return torch.stack([y[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0)

    e, g = net.encoder, net.decoder
    y = pooled(conv(e.blocks[1], pooled(conv(e.blocks[0], x).clamp_min(0))).clamp_min(0))
    structure = conv(e.to_structure, y)
    y = pooled(conv(e.blocks[3], pooled(conv(e.blocks[2], y).clamp_min(0))).clamp_min(0))
    texture = y.mean((2, 3)) @ e.to_texture.weight.T + e.to_texture.bias
    y = (texture @ g.fill.weight.T + g.fill.bias).reshape(2, 3, 2, 2)
    y = up(conv(g.stages[1].conv, up(conv(g.stages[0].conv, y).clamp_min(0))).clamp_min(0))
    y = up(conv(g.stages[2].conv, torch.cat([y, structure], 1)).clamp_min(0))
    y = conv(g.out, up(conv(g.stages[3].conv, y).clamp_min(0)))
    codes = net.encode(x)
    torch.testing.assert_close(codes[0], structure)
    torch.testing.assert_close(codes[1], texture)
    torch.testing.assert_close(net(x), y)


def test_modulation_scales_and_shifts_every_channel():
    net = small(injection="modulation").double()
    stage = net.decoder.stages[1]
    x, texture = image(5, 4, dtype=torch.float64).expand(1, 3, 5, 4), torch.randn(1, 4, dtype=torch.float64)
    style = (texture @ stage.style.weight.T + stage.style.bias)[0]
    expected = F.relu(stage.conv(x) * (1 + style[:4])[:, None, None] + style[4:][:, None, None])
    torch.testing.assert_close(stage(x, texture), expected)
    assert net.decoder.fill is None


def test_a_deep_structure_code_keeps_places():
    """The code's upper right corner sees the image's upper right corner."""
    net = small(size=64, structure="deep").encoder
    x = image(64, 64).requires_grad_()
    net(x)[0][0, 0, :4, -4:].square().sum().backward()
    seen = x.grad[0, 0] != 0
    assert seen[:16, -16:].any()
    assert not seen[32:].any()
    assert not seen[:, :32].any()


# --- swapping -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("structure", "texture", "injection"), VARIANTS)
def test_swap_takes_structure_of_the_first_and_texture_of_the_second(structure, texture, injection):
    net = small(structure=structure, texture=texture, injection=injection)
    with torch.no_grad():
        for layer in (net.encoder.to_structure, net.encoder.to_texture):
            layer.weight.mul_(20)
        a, b = image(32, 32), 3 * image(32, 32, seed=2)
        assert torch.equal(net.swap(a, a), net(a))
        swapped = net.swap(a, b)
        assert torch.equal(swapped, net.decode(net.encode(a)[0], net.encode(b)[1]))
        assert not torch.allclose(swapped, net(a), atol=1e-6)
        assert not torch.allclose(swapped, net(b), atol=1e-6)
        assert not torch.allclose(swapped, net.swap(b, a), atol=1e-6)


@pytest.mark.parametrize(("structure", "texture", "injection"), VARIANTS)
def test_gradients_reach_every_parameter(structure, texture, injection):
    net = small(structure=structure, texture=texture, injection=injection, widths=(12, 14, 10, 16))
    (net.swap(image(32, 32, batch=2), image(32, 32, batch=2, seed=3)) - image(32, 32, batch=2, seed=5)).square().mean().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert not silent


def test_batch_of_two_is_two_batches_of_one_and_runs_repeat():
    net = small().eval()
    x = image(32, 32, batch=2)
    with torch.no_grad():
        both = net(x)
        assert torch.equal(both, net(x))
        torch.testing.assert_close(both, torch.cat([net(x[:1]), net(x[1:])]), rtol=1e-4, atol=1e-6)


@settings(max_examples=10)
@given(st.integers(4, 45), st.integers(4, 45))
def test_images_of_any_size_are_brought_to_one(height, width):
    net = small()
    x = image(height, width)
    with torch.no_grad():
        structure, texture = net.encode(x)
        assert structure.shape == (1, 1, 8, 8)
        assert texture.shape == (1, 4)
        assert torch.equal(net.encode(resized(x, 32))[0], structure)
        assert net(x).shape == (1, 1, 32, 32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype):
    net = small(injection="modulation")
    x = image(20, 27)
    with torch.no_grad():
        expected = net(x)
        ours = net.to(dtype)(x.to(dtype))
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), expected, rtol=0.05, atol=0.01)


def test_resized_keeps_ramps_and_does_not_alias():
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(36.0), indexing="ij")
    ramp = (2 * rows - columns)[None, None].double()
    for size in ((48, 72), (12, 18), (32, 32)):
        y, x = ((torch.arange(n, dtype=torch.float64) + 0.5) * m / n - 0.5 for n, m in zip(size, (24, 36), strict=True))
        expected = 2 * y[:, None] - x
        inside = (slice(8, -8), slice(8, -8)) if size[0] > 24 else (slice(4, -4), slice(4, -4))
        # A stretched kernel keeps a ramp exactly at whole factors only.
        torch.testing.assert_close(resized(ramp, size)[0, 0][inside], expected[inside], rtol=0, atol=0.02 if size == (32, 32) else 1e-9)
    checkerboard = ((rows + columns) % 2)[None, None]
    assert (resized(checkerboard, 12)[..., 3:-3, 3:-3] - 0.5).abs().max() < 0.02
    assert resized(ramp, (24, 36)) is ramp


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 40}, "multiple of 16, not 40"),
        ({"size": 0}, "multiple of 16, not 0"),
        ({"widths": (4, 4)}, "four blocks, not 2"),
        ({"structure": "middle"}, "'shallow' or 'deep', not 'middle'"),
        ({"texture": "flat"}, "'pooled' or 'spatial', not 'flat'"),
        ({"injection": "top"}, "'bottom' or 'modulation', not 'top'"),
        ({"texture": "spatial", "texture_size": 256}, "32 x 32 pixels has 4 values"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        small(**options)


def test_options_from_json():
    assert DisentanglingEncoder(size=32, widths=[4, 4, 3, 3], texture_size=5)(image(9, 9))[1].shape == (1, 5)


# --- losses -------------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([(3, 7), (2, 1, 4, 5)]), st.floats(1e-3, 1e3))
def test_cosine_distance_is_the_plain_formula(seed, shape, gain):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal(shape), gain * rng.standard_normal(shape)
    expected = np.mean([1 - x.ravel() @ y.ravel() / np.sqrt((x**2).sum() * (y**2).sum()) for x, y in zip(a, b, strict=True)])
    assert cosine_distance(torch.from_numpy(a), torch.from_numpy(b)).item() == pytest.approx(expected, abs=1e-12)
    assert cosine_distance(torch.from_numpy(a).float(), torch.from_numpy(b).float()).item() == pytest.approx(expected, abs=1e-5)


def test_cosine_distance_at_its_ends():
    a = image(4, 4, batch=2)
    assert cosine_distance(a, 3 * a).item() == pytest.approx(0, abs=1e-6)
    assert cosine_distance(a, -a).item() == pytest.approx(2, abs=1e-6)
    zero = torch.zeros_like(a).requires_grad_()
    distance = cosine_distance(a, zero)
    assert distance.item() == pytest.approx(1)
    distance.backward()
    assert torch.isfinite(zero.grad).all()
    huge = torch.full((1, 300), 400.0, dtype=torch.float16)
    assert cosine_distance(huge, huge).item() == pytest.approx(0, abs=1e-5)


def minus_log_d(logits):
    return -np.log(1 / (1 + np.exp(-logits))).mean()


def test_autoencoder_loss_is_equation_6():
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 1, 8, 8)), rng.random((2, 1, 8, 8))
    logits, swapped = rng.standard_normal((2, 1)), 2 * rng.standard_normal((2, 1))
    given_ = [torch.from_numpy(v) for v in (x, y, logits, swapped)]
    parts = np.abs(x - y).mean(), minus_log_d(logits), minus_log_d(swapped)
    assert AutoencoderLoss()(*given_).item() == pytest.approx(parts[0] + 0.7 * parts[1] + 0.7 * parts[2], rel=1e-12)
    assert AutoencoderLoss(0.2, 0.3)(*given_).item() == pytest.approx(parts[0] + 0.2 * parts[1] + 0.3 * parts[2], rel=1e-12)
    assert list(AutoencoderLoss().terms(*given_)) == ["reconstruction", "adversarial", "swap"]


def test_autoencoder_loss_compares_at_the_codes_size():
    x = image(20, 28)
    y = resized(x, 32) + 0.25
    zeros = torch.zeros(1, 1)
    terms = AutoencoderLoss().terms(x, y, zeros, zeros)
    assert terms["reconstruction"].item() == pytest.approx(0.25, rel=1e-5)
    assert terms["swap"].item() == pytest.approx(np.log(2), rel=1e-6)


def test_discriminator_loss_of_the_autoencoder():
    rng = np.random.default_rng(1)
    real, fake, swapped = rng.standard_normal((3, 4, 1))
    tensors = [torch.from_numpy(v) for v in (real, fake, swapped)]
    expected = minus_log_d(real) + 0.5 * minus_log_d(-fake) + 0.5 * minus_log_d(-swapped)
    assert AutoencoderDiscriminatorLoss()(*tensors).item() == pytest.approx(expected, rel=1e-12)
    assert AutoencoderDiscriminatorLoss(1.0, 0.25)(*tensors).item() == pytest.approx(
        minus_log_d(real) + minus_log_d(-fake) + 0.25 * minus_log_d(-swapped), rel=1e-12
    )


def test_lazy_r1_is_added_when_the_images_are_given():
    images = image(3, 3, batch=2, dtype=torch.float64).requires_grad_()
    logits = 3 * images.flatten(1).sum(1, keepdim=True)
    zeros = torch.zeros(2, 1, dtype=torch.float64)
    loss = AutoencoderDiscriminatorLoss(r1=10.0, r1_every=16)
    plain = loss(logits, zeros, zeros)
    assert (loss(logits, zeros, zeros, images) - plain).item() == pytest.approx(16 * 10 / 2 * 9 * 9)
    assert torch.equal(AutoencoderDiscriminatorLoss()(logits, zeros, zeros, images), plain)
