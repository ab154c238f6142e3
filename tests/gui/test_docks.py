"""All docks of the manifest: narrow enough to stand beside the images, and nothing cut off there."""

from __future__ import annotations

import npe2
import pytest
from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox, QDockWidget, QLabel, QStyle, QStyleOptionComboBox, QTableWidget, QWidget

from napari_mrsr.gui import _compat
from napari_mrsr.volume import Box

WIDTH = 340
"""px; two docks of that width leave half of a window of 1280 to the images."""
DOCKS = [w.display_name for w in npe2.PluginManifest.from_distribution("napari-mrsr").contributions.widgets]


@pytest.fixture
def narrow(qtbot, trio, fake):
    """Open a dock of the manifest, floating and as narrow as it must be able to become."""
    fake()
    viewer = trio.viewer
    trio.roi = Box((-5, -5, 20), (5, 5, 30))
    trio.line = (-15.0, 0.0, 25.0), (15.0, 0.0, 25.0)
    _compat.main_window(viewer).resize(1280, 800)

    def open_dock(name) -> tuple[QDockWidget, QWidget]:
        docked, widget = viewer.window.add_plugin_dock_widget("napari-mrsr", name)
        docked.setFloating(True)
        docked.resize(WIDTH, 780)
        qtbot.wait(300)
        docked.resize(WIDTH, 780)
        qtbot.wait(50)
        return docked, widget

    return open_dock


OWNERS = (QAbstractSpinBox, QComboBox, QTableWidget)
"""Widgets whose parts are theirs to show."""


def parts(widget):
    """Widgets on view, by the name to blame; those of what is folded away have no height."""
    for part in widget.findChildren(QWidget):
        if part.isVisible() and not part.objectName().startswith("qt_") and not isinstance(part.parent(), OWNERS) and unfolded(part, widget):
            yield f"{type(part).__name__} {part.objectName()} {getattr(part, 'text', str)()!r}", part


def unfolded(part, top):
    while part is not top:
        if not part.height():
            return False
        part = part.parentWidget()
    return True


def field(combo):
    option = QStyleOptionComboBox()
    combo.initStyleOption(option)
    return combo.style().subControlRect(QStyle.ComplexControl.CC_ComboBox, option, QStyle.SubControl.SC_ComboBoxEditField, combo).width()


def cut_off(widget):
    """What does not show all of its text. Names of layers may be shortened in lists, words of ours may not."""
    layers = {layer.name for layer in widget.session.viewer.layers}
    for name, part in parts(widget):
        if part.toolTip() and part.toolTip() == getattr(part, "text", str)():
            continue  # too long for any dock; the tooltip has all of it
        if isinstance(part, QLabel) and part.wordWrap():
            short = part.heightForWidth(part.width()) > part.height() + 1
        elif isinstance(part, (QAbstractButton, QLabel)):
            short = part.sizeHint().width() > part.width()
        elif isinstance(part, QAbstractSpinBox):
            short = part.fontMetrics().horizontalAdvance(part.text()) > part.lineEdit().width()
        elif isinstance(part, QComboBox):
            short = part.currentText() not in layers and part.fontMetrics().horizontalAdvance(part.currentText()) > field(part)
        else:
            continue
        if short or (part.mapTo(widget, part.rect().topRight()).x() >= widget.width() and part.width()):
            yield name


@pytest.mark.shown
@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("name", DOCKS)
def test_a_narrow_dock_cuts_nothing_off(trio, narrow, name, theme):
    trio.viewer.theme = theme
    docked, widget = narrow(name)
    assert docked.minimumSizeHint().width() <= WIDTH
    assert docked.width() == WIDTH
    assert list(cut_off(widget)) == []
    controls = [(blame, part) for blame, part in parts(widget) if isinstance(part, (QAbstractButton, QAbstractSpinBox, QComboBox))]
    # Qt shows the tooltip of what holds a part without one of its own.
    assert [blame for blame, part in controls if not (part.toolTip() or part.parentWidget().toolTip())] == []


@pytest.mark.shown
def test_docks_stay_narrow_without_any_image(qtbot, viewer, fake):
    fake()
    for name in DOCKS:
        docked, _ = viewer.window.add_plugin_dock_widget("napari-mrsr", name)
        qtbot.wait(50)
        assert docked.minimumSizeHint().width() <= WIDTH, name
