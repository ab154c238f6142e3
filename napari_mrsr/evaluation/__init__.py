"""Numbers and maps that say how good a result is."""

from napari_mrsr.evaluation.compare import Comparison, Region, Result, compare, format_table, headline
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
