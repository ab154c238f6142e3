"""Dock: all images of a session in one view, side by side, over each other, as differences and as gradients."""

from __future__ import annotations

from html import escape
from typing import Any

from napari.layers import Layer
from napari.utils.theme import get_theme
from qtpy.compat import isalive
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QKeyEvent, QKeySequence
from qtpy.QtWidgets import QApplication, QLabel, QMessageBox, QShortcut, QVBoxLayout, QWidget

from napari_mrsr.gui import _compat
from napari_mrsr.gui.compare.actions import HELD, MOUSE, actions
from napari_mrsr.gui.compare.board import Board
from napari_mrsr.gui.compare.read_out import ReadOut, read_out
from napari_mrsr.gui.compare.toolbar import Toolbar
from napari_mrsr.gui.compare.view import Mode, View
from napari_mrsr.gui.dock import when_removed
from napari_mrsr.gui.session import Session

BLINK_MS = 250
"""Time of each image when flickering by itself: two flashes a second, below the three that are held to be safe."""
READ_MS = 40
"""Least time between two read-outs: laying text out takes longer than drawing a slice."""
KEYS_WIDTH = 720
"""Of the list of keys, px; on a screen of 1280 px Qt makes message boxes 800 px wide at most."""
STYLE = """
QToolButton {{ padding: 2px 6px; border: 1px solid {rim}; border-radius: 3px; }}
QToolButton:checked {{ background: {on}; color: {ink}; }}
QToolButton:hover {{ border-color: {over}; }}
QToolButton:focus {{ border: 1px solid {over}; }}
"""
"""napari's own style does not show which tool button is down."""
WATCHED = ("contrast_limits", "gamma", "colormap", "data", "affine", "scale", "translate", "labels_update")
"""Events of layers, as far as they have them, after which they look different."""
KEYS = {Qt.Key.Key_Up: 1, Qt.Key.Key_Down: -1, Qt.Key.Key_PageUp: 10, Qt.Key.Key_PageDown: -10}


class CompareDock(QWidget):
    """Compare the images of a session by eye."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.session = Session.of(napari_viewer)
        self.view = View(self.session)
        self.board = Board(self.view)
        self.commands = actions(self.board, self.show_keys, self.toggle_fill, self.toggle_blink)
        self.toolbar = Toolbar(self.board, self.commands)
        self.values = ReadOut()
        self.grid_note = QLabel()
        self.grid_note.setObjectName("comparison grid")
        self._arrange()
        self._blink = QTimer(self)
        self._blink.setInterval(BLINK_MS)
        self._blink.timeout.connect(lambda: self.view.set(flipped=not self.view.look.flipped))
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.timeout.connect(self._refresh)
        self._read = QTimer(self)
        self._read.setSingleShot(True)
        self._read.setInterval(READ_MS)
        self._read.timeout.connect(self._show_values)
        self._point: Any = None
        self._watched: list[Layer] = []
        self._filled = False
        self._connect()
        self._layers_changed()
        self._start_inside()

    def keyPressEvent(self, event: QKeyEvent | None) -> None:  # noqa: N802 - Qt's name
        """Slices, and the second image for as long as Space is held."""
        if event is None:
            return
        if event.key() in KEYS:
            self.board.step(KEYS[Qt.Key(event.key())])
        elif event.key() == Qt.Key.Key_Space and not event.isAutoRepeat():
            self._hold(True)
        elif event.modifiers() & (Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.AltModifier) or not event.text().isprintable():
            super().keyPressEvent(event)
        # What is left would reach napari, whose keys change the layer that happens to be active.

    def keyReleaseEvent(self, event: QKeyEvent | None) -> None:  # noqa: N802 - Qt's name
        """Back to the first image."""
        if event is not None and event.key() == Qt.Key.Key_Space and not event.isAutoRepeat():
            self._hold(False)
        elif event is not None:
            super().keyReleaseEvent(event)

    def toggle_blink(self) -> None:
        """Start or stop the timed flicker."""
        if self._blink.isActive():
            self._blink.stop()
            self.view.set(flipped=False)
        else:
            self.view.set(mode=Mode.FLICKER)
            self._blink.start()
        self._refresh()

    def toggle_fill(self) -> None:
        """Give the comparison the room of napari's canvas, or give it back."""
        self._filled = not self._filled
        _compat.show_canvas(self.viewer, not self._filled)
        if self._filled:
            # The window shares out the room of what was hidden on its next turn only.
            QTimer.singleShot(0, lambda: _compat.widen(self.viewer, self) if isalive(self) else None)
        else:
            self.session.move_sliders()
        self._refresh()

    def show_keys(self) -> None:
        """List keys and mouse drags."""
        rows = [*((action.key, action.tip) for action in self.commands.values()), *HELD, *MOUSE]
        half = (len(rows) + 1) // 2
        cells = [f"<td><b>{escape(key)}</b>&nbsp;&nbsp;</td><td>{escape(tip)}&nbsp;&nbsp;&nbsp;</td>" for key, tip in rows]
        lines = "".join(f"<tr>{''.join(cells[i::half])}</tr>" for i in range(half))
        box = QMessageBox(QMessageBox.Icon.NoIcon, "Compare: keys and mouse", f"<table>{lines}</table>", QMessageBox.StandardButton.Ok, self)
        box.setStyleSheet(f"#qt_msgbox_label {{ min-width: {KEYS_WIDTH}px; }}")  # Qt alone makes it higher than the screen
        box.setObjectName("keys")
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        box.open()

    def _arrange(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 4, 4, 4)
        column.setSpacing(3)
        column.addWidget(self.toolbar)
        column.addWidget(self.board, 1)
        column.addWidget(self.grid_note)
        column.addWidget(self.values)
        for action in self.commands.values():
            shortcut = QShortcut(QKeySequence(action.key), self)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(action.run)

    def _connect(self) -> None:
        session, view, board = self.session, self.view, self.board
        self._links = (
            (view.changed, self._changed),
            (session.position_changed, self._moved),
            (session.values_changed, self._filled_in),
            (session.captions_changed, self._redraw),
            (session.roi_changed, self._redraw),
            (session.line_changed, self._redraw),
            (session.mask_changed, self._redraw),
            (session.roles_changed, self._layers_changed),
            (session.runs_changed, self._layers_changed),
            (session.layers_changed, self._layers_changed),
        )
        for signal, slot in self._links:
            signal.connect(slot)
        board.pointed.connect(self._pointed)
        application: Any = QApplication.instance()
        if application is not None:
            application.focusChanged.connect(self._let_go)

        # closeEvent never reaches a docked widget; destroyed does, and must not touch the widget any more.
        viewer, links, watched, windows = self.viewer, self._links, self._watched, board.windows

        def clean_up() -> None:
            for signal, slot in links:
                signal.disconnect(slot, missing_ok=True)
            view.close()
            windows.unlink()
            viewer.events.theme.disconnect(self._theme)
            for layer in watched:
                self._unwatch(layer)
            if self._filled:
                _compat.show_canvas(viewer, True)
                session.look_along(None)
                session.move_sliders()

        when_removed(self, clean_up)
        self.viewer.events.theme.connect(self._theme)
        self._theme()

    def _theme(self, _event: Any = None) -> None:
        theme = get_theme(self.viewer.theme)
        colours = {"rim": theme.foreground, "on": theme.current, "ink": theme.text, "over": theme.primary}
        self.toolbar.setStyleSheet(STYLE.format(**{name: colour.as_hex() for name, colour in colours.items()}))

    def _start_inside(self) -> None:
        """Look at the middle of the images where the present point lies outside them."""
        main = self.view.main
        if main is None:
            return
        low, high = self.view.space.extent(self.session.volume(main))
        here = self.view.space.coordinates(self.session.position)
        if not ((low <= here) & (here <= high)).all():
            self.session.position = self.view.space.world((low + high) / 2)

    def _layers_changed(self) -> None:
        self.board.gallery.forget()
        self._changed()

    def _watch(self) -> None:
        """Listen to the layers that are drawn, and to no others."""
        drawn = [*self.view.images(), *([] if self.view.overlay is None else [self.view.overlay])]
        for layer in [x for x in self._watched if x not in drawn]:
            self._unwatch(layer)
            self._watched.remove(layer)
        for layer in [x for x in drawn if x not in self._watched]:
            for event in _events(layer):
                event.connect(self._layer_event)
            self._watched.append(layer)

    def _unwatch(self, layer: Layer) -> None:
        for event in _events(layer):
            event.disconnect(self._layer_event)

    def _layer_event(self, _event: Any = None) -> None:
        self._changed()

    def _changed(self) -> None:
        self._watch()
        self.board.windows.link()
        self.board.update()
        self._later.start(0)

    def _filled_in(self) -> None:
        self.board.gallery.forget()
        self.board.update()

    def _moved(self) -> None:
        self.board.update()
        self._pointed(None)

    def _redraw(self) -> None:
        self.board.update()

    def _refresh(self) -> None:
        look = self.view.look
        if look.mode is not Mode.FLICKER and self._blink.isActive():
            self._blink.stop()
        self.session.look_along(self.view.planes[0].slice_axis if self._filled else None)
        self.toolbar.refresh()
        self.toolbar.buttons["blink"].setChecked(self._blink.isActive())
        self.toolbar.buttons["fill"].setChecked(self._filled)
        space, main = self.view.space, self.view.main
        tilted = f"Slices follow the grid of {main.name}, tilted by {space.angle:.1f}°." if main is not None and space.angle else ""
        self.grid_note.setText(tilted)
        self.grid_note.setVisible(bool(tilted))
        self._pointed(None)

    def _pointed(self, point: Any) -> None:
        self._point = point
        if not self._read.isActive():
            self._read.start()

    def _show_values(self) -> None:
        self.values.show_reading(read_out(self.view, self.session.position if self._point is None else self._point))

    def _hold(self, second: bool) -> None:
        if self.view.look.mode is Mode.FLICKER and not self._blink.isActive():
            self.view.set(flipped=second)

    def _let_go(self, *_: Any) -> None:
        """A key that is released elsewhere is never heard of here."""
        if isalive(self):
            self._hold(False)


def _events(layer: Layer) -> list[Any]:
    return [getattr(layer.events, name) for name in WATCHED if hasattr(layer.events, name)]
