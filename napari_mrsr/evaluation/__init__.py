"""Numbers and maps that say how good a result is."""

from napari_mrsr.evaluation.compare import compare, format_table
from napari_mrsr.evaluation.comparison import Comparison, Region, Result, headline
from napari_mrsr.evaluation.conventions import CONVENTIONS, Convention, get_convention
from napari_mrsr.evaluation.maps import error_map, gradient_map

__all__ = [
    "CONVENTIONS",
    "Comparison",
    "Convention",
    "Region",
    "Result",
    "compare",
    "error_map",
    "format_table",
    "get_convention",
    "gradient_map",
    "headline",
]
