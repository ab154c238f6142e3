"""Speed, memory and smoothness of the Compare dock: ``xvfb-run -a python tests/benchmarks/viewing.py [--size 256]``.

Five float32 volumes are open in napari: a ground truth, three images on its grid and one that has to be resampled for differences. Times are
medians; the longest block is the longest gap in the beats of a 1-ms timer of the GUI thread. The peer is napari's own grid view of the same
layers, stepped through the same slices in the same run. Exits with 1 where a limit is passed.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
import time
from collections.abc import Callable

import napari
import numpy as np
import psutil
from qtpy.QtCore import QEvent, QPointF, Qt, QTimer
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication, QWidget

from napari_mrsr.gui import _compat
from napari_mrsr.gui.compare.dock import CompareDock
from napari_mrsr.gui.compare.view import Content, Mode
from napari_mrsr.gui.layers import volume_to_layer
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.planes import PLANES
from napari_mrsr.volume import Volume

STEPS = 25
LIMITS = {"step, five panes": 60.0, "step, three planes of five": 150.0, "swipe move, 512 x 512": 20.0, "memory": 100.0, "block": 100.0}


class Heart:
    """Watches how long the GUI thread is busy at a time."""

    def __init__(self) -> None:
        self.longest, self._last = 0.0, time.perf_counter()
        self._timer = QTimer()
        self._timer.timeout.connect(self._beat)
        self._timer.start(1)

    def _beat(self) -> None:
        now = time.perf_counter()
        self.longest, self._last = max(self.longest, now - self._last), now

    def during(self, work: Callable[[], None], seconds: float) -> float:
        """Longest block in ms while something is done and for some time after."""
        wait(0.3)
        self.longest, self._last = 0.0, time.perf_counter()
        work()
        wait(seconds)
        return 1000 * self.longest


def wait(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        QApplication.processEvents()
        time.sleep(0.0005)


def memory() -> float:
    """Resident MB once everything is at rest."""
    wait(1.0)
    gc.collect()
    # What the allocator keeps for later is not what the dock holds.
    ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss / 1e6


def median(work: Callable[[int], None]) -> float:
    """Median ms of a piece of work; the first rounds warm up."""
    times = []
    for number in range(STEPS + 3):
        start = time.perf_counter()
        work(number)
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times[3:]))


def volumes(size: int) -> list[tuple[Volume, Role]]:
    """Five images of one object."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size, dtype=np.float32)] * 3, indexing="ij", sparse=True)
    head = (x**2 + 1.3 * y**2 + z**2 < 0.8) * (500 + 150 * np.sin(25 * x) * np.cos(21 * y) * np.sin(23 * z))
    rng = np.random.default_rng(0)
    made = []
    for number, name in enumerate(("truth", "low", "first", "second", "third")):
        affine = np.diag([0.8, 0.8, 0.8, 1.0])
        affine[:3, 3] = -0.4 * size + (0.3 if name == "third" else 0.0)
        data = (head + 10 * number * rng.standard_normal(head.shape, np.float32)).astype(np.float32)
        role = {"truth": Role.GROUND_TRUTH, "low": Role.LOW_RESOLUTION}.get(name, Role.CANDIDATE)
        made.append((Volume(data, affine, name=name), role))
    return made


def open_viewer(size: int) -> napari.Viewer:
    viewer = napari.Viewer()
    _compat.main_window(viewer).resize(1280, 960)
    for volume, role in volumes(size):
        data, options, _ = volume_to_layer(volume, metadata={"role": role})
        viewer.add_image(data, **options)
    viewer.dims.order = (2, 1, 0)
    wait(1.0)
    return viewer


def peer(viewer: napari.Viewer) -> float:
    """Step of napari's own grid view of the same layers, ms."""
    canvas = _compat.main_window(viewer)._qt_viewer.canvas.native
    viewer.grid.enabled = True
    wait(0.5)

    def step(number: int) -> None:
        viewer.dims.set_current_step(2, 100 + number)
        QApplication.processEvents()
        canvas.repaint()

    took = median(step)
    viewer.grid.enabled = False
    wait(0.5)
    return took


def speeds(dock: CompareDock) -> dict[str, float]:
    """Median ms of what people do most, from asking to drawn."""
    board, view = dock.board, dock.view

    def step(number: int) -> None:
        board.step(1 if number < STEPS // 2 else -1)
        board.repaint()

    found = {"step, five panes": median(step)}
    view.set(planes=tuple(PLANES))
    found["step, three planes of five"] = median(step)
    view.set(planes=("axial",), content=Content.DIFFERENCE)
    wait(5.0)
    found["step, five difference maps"] = median(step)
    view.set(content=Content.IMAGE, mode=Mode.SWIPE)
    board.setFixedSize(512, 512)
    wait(0.5)

    def swipe(number: int) -> None:
        view.set(divider=0.2 + 0.02 * number)
        board.repaint()

    found["swipe move, 512 x 512"] = median(swipe)
    board.setMinimumSize(240, 200)
    board.setMaximumSize(16777215, 16777215)
    view.set(mode=Mode.PANES)
    return found


def drag(board: object, button: Qt.MouseButton) -> None:
    """A drag of 40 moves across the first pane."""
    start = board.panes()[0].frame.pane.center()
    for number, kind in enumerate([QEvent.Type.MouseButtonPress, *[QEvent.Type.MouseMove] * 40, QEvent.Type.MouseButtonRelease]):
        at = start + QPointF(2 * number, number)
        event = QMouseEvent(kind, at, QPointF(board.mapToGlobal(at.toPoint())), button, button, Qt.KeyboardModifier.NoModifier)
        QApplication.sendEvent(board, event)
        wait(0.016)


def blocks(dock: CompareDock, heart: Heart) -> dict[str, float]:
    """Longest block of the GUI thread in ms, by what was done."""
    board, view = dock.board, dock.view

    def steps() -> None:
        for _ in range(30):
            board.step(1)
            wait(0.03)

    def modes() -> None:
        for mode in Mode:
            view.set(mode=mode)
            wait(0.1)
        view.set(mode=Mode.PANES)

    def differences() -> None:
        # Afresh: as if no pair had been looked at yet.
        board.gallery.differences._pairs.clear()
        view.set(content=Content.DIFFERENCE)

    found = {
        "stepping through slices": heart.during(steps, 0.5),
        "cross-hair drag": heart.during(lambda: drag(board, Qt.MouseButton.LeftButton), 0.3),
        "window/level drag": heart.during(lambda: drag(board, Qt.MouseButton.RightButton), 0.3),
        "going through the modes": heart.during(modes, 0.3),
        "three planes": heart.during(lambda: view.set(planes=tuple(PLANES)), 0.3),
        "gradient maps": heart.during(lambda: view.set(planes=("axial",), content=Content.GRADIENT), 0.3),
        "difference maps, one resampled": heart.during(differences, 8.0),
    }
    for kind in ("absolute", "squared", "ssim", "gradient"):
        found[f"difference maps: {kind}"] = heart.during(lambda kind=kind: view.set(difference=kind), 0.5)
    return found


def everything(dock: CompareDock, content: Content) -> None:
    """Step through all modes and planes."""
    for mode in Mode:
        for planes in (("axial",), ("coronal",), ("sagittal",), tuple(PLANES)):
            dock.view.set(mode=mode, planes=planes, content=content)
            for _ in range(10):
                dock.board.step(1)
                dock.board.repaint()
            wait(0.1)
    dock.view.set(mode=Mode.PANES, planes=("axial",), content=Content.IMAGE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    viewer = open_viewer(parser.parse_args().size)
    napari_step = peer(viewer)
    heart = Heart()
    before = memory()
    made = []
    empty_block = heart.during(lambda: viewer.window.add_dock_widget(QWidget(), name="empty"), 1.0)
    open_block = heart.during(lambda: made.append(viewer.window.add_plugin_dock_widget("napari-mrsr", "Compare")[1]), 1.0)
    dock = made[0]
    assert Session.of(viewer) is dock.session
    dock.toggle_fill()
    wait(0.5)
    for content in (Content.IMAGE, Content.GRADIENT):
        everything(dock, content)
    added = memory() - before
    rows = [("step of napari's grid view", napari_step, "ms", None)]
    for name, took in speeds(dock).items():
        rows.append((f"{name} ({took / napari_step:.2f} of napari's)" if name == "step, five panes" else name, took, "ms", LIMITS.get(name)))
    with_resampled = memory() - before
    rows += [("memory added by all modes and planes", added, "MB", LIMITS["memory"]), ("... and difference maps", with_resampled, "MB", None)]
    rows.append(("longest block: opening an empty dock of napari", empty_block, "ms", None))
    rows.append(("longest block: opening the dock", open_block, "ms", LIMITS["block"]))
    rows += [(f"longest block: {name}", took, "ms", LIMITS["block"]) for name, took in blocks(dock, heart).items()]
    passed = 0
    for name, value, unit, limit in rows:
        over = limit is not None and value > limit
        passed += over
        sys.stdout.write(f"{name:<58}{value:9.1f} {unit}" + (f"   limit {limit:g}{'   OVER' if over else ''}" if limit else "") + "\n")
    viewer.close()
    return int(passed > 0)


if __name__ == "__main__":
    sys.exit(main())
