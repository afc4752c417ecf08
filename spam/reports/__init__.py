"""Figures from arrays: expression maps, and charts of scores; and reports as HTML pages."""

from .alignment_figures import DrawnNuclei, DrawnPlacement, Zoom, plot_alignment
from .expression_maps import SEEN, GivenEntries, SectionView, plot_cluster_maps, plot_expression_maps
from .gene_viewer import data_url, pack_genes
from .page_contents import NEEDED, ShownPrediction, benchmark_content, prediction_content
from .report_page import PAGE, render_page
from .score_charts import MethodScore, plot_pcc_histogram, plot_scatter, plot_score_chart

__all__ = [
    "NEEDED",
    "PAGE",
    "SEEN",
    "DrawnNuclei",
    "DrawnPlacement",
    "GivenEntries",
    "MethodScore",
    "SectionView",
    "ShownPrediction",
    "Zoom",
    "benchmark_content",
    "data_url",
    "pack_genes",
    "plot_alignment",
    "plot_cluster_maps",
    "plot_expression_maps",
    "plot_pcc_histogram",
    "plot_scatter",
    "plot_score_chart",
    "prediction_content",
    "render_page",
]
