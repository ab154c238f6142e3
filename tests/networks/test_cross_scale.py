from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from napari_mrsr.networks.blocks.channel_attention import RCAB, ChannelAttention
from napari_mrsr.networks.blocks.cross_scale import cross_scale_attention
from napari_mrsr.networks.blocks.patches import extract_patches, fold_patches
from napari_mrsr.networks.blocks.resample import cubic_downsample, cubic_upsample, voxel_shuffle


def literal_attention(q, k, v, stride):
    """Equations 6 to 8 with every score held at once, then the fold one query at a time."""
    b, nx, ny, nz, _ = q.shape
    channels, patch = v.shape[2:4]
    folded = []
    for sample in range(b):
        scores = torch.einsum("xyzd,kd->xyzk", q[sample], k[sample])
        exponentials = (scores - scores.amax(-1, keepdim=True)).exp()
        weights = exponentials / exponentials.sum(-1, keepdim=True)
        out = q.new_zeros(channels, *((n - 1) * stride + patch for n in (nx, ny, nz)))
        for i, j, l in itertools.product(range(nx), range(ny), range(nz)):  # noqa: E741
            piece = torch.einsum("k,kcxyz->cxyz", weights[i, j, l], v[sample])
            at = tuple(slice(n * stride, n * stride + patch) for n in (i, j, l))
            padded = torch.zeros_like(out)
            padded[(slice(None), *at)] = piece
            out = out + padded
        folded.append(out)
    return torch.stack(folded)


def random_inputs(grid=(3, 4, 2), keys=11, depth=7, channels=3, patch=4, batch=2, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    q = torch.randn(batch, *grid, depth, dtype=dtype)
    k = torch.randn(batch, keys, depth, dtype=dtype)
    v = torch.randn(batch, keys, channels, patch, patch, patch, dtype=dtype)
    return [t.requires_grad_() for t in (q, k, v)]


@pytest.mark.parametrize("chunk", [1, 100, 1000, 5000, 2**25])
@pytest.mark.parametrize(("grid", "patch", "stride"), [((3, 4, 2), 4, 3), ((1, 1, 1), 6, 4), ((2, 2, 5), 6, 4), ((5, 1, 3), 5, 5), ((2, 3, 2), 9, 2)])
def test_streamed_equals_the_plain_formula(chunk, grid, patch, stride):
    inputs = random_inputs(grid, patch=patch)
    expected = literal_attention(*inputs, stride)
    direction = torch.randn_like(expected)
    expected_grads = torch.autograd.grad((expected * direction).sum(), inputs)
    ours = cross_scale_attention(*inputs, stride, chunk)
    grads = torch.autograd.grad((ours * direction).sum(), inputs)
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)
    for got, wanted in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("grid", "patch", "stride"), [((3, 4, 2), 6, 4), ((2, 3, 3), 9, 6), ((3, 2, 2), 12, 8)])
def test_weighting_and_fold_are_a_transposed_convolution(grid, patch, stride):
    """The paper's remark after equation 8: the values are its kernels, the weights its input."""
    q, k, v = random_inputs(grid, patch=patch)
    with torch.no_grad():
        for sample in range(2):
            weights = torch.softmax(torch.einsum("xyzd,kd->kxyz", q[sample], k[sample]), 0)
            expected = torch.nn.functional.conv_transpose3d(weights[None], v[sample], stride=stride)
            torch.testing.assert_close(cross_scale_attention(q, k, v, stride)[sample : sample + 1], expected)


def test_float32_is_accurate_for_large_scores():
    """648-term products reach hundreds; the maximum is subtracted before the exponential."""
    q, k, v = random_inputs((4, 4, 4), keys=40, depth=648, dtype=torch.float32)
    with torch.no_grad():
        q, k = 3 * q, 3 * k
        scores = q.flatten(1, 3) @ k.transpose(1, 2)
        assert scores.max() > 300
        expected = literal_attention(q.double(), k.double(), v.double(), 3)
        ours = cross_scale_attention(q, k, v, 3, 500)
    assert torch.isfinite(ours).all()
    assert (ours - expected).abs().max() < 2e-4 * expected.abs().max()


def test_gradcheck():
    inputs = random_inputs((2, 1, 2), keys=3, depth=2, channels=1, patch=2, batch=1)
    for chunk in (1, 2**20):
        assert torch.autograd.gradcheck(lambda q, k, v, chunk=chunk: cross_scale_attention(q, k, v, 1, chunk), inputs)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            # Only memory of its own counts: views cost nothing.
            if isinstance(tensor, torch.Tensor) and tensor._base is None:
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("chunk", [2_000, 20_000, 100_000])
def test_score_matrix_is_never_held(chunk):
    grid, keys, channels, patch, stride = (10, 10, 10), 400, 1, 2, 1
    q, k, v = random_inputs(grid, keys, 5, channels, patch, batch=1, dtype=torch.float32)
    everything = math.prod(grid) * keys
    # The smallest unit of work is one row of queries.
    allowed = max(chunk, grid[2] * (2 * keys + channels * patch**3), *(t.numel() for t in (q, k, v)))
    assert allowed < everything / 3
    with Largest() as seen:
        out = cross_scale_attention(q, k, v, stride, chunk)
    assert out.numel() < seen.elements <= allowed
    with Largest() as seen:
        out.sum().backward()
    assert out.numel() < seen.elements <= allowed
    with Largest() as seen:
        cross_scale_attention(q, k, v, stride, 2**25)
    assert seen.elements >= everything


def test_output_patches_count_against_the_budget():
    """With few keys and large value patches it is the weighted patches that fill memory."""
    q, k, v = random_inputs((6, 6, 6), 4, 3, 2, 6, batch=1, dtype=torch.float32)
    chunk = 12 * (4 + 432)
    with Largest() as seen:
        out = cross_scale_attention(q, k, v, 1, chunk)
    assert seen.elements <= max(chunk, out.numel(), v.numel())
    assert max(chunk, out.numel(), v.numel()) < 6**3 * 432 / 4


def test_autocast_keeps_scores_in_float32():
    inputs = random_inputs((3, 3, 3), depth=100, dtype=torch.float32)
    expected = cross_scale_attention(*inputs, 2)
    with torch.autocast("cpu", torch.bfloat16):
        ours = cross_scale_attention(*inputs, 2)
        half = cross_scale_attention(*(t.bfloat16() for t in inputs), 2)
    torch.testing.assert_close(ours, expected)
    assert half.dtype == torch.bfloat16
    assert torch.isfinite(half).all()
    half.float().sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in inputs)


def test_patches_are_cut_and_folded_as_by_hand():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 7, 8, 9, dtype=torch.float64)
    patches = extract_patches(x, 3, 2)
    assert patches.shape == (2, 3, 3, 4, 3, 3, 3, 3)
    assert patches._base is x or patches.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    for i, j, l in itertools.product(range(3), range(3), range(4)):  # noqa: E741
        torch.testing.assert_close(patches[:, i, j, l], x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, 2 * l : 2 * l + 3])


@pytest.mark.parametrize(("patch", "stride"), [(3, 2), (6, 4), (4, 4), (5, 1), (9, 6)])
def test_fold_is_the_adjoint_of_cutting(patch, stride):
    torch.manual_seed(0)
    counts = (2, 3, 1)
    sizes = [(n - 1) * stride + patch for n in counts]
    patches = torch.randn(2, *counts, 2, patch, patch, patch, dtype=torch.float64)
    x = torch.randn(2, 2, *sizes, dtype=torch.float64)
    out = torch.zeros_like(x)
    fold_patches(patches, out, stride)
    assert (out * x).sum().item() == pytest.approx((patches * extract_patches(x, patch, stride)).sum().item(), rel=1e-12)


# --- the other blocks ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [2, 3, 4])
def test_voxel_shuffle_by_an_explicit_loop(r):
    torch.manual_seed(0)
    x = torch.randn(2, 2 * r**3, 2, 3, 4)
    y = voxel_shuffle(x, r)
    assert y.shape == (2, 2, 2 * r, 3 * r, 4 * r)
    for c, i, j, k in itertools.product(range(2), *(range(r),) * 3):
        torch.testing.assert_close(y[:, c, i::r, j::r, k::r], x[:, c * r**3 + i * r**2 + j * r + k])


def test_voxel_shuffle_generalises_pixel_shuffle():
    r = 3
    x = torch.randn(1, 4 * r**3, 2, 5, 6)
    y = voxel_shuffle(x, r)
    for i, slab in itertools.product(range(r), range(2)):
        plane = x.view(1, 4, r, r * r, 2, 5, 6)[:, :, i, :, slab].reshape(1, 4 * r * r, 5, 6)
        torch.testing.assert_close(y[:, :, slab * r + i], torch.nn.functional.pixel_shuffle(plane, r))


@pytest.mark.parametrize("r", [2, 3, 4])
def test_cubic_resampling_keeps_constants_and_ramps(r):
    ones = torch.full((1, 2, 5, 6, 7), 3.0)
    torch.testing.assert_close(cubic_upsample(ones, r), torch.full((1, 2, 5 * r, 6 * r, 7 * r), 3.0))
    torch.testing.assert_close(cubic_downsample(cubic_upsample(ones, r), r), ones)
    ramp = torch.arange(12.0, dtype=torch.float64).view(1, 1, 12, 1, 1).expand(1, 1, 12, 4, 4)
    up = cubic_upsample(ramp, r)[0, 0, :, 0, 0]
    expected = (torch.arange(12 * r) + 0.5) / r - 0.5
    torch.testing.assert_close(up[2 * r : -2 * r], expected[2 * r : -2 * r].double())
    down = cubic_downsample(torch.arange(12.0 * r, dtype=torch.float64).view(1, 1, -1, 1, 1).expand(1, 1, 12 * r, r, r), r)[0, 0, :, 0, 0]
    torch.testing.assert_close(down[1:-1], (torch.arange(12.0).double() * r + (r - 1) / 2)[1:-1])


def test_cubic_downsample_by_two_has_keys_weights():
    x = torch.randn(1, 1, 8, 2, 2, dtype=torch.float64)
    x = x[..., :1, :1].expand(1, 1, 8, 2, 2)
    line = x[0, 0, :, 0, 0]
    down = cubic_downsample(x, 2)[0, 0, :, 0, 0]
    torch.testing.assert_close(down[1], (-line[1] + 9 * line[2] + 9 * line[3] - line[4]) / 16)


@pytest.mark.parametrize("reduction", [2, 8, 16])
def test_channel_attention_is_rcans(reduction):
    torch.manual_seed(0)
    block = ChannelAttention(16, reduction).double()
    x = torch.randn(2, 16, 3, 4, 5, dtype=torch.float64)
    first, second = block.gate[0], block.gate[2]
    assert first.out_channels == 16 // reduction
    mean = x.mean((2, 3, 4))
    hidden = (mean @ first.weight[:, :, 0, 0, 0].T + first.bias).clamp_min(0)
    gate = 1 / (1 + (-(hidden @ second.weight[:, :, 0, 0, 0].T + second.bias)).exp())
    torch.testing.assert_close(block(x), x * gate[:, :, None, None, None])


def test_channel_attention_in_cells():
    torch.manual_seed(0)
    block = ChannelAttention(4, 2)
    small = torch.randn(1, 4, 12, 7, 12)
    large = torch.randn(1, 4, 30, 13, 9)
    whole, local = block(small), block(large)
    block.cell = 4
    torch.testing.assert_close(block(small), whole, rtol=0, atol=0)
    assert block(large).shape == large.shape
    assert (block(large) - local).abs().max() > 1e-4
    changed = large.clone()
    changed[:, :, -4:] += 5
    torch.testing.assert_close(block(changed)[:, :, :16], block(large)[:, :, :16])
    constant = torch.ones(1, 4, 30, 13, 9) * torch.randn(1, 4, 1, 1, 1)
    in_cells = block(constant)
    block.cell = None
    torch.testing.assert_close(in_cells, block(constant))


@pytest.mark.parametrize("shape", [(30, 8, 7), (3, 30, 30), (1, 1, 13)])
def test_channel_attention_in_cells_on_thin_volumes(shape):
    """One axis long, another shorter than three cells: a slab, a region of a few slices."""
    block = ChannelAttention(4, 2)
    block.cell = 4
    assert block(torch.randn(1, 4, *shape)).shape == (1, 4, *shape)


def test_residual_block():
    torch.manual_seed(0)
    block = RCAB(8, 2)
    x = torch.randn(1, 8, 4, 5, 6)
    expected = x + block.attention(block.conv2(block.conv1(x).clamp_min(0)))
    torch.testing.assert_close(block(x), expected)
    torch.nn.init.zeros_(block.conv2.weight)
    torch.nn.init.zeros_(block.conv2.bias)
    torch.testing.assert_close(block(x), x)
