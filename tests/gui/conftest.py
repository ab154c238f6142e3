from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QObject, Signal

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.errors import RunError
from napari_mrsr.gui.layers import volume_to_layer
from napari_mrsr.gui.session import Role
from napari_mrsr.volume import Volume


@pytest.fixture(autouse=True)
def _viewer_only_from_the_main_thread(monkeypatch):
    monkeypatch.setenv("NAPARI_ENSURE_PLUGIN_MAIN_THREAD", "1")


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
    done = Signal(object, float, list)
    cancelled = Signal()
    failed = Signal(str)
    probed = Signal(object)
    probe_failed = Signal(str)

    def __init__(self, descriptions):
        super().__init__()
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

    def cancel(self):
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
