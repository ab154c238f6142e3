"""Make the pictures of README: ``make screenshots`` (or ``python tests/screenshots.py`` where there is a screen)."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import napari
from qtpy.QtWidgets import QApplication

from napari_mrsr.gui import _compat
from napari_mrsr.gui.super_resolve_dock import SuperResolveDock

FOLDER = Path(__file__).parent.parent / "resources" / "screenshots"


def wait(condition, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.02)
    if not condition():
        sys.exit("timed out")


def picture(viewer: napari.Viewer, name: str) -> None:
    for _ in range(20):
        QApplication.processEvents()
        time.sleep(0.02)
    _compat.main_window(viewer).grab().save(str(FOLDER / name))


def show_only(viewer: napari.Viewer, *names: str) -> None:
    for layer in viewer.layers:
        layer.visible = any(layer.name.startswith(name) for name in names)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    viewer = napari.Viewer(title="napari-mrsr")
    _compat.main_window(viewer).resize(1280, 800)
    viewer.open_sample("napari-mrsr", "arc2017-t1-pair")
    viewer.window.add_plugin_dock_widget("napari-mrsr", "Make low-resolution")
    _, dock = viewer.window.add_plugin_dock_widget("napari-mrsr", "Super-resolve", tabify=True)
    assert isinstance(dock, SuperResolveDock)
    viewer.dims.set_point(0, 0)
    viewer.dims.set_point(2, float(viewer.layers["HR"].data_to_world((80, 128, 150))[2]))
    picture(viewer, "start.png")
    dock.run_button.click()
    wait(lambda: dock.progress.maximum() == 1000 and dock.progress.value() > 100)
    picture(viewer, "running.png")
    wait(lambda: len(dock.session.runs) == 1)
    picture(viewer, "result.png")
    viewer.grid.enabled = True
    viewer.grid.shape = (2, 3)
    for layer in viewer.layers:
        layer.visible = True
    viewer.reset_view()
    picture(viewer, "workspace.png")
    viewer.grid.enabled = False
    viewer.reset_view()
    show_only(viewer, "error")
    picture(viewer, "error.png")
    show_only(viewer, "gradient SR")
    picture(viewer, "gradient.png")
    show_only(viewer, "SR")
    _, probe = viewer.window.add_plugin_dock_widget("napari-mrsr", "Attention probe", tabify=True)
    wait(lambda: probe.maps.count() > 0)
    probe.pick_button.click()
    place = viewer.layers["HR"].data_to_world((62, 150, 150))
    viewer.dims.set_point(2, float(place[2]))
    probe.look(tuple(place))
    wait(lambda: any(layer.name.startswith("probe:") for layer in viewer.layers))
    picture(viewer, "probe.png")
    viewer.close()


if __name__ == "__main__":
    main()
