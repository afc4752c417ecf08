"""Plots and maps from arrays."""

from .expression_maps import build_expression_maps, plot_expression_maps
from .histogram import build_pcc_histogram, plot_pcc_histogram
from .scatter import build_scatter, plot_scatter
from .section_view import SectionView

__all__ = [
    "SectionView",
    "build_expression_maps",
    "build_pcc_histogram",
    "build_scatter",
    "plot_expression_maps",
    "plot_pcc_histogram",
    "plot_scatter",
]
