"""The mask: any Labels layer, or the brain found automatically, to be corrected with napari's brush."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Labels, Layer
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.brain import brain_mask
from napari_mrsr.gui.dock import combo, in_background
from napari_mrsr.gui.layers import display_affine, layer_affine
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.volume import Volume

NONE = "(none)"
NO_IMAGE = "There is no image to find a brain in: choose a low-resolution volume or a ground truth first."
MASK_TIP = "Labels layer whose painted voxels count, here and in Metrics; none: the foreground"
MASK_OPACITY = 0.35


class MaskBox(QWidget):
    """Choice of the session's mask.

    Attributes
    ----------
    choice : QComboBox
    brain_button : QPushButton

    Signals
    -------
    failed(str)
        One sentence.
    """

    failed = Signal(str)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._layers: list[Labels] = []
        self._busy = False
        self.choice = combo("mask", MASK_TIP)
        self.brain_button = QPushButton("Brain mask")
        self.brain_button.setObjectName("brain mask")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.choice)
        column.addWidget(self.brain_button)
        self.choice.activated.connect(self._chosen)
        self.brain_button.clicked.connect(self._find_brain)
        for signal in self._links():
            signal.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show the Labels layers there are and which one is the mask."""
        self._layers = [layer for layer in self._session.viewer.layers if isinstance(layer, Labels) and layer.ndim == 3]
        self.choice.clear()
        self.choice.addItems([NONE, *(layer.name for layer in self._layers)])
        mask = self._session.mask
        self.choice.setCurrentIndex(self._layers.index(mask) + 1 if mask in self._layers else 0)
        image = self._image()
        self.brain_button.setEnabled(image is not None and not self._busy)
        self.brain_button.setText("Searching..." if self._busy else "Brain mask")
        self.brain_button.setToolTip(
            f"Find the brain in {image.name}, a few seconds; it comes as a Labels layer to be corrected with the brush, and is the mask then. "
            "Check it: it may hold orbits or scalp, or miss lesions at the skull"
            if image is not None
            else NO_IMAGE
        )

    def disconnect_session(self) -> None:
        """Stop listening; call before the widget goes."""
        for signal in self._links():
            signal.disconnect(self.refresh, missing_ok=True)

    def _links(self) -> tuple[Any, ...]:
        return self._session.layers_changed, self._session.roles_changed, self._session.mask_changed

    def _image(self) -> Layer | None:
        """The sharpest image there is: truth, else a candidate, else the low resolution."""
        session = self._session
        images = (session.layer(Role.GROUND_TRUTH), *session.candidates, session.layer(Role.LOW_RESOLUTION))
        return next((layer for layer in images if layer is not None), None)

    def _chosen(self, index: int) -> None:
        self._session.mask = self._layers[index - 1] if index > 0 else None

    def _find_brain(self) -> None:
        image = self._image()
        if image is None:
            return
        try:
            volume = self._session.volume(image)
        except InputError as error:
            self.failed.emit(str(error))
            return
        self._set_busy(True)
        in_background(brain_mask, volume, done=self._found, failed=self._not_found, owner=self)

    def _found(self, mask: Volume) -> None:
        self._set_busy(False)
        layer = self._session.viewer.add_labels(
            mask.data, name=mask.name, affine=display_affine(mask), units="mm", axis_labels=("R", "A", "S"), opacity=MASK_OPACITY
        )
        self._session.mask = layer

    def _not_found(self, sentence: str) -> None:
        self._set_busy(False)
        self.failed.emit(sentence)

    def _set_busy(self, busy: bool) -> None:
        self._busy = busy
        self.refresh()


def mask_volume(layer: Layer) -> Volume:
    """Mask of a Labels layer as it is now: a copy, because labels are painted in place."""
    return Volume(np.asarray(layer.data) != 0, layer_affine(layer), name=layer.name)
