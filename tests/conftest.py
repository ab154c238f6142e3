"""Shared fixtures: real data, synthetic volumes, storage orders."""

from __future__ import annotations

import itertools
import os
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from scipy import ndimage
from scipy.spatial.transform import Rotation

from napari_mrsr.volume import Volume

SHARED = Path(__file__).resolve().parents[2] / "shared"
STORAGE_ORDERS = [(perm, flips) for perm in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)]

settings.register_profile("mrsr", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mrsr")


def pytest_configure(config):
    # Results are compared with each other; what the precision costs has tests of its own.
    os.environ["NAPARI_MRSR_PRECISION"] = "float32"


@pytest.fixture(autouse=True)
def _one_thread():
    """Commands called inside the tests take every core; sums differ in their last digits then."""
    torch.set_num_threads(1)


def pytest_generate_tests(metafunc):
    if "storage_order" in metafunc.fixturenames:
        names = ["".join("RAS"[a] if f > 0 else "LPI"[a] for a, f in zip(perm, flips, strict=True)) for perm, flips in STORAGE_ORDERS]
        metafunc.parametrize("storage_order", STORAGE_ORDERS, ids=names)


@pytest.fixture(scope="session")
def storage_orders():
    """The 48 (axis permutation, flips) a file can be stored in."""
    return STORAGE_ORDERS


@pytest.fixture(scope="session")
def shared_data():
    """Path of a file below ../shared/data; the test is skipped where it is missing."""

    def path(name: str) -> Path:
        full = SHARED / "data" / name
        if not full.exists():
            pytest.skip(f"{full} is not here")
        return full

    return path


@pytest.fixture(scope="session")
def parity_file():
    """Path of a file below ../shared/fixtures/parity; the test is skipped where it is missing."""

    def path(name: str) -> Path:
        full = SHARED / "fixtures" / "parity" / name
        if not full.exists():
            pytest.skip(f"{full} is not here")
        return full

    return path


@pytest.fixture(scope="session")
def parity_weights(parity_file):
    """State dict of a reference implementation from its key list and salt, by the recipe of the fixtures' README."""

    def value(name: str, shape: tuple[int, ...], salt: str) -> np.ndarray:
        last = name.rsplit(".", 1)[-1]
        if "temperature" in last:
            mean, std = 1.0, 0.5
        elif last == "alpha":
            mean, std = 0.0, 0.5
        elif "relative_position_bias_table" in name:
            mean, std = 0.0, 0.2
        elif last == "input":
            mean, std = 0.0, 1.0
        elif len(shape) == 1:
            mean, std = (1.0, 0.1) if last == "weight" else (0.0, 0.05)
        elif name.startswith("final_layers") or name.split(".")[0] == "style":
            mean, std = 0.0, 100.0
        elif ".style.weight" in name or name.startswith(("condition_", "fusion_convs")):
            mean, std = 0.0, 1.0
        else:
            mean, std = 0.0, (0.7 if len(shape) == 4 else 1.0) / np.sqrt(np.prod(shape[1:]))
        rng = np.random.default_rng(zlib.crc32(f"{salt}|{name}".encode()))
        return (mean + std * rng.standard_normal(shape)).astype(np.float32)

    def weights(keys: str, salt: str) -> dict[str, torch.Tensor]:
        state = {}
        for line in parity_file(keys).read_text().splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            name, sizes = line.split(" ", 1)
            shape = tuple(int(n) for n in sizes[1 : sizes.index(")")].split(",") if n.strip())
            buffers = ("relative_position_index", "attn_mask", "_float_tensor", "kernel")
            if name.rsplit(".", 1)[-1].startswith(buffers):
                continue
            state[name] = torch.from_numpy(value(name.replace("epa_block.F.", "epa_block.E."), shape, salt))
        return state

    return weights


@pytest.fixture(scope="session")
def store():
    """Write a RAS array and affine in another axis order, worked out index by index."""

    def reorder(data, affine, perm, flips):
        stored = np.transpose(data, perm)[tuple(slice(None, None, f) for f in flips)]
        to_ras = np.zeros((4, 4))
        to_ras[3, 3] = 1
        for k, (axis, flip) in enumerate(zip(perm, flips, strict=True)):
            to_ras[axis, k] = flip
            to_ras[axis, 3] = 0 if flip > 0 else data.shape[axis] - 1
        return stored, affine @ to_ras

    return reorder


@pytest.fixture(scope="session")
def make_affine():
    """Voxel-to-mm affine of given spacings, turned by Euler angles in degrees."""

    def affine(voxel=(1.0, 1.0, 1.0), angles=(0.0, 0.0, 0.0), origin=(-31.5, 12.25, 7.125)):
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(voxel)
        matrix[:3, 3] = origin
        return matrix

    return affine


@pytest.fixture(scope="session")
def smooth_array():
    """Random positive array without fine detail, float64, about 0 to 1000."""

    def array(shape, sigma=2.5, seed=0, mode="reflect"):
        noise = np.random.default_rng(seed).standard_normal(shape)
        data = ndimage.gaussian_filter(noise, sigma, mode=mode)
        return 1000 * (data - data.min()) / np.ptp(data)

    return array


@pytest.fixture(scope="session")
def make_volume(make_affine, smooth_array):
    """Small synthetic RAS volume."""

    def volume(shape=(20, 22, 18), voxel=(1.0, 1.0, 1.0), angles=(0.0, 0.0, 0.0), sigma=2.0, seed=0, **changes):
        return Volume(smooth_array(shape, sigma, seed), make_affine(voxel, angles), **{"name": "synthetic", **changes})

    return volume


@pytest.fixture(scope="session")
def head_crop(shared_data):
    """A 64^3 piece of a real T1 volume (float64), with its affine."""
    from napari_mrsr.io import read_volume

    volume = read_volume(shared_data("t1_3d/test/sub-nvn/sub-nvn_T1w.nii.gz"))
    starts = [(n - 64) // 2 for n in volume.shape]
    crop = volume.crop([slice(s, s + 64) for s in starts])
    return crop.replace(data=crop.data.astype(np.float64), name="nvn")


@pytest.fixture
def console(monkeypatch, capfd):
    """Run a command as the console script does; gives exit code and both streams."""
    from napari_mrsr import cli

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["napari-mrsr", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capfd.readouterr()
        return SimpleNamespace(code=stop.value.code or 0, out=out, err=err)

    return command
