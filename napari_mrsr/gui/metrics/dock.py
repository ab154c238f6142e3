"""Dock: scores of all candidates against the ground truth, with what they mean, slice by slice, ready to be copied."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from napari.layers import Layer
from qtpy.QtCore import QSize
from qtpy.QtGui import QGuiApplication, QStandardItemModel
from qtpy.QtWidgets import QCheckBox, QFileDialog, QFormLayout, QGridLayout, QHBoxLayout, QLabel, QPushButton, QWidget

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation import CONVENTIONS, Comparison, headline
from napari_mrsr.evaluation.export import to_csv, to_latex
from napari_mrsr.evaluation.measured import Measured
from napari_mrsr.evaluation.metrics import METRICS
from napari_mrsr.evaluation.tissue import with_dice
from napari_mrsr.gui.dock import Dock, combo, note, when_removed
from napari_mrsr.gui.metrics.curve import CurvePlot
from napari_mrsr.gui.metrics.live import Choice, LiveScores
from napari_mrsr.gui.metrics.table import Row, ScoreTable
from napari_mrsr.gui.session import Role
from napari_mrsr.gui.settings import recall, remember
from napari_mrsr.io import write_json

PREFERRED_WIDTH = 460
WHOLE, SLICE, ROI = "Whole volume", "Slice on screen", "Region of interest"
NO_DIPY = 'Tissue classes need dipy: run pip install "napari-mrsr[tissue]"'
DICE_TIP = (
    "Tell CSF, grey and white matter apart in truth and candidates, and how far they overlap: T1-weighted brains only, some seconds per image, "
    "over the whole brain (the mask where it is switched on, else found automatically)"
)


class MetricsDock(Dock):
    """Table of candidates and scores, curve over slices."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.live = LiveScores(self.session, self)
        self.convention = combo("convention", "", list(CONVENTIONS))
        self.region = combo("region", "Where the table is measured; mask and range always come from the whole ground truth", [WHOLE, SLICE, ROI])
        self.masked = QCheckBox("Only in the mask")
        self.intervals = QCheckBox("95 % intervals")
        self.score = combo("score", "Score that the curve shows", [m.title for m in METRICS.values()])
        self.headline, self.status = note(name="headline"), note(name="status")
        self.table, self.curve = ScoreTable(), CurvePlot()
        self.worst_button, self.dice_button = QPushButton("Worst slice"), QPushButton("Tissue Dice")
        self.csv_button, self.latex_button, self.json_button = QPushButton("Copy CSV"), QPushButton("Copy LaTeX"), QPushButton("Save JSON...")
        self._arrange()
        self._recall()
        self._connect()
        self.curve.set_theme(self.session.viewer.theme)
        self._choices_changed()
        self.live.refresh()

    @property
    def measured(self) -> Measured | None:
        """What the table and the curve show."""
        return None if self.live.scores is None else self.live.scores.outcome.measured

    def comparison(self) -> Comparison:
        """What the table shows.

        Raises
        ------
        InputError
            If there is nothing to show.
        """
        scores = self.live.scores
        if scores is None:
            raise InputError(self.live.sentence)
        shown = scores.outcome.comparison
        if self.region.currentText() == SLICE:
            plane = self._plane()
            if plane is None:
                raise InputError("The slice on screen lies outside what was measured; move to another.")
            shown = scores.outcome.measured.comparison(plane)
        return shown if scores.dice is None else with_dice(shown, scores.dice)

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Wide enough for a table at first; it can be made narrower."""
        return QSize(PREFERRED_WIDTH, super().sizeHint().height())

    # --- making -----------------------------------------------------------------------------------------------------------------------

    def _arrange(self) -> None:
        self.masked.setObjectName("masked")
        self.intervals.setObjectName("intervals")
        self.intervals.setToolTip(
            "<p>Show 95 % bootstrap intervals over slices (none for one slice). Neighbouring slices are alike, so they are too narrow, and they say "
            "nothing about other people. A score's tooltip has the interval of its distance to the best.</p>"
        )
        names = {"worst": self.worst_button, "csv": self.csv_button, "latex": self.latex_button, "json": self.json_button, "dice": self.dice_button}
        for name, button in names.items():
            button.setObjectName(name)
        form, ticks, row, buttons = QWidget(), QWidget(), QWidget(), QWidget()
        rows = QFormLayout(form)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows.addRow("Convention", self.convention)
        rows.addRow("Region", self.region)
        for holder, parts in ((ticks, (self.masked, self.intervals)), (row, (self.score, self.worst_button))):
            line = QHBoxLayout(holder)
            line.setContentsMargins(0, 0, 0, 0)
            for part in parts:
                line.addWidget(part)
        grid = QGridLayout(buttons)
        grid.setContentsMargins(0, 0, 0, 0)
        for place, button in enumerate((self.csv_button, self.latex_button, self.json_button, self.dice_button)):
            grid.addWidget(button, place // 2, place % 2)
        for part in (QLabel("<b>Metrics</b>"), form, ticks, self.headline, self.table, self.status, row, self.curve, buttons):
            self.column.addWidget(part)
        self.column.addStretch()

    def _recall(self) -> None:
        for box, name in ((self.convention, "convention"), (self.region, "region"), (self.score, "curve")):
            kept = recall(f"metrics {name}", "")
            if box.findText(kept) >= 0:
                box.setCurrentText(kept)
        self.intervals.setChecked(recall("metrics intervals", False))

    def _connect(self) -> None:
        self.convention.activated.connect(lambda _: self._used("convention", self.convention.currentText()))
        self.region.activated.connect(lambda _: self._used("region", self.region.currentText()))
        self.score.activated.connect(lambda _: self._used("curve", self.score.currentText()))
        self.intervals.clicked.connect(lambda on: self._used("intervals", on))
        self.masked.clicked.connect(self._choices_changed)
        self.table.chosen.connect(self._activate)
        self.curve.asked.connect(self._go_to)
        self.curve.stepped.connect(self._step)
        actions: tuple[tuple[QPushButton, Callable[[], None]], ...] = (
            (self.worst_button, self._go_to_worst),
            (self.csv_button, lambda: self._copy(to_csv(self.comparison()), "CSV")),
            (self.latex_button, lambda: self._copy(to_latex(self.comparison()), "LaTeX")),
            (self.json_button, self._save),
            (self.dice_button, self.live.classify),
        )
        for button, action in actions:
            button.clicked.connect(self.guarded(action))
        live, session, viewer = self.live, self.session, self.session.viewer
        live.changed.connect(self._measured_anew)
        links = (
            (session.roi_changed, self._choices_changed),
            (session.mask_changed, self._choices_changed),
            (session.position_changed, self._moved),
            (session.axis_changed, self._show),
        )
        emitters: tuple[tuple[Any, Callable[..., None]], ...] = ((viewer.events.theme, self._theme_changed), (viewer.dims.events.order, self._show))
        slot: Callable[..., None]
        for signal, slot in (*links, *emitters):
            signal.connect(slot)

        def clean_up() -> None:
            for signal, slot in links:
                signal.disconnect(slot, missing_ok=True)
            for emitter, slot in emitters:
                emitter.disconnect(slot)
            live.disconnect_session()

        when_removed(self, clean_up)

    def _used(self, name: str, value: Any) -> None:
        remember(f"metrics {name}", value)
        self._choices_changed()

    def _choices_changed(self, *_: Any) -> None:
        """Controls follow what there is; what is measured follows the controls."""
        roi, mask = self.session.roi, self.session.mask
        model = self.region.model()
        assert isinstance(model, QStandardItemModel)
        item = model.item(self.region.findText(ROI))
        assert item is not None
        item.setEnabled(roi is not None)
        item.setToolTip("" if roi is not None else "There is no region of interest; draw one first")
        if roi is None and self.region.currentText() == ROI:
            self.region.setCurrentText(WHOLE)
        self.masked.setEnabled(mask is not None)
        self.masked.setChecked(self.masked.isChecked() and mask is not None)
        why = "There is no mask; choose a Labels layer or make a brain mask first"
        self.masked.setToolTip(why if mask is None else f"Count only voxels of {mask.name} that are not zero")
        self.convention.setToolTip(f"<p>{CONVENTIONS[self.convention.currentText()].summary}</p>")
        self.live.choose(Choice(self.convention.currentText(), self.region.currentText() == ROI, self.masked.isChecked()))
        self._show()

    # --- showing ----------------------------------------------------------------------------------------------------------------------

    def _measured_anew(self) -> None:
        scores, texts = self.live.scores, {}
        if scores is not None:
            request = scores.outcome.request
            parts = [word for word, there in (("ROI", request.roi), ("mask", request.mask)) if there is not None]
            where = f" ({', '.join(parts)})" if parts else ""
            for row, place in scores.places.items():
                r = scores.outcome.comparison.results[place]
                texts[scores.layers[row]] = f"PSNR {METRICS['psnr'].format(r.psnr)} dB  SSIM {r.ssim:.3f}{where}"
        self.session.set_captions(texts)
        self._show()

    def _show(self, *_: Any) -> None:
        """Table, curve and controls, as everything is now."""
        scores, axis = self.live.scores, self.session.axis
        self._say(self.live.sentence)
        self._show_table()
        for part in (self.headline, self.table, self.curve):
            part.setVisible(scores is not None)
        if scores is not None:
            self.curve.draw(scores.outcome.measured.curve(self._metric(), axis), list(scores.places))
        self._show_here()
        self._explain()

    def _show_table(self) -> None:
        scores = self.live.scores
        comparison: Comparison | None = None
        try:
            comparison = self.comparison()
            self.headline.setText(headline(comparison))
        except InputError as error:
            self.headline.setText(str(error) if scores is not None else "")
        layers = () if scores is None else scores.layers
        problems, places = (scores.problems, scores.places) if scores is not None else ({}, {})
        rows = [Row(layer.name, self._about(layer), problems.get(i, ""), places.get(i)) for i, layer in enumerate(layers)]
        self.table.fill(rows, comparison, self.intervals.isChecked())

    def _say(self, sentence: str) -> None:
        self.status.setText(sentence)
        self.status.setVisible(bool(sentence))

    def _show_here(self) -> None:
        plane = self._plane()
        self.curve.show_slice(None if plane is None else plane[1])

    def _explain(self) -> None:
        """What the buttons do, or why they cannot now."""
        ready, why = self.live.scores is not None, self.live.sentence
        tips = {
            self.worst_button: "Go to the slice in which the selected candidate (else the first) scores worst in the curve; slices with less than a "
            "tenth of the fullest one's voxels are left out",
            self.csv_button: "Copy the table as CSV; every row names convention, mask, range and region",
            self.latex_button: "Copy the table for LaTeX (booktabs); best values bold",
            self.json_button: "Save scores, intervals and all that gives them meaning",
            self.dice_button: DICE_TIP,
        }
        for button, text in tips.items():
            button.setEnabled(ready)
            button.setToolTip(f"<p>{text if ready else why}</p>")
        self.dice_button.setText("Stop tissue Dice" if self.live.classifying else "Tissue Dice")
        if importlib.util.find_spec("dipy") is None:
            self.dice_button.setEnabled(False)
            self.dice_button.setToolTip(NO_DIPY)

    def _moved(self) -> None:
        if self.region.currentText() == SLICE:
            self._show_table()
        self._show_here()

    def _theme_changed(self, event: Any) -> None:
        self.curve.set_theme(event.value)

    def _about(self, layer: Layer) -> str:
        """Options of the run that made a layer."""
        run = next((run for run in self.session.runs if run.result is layer), None)
        if run is None:
            return "Low resolution, as a baseline" if layer is self.session.layer(Role.LOW_RESOLUTION) else ""
        options = [f"{name}: {value}" for name, value in run.options.items() if value not in (None, (), [], "")]
        return "\n".join([*options, run.summary])

    def _metric(self) -> str:
        return list(METRICS)[self.score.currentIndex()]

    def _plane(self) -> tuple[int, int] | None:
        """Slice of what was measured that is on screen."""
        if self.measured is None:
            return None
        axis = self.session.axis
        index = self.measured.slice_at(axis, self.session.position)
        return None if index is None else (axis, index)

    # --- acting -----------------------------------------------------------------------------------------------------------------------

    def _activate(self, row: int) -> None:
        scores, layers = self.live.scores, self.session.viewer.layers
        if scores is not None and row < len(scores.layers) and scores.layers[row] in layers:
            layers.selection.active = scores.layers[row]

    def _go_to(self, index: int) -> None:
        if self.measured is not None:
            self.session.position = self.measured.point_in(self.session.axis, index, self.session.position)

    def _step(self, step: int) -> None:
        plane = self._plane()
        if plane is not None and self.measured is not None and 0 <= plane[1] + step < self.measured.volume.shape[plane[0]]:
            self._go_to(plane[1] + step)

    def _go_to_worst(self) -> None:
        scores = self.live.scores
        assert scores is not None
        place = scores.places.get(max(0, self.table.currentRow()))
        if place is None:
            raise InputError("The selected candidate is not measured; select another row.")
        index = scores.outcome.measured.curve(self._metric(), self.session.axis).worst(place)
        if index is None:
            raise InputError("No slice has a score; choose another metric or region.")
        self._go_to(index)

    def _copy(self, text: str, kind: str) -> None:
        clipboard = QGuiApplication.clipboard()
        assert clipboard is not None
        clipboard.setText(text)
        self._say(f"Copied as {kind}.")

    def _save(self) -> None:
        content = self.comparison().model_dump(mode="json")
        path, _ = QFileDialog.getSaveFileName(self, "Save scores", "metrics.json", "JSON (*.json)")
        if path:
            # The dialog has asked whether to replace a file.
            self._say(f"Saved {write_json(content, path, overwrite=True)}.")
