from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from toy_network import LAYERS, Convolutions

from napari_mrsr.inference import costs
from napari_mrsr.networks import Architecture, create, register
from napari_mrsr.networks import registry as registry_module
from napari_mrsr.zoo import Card, save_weights, sha256_of


@pytest.fixture(autouse=True)
def own_costs(monkeypatch, tmp_path_factory):
    """What runs cost is remembered apart from the user's own."""
    folder = tmp_path_factory.mktemp("costs")
    monkeypatch.setattr(costs, "costs_file", lambda: folder / "costs.json")


@pytest.fixture
def add_model(monkeypatch, tmp_path):
    """Write weights and card of a network into a private model folder."""
    module = ModuleType("toy_networks")
    module.ARCHITECTURES = {
        "toy": Architecture("toy", "Toy", "", Convolutions, halo=lambda _: LAYERS, bytes_per_voxel=lambda _: 1000),
        "anchored": Architecture("anchored", "Anchored", "", Convolutions, size_multiple=4, halo=lambda _: LAYERS + 3),
    }
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry_module, "_MODULES", dict(registry_module._MODULES))
    for name in module.ARCHITECTURES:
        register(name, module.__name__)
    monkeypatch.setattr("napari_mrsr.zoo.models.user_weights_folder", lambda: tmp_path)

    def add(name="toy-x2", architecture="toy", scale=2, options=None, protocol="gaussian", **changes):
        torch.manual_seed(scale)
        network = create(architecture, scale, **(options or {}))
        path = save_weights(network.state_dict(), tmp_path / f"{name}.safetensors", {}, overwrite=True)
        card = Card(
            name=name, title=name, architecture=architecture, scale=scale, protocol=protocol, options=options or {}, weights=path.name,
            sha256=sha256_of(path), **changes,
        )  # fmt: skip
        (tmp_path / f"{name}.json").write_text(card.model_dump_json())
        return name

    return add


@pytest.fixture
def toy(add_model):
    return add_model()
