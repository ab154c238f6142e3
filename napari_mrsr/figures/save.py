"""Writing figures."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

from matplotlib.figure import Figure

from napari_mrsr.io import require_suffix, write_whole

DPI = MappingProxyType({".png": 200, ".svg": 300, ".pdf": 300})
"""Dots per inch of the pixels, also of those inside vector files."""


def save_figure(figure: Figure, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write a figure as PNG, SVG or PDF, whole or not at all.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        As :func:`~napari_mrsr.figures.comparison.comparison_figure` makes it.
    path : path
        Its suffix chooses the format.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OutputError
        If the suffix is another one, the file exists already, or the folder or disk refuses.
    """
    path = Path(path).expanduser()
    suffix = require_suffix(path, tuple(DPI), "figure")
    # Drawn into memory, because matplotlib turns a full disk into errors of many kinds. The options are named here so that the user's
    # matplotlib settings cannot crop the page or make it transparent.
    page = BytesIO()
    figure.savefig(page, format=suffix[1:], dpi=DPI[suffix], facecolor="white", transparent=False, bbox_inches=figure.bbox_inches)
    with write_whole(path, overwrite, need_bytes=page.tell()) as temporary:
        temporary.write_bytes(page.getbuffer())
    return path
