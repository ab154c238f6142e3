"""Comparisons as CSV and LaTeX; JSON is ``Comparison.model_dump(mode="json")``."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np

from napari_mrsr.evaluation.comparison import Comparison, Result, headline
from napari_mrsr.evaluation.measured import Measured
from napari_mrsr.evaluation.metrics import METRICS, Sum
from napari_mrsr.volume import AXES

UNITS = {"psnr": "psnr_db", "psnr_box": "psnr_box_db"}
"""Columns that carry their unit in their name."""
DICE = {"csf": "CSF", "gm": "GM", "wm": "WM", "mean": "mean"}
UP, DOWN = r"$\uparrow$", r"$\downarrow$"
_LATEX = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"})


def to_csv(comparison: Comparison) -> str:
    """One row per candidate; every row names convention, mask, range and region. Intervals and Dice have columns where there are any."""
    c = comparison
    with_dice, measured = any(r.dice for r in c.results), [m for m in METRICS if any(m in r.intervals for r in c.results)]
    header = ["name", *(UNITS.get(m, m) for m in METRICS), "resampled", "convention", "mask", "data_range", "region"]
    header += [f"{UNITS.get(m, m)}_{end}" for m in measured for end in ("low", "high")]
    header += [f"dice_{tissue}" for tissue in DICE] if with_dice else []
    rows: list[list[object]] = []
    for r in c.results:
        facts = [r.resampled, c.convention, c.mask, f"{c.data_range:.6g}", c.region.description]
        intervals = [r.intervals.get(m) for m in measured]
        ends = [_number(v) for i in intervals for v in ((i.low, i.high) if i else (np.nan, np.nan))]
        dice = [f"{getattr(r.dice, tissue):.4f}" if r.dice else "" for tissue in DICE] if with_dice else []
        rows.append([r.name, *(_number(r.value(m)) for m in METRICS), *facts, *ends, *dice])
    return _table(header, rows)


def to_latex(comparison: Comparison) -> str:
    """Table for the package ``booktabs``, best values bold; comment lines say how the numbers were computed."""
    c = comparison
    shown = [m for m in METRICS.values() if m.name != "psnr_box"]
    titles = [f"{m.title} {UP if m.higher else DOWN}" for m in shown]
    best = [c.best(m.name) for m in shown]
    with_dice = any(r.dice for r in c.results)
    titles += [f"Dice {title} {UP}" for title in DICE.values()] if with_dice else []
    lines = [f"% {text}" for text in (headline(c), f"reference {c.reference}", *c.notes)]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(titles)}}}", r"\toprule", " & ".join(["", *titles]) + r" \\", r"\midrule"]
    for i, r in enumerate(c.results):
        cells = [_bold(r.cell(m.name), best[k] == i) for k, m in enumerate(shown)]
        cells += _dice_cells(c.results, i) if with_dice else []
        lines.append(" & ".join([r.name.translate(_LATEX), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def slices_to_csv(measured: Measured, axis: int) -> str:
    """Every metric of every candidate in every slice across an axis; empty where a slice has no value."""
    frame = measured.frame
    curves = {name: measured.curve(name, axis) for name in METRICS}
    first = frame.aligned.lower[axis] + measured.block[axis].start
    header = ["axis", "position_mm", "voxel", "voxels_counted", "name", *(UNITS.get(m, m) for m in METRICS), "convention", "mask", "data_range"]
    facts = [frame.rules.name, frame.mask_text, f"{frame.data_range:.6g}"]
    rows: list[list[object]] = []
    for i, name in enumerate(frame.names):
        for k, position in enumerate(measured.positions(axis)):
            place = [AXES[axis], f"{position:.3f}", first + k, int(measured.sums[i][axis][k, Sum.VOXELS])]
            rows.append([*place, name, *(_number(curves[m].values[i, k]) for m in METRICS), *facts])
    return _table(header, rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"


def _bold(text: str, best: bool) -> str:
    text = text.replace("inf", r"$\infty$")
    return rf"\textbf{{{text}}}" if best else text


def _dice_cells(results: Sequence[Result], index: int) -> list[str]:
    cells = []
    for tissue in DICE:
        values = [np.nan if r.dice is None else getattr(r.dice, tissue) for r in results]
        text = "--" if np.isnan(values[index]) else f"{values[index]:.3f}"
        cells.append(_bold(text, len(values) > 1 and values[index] == np.nanmax(values)))
    return cells
