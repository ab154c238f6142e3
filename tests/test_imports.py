from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "napari_mrsr"
SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if "resources" not in p.relative_to(PACKAGE).parts)
VIEWER = ("napari", "qtpy", "PyQt5", "PyQt6", "PySide6", "magicgui", "superqt", "pyqtgraph", "vispy")
HEAVY = ("torch", "lightning_fabric", "monai", "matplotlib", *VIEWER)
TORCH = ("torch", "lightning_fabric", "monai", "einops", "safetensors")
NEEDS_TORCH = ("napari_mrsr.networks.cftn", "napari_mrsr.networks.classic", "napari_mrsr.inference.engine", "napari_mrsr.training.")
TRAINING_WITHOUT_TORCH = ("napari_mrsr.training.recipe", "napari_mrsr.training.runs", "napari_mrsr.training.history", "napari_mrsr.training.people")


def test_there_are_sources():
    assert len(SOURCES) > 40


@pytest.mark.parametrize(
    "statement",
    [
        "import napari_mrsr",
        "import napari_mrsr.zoo",
        "import napari_mrsr.cli",
        "import napari_mrsr.inference",
        "import napari_mrsr.networks, napari_mrsr.degradation, napari_mrsr.evaluation, napari_mrsr.io",
        "import napari_mrsr; napari_mrsr.read_volume, napari_mrsr.list_models, napari_mrsr.Degradation, napari_mrsr.compare",
    ],
)
def test_importing_is_cheap(statement):
    """No torch, no napari, no Qt: asked in a process of its own."""
    code = f"import sys\n{statement}\nprint(*sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


@pytest.mark.parametrize("module", ["napari_mrsr.inference.worker", "napari_mrsr.training.jobs", "napari_mrsr.figures", "napari_mrsr.diagnostics"])
def test_nothing_below_the_viewer_loads_qt_or_napari(module):
    code = f"import sys, {module}\nprint(*sorted(set({VIEWER}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_every_public_name_is_there():
    code = "import napari_mrsr as m\nassert all(getattr(m, n) is not None for n in m.__all__)\nassert set(dir(m)) == set(m.__all__)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def imported(node):
    """Modules a statement imports, with the names taken from them."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def at_import_time(body):
    """Statements that run when a module is imported: everything outside functions and ``if TYPE_CHECKING``."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from at_import_time(node.orelse)
            continue
        yield node
        for part in ("body", "orelse", "finalbody", "handlers"):
            yield from at_import_time(getattr(node, part, []))


@pytest.mark.parametrize("path", sorted((PACKAGE / "gui").rglob("*.py")), ids=lambda p: p.stem)
def test_the_viewer_side_imports_no_torch_at_module_level(path):
    names = [name for node in at_import_time(ast.parse(path.read_text("utf-8")).body) for name in imported(node)]
    names = [n for n in names if not n.startswith(TRAINING_WITHOUT_TORCH)]
    assert not [n for n in names if n.split(".")[0] in TORCH or n.startswith(NEEDS_TORCH)]


def test_what_the_training_dock_imports_loads_no_torch():
    code = f"import sys, {', '.join(TRAINING_WITHOUT_TORCH)}\nprint(*sorted(set({TORCH}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_sources_are_short_and_import_absolutely(path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 400
    assert not [node.lineno for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) and node.level]


def test_the_scan_sees_what_it_should():
    code = """
import torch
if TYPE_CHECKING:
    import numpy
def f():
    import monai
class A:
    from einops import rearrange
try:
    import safetensors.torch
except ImportError:
    pass
"""
    names = [name for node in at_import_time(ast.parse(code).body) for name in imported(node)]
    assert names == ["torch", "einops", "einops.rearrange", "safetensors.torch"]
