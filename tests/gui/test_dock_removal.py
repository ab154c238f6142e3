"""What a click on a dock's cross leaves behind: nothing."""

from __future__ import annotations

import gc

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QDockWidget, QToolButton, QWidget

from napari_mrsr.gui import _compat
from napari_mrsr.gui.dock import when_removed
from napari_mrsr.gui.session import Session

SIGNALS = [name for name in vars(Session) if name.endswith("_changed")]
DOCKS = ("Super-resolve", "Compare", "Metrics", "Trust", "Line profile", "Attention probe", "Make low-resolution", "Train")


def around(viewer, widget):
    return next(d for d in _compat.main_window(viewer).findChildren(QDockWidget) if d.isAncestorOf(widget))


def press_cross(qtbot, viewer, widget):
    """Click the button in the dock's title bar, as a person does."""
    dock = around(viewer, widget)
    button = dock.findChild(QWidget, "QTitleBarCloseButton")
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def listeners(session):
    return {name: len(getattr(session, name)) for name in SIGNALS}


@pytest.mark.parametrize("name", DOCKS)
def test_the_cross_cuts_every_link_and_deletes_the_dock(qtbot, pair, name):
    session = Session.of(pair)
    before = listeners(session)
    _, widget = pair.window.add_plugin_dock_widget("napari-mrsr", name)
    gone = []
    widget.destroyed.connect(lambda: gone.append(name))
    assert listeners(session) != before
    press_cross(qtbot, pair, widget)
    qtbot.waitUntil(lambda: gone == [name])
    assert listeners(session) == before


def test_the_canvas_comes_back_with_the_cross_of_compare(qtbot, pair):
    _, widget = pair.window.add_plugin_dock_widget("napari-mrsr", "Compare")
    widget.toggle_fill()
    assert not _compat.canvas_shown(pair)
    press_cross(qtbot, pair, widget)
    qtbot.waitUntil(lambda: _compat.canvas_shown(pair))


def test_the_cross_during_a_run_stops_it_and_a_new_dock_can_run(qtbot, pair, said):
    _, widget = pair.window.add_plugin_dock_widget("napari-mrsr", "Super-resolve")
    client = widget.client
    widget.models.setCurrentText("back-projection")
    widget.run_button.click()
    press_cross(qtbot, pair, widget)
    assert client.process_id == 0
    gc.collect()
    assert not any("running" in layer.name for layer in pair.layers)
    _, other = pair.window.add_plugin_dock_widget("napari-mrsr", "Super-resolve")
    other.models.setCurrentText("nearest")
    other.run_button.click()
    qtbot.waitUntil(lambda: not other.queue.busy, timeout=60_000)
    assert [run.name for run in other.session.runs] == ["SR nearest"]
    assert said == []


def test_once_whichever_way_it_goes(qtbot):
    for leave in (lambda w: w.setParent(None), lambda w: w.parent().deleteLater()):
        outer, done = QWidget(), []
        inner = QToolButton(outer)
        when_removed(inner, lambda done=done: done.append(1))
        gone = []
        inner.destroyed.connect(lambda _, gone=gone: gone.append(1))
        leave(inner)
        qtbot.waitUntil(lambda gone=gone: bool(gone))
        QApplication.processEvents()
        assert done == [1]
