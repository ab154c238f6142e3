"""A light beside the model: whether the volume is like those it was trained on, and why."""

from __future__ import annotations

from html import escape

from qtpy.QtCore import QSize, Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap
from qtpy.QtWidgets import QPushButton, QToolButton, QVBoxLayout, QWidget

from napari_mrsr.gui.dock import note
from napari_mrsr.inference.guard import Level, Reason, Verdict

COLOURS = {Level.GREEN: "#009e73", Level.AMBER: "#e69f00", Level.RED: "#d55e00"}
"""Told apart by people who confuse red and green; the word stands beside."""
MEANING = {
    Level.GREEN: "The volume is like those the model was trained on; its result may still be wrong.",
    Level.AMBER: "The volume differs from those the model was trained on: expect less, and compare with a classic method.",
    Level.RED: "The volume is unlike those the model was trained on: its result is not to be trusted.",
}
SIZE = 12
SHARP = 4
"""Pixels of the drawing per pixel of an ordinary screen."""


class DomainLight(QToolButton):
    """The light; pressed, it unfolds the reasons.

    Attributes
    ----------
    details : QWidget
        The reasons, and a button to try the model; put it below.
    verdict : Verdict or None

    Signals
    -------
    asked()
        The model is to be tried on a small piece.
    """

    asked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.verdict: Verdict | None = None
        self.setObjectName("domain light")
        self.setCheckable(True)
        self.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.setIconSize(QSize(SIZE, SIZE))
        self.reasons = note(name="domain reasons")
        self.try_button = QPushButton("Try a small piece")
        self.try_button.setObjectName("try piece")
        self.try_button.setToolTip("Run the model on a piece from the middle and see whether its result explains the input; some seconds")
        self.try_button.clicked.connect(self.asked)
        self.details = QWidget()
        column = QVBoxLayout(self.details)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.reasons)
        column.addWidget(self.try_button)
        self.toggled.connect(self.details.setVisible)
        self.show_verdict(None)

    def show_verdict(self, verdict: Verdict | None, tried: Reason | None = None, complete: bool = True) -> None:
        """Show how a volume fits; hidden without anything to compare.

        Parameters
        ----------
        verdict : Verdict, optional
        tried : Reason, optional
            What the small piece said.
        complete : bool
            False while contrast and noise are still being looked at.
        """
        if verdict is not None and tried is not None:
            verdict = Verdict.of(verdict.model, [*verdict.reasons, tried])
        self.verdict = verdict if verdict is not None and verdict.reasons else None
        self.setVisible(self.verdict is not None)
        self.details.setVisible(self.verdict is not None and self.isChecked())
        self.try_button.setVisible(tried is None)
        if self.verdict is None:
            return
        level = self.verdict.level
        self.setIcon(_dot(COLOURS[level]))
        self.setText(level.value if complete else f"{level.value}...")
        self.setAccessibleName(f"Suitability of {self.verdict.model}: {level.value}")
        lines = [f"<span style='color:{COLOURS[r.level]}'>&#9679;</span> {escape(r.text)}" for r in self.verdict.reasons]
        self.reasons.setText("<br>".join([*lines, *([] if complete else ["Contrast and noise are being looked at..."])]))
        self.setToolTip(f"<p>{MEANING[level]}</p><p>{'<br>'.join(lines)}</p>")


def _dot(colour: str) -> QIcon:
    picture = QPixmap(SHARP * SIZE, SHARP * SIZE)
    picture.fill(QColor(0, 0, 0, 0))
    painter = QPainter(picture)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QColor(0, 0, 0, 0))
    painter.setBrush(QColor(colour))
    painter.drawEllipse(SHARP, SHARP, SHARP * (SIZE - 2), SHARP * (SIZE - 2))
    painter.end()
    return QIcon(picture)
