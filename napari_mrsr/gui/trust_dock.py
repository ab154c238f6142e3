"""Dock: what can be said of results without a ground truth, and the mask in which it is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari.layers import Layer
from qtpy.QtCore import Qt
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QFormLayout, QGridLayout, QLabel, QPushButton, QWidget

from napari_mrsr.degradation import PROTOCOLS
from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.trust import CONSISTENCY_LIMITS, DISAGREEMENT_LIMITS, NOT_FOR_DIAGNOSIS, Consistency, Disagreement
from napari_mrsr.gui.dock import Dock, combo, in_background, note, when_removed
from napari_mrsr.gui.mask_box import MaskBox, mask_volume
from napari_mrsr.gui.row_table import NOTHING, RowTable
from napari_mrsr.gui.session import Role
from napari_mrsr.gui.trust_check import (
    RESIDUAL,
    SPREAD_OF_RESULTS,
    Finding,
    Findings,
    Request,
    check,
    clear_maps,
    ensembles,
    show_colour_bar,
    show_map,
)
from napari_mrsr.inference.ensemble import SPREAD

RECORDED = "as recorded"
NO_INPUT = "Choose the low-resolution volume first (in Super-resolve)."
NO_RESULT = "There is no result to check: run a model, or make a layer a candidate."
NOT_CHECKED = "Press Check first."
NO_ENSEMBLE = "No run with self-ensemble yet: tick that option in Super-resolve, under the options of a network."
COLUMNS = {
    "NRMSE": "Root mean square residual over the root mean square of the input: 0 where the result, degraded, gives back the input",
    "rms/σ": "Root mean square residual in units of the input's noise: about 1 or less fits",
    "max/σ": "Largest residual in units of the input's noise: values far above 5 point to something that is not in the input",
}
CONSISTENCY_TIP = f"Each result is degraded the way its input was made, and compared with that input. {CONSISTENCY_LIMITS}"


class TrustDock(Dock):
    """Data consistency, disagreement, self-ensemble; no number here needs a ground truth."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.protocol = combo(
            "protocol", "How the input was made: as its record says, else as the run assumed; or a protocol to try", [RECORDED, *PROTOCOLS]
        )
        self.mask_box = MaskBox(self.session)
        self.check_button = QPushButton("Check")
        self.table = RowTable(COLUMNS)
        self.residual_button, self.worst_button = QPushButton("Show residual"), QPushButton("Go to largest")
        self.details, self.apart, self.spread = note(name="details"), note(name="disagreement"), note(name="spread")
        self.apart_button, self.spread_button = QPushButton("Show disagreement"), QPushButton("Show spread")
        self.notice = QLabel(NOT_FOR_DIAGNOSIS, self)
        self._findings: Findings | None = None
        self._checked: tuple[Layer, ...] = ()
        self._busy, self._stale = False, False
        self._arrange()
        self._connect()
        self.refresh()

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802 - Qt's name
        """Keep the notice below what scrolls."""
        super().resizeEvent(event)
        height = self.notice.heightForWidth(self.width())
        self.setViewportMargins(0, 0, 0, height)
        self.notice.setGeometry(0, self.height() - height, self.width(), height)

    def refresh(self) -> None:
        """What was found is about layers and a mask that are no longer the same: start anew."""
        self._stale = self._busy
        self._findings = None
        clear_maps(self.session)
        self._show()

    def _arrange(self) -> None:
        self.notice.setObjectName("notice")
        self.notice.setWordWrap(True)
        self.notice.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.notice.setStyleSheet("font-weight: bold; padding: 4px; border-top: 1px solid palette(mid);")
        self.notice.setToolTip("Detail finer than the input's voxels is inferred from what other heads look like")
        named = {
            "check": self.check_button,
            "residual": self.residual_button,
            "worst": self.worst_button,
            "show disagreement": self.apart_button,
            "show spread": self.spread_button,
        }
        for name, button in named.items():
            button.setObjectName(name)
        self.table.setObjectName("consistency")
        self.table.setToolTip(CONSISTENCY_TIP)
        form, pair = QWidget(), QWidget()
        rows = QFormLayout(form)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows.addRow("Input made by", self.protocol)
        rows.addRow("Mask", self.mask_box)
        grid = QGridLayout(pair)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(self.residual_button, 0, 0)
        grid.addWidget(self.worst_button, 0, 1)
        parts = (
            *(QLabel("<b>Trust</b>"), form, self.check_button),
            *(_title("Data consistency", CONSISTENCY_TIP), self.table, self.details, pair),
            *(_title("Disagreement", f"Standard deviation between all candidates. {DISAGREEMENT_LIMITS}"), self.apart, self.apart_button),
            *(_title("Self-ensemble", SPREAD.description), self.spread, self.spread_button),
        )
        for part in parts:
            self.column.addWidget(part)
        self.apart.setToolTip(DISAGREEMENT_LIMITS)
        self.spread.setToolTip(SPREAD.description)
        self.column.addStretch()

    def _connect(self) -> None:
        self.protocol.activated.connect(lambda _: self.refresh())
        self.mask_box.failed.connect(self.report)
        self.table.currentCellChanged.connect(lambda *_: self._show_row())
        actions: tuple[tuple[QPushButton, Callable[[], None]], ...] = (
            (self.check_button, self._check),
            (self.residual_button, self._show_residual),
            (self.worst_button, self._go_to_largest),
            (self.apart_button, self._show_apart),
            (self.spread_button, self._show_spread),
        )
        for button, action in actions:
            button.clicked.connect(self.guarded(action))
        session, mask_box = self.session, self.mask_box
        links = (session.roles_changed, session.runs_changed, session.mask_changed)
        for signal in links:
            signal.connect(self.refresh)

        def clean_up() -> None:
            for signal in links:
                signal.disconnect(self.refresh, missing_ok=True)
            mask_box.disconnect_session()

        when_removed(self, clean_up)

    # --- checking ---------------------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        low = self.session.layer(Role.LOW_RESOLUTION)
        if low is None:
            raise InputError(NO_INPUT)
        layers, chosen, mask = self.session.candidates, self.protocol.currentText(), self.session.mask
        volume = self.session.volume
        request = Request(
            low=volume(low),
            results=tuple(volume(layer) for layer in layers),
            spreads=tuple((volume(result), volume(spread)) for result, spread in ensembles(self.session)),
            protocol=None if chosen == RECORDED else chosen,
            mask=None if mask is None else mask_volume(mask),
        )
        self._checked = layers
        self._findings, self._busy, self._stale = None, True, False
        clear_maps(self.session)
        self._show()
        in_background(check, request, done=self._done, failed=self._failed, owner=self)

    def _done(self, findings: Findings) -> None:
        self._busy = False
        self._findings = None if self._stale else findings
        self._show()

    def _failed(self, sentence: str) -> None:
        self._busy = False
        self._show()
        self.report(sentence)

    # --- showing ----------------------------------------------------------------------------------------------------------------------

    def _show(self) -> None:
        layers, findings = self.session.candidates, self._findings
        problem = NO_INPUT if self.session.layer(Role.LOW_RESOLUTION) is None else NO_RESULT if not layers else ""
        _enable(self.check_button, problem, "Check all candidates against their input and against each other; a second or two for each")
        self.check_button.setEnabled(not problem and not self._busy)
        self.check_button.setText("Checking..." if self._busy else "Check")
        self._fill([layer.name for layer in layers])
        self._show_row()
        apart = findings.apart if findings else Finding(problem=problem or NOT_CHECKED)
        self.apart.setText(_apart_text(apart.numbers) if isinstance(apart.numbers, Disagreement) else apart.problem)
        _enable(self.apart_button, apart.problem, "Lay the standard deviation between all candidates over the images")
        there = ensembles(self.session)
        self.spread.setText("\n".join(findings.spreads if findings else [r.name for r, _ in there]) if there else NO_ENSEMBLE)
        _enable(self.spread_button, "" if there else NO_ENSEMBLE, "Show the spread of the last run with self-ensemble over its result")

    def _fill(self, names: list[str]) -> None:
        found = self._findings.results if self._findings else (Finding(problem=NOT_CHECKED),) * len(names)
        self.table.fill(names, [_cells(finding) for finding in found], [_missing(finding) for finding in found])

    def _show_row(self) -> None:
        finding = self._current()
        numbers = finding.numbers
        problem = "" if isinstance(numbers, Consistency) else finding.problem
        self.details.setText(_details(numbers) if isinstance(numbers, Consistency) else problem)
        _enable(self.residual_button, problem, "Lay the residual of the chosen row over the images; one colour range for all rows")
        _enable(self.worst_button, problem, "Move to the place of the largest residual of the chosen row")

    def _current(self) -> Finding:
        row = self.table.currentRow()
        if self._findings is None or not 0 <= row < len(self._findings.results):
            return Finding(problem=NOT_CHECKED)
        return self._findings.results[row]

    def _show_residual(self) -> None:
        found = self._current().map
        if self._findings is not None and found is not None:
            name = f"residual {self._checked[self.table.currentRow()].name}"
            show_map(self.session, found, RESIDUAL, name, self._findings.limits)

    def _go_to_largest(self) -> None:
        numbers = self._current().numbers
        if isinstance(numbers, Consistency):
            self.session.position = numbers.at_mm

    def _show_apart(self) -> None:
        found = self._findings.apart.map if self._findings else None
        if found is not None:
            show_map(self.session, found, SPREAD_OF_RESULTS, "disagreement")

    def _show_spread(self) -> None:
        _, layer = ensembles(self.session)[-1]
        layer.visible = True
        show_colour_bar(layer)
        self.session.viewer.layers.selection.active = layer


def _title(text: str, tooltip: str) -> QLabel:
    label = QLabel(f"<b>{text}</b>")
    label.setToolTip(f"<p>{tooltip}</p>")
    return label


def _enable(button: QPushButton, problem: str, tooltip: str) -> None:
    button.setEnabled(not problem)
    button.setToolTip(problem or tooltip)


def _cells(finding: Finding) -> tuple[str, ...]:
    numbers = finding.numbers
    if not isinstance(numbers, Consistency):
        return ()
    rms, peak = (NOTHING if v is None else f"{v:.1f}" for v in (numbers.rms_sigmas, numbers.peak_sigmas))
    return f"{100 * numbers.nrmse:.2f} %", rms, peak


def _missing(finding: Finding) -> str:
    """Why cells hold a dash."""
    return _noise_text(finding.numbers) if isinstance(finding.numbers, Consistency) else finding.problem


def _noise_text(numbers: Consistency) -> str:
    return f"σ is not known: {numbers.sigma_source}." if numbers.sigma is None else f"σ = {numbers.sigma:.3g}: {numbers.sigma_source}."


def _details(numbers: Consistency) -> str:
    at = ", ".join(f"{v:.0f}" for v in numbers.at_mm)
    moved = " Resampled onto the lattice of the degradation." if numbers.resampled else ""
    return f"Degraded by {numbers.protocol}; over the {numbers.region}. Largest {numbers.peak:.4g} at ({at}) mm. {_noise_text(numbers)}{moved}"


def _apart_text(numbers: Disagreement) -> str:
    moved = f" Resampled: {', '.join(numbers.resampled)}." if numbers.resampled else ""
    return f"{len(numbers.names)} results: {numbers.rms:.3g} rms, {numbers.percent:.2f} % of the range; at most {numbers.peak:.3g}.{moved}"
