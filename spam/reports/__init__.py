"""Figures from arrays: expression maps, and charts of scores."""

from .expression_maps import GivenEntries, SectionView, plot_expression_maps
from .score_charts import MethodScore, plot_pcc_histogram, plot_scatter, plot_score_chart

__all__ = [
    "GivenEntries",
    "MethodScore",
    "SectionView",
    "plot_expression_maps",
    "plot_pcc_histogram",
    "plot_scatter",
    "plot_score_chart",
]
