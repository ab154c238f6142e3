from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.inference import super_resolve
from napari_mrsr.networks import create, get_architecture
from napari_mrsr.volume import Volume

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def low() -> Volume:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (64, 72, 56)), indexing="ij")
    data = ((x**2 + y**2 + z**2) < 0.8) * (400 + 150 * np.sin(9 * x) * np.cos(7 * y) * np.sin(8 * z))
    return degrade(Volume(data.astype(np.float32), np.eye(4)), Degradation())


@pytest.mark.parametrize("model", ["cftn-x2", "cubic", "back-projection"])
def test_gpu_gives_what_the_cpu_gives(low, model):
    cpu, gpu = (super_resolve(low, model, device=device).data for device in ("cpu", "cuda"))
    assert np.abs(cpu - gpu).max() < 1e-3 * cpu.max()


def test_memory_comes_back(low):
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    super_resolve(low, "cftn-x2", device="cuda")
    assert torch.cuda.memory_allocated() == before


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_forward_is_finite(kind):
    network = create("cftn", 2, channels=16).cuda().eval()
    with torch.inference_mode(), torch.autocast("cuda", kind):
        assert torch.isfinite(network(torch.rand(1, 1, 26, 25, 24, device="cuda"))).all()


SMALL = {
    "cftn": (3, {"channels": 8, "blocks": 2}),
    "fdvit": (2, {"channels": 8, "blocks": 2}),
    "dcamsr": (2, {"size": 32, "channels": 16, "heads": 4, "projection": 8}),
    "cohft": (2, {"width": 8, "growth": 4, "stages": 1, "rrdbs": 1}),
    "transmrsr": (2, {"size": 64, "width_divisor": 16, "style_dim": 64}),
}


def pair(name, device, kind=torch.float32):
    """A small network and its inputs, the same on every device."""
    dimension, options = SMALL[name]
    torch.manual_seed(0)
    network = create(name, 2, **options).eval().to(device, kind)
    architecture = get_architecture(name)
    lr = torch.rand(2, 1, *((21, 18, 19) if dimension == 3 else (37, 42)))
    fine = [n * (1 if architecture.pre_interpolated else 2) for n in lr.shape[2:]]
    reference = torch.rand(2, 1, *fine).to(device, kind) if architecture.reference != "none" else None
    return network, lr.to(device, kind), reference


@pytest.mark.parametrize("name", SMALL)
def test_networks_agree_on_both_devices(name):
    with torch.inference_mode():
        outputs = [network(lr, reference=reference).cpu() for network, lr, reference in (pair(name, d) for d in ("cpu", "cuda"))]
    torch.testing.assert_close(outputs[0], outputs[1], atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", SMALL)
def test_networks_run_in_half_precision(name, kind):
    network, lr, reference = pair(name, "cuda", kind)
    with torch.inference_mode():
        out = network(lr, reference=reference)
    assert out.dtype == kind
    assert torch.isfinite(out).all()


def test_attention_over_the_whole_volume_is_that_of_the_cpu(low):
    options = {"attention": "global", "precision": "float32", "tile": 16}
    cpu, gpu = (super_resolve(low, "cftn-x2", device=device, **options).data for device in ("cpu", "cuda"))
    assert np.abs(cpu - gpu).max() < 1e-3 * cpu.max()
