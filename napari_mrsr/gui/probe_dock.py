"""Dock: click a voxel and see what a network does there: where it attends to, its tables, its maps of that slice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.layers import Layer
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QFormLayout, QGridLayout, QLabel, QProgressBar, QPushButton, QSpinBox, QWidget

from napari_mrsr.errors import InputError
from napari_mrsr.gui.dock import START_WORKER_MS, Dock, combo, cut, note, when_removed
from napari_mrsr.gui.layers import layer_affine, layer_to_volume
from napari_mrsr.gui.map_layers import map_infos, position
from napari_mrsr.gui.probe_overlay import ProbeOverlay
from napari_mrsr.gui.role_boxes import RoleBoxes
from napari_mrsr.gui.session import Role, Run
from napari_mrsr.gui.table_view import TableView
from napari_mrsr.gui.worker_client import WorkerClient
from napari_mrsr.inference import RunOptions
from napari_mrsr.networks import MapInfo
from napari_mrsr.volume import Volume
from napari_mrsr.zoo import Card, list_models

ROLES = {
    Role.LOW_RESOLUTION: "Volume that the network is given",
    Role.REFERENCE: "Another contrast of the same person, for networks that use one",
}
KINDS = ("query", "table", "dense")
"""Order in which maps are offered."""
MEAN = "mean"
MAX_CHANNEL = 256
CLICK_PIXELS = 4
"""A press that moves further is a drag."""


@dataclass(frozen=True, eq=False)
class Question:
    """One look into a network."""

    model: str
    info: MapInfo
    at: tuple[float, ...]
    channel: int | None
    stack: int


class ProbeDock(Dock):
    """Look into a network at a voxel."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.client = WorkerClient.shared(self.session)
        self.overlay = ProbeOverlay(self.session)
        self.roles = RoleBoxes(self.session, ROLES)
        self.models = combo("model", "Network to look into; its options are those of its last run")
        self.maps = combo("map", "What to show")
        self.channel = QSpinBox()
        self.pick_button = QPushButton("Pick voxel")
        self.description, self.status = note(name="description"), note(name="status")
        self.progress = QProgressBar()
        self.table = TableView(self.session.viewer)
        self.alone_button, self.clear_button = QPushButton("Show only map and image"), QPushButton("Clear")
        self._cards: dict[str, Card] = {}
        self._infos: dict[str, MapInfo] = {}
        self._at: tuple[float, ...] | None = None
        self._asked: Question | None = None
        self._next: Question | None = None
        self._sent: tuple[str, Volume, Volume | None, tuple[Any, ...]] | None = None
        self._target: Layer | None = None
        self._seen: list[Run] = []
        self._arrange()
        self._connect()
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.timeout.connect(self._describe)
        self.refresh_models()
        self._runs_changed()

    def refresh_models(self) -> None:
        """Read the list of models anew."""
        current = self.models.currentText()
        self._cards = {card.name: card for card in list_models() if card.learned}
        self.models.clear()
        self.models.addItems(list(self._cards))
        if current in self._cards:
            self.models.setCurrentText(current)
        self.pick_button.setEnabled(bool(self._cards))

    def _arrange(self) -> None:
        self.channel.setRange(0, MAX_CHANNEL)
        self.channel.setSpecialValueText(MEAN)
        self.channel.setToolTip(
            "Attention head or feature channel, counted from 1; mean: the average over all (of their sizes, where they are signed)"
        )
        self.pick_button.setCheckable(True)
        self.pick_button.setToolTip("While this is on, a click into the image (without dragging) chooses the voxel")
        self.alone_button.setToolTip("Hide all layers but the map, the image it belongs to, and the ring")
        self.clear_button.setToolTip("Take map and ring out of the viewer")
        self.progress.setRange(0, 0)
        self.progress.setVisible(False)
        choice, buttons = QWidget(), QWidget()
        rows = QFormLayout(choice)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for label, widget in (("Model", self.models), ("Map", self.maps), ("Head/channel", self.channel)):
            rows.addRow(label, widget)
        grid = QGridLayout(buttons)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(self.alone_button, 0, 0)
        grid.addWidget(self.clear_button, 0, 1)
        for part in (QLabel("<b>Attention probe</b>"), self.roles, choice, self.description, self.pick_button, self.progress, self.status):
            self.column.addWidget(part)
        for part in (self.table, buttons):
            self.column.addWidget(part)
        self.column.addStretch()
        self._show_kind()

    def _connect(self) -> None:
        self.models.currentTextChanged.connect(self._model_changed)
        self.maps.currentIndexChanged.connect(lambda _: self._show_kind())
        self.maps.activated.connect(lambda _: self._ask_again())
        self.channel.valueChanged.connect(lambda _: self._ask_again())
        self.pick_button.toggled.connect(self._pick)
        self.alone_button.clicked.connect(lambda: self.overlay.show_alone(self._target))
        self.clear_button.clicked.connect(self._clear)
        session, client, roles = self.session, self.client, self.roles
        links = ((session.runs_changed, self._runs_changed), (session.models_changed, self.refresh_models))
        answers = ((client.described, self._described), (client.probed, self._probed), (client.probe_failed, self._failed))
        for signal, slot in (*links, *answers):
            signal.connect(slot)
        clicks, pressed = session.viewer.mouse_drag_callbacks, self._pressed

        def clean_up() -> None:
            # The client may live on with another dock.
            cut(*answers)
            for signal, slot in links:
                signal.disconnect(slot, missing_ok=True)
            roles.disconnect_session()
            if pressed in clicks:
                clicks.remove(pressed)
            client.release()

        when_removed(self, clean_up)

    # --- model and map ----------------------------------------------------------------------------------------------------------------

    def _runs_changed(self) -> None:
        """A new run brings its model."""
        last = self.session.runs[-1] if self.session.runs else None
        if last is not None and last not in self._seen:
            self.models.setCurrentText(str(last.options.get("model")))
        self._seen = list(self.session.runs)

    def _model_changed(self, _model: str) -> None:
        self._fill({}, "Asking what the network can show..." if self._cards else "No network with weights is installed.")
        if self._cards:
            # A process that starts takes the processor from the window that is still being drawn.
            self._later.start(0 if self.client.process_id else START_WORKER_MS)

    def _describe(self) -> None:
        self.client.describe(self.models.currentText())

    def _described(self, description: dict[str, Any]) -> None:
        if description["model"] != self.models.currentText():
            return
        infos = sorted(map_infos(description).values(), key=lambda info: KINDS.index(info.kind))
        nothing = description["problem"] or f"{description['model']} has no internal maps."
        self._fill({info.name: info for info in infos}, nothing)

    def _fill(self, infos: dict[str, MapInfo], nothing: str) -> None:
        current = self.maps.currentData()
        self._infos = infos
        self.maps.clear()
        for index, info in enumerate(infos.values()):
            self.maps.addItem(info.title, info.name)
            self.maps.setItemData(index, f"<p>{info.description}</p>", Qt.ItemDataRole.ToolTipRole)
        if current in infos:
            self.maps.setCurrentIndex(list(infos).index(current))
        self._show_kind()
        if not infos:
            self.description.setText(nothing)

    def _info(self) -> MapInfo | None:
        return self._infos.get(self.maps.currentData())

    def _show_kind(self) -> None:
        info = self._info()
        self.description.setText(f"<b>{info.title}.</b> {info.description}" if info else "")
        self.channel.setEnabled(info is not None and info.kind != "table")

    # --- choosing a voxel -------------------------------------------------------------------------------------------------------------

    def _pick(self, on: bool) -> None:
        clicks = self.session.viewer.mouse_drag_callbacks
        if on and self._pressed not in clicks:
            clicks.append(self._pressed)
        elif not on and self._pressed in clicks:
            clicks.remove(self._pressed)
        self.pick_button.setText("Pick voxel: click in the image" if on else "Pick voxel")

    def _pressed(self, viewer: Any, event: Any) -> Iterator[None]:
        """A click without a drag chooses; everything else stays napari's."""
        if event.button != 1 or event.modifiers:
            return
        start, place = np.array(event.pos, float), tuple(float(v) for v in event.position)
        yield
        while event.type == "mouse_move":
            if np.abs(np.array(event.pos, float) - start).max() > CLICK_PIXELS:
                return
            yield
        self.guarded(lambda: self.look(place))()

    def look(self, place: tuple[float, ...]) -> None:
        """Look into the network at a world position.

        Raises
        ------
        InputError, RunError
            With one sentence, where nothing can be shown.
        """
        viewer = self.session.viewer
        if viewer.dims.ndisplay != 2:
            raise InputError("A voxel can be picked on slices only: switch napari to its 2D display.")
        active = viewer.layers.selection.active
        mode = str(getattr(active, "mode", "pan_zoom"))
        if mode != "pan_zoom":
            raise InputError(f"{active.name} is in mode {mode}, which takes the clicks; set it to pan/zoom to pick a voxel.")
        if len(place) < 3:
            raise InputError("Open a volume first: a voxel needs three coordinates.")
        self._at = place[-3:]
        self._ask()

    def _ask_again(self) -> None:
        """Another map or head at the voxel that was chosen."""
        if self._at is not None:
            self.guarded(self._ask)()

    def _ask(self) -> None:
        info = self._info()
        if info is None or self._at is None:
            raise InputError(self.description.text() or "Choose a map first.")
        channel = self.channel.value() - 1 if self.channel.isEnabled() and self.channel.value() else None
        question = Question(self.models.currentText(), info, self._at, channel, self.session.axis)
        if self._asked is not None and self.client.probing:
            self._next = question  # only the newest waits
        else:
            self._send(question)

    def _send(self, question: Question) -> None:
        options = self._options(question.model)
        key, low, reference = self._inputs(options)
        self.client.probe(low, options, reference, key, question.info.name, question.at, channel=question.channel, stack=question.stack)
        self._asked = question
        self.progress.setVisible(True)
        self.status.setText(f"Looking into {question.model} at {position(question.at)}...")

    def _options(self, model: str) -> RunOptions:
        """Those of the model's last run, else its own."""
        last = next((run for run in reversed(self.session.runs) if run.options.get("model") == model), None)
        return RunOptions.create(**{**(last.options if last else {"model": model}), "roi": None, "tile": None, "maps": ()})

    def _inputs(self, options: RunOptions) -> tuple[str, Volume, Volume | None]:
        """Volumes to look at, and a key that is the same as long as they are."""
        low = self.session.layer(Role.LOW_RESOLUTION)
        if low is None:
            raise InputError("Choose the volume that the network is given as low resolution first.")
        uses = self._cards[options.model].reference != "none"
        reference = self.session.layer(Role.REFERENCE) if uses else None
        layers = [layer for layer in (low, reference) if layer is not None]
        places = [np.round(layer_affine(layer), 6).tolist() if layer.ndim == 3 else None for layer in layers]
        key = json.dumps([[(id(layer), id(layer.data)) for layer in layers], places, options.model_dump(mode="json")])
        if self._sent is None or self._sent[0] != key:
            # The arrays are held so that their ids are not given to others.
            held = tuple(layer.data for layer in layers)
            self._sent = (key, layer_to_volume(low), None if reference is None else layer_to_volume(reference), held)
        return key, self._sent[1], self._sent[2]

    # --- answers ----------------------------------------------------------------------------------------------------------------------

    def _probed(self, volume: Volume) -> None:
        question, self._asked = self._asked, None
        if question is None:
            return
        self.progress.setVisible(False)
        if self._next is None and self._at is not None:
            self._show(question, volume)
        self._go_on()

    def _failed(self, sentence: str) -> None:
        if self._asked is None:
            return
        self._asked = None
        self.progress.setVisible(False)
        self.status.setText("")
        self.report(sentence)
        self._go_on()

    def _go_on(self) -> None:
        waiting, self._next = self._next, None
        if waiting is not None:
            self.guarded(lambda: self._send(waiting))()

    def _show(self, question: Question, volume: Volume) -> None:
        info = question.info
        said = [f"At {position(question.at)}, {question.model}: {info.title}."]
        low = self.session.layer(Role.LOW_RESOLUTION)
        if info.kind == "table":
            self.overlay.clear_map()
            self.table.show_table(volume, info)
            said.append(f"{volume.shape[0]} rows, {volume.shape[1]} columns.")
        else:
            self.table.clear()
            self._target = self._image(question)
            name = f"probe: {info.title}" + (f", {question.channel + 1}" if question.channel is not None else "")
            said.append(self.overlay.show(volume, info, name, self._target))
            said.append(self.overlay.cover_sentence(self._target))
        if low is not None and low.ndim == 3:
            self.overlay.mark(question.at, np.linalg.norm(layer_affine(low)[:3, :3], axis=0))
        self.status.setText(" ".join(part for part in said if part))

    def _image(self, question: Question) -> Layer | None:
        """Layer that the map of a question belongs to."""
        low, reference = self.session.layer(Role.LOW_RESOLUTION), self.session.layer(Role.REFERENCE)
        if question.info.on == "reference" and reference is not None:
            return reference
        runs = [run for run in self.session.runs if run.options.get("model") == question.model and run.result in self.session.viewer.layers]
        return runs[-1].result if question.info.on == "result" and runs else low

    def _clear(self) -> None:
        self._at = self._next = None
        self.overlay.clear()
        self.table.clear()
        self.status.setText("")
