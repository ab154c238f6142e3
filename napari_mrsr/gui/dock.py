"""What all docks share: a scrollable column, notifications, background work."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from html import escape
from typing import Any, ClassVar

from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_info
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, Qt, QThreadPool, QTimer
from qtpy.QtWidgets import QComboBox, QFrame, QLabel, QMessageBox, QScrollArea, QVBoxLayout, QWidget

from napari_mrsr.errors import MrsrError
from napari_mrsr.gui import _compat
from napari_mrsr.gui.session import Session

MIN_WIDTH = 300
WARNING = "#e69f00"
START_WORKER_MS = 500
"""How long after a dock is made the worker process may start."""


class Dock(QScrollArea):
    """Base of the docks: a column of widgets over the session of a viewer."""

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self.viewer = viewer
        self.session = Session.of(viewer)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumWidth(MIN_WIDTH)
        inner = QWidget()
        self.column = QVBoxLayout(inner)
        self.column.setContentsMargins(8, 8, 8, 8)
        self.setWidget(inner)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802 - Qt's name
        """Keep room for the widest row beside the scroll bar, for nothing scrolls sideways (scroll areas listen to their content)."""
        if event is not None and event.type() == QEvent.Type.LayoutRequest and isinstance(watched, QWidget):
            bar = self.verticalScrollBar()
            self.setMinimumWidth(max(MIN_WIDTH, watched.minimumSizeHint().width() + (bar.sizeHint().width() if bar is not None else 0)))
        return super().eventFilter(watched, event)

    def guarded(self, action: Callable[[], None]) -> Callable[..., None]:
        """`action` with expected errors shown as one sentence instead of a traceback."""

        def run(*_: Any) -> None:
            try:
                action()
            except MrsrError as error:
                self.report(str(error))

        return run

    def report(self, sentence: str) -> None:
        """Show a problem to the user."""
        say(self.viewer, sentence)


def say(viewer: Any, sentence: str, *, problem: bool = True) -> None:
    """Show a sentence: as napari's notification, or, where the canvas that would show it is hidden, in a box; without a viewer napari logs it."""
    if viewer is None or _compat.canvas_shown(viewer):
        (show_error if problem else show_info)(sentence)
        return
    icon = QMessageBox.Icon.Warning if problem else QMessageBox.Icon.Information
    box = QMessageBox(icon, "MR Super-Resolution", sentence, QMessageBox.StandardButton.Ok, _compat.main_window(viewer))
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.open()


def in_background(
    function: Callable[..., Any], *args: Any, done: Callable[[Any], None], failed: Callable[[str], None], owner: QObject | None = None
) -> None:
    """Run a function away from the GUI thread.

    Parameters
    ----------
    function, *args
        What to compute.
    done : callable
        Gets the result, on the GUI thread.
    failed : callable
        Gets one sentence, on the GUI thread.
    owner : QObject, optional
        Nobody is told if this widget has gone in the meantime.
    """
    # Qt never lets go of a worker that a thread pool has run: what it was given must not hang on it (napari tells
    # workers to quit when its window closes, and then only that they have finished).
    errand = [(partial(function, *args), done, failed, owner)]

    def attempt() -> tuple[Any, str]:
        # Errors travel as values: superqt swallows some exception types of aborted workers.
        work = errand[0][0]
        try:
            return work(), ""
        except MrsrError as error:
            return None, str(error)
        except Exception as error:  # noqa: BLE001 - shown to the user, never lost
            return None, f"Unexpected {type(error).__name__}: {error}"

    def deliver(outcome: tuple[Any, str]) -> None:
        _, tell, complain, listener = errand[0]
        if listener is not None and not isalive(listener):
            return
        result, problem = outcome
        complain(problem) if problem else tell(result)

    create_worker(attempt, _connect={"returned": deliver, "finished": errand.clear}, _start_thread=True)


class _Removal(QObject):
    """Runs something once when a widget leaves its dock, is destroyed, or the program ends, whichever comes first."""

    waiting: ClassVar[weakref.WeakSet[_Removal]] = weakref.WeakSet()

    def __init__(self, widget: QWidget, clean_up: Callable[[], None]) -> None:
        super().__init__(widget)
        self._clean_up: Callable[[], None] | None = clean_up
        self.waiting.add(self)
        widget.installEventFilter(self)
        widget.destroyed.connect(self.once)

    def once(self, *_: Any) -> None:
        clean_up, self._clean_up = self._clean_up, None
        if clean_up is not None:
            clean_up()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802 - Qt's name
        if event is not None and event.type() == QEvent.Type.ParentChange and isinstance(watched, QWidget) and watched.parent() is None:
            self.once()
            # Not within the change of parents, which is not over yet.
            QTimer.singleShot(0, watched.deleteLater)
        return False


def _finish_work() -> None:
    """Let background work and docks end before Qt's objects are taken away under them, in whatever order: a program may end with its window open."""
    pool = QThreadPool.globalInstance()
    if pool is not None:
        pool.waitForDone()
    for removal in list(_Removal.waiting):
        removal.once()


atexit.register(_finish_work)


def when_removed(widget: QWidget, clean_up: Callable[[], None]) -> None:
    """Call `clean_up` once when a docked widget goes; it must not touch Qt objects of the widget, which may be gone.

    closeEvent never reaches a docked widget. A click on the dock's cross only takes the widget out of it, and leaves it to live on unseen; the
    end of the window destroys it. Both count, and a widget that was taken out is deleted.
    """
    _Removal(widget, clean_up)


def cut(*links: tuple[Any, Callable[..., None]]) -> None:
    """Disconnect Qt signals from slots of a widget that goes; Qt may have done so already."""
    for signal, slot in links:
        with suppress(TypeError, RuntimeError):
            signal.disconnect(slot)


def note(text: str = "", name: str = "") -> QLabel:
    """Word-wrapped label whose text can be selected."""
    label = QLabel(text)
    label.setObjectName(name)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


def warn(label: QLabel, sentence: str) -> None:
    """Show a warning in a line of its own, in the theme's colour of text behind a coloured sign; without one the line is hidden."""
    label.setText(f"<span style='color:{WARNING}'>&#9888;</span> {escape(sentence)}" if sentence else "")
    label.setVisible(bool(sentence))


def combo(name: str, tooltip: str, items: list[str] | None = None) -> QComboBox:
    """Combo box that gives way where the dock is narrow."""
    box = QComboBox()
    box.setObjectName(name)
    box.setToolTip(tooltip)
    box.addItems(items or [])
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(10)
    return box
