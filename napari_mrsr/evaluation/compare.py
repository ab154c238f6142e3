"""Scoring candidates against a reference in a named convention, all on the same voxels."""

from __future__ import annotations

from collections.abc import Sequence

from napari_mrsr.evaluation.comparison import Comparison, headline
from napari_mrsr.evaluation.frame import prepare
from napari_mrsr.evaluation.measured import measure
from napari_mrsr.evaluation.metrics import METRICS
from napari_mrsr.volume import Box, Volume

BEST = "*"
"""Mark of the best value of a column."""


def compare(
    reference: Volume,
    candidates: Sequence[Volume],
    *,
    convention: str = "mrsr-1",
    mask: Volume | None = None,
    roi: Box | None = None,
    plane: tuple[int, float] | None = None,
    bootstrap: bool = False,
) -> Comparison:
    """Score candidates against a reference.

    Parameters
    ----------
    reference, candidates, convention, mask
        As :func:`~napari_mrsr.evaluation.frame.prepare`.
    roi : Box, optional
        Measure only there (world mm). Mask and range still come from the whole reference.
    plane : (int, float), optional
        Measure only the slice across this array axis at this world coordinate in mm.
    bootstrap : bool
        Also 95 % intervals over slices; none for a single slice.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        As :func:`~napari_mrsr.evaluation.frame.prepare` and :func:`~napari_mrsr.evaluation.measured.measure`; a slice outside.
    """
    measured = measure(prepare(reference, candidates, convention, mask), roi)
    chosen = None if plane is None else (plane[0], measured.slice_near(*plane))
    return measured.comparison(chosen, bootstrap)


def format_table(comparison: Comparison) -> str:
    """Lay the comparison out as text: :func:`headline`, one row per candidate, the best value of each column marked, notes."""
    best = {name: comparison.best(name) for name in METRICS}
    rows = [("", *(metric.title for metric in METRICS.values()))]
    for i, result in enumerate(comparison.results):
        rows.append((result.name, *(result.cell(name) + (BEST if best[name] == i else " ") for name in METRICS)))
    dice = [(result.name, result.dice) for result in comparison.results if result.dice]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [headline(comparison), f"reference {comparison.reference}; {BEST} best"]
    lines += [" ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]) for row in rows]
    lines += [f"Dice {name}: CSF {d.csf:.3f}, GM {d.gm:.3f}, WM {d.wm:.3f}, mean {d.mean:.3f}" for name, d in dice]
    return "\n".join([*lines, *comparison.notes])
