"""A model's card as a page: what it was made from, what it is good for, how good it is."""

from __future__ import annotations

from qtpy.QtWidgets import QDialog, QDialogButtonBox, QTextBrowser, QVBoxLayout, QWidget

from napari_mrsr.zoo import Card, card_page

SIZE = (860, 640)


class CardDialog(QDialog):
    """Shows a card; it stays open beside the viewer until it is closed."""

    def __init__(self, card: Card, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle(f"Model card: {card.name}")
        self.page = QTextBrowser()
        self.page.setObjectName("model card")
        self.page.setOpenExternalLinks(True)
        self.page.setMarkdown(card_page(card))
        buttons = QDialogButtonBox()
        buttons.addButton(QDialogButtonBox.StandardButton.Close)
        buttons.rejected.connect(self.reject)
        column = QVBoxLayout(self)
        column.addWidget(self.page)
        column.addWidget(buttons)
        self.resize(*SIZE)
