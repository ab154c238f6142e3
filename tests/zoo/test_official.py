from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from napari_mrsr.errors import InputError
from napari_mrsr.networks import create
from napari_mrsr.networks.dcamsr import DCAMSR
from napari_mrsr.networks.styleswin import StyleSwinGenerator
from napari_mrsr.networks.transmrsr import TransMRSR
from napari_mrsr.zoo import load_official
from napari_mrsr.zoo.official import read_official
from napari_mrsr.zoo.official import transmrsr as transmrsr_files

PARTS = ("style", "input", "layers", "to_rgbs")


@pytest.fixture(scope="module")
def dcamsr(parity_weights):
    """Official names, built for 32 x 32."""
    return parity_weights("dcamsr_32_keys.txt", "dcamsr32")


@pytest.fixture(scope="module")
def transmrsr(parity_weights):
    return parity_weights("transmrsr_tiny64_keys.txt", "transmrsr_tiny64")


@pytest.fixture(scope="module")
def styleswin(parity_weights):
    """Generator only; the fixture also holds a discriminator."""
    everything = parity_weights("styleswin_tiny64_keys.txt", "styleswin_tiny64")
    return {k: v for k, v in everything.items() if k.split(".")[0] in PARTS}


@pytest.fixture(scope="module")
def arrays(parity_file):
    def read(name):
        return {k: torch.from_numpy(v) for k, v in np.load(parity_file(name)).items() if v.dtype.kind == "f"}

    return read


def published(parity_file, keys, first=0):
    """State dict of a published size without memory: names and shapes from a key list, from its block number `first`."""
    blocks = parity_file(keys).read_text().split("\n#")
    blocks = [b for b in blocks if any(" (" in line and not line.startswith("#") for line in b.splitlines()[1:])]
    state = {}
    for line in blocks[first].splitlines()[1:]:
        if " (" in line and not line.startswith("#"):
            name, sizes = line.split(" ", 1)
            shape = [int(n) for n in sizes[1 : sizes.index(")")].split(",") if n.strip()]
            state[name] = torch.zeros(1).expand(shape)
    return state


def refused(fragment, source, **options):
    with pytest.raises(InputError) as caught:
        load_official(source, **options)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def close(found, expected, tolerance):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@torch.no_grad()
def test_dcamsr_reproduces_the_public_network(dcamsr, arrays):
    expected = arrays("dcamsr_32_x2.npz")
    network = load_official(dcamsr, scale=2)
    assert isinstance(network, DCAMSR)
    assert not network.training
    assert network.size == (32, 32)
    close(network(expected["lr"], expected["ref"]), expected["out"], 1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("truncation", "key"), [("nearest", "out_trunc_nearest_argmin"), ("farthest", "out_trunc_official_argmax"), (None, "out")])
def test_transmrsr_reproduces_the_public_network(transmrsr, arrays, truncation, key):
    expected = arrays("transmrsr_tiny64.npz")
    network = load_official(transmrsr, truncation=truncation, centroids=expected["centers"])
    assert isinstance(network, TransMRSR)
    assert not network.training
    close(network(expected["x"]), expected[key], 2e-4)


@torch.no_grad()
def test_transmrsr_needs_no_centroids(transmrsr, arrays):
    expected = arrays("transmrsr_tiny64.npz")
    close(load_official(transmrsr)(expected["x"]), expected["out"], 2e-4)


@torch.no_grad()
def test_centroids_come_as_table_array_or_file(transmrsr, arrays, tmp_path):
    centers = arrays("transmrsr_tiny64.npz")["centers"]
    np.save(tmp_path / "centers.npy", centers.numpy())
    for given in (centers, centers.numpy(), centers.tolist(), tmp_path / "centers.npy", str(tmp_path / "centers.npy")):
        close(load_official(transmrsr, centroids=given).centroids, centers, 1e-6)


@torch.no_grad()
def test_the_first_stage_is_a_generator(styleswin, arrays):
    expected = arrays("styleswin_tiny64_generator.npz")
    network = load_official({"g": {}, "g_ema": styleswin, "g_optim": {"state": {}}, "args": argparse.Namespace(size=64)})
    assert isinstance(network, StyleSwinGenerator)
    assert not network.training
    close(network(expected["z"]), expected["img"], 2e-4)


@pytest.mark.parametrize(("block", "size", "parameters"), [(0, 256, 9_286_705), (1, 320, 12_383_281)])
def test_both_published_sizes_of_dcamsr(parity_file, block, size, parameters):
    network = load_official(published(parity_file, "dcamsr_official_keys.txt", block), scale=4)
    assert network.size == (size, size)
    assert network.scale == 4
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert not any(p.any() for p in network.parameters())


def test_the_published_size_of_transmrsr(parity_file):
    """Built without memory: 160 million weights take their time."""
    state = published(parity_file, "transmrsr_official_keys.txt")
    options = transmrsr_files.options(state, scale=8)
    with torch.device("meta"):
        network = create("transmrsr", **options)
    assert (network.size, network.style_dim, network.scale) == (256, 512, 8)
    assert sum(p.numel() for p in network.parameters()) == 160_842_497
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in transmrsr_files.convert(state).items()}


def test_the_published_size_of_the_first_stage(parity_file):
    network = load_official(published(parity_file, "styleswin_stage1_official_keys.txt"))
    assert network.size == 256
    assert sum(p.numel() for p in network.parameters()) == 40_628_048


def same(first, second):
    a, b = first.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def prefixed(prefix, state):
    return {prefix + k: v for k, v in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: prefixed("module.", s),
        lambda s: prefixed("network.", s),
        lambda s: {"state_dict": prefixed("network.", s), "epoch": 3, "loss": torch.tensor(0.5)},
        lambda s: {"model": prefixed("module.", s), "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
        lambda s: {"params": s},
        lambda s: {"g_ema": s, "g": prefixed("module.", {k: v + 1 for k, v in s.items()})},
        lambda s: {"net_G_I": prefixed("module.", s), "epoch": 7, "total_iter": 100},
        lambda s: {"state_dict": prefixed("_orig_mod.", s)},
        lambda s: {**s, "epoch": 3, "note": "text"},
        lambda s: {k: v.double() for k, v in s.items()},
    ],
    ids=["plain", "parallel", "prefix", "lightning", "model", "params", "averaged", "trainer", "compiled", "mixed", "double"],
)
@pytest.mark.parametrize("how", ["mapping", "file"])
def test_wrappers_and_prefixes_are_looked_through(dcamsr, tmp_path, wrap, how):
    source = wrap(dcamsr)
    if how == "file":
        torch.save(source, tmp_path / "weights.pth")
        source = tmp_path / "weights.pth"
    same(load_official(source, scale=2), load_official(dcamsr, scale=2))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".CKPT", ".safetensors"])
def test_files_of_all_kinds(dcamsr, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file({k: v.clone() for k, v in dcamsr.items()}, path)
    else:
        torch.save(dcamsr, path, _use_new_zipfile_serialization=suffix != ".pt")
    same(load_official(str(path), scale=2), load_official(dcamsr, scale=2))


def test_lightning_files_with_options_inside(dcamsr, tmp_path):
    options = {"args": argparse.Namespace(lr=1e-4, root=pathlib.Path("/data")), "lr": np.float64(1e-4)}
    content = {
        "epoch": 49,
        "global_step": 100,
        "pytorch-lightning_version": "1.7.0",
        "state_dict": prefixed("network.", dcamsr),
        "hyper_parameters": options,
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(31.5), "best_model_path": pathlib.Path("/x")}},
    }
    torch.save(content, tmp_path / "epoch=49.ckpt")
    same(load_official(tmp_path / "epoch=49.ckpt", scale=2), load_official(dcamsr, scale=2))


def test_loading_leaves_the_source_alone(dcamsr):
    before = {k: v.clone() for k, v in dcamsr.items()}
    network = load_official(dcamsr, scale=2)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1)
    assert all(torch.equal(dcamsr[k], before[k]) for k in before)


def test_options_are_passed_on(dcamsr):
    network = load_official(dcamsr, scale=3, other_sizes="resample", rescale_lr=True)
    assert (network.scale, network.other_sizes, network.amplitude) == (3, "resample", 1.0)


def test_the_scale_of_dcamsr_must_be_given(dcamsr):
    assert refused("give scale", dcamsr).startswith("The state dict: ")


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"scale": 7}, "defined for factors 2, 3, 4, not 7"),
        ({"scale": 2, "colour": "red"}, "colour"),
        ({"scale": 2, "centroids": [[1.0]]}, "centroids"),
        ({"scale": 2, "size": 40}, "size 40x40 is not"),
        ({"scale": 2, "noise_channel": True}, "enc.conv_L1.weight is (64, 1, 3, 3), the network has (64, 2, 3, 3)"),
    ],
)
def test_options_that_do_not_fit_dcamsr_are_refused(dcamsr, options, fragment):
    refused(fragment, dcamsr, **options)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"truncation": "middle"}, "middle"),
        ({"centroids": [[1.0, 2.0]]}, "(clusters, 64) table, not of shape (1, 2)"),
        ({"centroids": torch.full((8, 64), float("nan"))}, "centroids contain NaN"),
        ({"scale": 9}, "not 9"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_options_that_do_not_fit_transmrsr_are_refused(transmrsr, options, fragment):
    refused(fragment, transmrsr, **options)


def test_options_that_do_not_fit_the_generator_are_refused(styleswin):
    refused("colour", styleswin, colour="red")


def test_centroids_files_are_checked(transmrsr, tmp_path):
    (tmp_path / "centers.npy").write_bytes(b"nothing")
    refused("centers.npy holds no table", transmrsr, centroids=tmp_path / "centers.npy")
    refused("does not exist", transmrsr, centroids=tmp_path / "none.npy")


@pytest.mark.parametrize("kind", ["dcamsr", "transmrsr", "styleswin"])
def test_missing_tensors_are_named(request, kind):
    state = dict(request.getfixturevalue(kind))
    name = {"dcamsr": "decoder.conv_out.bias", "transmrsr": "conv_last.bias", "styleswin": "to_rgbs.2.conv.bias"}[kind]
    del state[name]
    refused(f"1 missing (first: {name})", state, scale=2)


@pytest.mark.parametrize("kind", ["dcamsr", "transmrsr", "styleswin"])
def test_unexpected_tensors_are_named(request, kind):
    state = {**request.getfixturevalue(kind), "colour.weight": torch.zeros(3)}
    refused("colour.weight", state, scale=2)


@pytest.mark.parametrize("kind", ["dcamsr", "transmrsr", "styleswin"])
def test_other_shapes_are_named(request, kind):
    state = dict(request.getfixturevalue(kind))
    name = {"dcamsr": "decoder.conv_out.bias", "transmrsr": "conv_last.bias", "styleswin": "to_rgbs.2.conv.bias"}[kind]
    state[name] = torch.zeros(7)
    refused(f"{name} is (7,), the network has", state, scale=2)


def test_missing_tensors_of_all_parts_are_noticed(dcamsr):
    """Of all parts, but for the twin names of the shared projection."""
    for name in list(dcamsr)[::31]:
        if ".epa_block.E." not in name and ".epa_block.F." not in name:
            with pytest.raises(InputError):
                load_official({k: v for k, v in dcamsr.items() if k != name}, scale=2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["dcamsr", "transmrsr", "styleswin"])
def test_values_that_are_not_finite_are_refused(request, kind, value):
    state = dict(request.getfixturevalue(kind))
    name = list(state)[-1]
    state[name] = state[name].clone()
    state[name].view(-1)[-1] = value
    refused(f"the weights {name} contain NaN or infinite values", state, scale=2)


def test_what_is_no_real_number_is_refused(dcamsr):
    name = "decoder.conv_out.bias"
    refused("holds int64 values", {**dcamsr, name: torch.zeros(1, dtype=torch.int64)}, scale=2)
    refused("holds complex64 values", {**dcamsr, name: torch.zeros(1, dtype=torch.complex64)}, scale=2)
    refused("does not hold plain numbers", {**dcamsr, name: torch.zeros(1, device="meta")}, scale=2)
    refused("does not hold plain numbers", {**dcamsr, name: torch.zeros(1).to_sparse()}, scale=2)


@pytest.mark.parametrize(
    "state",
    [
        {"features.0.weight": torch.zeros(3), "features.0.bias": torch.zeros(3)},
        {"enc.conv_L1.weight": torch.zeros(64, 1, 3, 3)},
    ],
)
def test_other_networks_are_refused(state):
    assert "(first: " in refused("holds no weights of the public DCAMSR or TransMRSR", state)


def test_our_own_networks_are_refused():
    refused("holds no weights of the public", create("cftn", 2, channels=4, blocks=2, ca_reduction=2).state_dict())


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {}}, {"state_dict": {"a": 1}}, {0: torch.zeros(1)}])
def test_content_without_weights_is_refused(content, tmp_path):
    refused("holds no weights: a state dict", content)
    torch.save(content, tmp_path / "empty.pth")
    refused("empty.pth holds no weights: a state dict", tmp_path / "empty.pth")


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), 3, "text"])
def test_files_of_other_things_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "odd.pth")
    refused("odd.pth holds no weights", tmp_path / "odd.pth")


def test_content_that_holds_itself_is_refused(tmp_path):
    content = {"epoch": 3}
    content["model"] = content
    torch.save(content, tmp_path / "loop.pth")
    refused("holds no weights", tmp_path / "loop.pth")


def test_two_networks_under_one_name_are_refused(dcamsr):
    mixed = {**prefixed("module.", dcamsr), "enc.conv_L1.weight": torch.zeros(1)}
    refused("both with and without module.", mixed, scale=2)


def test_far_too_many_tensors_are_refused():
    refused("at most 4096", {f"a{i}": torch.zeros(1) for i in range(4097)})


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_with_code_are_refused_and_run_nothing(dcamsr, tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": dcamsr, "hyper_parameters": Code()}, tmp_path / "code.ckpt", _use_new_zipfile_serialization=zipped)
    text = refused("code.ckpt holds more than tensors (", tmp_path / "code.ckpt", scale=2)
    assert "save the state dict alone" in text
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 7, 100, 100_000])
def test_truncated_files_are_refused(dcamsr, tmp_path, suffix, keep):
    path = tmp_path / f"short{suffix}"
    if suffix == ".pth":
        torch.save(dcamsr, path)
    else:
        save_file({k: v.clone() for k, v in dcamsr.items()}, path)
    path.write_bytes(path.read_bytes()[:keep])
    refused(f"short{suffix} is not", path, scale=2)


def test_other_files_are_refused_by_their_names(tmp_path):
    (tmp_path / "brain.nii.gz").write_bytes(b"")
    refused("brain.nii.gz is no weights file; files ending in .pth", tmp_path / "brain.nii.gz")
    refused("does not exist", tmp_path / "none.pth")
    refused("is a folder", tmp_path)


def test_names_and_options_are_told(dcamsr, transmrsr, styleswin):
    found = read_official(dcamsr, "weights", {"scale": 2})
    assert (found.architecture, found.scale, found.options["size"]) == ("dcamsr", 2, 32)
    assert "scale" not in found.options
    with pytest.raises(InputError, match=r"^weights: .*give scale"):
        read_official(dcamsr, "weights", {})
    assert read_official(transmrsr, "weights", {}).scale is None
    assert read_official(transmrsr, "weights", {"scale": 8}).scale == 8
    assert read_official(styleswin, "weights", {}).architecture == "styleswin"


def test_asking_for_it_imports_no_torch():
    code = "import sys, napari_mrsr.zoo as zoo\nzoo.load_official, zoo.import_checkpoint\nsys.exit(bool({'torch', 'safetensors'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
