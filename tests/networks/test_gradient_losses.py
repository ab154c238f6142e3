from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.maps import cohft_gradient
from napari_mrsr.networks.blocks.gradient import gradient_magnitude
from napari_mrsr.networks.losses.gradient import LOSS_ABLATIONS, CohfTLoss, MseSsimLoss


def pictures(*size, batch=1, seed=0, noise=0.1, dtype=torch.float64):
    """A structured image in 0..1 and a disturbed copy."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    clean = np.stack([0.5 + 0.3 * np.sin(0.7 * x + k) * np.cos(0.4 * y) + 0.1 * (x > y + k) for k in range(batch)])[:, None]
    disturbed = clean + noise * rng.standard_normal(clean.shape)
    return torch.from_numpy(disturbed).to(dtype), torch.from_numpy(clean).to(dtype)


# --- gradient operator (NETWORKS 4.1) -----------------------------------------------------------------------------------------------------


def naive_gradient(image):
    h, w = image.shape
    out = np.zeros((h, w))

    def at(i, j):
        return image[i, j] if 0 <= i < h and 0 <= j < w else 0.0

    for i in range(h):
        for j in range(w):
            out[i, j] = math.sqrt((at(i, j + 1) - at(i, j - 1)) ** 2 + (at(i + 1, j) - at(i - 1, j)) ** 2 + 1e-6)
    return out


@pytest.mark.parametrize("size", [(5, 7), (1, 4), (3, 1), (1, 1)])
def test_gradient_by_hand(size):
    image = torch.randn(2, 1, *size, dtype=torch.float64)
    ours = gradient_magnitude(image)
    assert ours.shape == image.shape
    for item in range(2):
        np.testing.assert_allclose(ours[item, 0].numpy(), naive_gradient(image[item, 0].numpy()), rtol=1e-12)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gradient_is_the_one_of_the_maps(axis):
    """Every slice of a volume gets what the error and gradient maps show."""
    data = np.random.default_rng(0).random((6, 7, 8)).astype(np.float32)
    slices = torch.from_numpy(np.moveaxis(data, axis, 0).copy())[:, None]
    ours = np.moveaxis(gradient_magnitude(slices)[:, 0].numpy(), 0, axis)
    np.testing.assert_allclose(ours, cohft_gradient(data, axis), rtol=1e-6)


def test_gradient_of_flat_and_steep():
    flat = gradient_magnitude(torch.full((1, 1, 5, 5), 0.7))
    torch.testing.assert_close(flat[0, 0, 1:-1, 1:-1], torch.full((3, 3), 1e-3))
    ramp = torch.arange(6.0).expand(1, 1, 6, 6)
    torch.testing.assert_close(gradient_magnitude(ramp)[0, 0, 1:-1, 1:-1], torch.full((4, 4), 2.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradient_in_half_precision(dtype):
    """Small differences must not vanish when they are squared."""
    image = (1e-3 * torch.rand(1, 1, 8, 8)).to(dtype)
    ours = gradient_magnitude(image)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), gradient_magnitude(image.float()), rtol=1e-2, atol=0)


def test_gradient_is_differentiable_where_the_image_is_flat():
    image = torch.zeros(1, 1, 4, 4, requires_grad=True)
    gradient_magnitude(image).sum().backward()
    assert torch.isfinite(image.grad).all()


# --- MSE and SSIM -------------------------------------------------------------------------------------------------------------------------


def skimage_ssim(output, target, data_range):
    pairs = zip(output[:, 0].numpy(), target[:, 0].numpy(), strict=True)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": data_range}
    return float(np.mean([structural_similarity(a, b, **options) for a, b in pairs]))


@given(st.integers(11, 24), st.integers(11, 24), st.integers(1, 3), st.sampled_from([1.0, 2.5]), st.sampled_from([0.0, 0.3, 0.95, 1.0]))
def test_equation_1(height, width, batch, data_range, alpha):
    output, target = pictures(height, width, batch=batch, seed=height)
    expected = alpha * float(((output - target) ** 2).mean()) - (1 - alpha) * skimage_ssim(output, target, data_range)
    assert MseSsimLoss(alpha, data_range=data_range)(output, target).item() == pytest.approx(expected, rel=1e-9)


def test_defaults_are_the_papers():
    output, target = pictures(20, 17)
    expected = 0.95 * float(((output - target) ** 2).mean()) - 0.05 * skimage_ssim(output, target, 1.0)
    assert MseSsimLoss()(output, target).item() == pytest.approx(expected, rel=1e-9)
    assert CohfTLoss().weight == 0.5


def test_best_value_is_reached_by_the_truth_only():
    output, target = pictures(16, 16)
    loss = MseSsimLoss(0.9)
    assert loss(target, target).item() == pytest.approx(-0.1)
    assert loss(output, target) > loss(0.5 * (output + target), target) > loss(target, target)


def test_ssim_of_another_window():
    """One pixel wide, the window has no variance: only the comparison of means is left."""
    output, target = pictures(6, 7)
    c1 = 0.01**2
    expected = ((2 * output * target + c1) / (output**2 + target**2 + c1)).mean()
    assert MseSsimLoss(0.0, window=1)(output, target).item() == pytest.approx(-expected.item(), rel=1e-9)


def test_equation_2_and_their_sum():
    (image, target), (gradient, truth) = pictures(18, 15, seed=1), pictures(18, 15, seed=2, noise=0.2)
    pair = MseSsimLoss()
    expected = pair(image, target) + 0.5 * pair(gradient, truth)
    torch.testing.assert_close(CohfTLoss()(image, gradient, target, truth), expected)
    torch.testing.assert_close(CohfTLoss(weight=2.0)(image, gradient, target, truth), pair(image, target) + 2 * pair(gradient, truth))
    terms = CohfTLoss()(image, gradient, target, truth), CohfTLoss().terms(image, gradient, target, truth)
    assert list(terms[1]) == ["image", "gradient"]
    torch.testing.assert_close(sum(terms[1].values()), terms[0])


def test_target_gradient_follows_from_the_target():
    (image, target), (gradient, _) = pictures(14, 15), pictures(14, 15, seed=3)
    loss = CohfTLoss()
    assert torch.equal(loss(image, gradient, target), loss(image, gradient, target, gradient_magnitude(target)))
    torch.testing.assert_close(loss(target, gradient_magnitude(target), target), torch.tensor(1.5 * -0.05, dtype=torch.float64))


def test_ablations_of_table_4():
    (image, target), (gradient, truth) = pictures(18, 15, seed=1), pictures(18, 15, seed=2)
    given = (image, gradient, target, truth)
    without_gradient, without_ssim = CohfTLoss(**LOSS_ABLATIONS["w/o Lc"]), CohfTLoss(**LOSS_ABLATIONS["w/o SSIM Loss"])
    torch.testing.assert_close(without_gradient(*given), MseSsimLoss()(image, target))
    expected = 0.95 * (torch.mean((image - target) ** 2) + 0.5 * torch.mean((gradient - truth) ** 2))
    torch.testing.assert_close(without_ssim(*given), expected)
    values = [loss(*given).item() for loss in (CohfTLoss(), without_gradient, without_ssim)]
    assert len({round(v, 6) for v in values}) == 3


def test_another_pixel_loss_takes_both_places():
    (image, target), (gradient, truth) = pictures(16, 17, seed=1), pictures(16, 17, seed=2, noise=0.2)
    found = CohfTLoss(pixel=torch.nn.L1Loss()).terms(image, gradient, target, truth)
    torch.testing.assert_close(found["image"], (image - target).abs().mean())
    torch.testing.assert_close(found["gradient"], 0.5 * (gradient - truth).abs().mean())


def test_loss_can_be_followed_downhill():
    output, target = pictures(12, 13)
    (image, gradient) = (output.clone().requires_grad_(), output.abs().clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: CohfTLoss(alpha=0.5)(a, b, target), (image, gradient))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    output, target = pictures(16, 17, dtype=dtype)
    loss = MseSsimLoss()
    torch.testing.assert_close(loss(output, target), loss(output.float(), target.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(output.float(), target.float()), loss(output, target))


def test_what_cannot_be_computed_gets_a_sentence():
    with pytest.raises(InputError, match="at least 11 x 11 pixels, not 10 x 30"):
        MseSsimLoss()(torch.zeros(1, 1, 10, 30), torch.zeros(1, 1, 10, 30))
    with pytest.raises(InputError, match="odd number of pixels, not 8"):
        MseSsimLoss(window=8)
    MseSsimLoss(ssim=False)(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))
