"""Choosing what a training learns from: a folder, open layers, or one volume alone."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from napari.layers import Layer
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QComboBox, QFileDialog, QFormLayout, QHBoxLayout, QLineEdit, QPushButton, QSpinBox, QVBoxLayout, QWidget

from napari_mrsr.errors import InputError
from napari_mrsr.gui.dock import combo, in_background, note
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.gui.settings import recall, remember
from napari_mrsr.gui.tick_list import Entry, TickList
from napari_mrsr.io import READABLE, make_folder, write_volume
from napari_mrsr.io.paths import split_suffix
from napari_mrsr.training.people import contrast_of, subject
from napari_mrsr.training.recipe import DataPart
from napari_mrsr.volume import Volume

FOLDER_SETTING = "training data"
ALL, NONE, HELD_OUT = "all files", "(none)", "people held out"
VALIDATION_NAMES = ("val", "validation", "valid")
"""Folders beside the chosen one that are taken for the validation."""
MOST_FILES = 20_000
"""A folder with more files is not looked through further."""
VOLUME, REFERENCE = "volume", "reference"
"""Last parts of the names under which one volume and its reference are kept."""


class Source(StrEnum):
    """Where the volumes are; values are for people."""

    FOLDER = "a folder"
    LAYERS = "open layers"
    VOLUME = "one volume alone"


ABOUT = {
    Source.FOLDER: "Sharp volumes of several people, plain or BIDS; they are made low-resolution on the fly.",
    Source.LAYERS: "Sharp volumes of several people; copies are kept with the run.",
    Source.VOLUME: "Learns from one part of the volume and validates on another; its scores say little about other people.",
}


def contrasts_in(folder: str) -> Counter[str]:
    """Last parts of the names of the image files under a folder, and how many have each.

    Raises
    ------
    InputError
        If there is no such folder, or no image in it.
    """
    place = Path(folder).expanduser()
    if not folder or not place.is_dir():
        raise InputError(f"{folder or 'Nothing'} is not a folder; choose the folder of the volumes.")
    found: Counter[str] = Counter()
    seen = 0
    for _, _, files in os.walk(place):
        for file in files:
            stem, suffix = split_suffix(Path(file), READABLE)
            if suffix:
                found[stem.rpartition("_")[2] if "_" in stem else ALL] += 1
        seen += len(files)
        if seen > MOST_FILES:
            break
    if not found:
        raise InputError(f"No image files lie in {folder}; they end in {', '.join(READABLE)}.")
    return found


def validation_beside(folder: Path) -> Path | None:
    """The folder with validation volumes that lies beside a folder of training volumes, where there is one."""
    return next((folder.with_name(name) for name in VALIDATION_NAMES if folder.name != name and folder.with_name(name).is_dir()), None)


class DataBox(QWidget):
    """Form of a recipe's data.

    Signals
    -------
    changed()
        Something else was chosen.
    """

    changed = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._layers: list[Layer] = []
        self._found_text, self._nothing = "", ""
        self.source = combo("data source", "Where the sharp volumes are", [str(s) for s in Source])
        self.about = note(name="data about")
        self.folder, self.browse = QLineEdit(recall(FOLDER_SETTING, "")), QPushButton("Browse...")
        self.contrast = combo("contrast", "Which files: by the last part of their names", [ALL])
        self.guide = combo("reference contrast", "Contrast that lies beside each volume and guides the network", [NONE])
        self.validation = combo("validation data", "What the network is validated on and never learns from", [HELD_OUT])
        self.held_out = QSpinBox()
        self.layers = TickList("Layers", "training layers")
        self.volume, self.reference = (combo(name, about) for name, about in (("training volume", ""), ("training reference", "")))
        self._arrange()
        self._connect()
        self._source_changed()
        self._layers_changed()
        self.look_into()

    def disconnect_session(self) -> None:
        """Listen to the session no longer."""
        self._session.layers_changed.disconnect(self._layers_changed, missing_ok=True)

    def needs_reference(self, wanted: bool) -> None:
        """Show or hide the choice of a second contrast."""
        for form, box in ((self._folder_form, self.guide), (self._volume_form, self.reference)):
            box.setVisible(wanted)
            label = form.labelForField(box)
            assert label is not None
            label.setVisible(wanted)
        self._guided = wanted

    def part(self, base: DataPart, folder: Path) -> DataPart:
        """The recipe's data as chosen.

        Parameters
        ----------
        base : DataPart
            What is not asked for is kept.
        folder : Path
            Where :meth:`volumes` are written to.

        Raises
        ------
        InputError
            If something is missing.
        """
        source, held = Source(self.source.currentText()), self.held_out.value() / 100
        if source is Source.FOLDER:
            root, *folders = self._folders()
            return self._folder_part(base, root, folders).model_copy(update={"held_out": held})
        (first, volume), *_ = volumes = self.volumes()
        changes: dict[str, Any] = {"root": str(folder), "validation": (), "test": (), "low": "", "held_out": held, "licences": {}}
        if source is Source.LAYERS:
            seen = tuple(sorted({contrast_of(_origin(v)) for _, v in volumes} - {""}))
            return base.model_copy(update={**changes, "train": (".",), "split": "people", "references": (), "contrasts": seen})
        references = (REFERENCE,) if self._reference_layer() is not None else ()
        seen = (contrast_of(_origin(volume)),) if contrast_of(_origin(volume)) else ()
        return base.model_copy(update={**changes, "train": (first,), "split": "parts", "references": references, "contrasts": seen})

    def stages(self, stages: Sequence[Any]) -> tuple[Any, ...]:
        """The recipe's stages over the chosen data: they learn from the same volumes.

        A pretext task that tells classes (contrasts) apart learns from all contrasts of the folder; where there is one only, it fills in hidden
        patches instead.
        """
        found = []
        for stage in stages:
            changes: dict[str, Any] = {"train": (), "validation": ()} if hasattr(stage, "train") else {}
            if getattr(stage, "pretext", "") == "class":
                if Source(self.source.currentText()) is Source.FOLDER and self.guide.count() > 2:  # none, and two contrasts at least
                    root, *folders = self._folders()
                    patterns = tuple(os.path.relpath(folder, root) for folder in folders)
                    changes = {"train": patterns[:1], "validation": patterns[1:]}
                else:
                    changes["pretext"] = "masked"
            found.append(stage.model_copy(update=changes))
        return tuple(found)

    def volumes(self) -> list[tuple[str, Volume]]:
        """Volumes of layers that are to be written into files of these names first.

        Raises
        ------
        InputError
            If none is chosen, or a layer cannot be used.
        """
        source = Source(self.source.currentText())
        if source is Source.FOLDER:
            return []
        if source is Source.LAYERS:
            ticked = self.layers.chosen()
            chosen = [layer for layer in self._layers if id(layer) in ticked]
            volumes = [self._session.volume(layer) for layer in chosen]
            people = {_person(volume) for volume in volumes}
            if len(people) < 2:
                whose = f" These are all of {people.pop()}." if len(volumes) > 1 else ""
                raise InputError(f"Tick the layers of two people at least: one of them is validated.{whose} For one volume choose '{Source.VOLUME}'.")
            return [(_file_name(volume, f"{number:02d}"), volume) for number, volume in enumerate(volumes, 1)]
        if not 0 <= self.volume.currentIndex() < len(self._layers):
            raise InputError("Open a volume first, or choose a folder.")
        volume, second = self._session.volume(self._layers[self.volume.currentIndex()]), self._reference_layer()
        found = [(_file_name(volume), volume)]
        return found + ([(f"sub-{_person(volume)}_{REFERENCE}.nii", self._session.volume(second))] if second is not None else [])

    def look_into(self) -> None:
        """List the contrasts of the folder."""
        folder = self.folder.text().strip()
        beside = validation_beside(Path(folder).expanduser()) if folder else None
        self.validation.clear()
        self.validation.addItems([HELD_OUT, *([beside.name] if beside else []), "another folder..."])
        self.validation.setCurrentIndex(1 if beside else 0)
        self._beside, self._nothing = beside, ""
        if folder:
            in_background(contrasts_in, folder, done=self._found, failed=self._found_nothing, owner=self)

    def _folders(self) -> list[Path]:
        """Folder that holds all, folder to learn from, and folder to validate on where people are not held out."""
        folder = Path(self.folder.text().strip()).expanduser()
        if not self.folder.text().strip() or not folder.is_dir():
            raise InputError("Choose the folder of the volumes to learn from.")
        if self._nothing:
            raise InputError(self._nothing)
        theirs = self._beside if self.validation.currentText() != HELD_OUT else None
        return [Path(os.path.commonpath([folder, theirs])), folder, theirs] if theirs else [folder, folder]

    def _folder_part(self, base: DataPart, root: Path, folders: Sequence[Path]) -> DataPart:
        contrast, guide = self.contrast.currentText(), self.guide.currentText()
        files = "" if contrast == ALL else f"**/*_{contrast}.*"
        pattern = [str(Path(os.path.relpath(place, root)) / files) for place in folders]
        references = (guide,) if self._guided and guide != NONE else ()
        changes: dict[str, Any] = {"train": (pattern[0],), "validation": tuple(pattern[1:]), "test": (), "split": "auto", "licences": {}}
        return base.model_copy(
            update={**changes, "root": str(root), "references": references, "contrasts": () if contrast == ALL else (contrast,), "low": ""}
        )

    def _reference_layer(self) -> Layer | None:
        index = self.reference.currentIndex() - 1
        return self._layers[index] if self._guided and 0 <= index < len(self._layers) else None

    def _arrange(self) -> None:
        self.folder.setObjectName("training folder")
        self.folder.setPlaceholderText("folder of sharp volumes")
        self.browse.setToolTip("Choose the folder of the volumes to learn from")
        self.held_out.setRange(5, 50)
        self.held_out.setValue(20)
        self.held_out.setSuffix(" %")
        self.held_out.setToolTip("Share of the people, or of the one volume, that is validated and never learned from")
        self.layers.setToolTip("Sharp volumes, each of another person")
        self.volume.setToolTip("Volume to learn from; it stays as it is")
        self.reference.setToolTip("Another contrast of the same person, for networks that use one")
        line = QWidget()
        row = QHBoxLayout(line)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.folder, 1)
        row.addWidget(self.browse)
        self._folder_page, self._folder_form = _form(("Folder", line), ("Contrast", self.contrast), ("Reference", self.guide))
        self._folder_form.addRow("Validate on", self.validation)
        self._volume_page, self._volume_form = _form(("Volume", self.volume), ("Reference", self.reference))
        source, _ = _form(("Learn from", self.source))
        self._share_page, _ = _form(("Held out", self.held_out))
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for part in (source, self.about, self._folder_page, self.layers, self._volume_page, self._share_page):
            column.addWidget(part)
        self._guided, self._beside = True, None
        self.needs_reference(False)

    def _connect(self) -> None:
        self.source.currentTextChanged.connect(self._source_changed)
        self.browse.clicked.connect(self._browse)
        self.folder.editingFinished.connect(self.look_into)
        self.validation.activated.connect(self._validation_chosen)
        for box in (self.contrast, self.guide, self.volume, self.reference, self.validation):
            box.currentTextChanged.connect(lambda _: self.changed.emit())
        self.held_out.valueChanged.connect(lambda _: self.changed.emit())
        self.layers.changed.connect(self.changed.emit)
        self.validation.currentTextChanged.connect(lambda _: self._source_changed())
        self._session.layers_changed.connect(self._layers_changed)

    def _source_changed(self, *_: Any) -> None:
        source = Source(self.source.currentText())
        self.about.setText(f"{ABOUT[source]} {self._found_text}" if source is Source.FOLDER else ABOUT[source])
        self._folder_page.setVisible(source is Source.FOLDER)
        self.layers.setVisible(source is Source.LAYERS)
        self._volume_page.setVisible(source is Source.VOLUME)
        self._share_page.setVisible(source is not Source.FOLDER or self.validation.currentText() == HELD_OUT)
        self.changed.emit()

    def _layers_changed(self) -> None:
        """Offer the layers there are; what was chosen stays chosen."""
        current = [self._layers[i] if 0 <= i < len(self._layers) else None for i in (self.volume.currentIndex(), self.reference.currentIndex() - 1)]
        self._layers = self._session.images()
        names = [layer.name for layer in self._layers]
        self.layers.offer([Entry(id(layer), layer.name) for layer in self._layers])
        for box, first in ((self.volume, []), (self.reference, [NONE])):
            box.clear()
            box.addItems([*first, *names])
        wanted = current[0] or self._session.layer(Role.GROUND_TRUTH) or self._session.layer(Role.LOW_RESOLUTION)
        if wanted in self._layers:
            self.volume.setCurrentIndex(self._layers.index(wanted))
        if current[1] in self._layers:
            self.reference.setCurrentIndex(1 + self._layers.index(current[1]))

    def _browse(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder of sharp volumes", self.folder.text())
        if folder:
            self.folder.setText(folder)
            remember(FOLDER_SETTING, folder)
            self.look_into()

    def _validation_chosen(self, index: int) -> None:
        if index != self.validation.count() - 1:
            return
        folder = QFileDialog.getExistingDirectory(self, "Folder of validation volumes", self.folder.text())
        if not folder:
            self.validation.setCurrentIndex(0)
            return
        self._beside = Path(folder)
        self.validation.clear()
        self.validation.addItems([HELD_OUT, Path(folder).name, "another folder..."])
        self.validation.setCurrentIndex(1)

    def _found(self, found: Counter[str]) -> None:
        names = [name for name in sorted(found, key=lambda n: (-found[n], n)) if name != ALL]
        for box, first in ((self.contrast, ALL), (self.guide, NONE)):
            current = box.currentText()
            box.clear()
            box.addItems([first, *names])
            _select(box, current)
        # Volumes of several contrasts are several images of the same people.
        if self.contrast.currentIndex() == 0 and names:
            self.contrast.setCurrentIndex(1)
        count = ", ".join(f"{found[name]} {name}" for name in names) or f"{found[ALL]} images"
        self._found_text = f"Found: {count}."
        self._source_changed()
        remember(FOLDER_SETTING, self.folder.text().strip())

    def _found_nothing(self, sentence: str) -> None:
        for box, first in ((self.contrast, ALL), (self.guide, NONE)):
            box.clear()
            box.addItem(first)
        self._found_text = self._nothing = sentence
        self._source_changed()


def write_copies(volumes: Sequence[tuple[str, Volume]], folder: Path) -> None:
    """Write volumes of layers into a folder, for a training that outlives the viewer.

    Raises
    ------
    OutputError
        If the folder or disk refuses.
    """
    make_folder(folder)
    for old in folder.iterdir():
        old.unlink()
    for name, volume in volumes:
        write_volume(volume, folder / name, sidecar=False)


def _origin(volume: Volume) -> Path:
    """File that a layer's volume came from; without one a layer's name stands for it."""
    return Path(volume.source.path or f"{volume.name}.nii")


def _person(volume: Volume) -> str:
    """Whose volume it is, in letters and digits."""
    return re.sub(r"[^A-Za-z0-9]+", "", subject(_origin(volume))) or "unknown"


def _file_name(volume: Volume, number: str = "") -> str:
    """Name of a copy that tells the person, and the contrast where it is known, to the split, the checks and the card."""
    return "_".join(part for part in (f"sub-{_person(volume)}", number, contrast_of(_origin(volume)) or VOLUME) if part) + ".nii"


def _select(box: QComboBox, text: str) -> None:
    index = box.findText(text)
    box.setCurrentIndex(max(0, index))


def _form(*rows: tuple[str, QWidget]) -> tuple[QWidget, QFormLayout]:
    page = QWidget()
    form = QFormLayout(page)
    form.setContentsMargins(0, 0, 0, 0)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for label, widget in rows:
        form.addRow(label, widget)
    return page, form
