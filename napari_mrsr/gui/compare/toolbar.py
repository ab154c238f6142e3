"""The controls above the board; they show the view's state and change it, and hold none of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QHBoxLayout, QLabel, QMenu, QSlider, QToolButton, QWidget
from superqt import QFlowLayout
from superqt.utils import signals_blocked

from napari_mrsr.evaluation.maps import DIFFERENCES
from napari_mrsr.gui.compare.actions import Action
from napari_mrsr.gui.compare.board import Board
from napari_mrsr.gui.compare.view import Content, Mode
from napari_mrsr.gui.compare.windowing import PRESETS
from napari_mrsr.gui.dock import combo
from napari_mrsr.gui.layers import KEY
from napari_mrsr.gui.session import Role

NO_OVERLAY = "No overlay"
TRUTH = "Ground truth"
MOST_DECIMALS = 8


class Toolbar(QWidget):
    """Buttons, choices and sliders over one board."""

    def __init__(self, board: Board, actions: dict[str, Action]) -> None:
        super().__init__()
        self._board, self._view, self._actions = board, board.view, actions
        self.buttons: dict[str, QToolButton] = {}
        self._make_choices()
        # A flow layout has no right edge to cut groups off at, however narrow the dock is.
        flow = QFlowLayout(self)
        flow.setContentsMargins(0, 0, 0, 0)
        for group in self._groups():
            flow.addWidget(group)

    def refresh(self) -> None:
        """Show the view's state."""
        look, view = self._view.look, self._view
        checked = {
            f"mode {look.mode.value}",
            f"content {look.content.value}",
            f"tool {look.tool.value}",
            f"plane {'three' if len(look.planes) > 1 else look.planes[0]}",
            *(name for name in ("linked", "radiological", "smooth", "crosshair", "inset") if getattr(look, name)),
        }
        for name, button in self.buttons.items():
            if button.isCheckable() and name not in {"fill", "blink"}:
                button.setChecked(name in checked)
        pair, images = view.pair, view.images()
        _offer(self.first, images, pair[0] if pair else None)
        _offer(self.second, images, pair[1] if pair else None)
        truth = view.session.layer(Role.GROUND_TRUTH)
        others = [layer for layer in images if layer is not truth]
        _offer(self.against, others, view.against if view.against is not truth else None, TRUTH if truth is not None else "(none)")
        _offer(self.overlay, self._overlays(), view.overlay, NO_OVERLAY)
        self.kind.setCurrentIndex(list(DIFFERENCES).index(look.difference))
        self.buttons["radiological"].setText("R left" if look.radiological else "L left")
        self._show_only_what_applies()
        self._enable(len(images))
        self.blend.setValue(round(100 * look.blend))
        self.opacity.setValue(round(100 * look.opacity))
        self._show_window()

    def _make_choices(self) -> None:
        view = self._view
        self.first = combo("first image", "First of the two images that are compared")
        self.second = combo("second image", "Second of the two images that are compared")
        self.against = combo("against", "Image that differences are taken against")
        self.overlay = combo("overlay", "Map or mask laid over every image: networks' maps, trust maps, masks")
        self.kind = combo("difference kind", "Kind of difference map [D]", [d.flat[0].upper() + d.flat[1:] for d in DIFFERENCES.values()])
        self.preset = combo("window preset", "\n".join(f"{name}: {text}" for name, (_, text) in PRESETS.items()), list(PRESETS))
        self.blend = _slider("blend", "Share of the second image", lambda v: view.set(blend=v / 100))
        self.opacity = _slider("opacity", "Opacity of the overlay", lambda v: view.set(opacity=v / 100))
        self.window_width, self.window_level = _number("window width", "Window: width"), _number("window level", "Level: middle of the window")
        for box in (self.first, self.second):
            box.setMinimumContentsLength(6)
        self.kind.setMinimumContentsLength(16)
        for name, box in (("first", self.first), ("second", self.second), ("against", self.against)):
            box.activated.connect(lambda _, n=name, b=box: view.choose(**{n: b.currentData()}))
        self.overlay.activated.connect(lambda _: setattr(view.session, "overlay", self.overlay.currentData()))
        self.kind.activated.connect(lambda i: view.set(content=Content.DIFFERENCE, difference=list(DIFFERENCES)[i]))
        self.preset.activated.connect(self._preset)
        self.window_width.valueChanged.connect(lambda width: self._window(width=width))
        self.window_level.valueChanged.connect(lambda level: self._window(level=level))
        for spin in (self.window_width, self.window_level):
            line = spin.lineEdit()
            assert line is not None
            line.returnPressed.connect(self._board.setFocus)
        self.shown = QToolButton()
        self.shown.setObjectName("shown images")
        self.shown.setText("Show")
        self.shown.setToolTip("Which images have panes")
        self.shown.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(self.shown)
        self.shown.setMenu(menu)
        menu.aboutToShow.connect(lambda: self._fill_menu(menu))

    def _groups(self) -> list[QWidget]:
        def some(*names: str) -> list[QWidget]:
            return [self._button(name) for name in names]

        # Short groups: the widest one is the least width that the dock can have.
        self.pair_group = _row([self.first, self._button("swap"), self.second])
        self.against_group = _row([QLabel("Against"), self.against])
        return [
            _row(some("mode Panes", "mode Swipe", "mode Flicker")),
            _row(some("mode Checker", "mode Blend")),
            self.pair_group,
            self._button("blink"),
            self.blend,
            _row(some("plane axial", "plane coronal", "plane sagittal")),
            _row([*some("plane three"), self.shown]),
            _row(some(*(f"content {c.value}" for c in Content))),
            self.kind,
            self.against_group,
            _row([self.overlay, self.opacity]),
            _row([QLabel("W"), self.window_width, QLabel("L"), self.window_level]),
            _row([self.preset, *some("auto", "linked")]),
            _row(some("tool Pointer", "tool Box", "tool Line", "clear")),
            _row(some("fit", "zoom out", "zoom in", "radiological")),
            _row(some("smooth", "crosshair", "inset")),
            _row(some("fill", "keys")),
        ]

    def _button(self, name: str) -> QToolButton:
        action = self._actions[name]
        button = QToolButton()
        button.setObjectName(name)
        button.setText(action.text)
        button.setToolTip(action.tooltip)
        button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        button.setCheckable(name.split()[0] in CHECKABLE)
        button.clicked.connect(lambda: action.run())
        # A click turns a checkable button over by itself; the view says what it really is.
        button.clicked.connect(self.refresh)
        self.buttons[name] = button
        return button

    def _overlays(self) -> list[Layer]:
        session = self._view.session
        roles = set(map(id, session.compared()))
        layers = [x for x in session.viewer.layers if x.ndim == 3 and id(x) not in roles]
        return [x for x in layers if isinstance(x, Labels) or (isinstance(x, Image) and not x.rgb and x.metadata.get(KEY))]

    def _show_only_what_applies(self) -> None:
        look = self._view.look
        self.pair_group.setVisible(look.mode is not Mode.PANES)
        self.blend.setVisible(look.mode is Mode.BLEND)
        self.buttons["blink"].setVisible(look.mode is Mode.FLICKER)
        for widget in (self.kind, self.against_group):
            widget.setVisible(look.content is Content.DIFFERENCE)
        self.opacity.setVisible(self._view.overlay is not None)

    def _enable(self, images: int) -> None:
        for name in (*(f"mode {mode.value}" for mode in list(Mode)[1:]), "content Difference"):
            self._allow(name, images > 1, "Two images are needed: give roles to layers, or run a model")
        for widget in (self.window_width, self.window_level, self.preset, self.buttons["auto"]):
            widget.setEnabled(images > 0)

    def _allow(self, name: str, possible: bool, reason: str) -> None:
        self.buttons[name].setEnabled(possible)
        self.buttons[name].setToolTip(self._actions[name].tooltip if possible else reason)

    def _limits(self) -> tuple[float, float] | None:
        main = self._main()
        return None if main is None else self._board.gallery.limits(main, self._view.planes[0])

    def _main(self) -> Layer | None:
        pair = self._view.pair
        return self._view.main if self._view.look.mode is Mode.PANES or pair is None else pair[0]

    def _show_window(self) -> None:
        limits = self._limits()
        if limits is None:
            return
        width = limits[1] - limits[0]
        decimals = _decimals(width)
        for spin, value in ((self.window_width, width), (self.window_level, sum(limits) / 2)):
            if not spin.hasFocus():
                with signals_blocked(spin):
                    spin.setDecimals(decimals)
                    spin.setSingleStep(max(width / 50, 10.0**-decimals))
                    spin.setValue(value)

    def _window(self, width: float | None = None, level: float | None = None) -> None:
        """Take over the number that was typed; the other stays as it is, not as its box rounds it."""
        main, limits = self._main(), self._limits()
        if main is None or limits is None:
            return
        half = (limits[1] - limits[0] if width is None else width) / 2
        middle = sum(limits) / 2 if level is None else level
        if half <= 0:
            return
        limits = middle - half, middle + half
        if self._view.look.content is Content.IMAGE:
            self._board.windows.set(main, limits)
        else:
            self._board.windows.set_map(limits)

    def _preset(self, index: int) -> None:
        main = self._main()
        if main is not None:
            self._view.set(content=Content.IMAGE)
            self._board.windows.preset(main, list(PRESETS)[index])

    def _fill_menu(self, menu: QMenu) -> None:
        menu.clear()
        shown = self._view.shown()
        for layer in self._view.images():
            entry = menu.addAction(layer.name)
            assert entry is not None
            entry.setCheckable(True)
            entry.setChecked(layer in shown)
            entry.toggled.connect(lambda on, one=layer: self._view.show(one, on))


CHECKABLE = {"mode", "plane", "content", "tool", "linked", "radiological", "smooth", "crosshair", "inset", "fill", "blink"}


def _row(widgets: Sequence[QWidget]) -> QWidget:
    group = QWidget()
    layout = QHBoxLayout(group)
    layout.setContentsMargins(0, 0, 6, 0)
    layout.setSpacing(2)
    for widget in widgets:
        layout.addWidget(widget)
    return group


def _slider(name: str, tip: str, moved: Callable[[int], None]) -> QSlider:
    slider = QSlider(Qt.Orientation.Horizontal)
    slider.setObjectName(name)
    slider.setToolTip(tip)
    slider.setRange(0, 100)
    slider.setFixedWidth(90)
    slider.valueChanged.connect(moved)
    return slider


def _number(name: str, tip: str) -> QDoubleSpinBox:
    spin = QDoubleSpinBox()
    spin.setObjectName(name)
    spin.setToolTip(tip)
    spin.setRange(-1e9, 1e9)
    spin.setKeyboardTracking(False)
    longest, arrows = f"-0.{'0' * MOST_DECIMALS}", 28
    spin.setFixedWidth(spin.fontMetrics().horizontalAdvance(longest) + arrows)
    return spin


def _decimals(width: float) -> int:
    """Decimals that show a hundredth of a window's width, whatever the units."""
    return int(np.clip(2 - np.floor(np.log10(width)), 0, MOST_DECIMALS)) if width > 0 else MOST_DECIMALS


def _offer(box: QComboBox, layers: Sequence[Layer], current: Layer | None, none: str = "") -> None:
    """List layers in a combo box; it is touched only where something differs, so that an open list stays open."""
    wanted = [(none, None)] if none else []
    wanted += [(layer.name, layer) for layer in layers]
    if [(box.itemText(i), box.itemData(i)) for i in range(box.count())] != wanted:
        box.clear()
        for name, layer in wanted:
            box.addItem(name, layer)
    index = next((i for i, (_, layer) in enumerate(wanted) if layer is current), -1)
    if box.currentIndex() != index:
        box.setCurrentIndex(index)
