"""Which model the dock proposes for what is open, and what is known of the volume to judge by."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QWidget

from napari_mrsr.gui.dock import in_background, note
from napari_mrsr.inference.choice import Choice, Wish, choose
from napari_mrsr.inference.guard import Facts, find_facts
from napari_mrsr.volume import Volume
from napari_mrsr.zoo import Card


class VolumeFacts(QObject):
    """Contrast and noise of the volume that is open, found away from the GUI thread.

    Signals
    -------
    found()
        The facts that were last asked for are there.
    """

    found = Signal()

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._data: Any = lambda: None
        self._key: tuple[Any, ...] = ()
        self._facts: Facts | None = None

    def of(self, volume: Volume) -> Facts | None:
        """Facts of a volume; None until they are `found`, or where there are none to find."""
        key = (volume.name, volume.affine.tobytes(), repr(volume.record.get("degradation")))
        if self._data() is not volume.data or self._key != key:
            self._data, self._key, self._facts = weakref.ref(volume.data), key, None
            in_background(find_facts, volume, done=partial(self._keep, key), failed=lambda _: None, owner=self)
        return self._facts

    def _keep(self, key: tuple[Any, ...], facts: Facts) -> None:
        if key == self._key:
            self._facts = facts
            self.found.emit()


class ProposalLine(QWidget):
    """The proposed model and why, in one line, with a button to take it where another is chosen.

    Signals
    -------
    taken(str)
        The user wants the proposed model.
    """

    taken = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.choice: Choice | None = None
        self.label = note(name="proposed model")
        self.button = QPushButton("Use")
        self.button.setObjectName("use proposed model")
        self.button.clicked.connect(self._take)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.label, 1)
        row.addWidget(self.button)
        self.hide()

    def propose(self, cards: Sequence[Card], volume: Volume | None, facts: Facts | None, reference: Volume | None, wish: Wish) -> Choice | None:
        """Find the model that suits a volume; nothing is proposed before its facts are known."""
        self.choice = choose(cards, volume, facts, reference, wish) if volume is not None and facts is not None else None
        return self.choice

    def show_beside(self, chosen: str) -> None:
        """Tell the proposal, seen from the model that is chosen."""
        self.setVisible(self.choice is not None)
        if self.choice is not None:
            other = self.choice.model != chosen
            self.label.setText(f"{'Better suited: ' if other else 'Proposed: '}{self.choice.why}")
            self.button.setVisible(other)
            self.button.setToolTip(f"Choose {self.choice.model}")

    def _take(self) -> None:
        if self.choice is not None:
            self.taken.emit(self.choice.model)
