"""Plots and maps from arrays."""

from .expression_maps import build_expression_maps, plot_expression_maps
from .given_entries import GivenEntries
from .histogram import build_pcc_histogram, plot_pcc_histogram
from .method_charts import (
    MethodScore,
    build_cost_chart,
    build_score_chart,
    plot_cost_chart,
    plot_score_chart,
)
from .scatter import build_scatter, plot_scatter
from .section_view import SectionView

__all__ = [
    "GivenEntries",
    "MethodScore",
    "SectionView",
    "build_cost_chart",
    "build_expression_maps",
    "build_pcc_histogram",
    "build_scatter",
    "build_score_chart",
    "plot_cost_chart",
    "plot_expression_maps",
    "plot_pcc_histogram",
    "plot_scatter",
    "plot_score_chart",
]
