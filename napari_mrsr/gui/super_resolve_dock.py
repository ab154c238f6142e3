"""Dock: choose volumes and a model, run it, stop it, see and save what came out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QDoubleSpinBox, QFileDialog, QFormLayout, QGridLayout, QLabel, QMessageBox, QProgressBar, QPushButton, QWidget

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation import headline
from napari_mrsr.gui import results, roi
from napari_mrsr.gui.dock import START_WORKER_MS, Dock, combo, cut, in_background, note
from napari_mrsr.gui.import_weights import ImportButton
from napari_mrsr.gui.layers import layer_to_volume
from napari_mrsr.gui.maps_box import MapsBox
from napari_mrsr.gui.role_boxes import RoleBoxes
from napari_mrsr.gui.run_form import RunForm
from napari_mrsr.gui.session import Role, Run
from napari_mrsr.gui.worker_client import WorkerClient
from napari_mrsr.inference import RunOptions
from napari_mrsr.inference.options import voxel_size_warnings
from napari_mrsr.networks import MapInfo
from napari_mrsr.volume import Box, Volume
from napari_mrsr.zoo import Card, list_models

ROLES = {
    Role.LOW_RESOLUTION: "Volume to super-resolve; it stays as it is",
    Role.REFERENCE: "Another contrast of the same person, for networks that use one",
    Role.GROUND_TRUTH: "Sharp volume to judge the result by, if there is one",
}
WHOLE, SLICE, BOX = "Whole volume", "Current slice", "Box drawn in the viewer"


@dataclass(frozen=True, eq=False)
class Pending:
    """The run under way: its options, its input, what is known of its maps."""

    options: dict[str, Any]
    source: Volume
    infos: dict[str, MapInfo]


class SuperResolveDock(Dock):
    """Super-resolve the volume on screen."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.client = WorkerClient.shared(self.session)
        self.roles = RoleBoxes(self.session, ROLES)
        self.models = combo("model", "Network or classic method")
        self.region = combo("region", "What to compute", [WHOLE, SLICE, BOX])
        self.device = combo("device", "Where to compute", ["auto"])
        self.box_depth = QDoubleSpinBox()
        self.run_form, self.maps = RunForm(), MapsBox()
        self.form = self.run_form.container
        self.summary, self.warning = note(name="summary"), note(name="warning")
        self.run_button, self.cancel_button = QPushButton("Run"), QPushButton("Cancel")
        self.draw_button, self.import_button = QPushButton("Draw box"), ImportButton()
        self.progress = QProgressBar()
        self.status, self.scores = note(name="status"), note(name="scores")
        self.remove_button, self.save_button, self.figure_button = (
            QPushButton("Remove last run"),
            QPushButton("Save volume..."),
            QPushButton("Save figure..."),
        )
        self._arrange()
        self._connect()
        self._cards: dict[str, Card] = {}
        self._pending: Pending | None = None
        # A process that starts takes the processor from the window that is still being drawn.
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.timeout.connect(self._ask_worker)
        self._later.start(START_WORKER_MS)
        self.refresh_models()
        self._set_busy(False)
        self._runs_changed()

    def refresh_models(self) -> None:
        """Read the list of models anew."""
        current = self.models.currentText()
        self._cards = {card.name: card for card in list_models()}
        self.models.clear()
        self.models.addItems(list(self._cards))
        self.models.setCurrentText(current if current in self._cards else next(iter(self._cards)))

    def options(self, volume: Volume) -> RunOptions:
        """Options as the form shows them."""
        box = self._box(volume)
        return RunOptions.create(
            model=self.models.currentText(),
            device=self.device.currentText(),
            roi=(*box.lower, *box.upper) if box else None,
            maps=self.maps.chosen(),
            **self.run_form.values(),
        )

    def start(self) -> None:
        """Run the chosen model on the low-resolution layer.

        Raises
        ------
        InputError, RunError
            With one sentence, where something is missing or does not fit.
        """
        layer = self.session.layer(Role.LOW_RESOLUTION)
        if layer is None:
            raise InputError("Choose the volume to super-resolve as low resolution first.")
        volume = layer_to_volume(layer)
        options = self.options(volume)
        warnings = voxel_size_warnings(self._cards[options.model], volume)
        if warnings and not self._confirm(" ".join(warnings)):
            return
        reference = self.session.layer(Role.REFERENCE)
        self.client.run(volume, options, layer_to_volume(reference) if reference is not None else None)
        self._pending = Pending(options.model_dump(mode="json"), volume, dict(self.maps.infos))
        self._set_busy(True)
        self.status.setText("Starting...")

    def _arrange(self) -> None:
        self.box_depth.setRange(1.0, 500.0)
        self.box_depth.setValue(40.0)
        self.box_depth.setSuffix(" mm")
        self.box_depth.setToolTip("Thickness of the drawn box across the slice it was drawn on")
        self.run_button.setToolTip("Start; the layers that are there stay as they are")
        self.cancel_button.setToolTip("Stop the run; nothing of it is kept")
        self.remove_button.setToolTip("Take the layers of the last run out of the viewer")
        choice = QWidget()
        rows = QFormLayout(choice)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for label, widget in (("Model", self.models), ("Region", self.region), ("Box depth", self.box_depth), ("Device", self.device)):
            rows.addRow(label, widget)
        self.box_rows = (self.box_depth, rows.labelForField(self.box_depth))
        buttons = QWidget()
        grid = QGridLayout(buttons)
        grid.setContentsMargins(0, 0, 0, 0)
        for index, button in enumerate((self.run_button, self.cancel_button, self.save_button, self.figure_button)):
            grid.addWidget(button, index // 2, index % 2)
        grid.addWidget(self.remove_button, 2, 0, 1, 2)
        rows.insertRow(1, "", self.import_button)
        for widget in (QLabel("<b>Super-resolve</b>"), self.roles, choice, self.draw_button, self.form.native, self.maps, self.summary, self.warning):
            self.column.addWidget(widget)
        for widget in (buttons, self.progress, self.status, self.scores):
            self.column.addWidget(widget)
        self.column.addStretch()

    def _connect(self) -> None:
        self.models.currentTextChanged.connect(self._model_changed)
        self.region.currentTextChanged.connect(self._region_changed)
        self._region_changed(self.region.currentText())
        self.run_form.on_protocol(self._describe)
        self.import_button.imported.connect(self._imported)
        self.import_button.failed.connect(self.report)
        self.run_button.clicked.connect(self.guarded(self.start))
        self.cancel_button.clicked.connect(self._cancel)
        self.draw_button.clicked.connect(lambda: roi.start_drawing(self.viewer))
        self.remove_button.clicked.connect(lambda: self.session.remove_run(self.session.runs[-1]))
        self.save_button.clicked.connect(self.guarded(self._save_volume))
        self.figure_button.clicked.connect(self.guarded(self._save_figure))
        session, client, roles = self.session, self.client, self.roles
        links = ((session.roles_changed, self._describe), (session.runs_changed, self._runs_changed), (session.models_changed, self.refresh_models))
        answers = (
            (client.devices, self._devices),
            (client.described, self._described),
            (client.started, self._started),
            (client.progress, self._progressed),
            (client.done, self._done),
            (client.cancelled, self._cancelled),
            (client.failed, self._run_failed),
        )
        for signal, slot in (*links, *answers):
            signal.connect(slot)

        # closeEvent never reaches a docked widget; destroyed does, and must not touch the widget any more.
        def clean_up() -> None:
            cut(*answers)
            for signal, slot in links:
                signal.disconnect(slot, missing_ok=True)
            roles.disconnect_session()
            if self._pending is not None:
                client.cancel()
            client.release()

        self.destroyed.connect(clean_up)

    def _box(self, volume: Volume) -> Box | None:
        choice = self.region.currentText()
        if choice == SLICE:
            return roi.slice_box(self.viewer, volume)
        return roi.drawn_box(self.viewer, self.box_depth.value()) if choice == BOX else None

    def _region_changed(self, choice: str) -> None:
        for widget in (*self.box_rows, self.draw_button):
            if widget is not None:
                widget.setVisible(choice == BOX)

    def _model_changed(self, name: str) -> None:
        self._describe()
        self.maps.wait(name)
        if not self._later.isActive():
            self._ask_maps()

    def _ask_worker(self) -> None:
        self.client.ask_devices()
        self._ask_maps()

    def _ask_maps(self) -> None:
        if self.models.currentText():
            self.client.describe(self.models.currentText())

    def _described(self, description: dict[str, Any]) -> None:
        if description["model"] == self.models.currentText():
            self.maps.show_description(description)

    def _describe(self) -> None:
        card = self._cards.get(self.models.currentText())
        if card is None:
            return
        self.summary.setText(card.summary)
        self.summary.setToolTip("\n".join(card.limits))
        layer, volume = self.session.layer(Role.LOW_RESOLUTION), None
        try:
            volume = layer_to_volume(layer) if layer is not None else None
            warnings = voxel_size_warnings(card, volume) if volume is not None else []
        except InputError as error:
            warnings = [str(error)]
        self.run_form.suit(card, volume)
        self.warning.setText(f"<span style='color:#e69f00'>{' '.join(warnings)}</span>" if warnings else "")
        self.warning.setVisible(bool(warnings))

    def _confirm(self, text: str) -> bool:
        answer = QMessageBox.question(self, "Run anyway?", f"{text} Run anyway?")
        return answer == QMessageBox.StandardButton.Yes

    def _set_busy(self, busy: bool) -> None:
        self.run_button.setEnabled(not busy)
        self.cancel_button.setEnabled(busy)
        self.progress.setVisible(busy)
        self.progress.setRange(0, 0 if busy else 100)
        self.cancel_button.setText("Cancel")

    def _runs_changed(self) -> None:
        runs = self.session.runs
        for button in (self.remove_button, self.save_button, self.figure_button):
            button.setEnabled(bool(runs))
        self.scores.setText(runs[-1].summary if runs else "")

    def _cancel(self) -> None:
        self.cancel_button.setText("Cancelling...")
        self.cancel_button.setEnabled(False)
        self.client.cancel()

    def _devices(self, devices: list[dict[str, Any]]) -> None:
        current = self.device.currentText()
        self.device.clear()
        self.device.addItem("auto")
        for entry in devices:
            self.device.addItem(entry["name"])
            self.device.setItemData(self.device.count() - 1, f"{entry['title']}, {entry['free'] / 2**30:.1f} GiB free", 3)
        self.device.setCurrentText(current)

    def _started(self, event: dict[str, Any]) -> None:
        if self._pending is None:
            return
        self.progress.setRange(0, 1000)
        self.status.setText("\n".join([event["plan"], *event["warnings"]]))

    def _progressed(self, event: dict[str, Any]) -> None:
        if self._pending is None:
            return
        self.progress.setRange(0, 1000)
        self.progress.setValue(round(1000 * event["fraction"]))
        left = event["seconds_left"]
        self.progress.setFormat("%p %" + (f", {left:.0f} s left" if left is not None else ""))

    def _done(self, volume: Volume, seconds: float, maps: list[Volume]) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        # The worker knows nothing of files: header facts come from the volume that was sent.
        volume = volume.replace(source=pending.source.source)
        self.status.setText(f"{self.status.text()}\nDone in {seconds:.1f} s; computing maps and scores...")
        self.progress.setRange(0, 0)
        try:
            truth = results.truth_volume(self.session)
        except InputError as error:
            truth = None
            self.report(str(error))
        in_background(
            results.find,
            volume,
            truth,
            maps,
            pending.infos,
            done=lambda f: self._show(f, pending.options, seconds),
            owner=self,
            failed=lambda s: self._without_truth(results.find(volume, None, maps, pending.infos), pending.options, seconds, s),
        )

    def _without_truth(self, findings: results.Findings, options: dict[str, Any], seconds: float, sentence: str) -> None:
        """The result itself is never lost because its ground truth does not fit."""
        self.report(sentence)
        self._show(findings, options, seconds)

    def _show(self, findings: results.Findings, options: dict[str, Any], seconds: float) -> None:
        plan = self.status.text().split("\nDone in")[0]
        self.status.setText(f"{plan}\nDone in {seconds:.1f} s. {results.noise_sentence(findings.result)}".rstrip())
        self._set_busy(False)
        results.show(self.session, findings, options, _score_text(findings))

    def _cancelled(self) -> None:
        if self._pending is None:
            return
        self._pending = None
        self._set_busy(False)
        self.status.setText("Stopped; nothing of the run was kept.")

    def _run_failed(self, sentence: str) -> None:
        if self._pending is None:
            return
        self._pending = None
        self._set_busy(False)
        self.status.setText("")
        self.report(sentence)

    def _imported(self, name: str) -> None:
        self.client.forget_descriptions()
        self.session.models_changed.emit()
        self.models.setCurrentText(name)
        self.status.setText(f"Imported: {name} is in the list of models now.")

    def _last_run(self) -> Run:
        return self.session.runs[-1]

    def _save_volume(self) -> None:
        from napari_mrsr.figures.report import file_stem
        from napari_mrsr.io import write_volume

        volume = layer_to_volume(self._last_run().result)
        path, _ = QFileDialog.getSaveFileName(self, "Save volume", f"{file_stem(volume.name)}.nii.gz", "MR volume (*.nii.gz *.nii *.mgz)")
        if path:
            written = write_volume(volume, path, overwrite=True, description=f"napari-mrsr {volume.name}")
            self.status.setText("Saved: " + ", ".join(p.name for p in written))

    def _save_figure(self) -> None:
        low, truth = self.session.layer(Role.LOW_RESOLUTION), results.truth_volume(self.session)
        if low is None or truth is None:
            raise InputError("A figure needs a low-resolution volume and a ground truth; choose their layers.")
        path, _ = QFileDialog.getSaveFileName(self, "Save figure", "figure.png", "Figure (*.png *.pdf *.svg)")
        if path:
            volumes = (layer_to_volume(low), [layer_to_volume(r.result).replace(name=r.name) for r in self.session.runs[-4:]], truth)
            self.status.setText("Drawing the figure...")
            in_background(_draw, *volumes, path, done=lambda p: self.status.setText(f"Saved: {p}"), failed=self._save_failed, owner=self)

    def _save_failed(self, sentence: str) -> None:
        self.status.setText("")
        self.report(sentence)


def _draw(low: Volume, candidates: list[Volume], truth: Volume, path: str) -> str:
    from napari_mrsr.figures import comparison_figure, save_figure

    return str(save_figure(comparison_figure(low, candidates, truth), path, overwrite=True))


def _score_text(findings: results.Findings) -> str:
    if findings.comparison is None:
        return "No ground truth chosen: no scores."
    score = findings.comparison.results[0]
    return f"<b>PSNR {score.psnr:.2f} dB, SSIM {score.ssim:.4f}, NMSE {score.nmse:.5f}</b><br><small>{headline(findings.comparison)}</small>"
