from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks.blocks.discriminator import Discriminator
from napari_mrsr.networks.losses.adversarial import BinaryCrossEntropyLoss, NonSaturatingLoss, r1_penalty


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


LOGITS = st.lists(st.floats(-12, 12), min_size=1, max_size=5)


@settings(max_examples=20)
@given(LOGITS, LOGITS, LOGITS)
def test_non_saturating_loss_is_minus_log_d(real, fake, other):
    loss = NonSaturatingLoss()
    tensors = [torch.tensor(v, dtype=torch.float64)[:, None] for v in (real, fake, other)]
    assert loss(tensors[1]).item() == pytest.approx(-sum(math.log(sigmoid(v)) for v in fake) / len(fake), rel=1e-9)
    parts = [-sum(math.log(sigmoid(v)) for v in real) / len(real)]
    parts += [-sum(math.log(sigmoid(-v)) for v in values) / len(values) for values in (fake, other)]
    assert loss.discriminator(*tensors).item() == pytest.approx(sum(parts), rel=1e-9)
    assert loss.discriminator(*tensors, weights=(0.5, 0.25)).item() == pytest.approx(parts[0] + 0.5 * parts[1] + 0.25 * parts[2], rel=1e-9)
    twin = BinaryCrossEntropyLoss()
    torch.testing.assert_close(twin(tensors[1]), loss(tensors[1]))
    torch.testing.assert_close(twin.discriminator(*tensors, weights=(0.5, 0.25)), loss.discriminator(*tensors, weights=(0.5, 0.25)))


def test_labels_and_the_saturating_form():
    real, fake = rand(6, 1, dtype=torch.float64), rand(6, 1, seed=1, dtype=torch.float64)
    d_real, d_fake = torch.sigmoid(real), torch.sigmoid(fake)
    loss = BinaryCrossEntropyLoss(real_label=0.9, fake_label=0.1)
    expected = -(0.9 * d_real.log() + 0.1 * (1 - d_real).log()).mean() - (0.1 * d_fake.log() + 0.9 * (1 - d_fake).log()).mean()
    torch.testing.assert_close(loss.discriminator(real, fake), expected)
    torch.testing.assert_close(BinaryCrossEntropyLoss(saturating=True)(fake), (1 - d_fake).log().mean())
    assert BinaryCrossEntropyLoss(saturating=True)(fake + 1) < BinaryCrossEntropyLoss(saturating=True)(fake)


@pytest.mark.parametrize("loss", [NonSaturatingLoss(), BinaryCrossEntropyLoss()])
def test_sure_discriminators_give_finite_losses_and_useful_gradients(loss):
    fake = torch.tensor([[-300.0]], requires_grad=True)
    value = loss(fake)
    value.backward()
    assert value.item() == pytest.approx(300)
    assert fake.grad.item() == pytest.approx(-1)
    low = loss(torch.tensor([[-20.0]], dtype=torch.float16))
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(20, rel=1e-6)


def test_r1_penalty_of_a_quadratic():
    """D(x) = x' A x / 2 + b x has gradient A x + b."""
    matrix, offset = rand(12, 12, dtype=torch.float64), rand(12, seed=1, dtype=torch.float64)
    matrix = matrix + matrix.T
    images = rand(5, 1, 3, 4, seed=2, dtype=torch.float64).requires_grad_()
    flat = images.flatten(1)
    logits = (0.5 * (flat @ matrix * flat).sum(1) + flat @ offset)[:, None]
    expected = 3.0 / 2 * (flat @ matrix + offset).square().sum(1).mean()
    torch.testing.assert_close(r1_penalty(logits, images, 3.0), expected)


def test_r1_penalty_trains_the_discriminator():
    torch.manual_seed(0)
    net = Discriminator(widths=(4, 4, 6, 6), hidden=8).double()
    images = rand(3, 1, 16, 16, dtype=torch.float64).requires_grad_()
    penalty = r1_penalty(net(images), images)
    penalty.backward()
    weight = net.features[0].weight
    step = 1e-6 * rand(*weight.shape, seed=3, dtype=torch.float64)
    change = (weight.grad * step).sum().item()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step)
        values.append(r1_penalty(net(images), images).item())
        with torch.no_grad():
            weight.sub_(sign * step)
    assert penalty > 0
    assert (values[0] - values[1]) / 2 == pytest.approx(change, rel=1e-4)


def test_misuse_is_told():
    images = torch.zeros(2, 1, 4, 4)
    with pytest.raises(InputError, match=r"requires_grad_\(\) on the real images"):
        r1_penalty(nn.Flatten()(images).sum(1), images)
    with pytest.raises(InputError, match="one weight each"):
        NonSaturatingLoss().discriminator(torch.zeros(1, 1), torch.zeros(1, 1), weights=(1.0, 1.0))
    with pytest.raises(InputError, match="one weight each"):
        BinaryCrossEntropyLoss().discriminator(torch.zeros(1, 1))
    with pytest.raises(InputError, match=r"from 0 to 1, not 1\.5"):
        BinaryCrossEntropyLoss(real_label=1.5)


# --- discriminator ------------------------------------------------------------------------------------------------------------------------


def test_discriminator_layout():
    with torch.device("meta"):
        net = Discriminator()
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert [c.stride[0] for c in convolutions] == [1, 2, 1, 2, 1, 2, 1, 2]
    assert {c.kernel_size for c in convolutions} == {(3, 3)}
    assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == 7
    assert not isinstance(net.features[1], nn.BatchNorm2d)
    assert {m.negative_slope for m in net.modules() if isinstance(m, nn.LeakyReLU)} == {0.2}
    before = (1, 64, 64, 128, 128, 256, 256, 512)
    count = 64 + sum(9 * a * c.out_channels for a, c in zip(before, convolutions, strict=True)) + 2 * (64 + 2 * (128 + 256 + 512))
    assert sum(p.numel() for p in net.parameters()) == count + 512 * 1024 + 1024 + 1024 + 1
    with torch.device("meta"):
        fixed = Discriminator(pool="flatten", size=256)
    assert fixed.dense[0].in_features == 512 * 16 * 16


def small_discriminator(**options):
    torch.manual_seed(0)
    return Discriminator(**{"widths": (4, 4, 6, 6, 8, 8, 9, 9), "hidden": 8, **options})


@settings(max_examples=10)
@given(st.integers(4, 40), st.integers(4, 40))
def test_discriminator_takes_any_size(height, width):
    net = small_discriminator().eval()
    image = rand(2, 1, height, width)
    with torch.no_grad():
        logits = net(image)
        assert logits.shape == (2, 1)
        torch.testing.assert_close(logits, torch.cat([net(image[:1]), net(image[1:])]), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(net.probability(image), 1 / (1 + (-logits).exp()))


def test_flattening_discriminator_takes_its_size_only():
    net = small_discriminator(pool="flatten", size=40).eval()
    assert net(rand(2, 1, 40, 40)).shape == (2, 1)
    with pytest.raises(InputError, match="images of 40x40, not 40x24"):
        net(rand(2, 1, 40, 24))
    with pytest.raises(InputError, match="needs the size"):
        Discriminator(pool="flatten")
    with pytest.raises(InputError, match="'average' or 'flatten', not 'max'"):
        Discriminator(pool="max")


@pytest.mark.parametrize("batch_norm", [True, False])
def test_discriminator_gradients_reach_every_parameter(batch_norm):
    net = small_discriminator(batch_norm=batch_norm).train()
    NonSaturatingLoss().discriminator(net(rand(3, 1, 32, 32)), net(rand(3, 1, 32, 32, seed=1) - 1)).backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert not silent


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_discriminator_in_other_precisions(dtype):
    net = small_discriminator().eval()
    image = rand(2, 1, 24, 20)
    with torch.no_grad():
        expected = net(image)
        ours = net.to(dtype)(image.to(dtype))
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), expected, rtol=0.02, atol=0.01)
