"""All of a recipe as text."""

from __future__ import annotations

from pathlib import Path

import yaml
from qtpy.QtGui import QFontDatabase
from qtpy.QtWidgets import QDialog, QDialogButtonBox, QFileDialog, QPlainTextEdit, QVBoxLayout, QWidget

from napari_mrsr.errors import InputError, MrsrError
from napari_mrsr.gui.dock import note, warn
from napari_mrsr.io import write_text
from napari_mrsr.training.recipe import Recipe, parse_recipe

SIZE = (560, 640)
ABOUT = "Everything the training does. Folder, files and contrasts are taken from the dock; the rest is taken from here."


class RecipeEditor(QDialog):
    """Edits a recipe as YAML; only a recipe that can be used is accepted.

    Attributes
    ----------
    recipe : Recipe
        As it was accepted last.
    """

    def __init__(self, recipe: Recipe, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Recipe")
        self.recipe = recipe
        self.editor = QPlainTextEdit(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        self.editor.setObjectName("recipe text")
        self.editor.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        self.editor.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.problem = note(name="recipe problem")
        warn(self.problem, "")
        buttons = QDialogButtonBox()
        buttons.addButton(QDialogButtonBox.StandardButton.Ok)
        buttons.addButton(QDialogButtonBox.StandardButton.Cancel)
        save = buttons.addButton("Save as...", QDialogButtonBox.ButtonRole.ActionRole)
        assert save is not None
        save.setToolTip("Keep the recipe as a file, for the list of presets or for the command line")
        save.clicked.connect(self.save)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        column = QVBoxLayout(self)
        for part in (note(ABOUT), self.editor, self.problem, buttons):
            column.addWidget(part)
        self.resize(*SIZE)

    def accept(self) -> None:
        """Close, if the text is a recipe."""
        if self._parse():
            super().accept()

    def save(self) -> None:
        """Write the text into a file."""
        if not self._parse():
            return
        path, _ = QFileDialog.getSaveFileName(self, "Save recipe", f"{self.recipe.name}.yaml", "Recipes (*.yaml)")
        if path:
            try:
                write_text(self.editor.toPlainText(), Path(path), overwrite=True)
            except MrsrError as error:
                warn(self.problem, str(error))

    def _parse(self) -> bool:
        try:
            recipe = parse_recipe(self.editor.toPlainText(), "This recipe")
            if recipe.network.name != self.recipe.network.name:
                raise InputError(f"This recipe is of the network {self.recipe.network.name}; another one is chosen in the dock, under Network.")
        except MrsrError as error:
            warn(self.problem, str(error))
            return False
        self.recipe = recipe
        warn(self.problem, "")
        return True
