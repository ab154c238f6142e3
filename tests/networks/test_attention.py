"""Parts that several networks share: attention, linear layers over tokens, statistics of maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_mrsr.networks.blocks import attention
from napari_mrsr.networks.blocks.attention import attend
from napari_mrsr.networks.blocks.moments import centred
from napari_mrsr.networks.blocks.pointwise import Pointwise


def literal(q, k, v, bias, scale):
    scores = scale * torch.einsum("bhnd,bhmd->bhnm", q.double(), k.double()) + (0 if bias is None else bias.double())
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return torch.einsum("bhnm,bhmd->bhnd", weights, v.double())


def inputs(keys=6, dtype=torch.float32):
    torch.manual_seed(0)
    q, k, v = torch.randn(7, 3, 5, 4), torch.randn(7, 3, keys, 4), torch.randn(7, 3, keys, 4)
    return [t.to(dtype) for t in (q, k, v, torch.randn(3, 5, keys))]


@pytest.mark.parametrize("scores", [1, 40, 200, 1 << 20])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 0.03)])
def test_attention_by_hand(monkeypatch, scores, grad, with_bias, dtype, tolerance):
    monkeypatch.setattr(attention, "SCORES", scores)
    q, k, v, bias = inputs(dtype=dtype)
    bias = bias if with_bias else None
    with torch.set_grad_enabled(grad):
        ours = attend(q, k, v, bias, 0.7)
        narrow = attend(q, k, v[..., :3], bias, 0.7)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), literal(q, k, v, bias, 0.7), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(narrow, ours[..., :3], rtol=tolerance, atol=tolerance)


def test_attention_of_views(monkeypatch):
    """Heads cut from tokens are views with strides of their own."""
    tokens = torch.randn(4, 9, 3 * 8, generator=torch.Generator().manual_seed(1))
    q, k, v = (part.view(4, 9, 2, 4).transpose(1, 2) for part in tokens.chunk(3, -1))
    with torch.no_grad():
        torch.testing.assert_close(attend(q, k, v).double(), literal(q, k, v, None, 1.0), rtol=1e-5, atol=1e-6)


def test_many_keys_and_training_take_the_fused_kernel(monkeypatch):
    called = []
    fused = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: called.append(k["dropout_p"]) or fused(*a, **k))
    q, k, v, bias = inputs()
    with torch.no_grad():
        attend(q, k, v, bias)
        assert called == []
        attend(q, k, v, bias, dropout=0.5)
        many = inputs(attention.FEW_KEYS + 1)
        attend(*many[:3])
    attend(q, k, v, bias)
    assert called == [0.5, 0.0, 0.0]


@pytest.mark.parametrize("shape", [(2, 5, 7, 6), (3, 11, 6), (4, 6)])
@pytest.mark.parametrize("bias", [False, True])
def test_pointwise_is_linear(shape, bias):
    torch.manual_seed(0)
    layer, x = Pointwise(6, 4, bias=bias), torch.randn(shape)
    expected = nn.functional.linear(x, layer.weight, layer.bias)
    assert expected.requires_grad
    torch.testing.assert_close(layer(x), expected)
    with torch.no_grad():
        ours = layer(x)
        torch.testing.assert_close(ours, expected.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(layer(x.expand(2, *shape).transpose(0, 1)), ours.expand(2, *ours.shape).transpose(0, 1))
    assert ours.is_contiguous()


def test_pointwise_of_nothing():
    with torch.no_grad():
        assert Pointwise(6, 4)(torch.zeros(2, 0, 6)).shape == (2, 0, 4)


def test_moments_are_those_of_torch_and_wide():
    x = 1000 + torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    deviation, mean, variance = centred(x, (2, 3))
    expected, expected_mean = torch.var_mean(x.double(), (2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(variance.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(deviation, x - mean)
    assert all(part.dtype == torch.float32 for part in centred(x.half(), (2, 3)))
    assert centred(x.double(), (2, 3))[2].dtype == torch.float64
