"""Host memory stays within input, output and a constant: an operating-system limit on private memory, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_mrsr.errors import RunError
from napari_mrsr.inference import engine, super_resolve
from napari_mrsr.inference.store import Store

MIB = 2**20
CONSTANT = 128 * MIB
"""Tiles, thread stacks, and what the first look at the input takes."""
SHAPE = (192, 192, 128)
OUTPUT = 8 * 4 * int(np.prod(SHAPE))

CHILD = """
import json, resource, sys
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, {helpers!r})
torch.set_num_threads(1)

import napari_mrsr.inference.engine
from napari_mrsr.cli.common import run_model
from napari_mrsr.inference import Noticed, RunDone, RunOptions, costs, run
from napari_mrsr.io import read_volume, write_volume
from napari_mrsr.networks import Architecture, create, register
from napari_mrsr.zoo import Card, models, save_weights, sha256_of


class Repeat(nn.Module):
    def __init__(self, scale=2):
        super().__init__()
        self.scale, self.unit = scale, nn.Parameter(torch.ones(1))

    def forward(self, lr, reference=None, noise_level=None):
        return F.interpolate(lr, scale_factor=self.scale) * self.unit


folder, keep, limit = Path(sys.argv[1]), sys.argv[2] == "disk", int(sys.argv[3])
module = ModuleType("repeat")
module.ARCHITECTURES = {{"repeat": Architecture("repeat", "Repeat", "", Repeat, halo=lambda _: 2, bytes_per_voxel=lambda _: 100)}}
sys.modules["repeat"] = module
register("repeat", "repeat")
models.user_weights_folder = lambda: folder
costs.costs_file = lambda: folder / "costs.json"
path = save_weights(create("repeat", 2).state_dict(), folder / "repeat-x2.safetensors", {{}})
card = Card(name="repeat-x2", title="R", architecture="repeat", scale=2, protocol="gaussian", weights=path.name, sha256=sha256_of(path))
(folder / "repeat-x2.json").write_text(card.model_dump_json())

status = Path("/proc/self/status").read_text()
used = next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used + limit, used + limit))
options = RunOptions.create(model="repeat-x2", tile=48, skip_air=False, device="cpu")
volume = read_volume(folder / "low.nii")
if keep:
    done = run_model(volume, options, keep=folder / "tiles")
    written = write_volume(done.volume, folder / "high.nii")
    print(json.dumps({{"shape": done.volume.shape, "kind": type(done.volume.data).__name__}}))
else:
    events = list(run(volume, options))
    kind = type(events[-1].volume.data).__name__
    print(json.dumps({{"shape": events[-1].volume.shape, "kind": kind, "noticed": [e.message for e in events if isinstance(e, Noticed)]}}))
"""


def child(tmp_path, where, limit):
    """Run the toy in a process that may not take more private memory than so much beyond its start."""
    data = np.zeros(SHAPE, np.int16)
    data[20:-20, 30:-30, 10:-10] = np.random.default_rng(0).integers(200, 1000, (152, 132, 108))
    # Stored back to front: written results are turned round again.
    nib.save(nib.Nifti1Image(data, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / "low.nii")
    script = CHILD.format(helpers=str(Path(__file__).parents[1] / "helpers"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NAPARI_MRSR_PRECISION": "float32"}
    command = [sys.executable, "-c", script, str(tmp_path), where, str(limit)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300), data


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize("where", ["disk", "memory"])
def test_memory_stays_within_input_output_and_a_constant(tmp_path, where):
    limit = 4 * int(np.prod(SHAPE)) + CONSTANT + (OUTPUT if where == "memory" else 0)
    assert OUTPUT > CONSTANT  # a second copy of the result would not fit
    ran, data = child(tmp_path, where, limit)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["shape"] == [2 * n for n in SHAPE]
    assert "ran out of memory" not in ran.stderr
    assert found.get("noticed", []) == []
    if where == "disk":
        assert found["kind"] == "memmap"
        high = nib.load(tmp_path / "high.nii")
        assert nib.aff2axcodes(high.affine) == ("L", "P", "S")
        np.testing.assert_allclose(np.asarray(high.dataobj)[::2, ::2, ::2], data, rtol=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_the_limit_is_felt(tmp_path):
    """Without room for the result in memory it grows in a file."""
    ran, _ = child(tmp_path, "memory", 4 * int(np.prod(SHAPE)) + CONSTANT)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1])["kind"] == "memmap"


def test_too_little_memory_to_begin_with_is_a_sentence(make_volume, toy, monkeypatch):
    monkeypatch.setattr(engine, "set_up", refuse)
    with pytest.raises(RunError, match=r"There is too little memory to prepare synthetic \(no\); crop it, or close other programs"):
        super_resolve(make_volume((9, 9, 9)), toy)


def test_a_result_that_memory_refuses_grows_in_a_file(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with monkeypatch.context() as full:
        full.setattr(np, "zeros", refuse)
        place = Store((3, 4, 5), ("", "map"))
    assert {type(array) for array in place.arrays.values()} == {np.memmap}
    assert place.spilled == tmp_path
    assert list(tmp_path.iterdir()) == []


def refuse(*_, **__):
    raise MemoryError("no")
