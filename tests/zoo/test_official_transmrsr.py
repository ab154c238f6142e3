from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from napari_mrsr.errors import InputError
from napari_mrsr.networks import create
from napari_mrsr.networks.styleswin import StyleSwinGenerator
from napari_mrsr.networks.transmrsr import TransMRSR
from napari_mrsr.zoo.official import transmrsr as official

GENERATOR = ("style.", "input.", "layers.", "to_rgbs.")


@pytest.fixture(scope="module")
def published(parity_file):
    """Official names and shapes; every tensor is one zero."""

    def state(keys):
        found = {}
        for line in parity_file(keys).read_text().splitlines():
            if line and not line.startswith("#"):
                name, sizes = line.split(" ", 1)
                shape = [int(n) for n in sizes[1 : sizes.index(")")].split(",") if n.strip()]
                found[name] = torch.zeros(()).expand(shape)
        return found

    return state


@pytest.fixture(scope="module")
def network_state(parity_weights):
    return parity_weights("transmrsr_tiny64_keys.txt", "transmrsr_tiny64")


@pytest.fixture(scope="module")
def generator_state(parity_weights):
    state = parity_weights("styleswin_tiny64_keys.txt", "styleswin_tiny64")
    return {name: tensor for name, tensor in state.items() if name.startswith(GENERATOR)}


def shapes(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def tiny(**options):
    return TransMRSR(**{"size": 64, "width_divisor": 16, "style_dim": 64, **options}).eval()


# --- published sizes ----------------------------------------------------------------------------------------------------------------------


def test_published_network(published):
    state = published("transmrsr_official_keys.txt")
    assert len(state) == 680
    assert official.recognise(state) == "transmrsr"
    options = official.options(state, scale=4)
    assert options == {
        "scale": 4,
        "size": 256,
        "channels": [512, 512, 512, 512, 256, 128, 64],
        "style_dim": 512,
        "window": 8,
        "mlp_ratio": 4.0,
        "encoder_heads": [16, 16, 16, 16, 8, 4],
        "decoder_heads": [16, 16, 16, 16, 8, 4, 4],
        "noise_channel": False,
        "modulation": True,
        "half_modulation": True,
    }
    converted = official.convert(state)
    with torch.device("meta"):
        from_file, plain = create("transmrsr", **json.loads(json.dumps(options))), create("transmrsr", 4)
    assert shapes(converted) == shapes(from_file.state_dict()) == shapes(plain.state_dict())
    assert sum(tensor.numel() for tensor in converted.values()) == 160_842_497


def test_published_generator(published):
    state = published("styleswin_stage1_official_keys.txt")
    assert official.recognise({"g_ema": state, "g": {}, "iter": 900_000}) == "styleswin"
    options = official.options({"g_ema": state})
    with torch.device("meta"):
        from_file, plain = StyleSwinGenerator(**options), StyleSwinGenerator()
    converted = official.convert({"g_ema": state})
    assert shapes(converted) == shapes(from_file.state_dict()) == shapes(plain.state_dict())
    assert sum(tensor.numel() for tensor in converted.values()) == 40_628_048


# --- values -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        lambda state: {"network." + name: tensor for name, tensor in state.items()},
        lambda state: {"net_G_I": {"module." + name: tensor for name, tensor in state.items()}, "opt_G": {}, "epoch": 3, "total_iter": 9},
        lambda state: {"state_dict": {"network.module." + name: tensor for name, tensor in state.items()}},
    ],
    ids=["plain", "prefix", "checkpoint", "both"],
)
def test_every_wrapping_gives_the_same_network(network_state, wrap, parity_file):
    state = wrap(network_state)
    assert official.recognise(state) == "transmrsr"
    net = create("transmrsr", **official.options(state, scale=4)).eval()
    net.load_state_dict(official.convert(state))
    fixture = np.load(parity_file("transmrsr_tiny64.npz"))
    with torch.no_grad():
        out = net.body(torch.from_numpy(fixture["x"][:1]))
    assert (out - torch.from_numpy(fixture["out"][:1])).abs().max() < 2e-4


@pytest.mark.parametrize("form", ["table", "tensor", "file"])
def test_centroids_join_the_weights(network_state, form, tmp_path, parity_file):
    fixture = np.load(parity_file("transmrsr_tiny64.npz"))
    centroids = fixture["centers"]
    if form == "file":
        np.save(tmp_path / "centers.npy", centroids.astype(np.float64))
        centroids = str(tmp_path / "centers.npy")
    elif form == "tensor":
        centroids = torch.from_numpy(centroids)
    given = {"scale": 4, "truncation": "farthest", "centroids": centroids}
    options = json.loads(json.dumps(official.options(network_state, **given)))
    assert (options["clusters"], options["truncation"]) == (8, "farthest")
    net = create("transmrsr", **options).eval()
    net.load_state_dict(official.convert(network_state, **given))
    with torch.no_grad():
        out = net.body(torch.from_numpy(fixture["x"][:1]))
    assert (out - torch.from_numpy(fixture["out_trunc_official_argmax"][:1])).abs().max() < 2e-4


def test_options_follow_the_shapes(network_state):
    """Full modulation, other heads, another ratio, no modulation at all."""
    net = tiny(half_modulation=False, encoder_heads=(2, 8, 4, 1), decoder_heads=(2, 8, 4, 16, 2), mlp_ratio=2.0)
    ours = net.state_dict()
    back = {official._transmrsr_name(name, 64): name for name in network_state if not name.startswith(("MAB.", "fusion_convs."))}
    state = {back[name]: tensor for name, tensor in ours.items()}
    options = official.options(state, scale=2)
    assert options["half_modulation"] is False
    assert options["encoder_heads"] == [2, 8, 4, 1]
    assert options["decoder_heads"] == [2, 8, 4, 16, 2]
    assert options["mlp_ratio"] == 2.0
    create("transmrsr", **options).load_state_dict(official.convert(state))
    bare = {name: tensor for name, tensor in state.items() if not name.startswith("condition_")}
    options = official.options(bare, scale=2, skip=False)
    assert (options["modulation"], options["skip"]) == (False, False)
    create("transmrsr", **options).load_state_dict(official.convert(bare))


def test_buffers_are_left_out(network_state):
    buffers = {
        "layers.0.residual_group.blocks.1.attn_mask": torch.zeros(64, 64, 64),
        "layers.0.residual_group.blocks.0.attn.relative_position_index": torch.zeros(64, 64),
        "generator.layers.2.blocks.0.attn_mask2": torch.zeros(4, 64, 64),
        "generator.layers.0.upsample.sin_pos_embed._float_tensor": torch.zeros(1),
    }
    assert official.convert({**network_state, **buffers}).keys() == official.convert(network_state).keys()


# --- prior --------------------------------------------------------------------------------------------------------------------------------


def test_prior_from_a_public_checkpoint(generator_state):
    net = tiny()
    source = StyleSwinGenerator(**official.options(generator_state))
    source.load_state_dict(official.convert(generator_state))
    before = net.encoder[0].stage.conv.weight.clone()
    assert official.load_prior(net, {"g_ema": generator_state, "d": {}}) == ()
    assert all(torch.equal(p, source.decoder.get_parameter(name)) for name, p in net.decoder.named_parameters())
    assert torch.equal(before, net.encoder[0].stage.conv.weight)
    other = tiny()
    assert official.load_prior(other, source.state_dict()) == ()
    assert torch.equal(other.decoder.start, net.decoder.start)


def test_what_a_prior_lacks_is_named(generator_state):
    state = {name: tensor for name, tensor in generator_state.items() if name != "layers.1.upsample.alpha"}
    assert official.load_prior(tiny(), state) == ("layers.1.upsample.alpha",)


def test_prior_of_another_size(generator_state):
    with pytest.raises(InputError, match="another size or width"):
        official.load_prior(tiny(width_divisor=8), generator_state)
    with pytest.raises(InputError, match="no StyleSwin decoder"):
        official.load_prior(tiny(), {"weight": torch.zeros(1)})


# --- wrong files --------------------------------------------------------------------------------------------------------------------------


def test_other_files_are_not_recognised(network_state):
    for state in ({}, {"head.weight": torch.zeros(1)}, {name: t for name, t in network_state.items() if name != "conv_last.weight"}):
        assert official.recognise(state) is False
        with pytest.raises(InputError, match="neither a TransMRSR nor a StyleSwin"):
            official.convert(state)


def test_scale_must_be_told(network_state):
    with pytest.raises(InputError, match="give scale, for example scale=4"):
        official.options(network_state)


def test_incomplete_and_strange_files(network_state):
    without = {name: tensor for name, tensor in network_state.items() if name != "generator.layers.2.blocks.0.qkv.weight"}
    with pytest.raises(InputError, match=r"no generator\.layers\.2\.blocks\.0\.qkv\.weight"):
        official.options(without, scale=4)
    with pytest.raises(InputError, match=r"conv_extra\.weight is no part of the public TransMRSR"):
        official.convert({**network_state, "conv_extra.weight": torch.zeros(1)})


def test_wrong_centroids(network_state, tmp_path):
    for wrong in (torch.zeros(8, 63), torch.zeros(64)):
        with pytest.raises(InputError, match=r"Centroids must be a \(clusters, 64\) table"):
            official.options(network_state, scale=4, centroids=wrong)
    (tmp_path / "centers.npy").write_bytes(b"no numbers")
    with pytest.raises(InputError, match="no table of centroids"):
        official.convert(network_state, centroids=tmp_path / "centers.npy")
    with pytest.raises(InputError, match="does not exist"):
        official.convert(network_state, centroids=tmp_path / "missing.npy")
