"""Dock: make a low-resolution volume from a sharp one, the way a paper does."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QLabel, QPushButton

from napari_mrsr.degradation import PROTOCOLS, Degradation, degrade
from napari_mrsr.errors import InputError
from napari_mrsr.gui.dock import Dock, in_background, note, warn, when_removed
from napari_mrsr.gui.forms import form_values, model_form
from napari_mrsr.gui.layers import layer_to_volume, volume_to_layer
from napari_mrsr.gui.role_boxes import RoleBoxes
from napari_mrsr.gui.session import Role
from napari_mrsr.intensity import require_content
from napari_mrsr.volume import Volume

FIELDS: dict[str, dict[str, Any]] = {
    "protocol": {"label": "Protocol", "choices": list(PROTOCOLS), "tooltip": "\n".join(f"{p.name}: {p.summary}" for p in PROTOCOLS.values())},
    "scale": {"label": "Factor", "min": 2, "max": 8, "tooltip": "Voxels of the result per voxel of the input, along each degraded axis"},
    "axis": {"label": "Axis across slices", "tooltip": "default: the coarsest spacing, ties S"},
    "noise": {"label": "Noise (%)", "min": 0.0, "max": 20.0, "step": 0.5, "tooltip": "Rician noise in percent of the volume's range"},
    "seed": {"label": "Seed", "min": 0, "max": 2**31 - 1, "tooltip": "Same seed, same noise"},
}


class DegradeDock(Dock):
    """Make low-resolution: ground truth in, low resolution out."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.roles = RoleBoxes(self.session, {Role.GROUND_TRUTH: "Sharp volume to be degraded; it stays as it is"})
        self.form = model_form(Degradation, FIELDS)
        self.button = QPushButton("Make low-resolution")
        self.button.setObjectName("make button")
        self.button.setToolTip("Degrade the ground truth; the result becomes the low resolution")
        self.button.clicked.connect(self.guarded(self._start))
        self.status, self.warning = note(name="status"), note(name="warning")
        self.column.addWidget(QLabel("<b>Make low-resolution</b>"))
        self.column.addWidget(self.roles)
        self.column.addWidget(self.form.native)
        self.column.addWidget(self.warning)
        self.column.addWidget(self.button)
        self.column.addWidget(self.status)
        self.column.addStretch()
        session, roles, look = self.session, self.roles, self._look

        def clean_up() -> None:
            session.roles_changed.disconnect(look, missing_ok=True)
            roles.disconnect_session()

        session.roles_changed.connect(look)
        when_removed(self, clean_up)
        self._look()

    def _look(self) -> None:
        """Say at once what would be in the way."""
        layer, problem = self.session.layer(Role.GROUND_TRUTH), ""
        if layer is not None:
            try:
                volume = self.session.volume(layer)
                require_content(volume.data, volume.name)
            except InputError as error:
                problem = str(error)
        warn(self.warning, problem)

    def _start(self) -> None:
        layer = self.session.layer(Role.GROUND_TRUTH)
        if layer is None:
            self.report("Choose the volume to degrade as ground truth first.")
            return
        volume, degradation = layer_to_volume(layer), Degradation.create(**form_values(self.form))
        self.button.setEnabled(False)
        self.status.setText("Working...")
        in_background(degrade, volume, degradation, done=self._done, failed=self._failed, owner=self)

    def _done(self, low: Volume) -> None:
        self.button.setEnabled(True)
        size = " x ".join(f"{v:.2f}" for v in low.voxel_size)
        self.status.setText(f"{low.name}: {' x '.join(map(str, low.shape))} voxels of {size} mm.")
        data, meta, _ = volume_to_layer(low, interpolation2d="nearest")
        self.session.assign(Role.LOW_RESOLUTION, self.viewer.add_image(data, **meta))

    def _failed(self, sentence: str) -> None:
        self.button.setEnabled(True)
        self.status.setText("")
        self.report(sentence)
