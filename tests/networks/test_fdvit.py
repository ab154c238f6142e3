from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks import create, get_architecture
from napari_mrsr.networks.blocks.discriminator import Discriminator
from napari_mrsr.networks.blocks.recording import Recorder
from napari_mrsr.networks.blocks.resample import cubic_upsample
from napari_mrsr.networks.disentangling import DisentanglingEncoder, resized
from napari_mrsr.networks.fdvit import ABLATIONS, FDViT, local_cosine_distance
from napari_mrsr.networks.losses.disentangling import FDViTLoss
from napari_mrsr.networks.vit_features import ViTFeatures

ENCODER = {"size": 32, "widths": [5, 6, 4, 3], "texture_size": 4}
VIT = {"size": 32, "hidden_size": 12, "layers": 2, "heads": 2, "mlp_dim": 10}
needs_monai = pytest.mark.skipif(find_spec("monai") is None, reason="MONAI is not here")


def small_net(seed=0, **options):
    torch.manual_seed(seed)
    net = FDViT(**{"channels": 8, "blocks": 2, **options}).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.1)
    return net


def both(**options):
    return small_net(with_encoder=True, with_vit=True, encoder_options=ENCODER, vit_options=VIT, **options)


def image(*size, batch=1, seed=1, dtype=torch.float32):
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def count(**options):
    with torch.device("meta"):
        return sum(p.numel() for p in create("fdvit", **options).parameters())


# --- layout (NETWORKS 2.4) ----------------------------------------------------------------------------------------------------------------

BLOCK = 2 * (64 * 64 * 9 + 2 * 64)
STAGE = 64 * 256 * 9 + 256
X2 = 640 + 16 * BLOCK + BLOCK // 2 + STAGE + 577


def test_parameter_counts_by_hand():
    assert count(scale=2) == X2 == 1_369_665
    assert count(scale=4) == X2 + STAGE
    assert count(scale=3) == X2 - STAGE + 64 * 576 * 9 + 576
    assert count(head_kernel=9, tail_kernel=9) == X2 + 2 * 64 * 72
    assert count(long_skip=False) == X2 - BLOCK // 2
    assert count(batch_norm=False) == X2 - 33 * 64
    assert count(blocks=3) == X2 - 13 * BLOCK
    assert count(noise_channel=True) == X2 + 64 * 9
    assert count(interpolation_skip=True) == count(interpolation_skip=True, init="residual") == X2


@needs_monai
def test_feature_extractors_add_their_parameters():
    assert count(with_encoder=True) == X2 + 73_793
    assert count(with_encoder=True, with_vit=True) == X2 + 73_793 + 88_340_736 + 40 * 768


def literal_forward(net, lr):
    """The generator as written: head, blocks, long skip, stages, tail."""
    g = net.generator

    def conv(layer, x):
        return F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)

    def norm(layer, x):
        if not isinstance(layer, nn.BatchNorm2d):
            return x
        scale = layer.weight / (layer.running_var + layer.eps).sqrt()
        return (x - layer.running_mean[:, None, None]) * scale[:, None, None] + layer.bias[:, None, None]

    first = x = conv(g.head, lr).clamp_min(0)
    for block in g.blocks:
        if len(block.body) == 5:
            y = norm(block.body[1], conv(block.body[0], x)).clamp_min(0)
            x = x + norm(block.body[4], conv(block.body[3], y))
        else:
            x = x + conv(block.body[2], conv(block.body[0], x).clamp_min(0))
    if g.long_skip is not None:
        x = first + norm(g.long_skip[-1], conv(g.long_skip[0], x))
    for stage, r in zip(g.stages, {2: (2,), 3: (3,), 4: (2, 2)}[net.scale], strict=True):
        y = conv(stage[0], x)
        x = x.new_zeros(len(y), y.shape[1] // r**2, y.shape[2] * r, y.shape[3] * r)
        for i in range(r):
            for j in range(r):
                x[:, :, i::r, j::r] = y[:, i * r + j :: r * r].clamp_min(0)
    return conv(g.tail, x)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"long_skip": False}, {"batch_norm": False}, {"head_kernel": 9, "tail_kernel": 5}])
def test_forward_pass_step_by_step(scale, options):
    net = small_net(scale=scale, **options).double()
    lr = image(7, 6, batch=2, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(lr), literal_forward(net, lr), rtol=1e-12, atol=1e-12)


@settings(max_examples=20)
@given(st.integers(4, 13), st.integers(4, 13), st.sampled_from([2, 3, 4]), st.booleans())
def test_any_size_and_scale(height, width, scale, skip):
    net = small_net(scale=scale, interpolation_skip=skip)
    with torch.no_grad():
        out = net(image(height, width))
    assert out.shape == (1, 1, scale * height, scale * width)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_gradients_reach_every_parameter(scale, batch_norm):
    net = small_net(scale=scale, batch_norm=batch_norm, noise_channel=True).train()
    (net(image(9, 8, batch=2), noise_level=0.05) - image(9 * scale, 8 * scale, batch=2, seed=5)).square().mean().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert not silent


def test_batch_of_two_is_two_batches_of_one():
    net = small_net()
    lr = image(9, 8, batch=2)
    with torch.no_grad():
        out = net(lr)
        torch.testing.assert_close(out, torch.cat([net(lr[:1]), net(lr[1:])]), rtol=1e-4, atol=1e-5)
    assert (out[0] - out[1]).abs().max() > 0.01


def test_evaluation_is_deterministic():
    lr = image(9, 8)
    net, twin = small_net(), small_net(seed=5)
    twin.load_state_dict(net.state_dict())
    with torch.no_grad():
        first = net(lr)
        assert torch.equal(first, net(lr))
        assert torch.equal(first, twin(lr))


def test_noise_channel():
    net, plain = small_net(noise_channel=True), small_net()
    lr = image(6, 5, batch=2)
    with torch.no_grad():
        clean, noisy = net(lr), net(lr, noise_level=0.2)
        assert torch.equal(clean, net(lr, noise_level=0.0))
        assert (clean - noisy).abs().max() > 1e-3
        levels = torch.tensor([0.0, 0.2]).view(2, 1, 1, 1)
        torch.testing.assert_close(net(lr, noise_level=levels), torch.stack([clean[0], noisy[1]]), rtol=1e-4, atol=1e-5)
        assert torch.equal(plain(lr, noise_level=0.2), plain(lr))
        assert torch.equal(plain(lr, reference=None), plain(lr))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_residual_start_is_cubic_interpolation(scale):
    net = small_net(scale=scale, interpolation_skip=True, init="residual")
    lr = image(8, 7)
    expected = cubic_upsample(lr.unsqueeze(-1).expand(-1, -1, -1, -1, 4), scale)[..., 2 * scale]
    with torch.no_grad():
        torch.testing.assert_close(net(lr), expected, rtol=0, atol=1e-6)
        skipped, bare = small_net(scale=scale, interpolation_skip=True), small_net(scale=scale)
        torch.testing.assert_close(skipped(lr) - bare(lr), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype):
    net = small_net(interpolation_skip=True)
    lr = image(9, 8)
    with torch.no_grad():
        expected = net(lr)
        ours = net.to(dtype)(lr.to(dtype))
    assert ours.dtype == dtype
    assert (ours.float() - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize(
    "options",
    [{"scale": 2}, {"scale": 3}, {"scale": 4}, {"scale": 4, "tail_kernel": 9}, {"head_kernel": 9}, {"long_skip": False}, {"blocks": 0}],
)
def test_halo_is_exactly_the_receptive_radius(options):
    """With positive weights nothing cancels: every LR pixel inside the radius has an influence, and none outside."""
    net = small_net(**options).double()
    with torch.no_grad():
        for p in net.parameters():
            p.abs_()
    halo = get_architecture("fdvit").halo(net)
    lr = image(27, 27, dtype=torch.float64).requires_grad_()
    out = net(lr)
    reach = 0
    r = net.scale
    for y in range(13 * r, 14 * r):
        (grad,) = torch.autograd.grad(out[0, 0, y, y], lr, retain_graph=True)
        touched = grad[0, 0].nonzero() - 13
        reach = max(reach, int(touched.abs().max()))
    assert reach == halo


def test_halo_of_the_papers_size():
    with torch.device("meta"):
        assert [get_architecture("fdvit").halo(create("fdvit", scale=s)) for s in (2, 3, 4)] == [36, 36, 36]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 5}, "factor is 2, 3, 4, not 5"),
        ({"head_kernel": 4}, "must be odd, for example 3 or 9, not 4"),
        ({"tail_kernel": 2}, "must be odd, for example 3 or 9, not 2"),
        ({"init": "residual"}, "needs interpolation_skip=True"),
        ({"init": "zero"}, "'default' or 'residual', not 'zero'"),
        ({"vit_options": {"layers": 2}}, "with_vit is off"),
        ({"encoder_options": {"size": 32}}, "with_encoder is off"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        FDViT(**options)


def test_descriptor():
    architecture = get_architecture("fdvit")
    net = small_net()
    assert (architecture.dimension, architecture.tiling, architecture.scales) == (2, "planes", (2, 3, 4))
    assert (architecture.reference, architecture.global_statistics, architecture.pre_interpolated) == ("none", False, False)
    assert architecture.bytes_per_voxel(small_net(scale=4)) > architecture.bytes_per_voxel(net) > 4 * 8 * 4
    scaling = architecture.scaling(net, image(4, 4), 50.0)
    assert scaling.lr(torch.tensor(100.0)) == scaling.target(torch.tensor(100.0)) == 2.0


# --- composite ----------------------------------------------------------------------------------------------------------------------------


@needs_monai
def test_feature_extractors_change_no_result_and_travel_with_the_weights():
    options = json.loads(json.dumps({"with_encoder": True, "with_vit": True, "encoder_options": ENCODER, "vit_options": VIT}))
    net, bare = small_net(**options), small_net()
    bare.load_state_dict({name: value for name, value in net.state_dict().items() if name.startswith("generator.")})
    lr = image(9, 8)
    twin = small_net(seed=7, **options)
    twin.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(net(lr), bare(lr))
        assert torch.equal(twin.encoder(lr)[0], net.encoder(lr)[0])
        assert torch.equal(twin.vit(lr), net.vit(lr))
    assert not any(p.requires_grad for part in (net.encoder, net.vit) for p in part.parameters())
    assert all(p.requires_grad for p in net.generator.parameters())


@needs_monai
def test_maps_are_offered_with_their_parts_only():
    maps = get_architecture("fdvit").maps
    structure = ["structure-lr", "structure-sr", "structure-distance"]
    attention = ["vit-rollout", "vit-attention-1", "vit-attention-2"]
    assert maps(small_net()) == ()
    assert [m.name for m in maps(small_net(with_encoder=True, encoder_options=ENCODER))] == structure
    assert [m.name for m in maps(small_net(with_vit=True, vit_options=VIT))] == attention
    found = maps(both())
    assert [m.name for m in found] == structure + attention
    assert [m.kind for m in found] == ["dense"] * 4 + ["query"] * 2
    assert [m.signed for m in found] == [True, True, False, False, False, False]
    assert all(len(m.description) > 40 and m.title for m in found)


@needs_monai
@pytest.mark.parametrize("scale", [2, 3])
def test_every_map_offered_is_recorded_on_the_results_pixels(scale):
    net, lr = both(scale=scale), image(7, 9, batch=2)
    names = [m.name for m in net.maps()]
    with torch.no_grad():
        expected = net(lr)
        with Recorder(names, query=(3, 4)) as recorder:
            assert torch.equal(net(lr), expected)
    assert set(recorder.found) == set(names)
    for name, found in recorder.found.items():
        assert found.values.shape == (1 if name.startswith("vit-attention") else 2, 1, 7 * scale, 9 * scale)
        assert (found.stride, found.offset) == (1, ())
        assert torch.isfinite(found.values).all()
        assert found.values.std() > 0


def test_structure_maps_are_the_codes_of_input_and_result():
    net, lr = small_net(with_encoder=True, encoder_options=ENCODER), image(11, 16)
    with torch.no_grad(), Recorder(("structure-lr", "structure-sr", "structure-distance")) as recorder:
        sr = net(lr)
    with torch.no_grad():
        codes = [net.encoder(x)[0] for x in (lr, sr)]
        distance = local_cosine_distance(*codes)
    for name, code in zip(("structure-lr", "structure-sr", "structure-distance"), (*codes, distance), strict=True):
        torch.testing.assert_close(recorder.found[name].values, F.interpolate(code, (22, 32), mode="bilinear"))


@needs_monai
def test_the_transformer_looks_at_the_result():
    net, lr = small_net(with_vit=True, vit_options=VIT), image(11, 16)
    with torch.no_grad():
        with Recorder(("vit-rollout",)) as recorder:
            sr = net(lr)
        with Recorder(("vit-rollout",)) as other:
            net.vit.look(sr)
    assert torch.equal(recorder.found["vit-rollout"].values, other.found["vit-rollout"].values)


@needs_monai
def test_unwanted_maps_cost_nothing(monkeypatch):
    net = both()

    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(net.encoder, "forward", fail)
    monkeypatch.setattr(net.vit.vit, "forward", fail)
    monkeypatch.setattr(net.vit.vit.patch_embedding, "forward", fail)
    with Recorder(("vit-attention-9",)) as recorder:
        net(image(6, 6))
    assert not recorder.found
    with Recorder(("structure-sr",)), pytest.raises(AssertionError):
        net(image(6, 6))


def test_recording_only_leaves_early():
    net = small_net(with_encoder=True, encoder_options=ENCODER)
    done = False
    with Recorder(("structure-lr",), only=True) as recorder:
        net(image(6, 6))
        done = True
    assert recorder.found.keys() == {"structure-lr"}
    assert not done


def test_local_cosine_distance_by_hand():
    a, b = image(9, 11, dtype=torch.float64) - 0.5, image(9, 11, seed=2, dtype=torch.float64) - 0.5
    found = local_cosine_distance(a, b)
    for y, x in ((4, 5), (0, 0), (8, 3)):
        window = (0, 0, slice(max(y - 2, 0), y + 3), slice(max(x - 2, 0), x + 3))
        u, v = a[window].flatten(), b[window].flatten()
        assert found[0, 0, y, x].item() == pytest.approx((1 - u @ v / (u.norm() * v.norm())).item(), rel=1e-9)
    torch.testing.assert_close(local_cosine_distance(a, 3 * a), torch.zeros_like(a))
    torch.testing.assert_close(local_cosine_distance(a, -a), torch.full_like(a, 2))
    assert torch.equal(local_cosine_distance(a, 0 * a), torch.zeros_like(a))
    b[..., 6:] = 0
    assert torch.equal(local_cosine_distance(a, b)[..., 8:], torch.zeros(1, 1, 9, 3, dtype=torch.float64))


# --- loss (eq. 7 to 9) --------------------------------------------------------------------------------------------------------------------


def parts(seed=4):
    torch.manual_seed(seed)
    encoder, vit = DisentanglingEncoder(**ENCODER), ViTFeatures(**VIT)
    nn.init.zeros_(encoder.to_structure.bias)
    nn.init.zeros_(encoder.to_texture.bias)
    return encoder, vit


def plain_cosine(a, b):
    return sum(1 - (x.flatten() @ y.flatten()) / (x.norm() * y.norm()) for x, y in zip(a.double(), b.double(), strict=True)) / len(a)


@needs_monai
def test_loss_is_equation_9():
    encoder, vit = parts()
    lr, sr, logits = image(8, 9, batch=2), 3 * image(16, 18, batch=2, seed=6) - 2, torch.tensor([[0.3], [-1.2]])
    with torch.no_grad():
        low, high = (encoder(resized(x, 32)) for x in (lr, sr))
        expected = {
            "adversarial": -torch.sigmoid(logits.double()).log().mean(),
            "vit": plain_cosine(vit(resized(lr, 32)), vit(resized(sr, 32))),
            "structure": plain_cosine(low[0], high[0]),
            "texture": plain_cosine(low[1], high[1]),
        }
    loss = FDViTLoss(encoder, vit)
    terms = loss.terms(sr, lr, logits)
    assert list(terms) == list(expected)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), abs=1e-6)
        assert value > 1e-3
    weighted = expected["adversarial"] + expected["vit"] + expected["structure"] + 0.9 * expected["texture"]
    assert loss(sr, lr, logits).item() == pytest.approx(weighted.item(), abs=1e-6)
    target = image(16, 18, batch=2, seed=8)
    more = FDViTLoss(encoder, vit, lambda_adv=0.5, lambda_vit=2.0, lambda_structure=3.0, lambda_texture=4.0, lambda_pix=1.5)
    weighted = 0.5 * expected["adversarial"] + 2 * expected["vit"] + 3 * expected["structure"] + 4 * expected["texture"]
    assert more(sr, lr, logits, target).item() == pytest.approx((weighted + 1.5 * (sr - target).abs().mean()).item(), abs=1e-5)
    with pytest.raises(InputError, match="give it as target"):
        more(sr, lr, logits)


@needs_monai
def test_frozen_extractors_pass_gradients_to_the_result():
    encoder, vit = parts()
    loss = FDViTLoss(encoder, vit).train()
    lr = image(8, 9, batch=2).requires_grad_()
    for name in ("vit", "structure", "texture"):
        sr = image(16, 18, batch=2, seed=6).requires_grad_()
        loss.terms(sr, lr, torch.zeros(2, 1))[name].backward()
        assert (sr.grad != 0).float().mean() > 0.5, name
    assert lr.grad is None
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())
    assert not encoder.training
    assert not vit.training


@needs_monai
def test_one_training_step_of_the_composite():
    net = both().train()
    discriminator = Discriminator(widths=(4, 4, 6, 6), hidden=8)
    loss = FDViTLoss(net.encoder, net.vit)
    lr = image(8, 9, batch=2)
    sr = net(lr)
    loss(sr, lr, discriminator(sr)).backward()
    silent = [name for name, p in net.generator.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert not silent


@needs_monai
@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("tex+ViT", {"vit", "texture"}),
        ("str+ViT", {"vit", "structure"}),
        ("ViT only", {"vit"}),
        ("tex+str", {"structure", "texture"}),
    ],
)
def test_ablations(name, kept):
    encoder, vit = parts()
    args = 3 * image(16, 18, seed=6) - 2, image(8, 9), torch.zeros(1, 1)
    full, loss = FDViTLoss(encoder, vit), FDViTLoss(encoder, vit, **ABLATIONS[name])
    assert loss.terms(*args).keys() == kept | {"adversarial"}
    assert full(*args) - loss(*args) > 1e-3
    # What is switched off needs no feature extractor.
    alone = FDViTLoss(encoder if kept - {"vit"} else None, vit if "vit" in kept else None, **ABLATIONS[name])
    assert torch.equal(alone(*args), loss(*args))


def test_every_ablation_is_tested():
    assert set(ABLATIONS) == {"tex+ViT", "str+ViT", "ViT only", "tex+str"}


def test_a_loss_without_its_extractors_is_told():
    encoder = DisentanglingEncoder(**ENCODER)
    with pytest.raises(InputError, match="needs a ViT"):
        FDViTLoss(encoder, None)
    with pytest.raises(InputError, match="need a trained disentangling encoder"):
        FDViTLoss(None, nn.Identity())
    assert FDViTLoss(None, None, use_vit=False, use_structure=False, use_texture=False)(image(4, 4), image(2, 2), torch.zeros(1, 1)) > 0
