from __future__ import annotations

import gc
import weakref

import pytest
from qtpy.compat import isalive
from qtpy.QtWidgets import QApplication

from napari_mrsr.gui import _compat
from napari_mrsr.gui.compare.view import Content, Mode
from napari_mrsr.gui.session import Role

SIGNALS = ("roles_changed", "runs_changed", "layers_changed", "position_changed", "roi_changed", "line_changed", "mask_changed")


def connections(session):
    """How many listen to what a dock listens to."""
    viewer = session.viewer
    layers = [layer.events for layer in viewer.layers]
    counts = {name: len(getattr(session, name)) for name in SIGNALS}
    counts["theme"] = len(viewer.events.theme.callbacks)
    for name in ("contrast_limits", "gamma", "colormap", "data", "affine"):
        counts[name] = sum(len(getattr(events, name).callbacks) for events in layers)
    return counts


def close(qtbot, viewer, dock):
    gone = []
    dock.destroyed.connect(lambda: gone.append(1))
    viewer.window.remove_dock_widget(dock)
    dock.deleteLater()
    qtbot.waitUntil(lambda: bool(gone))


def test_the_dock_is_on_offer(trio):
    _, dock = trio.viewer.window.add_plugin_dock_widget("napari-mrsr", "Compare")
    assert dock.session is trio
    assert len(dock.board.panes()) == 4


def test_closing_leaves_nothing_behind(qtbot, trio):
    viewer = trio.viewer
    before = connections(trio)
    _, dock = viewer.window.add_plugin_dock_widget("napari-mrsr", "Compare")
    assert connections(trio) != before
    dock.toggle_fill()
    dock.toggle_blink()
    timers = dock._blink, dock._later, dock._read
    assert viewer.layers["HR"].contrast_limits == viewer.layers["LR"].contrast_limits
    close(qtbot, viewer, dock)
    assert connections(trio) == before
    assert not _compat.main_window(viewer).centralWidget().isHidden()
    assert not any(isalive(timer) for timer in timers)
    viewer.layers["HR"].contrast_limits = (1, 2)
    assert tuple(viewer.layers["LR"].contrast_limits) != (1, 2)
    viewer.theme = "light"
    trio.position = (1.0, 2.0, 3.0)
    trio.assign(Role.GROUND_TRUTH, None)
    viewer.layers.remove("LR")


@pytest.mark.parametrize("content", [Content.IMAGE, Content.DIFFERENCE])
def test_closing_while_something_is_computed(qtbot, trio, content):
    _, dock = trio.viewer.window.add_plugin_dock_widget("napari-mrsr", "Compare")
    dock.view.set(content=content, mode=Mode.FLICKER)
    dock.board.grab()
    dock.toggle_blink()
    trio.position = (1.0, 2.0, 3.0)
    close(qtbot, trio.viewer, dock)
    qtbot.wait(300)


def test_opening_and_closing_again_does_not_pile_up(qtbot, trio):
    viewer = trio.viewer

    def cycle():
        _, dock = viewer.window.add_plugin_dock_widget("napari-mrsr", "Compare")
        dock.board.grab()
        dock.toggle_fill()
        dock.show_keys()
        close(qtbot, viewer, dock)
        return weakref.ref(dock)

    cycle()
    before, listening = len(QApplication.topLevelWidgets()), connections(trio)
    docks = [cycle() for _ in range(5)]
    qtbot.wait(50)
    gc.collect()
    assert len(QApplication.topLevelWidgets()) <= before
    assert connections(trio) == listening
    assert sum(dock() is not None for dock in docks) <= 1


def test_the_room_of_the_canvas_is_given_back(trio):
    _, dock = trio.viewer.window.add_plugin_dock_widget("napari-mrsr", "Compare")
    centre = _compat.main_window(trio.viewer).centralWidget()
    dock.toolbar.buttons["fill"].click()
    assert centre.isHidden()
    assert dock.toolbar.buttons["fill"].isChecked()
    dock.toolbar.buttons["fill"].click()
    assert not centre.isHidden()
    assert not dock.toolbar.buttons["fill"].isChecked()
