"""Dock: choose volumes and models, run them, stop them, see and save what came out."""

from __future__ import annotations

from html import escape
from typing import Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QFormLayout, QHBoxLayout, QLabel, QMessageBox, QProgressBar, QPushButton, QWidget

from napari_mrsr.errors import InputError
from napari_mrsr.gui.card_dialog import CardDialog
from napari_mrsr.gui.diagnostics_action import diagnostics_action
from napari_mrsr.gui.dock import START_WORKER_MS, Dock, combo, cut, note, warn, when_removed
from napari_mrsr.gui.domain_light import DomainLight
from napari_mrsr.gui.hint_bar import HintBar
from napari_mrsr.gui.import_weights import ImportButton
from napari_mrsr.gui.maps_box import MapsBox
from napari_mrsr.gui.model_advice import ProposalLine, VolumeFacts
from napari_mrsr.gui.model_folder import ModelFolder
from napari_mrsr.gui.provenance import layer_made
from napari_mrsr.gui.region_box import WHOLE, RegionBox
from napari_mrsr.gui.role_boxes import RoleBoxes
from napari_mrsr.gui.run_form import RunForm
from napari_mrsr.gui.run_queue import RunQueue, Task
from napari_mrsr.gui.save_box import SaveBox
from napari_mrsr.gui.session import Role
from napari_mrsr.gui.settings import recall, remember
from napari_mrsr.gui.tick_list import Entry, TickList
from napari_mrsr.gui.worker_client import WorkerClient
from napari_mrsr.inference import RunOptions
from napari_mrsr.inference.choice import Wish
from napari_mrsr.inference.guard import Level, Reason, Verdict, judge
from napari_mrsr.volume import Volume
from napari_mrsr.zoo import Card, list_models

ROLES = {
    Role.LOW_RESOLUTION: "Volume to super-resolve; it stays as it is",
    Role.REFERENCE: "Another contrast of the same person, for networks that use one",
    Role.GROUND_TRUTH: "Sharp volume to judge the result by, if there is one",
    Role.CANDIDATE: "Images to be judged: results, and files of other programs",
}


class SuperResolveDock(Dock):
    """Super-resolve the volume on screen with one model or several."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.client = WorkerClient.shared(self.session)
        self.queue = RunQueue(self.session, self.client, self)
        self.hint = HintBar()
        self.roles = RoleBoxes(self.session, ROLES)
        self.models = combo("model", "Network or classic method")
        self.models.setMinimumContentsLength(8)  # the light stands beside it
        self.light, self.proposal, self.facts = DomainLight(), ProposalLine(), VolumeFacts(self)
        self.also = TickList("Also run", "also run")
        self.region = RegionBox(self.session)
        self.device = combo("device", "Where to compute", ["auto"])
        self.run_form, self.maps = RunForm(), MapsBox()
        self.form = self.run_form.container
        self.summary, self.warning = note(name="summary"), note(name="warning")
        self.run_button, self.pause_button = QPushButton("Run"), QPushButton("Pause")
        self.skip_button, self.cancel_button = QPushButton("Skip"), QPushButton("Cancel")
        self.import_button, self.card_button = ImportButton(), QPushButton("Model card...")
        self.progress = QProgressBar()
        self.status, self.scores, self.made = note(name="status"), note(name="scores"), note(name="how it was made")
        self.saving = SaveBox(self.session)
        self.help_button = QPushButton("Copy diagnostics")
        self._cards: dict[str, Card] = {}
        self._unasked, self._own_choice = False, False
        self._tried: tuple[tuple[Any, ...], Reason] | None = None
        self._trying: tuple[Any, ...] = ()
        self._arrange()
        self._recall()
        self._connect()
        # A process that starts takes the processor from the window that is still being drawn.
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.timeout.connect(self._ask_worker)
        self._later.start(START_WORKER_MS)
        self._model_changed(self.models.currentText())
        self._queue_changed()
        self._runs_changed()

    def refresh_models(self) -> None:
        """Read the list of models anew."""
        current = self.models.currentText()
        self._cards = {card.name: card for card in list_models()}
        self._unasked = True
        self.models.clear()
        self.models.addItems(list(self._cards))
        self.models.setCurrentText(current if current in self._cards else next(iter(self._cards)))
        self._unasked = False

    def options(self, volume: Volume, also: str = "") -> RunOptions:
        """Options of the chosen model's run, or of one to be run also, as the forms show them; the latter keep no internal maps."""
        box, model = self.region.box(volume), also or self.models.currentText()
        return RunOptions.create(
            model=model,
            device=self.device.currentText(),
            roi=(*box.lower, *box.upper) if box else None,
            roi_axes=box.axes if box else None,
            maps=() if also else self.maps.chosen(),
            **self._values(model, volume),
        )

    def start(self) -> None:
        """Run the chosen models on the low-resolution layer, one after the other.

        Raises
        ------
        InputError, RunError
            With one sentence, where something is missing or does not fit.
        """
        layer = self.session.layer(Role.LOW_RESOLUTION)
        if layer is None:
            raise InputError("Choose the volume to super-resolve as low resolution first.")
        volume, second = self.session.volume(layer), self._reference()
        others = [str(name) for name in self.also.chosen()]
        tasks = [Task(self.options(volume), volume, second, dict(self.maps.infos))]
        tasks += [Task(self.options(volume, name), volume, second, {}) for name in others]
        models = [task.options.model for task in tasks]
        verdicts = [self._verdict(model, volume, second) for model in models]
        doubts = [sentence for verdict in verdicts if verdict.level is Level.RED for sentence in verdict.concerns]
        if doubts and not self._confirm(" ".join(doubts)):
            return
        self.queue.start(tasks)
        if self._own_choice:
            remember("models", models)
        remember("device", self.device.currentText())
        remember("region", self.region.choice.currentText())

    def _arrange(self) -> None:
        self.run_button.setToolTip("Start; the layers that are there stay as they are")
        self.pause_button.setCheckable(True)
        self.pause_button.setToolTip("Let the run rest and free the device; press again to go on")
        self.skip_button.setToolTip("Stop this run and go on with the next; nothing of it is kept")
        self.cancel_button.setToolTip("Stop this run and begin no other; what is finished stays")
        self.also.setToolTip("Other models to run after this one, with the same options, into the same workspace")
        self.help_button.setToolTip("Versions, devices and graphics onto the clipboard, for a support request (also in the Help menu)")
        self.card_button.setToolTip("What the model was made from, what it is good for, and its scores on people it never saw")
        for name in ("run", "pause", "skip", "cancel", "help", "card"):
            getattr(self, f"{name}_button").setObjectName(f"{name} button")
        choice = _side_by_side(QLabel("Model"), self.models, self.light, wide=self.models)
        where = QWidget()
        rows = QFormLayout(where)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows.addRow(self.also)
        rows.addRow(_side_by_side(self.card_button, self.import_button))
        rows.addRow("Region", self.region)
        rows.addRow("Device", self.device)
        buttons = _side_by_side(self.run_button, self.pause_button, self.skip_button, self.cancel_button)
        advice = (self.light.details, self.proposal)
        told = (self.summary, self.warning)
        for widget in (QLabel("<b>Super-resolve</b>"), self.hint, self.roles, choice, *advice, where, self.form.native, self.maps, *told):
            self.column.addWidget(widget)
        for widget in (buttons, self.progress, self.status, self.scores, self.made, self.saving, self.help_button):
            self.column.addWidget(widget)
        self.column.addStretch()

    def _recall(self) -> None:
        """Choices of the last session; what describes the input (protocol, noise, factor) is never carried over to another one."""
        self.refresh_models()
        first, *others = recall("models", []) or [""]
        self._own_choice = first in self._cards
        self.models.setCurrentText(first if first in self._cards else self.models.currentText())
        self.also.tick(others)
        self.region.choice.setCurrentText(recall("region", WHOLE))
        self._device = recall("device", "auto")

    def _connect(self) -> None:
        for picked in (self.models.activated, self.models.currentTextChanged):  # who picks what is shown already has chosen, too
            picked.connect(self._model_picked)
        self.models.currentTextChanged.connect(self._model_changed)
        self.facts.found.connect(self._describe)
        self.proposal.taken.connect(self.models.setCurrentText)
        self.light.asked.connect(self.guarded(self.try_piece))
        self.run_form.on_protocol(self._describe)
        self.import_button.imported.connect(self._imported)
        self.card_button.clicked.connect(self.show_card)
        ModelFolder(self).changed.connect(self.session.models_changed.emit)
        for source in (self.import_button.failed, self.region.failed, self.saving.failed, self.queue.refused):
            source.connect(self.report)
        self.run_button.clicked.connect(self.guarded(self.start))
        self.pause_button.clicked.connect(self.queue.pause)
        self.queue.resting.connect(self.pause_button.setChecked)
        self.skip_button.clicked.connect(self.queue.skip)
        self.cancel_button.clicked.connect(self._cancel)
        self.help_button.clicked.connect(diagnostics_action(self.viewer).trigger)
        self.saving.told.connect(self.status.setText)
        self.queue.told.connect(self.status.setText)
        self.queue.progressed.connect(self._progressed)
        self.queue.changed.connect(self._queue_changed)
        session, queue, client = self.session, self.queue, self.client
        parts = (self.roles, self.region)
        links = (
            (session.roles_changed, self._describe),
            (session.roles_changed, self._runs_changed),
            (session.runs_changed, self._runs_changed),
            (session.models_changed, self.refresh_models),
        )
        answers = (
            (client.devices, self._devices),
            (client.described, self._described),
            (client.tried, self._piece_tried),
            (client.try_failed, self._piece_failed),
        )
        for signal, slot in (*links, *answers):
            signal.connect(slot)

        # closeEvent never reaches a docked widget; destroyed does, and must not touch the widget any more.
        def clean_up() -> None:
            cut(*answers)
            for signal, slot in links:
                signal.disconnect(slot, missing_ok=True)
            for part in parts:
                part.disconnect_session()
            queue.detach()
            client.release()

        when_removed(self, clean_up)

    def try_piece(self) -> None:
        """Run the chosen model on a small piece; the light then tells whether the result explains the input.

        Raises
        ------
        InputError, RunError
            With one sentence, where there is nothing to try, or the process is busy.
        """
        layer, model = self.session.layer(Role.LOW_RESOLUTION), self.models.currentText()
        if layer is None:
            raise InputError("Choose the volume to super-resolve as low resolution first.")
        volume = self.session.volume(layer)
        options = RunOptions.create(model=model, device=self.device.currentText(), **self._values(model, volume))
        self.client.try_piece(volume, options, self._reference())
        self._tried = None
        self._trying = self._open()
        self.light.try_button.setEnabled(False)
        self.light.try_button.setText("Trying...")

    def show_card(self) -> None:
        """Show the chosen model's card in a window of its own."""
        dialog = CardDialog(self._cards[self.models.currentText()], self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.show()

    def _open(self) -> tuple[Any, ...]:
        """What stands for the model and the layers that are chosen."""
        return self.models.currentText(), *(id(self.session.layer(role)) for role in (Role.LOW_RESOLUTION, Role.REFERENCE))

    def _piece_tried(self, reason: dict[str, Any]) -> None:
        self._tried = (self._trying, Reason(level=reason["level"], text=reason["text"]))
        self._piece_failed("")
        self._describe()

    def _piece_failed(self, sentence: str) -> None:
        self.light.try_button.setEnabled(True)
        self.light.try_button.setText("Try a small piece")
        if sentence:
            self.report(sentence)

    def _model_picked(self, *_: object) -> None:
        self._own_choice = self._own_choice or not self._unasked

    def _model_changed(self, name: str) -> None:
        self.also.offer([Entry(card.name, card.name, card.summary) for card in self._cards.values() if card.name != name])
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
            self.run_form.learn(description)
            self._describe()

    def _describe(self) -> None:
        card = self._cards.get(self.models.currentText())
        if card is None:
            return
        self.summary.setText(card.summary)
        self.summary.setToolTip("\n".join(card.limits))
        layer = self.session.layer(Role.LOW_RESOLUTION)
        problem = ""
        try:
            volume = self.session.volume(layer) if layer is not None else None
            self.run_form.suit(card, volume)
            self._advise(card, volume)
        except InputError as error:
            problem = str(error)
            self.run_form.suit(card, None)
            self._advise(card, None)
        warn(self.warning, problem)

    def _advise(self, card: Card, volume: Volume | None) -> None:
        """Propose a model for what is open, and light up how well the chosen one fits."""
        facts = self.facts.of(volume) if volume is not None else None
        reference = self._reference() if volume is not None else None
        choice = self.proposal.propose(list(self._cards.values()), volume, facts, reference, self._wish(card, volume))
        if choice is not None and choice.model != card.name and not self._own_choice:
            self._unasked = True
            self.models.setCurrentText(choice.model)  # comes back here
            self._unasked = False
            return
        self.proposal.show_beside(card.name)
        tried = self._tried[1] if self._tried is not None and self._tried[0] == self._open() else None
        verdict = self._verdict(card.name, volume, reference) if volume is not None else None
        self.light.show_verdict(verdict, tried, facts is not None)

    def _verdict(self, model: str, volume: Volume, reference: Volume | None) -> Verdict:
        wish = self._wish(self._cards[model], volume)
        return judge(self._cards[model], volume, self.facts.of(volume), reference, wish.protocol, wish.axis)

    def _reference(self) -> Volume | None:
        layer = self.session.layer(Role.REFERENCE)
        return self.session.volume(layer) if layer is not None else None

    def _wish(self, card: Card, volume: Volume | None) -> Wish:
        values = self.run_form.values(card, volume)
        return Wish(values.get("scale"), values.get("protocol"), values.get("axis"), values.get("voxel"))

    def _values(self, model: str, volume: Volume) -> dict[str, Any]:
        """What the form says of a model's run; of thick slices the proposed method is told."""
        values, choice = self.run_form.values(self._cards[model], volume), self.proposal.choice
        told = choice.protocol if choice is not None and choice.model == model else None
        return values | ({"protocol": values.get("protocol") or told} if told else {})

    def _confirm(self, text: str) -> bool:
        answer = QMessageBox.question(self, "Run anyway?", f"{text} Run anyway?")
        return answer == QMessageBox.StandardButton.Yes

    def _queue_changed(self) -> None:
        busy = self.queue.busy
        self.run_button.setEnabled(not busy)
        self.cancel_button.setEnabled(busy)
        self.cancel_button.setText("Cancel")
        self.pause_button.setVisible(busy)
        self.pause_button.setChecked(False)
        self.skip_button.setVisible(busy and bool(self.queue.waiting))
        self.progress.setVisible(busy)

    def _progressed(self, fraction: float, left: float | None) -> None:
        self.progress.setRange(0, 0 if fraction < 0 else 1000)
        self.progress.setValue(round(1000 * max(fraction, 0)))
        self.progress.setFormat("%p %" + (f", {left:.0f} s left" if left is not None else ""))

    def _runs_changed(self) -> None:
        runs = self.session.runs
        self.saving.refresh()
        self.scores.setText(f"<b>{escape(runs[-1].name)}</b><br>{runs[-1].summary}" if runs else "")
        self.made.setText(f"<small><b>How it was made.</b> {layer_made(runs[-1].result)}</small>" if runs else "")
        for label in (self.scores, self.made):
            label.setVisible(bool(runs))

    def _cancel(self) -> None:
        self.cancel_button.setText("Cancelling...")
        self.cancel_button.setEnabled(False)
        self.queue.cancel()

    def _devices(self, devices: list[dict[str, Any]]) -> None:
        current = self.device.currentText() if self.device.count() > 1 else self._device
        self.device.clear()
        self.device.addItem("auto")
        for entry in devices:
            self.device.addItem(entry["name"])
            self.device.setItemData(self.device.count() - 1, f"{entry['title']}, {entry['free'] / 2**30:.1f} GiB free", 3)
        self.device.setCurrentText(current)

    def _imported(self, name: str) -> None:
        self.client.forget_descriptions()
        self.session.models_changed.emit()
        self.models.setCurrentText(name)
        self.status.setText(f"Imported: {name} is in the list of models now.")


def _side_by_side(*widgets: QWidget, wide: QWidget | None = None) -> QWidget:
    """Widgets in a row; `wide` takes the room that is left."""
    row = QWidget()
    line = QHBoxLayout(row)
    line.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        line.addWidget(widget, 1 if widget is wide else 0)
    return row
