from __future__ import annotations

import hashlib
import os
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_mrsr.errors import InputError
from napari_mrsr.networks.losses import perceptual, vgg
from napari_mrsr.networks.losses.perceptual import CONTENT_LAYERS, STYLE_LAYERS, TransMRSRLoss, gram_matrix
from napari_mrsr.networks.losses.vgg import VGGFeatures, as_vgg_input

# Positions of VGG19's convolutions in torchvision's `features`, with their sizes.
CONVOLUTIONS = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256), 16: (256, 256)}
CONVOLUTIONS |= {19: (512, 256)} | dict.fromkeys((21, 23, 25, 28, 30, 32, 34), (512, 512))
POOLINGS = (4, 9, 18, 27, 36)
SHALLOW = 12


def vgg_state(seed=0, deep=False):
    """Random weights in torchvision's format; those of layers beyond the loss take no room."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for n, (out, channels) in CONVOLUTIONS.items():
        shape = (out, channels, 3, 3)
        if n <= SHALLOW or deep:
            state[f"features.{n}.weight"] = torch.randn(shape, generator=generator) / (3 * channels**0.5)
        else:
            state[f"features.{n}.weight"] = torch.zeros(1).expand(shape)
        state[f"features.{n}.bias"] = 0.1 * torch.randn(out, generator=generator)
    state["classifier.0.weight"] = torch.zeros(1).expand(4096, 25088)
    state["classifier.6.bias"] = torch.zeros(1000)
    return state


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A random file in torchvision's format."""
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(vgg_state(), path)
    return path


@pytest.fixture(scope="module")
def loss(weights):
    return TransMRSRLoss(vgg=weights)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The user's cache folder, empty."""
    monkeypatch.setattr(vgg.platformdirs, "user_cache_dir", lambda _name: str(tmp_path / "cache"))
    return tmp_path / "cache"


def images(channels=3, size=16, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, channels, size, size + 4, generator=generator) for _ in range(2))


def reference_features(image, state):
    """Outputs of all layers in float64, one by one, none overwritten."""
    found, x = {}, image.double()
    for n in range(SHALLOW + 2):
        if n in CONVOLUTIONS:
            x = F.conv2d(x, state[f"features.{n}.weight"].double(), state[f"features.{n}.bias"].double(), padding=1)
        else:
            x = F.max_pool2d(x, 2) if n in POOLINGS else x.clamp(min=0)
        found[n] = x.clone()
    return found


def reference_gram(features):
    b, c, h, w = features.shape
    rows = features.numpy().reshape(b, c, h * w)
    return np.einsum("bin,bjn->bij", rows, rows) / (c * h * w)


def reference_terms(output, target, state, content_layers, style_layers):
    ours, theirs = reference_features(output, state), reference_features(target, state)
    return {
        "l1": float((output.double() - target.double()).abs().mean()),
        "content": sum(float(((ours[n] - theirs[n]) ** 2).mean()) for n in content_layers),
        "style": sum(float(((reference_gram(ours[n]) - reference_gram(theirs[n])) ** 2).mean()) for n in style_layers),
    }


def test_layers_are_numbered_as_torchvision_does():
    layers = vgg._layers()
    assert len(layers) == 37
    assert {n: tuple(layer.weight.shape[:2]) for n, layer in enumerate(layers) if isinstance(layer, torch.nn.Conv2d)} == CONVOLUTIONS
    assert tuple(n for n, layer in enumerate(layers) if isinstance(layer, torch.nn.MaxPool2d)) == POOLINGS
    assert sum(p.numel() for layer in layers for p in layer.parameters()) == 20_024_384


def test_features_are_those_of_plain_formulas(weights):
    """All layers at once, so that one that overwrites its input would show."""
    image = images()[0]
    found = VGGFeatures(range(14), weights)(image)
    expected = reference_features(image, vgg_state())
    assert set(found) == set(range(14))
    for n in range(14):
        torch.testing.assert_close(found[n].double(), expected[n], rtol=1e-4, atol=1e-5)
    assert (found[2] < 0).any()
    assert not (found[3] < 0).any()


@pytest.mark.parametrize(("preset", "layers"), [("paper", (2, 4, 7, 10)), ("code", (2, 4, 7)), ((5, 0), (5, 0))])
def test_terms_follow_their_formulas(weights, preset, layers):
    output, target = images()
    loss = TransMRSRLoss(content_layers=preset, vgg=weights)
    expected = reference_terms(output, target, vgg_state(), layers, (1, 3, 5, 9, 13))
    terms = loss.terms(output, target)
    assert list(terms) == ["l1", "content", "style"]
    for name, weight in (("l1", 1.0), ("content", 0.5), ("style", 0.5)):
        assert float(terms[name]) == pytest.approx(weight * expected[name], rel=2e-5)
    total = expected["l1"] + 0.5 * (expected["content"] + expected["style"])
    assert float(loss(output, target)) == pytest.approx(total, rel=2e-5)
    assert min(expected.values()) > 0


def test_weights_and_style_layers_are_taken(weights):
    output, target = images()
    terms = TransMRSRLoss(style_layers=(3,), weights=(2, 0.25, 3), vgg=weights).terms(output, target)
    expected = reference_terms(output, target, vgg_state(), CONTENT_LAYERS["paper"], (3,))
    for name, weight in (("l1", 2), ("content", 0.25), ("style", 3)):
        assert float(terms[name]) == pytest.approx(weight * expected[name], rel=2e-5)


def test_a_term_without_layers_is_zero(weights):
    output, target = images()
    assert float(TransMRSRLoss(content_layers=(), vgg=weights).terms(output, target)["content"]) == 0
    assert float(TransMRSRLoss(style_layers=(), vgg=weights).terms(output, target)["style"]) == 0


def test_equal_images_cost_nothing(loss):
    image = images()[0]
    assert float(loss(image, image.clone())) == 0


def test_a_batch_is_the_mean_of_its_images(loss):
    output, target = images()
    both = loss.terms(output, target)
    for name in both:
        alone = [float(loss.terms(output[i : i + 1], target[i : i + 1])[name]) for i in range(2)]
        assert float(both[name]) == pytest.approx(np.mean(alone), rel=1e-4)


def test_gradients_reach_the_image_and_nothing_else(loss):
    output, target = images(size=8)
    output.requires_grad_()
    target.requires_grad_()
    for name, term in loss.terms(output, target).items():
        (gradient,) = torch.autograd.grad(term, output, retain_graph=True)
        assert gradient.abs().sum() > 0, name
    content = loss.terms(output, target)["content"]
    assert torch.autograd.grad(content, target, allow_unused=True) == (None,)
    assert not any(p.requires_grad for p in loss.parameters())


def test_gradient_is_that_of_the_formula(weights):
    loss = TransMRSRLoss(vgg=weights).double()
    output, target = (x.double() for x in images(size=6, batch=1))
    output.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(output, target), output)
    generator = torch.Generator().manual_seed(3)
    direction = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    step = 1e-6
    with torch.no_grad():
        slope = (loss(output + step * direction, target) - loss(output - step * direction, target)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-4)


def test_vgg_stays_frozen_in_eval_mode(loss):
    loss.train()
    assert loss.training
    assert not any(module.training for module in loss.vgg.modules())
    loss.eval()


def test_only_the_layers_needed_are_kept(weights):
    assert len(TransMRSRLoss(vgg=weights).vgg.features) == 14
    assert len(TransMRSRLoss(content_layers=(2,), style_layers=(), vgg=weights).vgg.features) == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_float_types(weights, dtype):
    loss = TransMRSRLoss(vgg=weights)
    output, target = images(size=8)
    expected = {k: float(v) for k, v in loss.terms(output, target).items()}
    found = loss.to(dtype).terms(output.to(dtype), target.to(dtype))
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-4 if dtype == torch.float64 else 5e-2), name


def test_gram_matrices_stay_finite_in_half_precision():
    features = torch.full((1, 2, 64, 64), 100.0, dtype=torch.float16)
    assert gram_matrix(features).isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        found = gram_matrix(torch.full((1, 2, 3, 5), 1.001))
    torch.testing.assert_close(found, torch.full((1, 2, 2), 1.001**2 / 2))


def test_autocast_gives_nearly_the_same(loss):
    output, target = images(size=8)
    with torch.autocast("cpu", torch.bfloat16):
        found = float(loss(output, target))
    assert found == pytest.approx(float(loss(output, target)), rel=5e-2)


def test_without_vgg_it_is_plain_l1(cache, offline):
    output, target = images(channels=1)
    loss = TransMRSRLoss(use_vgg=False)
    assert loss.vgg is None
    assert list(loss.terms(output, target)) == ["l1"]
    torch.testing.assert_close(loss(output, target), (output - target).abs().mean())
    assert float(TransMRSRLoss(weights=(3, 0, 0), use_vgg=False)(output, target)) == pytest.approx(3 * float((output - target).abs().mean()))
    assert not cache.exists()


def test_one_channel_images_become_normalised_colours():
    image = torch.rand(2, 1, 3, 4)
    found = as_vgg_input(image)
    assert found.shape == (2, 3, 3, 4)
    for channel, (mean, sd) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        torch.testing.assert_close(found[:, channel], (image[:, 0] - mean) / sd)
    assert as_vgg_input(image.double()).dtype == torch.float64
    with pytest.raises(InputError, match=r"\(B, 1, H, W\) are needed, not \(2, 3, 3, 4\)"):
        as_vgg_input(found)


@pytest.mark.parametrize(
    ("output", "target", "fragment"),
    [
        ((1, 3, 8, 8), (1, 3, 8, 9), "differs from the target's"),
        ((1, 1, 8, 8), (1, 1, 8, 8), "as_vgg_input"),
        ((3, 8, 8), (3, 8, 8), "(B, 3, H, W)"),
        ((1, 3, 3, 8), (1, 3, 3, 8), "too small"),
    ],
)
def test_images_that_do_not_fit_are_refused(loss, output, target, fragment):
    with pytest.raises(InputError) as caught:
        loss(torch.zeros(output), torch.zeros(target))
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"content_layers": "figure"}, "'paper', 'code' or numbers, not 'figure'"),
        ({"content_layers": (37,)}, "layers 0 to 36, not 37"),
        ({"style_layers": (-1,)}, "layers 0 to 36, not -1"),
        ({"style_layers": (1.5,)}, "layers 0 to 36, not 1.5"),
        ({"content_layers": (), "style_layers": ()}, "use_vgg=False"),
        ({"weights": (1, 0.5)}, "three weights"),
        ({"weights": (1, -0.5, 0)}, "three weights"),
        ({"weights": (1, float("nan"), 0)}, "three weights"),
    ],
)
def test_bad_options_are_refused(weights, options, fragment):
    with pytest.raises(InputError) as caught:
        TransMRSRLoss(vgg=weights, **options)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_deepest_layer_can_be_asked_for(weights):
    loss = TransMRSRLoss(content_layers=(36,), style_layers=(), vgg=weights)
    assert len(loss.vgg.features) == 37
    with pytest.raises(InputError, match="31 x 40 are too small for the named layers; 32 or more"):
        loss(torch.zeros(1, 3, 31, 40), torch.zeros(1, 3, 31, 40))


def refused(path, fragment):
    with pytest.raises(InputError) as caught:
        TransMRSRLoss(vgg=path)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def changed(**changes):
    state = vgg_state()
    for key, value in changes.items():
        name = key.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (changed(features__34__bias=None), "features.34.bias is missing"),
        (changed(features__12__weight=torch.zeros(256, 128, 3, 3)), "features.12.weight is (256, 128, 3, 3) instead of (256, 256, 3, 3)"),
        (changed(features__37__weight=torch.zeros(1)), "features.37.weight is unexpected"),
        (changed(features__5__bias=torch.full((128,), float("nan"))), "features.5.bias contain NaN"),
        (changed(features__5__bias="text"), "features.5.bias is missing"),
        ({"state_dict": vgg_state()}, "features.0.weight is missing"),
        ([1, 2], "features.0.weight is missing"),
        (torch.zeros(3), "features.0.weight is missing"),
    ],
)
def test_files_of_something_else_are_refused(tmp_path, content, fragment):
    torch.save(content, tmp_path / "other.pth")
    refused(tmp_path / "other.pth", fragment)


def test_the_first_layers_of_another_vgg_are_not_enough(tmp_path):
    """VGG16 has the same sizes up to layer 12."""
    state = {k: v for k, v in vgg_state().items() if k.startswith("features.") and int(k.split(".")[1]) <= 12}
    torch.save(state, tmp_path / "vgg16.pth")
    refused(tmp_path / "vgg16.pth", "does not hold torchvision's VGG19: features.14.weight is missing")


@pytest.mark.parametrize("zipped", [True, False])
def test_files_with_code_are_refused_and_run_nothing(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "code.pth"
    torch.save({**vgg_state(), "more": Code()}, path, _use_new_zipfile_serialization=zipped)
    refused(path, "holds more than tensors")
    path.write_bytes(pickle.dumps(Code()))
    refused(path, "code.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [0, 10, 1000, 100_000])
def test_truncated_files_are_refused(tmp_path, zipped, keep):
    path = tmp_path / "short.pth"
    torch.save(vgg_state(), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:keep])
    refused(path, "short.pth is not a PyTorch file of tensors, or is damaged")


def test_both_formats_and_any_float_type_are_read(tmp_path, weights):
    """The published file has the older format."""
    path = tmp_path / "old.pth"
    torch.save({k: v.half() if v.numel() < 10**6 else v for k, v in vgg_state().items()}, path, _use_new_zipfile_serialization=False)
    old, new = VGGFeatures((12,), path), VGGFeatures((12,), weights)
    assert old.features[0].weight.dtype == torch.float32
    torch.testing.assert_close(old.features[12].weight, new.features[12].weight, rtol=1e-3, atol=1e-3)


def test_a_missing_file_is_named(tmp_path):
    refused(tmp_path / "nothing.pth", "nothing.pth does not exist")


def test_the_checksum_in_the_name_must_hold(tmp_path, weights, monkeypatch):
    path = tmp_path / vgg.FILE
    path.write_bytes(weights.read_bytes())
    refused(path, "is damaged or cut off: its sha256 starts with")
    monkeypatch.setattr(vgg, "SHA256_PREFIX", hashlib.sha256(weights.read_bytes()).hexdigest()[:8])
    path = tmp_path / f"vgg19-{vgg.SHA256_PREFIX}.pth"
    path.write_bytes(weights.read_bytes())
    assert TransMRSRLoss(vgg=path).vgg is not None


@pytest.fixture
def offline(monkeypatch):
    """No name is resolved and nothing is connected."""

    def refuse(*_args, **_options):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)


def test_offline_one_sentence_says_what_to_do(cache, offline):
    with pytest.raises(InputError) as caught:
        TransMRSRLoss()
    text = str(caught.value)
    assert text.startswith("VGG19's weights could not be downloaded")
    assert "give the path of a copy (vgg=...)" in text
    assert "use_vgg=False" in text
    assert "\n" not in text
    assert list(cache.iterdir()) == []


def served(monkeypatch, content, fails_after=None):
    """A server in place of the real one."""
    asked = []

    class Downloader:
        def __init__(self, **_options):
            pass

        def __call__(self, url, output_file, pooch):
            asked.append(url)
            with open(output_file, "wb") as stream:
                stream.write(content if fails_after is None else content[:fails_after])
            if fails_after is not None:
                raise ConnectionError("Connection broken")

    monkeypatch.setattr("pooch.HTTPDownloader", Downloader)
    return asked


def test_the_file_is_downloaded_once_and_used_offline(cache, monkeypatch, weights, request):
    content = weights.read_bytes()
    monkeypatch.setattr(vgg, "SHA256_PREFIX", hashlib.sha256(content).hexdigest()[:8])
    asked = served(monkeypatch, content)
    first = TransMRSRLoss()
    assert asked == ["https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"]
    assert [p.name for p in cache.iterdir()] == ["vgg19-dcbb9e9d.pth"]
    request.getfixturevalue("offline")
    second = TransMRSRLoss()
    assert len(asked) == 1
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])


def test_a_broken_download_leaves_nothing(cache, monkeypatch, weights):
    served(monkeypatch, weights.read_bytes(), fails_after=1000)
    with pytest.raises(InputError, match=r"could not be downloaded .*Connection broken"):
        TransMRSRLoss()
    assert list(cache.iterdir()) == []


def test_a_download_with_another_checksum_leaves_nothing(cache, monkeypatch, weights):
    served(monkeypatch, weights.read_bytes())
    with pytest.raises(InputError, match="is damaged or cut off: its sha256 starts with"):
        TransMRSRLoss()
    assert list(cache.iterdir()) == []


def test_a_damaged_copy_is_fetched_again(cache, monkeypatch, weights):
    content = weights.read_bytes()
    monkeypatch.setattr(vgg, "SHA256_PREFIX", hashlib.sha256(content).hexdigest()[:8])
    cache.mkdir()
    (cache / vgg.FILE).write_bytes(content[:-1])
    asked = served(monkeypatch, content)
    TransMRSRLoss()
    assert len(asked) == 1
    assert (cache / vgg.FILE).read_bytes() == content


def test_a_damaged_copy_offline_is_kept_and_refused(cache, offline):
    cache.mkdir()
    (cache / vgg.FILE).write_bytes(b"half")
    with pytest.raises(InputError, match="could not be downloaded"):
        TransMRSRLoss()
    assert [p.name for p in cache.iterdir()] == [vgg.FILE]


def test_the_default_layers_are_the_papers():
    assert CONTENT_LAYERS["paper"] == (2, 4, 7, 10)
    assert CONTENT_LAYERS["code"] == (2, 4, 7)
    assert STYLE_LAYERS == perceptual.STYLE_LAYERS == (1, 3, 5, 9, 13)
