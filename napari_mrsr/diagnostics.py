"""Facts for a support request: versions, devices, graphics."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys

PACKAGES = ("napari-mrsr", "napari", "npe2", "torch", "numpy", "nibabel", "scikit-image", "qtpy", "PyQt5", "PyQt6", "PySide6", "vispy", "monai")


def diagnostics() -> dict[str, str]:
    """Versions of what matters, devices torch can use, and the OpenGL the viewer would get.

    Graphics are asked in a process of their own, so a broken driver or a missing screen costs nothing but an entry that says so.
    """
    import torch

    from napari_mrsr.inference.process import list_devices

    facts = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    facts["torch"] = torch.__version__  # unlike the package's version it tells which build: +cpu, +cu130
    for device in list_devices():
        facts[f"device {device['name']}"] = f"{device['title']}, {device['free'] / 2**30:.1f} GiB free"
    facts["OpenGL"] = _opengl()
    return facts


def _opengl() -> str:
    try:
        done = subprocess.run([sys.executable, "-m", "napari_mrsr.gui.opengl"], capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return "no answer within 30 s"
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return lines[-1] if done.returncode == 0 and lines else "not available (no screen, no Qt binding, or no driver)"
