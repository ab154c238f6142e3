from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mrsr.errors import InputError
from napari_mrsr.networks import create
from napari_mrsr.networks.blocks.recording import Recorder
from napari_mrsr.networks.disentangling import resized
from napari_mrsr.networks.vit_features import POSITION, OrganClassifier, ViTFeatures

nets = pytest.importorskip("monai.networks.nets")

SMALL = {"size": 32, "hidden_size": 24, "layers": 12, "heads": 2, "mlp_dim": 20}


def small(seed=0, **options):
    torch.manual_seed(seed)
    return ViTFeatures(**{**SMALL, **options}).eval()


def unetr(img_size=(32, 32, 16), seed=3, **options):
    torch.manual_seed(seed)
    return nets.UNETR(1, 2, img_size, feature_size=2, hidden_size=24, mlp_dim=20, num_heads=2, **options).eval()


def image(*size, batch=1, seed=1, dtype=torch.float32):
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def count(module):
    return sum(p.numel() for p in module.parameters())


# --- layout -------------------------------------------------------------------------------------------------------------------------------


def test_parameter_table():
    """NETWORKS 2.2 and 6; the ViT on 256 x 256 slices has 256 positions instead of 216."""
    with torch.device("meta"):
        whole = nets.UNETR(1, 14, (96, 96, 96), feature_size=16)
        ours = ViTFeatures()
        flat = ViTFeatures(design="2d")
    unused = sum(p.numel() for name, p in whole.named_parameters() if "cross_attn" in name)
    assert count(whole) - unused == 92_784_046
    assert count(whole.vit) - unused == 88_340_736
    assert count(ours) == 88_340_736 + (256 - 216) * 768
    assert count(flat) == count(ours) - (16**3 - 16**2) * 768
    assert not [name for name, _ in ours.named_parameters() if "cross_attn" in name]
    assert ours.dimension == 256 * 768


@pytest.mark.parametrize(("design", "dimensions"), [("3d", 3), ("2d", 2)])
def test_tokens_are_those_of_monais_transformer(design, dimensions):
    net = small(design=design).double()
    shape = (32, 32, 16)[:dimensions]
    twin = nets.ViT(1, shape, (16,) * dimensions, 24, 20, 12, 2, spatial_dims=dimensions).double()
    twin.load_state_dict(net.vit.state_dict(), strict=False)
    x = image(32, 32, batch=2, dtype=torch.float64)
    entry = x if design == "2d" else torch.stack([x] * 16, -1)
    with torch.no_grad():
        expected = twin(entry)[0]
        torch.testing.assert_close(net.tokens(x), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(net(x), expected.flatten(1), rtol=1e-9, atol=1e-9)
        net.features = "mean"
        torch.testing.assert_close(net(x), expected.mean(1), rtol=1e-9, atol=1e-9)


@settings(max_examples=8)
@given(st.integers(4, 70), st.integers(4, 70))
def test_slices_of_any_size_give_equally_many_tokens(height, width):
    net = small(layers=2, size=48)
    x = image(height, width, batch=2)
    with torch.no_grad():
        features = net(x)
        assert features.shape == (2, 9 * 24) == (2, net.dimension)
        torch.testing.assert_close(features, net(resized(x, 48)))
        torch.testing.assert_close(features, torch.cat([net(x[:1]), net(x[1:])]), rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter_and_pass_a_frozen_net():
    net = small(layers=3)
    x = image(20, 24).requires_grad_()
    (net(x) * torch.randn(net.dimension)).sum().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert not silent
    frozen = small(layers=3).requires_grad_(False)
    y = image(20, 24).requires_grad_()
    (frozen(y) * torch.randn(net.dimension)).sum().backward()
    assert (y.grad != 0).float().mean() > 0.9
    assert all(p.grad is None for p in frozen.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype):
    net = small(layers=3)
    x = image(30, 41)
    with torch.no_grad():
        expected = net(x)
        ours = net.to(dtype)(x.to(dtype))
    assert ours.dtype == dtype
    assert torch.nn.functional.cosine_similarity(ours.float(), expected) > 0.999


def test_large_scores_do_not_overflow_half_precision():
    net, x = small(layers=1), image(32, 32)
    with torch.no_grad():
        net.vit.blocks[0].attn.qkv.weight[:48].mul_(2000)
        expected = net(x)
        ours = net.half()(x.half())
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(ours.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 40}, "multiple of the patch size 16, not 40"),
        ({"heads": 5}, "hidden size 24 must be a multiple"),
        ({"design": "4d"}, "'3d' or '2d', not '4d'"),
        ({"features": "max"}, "'flatten' or 'mean', not 'max'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        small(**options)


def test_a_missing_monai_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(InputError, match="needs MONAI"):
        ViTFeatures(**SMALL)
    assert create("fdvit", channels=4, blocks=1)(image(4, 4)).shape == (1, 1, 8, 8)


# --- pretext task -------------------------------------------------------------------------------------------------------------------------


def test_pretext_head_starts_at_zero_and_trains():
    net = OrganClassifier(small(layers=2), 4)
    assert net.head.weight.shape == (4, 4 * 24)
    assert torch.equal(net(image(20, 20, batch=3)), torch.zeros(3, 4))
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    before = {name: p.clone() for name, p in net.named_parameters()}
    for _ in range(2):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(image(20, 20, batch=3)), torch.tensor([0, 1, 2])).backward()
        optimiser.step()
    assert not [name for name, p in net.named_parameters() if torch.equal(p, before[name])]
    with pytest.raises(InputError, match="at least two classes, not 1"):
        OrganClassifier(small(layers=1), 1)


def test_pretext_head_has_the_papers_size():
    with torch.device("meta"):
        features = ViTFeatures()
        assert count(OrganClassifier(features, 4).head) == 786_436


# --- UNETR weights ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["state", "pt", "nested", "parallel", "safetensors", "vit"])
def test_unetr_round_trip(kind, tmp_path):
    net, source = small(), unetr()
    state = {"nested": {"epoch": 3, "state_dict": source.state_dict()}, "vit": source.vit.state_dict()}.get(kind, source.state_dict())
    if kind == "parallel":
        state = {f"module.{name}": value for name, value in state.items()}
    given_ = state
    if kind == "safetensors":
        from safetensors.torch import save_file

        given_ = tmp_path / "unetr.safetensors"
        save_file(state, given_)
    elif kind in ("pt", "nested"):
        given_ = tmp_path / "unetr.pt"
        torch.save(state, given_)
    x = image(32, 32, batch=2)
    with torch.no_grad():
        expected = source.vit(torch.stack([x] * 16, -1))[0]
        assert not torch.allclose(net.tokens(x), expected, atol=0.1)
        report = net.load_unetr(given_, grid=(2, 2, 1))
        torch.testing.assert_close(net.tokens(x), expected, rtol=1e-4, atol=1e-5)
    assert sorted(report.loaded) == sorted(net.vit.state_dict())
    assert report.grid == (2, 2, 1)
    assert not report.resampled
    decoder = [name for name in report.ignored if "cross_attn" not in name]
    assert bool(decoder) == (kind != "vit")
    assert all("vit." not in name for name in decoder)
    if kind != "nested":
        assert len(report.loaded) + len(report.ignored) == len(state)


def test_weights_of_other_monai_versions():
    """Without the norms of cross attention, or with whole unused attention blocks; patches embedded by a linear layer."""
    source = unetr(proj_type="perceptron")
    state = {name: value for name, value in source.state_dict().items() if "cross_attn" not in name}
    x = image(32, 32)
    net = small()
    net.load_unetr(state, grid=(2, 2, 1))
    with torch.no_grad():
        torch.testing.assert_close(net.tokens(x), source.vit(torch.stack([x] * 16, -1))[0], rtol=1e-4, atol=1e-5)
    more = {"vit.blocks.0.cross_attn.to_q.weight": torch.zeros(24, 24), "vit.patch_embedding.cls_token": torch.zeros(1, 1, 24)}
    assert set(more) <= set(small().load_unetr(state | more, grid=(2, 2, 1)).ignored)


@pytest.mark.parametrize("proj_type", ["conv", "perceptron"])
def test_the_2d_design_is_the_3d_one_of_a_repeated_slice(proj_type):
    state = unetr((32, 32, 32), proj_type=proj_type).state_dict()
    deep, flat = small().double(), small(design="2d").double()
    assert deep.load_unetr(state).grid == flat.load_unetr(state).grid == (2, 2, 2)
    x = image(32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(flat.tokens(x), deep.tokens(x), rtol=1e-5, atol=1e-6)


def test_weights_of_a_2d_unetr():
    source = unetr((64, 64), spatial_dims=2)
    net = small(size=64, design="2d")
    report = net.load_unetr(source.state_dict())
    assert (report.grid, report.resampled) == ((4, 4), False)
    x = image(64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net.tokens(x), source.vit(x)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="have other shapes"):
        small(size=64).load_unetr(source.state_dict())


@pytest.mark.parametrize("design", ["3d", "2d"])
def test_positions_are_interpolated_linearly(design):
    state = unetr((48, 48, 48)).state_dict()
    net = small(size=64, design=design)
    report = net.load_unetr(state)
    assert (report.grid, report.resampled) == ((3, 3, 3), True)

    def matrix(fine, coarse):
        positions = np.clip((np.arange(fine) + 0.5) * coarse / fine - 0.5, 0, coarse - 1)
        return np.maximum(1 - np.abs(positions[:, None] - np.arange(coarse)), 0)

    trained = state["vit." + POSITION].numpy().reshape(3, 3, 3, 24)
    expected = np.einsum("ai,bj,ck,ijkd->abcd", matrix(4, 3), matrix(4, 3), matrix(1, 3), trained).reshape(1, 16, 24)
    np.testing.assert_allclose(net.vit.state_dict()[POSITION].numpy(), expected, atol=1e-6)


def test_weights_that_do_not_fit_are_named(tmp_path):
    state = unetr().state_dict()
    short = {name: value for name, value in state.items() if name != "vit.norm.weight"}
    with pytest.raises(InputError, match=r"missing: norm\.weight; unexpected: none"):
        small().load_unetr(short, grid=(2, 2, 1))
    with pytest.raises(InputError, match=r"missing: none; unexpected: extra\."):
        small().load_unetr(state | {"vit.extra": torch.zeros(1)}, grid=(2, 2, 1))
    with pytest.raises(InputError, match=r"unexpected: blocks\.10\.attn\.out_proj\.bias, .* and \d+ more\."):
        small(layers=10).load_unetr(state, grid=(2, 2, 1))
    with pytest.raises(InputError, match="4 position embeddings are no grid of 2x2x2"):
        small().load_unetr(state)
    with pytest.raises(InputError, match=r"blocks\.0\.mlp\.linear1\.bias.*\(20,\) instead of \(22,\)"):
        small(mlp_dim=22).load_unetr(state, grid=(2, 2, 1))
    name = "vit.patch_embedding.patch_embeddings.weight"
    with pytest.raises(InputError, match=r"\(24, 4, 16, 16, 16\) instead of \(24, 1, 16, 16, 16\)"):
        small().load_unetr({**state, name: torch.zeros(24, 4, 16, 16, 16)}, grid=(2, 2, 1))
    with pytest.raises(InputError, match=r"of shape \(24, 16384\) is no embedding of one-channel patches"):
        small().load_unetr({**state, name: torch.zeros(24, 4 * 16**3)}, grid=(2, 2, 1))
    with pytest.raises(InputError, match="no such file"):
        small().load_unetr(tmp_path / "nothing.pt")
    for name, content in (("text.pt", b"not a model"), ("text.safetensors", b"not a model")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="not a file of PyTorch tensors"):
            small().load_unetr(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="no named tensors"):
        small().load_unetr(tmp_path / "list.pt")


def test_a_refused_checkpoint_changes_nothing():
    net = small()
    before = {name: value.clone() for name, value in net.vit.state_dict().items()}
    with pytest.raises(InputError):
        net.load_unetr({**unetr().state_dict(), "vit.norm.bias": torch.zeros(3)}, grid=(2, 2, 1))
    assert all(torch.equal(value, before[name]) for name, value in net.vit.state_dict().items())


def test_pickled_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit",))

    torch.save({"vit.norm.weight": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(InputError, match="not a file of PyTorch tensors"):
        small().load_unetr(tmp_path / "trap.pt")


# --- looking inside -----------------------------------------------------------------------------------------------------------------------


def saved_attention(net, x):
    """Attention (layers, B, heads, N, N) as MONAI itself stores it."""
    twin = nets.ViT(1, (net.size, net.size, 16), (16, 16, 16), 24, 20, len(net.vit.blocks), 2, save_attn=True)
    twin.load_state_dict(net.vit.state_dict(), strict=False)
    with torch.no_grad():
        twin.eval()(torch.stack([resized(x, net.size)] * 16, -1))
    return torch.stack([block.attn.att_mat for block in twin.blocks])


def lively(**options):
    net = small(size=64, layers=3, **options)
    with torch.no_grad():
        for block in net.vit.blocks:
            block.attn.qkv.weight.mul_(8)
    return net


@pytest.mark.parametrize("channel", [None, 0, 1])
@pytest.mark.parametrize("query", [(0, 0), (29, 21), (7, 5), (15, 20)])
def test_attention_of_the_chosen_pixel(query, channel):
    net, x = lively(), image(30, 22, batch=2)
    names = ("vit-attention-1", "vit-attention-3")
    with Recorder(names, query=query, channel=channel) as recorder:
        recorder.item = 1
        net.look(x)
    assert set(recorder.found) == set(names)
    token = 4 * int((query[0] + 0.5) * 4 / 30) + int((query[1] + 0.5) * 4 / 22)
    attention = saved_attention(net, x)
    for name, layer in zip(names, (0, 2), strict=True):
        rows = attention[layer, 1, :, token]
        row = rows.mean(0) if channel is None else rows[channel]
        found = recorder.found[name]
        assert found.values.shape == (1, 1, 30, 22)
        assert (found.stride, found.offset) == (1, ())
        for y, z in ((0, 0), (7, 5), (8, 6), (29, 21), (14, 11), (15, 10)):
            cell = 4 * int((y + 0.5) * 4 / 30) + int((z + 0.5) * 4 / 22)
            assert found.values[0, 0, y, z].item() == pytest.approx(row[cell].item(), rel=1e-4)
    assert (recorder.found[names[0]].values.amax() > 2 / 16).item()


def test_rollout_is_the_product_over_layers():
    net, x = lively(), image(64, 64, batch=2)
    with Recorder(("vit-rollout",)) as recorder:
        net.look(x)
    product = torch.eye(16).double().expand(2, -1, -1)
    for layer in saved_attention(net, x).double().mean(2):
        product = (0.5 * layer + 0.5 * torch.eye(16).double()) @ product
    found = recorder.found["vit-rollout"].values
    assert found.shape == (2, 1, 64, 64)
    expected = torch.nn.functional.interpolate(product.mean(1).view(2, 1, 4, 4), (64, 64), mode="bilinear").float()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert expected.std() > 0.01 * expected.mean()


def test_nothing_is_computed_when_nothing_is_wanted():
    net = small(layers=4)
    seen = []
    net.vit.patch_embedding.register_forward_hook(lambda *_: seen.append("patches"))
    for index, block in enumerate(net.vit.blocks, start=1):
        block.register_forward_hook(lambda *_, index=index: seen.append(index))
    net.look(image(9, 9))
    with Recorder(("something else",)):
        net.look(image(9, 9))
    assert not seen
    with Recorder(("vit-attention-2",), query=(1, 1)):
        net.look(image(9, 9))
    assert seen == ["patches", 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_maps_in_other_precisions(dtype):
    net, x = lively(), image(30, 22)
    found = []
    for kind in (torch.float32, dtype):
        with Recorder(("vit-rollout", "vit-attention-2"), query=(3, 3)) as recorder:
            net.to(kind).look(x.to(kind))
        found.append(recorder.found)
    for name in found[0]:
        assert torch.nn.functional.cosine_similarity(found[1][name].values.flatten(), found[0][name].values.flatten(), dim=0) > 0.99
