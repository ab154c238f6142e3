"""Panels for papers and reports."""

from napari_mrsr.figures.comparison import comparison_figure
from napari_mrsr.figures.report import write_maps, write_metrics, write_report
from napari_mrsr.figures.save import save_figure

__all__ = ["comparison_figure", "save_figure", "write_maps", "write_metrics", "write_report"]
