from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest

from napari_mrsr.inference.exchange import exchange_folder, put_volume, take_volume


@pytest.fixture
def folder():
    path = exchange_folder()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize("dtype", ["f4", "f8", "<i2", ">i2", "u1", "?"])
def test_a_volume_comes_back_as_it_was(folder, make_volume, dtype):
    volume = make_volume((7, 5, 6), (1, 2, 3), (10, 20, 30), name="scan").with_record(degradation={"protocol": "gaussian", "noise": 1.5})
    volume = volume.replace(data=volume.data.astype(dtype))
    description = json.loads(json.dumps(put_volume(volume, folder), allow_nan=False))
    taken = take_volume(description)
    np.testing.assert_array_equal(taken.data, volume.data)
    assert taken.data.dtype == volume.data.dtype
    np.testing.assert_array_equal(taken.affine, volume.affine)
    assert (taken.name, taken.record) == (volume.name, volume.record)


def test_views_are_copied_in_order(folder, make_volume):
    volume = make_volume((9, 8, 7))
    view = volume.replace(data=volume.data[::-1, ::2, :].transpose(2, 0, 1))
    np.testing.assert_array_equal(take_volume(put_volume(view, folder)).data, view.data)


def test_the_copy_is_a_copy(folder, make_volume):
    volume = make_volume((4, 4, 4))
    taken = take_volume(put_volume(volume, folder))
    before = volume.data[0, 0, 0]
    volume.data[0, 0, 0] = -1
    assert taken.data[0, 0, 0] == before


@pytest.mark.skipif(sys.platform == "win32", reason="mapped files stay on Windows")
def test_taking_removes_the_file_and_keeps_the_data(folder, make_volume):
    volume = make_volume((4, 4, 4))
    taken = take_volume(put_volume(volume, folder))
    assert list(folder.iterdir()) == []
    folder.rmdir()
    np.testing.assert_array_equal(taken.data, volume.data)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_the_folder_is_private_and_new(folder):
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    other = exchange_folder()
    assert other != folder
    other.rmdir()


@pytest.mark.skipif(sys.platform != "linux", reason="a small /dev/shm of its own")
def test_full_memory_is_an_error_and_not_the_end_of_the_process():
    """Containers give /dev/shm 64 MB; writing through a mapping beyond it kills the process (and the viewer) with SIGBUS."""
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/dev/shm"], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount")
    code = """
import numpy as np
from napari_mrsr.inference.exchange import exchange_folder, put_volume
from napari_mrsr.volume import Volume
folder = exchange_folder()
try:
    put_volume(Volume(np.ones((128, 128, 128), np.float32), np.eye(4)), folder)
except OSError as error:
    print("refused", len(list(folder.iterdir())))
"""
    command = 'mount -t tmpfs -o size=2m none /dev/shm && exec "$0" -c "$1"'
    done = subprocess.run(["unshare", "-m", "sh", "-c", command, sys.executable, code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "refused 0"), done.stderr
