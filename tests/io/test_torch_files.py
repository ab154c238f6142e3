from __future__ import annotations

import argparse
import collections
import os
import pathlib
import pickle
import random
import sys
import types

import numpy as np
import pytest
import torch

from napari_mrsr.errors import InputError
from napari_mrsr.io.torch_files import read_torch_file

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])


def save(content, path, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


class Code:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Plain:
    pass


@FORMATS
def test_tensors_and_plain_values_come_back(tmp_path, zipped):
    content = {
        "a": torch.randn(3, 4),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "view": torch.arange(6.0).view(2, 3).t(),
        "nested": [1, 2.5, "text", None, (True, {"x": 1})],
        "ordered": collections.OrderedDict(b=torch.zeros(1)),
    }
    found = read_torch_file(save(content, tmp_path / "a.pth", zipped))
    assert found.keys() == content.keys()
    for key in ("a", "half", "view"):
        assert torch.equal(found[key], content[key])
        assert found[key].dtype == content[key].dtype
    assert found["nested"] == content["nested"]
    assert torch.equal(found["ordered"]["b"], torch.zeros(1))


@FORMATS
@pytest.mark.parametrize(
    "beside",
    [
        argparse.Namespace(lr=0.1, where=pathlib.Path("/somewhere")),
        pathlib.Path("/somewhere"),
        np.float32(3),
        np.arange(4),
        collections.defaultdict(dict),
        dict,
    ],
    ids=["namespace", "path", "number", "array", "defaultdict", "dict"],
)
def test_options_of_harmless_classes_are_passed_over(tmp_path, zipped, beside):
    content = {"hyper_parameters": {"args": beside}, "state_dict": {"a": torch.ones(2)}}
    found = read_torch_file(save(content, tmp_path / "a.ckpt", zipped))
    assert torch.equal(found["state_dict"]["a"], torch.ones(2))
    assert not hasattr(found["hyper_parameters"]["args"], "lr")


def test_omegaconf_is_passed_over_without_being_imported(tmp_path, monkeypatch):
    module = types.ModuleType("omegaconf.dictconfig")

    class DictConfig:
        def __init__(self):
            self.content = {"lr": 0.1}

    DictConfig.__module__, DictConfig.__qualname__ = module.__name__, "DictConfig"
    module.DictConfig = DictConfig
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
        context.setitem(sys.modules, module.__name__, module)
        save({"hyper_parameters": DictConfig(), "a": torch.ones(2)}, tmp_path / "a.ckpt")
    found = read_torch_file(tmp_path / "a.ckpt")
    assert torch.equal(found["a"], torch.ones(2))
    assert type(found["hyper_parameters"]) is not DictConfig
    assert module.__name__ not in sys.modules


def test_the_exceptions_do_not_stay(tmp_path):
    """Another program's torch.load in this process is as strict as before."""
    path = save({"a": argparse.Namespace(x=1)}, tmp_path / "a.pth")
    read_torch_file(path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


@FORMATS
@pytest.mark.parametrize(
    ("beside", "name"),
    [
        (Code(os.mkdir, "ran"), "mkdir"),
        (Code(eval, "__import__('os').mkdir('ran')"), "eval"),
        (Code(exec, "import os; os.mkdir('ran')"), "exec"),
        (Code(getattr, "text", "upper"), "getattr"),
        (Plain(), "Plain"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
    ],
    ids=["os", "eval", "exec", "getattr", "object", "module"],
)
def test_anything_else_is_refused_by_name_and_never_run(tmp_path, monkeypatch, zipped, beside, name):
    monkeypatch.chdir(tmp_path)
    path = save({"a": torch.ones(2), "x": beside}, tmp_path / "a.pth", zipped)
    with pytest.raises(InputError) as caught:
        read_torch_file(path)
    text = str(caught.value)
    assert text.startswith("a.pth holds more than tensors (")
    assert name in text
    assert "save the state dict alone" in text
    assert "\n" not in text
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text\n" * 50, b"\x80\x02.", b"\x80\x02}q\x00.", bytes(1000)])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^a\.pth is not a PyTorch file of tensors, or is damaged") as caught:
        read_torch_file(path)
    assert "\n" not in str(caught.value)


@FORMATS
def test_damaged_files_give_one_sentence(tmp_path, zipped):
    content = {"state_dict": {"a.weight": torch.randn(4, 3), "b": torch.ones(2).half()}, "hp": argparse.Namespace(a=1), "n": 3}
    good = save(content, tmp_path / "good.pth", zipped).read_bytes()
    path = tmp_path / "bad.pth"
    generator = random.Random(0)
    refused = []
    for round_ in range(300):
        data = bytearray(good)
        if round_ % 3 == 0:
            data = data[: generator.randrange(len(data))]
        else:
            for _ in range(generator.choice((1, 3, 20))):
                data[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(data)
        try:
            read_torch_file(path)
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all(text.startswith("bad.pth ") and "\n" not in text for text in refused)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_torch_file(tmp_path / "nothing.pth")
    with pytest.raises(InputError, match="is a folder"):
        read_torch_file(tmp_path)
