"""The result of a run while it grows: a layer that fills in, the slice on the screen first."""

from __future__ import annotations

from typing import Any

from napari.layers import Layer
from qtpy.QtCore import QObject, QTimer

from napari_mrsr.gui.dock import cut
from napari_mrsr.gui.layers import volume_to_layer
from napari_mrsr.gui.session import Session
from napari_mrsr.gui.worker_client import WorkerClient

REFRESH_MS = 200
"""Least time between two drawings of what has grown."""


class LiveResult(QObject):
    """Shows the growing result of the client's run, and tells the run what is on the screen; :meth:`end` takes it away."""

    def __init__(self, session: Session, client: WorkerClient, parent: QObject) -> None:
        super().__init__(parent)
        self._session, self._client = session, client
        self.layer: Layer | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(REFRESH_MS)
        self._timer.timeout.connect(self._refresh)
        self._links = ((client.started, self._started), (client.tile, self._grown))
        for signal, slot in self._links:
            signal.connect(slot)
        session.position_changed.connect(self._moved)
        session.axis_changed.connect(self._moved)

    def look(self) -> tuple[tuple[float, float, float], int]:
        """What is on the screen: world point, and world axis across the slice."""
        return self._session.position, self._session.axis

    def detach(self) -> None:
        """Stop listening, and take the layer away; call before the dock goes."""
        cut(*self._links)
        self._session.position_changed.disconnect(self._moved, missing_ok=True)
        self._session.axis_changed.disconnect(self._moved, missing_ok=True)
        self.end()

    def end(self) -> None:
        """Take the layer away."""
        layer, self.layer = self.layer, None
        viewer = self._session.viewer
        if layer is not None and viewer is not None and layer in viewer.layers:
            viewer.layers.remove(layer)

    def _started(self, event: dict[str, Any]) -> None:
        volume = event.get("live")
        if volume is None:
            return
        self.end()
        low = next((layer for layer in self._session.compared()), None)
        limits = {} if low is None else {"contrast_limits": tuple(low.contrast_limits)}
        data, meta, _ = volume_to_layer(volume, name=f"{volume.name} (running)", **limits)
        self.layer = self._session.viewer.add_image(data, **meta)
        self._session.live = self.layer

    def _grown(self, _block: Any, _preview: bool) -> None:
        if not self._timer.isActive():
            self._timer.start()

    def _refresh(self) -> None:
        if self.layer is not None:
            self.layer.refresh(thumbnail=False, extent=False)
            self._session.values_changed.emit()

    def _moved(self) -> None:
        if self._client.busy:
            self._client.look(*self.look())
