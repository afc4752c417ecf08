"""Figures from arrays: expression maps, and charts of scores."""

from .alignment_figures import DrawnNuclei, DrawnPlacement, Zoom, plot_alignment
from .expression_maps import GivenEntries, SectionView, plot_expression_maps
from .score_charts import MethodScore, plot_pcc_histogram, plot_scatter, plot_score_chart

__all__ = [
    "DrawnNuclei",
    "DrawnPlacement",
    "GivenEntries",
    "MethodScore",
    "SectionView",
    "Zoom",
    "plot_alignment",
    "plot_expression_maps",
    "plot_pcc_histogram",
    "plot_scatter",
    "plot_score_chart",
]
