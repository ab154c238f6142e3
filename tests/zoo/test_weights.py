from __future__ import annotations

import json
import os
import pickle
import stat
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from napari_mrsr.errors import InputError, OutputError
from napari_mrsr.zoo import read_weights, save_weights, sha256_of
from napari_mrsr.zoo import weights as weights_module


def make_network(width=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv3d(1, width, 3), nn.Conv3d(width, 1, 1))


@pytest.fixture
def network():
    return make_network()


@pytest.fixture
def good(tmp_path):
    """A file that fits `network`, with other values."""
    return save_weights(make_network(seed=1).state_dict(), tmp_path / "good.safetensors", {"name": "good"})


def refused(network, path, fragment, sha256=""):
    """The file is refused by one sentence, and the network is as it was."""
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(InputError) as caught:
        read_weights(network, path, sha256)
    assert fragment in str(caught.value)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


def test_weights_survive_their_file(network, good):
    read_weights(network, good, sha256_of(good))
    for key, value in make_network(seed=1).state_dict().items():
        assert torch.equal(network.state_dict()[key], value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_is_taken(network, tmp_path, dtype):
    state = {k: v.to(dtype) for k, v in make_network(seed=1).state_dict().items()}
    read_weights(network, save_weights(state, tmp_path / "half.safetensors", {}))
    assert torch.equal(network[0].weight, state["0.weight"].float())
    assert network[0].weight.dtype == torch.float32


def test_sha256_is_the_known_one(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_changed_byte_is_seen_by_the_checksum(network, good):
    sha256 = sha256_of(good)
    content = bytearray(good.read_bytes())
    content[-1] ^= 1
    good.write_bytes(content)
    refused(network, good, "damaged or was changed", sha256)


@pytest.mark.parametrize("keep", [0, 5, 8, 60, -1])
def test_truncated_files_are_refused(network, good, keep):
    good.write_bytes(good.read_bytes()[:keep])
    refused(network, good, "is not a safetensors file or is cut off")


def test_a_missing_file_is_named(network, tmp_path):
    refused(network, tmp_path / "nothing.safetensors", "does not exist")


def test_a_folder_is_named(network, tmp_path):
    refused(network, tmp_path, "is a folder")


def test_other_shapes_are_refused(network, tmp_path):
    wide = make_network(width=6)
    refused(network, save_weights(wide.state_dict(), tmp_path / "wide.safetensors", {}), "belongs to another width or scale")


def test_one_other_shape_among_many_is_refused(network, tmp_path):
    state = {**make_network().state_dict(), "1.bias": torch.zeros(1, 1)}
    refused(network, save_weights(state, tmp_path / "odd.safetensors", {}), "1.bias is (1, 1), the network has (1,)")


def test_missing_and_unexpected_names_are_refused(network, tmp_path):
    state = make_network().state_dict()
    less = {k: v for k, v in state.items() if k != "1.bias"}
    more = {**state, "2.bias": torch.zeros(1)}
    refused(network, save_weights(less, tmp_path / "less.safetensors", {}), "1 missing (first: 1.bias)")
    refused(network, save_weights(more, tmp_path / "more.safetensors", {}), "1 unexpected (first: 2.bias)")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(network, tmp_path, bad):
    state = make_network(seed=1).state_dict()
    state["1.weight"][0, 2] = bad
    refused(network, save_weights(state, tmp_path / "bad.safetensors", {}), "1.weight contain NaN or infinite values")


def test_values_too_large_for_single_precision_are_refused(network, tmp_path):
    state = {k: v.double() for k, v in make_network(seed=1).state_dict().items()}
    state["0.bias"][0] = 1e300
    refused(network, save_weights(state, tmp_path / "large.safetensors", {}), "NaN or infinite")


def test_integers_are_refused(network, tmp_path):
    state = {k: v.round().to(torch.int32) for k, v in make_network(seed=1).state_dict().items()}
    refused(network, save_weights(state, tmp_path / "whole.safetensors", {}), "I32 values")


def test_an_oversized_header_is_refused_before_it_is_read(network, tmp_path):
    path = tmp_path / "bloat.safetensors"
    path.write_bytes(save(make_network().state_dict(), {"padding": "x" * (2**20 + 1)}))
    refused(network, path, "not a weights file of this project")


@pytest.mark.parametrize("length", [2**20 + 1, 2**40, 2**63])
def test_a_lying_header_is_refused(network, tmp_path, length):
    path = tmp_path / "liar.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}" * 100)
    refused(network, path, "not a weights file of this project")


@pytest.mark.parametrize("content", [b"hello", b'{"a": 1}', b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}', b"\xff\xfe" * 8])
def test_a_nonsense_header_is_refused(network, tmp_path, content):
    path = tmp_path / "nonsense.safetensors"
    path.write_bytes(struct.pack("<Q", len(content)) + content + bytes(4))
    refused(network, path, "is not a safetensors file or is cut off")


def test_too_many_tensors_are_refused(network, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_module, "MAX_TENSORS", 3)
    refused(network, save_weights(make_network().state_dict(), tmp_path / "many.safetensors", {}), "holds 4 tensors; at most 3")


class Trap:
    """Runs code when unpickled by a careless reader."""

    def __reduce__(self):
        return (pytest.fail, ("the file was unpickled",))


@pytest.mark.parametrize("kind", ["pickle", "torch", "torch-legacy"])
def test_a_pickle_by_another_name_is_refused_and_not_run(network, tmp_path, kind):
    path = tmp_path / "pickle.safetensors"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Trap()))
    else:
        torch.save({"trap": Trap()}, path, _use_new_zipfile_serialization=kind == "torch")
    refused(network, path, "is not a")


def test_saving_is_whole_or_not_at_all(good, monkeypatch):
    before = good.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        save_weights(make_network(seed=2).state_dict(), good, {})

    def half(path, content):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OutputError, match="No space left on device"):
        save_weights(make_network(seed=2).state_dict(), good, {}, overwrite=True)
    assert good.read_bytes() == before
    assert list(good.parent.iterdir()) == [good]


def test_a_full_disk_is_one_sentence(good, full_disk):
    """The real thing: the writer's own error, not one raised by hand."""
    before = good.read_bytes()
    with full_disk(1000), pytest.raises(OutputError):
        save_weights({"a": torch.zeros(10_000)}, good, {}, overwrite=True)
    assert good.read_bytes() == before
    assert list(good.parent.iterdir()) == [good]


@pytest.fixture
def full_disk():
    """Files may not grow beyond some bytes, as on a disk that is full."""
    resource = pytest.importorskip("resource")
    from contextlib import contextmanager

    @contextmanager
    def limit(size):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


def test_metadata_is_kept(good):
    header = good.read_bytes()
    length = struct.unpack("<Q", header[:8])[0]
    assert json.loads(header[8 : 8 + length])["__metadata__"] == {"napari_mrsr": '{"name": "good"}'}


def test_the_same_weights_make_the_same_file(tmp_path):
    """Else the checksum of a repeated training would differ although nothing else does."""
    metadata = {"name": "toy", "architecture": "toy", "recipe": "0123", "more": "words"}
    sums = {sha256_of(save_weights(make_network().state_dict(), tmp_path / f"{n}.safetensors", metadata)) for n in range(8)}
    assert len(sums) == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_others_may_read_the_file(tmp_path):
    """Weights installed or trained by one user are for all, as far as that user's umask allows."""
    plain = tmp_path / "plain"
    plain.write_text("x")
    path = save_weights(make_network().state_dict(), tmp_path / "a.safetensors", {})
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
