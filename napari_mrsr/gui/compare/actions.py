"""Everything the Compare dock can do, with its key: shortcuts, tooltips and the list of keys all come from here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from napari_mrsr.evaluation.maps import DIFFERENCES
from napari_mrsr.gui.compare.board import Board
from napari_mrsr.gui.compare.view import ZOOM_STEP, Content, Mode, Tool
from napari_mrsr.planes import PLANES

MOUSE = (
    ("Left drag", "move the cross-hair, or use the tool chosen; on the divider: swipe"),
    ("Right drag, Ctrl + left drag", "window and level: right is wider, up is brighter"),
    ("Middle drag, Shift + left drag", "pan"),
    ("Wheel", "slices; with Ctrl: zoom about the pointer"),
)
"""What the mouse does on the board."""
HELD = (("Space", "hold: show the second image (flicker)"), ("Up, Down, PgUp, PgDn", "one or ten slices"))
"""Keys that the board itself follows."""


@dataclass(frozen=True)
class Action:
    """One thing to do: its name, its key, a word for a button and a sentence for tooltips."""

    name: str
    key: str
    text: str
    tip: str
    run: Callable[[], None]

    @property
    def tooltip(self) -> str:
        """Sentence with the key."""
        return f"{self.tip} [{self.key}]"


def actions(board: Board, keys: Callable[[], None], fill: Callable[[], None], blink: Callable[[], None]) -> dict[str, Action]:
    """All actions of a board by name; `keys` shows the list of keys, `fill` takes the canvas's room, `blink` starts the timed flicker."""
    view = board.view

    def change(**look: object) -> Callable[[], None]:
        return lambda: view.set(**look)

    def turn(name: str) -> Callable[[], None]:
        return lambda: view.set(**{name: not getattr(view.look, name)})

    found = [Action(f"mode {m.value}", str(i), m.value, tip, change(mode=m, flipped=False)) for i, (m, tip) in enumerate(_MODES.items(), 1)]
    found += [Action(f"plane {p}", p[0].upper(), p.capitalize(), f"{p.capitalize()} slices", change(planes=(p,))) for p in PLANES]
    found += [
        Action("plane three", "T", "Three", "Axial, coronal and sagittal slices of every image", change(planes=tuple(PLANES))),
        Action("content Images", "I", "Images", "The images themselves", change(content=Content.IMAGE)),
        Action(
            "content Gradient", "G", "Gradient", "In-plane gradient magnitude of every image, one window for all", change(content=Content.GRADIENT)
        ),
        Action("content Difference", "D", "Difference", "Difference maps, one range for all; again: next kind", lambda: _next_difference(board)),
        Action("tool Pointer", "V", "Pointer", "Left drag moves the cross-hair", change(tool=Tool.POINTER)),
        Action("tool Box", "B", "Box", "Left drag draws, moves or resizes the region of interest", change(tool=Tool.BOX)),
        Action("tool Line", "P", "Line", "Left drag draws the profile line, or moves an end", change(tool=Tool.LINE)),
        Action("no tool", "Esc", "Pointer", "Back to the pointer; what was drawn stays", change(tool=Tool.POINTER)),
        Action("clear", "Del", "Clear", "Take away the region of interest, or the line where that tool is chosen", lambda: _clear(board)),
        Action("auto", "W", "Auto", "Automatic window (as a double click on an image)", board.window_automatically),
        Action("linked", "L", "Link", "One window for all images (but the reference), or each its own", turn("linked")),
        Action("radiological", "R", "R left", "Patient's right (or front) on the left, or on the right", turn("radiological")),
        Action("smooth", "N", "Smooth", "Interpolate between pixels on screen", turn("smooth")),
        Action("crosshair", "X", "Cross", "Draw the cross-hair", turn("crosshair")),
        Action("inset", "Z", "Inset", "Draw the region of interest enlarged in a corner", turn("inset")),
        Action("fit", "F", "Fit", "Show all of the images", view.fit),
        Action("zoom in", "+", "+", "Enlarge", lambda: board.zoom_by(ZOOM_STEP)),
        Action("zoom out", "-", "-", "Make smaller", lambda: board.zoom_by(1 / ZOOM_STEP)),
        Action("swap", "Q", "Swap", "Exchange the two images", lambda: _swap(board)),
        Action("blink", "K", "Blink", "Flicker by itself, at most three times a second", blink),
        Action("fill", "M", "Fill", "Give the comparison the room of napari's canvas", fill),
        Action("keys", "?", "Keys", "List of keys and mouse drags", keys),
    ]
    return {action.name: action for action in found}


_MODES = {
    Mode.PANES: "Images side by side",
    Mode.SWIPE: "Two images, with a divider to drag",
    Mode.FLICKER: "Two images in turn: hold Space for the second",
    Mode.CHECKERBOARD: "Two images in alternating fields",
    Mode.BLEND: "Two images over each other",
}


def _next_difference(board: Board) -> None:
    look, kinds = board.view.look, list(DIFFERENCES)
    if look.content is Content.DIFFERENCE:
        board.view.set(difference=kinds[(kinds.index(look.difference) + 1) % len(kinds)])
    else:
        board.view.set(content=Content.DIFFERENCE)


def _clear(board: Board) -> None:
    if board.view.look.tool is Tool.LINE:
        board.session.line = None
    else:
        board.session.roi = None


def _swap(board: Board) -> None:
    pair = board.view.pair
    if pair is not None:
        board.view.choose(first=pair[1], second=pair[0])
