"""Choosing layers for roles: one combo box per role, always in step with the session and the layer list."""

from __future__ import annotations

from napari.layers import Layer
from qtpy.QtWidgets import QComboBox, QFormLayout, QWidget

from napari_mrsr.gui.session import Role, Session

NONE = "(none)"


class RoleBoxes(QWidget):
    """Combo boxes for some roles of a session."""

    def __init__(self, session: Session, roles: dict[Role, str], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self.boxes: dict[Role, QComboBox] = {}
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for role, tooltip in roles.items():
            box = QComboBox()
            box.setObjectName(f"role {role.value}")
            box.setToolTip(tooltip)
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            box.setMinimumContentsLength(12)
            box.activated.connect(lambda _index, r=role: self._chosen(r))
            layout.addRow(role.value, box)
            self.boxes[role] = box
        self._layers: list[Layer] = []
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

    def disconnect_session(self) -> None:
        """Stop listening; call before the widget goes."""
        for signal in (self._session.layers_changed, self._session.roles_changed, self._session.runs_changed):
            signal.disconnect(self.refresh, missing_ok=True)

    def _chosen(self, role: Role) -> None:
        index = self.boxes[role].currentIndex()
        self._session.assign(role, self._layers[index - 1] if index > 0 else None)
