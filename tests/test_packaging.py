from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from napari_mrsr.samples import read_sample

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
QT = {"pyqt5", "pyqt6", "pyside2", "pyside6", "pyqt5-qt5", "pyqt6-qt6"}
SITE = sysconfig.get_paths()["purelib"]


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def can_build_here():
    try:
        return Version(metadata.version("setuptools")) >= Version("77") and bool(metadata.version("wheel")) and bool(metadata.version("build"))
    except metadata.PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("napari_mrsr", "resources", "tests"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "napari.yaml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    if can_build_here():
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source)
    else:
        run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, source)
    (path,) = folder.glob("napari_mrsr-*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def facts(wheel, names):
    """METADATA and entry points."""
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {n.split("/")[0] for n in names if ".dist-info/" in n}
        return Parser().parsestr(archive.read(f"{folder}/METADATA").decode()), archive.read(f"{folder}/entry_points.txt").decode()


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory):
    """Python of a clean environment with the wheel in it; what it depends on is seen, the checkout is not."""
    home = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", "--without-pip", home / "venv")
    python = home / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--disable-pip-version-check", wheel)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    # A plain path line: the folder is searched last, and its own .pth files (the editable install) are not followed.
    (site / "dependencies.pth").write_text(SITE + "\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}

    def ask(code):
        return json.loads(run(python, "-c", code, cwd=home, env={**environment, "HOME": str(home)}).splitlines()[-1])

    ask.site = site
    return ask


def shipped(folder):
    return {f"napari_mrsr/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "resources" / folder).rglob("*") if p.is_file()}


def test_the_wheel_holds_what_the_plugin_needs(names):
    assert "napari_mrsr/napari.yaml" in names
    assert "napari_mrsr/py.typed" in names
    for folder in ("samples", "recipes", "weights"):
        assert shipped(folder) <= set(names)
    assert any(n.startswith("napari_mrsr/resources/samples/") and n.endswith(".nii.gz") for n in names)
    assert any(n.startswith("napari_mrsr/resources/samples/") and "LICENCE" in n.upper() for n in names)
    assert any(n.startswith("napari_mrsr/resources/recipes/") for n in names)
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "napari_mrsr").rglob("*.py")}
    assert {s for s in sources if "/resources/" not in s} <= set(names)


def test_the_wheel_holds_weights(names):
    if not shipped("weights"):
        pytest.skip("no weights are shipped yet")
    assert {"napari_mrsr/resources/weights/cftn-x2.json", "napari_mrsr/resources/weights/cftn-x2.safetensors"} <= set(names)


def test_the_wheel_holds_nothing_else(names):
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"napari_mrsr"}
    assert not [n for n in names if n.endswith((".pyc", ".pt", "~")) or "__pycache__" in n or "test_" in n]
    assert len(names) == len(set(names))


def test_the_wheel_is_not_too_large(wheel):
    assert wheel.stat().st_size < 60e6


def test_no_qt_binding_is_required(facts):
    needs = [Requirement(r) for r in facts[0].get_all("Requires-Dist")]
    always = {r.name.lower() for r in needs if r.marker is None or r.marker.evaluate({"extra": ""})}
    assert {"torch", "napari", "nibabel", "numpy", "qtpy"} <= always
    assert not always & QT
    for extra, binding in (("pyqt5", "pyqt5"), ("pyqt6", "pyqt6")):
        assert binding in {r.name.lower() for r in needs if r.marker is not None and r.marker.evaluate({"extra": extra})}


def test_napari_finds_it(facts):
    data, entry_points = facts
    assert data["Name"] == "napari-mrsr"
    assert "Framework :: napari" in data.get_all("Classifier")
    assert data["License-Expression"] == "BSD-3-Clause"
    assert data["Requires-Python"] == ">=3.11"
    assert "[napari.manifest]\nnapari-mrsr = napari_mrsr:napari.yaml" in entry_points
    assert "[console_scripts]\nnapari-mrsr = napari_mrsr.cli:main" in entry_points


def test_the_sample_opens_from_the_wheel(clean):
    code = """
import json, napari_mrsr
from napari_mrsr.samples import list_samples, read_sample
volume = read_sample("arc2017_T1w")
print(json.dumps([napari_mrsr.__file__, list_samples(), volume.shape, volume.affine.tolist(), float(volume.data.mean())]))
"""
    file, samples, shape, affine, mean = clean(code)
    assert Path(file).is_relative_to(clean.site)
    assert not Path(file).is_relative_to(ROOT)
    assert "arc2017_T1w" in samples
    expected = read_sample("arc2017_T1w")
    assert tuple(shape) == expected.shape
    np.testing.assert_array_equal(affine, expected.affine)
    assert mean == pytest.approx(expected.data.mean())


def test_npe2_finds_the_manifest_of_the_wheel(clean):
    code = """
import json, napari_mrsr
from npe2 import PluginManifest
manifest = PluginManifest.from_distribution("napari-mrsr")
commands = {c.id: c.python_name for c in manifest.contributions.commands}
print(json.dumps([napari_mrsr.__file__, manifest.name, manifest.display_name, str(manifest.package_metadata.name), commands,
                  [w.display_name for w in manifest.contributions.widgets]]))
"""
    file, name, title, package, commands, widgets = clean(code)
    assert Path(file).is_relative_to(clean.site)
    assert (name, package) == ("napari-mrsr", "napari-mrsr")
    assert title
    assert "Super-resolve" in widgets
    assert commands


def test_every_command_of_the_manifest_is_in_the_wheel(clean):
    code = """
import ast, importlib.util, json
from npe2 import PluginManifest
missing = []
for command in PluginManifest.from_distribution("napari-mrsr").contributions.commands:
    module, name = command.python_name.split(":")
    with open(importlib.util.find_spec(module).origin, encoding="utf-8") as stream:
        tree = ast.parse(stream.read())
    if name not in {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}:
        missing.append(command.python_name)
print(json.dumps(missing))
"""
    assert clean(code) == []


def test_models_run_from_the_wheel(clean):
    code = """
import json, numpy as np, napari_mrsr
volume = napari_mrsr.Volume(np.random.default_rng(0).random((12, 12, 12)), np.diag([2, 2, 2, 1]))
second = {card.name: volume if card.reference == "needed" else None for card in napari_mrsr.list_models()}
shapes = {name: napari_mrsr.super_resolve(volume, name, reference=reference).shape for name, reference in second.items()}
print(json.dumps([napari_mrsr.__file__, shapes]))
"""
    file, shapes = clean(code)
    assert Path(file).is_relative_to(clean.site)
    assert {Path(name).stem for name in shipped("weights") if name.endswith(".safetensors")} | {"cubic", "back-projection"} <= shapes.keys()
    assert all(shapes[name] == [24, 24, 24] for name in ("cubic", "back-projection", "cftn-x2"))
    assert all(max(shape) >= 24 and min(shape) >= 12 for shape in shapes.values())
