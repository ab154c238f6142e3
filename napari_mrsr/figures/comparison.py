"""The comparison figure: LR, candidates and HR in one fixed layout, zoomed, with errors and scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation import Comparison, Result, compare, headline
from napari_mrsr.evaluation.align import Aligned, align, require_finite
from napari_mrsr.figures.layout import FONT, FONT_SIZE, LINE, TITLE_SIZE, Sheet, headings, shorten
from napari_mrsr.figures.slices import Array, Cut
from napari_mrsr.intensity import foreground_mask
from napari_mrsr.planes import Picture, Rect
from napari_mrsr.volume import AXES, Box, Volume

MAX_CANDIDATES = 4
WINDOW_PERCENTILE = 99.5
ERROR_MAP = "inferno"
"""Even in lightness, so it reads the same with any colour vision and in print; black is no error."""
FRAME = "#ffb000"
IMAGE_RATIO, ZOOM_RATIO = (0.6, 1.35), (0.6, 1.2)
_OUTLINE = [withStroke(linewidth=1.5, foreground="black")]


@dataclass(frozen=True, eq=False)
class _Column:
    """One column: heading, two lines under the image, the image, and its absolute error where it is a candidate."""

    title: str
    caption: tuple[str, str]
    image: Picture
    error: Picture | None = None
    interpolation: str = "antialiased"


def comparison_figure(
    lr: Volume,
    candidates: Sequence[Volume],
    reference: Volume,
    *,
    comparison: Comparison | None = None,
    plane: str = "axial",
    position: float | None = None,
    zoom: Box | None = None,
    show: str = "radiological",
) -> Figure:
    """Draw LR, candidates and HR side by side, a zoom of each, absolute errors, and the scores.

    All slices are taken at the same world position in the reference's voxel frame, at true physical proportions. LR shows its own voxels.
    All images share one window, 0 to the 99.5th percentile of HR in its foreground; all errors share one range and one colour bar.

    Parameters
    ----------
    lr : Volume
        Input of the super-resolution, on its own grid, scanner units.
    candidates : sequence of Volume
        One to four results, for example cubic and SR; aligned as :func:`~napari_mrsr.evaluation.compare.compare` does.
    reference : Volume
        HR, the ground truth.
    comparison : Comparison, optional
        Scores of exactly these volumes; ``compare(reference, candidates)`` where missing.
    plane : {"axial", "coronal", "sagittal"}
        Slice orientation.
    position : float, optional
        World coordinate in mm along the slice axis; the slice with most foreground where missing.
    zoom : Box, optional
        Region to enlarge; where missing, a square of high gradient near the middle of the foreground.
    show : {"radiological", "neurological"}
        radiological: the patient's right (in sagittal slices the front) is on the left of the picture.

    Returns
    -------
    matplotlib.figure.Figure
        At most 180 mm wide, letters of at least 7 pt; independent of pyplot and of the user's matplotlib settings.

    Raises
    ------
    InputError
        More than four candidates, an unknown plane, a position or zoom outside, volumes that cannot be compared, or scores of other volumes.
    """
    if len(candidates) > MAX_CANDIDATES:
        raise InputError(f"The figure has room for {MAX_CANDIDATES} candidates, {len(candidates)} were given; choose some.")
    require_finite(lr)
    aligned = align(reference, candidates)
    comparison = compare(reference, candidates) if comparison is None else _same_volumes(comparison, aligned)
    mask = foreground_mask(reference.data)[aligned.slices]
    cut = Cut.choose(aligned.reference, mask if aligned.covered is None else mask & aligned.covered, plane, position, show)
    columns = _columns(lr, reference, aligned, comparison, cut)
    view, detail = cut.field_of_view().with_ratio(*IMAGE_RATIO), cut.zoom(zoom).with_ratio(*ZOOM_RATIO)
    footer = f"{plane.capitalize()} slice at {AXES[cut.plane.slice_axis]} = {cut.position:.1f} mm | {headline(comparison)}"
    sheet = Sheet(len(columns), view.height / view.width, detail.height / detail.width, 2, footer)
    window = _window(aligned.reference.data, cut.mask)
    titles = ["LR", *headings([column.title for column in columns[1:-1]], sheet.cell), "HR"]
    for number, (column, title) in enumerate(zip(columns, titles, strict=True)):
        sheet.text(sheet.middle(number), sheet.rows["image"].top - 4, title, ha="center", size=TITLE_SIZE, weight="bold")
        _draw_column(sheet, number, column, cut, view, detail, window)
    _draw_errors(sheet, columns, cut, view, window)
    return sheet.figure


def _same_volumes(comparison: Comparison, aligned: Aligned) -> Comparison:
    """Refuse scores that belong to something else than what is drawn."""
    same_block = (comparison.region.lower, comparison.region.upper) == (list(aligned.lower), list(aligned.upper))
    if len(comparison.results) != len(aligned.candidates) or not same_block or comparison.reference != aligned.reference.name:
        raise InputError("The scores belong to other volumes than those to draw; compare these volumes first.")
    return comparison


def _columns(lr: Volume, reference: Volume, aligned: Aligned, comparison: Comparison, cut: Cut) -> list[_Column]:
    truth = aligned.reference.data
    columns = [_Column("LR", _voxels(lr), cut.foreign(lr), interpolation="nearest")]
    for result, candidate in zip(comparison.results, aligned.candidates, strict=True):
        error = cut.picture(np.abs(candidate.data - truth))
        columns.append(_Column(result.name, _scores(result), cut.picture(candidate.data), error))
    columns.append(_Column("HR", _voxels(reference), cut.picture(truth)))
    return columns


def _voxels(volume: Volume) -> tuple[str, str]:
    return "voxels", "×".join(f"{round(v, 2):g}" for v in volume.voxel_size) + " mm"


def _scores(result: Result) -> tuple[str, str]:
    psnr = "∞" if math.isinf(result.psnr) else f"{result.psnr:.2f}"
    return f"PSNR {psnr} dB", f"SSIM {result.ssim:.4f}"


def _window(truth: Array, mask: Array) -> float:
    """Upper end of the grey window, scanner units."""
    value = float(np.percentile(truth[mask] if mask.any() else truth, WINDOW_PERCENTILE))
    return value if value > 0 else float(np.abs(truth).max())


def _draw_column(sheet: Sheet, number: int, column: _Column, cut: Cut, view: Rect, detail: Rect, window: float) -> None:
    image = sheet.rows["image"]
    caption = [shorten(line, sheet.cell) for line in column.caption]
    sheet.lines(sheet.middle(number), image.top + image.height + 1, caption, ha="center")
    large, small = sheet.panel(number, "image", column.title), sheet.panel(number, "zoom", column.title)
    for axes, rect in ((large, view), (small, detail)):
        _draw(axes, column.image, cut, rect, column.interpolation, "gray", window)
    large.add_patch(Rectangle((detail.left, detail.bottom), detail.width, detail.height, fill=False, edgecolor=FRAME, linewidth=0.8))
    small.spines[:].set(visible=True, color=FRAME, linewidth=1.2)
    _draw_letters(large, cut.edge_letters)
    if number == 0:
        _draw_scale_bar(large, view, cut)
        _draw_scale_bar(small, detail, cut)


def _draw_errors(sheet: Sheet, columns: Sequence[_Column], cut: Cut, view: Rect, window: float) -> None:
    inside = cut.flat(cut.mask)
    errors = [column.error.data[inside] if inside.any() else column.error.data for column in columns if column.error is not None]
    top = max(float(np.percentile(e, WINDOW_PERCENTILE)) for e in errors) or 0.01 * window
    drawn = [
        _draw(sheet.panel(number, "error", column.title), column.error, cut, view, column.interpolation, ERROR_MAP, top)
        for number, column in enumerate(columns)
        if column.error is not None
    ]
    _draw_colour_bar(sheet, len(columns) - 1, drawn[0])
    note = ["absolute error", "|candidate − HR|", "on one scale"]
    row = sheet.rows["error"]
    sheet.lines(sheet.middle(0), row.top + (row.height - len(note) * LINE) / 2, note, ha="center")


def _draw(axes: Axes, picture: Picture, cut: Cut, view: Rect, interpolation: str, colours: str, top: float) -> AxesImage:
    place = picture.place
    extent = (place.left, place.right, place.bottom, place.top)
    drawn = axes.imshow(picture.data.T, cmap=colours, vmin=0, vmax=top, origin="lower", extent=extent, interpolation=interpolation, aspect="auto")
    # Panels have the view's proportions by construction, so filling them keeps mm square.
    axes.set_xlim(*((view.right, view.left) if cut.show == "radiological" else (view.left, view.right)))
    axes.set_ylim(view.bottom, view.top)
    axes.spines[:].set_visible(False)
    return drawn


def _draw_letters(axes: Axes, letters: tuple[str, str, str, str]) -> None:
    places = (
        (0.0, 0.5, 2, 0, "left", "center"),
        (1.0, 0.5, -2, 0, "right", "center"),
        (0.5, 0.0, 0, 2, "center", "bottom"),
        (0.5, 1.0, 0, -2, "center", "top"),
    )
    for letter, (x, y, dx, dy, ha, va) in zip(letters, places, strict=True):
        axes.annotate(
            letter, (x, y), (dx, dy), "axes fraction", "offset points",
            ha=ha, va=va, family=FONT, size=FONT_SIZE, weight="bold", color="white", path_effects=_OUTLINE,
        )  # fmt: skip


def _draw_scale_bar(axes: Axes, view: Rect, cut: Cut) -> None:
    """White bar of a round length at the lower left, its length in mm above it."""
    raw = 0.3 * view.width
    power = 10.0 ** math.floor(math.log10(raw))
    length = next(step * power for step in (5, 2, 1) if step * power <= raw * (1 + 1e-9))
    fraction, start = length / view.width, 0.04
    axes.plot([start, start + fraction], [0.03, 0.03], transform=axes.transAxes, color="white", linewidth=1.5, path_effects=_OUTLINE)
    axes.annotate(
        f"{length:g} mm", (start, 0.03), (0, 2.5), "axes fraction", "offset points",
        ha="left", va="bottom", family=FONT, size=FONT_SIZE, color="white", path_effects=_OUTLINE,
    )  # fmt: skip


def _draw_colour_bar(sheet: Sheet, column: int, drawn: AxesImage) -> None:
    row, left = sheet.rows["error"], sheet.left(column) + 2
    axes = sheet.axes(left, row.top + 2, 3, row.height - 4, label="error: colour bar")
    bar = sheet.figure.colorbar(drawn, cax=axes, extend="max", ticks=MaxNLocator(4), format=FuncFormatter(lambda value, _: f"{value:.3g}"))
    bar.ax.tick_params(labelsize=FONT_SIZE, labelfontfamily=FONT, labelcolor="black", color="black")
    note = ["error in", "scanner", "units"]
    sheet.lines(left + 13, row.top + (row.height - len(note) * LINE) / 2, note)
