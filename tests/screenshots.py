"""Make the pictures of README: ``make screenshots`` (or ``python tests/screenshots.py`` where there is a screen)."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from PIL import Image
from qtpy.QtCore import Qt, QThreadPool
from qtpy.QtGui import QImage
from qtpy.QtWidgets import QApplication, QDockWidget, QWidget

from napari_mrsr.gui import _compat, settings
from napari_mrsr.gui.compare.view import Content, Mode, Tool
from napari_mrsr.gui.session import Session
from napari_mrsr.planes import PLANES
from napari_mrsr.volume import Box

FOLDER = Path(__file__).parent.parent / "resources" / "screenshots"
SIZE = (1280, 800)
COLOURS = 256
EYE = (-22.0, 4.0, 17.0)
"""World point in mm that is looked at in the T1 head: deep grey matter and ventricles."""
PROBED = (-7.0, 42.0, 17.0)
"""At the front wall of the left ventricle."""
WALL = Box((11.0, -14.0, 9.0), (43.0, 18.0, 25.0))
"""Around the outer wall of the right ventricle, an edge that stands alone."""


class Studio:
    """A viewer with one of the sample workspaces, and what is needed to take pictures of it."""

    def __init__(self, sample: str) -> None:
        self.viewer = napari.Viewer(title="napari-mrsr")
        self.window = _compat.main_window(self.viewer)
        self.window.resize(*SIZE)
        self.rest()
        self.viewer.open_sample("napari-mrsr", sample)
        self.rest(1.0)
        self.window.resize(*SIZE)
        self.session = Session.of(self.viewer)
        self.compare = self.dock("Compare")
        self.view = self.compare.view

    def dock(self, name: str) -> Any:
        """A dock of the plugin, on top of the others."""
        frame, widget = self.viewer.window.add_plugin_dock_widget("napari-mrsr", name, tabify=True)
        frame.raise_()
        self.rest()
        return widget

    def rest(self, seconds: float = 0.4) -> None:
        """Let the window do what it has to."""
        end = time.monotonic() + seconds
        while time.monotonic() < end or QThreadPool.globalInstance().activeThreadCount():
            QApplication.processEvents()
            time.sleep(0.01)

    def wait(self, condition: Callable[[], bool], seconds: float = 600) -> None:
        """Wait for something, with the window alive."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                sys.exit("timed out")
            QApplication.processEvents()
            time.sleep(0.02)

    def show(self, **look: Any) -> None:
        """Change what Compare shows."""
        self.view.set(**look)
        self.rest()

    def panes(self, *layers: Any) -> None:
        """Give panes to these images alone; to all without any."""
        for layer in self.session.compared():
            self.view.show(layer, not layers or layer in layers)

    def make_room(self) -> None:
        """Put napari's own list and controls of layers away."""
        for name in ("layer list", "layer controls"):
            self.window.findChild(QDockWidget, name).hide()
        self.window.resize(*SIZE)
        self.rest()
        _compat.widen(self.viewer, self.compare)
        self.rest()

    def show_canvas(self) -> None:
        """Show napari's own canvas in place of Compare."""
        self.compare.parent().hide()
        self.compare.toggle_fill()
        for name in ("layer list", "layer controls"):
            self.window.findChild(QDockWidget, name).show()
        beside = [frame for frame in self.window.findChildren(QDockWidget) if frame.isVisible()]
        self.window.resizeDocks(beside, [1] * len(beside), Qt.Orientation.Horizontal)
        self.rest()
        self.viewer.reset_view()

    def picture(self, name: str) -> None:
        """Take a picture of the whole window."""
        self.rest(0.8)
        assert (self.window.width(), self.window.height()) == SIZE, f"{name}: the window is {self.window.width()} x {self.window.height()}"
        grabbed = self.window.grab().toImage().convertToFormat(QImage.Format.Format_RGB888)
        bits = grabbed.constBits()
        bits.setsize(grabbed.sizeInBytes())
        rows = np.frombuffer(bits, np.uint8).reshape(grabbed.height(), grabbed.bytesPerLine())[:, : 3 * grabbed.width()]
        image = Image.fromarray(rows.reshape(grabbed.height(), grabbed.width(), 3).copy())
        image.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png", optimize=True)


def scroll_to(area: Any, widget: QWidget) -> None:
    """Bring a widget of a dock into view."""
    area.ensureWidgetVisible(widget, 0, 8)


def t1() -> None:
    """Everything that can be seen of one T1 head."""
    studio = Studio("arc2017-t1-pair")
    session, viewer = studio.session, studio.viewer
    session.position = EYE
    studio.picture("workspace")

    sr = studio.dock("Super-resolve")
    sr.also.tick(["cubic", "back-projection"])
    sr.also.expand(animate=False)
    sr.run_button.click()
    studio.wait(lambda: sr.progress.maximum() == 1000 and sr.progress.value() > 300)
    scroll_to(sr, sr.status)
    studio.picture("running")
    studio.wait(lambda: len(session.runs) == 3 and not sr.queue.busy)
    sr.also.collapse(animate=False)

    metrics = studio.dock("Metrics")
    studio.wait(lambda: metrics.live.scores is not None and len(metrics.live.scores.places) >= 3)
    studio.picture("metrics")

    low, truth, cubic, iterated = (viewer.layers[name] for name in ("LR", "HR", "SR cubic", "SR back-projection"))
    ours = viewer.layers["SR cftn-x2"]
    studio.view.choose(first=low, second=ours)
    studio.show(mode=Mode.SWIPE, divider=0.5, zoom=2.4)
    studio.picture("swipe")
    studio.make_room()
    studio.view.choose(first=ours, second=truth)
    studio.show(mode=Mode.CHECKERBOARD, planes=("coronal",), zoom=3.2)
    studio.picture("checkerboard")

    studio.panes(low, ours, truth)
    studio.show(mode=Mode.PANES, planes=tuple(PLANES), zoom=0.0)
    studio.picture("three-planes")
    studio.panes(cubic, iterated, ours)
    studio.show(planes=("axial",), content=Content.DIFFERENCE)
    studio.compare.board.windows.set_map((-80.0, 80.0))
    studio.picture("difference")
    studio.panes(cubic, ours, truth)
    studio.show(content=Content.GRADIENT)
    studio.picture("gradient")

    studio.panes(low, ours, truth)
    studio.show(content=Content.IMAGE, tool=Tool.LINE)
    session.roi, session.line = WALL, ((20.0, 2.0, EYE[2]), (34.0, 2.0, EYE[2]))
    profile = studio.dock("Line profile")
    studio.wait(lambda: profile.reading is not None)
    studio.picture("profile")

    session.roi, session.line = None, None
    studio.show(tool=Tool.POINTER)
    trust = studio.dock("Trust")
    trust.check_button.click()
    studio.wait(lambda: trust.check_button.text() == "Check")
    trust.table.setCurrentCell(session.candidates.index(cubic), 0)
    trust.residual_button.click()
    studio.view.choose(overlay=viewer.layers[-1])
    studio.picture("trust")

    viewer.layers.remove(viewer.layers["residual SR cubic"])
    studio.show_canvas()
    probe = studio.dock("Attention probe")
    studio.wait(lambda: probe.maps.count() > 0)
    probe.pick_button.click()
    session.position = PROBED
    probe.look(PROBED)
    studio.wait(lambda: any(layer.name.startswith("probe:") for layer in viewer.layers))
    probe.alone_button.click()
    studio.picture("probe")
    viewer.close()


def t2_with_reference() -> None:
    """A T2 head with the T1 of the same session."""
    studio = Studio("msl04-registered")
    sr = studio.dock("Super-resolve")
    sr.models.setCurrentText("zero-fill")
    sr.also.tick(["cubic", "back-projection"])
    sr.run_button.click()
    studio.wait(lambda: len(studio.session.runs) == 3 and not sr.queue.busy)
    metrics = studio.dock("Metrics")
    studio.wait(lambda: metrics.live.scores is not None and len(metrics.live.scores.places) >= 3)
    studio.picture("reference")
    studio.viewer.close()


def main() -> None:
    """Make all pictures, with settings of their own."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "napari.yaml")
        settings.settings_file = lambda: Path(folder) / "settings.json"
        t1()
        t2_with_reference()


if __name__ == "__main__":
    main()
