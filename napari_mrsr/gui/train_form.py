"""The form of a training: network, preset, starting weights, and the numbers that matter most."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QDialog, QDoubleSpinBox, QFileDialog, QFormLayout, QLineEdit, QPushButton, QSpinBox, QVBoxLayout, QWidget

from napari_mrsr.errors import MrsrError
from napari_mrsr.gui.dock import combo, note, warn
from napari_mrsr.gui.train_presets import TITLES, Preset, free_name, preset, presets, starting_from, starts
from napari_mrsr.gui.train_yaml import RecipeEditor
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.zoo import Card

SCRATCH, OTHER = "from scratch", "a file..."
MOST_STEPS = 10_000_000
RATE_DECIMALS = 7


class TrainForm(QWidget):
    """Form of a recipe, but for its data.

    Signals
    -------
    changed()
        Something else was chosen.
    failed(str)
        A file cannot be used.
    """

    changed = Signal()
    failed = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._presets = presets()
        self._cards: list[Card] = []
        self._base: Recipe = self._presets[0].recipe
        titles = [TITLES.get(name, name) for name in dict.fromkeys(p.recipe.network.name for p in self._presets)]
        self.network = combo("network", "Network to train", sorted(titles))
        self.preset = combo("preset", "Recipe to begin with; its main numbers can be changed below, all of them as YAML")
        self.start = combo("starting weights", "Weights the training begins with: fine-tuning takes minutes, from scratch takes longer")
        self.name = QLineEdit()
        self.summary, self.missing = note(name="preset summary"), note(name="missing start")
        self.steps, self.every, self.batch, self.patch = QSpinBox(), QSpinBox(), QSpinBox(), QSpinBox()
        self.rate = QDoubleSpinBox()
        self.edit = QPushButton("Edit as YAML...")
        self._arrange()
        self.network.currentTextChanged.connect(self._network_changed)
        self.preset.activated.connect(self._preset_chosen)
        self.start.currentTextChanged.connect(self._start_changed)
        self.edit.clicked.connect(self._edit)
        for box in (self.steps, self.every, self.batch, self.patch, self.rate):
            box.valueChanged.connect(lambda _: self.changed.emit())
        self.name.textChanged.connect(lambda _: self.changed.emit())
        self._network_changed()

    @property
    def base(self) -> Recipe:
        """The recipe behind the form, without what the form changes."""
        return self._base

    @property
    def takes_reference(self) -> bool:
        """Whether the recipe's network makes use of a second contrast."""
        return bool(self._base.data.references)

    def recipe(self) -> Recipe:
        """The recipe as the form shows it; its data are the preset's."""
        own_file = self._base.start is not None and self.start.currentText() == self._base.start
        recipe = self._base if own_file and self._card() is None else starting_from(self._base, self._card())
        changes: dict[str, Any] = {
            "name": self.name.text().strip(),
            "steps": self.steps.value(),
            "validate_every": min(self.every.value(), self.steps.value()),
            "patches": recipe.patches.model_copy(update={"batch": self.batch.value(), "size": self.patch.value()}),
            "optimiser": recipe.optimiser.model_copy(update={"learning_rate": self.rate.value()}),
        }
        return recipe.model_copy(update=changes)

    def refresh_models(self) -> None:
        """List the models to start from anew; the choice stays."""
        self._offer_starts(self.start.currentText())

    def choose(self, wanted: Callable[[Preset], bool]) -> None:
        """Choose the first preset that answers to something."""
        found = next(p for p in self._presets if wanted(p))
        self.network.setCurrentText(TITLES.get(found.recipe.network.name, found.recipe.network.name))
        self.preset.setCurrentIndex(self._offered.index(found))
        self._take(found.recipe)

    def _arrange(self) -> None:
        self.name.setObjectName("model name")
        self.name.setToolTip("Name of the new model in the list: small letters, digits, dots and dashes")
        self.edit.setToolTip("Everything the recipe says: losses, schedule, variations, stages")
        for box, name, low, high, about in (
            (self.steps, "steps", 1, MOST_STEPS, "Optimiser steps"),
            (self.every, "validate every", 1, MOST_STEPS, "Steps between two validations; each is a place to resume from"),
            (self.batch, "batch", 1, 1024, "Patches a step: more need more memory"),
            (self.patch, "patch", 4, 1024, "Edge of a patch in low-resolution voxels (of the fine grid where the input is interpolated first)"),
        ):
            box.setObjectName(name)
            box.setRange(low, high)
            box.setToolTip(about)
        self.rate.setObjectName("learning rate")
        self.rate.setDecimals(RATE_DECIMALS)
        self.rate.setRange(10**-RATE_DECIMALS, 1.0)
        self.rate.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
        self.rate.setToolTip("Largest learning rate; lower it where the loss jumps")
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Network", self.network)
        form.addRow("Preset", self.preset)
        form.addRow(self.summary)
        form.addRow("Start from", self.start)
        form.addRow(self.missing)
        form.addRow("New model", self.name)
        form.addRow("Steps", self.steps)
        form.addRow("Validate every", self.every)
        form.addRow("Learning rate", self.rate)
        form.addRow("Patch", self.patch)
        form.addRow("Batch", self.batch)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(form)
        column.addWidget(self.edit)

    def _network_changed(self, *_: Any) -> None:
        title = self.network.currentText()
        self._offered = [p for p in self._presets if TITLES.get(p.recipe.network.name, p.recipe.network.name) == title]
        self.preset.clear()
        self.preset.addItems([p.title for p in self._offered] + [OTHER])
        # Fine-tuning is what most come for.
        first = next((n for n, p in enumerate(self._offered) if p.recipe.start is not None), 0)
        self.preset.setCurrentIndex(first)
        self._take(self._offered[first].recipe)

    def _preset_chosen(self, index: int) -> None:
        if index < len(self._offered):
            self._take(self._offered[index].recipe)
            return
        path, _ = QFileDialog.getOpenFileName(self, "Recipe", "", "Recipes (*.yaml *.yml)")
        self.preset.setCurrentIndex(0)
        if not path:
            self._take(self._offered[0].recipe)
            return
        try:
            found = preset(Path(path))
        except MrsrError as error:
            self.failed.emit(str(error))
            return
        self._presets.append(found)
        self.network.blockSignals(True)
        title = TITLES.get(found.recipe.network.name, found.recipe.network.name)
        if self.network.findText(title) < 0:
            self.network.addItem(title)
        self.network.setCurrentText(title)
        self.network.blockSignals(False)
        self._network_changed()
        self.preset.setCurrentIndex(self._offered.index(found))
        self._take(found.recipe)

    def _take(self, recipe: Recipe) -> None:
        """Show a recipe."""
        self._base = recipe
        self.summary.setText(recipe.summary)
        self.summary.setVisible(bool(recipe.summary))
        self.steps.setValue(recipe.steps)
        self.every.setValue(recipe.validate_every)
        self.rate.setValue(recipe.optimiser.learning_rate)
        self.batch.setValue(recipe.patches.batch)
        self.patch.setValue(recipe.patches.size)
        self._offer_starts(recipe.start or SCRATCH)
        missing = recipe.start is not None and self.start.currentText() != recipe.start
        warn(self.missing, f"The model {recipe.start}, which this preset starts from, is not in the list; choose another one." if missing else "")
        self.name.setText(free_name(f"{recipe.network.name}-x{recipe.network.scale}-own"))
        self.changed.emit()

    def _offer_starts(self, current: str) -> None:
        self._cards = starts(self._base)
        self.start.blockSignals(True)
        self.start.clear()
        names = [card.name for card in self._cards]
        if current.endswith(".safetensors") and current not in names:  # named in the recipe itself
            names.append(current)
        self.start.addItems([SCRATCH, *names])
        for number, card in enumerate(self._cards, 1):
            self.start.setItemData(number, f"{card.title}: {card.summary}", 3)
        self.start.setCurrentIndex(max(0, self.start.findText(current)))
        self.start.blockSignals(False)

    def _start_changed(self, *_: Any) -> None:
        warn(self.missing, "")
        self.changed.emit()

    def _card(self) -> Card | None:
        index = self.start.currentIndex() - 1
        return self._cards[index] if 0 <= index < len(self._cards) else None

    def _edit(self) -> None:
        editor = RecipeEditor(self.recipe(), self)
        if editor.exec() == QDialog.DialogCode.Accepted:
            self._take(editor.recipe)
            self.name.setText(editor.recipe.name)
