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


SMALL = {
    "cftn": {"channels": 4, "blocks": 2},
    "fdvit": {"channels": 4, "blocks": 2},
    "dcamsr": {"size": 24, "channels": 8, "heads": 2, "projection": 4, "encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1, 1, 1, 1, 1)},
    "cohft": {"width": 8, "growth": 4, "stages": 1, "rrdbs": 1},
    "transmrsr": {"size": 64, "width_divisor": 16, "style_dim": 64},
}


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
    net = create(name, scale=scale, **SMALL.get(name, {})).eval()
    size = (6, 7, 5) if architecture.dimension == 3 else (9, 7)
    fine = tuple(n * (1 if architecture.pre_interpolated else scale) for n in size)
    lr = torch.rand(1, 1, *size)
    reference = torch.rand(1, 1, *fine) if architecture.reference != "none" else None
    with torch.no_grad():
        out = net(lr, reference=reference, noise_level=None)
    assert out.shape == (1, 1, *fine)
    assert out.dtype == lr.dtype
    assert architecture.learned == any(True for _ in net.parameters())
    halo = architecture.halo(net)
    assert halo is None or halo >= 0
    assert architecture.tiling == ("whole" if not architecture.learned else "halo" if architecture.dimension == 3 else "planes")
    assert architecture.bytes_per_voxel(net) > 0
    scaling = architecture.scaling(net, lr * 500, 500.0)
    torch.testing.assert_close(scaling.output(scaling.target(fine_like(lr))), fine_like(lr), rtol=1e-3, atol=1e-2)


def fine_like(lr):
    return 250 + 100 * torch.sin(torch.arange(lr.numel())).view(lr.shape)


@pytest.mark.parametrize("name", [n for n in names() if get_architecture(n).learned])
def test_every_network_takes_the_noise_level_if_asked(name):
    architecture = get_architecture(name)
    scale = architecture.scales[0]
    size = (6, 7, 5) if architecture.dimension == 3 else (9, 7)
    fine = tuple(n * (1 if architecture.pre_interpolated else scale) for n in size)
    lr = torch.rand(1, 1, *size)
    reference = torch.rand(1, 1, *fine) if architecture.reference != "none" else None
    torch.manual_seed(0)
    net = create(name, scale=scale, noise_channel=True, **SMALL[name]).eval()
    with torch.no_grad():
        quiet, zero, noisy = (net(lr, reference=reference, noise_level=level) for level in (None, 0.0, torch.full((1, 1, *(1,) * len(size)), 0.1)))
        each = net(lr, reference=reference, noise_level=torch.tensor([0.1]))
    assert torch.equal(quiet, zero)
    assert torch.equal(each, noisy)
    assert not torch.equal(quiet, noisy)


@pytest.mark.parametrize("name", [n for n in names() if get_architecture(n).learned])
def test_every_map_is_described(name):
    net = create(name, scale=get_architecture(name).scales[0], **SMALL[name])
    infos = get_architecture(name).maps(net)
    assert len({info.name for info in infos}) == len(infos)
    for info in infos:
        assert info.title
        assert len(info.description) > 40, info
        assert info.description.endswith(".")


def test_a_sixth_network(toy):
    assert names()[-1] == "toy"
    architecture = get_architecture("toy")
    assert (architecture.title, architecture.dimension, architecture.reference, architecture.learned) == ("Toy", 3, "none", True)
    net = create("toy", scale=5, start=3.0)
    assert net(torch.ones(1, 1, 1, 2, 1)).shape == (1, 1, 5, 10, 5)
    assert float(net(torch.ones(1, 1, 1, 1, 1)).mean()) == 3
    with pytest.raises(InputError, match="Toy is defined for factors 2, 5, not 3"):
        create("toy", scale=3)
    with pytest.raises(InputError, match="Toy has no option 'width'"):
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
