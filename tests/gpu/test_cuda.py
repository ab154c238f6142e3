from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.inference import super_resolve
from napari_mrsr.networks import create
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
