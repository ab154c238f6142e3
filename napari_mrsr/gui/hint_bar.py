"""A line of what to try next; it can be sent away for good."""

from __future__ import annotations

from qtpy.QtWidgets import QHBoxLayout, QToolButton, QWidget

from napari_mrsr.gui.dock import note
from napari_mrsr.gui.settings import recall, remember

DISMISSED = "hints dismissed"
"""Setting: keys of the hints that are not shown any more."""


class HintBar(QWidget):
    """Shows one hint at a time; hidden without one."""

    def __init__(self) -> None:
        super().__init__()
        self._key = ""
        self.label = note(name="hint")
        self.close_button = QToolButton()
        self.close_button.setText("\u00d7")
        self.close_button.setObjectName("dismiss hint")
        self.close_button.setAccessibleName("Dismiss the hint")
        self.close_button.setToolTip("Do not show this hint again")
        self.close_button.clicked.connect(self._dismiss)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.label, 1)
        row.addWidget(self.close_button)
        self.hide()

    def suggest(self, key: str, text: str) -> None:
        """Show a hint, unless it was dismissed."""
        self._key = key
        self.label.setText(f"<i>{text}</i>")
        self.setVisible(key not in recall(DISMISSED, []))

    def _dismiss(self) -> None:
        remember(DISMISSED, sorted({*recall(DISMISSED, []), self._key}))
        self.hide()
