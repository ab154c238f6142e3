from __future__ import annotations

import re
from html import unescape

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor, QKeySequence
from qtpy.QtWidgets import QAbstractButton, QApplication, QComboBox, QLabel, QMessageBox, QPushButton, QStyle, QStyleOptionComboBox, QWidget

from napari_mrsr.gui.compare.actions import HELD, MOUSE
from napari_mrsr.gui.compare.view import Content, Mode, Tool
from napari_mrsr.planes import PLANES
from napari_mrsr.volume import Box

EFFECTS = {
    "mode Panes": lambda dock: dock.view.look.mode is Mode.PANES,
    "mode Swipe": lambda dock: dock.view.look.mode is Mode.SWIPE,
    "mode Flicker": lambda dock: dock.view.look.mode is Mode.FLICKER,
    "mode Checker": lambda dock: dock.view.look.mode is Mode.CHECKERBOARD,
    "mode Blend": lambda dock: dock.view.look.mode is Mode.BLEND,
    "plane axial": lambda dock: dock.view.look.planes == ("axial",),
    "plane coronal": lambda dock: dock.view.look.planes == ("coronal",),
    "plane sagittal": lambda dock: dock.view.look.planes == ("sagittal",),
    "plane three": lambda dock: dock.view.look.planes == tuple(PLANES),
    "content Images": lambda dock: dock.view.look.content is Content.IMAGE,
    "content Gradient": lambda dock: dock.view.look.content is Content.GRADIENT,
    "content Difference": lambda dock: dock.view.look.content is Content.DIFFERENCE,
    "tool Pointer": lambda dock: dock.view.look.tool is Tool.POINTER,
    "tool Box": lambda dock: dock.view.look.tool is Tool.BOX,
    "tool Line": lambda dock: dock.view.look.tool is Tool.LINE,
    "no tool": lambda dock: dock.view.look.tool is Tool.POINTER,
    "clear": lambda dock: dock.session.roi is None,
    "auto": lambda dock: tuple(dock.view.main.contrast_limits) != (3, 33),
    "linked": lambda dock: not dock.view.look.linked,
    "radiological": lambda dock: not dock.view.look.radiological,
    "smooth": lambda dock: dock.view.look.smooth,
    "crosshair": lambda dock: not dock.view.look.crosshair,
    "inset": lambda dock: not dock.view.look.inset,
    "fit": lambda dock: dock.view.look.zoom == 0,
    "zoom in": lambda dock: dock.view.look.zoom > 3,
    "zoom out": lambda dock: 0 < dock.view.look.zoom < 3,
    "swap": lambda dock: dock.view.pair[0].name == "HR",
    "blink": lambda dock: dock._blink.isActive(),
    "fill": lambda dock: dock._filled,
    "keys": lambda dock: dock.findChild(QMessageBox, "keys") is not None,
}


def press(qtbot, widget, key):
    """Press the keys of a shortcut's text."""
    sequence = QKeySequence(key)
    code = sequence[0]
    combined = int(code) if isinstance(code, int) else code.toCombined()
    modifiers = Qt.KeyboardModifier.ShiftModifier if combined & 0x02000000 else Qt.KeyboardModifier.NoModifier
    qtbot.keyClick(widget, Qt.Key(combined & 0x01FFFFFF), modifiers)


@pytest.fixture
def dock(trio, compare):
    widget = compare()
    widget.board.setFocus()
    return widget


def test_every_action_is_checked_here(dock):
    assert set(EFFECTS) == set(dock.commands)


@pytest.mark.parametrize("name", EFFECTS)
def test_every_action_has_a_key_that_works(qtbot, dock, trio, name):
    trio.roi = Box((0, 0, 0), (5, 5, 5))
    dock.view.set(zoom=3.0, mode=Mode.BLEND, content=Content.GRADIENT, tool=Tool.BOX, planes=("coronal",))
    others = {"mode Blend": {"mode": Mode.PANES}, "content Gradient": {"content": Content.IMAGE}, "tool Box": {"tool": Tool.LINE}}
    dock.view.set(**others.get(name, {"planes": ("axial", "coronal")}))
    if name == "auto":
        dock.view.set(content=Content.IMAGE)
    dock.view.main.contrast_limits = (3, 33)
    assert not EFFECTS[name](dock)
    press(qtbot, dock.board, dock.commands[name].key)
    assert EFFECTS[name](dock)
    for box in dock.findChildren(QMessageBox):
        box.close()


def test_keys_are_unique_and_do_not_hide_those_of_the_board(dock):
    keys = [QKeySequence(action.key).toString() for action in dock.commands.values()]
    assert "" not in keys
    assert len(set(keys)) == len(keys)
    assert {"Space", "Up", "Down", "PgUp", "PgDown"}.isdisjoint(keys)


def test_keys_are_listed_and_told_in_tooltips(qtbot, dock, compare):
    dock.toolbar.buttons["keys"].click()
    box = dock.findChild(QMessageBox, "keys")
    text = unescape(box.text())
    for action in dock.commands.values():
        assert f"<b>{action.key}</b>" in text
        assert action.tip in text
        if action.name == "no tool":
            continue  # a second key for the pointer's button
        button = dock.toolbar.buttons.get(action.name)
        assert button is not None, action.name
        if button.isEnabled():
            assert f"[{action.key}]" in button.toolTip()
    assert all(name in text and tip in text for name, tip in (*HELD, *MOUSE))
    compare.settle(dock)
    label = box.findChild(QLabel, "qt_msgbox_label")
    assert box.rect().contains(label.geometry())
    assert label.height() >= label.heightForWidth(label.width())
    assert box.width() <= 1280
    assert box.height() <= 760
    assert box.rect().contains(box.button(QMessageBox.StandardButton.Ok).geometry())
    box.close()


def test_d_goes_through_the_kinds_of_difference(qtbot, dock):
    kinds = []
    for _ in range(6):
        qtbot.keyClick(dock.board, Qt.Key.Key_D)
        kinds.append(dock.view.look.difference)
    assert kinds == ["signed", "absolute", "squared", "ssim", "gradient", "signed"]


def controls(dock):
    return [w for w in dock.findChildren(QWidget) if w.isVisible() and w.focusPolicy() & Qt.FocusPolicy.TabFocus and w.isEnabled()]


def test_tab_reaches_every_control_in_the_order_of_the_toolbar(qtbot, dock, compare):
    dock.view.set(mode=Mode.BLEND, content=Content.DIFFERENCE)
    compare.settle(dock)
    first = dock.toolbar.buttons["mode Panes"]
    first.setFocus()
    reached = [first]
    for _ in range(80):
        qtbot.keyClick(QApplication.focusWidget(), Qt.Key.Key_Tab)
        if QApplication.focusWidget() is first:
            break
        reached.append(QApplication.focusWidget())
    missed = [w for w in controls(dock) if w not in reached and w.focusProxy() is None and w.parent() not in reached]
    assert [w.objectName() for w in missed] == []
    places = [(w.mapTo(dock, w.rect().topLeft()).y(), w.mapTo(dock, w.rect().topLeft()).x()) for w in reached]
    rows = [y // 12 for y, _ in places[:-1]]
    assert dock.board in reached
    toolbar = [row for row, w in zip(rows, reached, strict=False) if dock.toolbar.isAncestorOf(w)]
    assert toolbar == sorted(toolbar)


@pytest.mark.parametrize("tool", list(Tool))
def test_escape_goes_back_to_the_pointer_and_clears_nothing(qtbot, trio, compare, tool):
    dock = compare()
    trio.roi, trio.line = Box((-5, -5, 20), (5, 5, 30)), ((0.0, 0.0, 25.0), (5.0, 0.0, 25.0))
    before = trio.roi, trio.line
    dock.view.set(tool=tool)
    for focus in (dock.board, dock.toolbar.window_width):
        focus.setFocus()
        qtbot.keyClick(focus, Qt.Key.Key_Escape)
        assert dock.view.look.tool is Tool.POINTER
        dock.view.set(tool=tool)
    assert (trio.roi, trio.line) == before


def test_every_control_has_a_name_and_a_tooltip(dock, compare):
    dock.view.set(mode=Mode.BLEND, content=Content.DIFFERENCE)
    compare.settle(dock)
    bare = [w for w in controls(dock) if w is not dock.board and w.parent().__class__ is not QComboBox and not w.objectName().startswith("qt_")]
    assert [w for w in bare if not w.objectName() or not w.toolTip()] == []


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("width", [320, 900])
@pytest.mark.parametrize("mode", [Mode.PANES, Mode.BLEND, Mode.FLICKER])
def test_no_text_is_cut_off(trio, compare, theme, width, mode):
    trio.viewer.theme = theme
    dock = compare(width, 760)
    dock.view.set(mode=mode, content=Content.DIFFERENCE)
    compare.settle(dock)
    assert dock.width() <= width
    for widget in dock.toolbar.findChildren(QWidget):
        if not widget.isVisible() or not isinstance(widget, (QAbstractButton, QLabel)) or isinstance(widget, QPushButton):
            continue
        assert widget.width() >= widget.sizeHint().width() or widget.objectName().startswith("qt_"), widget.objectName()
        corner = widget.mapTo(dock, widget.rect().bottomRight())
        assert corner.x() < dock.width(), widget.objectName()
    for combo in dock.toolbar.findChildren(QComboBox):
        if combo.isVisible():
            assert combo.mapTo(dock, combo.rect().bottomRight()).x() < dock.width(), combo.objectName()
    for combo in (dock.toolbar.against, dock.toolbar.overlay, dock.toolbar.preset, dock.toolbar.kind):
        option = QStyleOptionComboBox()
        combo.initStyleOption(option)
        field = combo.style().subControlRect(QStyle.ComplexControl.CC_ComboBox, option, QStyle.SubControl.SC_ComboBoxEditField, combo)
        widest = max(combo.fontMetrics().horizontalAdvance(combo.itemText(i)) for i in range(combo.count()) if combo.itemData(i) is None)
        assert field.width() >= widest, combo.objectName()
    assert dock.board.height() >= dock.board.minimumHeight()


def luminance(colour):
    """Relative luminance of the Web Content Accessibility Guidelines."""
    found = np.array(QColor(colour).getRgbF()[:3])
    return np.where(found <= 0.04045, found / 12.92, ((found + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_a_checked_button_looks_checked(trio, compare, pixels, theme):
    dock = compare()
    dock.viewer.theme = theme
    button = dock.toolbar.buttons["tool Box"]
    off = pixels(button)
    button.click()
    on = pixels(button)
    assert abs(on.astype(float).mean((0, 1)) - off.astype(float).mean((0, 1))).max() > 40
    ground, ink = (luminance(found) for found in re.search(r":checked \{ background: (.+?); color: (.+?); \}", dock.toolbar.styleSheet()).groups())
    assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) >= 4.5
