"""Choosing layers and files for roles, always in step with the session and the layer list."""

from __future__ import annotations

from functools import partial
from html import escape

from napari.layers import Layer
from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QPushButton, QToolButton, QWidget

from napari_mrsr.gui.dock import combo, say
from napari_mrsr.gui.open_files import FileDrop, ask_files, open_files
from napari_mrsr.gui.provenance import layer_made
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.gui.tick_list import Entry, TickList

NONE = "(none)"
SINGLE = (Role.LOW_RESOLUTION, Role.REFERENCE, Role.GROUND_TRUTH)
DROP = "Files can be dropped here."


class RoleBoxes(QWidget):
    """A row for each of some roles of a session: a combo box, or, for candidates, a list to tick.

    Attributes
    ----------
    boxes : dict of Role to QComboBox
        Roles that one layer can have.
    candidates : TickList
        Hidden unless candidates are among the roles.
    proposal : QPushButton
        Offers the first role to the only image there is; nothing is assigned unasked.
    """

    def __init__(self, session: Session, roles: dict[Role, str], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self._layers: list[Layer] = []
        self.boxes: dict[Role, QComboBox] = {}
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for role, tooltip in roles.items():
            if role is not Role.CANDIDATE:
                layout.addRow(role.value, self._row(role, tooltip))
        self.proposal = QPushButton()
        self.proposal.setObjectName("proposal")
        self.proposal.clicked.connect(self._propose)
        layout.addRow(self.proposal)
        self.candidates = TickList("Candidates", "candidates")
        self.candidates.setToolTip(f"{roles.get(Role.CANDIDATE, '')}. {DROP}")
        self.candidates.changed.connect(self._ticked)
        self.add_button = QPushButton("Add files...")
        self.add_button.setObjectName("add candidates")
        self.add_button.setToolTip(f"Open results of other programs as candidates; they are shown where they lie. {DROP}")
        self.add_button.clicked.connect(partial(self._ask, Role.CANDIDATE))
        self.candidates.addWidget(self.add_button)
        FileDrop(self.candidates, partial(self._open, Role.CANDIDATE))
        self.candidates.setVisible(Role.CANDIDATE in roles)
        layout.addRow(self.candidates)
        for signal in (session.layers_changed, session.roles_changed, session.runs_changed):
            signal.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show the layers there are and the roles they have."""
        self._layers = self._session.images()
        for role, box in self.boxes.items():
            box.clear()
            box.addItems([NONE, *(layer.name for layer in self._layers)])
            current = self._session.layer(role)
            box.setCurrentIndex(self._layers.index(current) + 1 if current in self._layers else 0)
        judged = self._session.candidates
        taken = {self._session.layer(role) for role in SINGLE} - set(judged)
        free = [layer for layer in self._layers if layer not in taken]
        entries = [Entry(layer, layer.name, f"<b>{escape(layer.name)}</b><br>{layer_made(layer)}") for layer in free]
        self.candidates.offer(entries, "Ticked images are compared and scored.")
        self.candidates.tick(judged)
        self._show_proposal()

    def disconnect_session(self) -> None:
        """Stop listening; call before the widget goes."""
        for signal in (self._session.layers_changed, self._session.roles_changed, self._session.runs_changed):
            signal.disconnect(self.refresh, missing_ok=True)

    def _row(self, role: Role, tooltip: str) -> QWidget:
        box = combo(f"role {role.value}", f"{tooltip}. {DROP}")
        box.setMinimumContentsLength(8)
        box.activated.connect(lambda _index: self._chosen(role))
        browse = QToolButton()
        browse.setText("...")
        browse.setObjectName(f"open {role.value}")
        browse.setToolTip(f"Open a file as {role.value.lower()}")
        browse.setAccessibleName(browse.toolTip())
        browse.clicked.connect(partial(self._ask, role))
        row = QWidget()
        line = QHBoxLayout(row)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(box, 1)
        line.addWidget(browse)
        FileDrop(row, partial(self._open, role))
        self.boxes[role] = box
        return row

    def _show_proposal(self) -> None:
        lone = len(self._layers) == 1 and not any(self._session.layer(role) for role in SINGLE) and not self._session.candidates
        self.proposal.setVisible(lone and bool(self.boxes))
        if self.proposal.isVisibleTo(self):
            role = next(iter(self.boxes))
            self.proposal.setText(f"Use it as {role.value.lower()}")
            self.proposal.setToolTip(f"{self._layers[0].name} is the only image; it becomes the {role.value.lower()} if you say so")

    def _propose(self) -> None:
        self._session.assign(next(iter(self.boxes)), self._layers[0])

    def _chosen(self, role: Role) -> None:
        index = self.boxes[role].currentIndex()
        self._session.assign(role, self._layers[index - 1] if index > 0 else None)

    def _ticked(self) -> None:
        ticked = self.candidates.chosen()
        for layer in self._layers:
            change = self._session.add_candidate if layer in ticked else self._session.drop_candidate
            change(layer)

    def _ask(self, role: Role, *_: object) -> None:
        self._open(role, ask_files(self, f"Open as {role.value.lower()}", several=role is Role.CANDIDATE))

    def _open(self, role: Role, paths: list[str]) -> None:
        open_files(self._session, role, paths, owner=self, failed=partial(say, self._session.viewer))
