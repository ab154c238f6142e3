from __future__ import annotations

import subprocess
import sys

import npe2
import numpy as np
import pytest
from qtpy.QtWidgets import QMessageBox

from napari_mrsr.gui import _compat
from napari_mrsr.gui.reader import NOTHING, get_reader, read
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.gui.writer import write_image
from napari_mrsr.io import read_volume, write_volume

DOCKS = {"Super-resolve", "Compare", "Metrics", "Line profile", "Trust", "Attention probe", "Make low-resolution", "Train"}


def test_manifest_is_found_and_every_command_resolves():
    manifest = npe2.PluginManifest.from_distribution("napari-mrsr")
    manifest.validate_imports()
    assert {w.display_name for w in manifest.contributions.widgets} == DOCKS


def test_plugins_menu_opens_every_dock(viewer):
    for name in sorted(DOCKS):
        _, widget = viewer.window.add_plugin_dock_widget("napari-mrsr", name)
        assert widget is not None


def test_sample_opens_with_roles_and_axial_view(qtbot, viewer):
    viewer.open_sample("napari-mrsr", "arc2017-t1-pair")
    session = Session.of(viewer)
    assert session.layer(Role.GROUND_TRUTH).name == "HR"
    assert session.layer(Role.LOW_RESOLUTION).name == "LR"
    qtbot.waitUntil(lambda: tuple(viewer.dims.order) == (2, 1, 0))


def test_files_open_and_save_through_napari(tmp_path, viewer, head):
    source, target = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    write_volume(head, source)
    viewer.open(source, plugin="napari-mrsr")
    assert viewer.layers[0].name == "a"
    viewer.layers[0].save(str(target), plugin="napari-mrsr")
    again = read_volume(target)
    np.testing.assert_array_equal(again.data, head.data)
    np.testing.assert_allclose(again.affine, head.affine, atol=1e-5)


def test_reader_takes_only_its_files():
    assert get_reader("scan.tif.gz") is None
    assert get_reader(["scan.nii.gz", "scan.png"]) is None
    assert get_reader("scan.MGZ") is not None


def test_broken_file_is_said_and_adds_no_layer(tmp_path, said):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"not an image")
    assert read(str(broken)) == NOTHING
    assert len(said) == 1
    assert "broken.nii.gz" in said[0]


def boxes(viewer):
    return [box for box in _compat.main_window(viewer).findChildren(QMessageBox) if box.isVisible()]


def test_problems_are_seen_while_the_canvas_is_hidden(tmp_path, viewer, said):
    """napari shows its notifications over the canvas only."""
    _compat.show_canvas(viewer, False)
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"not an image")
    assert read(str(broken)) == NOTHING
    assert write_image(str(tmp_path / "flat.nii.gz"), np.zeros((4, 4)), {"name": "flat"}) == []
    assert said == []
    first, second = boxes(viewer)
    assert "broken.nii.gz" in first.text()
    assert "3D" in second.text()
    for box in (first, second):
        box.close()


def test_without_a_viewer_problems_are_still_said(tmp_path, said):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"not an image")
    assert read(str(broken)) == NOTHING
    assert len(said) == 1


def test_4d_file_is_asked_for_by_index(tmp_path, monkeypatch, head):
    import nibabel as nib

    stack = np.stack([head.data, 2 * head.data], -1)
    path = tmp_path / "stack.nii.gz"
    nib.save(nib.Nifti1Image(stack, head.affine), path)
    monkeypatch.setattr("qtpy.QtWidgets.QInputDialog.getInt", lambda *_a, **_k: (1, True))
    ((data, meta, _),) = read(str(path))
    np.testing.assert_array_equal(data, stack[..., 1])
    assert meta["name"] == "stack[1]"


@pytest.mark.parametrize("module", ["super_resolve_dock", "probe_dock", "degrade_dock", "import_weights", "reader"])
def test_docks_import_no_torch(module):
    code = f"import sys, napari_mrsr.gui.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
