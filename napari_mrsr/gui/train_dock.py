"""Dock: train a network or fine-tune a model on one's own volumes; the training goes on without the viewer and is found again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QFormLayout, QLabel, QMessageBox, QPushButton, QTabWidget, QVBoxLayout, QWidget

from napari_mrsr.errors import InputError, MrsrError
from napari_mrsr.gui.dock import Dock, combo, in_background, note, when_removed
from napari_mrsr.gui.train_check import CheckPane, draft_folder
from napari_mrsr.gui.train_data import DataBox, write_copies
from napari_mrsr.gui.train_form import TrainForm
from napari_mrsr.gui.train_layers import PreviewLayers
from napari_mrsr.gui.train_list import RunList
from napari_mrsr.gui.train_presets import check_name
from napari_mrsr.gui.train_view import RunView
from napari_mrsr.gui.train_watch import RunWatch
from napari_mrsr.training.recipe import Recipe
from napari_mrsr.training.runs import ALIVE, RunFolder, list_runs, new_run

SUPER_RESOLVE = "Super-resolve"


class TrainDock(Dock):
    """Choose what to train on what, check it, start it, and watch it."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.form, self.data = TrainForm(), DataBox(self.session)
        self.device = combo("training device", "Where to compute", ["auto", "cpu"])
        self.check = CheckPane()
        self.start_button = QPushButton("Start training")
        self.list = RunList()
        self.watch = RunWatch(self)
        self.view = RunView(self.watch)
        self.preview = PreviewLayers(self.viewer)
        self.pages = QTabWidget()
        self.none = note("No training has been started yet.", name="no runs")
        self._arrange()
        self._connect()
        self._form_changed()
        self.list.refresh()
        if (busy := self.list.busy()) is not None:
            self.list.refresh(busy)
            self.pages.setCurrentIndex(1)

    def recipe(self, folder: Path) -> Recipe:
        """What the forms say, with volumes of layers in a folder.

        Raises
        ------
        InputError
            If something is missing, or the name is taken.
        """
        recipe = self.form.recipe()
        check_name(recipe.name)
        # The process works in a folder of its own.
        start = str(Path(recipe.start).expanduser().resolve()) if recipe.start and recipe.start.endswith(".safetensors") else recipe.start
        return recipe.model_copy(update={"start": start, "data": self.data.part(recipe.data, folder), "stages": self.data.stages(recipe.stages)})

    def start(self) -> None:
        """Start a training in a process of its own.

        Raises
        ------
        MrsrError
            With one sentence, where something is missing or cannot be written.
        """
        volumes, recipe = self.data.volumes(), self.recipe(draft_folder())
        if recipe.name in _under_way():
            raise InputError(f"A training of {recipe.name} is under way; give the new model another name.")
        run = new_run(recipe, self.device.currentText())
        run.write_recipe(self.recipe(run.data))
        self.start_button.setEnabled(False)
        self.start_button.setText("Starting...")
        if volumes:
            in_background(write_copies, volumes, run.data, done=lambda _: self._launch(run), failed=self._not_started, owner=self)
        else:
            self._launch(run)

    def _launch(self, run: RunFolder) -> None:
        try:
            run.start()
        except MrsrError as error:
            self._not_started(str(error))
            return
        self._ready()
        self.list.refresh(run)
        self._follow(run)
        self.pages.setCurrentIndex(1)

    def _not_started(self, sentence: str) -> None:
        self._ready()
        self.list.refresh()
        self.report(sentence)

    def _ready(self) -> None:
        self.start_button.setEnabled(True)
        self.start_button.setText("Start training")

    def _arrange(self) -> None:
        self.start_button.setObjectName("start training")
        self.start_button.setToolTip("Start; the training runs by itself and goes on when the viewer is closed")
        self.pages.setObjectName("training pages")
        setup, runs, device = QWidget(), QWidget(), QWidget()
        row = QFormLayout(device)
        row.setContentsMargins(0, 0, 0, 0)
        row.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        row.addRow("Device", self.device)
        for page, parts in (
            (setup, (self.form, self.data, device, self.check, self.start_button)),
            (runs, (self.none, self.list, self.view)),
        ):
            column = QVBoxLayout(page)
            column.setContentsMargins(0, 6, 0, 0)
            for part in parts:
                column.addWidget(part)
            column.addStretch()
        self.pages.addTab(setup, "New training")
        self.pages.addTab(runs, "Runs")
        self.column.addWidget(QLabel("<b>Train</b>"))
        self.column.addWidget(self.pages)
        self.column.addStretch()
        self.view.set_theme(self.viewer.theme)

    def _connect(self) -> None:
        session, viewer, preview, data = self.session, self.session.viewer, self.preview, self.data
        self.form.changed.connect(self._form_changed)
        self.form.failed.connect(self.report)
        self.data.changed.connect(self.check.forget)
        self.check.asked.connect(self.guarded(self._check))
        self.check.devices.connect(self._offer_devices)
        self.start_button.clicked.connect(self.guarded(self.start))
        self.list.chosen.connect(self._follow)
        self.view.resumed.connect(self.guarded(self._resume))
        self.view.deleted.connect(self.guarded(self._delete))
        self.view.used.connect(self._use)
        self.view.slice.toggled.connect(lambda on: self._show_slice() if on else preview.clear())
        self.watch.changed.connect(self._show_slice)
        self.watch.ended.connect(self._ended)
        self.pages.currentChanged.connect(self._page_turned)
        session.models_changed.connect(self.form.refresh_models)
        viewer.events.theme.connect(self._theme_changed)
        viewer.dims.events.point.connect(self._moved)
        form, theme_changed, moved = self.form, self._theme_changed, self._moved

        def clean_up() -> None:
            session.models_changed.disconnect(form.refresh_models, missing_ok=True)
            viewer.events.theme.disconnect(theme_changed)
            viewer.dims.events.point.disconnect(moved)
            data.disconnect_session()

        when_removed(self, clean_up)

    def _form_changed(self) -> None:
        self.data.needs_reference(self.form.takes_reference)
        self.check.forget()

    def _check(self) -> None:
        """Look at the data before anything is started."""
        folder = draft_folder()
        recipe, volumes = self.recipe(folder), self.data.volumes()
        self.check.start(recipe, volumes, folder, self.device.currentText())

    def _offer_devices(self, names: list[str]) -> None:
        current = self.device.currentText()
        self.device.clear()
        self.device.addItems(["auto", *names])
        self.device.setCurrentText(current if current in names else "auto")

    def _follow(self, run: RunFolder | None) -> None:
        self.none.setVisible(run is None)
        self.list.setVisible(run is not None)
        try:
            self.view.follow(run.recipe().steps if run is not None else 0)
        except MrsrError as error:
            self.report(str(error))
        self.watch.follow(run)
        # The slice of a run that is over is shown on request.
        self.view.slice.setChecked(self.watch.state in ALIVE)

    def _page_turned(self, _page: int) -> None:
        self.list.refresh()
        self._show_slice()

    def _show_slice(self) -> None:
        history = self.watch.history
        if history is None:
            self.preview.clear()
        elif self.view.slice.isChecked() and self.pages.currentIndex() == 1:
            self.guarded(lambda: self.preview.show(history))()
        self._moved()

    def _moved(self, _event: Any = None) -> None:
        self.view.caption.setText(self.preview.caption())

    def _ended(self) -> None:
        """A run that was watched is over: its model can be used everywhere at once."""
        self.list.refresh()
        if self.watch.history is not None and self.watch.history.model:
            self.session.models_changed.emit()

    def _resume(self) -> None:
        run = self.watch.run
        if run is not None:
            run.start()
            self.list.refresh(run)
            self._follow(run)

    def _delete(self) -> None:
        run = self.watch.run
        if run is None or not self._confirm(f"Delete the run {run.name} with its curves and checkpoint? It cannot be resumed afterwards."):
            return
        self.watch.follow(None)
        run.delete()
        self.list.refresh()
        self._follow(self.list.runs[self.list.currentRow()] if self.list.runs else None)

    def _confirm(self, text: str) -> bool:
        return QMessageBox.question(self, "Delete?", text) == QMessageBox.StandardButton.Yes

    def _use(self, model: str) -> None:
        """Choose a model in the Super-resolve dock, which is opened where it is not."""
        frame, dock = self.session.viewer.window.add_plugin_dock_widget("napari-mrsr", SUPER_RESOLVE, tabify=True)
        self.session.models_changed.emit()
        dock.models.setCurrentText(model)
        frame.show()
        frame.raise_()

    def _theme_changed(self, _event: Any = None) -> None:
        self.view.set_theme(self.viewer.theme)


def _under_way() -> set[str]:
    """Names of the models that are being trained."""
    found = set()
    for run in list_runs():
        with suppress(MrsrError):  # a damaged folder is no reason to start nothing
            if run.state() in ALIVE:
                found.add(run.recipe().name)
    return found
