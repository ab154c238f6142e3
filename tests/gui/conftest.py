from __future__ import annotations

import copy
import functools
import gc

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QObject, QPoint, QPointF, Qt, Signal
from qtpy.QtGui import QImage, QMouseEvent, QWheelEvent
from qtpy.QtWidgets import QApplication
from scipy import ndimage

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.errors import RunError
from napari_mrsr.gui.layers import volume_to_layer
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.volume import Volume


@pytest.fixture(autouse=True, scope="session")
def _quick_collections():
    """napari collects garbage three times a viewer: keep it from walking through everything that was imported."""
    import napari.viewer  # noqa: F401  (much of it)
    import torch  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def _manifests_are_parsed_once():
    """Every viewer reads the manifests of all plugins again."""
    from npe2.manifest import _bases

    parsed = functools.cache(_bases._load_yaml_no_duplicates)

    def load(stream):
        return copy.deepcopy(parsed(stream if isinstance(stream, str) else stream.read()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_bases, "_load_yaml_no_duplicates", load)
        yield


@pytest.fixture(autouse=True)
def _collections_stay_quick():
    """What survives a test (caches of napari, Qt's menus) is walked through by every later collection, and there are several a test."""
    yield
    gc.freeze()


@pytest.fixture(autouse=True)
def _viewer_only_from_the_main_thread(monkeypatch):
    monkeypatch.setenv("NAPARI_ENSURE_PLUGIN_MAIN_THREAD", "1")


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch, tmp_path):
    monkeypatch.setattr("napari_mrsr.gui.settings.settings_file", lambda: tmp_path / "settings.json")


@pytest.fixture
def said(monkeypatch):
    """Sentences shown to the user."""
    sentences: list[str] = []
    monkeypatch.setattr("napari_mrsr.gui.dock.show_error", sentences.append)
    return sentences


@pytest.fixture
def head() -> Volume:
    """A small head-like volume: an ellipsoid with structure, brighter on the patient's right, on a shifted grid."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 48, 36)), indexing="ij")
    inside = (x**2 + y**2 + z**2) < 0.8
    data = inside * (400 + 200 * (x > 0) + 150 * np.sin(9 * x) * np.cos(7 * y) * np.sin(8 * z))
    affine = np.diag([1.0, 1.2, 1.5, 1.0])
    affine[:3, 3] = (-20, -30, 5)
    return Volume(data.astype(np.float32), affine, name="HR")


@pytest.fixture
def viewer(make_napari_viewer, request):
    """Hidden, unless the test is marked with `shown`: only a shown window lays out and draws."""
    return make_napari_viewer(show=request.node.get_closest_marker("shown") is not None)


@pytest.fixture
def pair(viewer, head):
    """Viewer with ground truth and low resolution, roles set."""
    low = degrade(head, Degradation()).replace(name="LR")
    for volume, role in ((head, Role.GROUND_TRUTH), (low, Role.LOW_RESOLUTION)):
        data, meta, _ = volume_to_layer(volume, metadata={"role": role})
        viewer.add_image(data, **meta)
    return viewer


class FakeClient(QObject):
    """The worker client's face without a process: remembers what was asked, answers when told."""

    devices = Signal(list)
    described = Signal(dict)
    started = Signal(dict)
    progress = Signal(dict)
    tile = Signal(list, bool)
    noticed = Signal(str)
    rested = Signal(bool)
    done = Signal(object, float, list)
    cancelled = Signal()
    failed = Signal(str)
    probed = Signal(object)
    probe_failed = Signal(str)
    tried = Signal(dict)
    try_failed = Signal(str)

    def __init__(self, descriptions):
        super().__init__()
        self.pieces = []
        self.descriptions, self.probes, self.busy, self.probing, self.process_id, self.users = descriptions, [], False, False, 1, 0

    def ask_devices(self):
        pass

    def forget_descriptions(self):
        pass

    def describe(self, model):
        self.described.emit({"model": model, "maps": [], "problem": "", **self.descriptions.get(model, {})})

    def probe(self, volume, options, reference, key, name, at, **more):
        if self.busy:
            raise RunError("A run is under way; wait for it or cancel it.")
        assert not self.probing
        self.probing = True
        self.probes.append({"volume": volume, "options": options, "reference": reference, "key": key, "name": name, "at": at, **more})

    def answer(self, volume):
        self.probing = False
        self.probed.emit(volume)

    def refuse(self, sentence):
        self.probing = False
        self.probe_failed.emit(sentence)

    def try_piece(self, volume, options, reference=None):
        self.pieces.append({"volume": volume, "options": options, "reference": reference})

    def cancel(self):
        pass

    def look(self, at, axis):
        pass

    def pause(self, rest):
        pass

    def close(self):
        pass

    def release(self):
        self.users -= 1


@pytest.fixture
def fake(monkeypatch):
    """Factory of a client that answers for models as described; every dock made afterwards uses it."""

    def make(**descriptions):
        client = FakeClient({name.replace("_", "-"): value for name, value in descriptions.items()})

        def shared(_owner):
            client.users += 1
            return client

        monkeypatch.setattr("napari_mrsr.gui.worker_client.WorkerClient.shared", shared)
        return client

    return make


class Hand:
    """Sends a widget the mouse and wheel events that Qt would; moves do not depend on where the screen's pointer is."""

    LEFT, RIGHT, MIDDLE = Qt.MouseButton.LeftButton, Qt.MouseButton.RightButton, Qt.MouseButton.MiddleButton
    CTRL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier

    def __init__(self, widget):
        self.widget = widget

    def send(self, kind, at, button=LEFT, keys=Qt.KeyboardModifier.NoModifier):
        at = QPointF(*at) if isinstance(at, tuple) else at
        moving = kind == QEvent.Type.MouseMove
        event = QMouseEvent(kind, at, QPointF(self.widget.mapToGlobal(at.toPoint())), Qt.MouseButton.NoButton if moving else button, button, keys)
        QApplication.sendEvent(self.widget, event)

    def press(self, at, button=LEFT, keys=Qt.KeyboardModifier.NoModifier):
        self.send(QEvent.Type.MouseButtonPress, at, button, keys)

    def move(self, at, button=Qt.MouseButton.NoButton, keys=Qt.KeyboardModifier.NoModifier):
        self.send(QEvent.Type.MouseMove, at, button, keys)

    def release(self, at, button=LEFT, keys=Qt.KeyboardModifier.NoModifier):
        self.send(QEvent.Type.MouseButtonRelease, at, button, keys)

    def drag(self, start, end, button=LEFT, keys=Qt.KeyboardModifier.NoModifier, steps=4):
        start, end = (QPointF(*p) if isinstance(p, tuple) else p for p in (start, end))
        self.press(start, button, keys)
        for i in range(1, steps + 1):
            self.move(start + (end - start) * (i / steps), button, keys)
        self.release(end, button, keys)

    def click(self, at, button=LEFT, keys=Qt.KeyboardModifier.NoModifier):
        self.drag(at, at, button, keys, steps=0)

    def double_click(self, at):
        self.click(at)
        self.send(QEvent.Type.MouseButtonDblClick, at)
        self.release(at)

    def wheel(self, at, turns, keys=Qt.KeyboardModifier.NoModifier):
        at = QPointF(*at) if isinstance(at, tuple) else at
        everywhere = QPointF(self.widget.mapToGlobal(at.toPoint()))
        no_phase, no_button = Qt.ScrollPhase.NoScrollPhase, Qt.MouseButton.NoButton
        event = QWheelEvent(at, everywhere, QPoint(0, 0), QPoint(0, round(120 * turns)), no_button, keys, no_phase, False)
        QApplication.sendEvent(self.widget, event)


@pytest.fixture
def hand():
    """A hand on the mouse over a widget."""
    return Hand


@pytest.fixture
def pixels():
    """What a widget draws, as a (rows, columns, RGB) array."""

    def grab(widget) -> np.ndarray:
        image = widget.grab().toImage().convertToFormat(QImage.Format.Format_RGB888)
        bits = image.constBits()
        bits.setsize(image.height() * image.bytesPerLine())
        rows = np.frombuffer(bits, np.uint8).reshape(image.height(), image.bytesPerLine())
        return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).copy()

    return grab


@pytest.fixture
def add(viewer):
    """Put a volume into the viewer, with a role if one is given."""

    def layer(volume, role=None, **options):
        data, meta, _ = volume_to_layer(volume, **({"metadata": {"role": role}} if role else {}), **options)
        return viewer.add_image(data, **meta)

    return layer


@pytest.fixture
def compare(qtbot, viewer):
    """Open the Compare dock in a window of its own."""
    from napari_mrsr.gui.compare.dock import CompareDock

    def dock(width=1000, height=760):
        widget = CompareDock(viewer)
        qtbot.addWidget(widget)
        widget.resize(width, height)
        widget.show()
        widget.activateWindow()
        with qtbot.waitActive(widget):
            pass
        settle(widget)
        return widget

    def settle(widget):
        # The toolbar follows the view on the event loop's next turn.
        qtbot.waitUntil(lambda: not widget._later.isActive() and not widget._read.isActive())

    dock.settle = settle
    return dock


@pytest.fixture
def trio(pair, add, head):
    """Ground truth, low resolution and two candidates: `blurred`, and `brighter` by 50."""
    session = Session.of(pair)
    blurred = ndimage.gaussian_filter(head.data, 1.0)
    for name, data in (("blurred", blurred), ("brighter", head.data + 50)):
        session.add_candidate(add(head.replace(data=data, name=name)))
    return session


@pytest.fixture
def super_resolve_dock(pair, said):
    """The Super-resolve dock in a viewer with ground truth and low resolution, with a worker process of its own."""
    from napari_mrsr.gui.super_resolve_dock import SuperResolveDock

    widget = SuperResolveDock(pair)
    pair.window.add_dock_widget(widget, name="Super-resolve")
    yield widget
    widget.client.close()
