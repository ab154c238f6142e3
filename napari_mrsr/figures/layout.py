"""A page measured in millimetres: where panels and lines of text go, and what fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

FONT = "DejaVu Sans"
"""Ships with matplotlib, so a figure looks the same everywhere and whatever the user's settings."""
FONT_SIZE = 7.0
TITLE_SIZE = 8.0
PAGE_WIDTH = 180.0
MAX_CELL = 44.0
SIDE, GAP = 2.0, 1.5
TITLE_HEIGHT, LINE = 5.0, 3.2
INCH = 25.4


def text_width(text: str, size: float = FONT_SIZE, weight: str = "normal") -> float:
    """Width of one line in mm."""
    font = FontProperties(family=FONT, size=size, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, False)
    return float(width) * INCH / 72


def shorten(text: str, width: float, size: float = FONT_SIZE, weight: str = "normal") -> str:
    """Replace the middle of `text` by an ellipsis until it fits into `width` mm."""
    if text_width(text, size, weight) <= width:
        return text
    for keep in range(len(text) - 1, 0, -1):
        short = text[: (keep + 1) // 2].rstrip() + "…" + text[len(text) - keep // 2 :].lstrip()
        if text_width(short, size, weight) <= width:
            return short
    return "…"


def headings(names: Sequence[str], width: float) -> list[str]:
    """Titles of at most `width` mm that can be told apart.

    Where a name is too long, words that all names begin or end with are left out first (the name of the person, say).
    """
    if len(names) > 1 and any(text_width(name, TITLE_SIZE, "bold") > width for name in names):
        words = _without_common([name.split() for name in names])
        words = [w[::-1] for w in _without_common([w[::-1] for w in words])]
        names = [" ".join(w) for w in words]
    short = [shorten(name, width, TITLE_SIZE, "bold") for name in names]
    if len(set(short)) < len(short):
        short = [shorten(f"{number}: {name}", width, TITLE_SIZE, "bold") for number, name in enumerate(names, 1)]
    return short


def _without_common(names: list[list[str]]) -> list[list[str]]:
    """Drop leading words that all share, but leave each name at least one."""
    while all(len(words) > 1 for words in names) and len({words[0] for words in names}) == 1:
        names = [words[1:] for words in names]
    return names


def wrap(text: str, width: float, size: float = FONT_SIZE) -> list[str]:
    """Break `text` at spaces into lines of at most `width` mm; a longer word is shortened."""
    lines: list[str] = []
    for word in (shorten(w, width, size) for w in text.split()):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@dataclass(frozen=True)
class Row:
    """A row of panels: mm from the top of the page to its upper edge, and its height."""

    top: float
    height: float


class Sheet:
    """A figure with columns of equal panels in three rows (image, zoom, error), lines of text between them and at the foot.

    Parameters
    ----------
    columns : int
        Number of columns.
    ratio, zoom_ratio : float
        Height over width of the panels in the image and error rows, and in the zoom row.
    caption_lines : int
        Lines of text under the image row.
    footer : str
        Text at the foot, wrapped.
    """

    def __init__(self, columns: int, ratio: float, zoom_ratio: float, caption_lines: int, footer: str) -> None:
        self.cell = min(MAX_CELL, (PAGE_WIDTH - 2 * SIDE - (columns - 1) * GAP) / columns)
        self.width = columns * self.cell + (columns - 1) * GAP + 2 * SIDE
        lines = wrap(footer, self.width - 2 * SIDE)
        image = Row(SIDE + TITLE_HEIGHT, self.cell * ratio)
        zoom = Row(image.top + image.height + caption_lines * LINE + 2 * GAP, self.cell * zoom_ratio)
        error = Row(zoom.top + zoom.height + GAP, image.height)
        self.rows = {"image": image, "zoom": zoom, "error": error}
        foot = error.top + error.height + 2 * GAP
        self.height = foot + len(lines) * LINE + SIDE
        self.figure = Figure(figsize=(self.width / INCH, self.height / INCH), facecolor="white")
        FigureCanvasAgg(self.figure)
        self.lines(SIDE, foot, lines)

    def left(self, column: int) -> float:
        """Left edge of a column, mm."""
        return SIDE + column * (self.cell + GAP)

    def middle(self, column: int) -> float:
        """Middle of a column, mm."""
        return self.left(column) + self.cell / 2

    def panel(self, column: int, row: str, title: str) -> Axes:
        """Empty black axes that fill a cell; `title` names them for programs."""
        place = self.rows[row]
        return self.axes(self.left(column), place.top, self.cell, place.height, label=f"{row}: {title}", facecolor="black", xticks=[], yticks=[])

    def axes(self, left: float, top: float, width: float, height: float, **options: Any) -> Axes:
        """Axes at a place in mm from the upper left corner of the page."""
        box = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box, **options)

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """One line of text whose upper edge lies `y` mm below the top of the page."""
        style = {"family": FONT, "size": FONT_SIZE, "color": "black", "ha": "left", "va": "top", **style}
        self.figure.text(x / self.width, 1 - y / self.height, text, parse_math=False, **style)

    def lines(self, x: float, y: float, lines: list[str], **style: Any) -> None:
        """Several lines of text, one below the other."""
        for number, line in enumerate(lines):
            self.text(x, y + number * LINE, line, **style)
