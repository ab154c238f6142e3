from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks import Architecture, create, get_architecture, names, register
from napari_mrsr.networks import registry as registry_module


class Toy(nn.Module):
    """A network of one weight."""

    def __init__(self, scale: int, start: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.gain = nn.Parameter(torch.tensor(start))

    def forward(self, lr, reference=None, noise_level=None):
        up = lr
        for axis in (2, 3, 4):
            up = up.repeat_interleave(self.scale, axis)
        return self.gain * up


@pytest.fixture
def toy(monkeypatch):
    """A network somebody else wrote, registered by one line."""
    module = ModuleType("somebodys_toy")
    module.ARCHITECTURES = {"toy": Architecture(name="toy", title="Toy", paper="none", build=Toy, scales=(2, 5))}
    monkeypatch.setitem(sys.modules, "somebodys_toy", module)
    monkeypatch.setattr(registry_module, "_MODULES", dict(registry_module._MODULES))
    register("toy", "somebodys_toy")


def test_known_methods():
    assert {"cftn", "nearest", "cubic", "lanczos", "zero-fill", "back-projection"} <= set(names())
    assert "toy" not in names()


@pytest.mark.parametrize("name", sorted(names()))
def test_every_entry_builds_and_keeps_the_call_convention(name):
    architecture = get_architecture(name)
    assert architecture.name == name
    assert architecture.title
    scale = architecture.scales[0]
    options = {"channels": 4, "blocks": 2} if name == "cftn" else {}
    net = create(name, scale=scale, **options)
    lr = torch.rand(1, 1, 6, 7, 5)
    with torch.no_grad():
        out = net(lr, reference=None, noise_level=None)
    assert out.shape == (1, 1, 6 * scale, 7 * scale, 5 * scale)
    assert out.dtype == lr.dtype
    assert architecture.learned == any(True for _ in net.parameters())
    assert architecture.halo(net) >= 0
    assert architecture.normalization in ("range", "none")


def test_a_sixth_network(toy):
    assert names()[-1] == "toy"
    architecture = get_architecture("toy")
    assert (architecture.title, architecture.dimension, architecture.reference, architecture.learned) == ("Toy", 3, "none", True)
    net = create("toy", scale=5, start=3.0)
    assert net(torch.ones(1, 1, 1, 2, 1)).shape == (1, 1, 5, 10, 5)
    assert float(net(torch.ones(1, 1, 1, 1, 1)).mean()) == 3
    with pytest.raises(InputError, match="Toy is defined for factors 2, 5, not 3"):
        create("toy", scale=3)
    with pytest.raises(InputError, match=r"Toy: .*width"):
        create("toy", width=3)


def test_unknown_names_get_the_list(toy):
    with pytest.raises(InputError, match=r"Unknown network 'espcn': use one of cftn, .*toy") as caught:
        get_architecture("espcn")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="Unknown network"):
        create("espcn")


def test_asking_for_names_loads_no_torch():
    code = "import sys, napari_mrsr.networks as n; n.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
