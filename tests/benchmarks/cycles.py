"""Open and close a viewer with all docks again and again, and count what stays: ``python tests/benchmarks/cycles.py --cycles 200``.

Prints one JSON line per cycle: seconds, resident MiB, top-level widgets, threads (and foreign ones: Python's records of threads that Qt made,
which stay after their end), child processes, docks, sessions, volumes and layers still alive.
``--without-docks`` is the control: what napari itself keeps.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import threading
import time
from pathlib import Path

import napari
import npe2
import numpy as np
from napari.layers import Layer
from qtpy.QtCore import QThreadPool
from qtpy.QtWidgets import QApplication

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.gui import settings
from napari_mrsr.gui.compare.dock import CompareDock
from napari_mrsr.gui.dock import Dock
from napari_mrsr.gui.layers import volume_to_layer
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.volume import Box, Volume

PLUGIN = "napari-mrsr"
RUN_EVERY = 5


def pump(seconds: float = 0.0, until=lambda: False) -> None:
    end = time.monotonic() + seconds
    while True:
        QApplication.processEvents()
        if until() or time.monotonic() >= end:
            return
        time.sleep(0.01)


def children() -> list[int]:
    """Living child processes."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def head() -> Volume:
    axes = (np.linspace(-1, 1, n) for n in (64, 72, 56))
    x, y, z = np.meshgrid(*axes, indexing="ij")
    data = (x**2 + y**2 + z**2 < 0.8) * (400 + 150 * np.sin(9 * x) * np.cos(7 * y) * np.sin(8 * z))
    return Volume(data.astype(np.float32), np.eye(4), name="HR")


def cycle(number: int, docks: list[str]) -> None:
    viewer = napari.Viewer()
    truth = head()
    for volume, role in ((truth, Role.GROUND_TRUTH), (degrade(truth, Degradation()).replace(name="LR"), Role.LOW_RESOLUTION)):
        data, meta, _ = volume_to_layer(volume, metadata={"role": role})
        viewer.add_image(data, **meta)
    for name in docks:
        viewer.window.add_plugin_dock_widget(PLUGIN, name, tabify=True)
    pump(0.1)
    if docks:
        session = Session.of(viewer)
        session.roi = Box((10, 10, 10), (40, 40, 40))
        session.position = (20, 20, 20)
        pump(0.05)
        if number % RUN_EVERY == RUN_EVERY - 1:
            _, dock = viewer.window.add_plugin_dock_widget(PLUGIN, "Super-resolve")
            dock.models.setCurrentText("nearest")
            dock.run_button.click()
            pump(120, lambda: bool(session.runs))
            assert session.runs
    viewer.close()


def alive(*kinds: type) -> int:
    return sum(issubclass(type(thing), kinds) for thing in gc.get_objects())


def count() -> dict[str, float]:
    pump(0.2)
    for _ in range(3):
        gc.collect()
        pump(0.02)
    pump(5, lambda: not children() and QThreadPool.globalInstance().activeThreadCount() == 0)
    own = [thread for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)]
    return {
        "resident_mib": round(resident(), 1),
        "widgets": len(QApplication.topLevelWidgets()),
        "threads": len(own),
        "foreign": threading.active_count() - len(own),
        "pool": QThreadPool.globalInstance().activeThreadCount(),
        "children": len(children()),
        "docks": alive(Dock, CompareDock),
        "volumes": alive(Volume),
        "layers": alive(Layer),
        "sessions": len(Session._all),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--without-docks", action="store_true")
    parser.add_argument("--only", nargs="*", help="names of docks")
    parser.add_argument("--settings", type=Path, help="file in place of the user's settings")
    wanted = parser.parse_args()
    if wanted.settings:
        settings.settings_file = lambda: wanted.settings
    contributed = npe2.PluginManifest.from_distribution(PLUGIN).contributions.widgets
    docks = [] if wanted.without_docks else wanted.only or [w.display_name for w in contributed]
    for number in range(wanted.cycles):
        begun = time.perf_counter()
        cycle(number, docks)
        print(json.dumps({"cycle": number, **count(), "seconds": round(time.perf_counter() - begun, 2)}), flush=True)


if __name__ == "__main__":
    main()
