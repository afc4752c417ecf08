"""Measured against predicted expression of the genes that are predicted best."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spam.typing import Array, Float

from .scores import score_genes, score_title
from .style import COLOURS, MAP_COLOURS, house_style, new_figure, save_figure

__all__ = ["UNIT", "build_scatter", "plot_scatter"]

UNIT = "log1p CP10k"
_N_SHOWN = 9
_MAX_POINTS = 3000  # beyond this, points hide each other and density is drawn instead


def build_scatter(
    truth: Float[Array, "n_spots n_genes"], prediction: Float[Array, "n_spots n_genes"], genes: Sequence[str]
) -> Figure:
    """Draw measured against predicted expression for up to nine genes of highest Pearson r, best first.

    Both are in log1p CP10k; the dashed line is ``predicted = measured``. Spots where either is not finite are
    left out. Genes without a defined correlation come last, titled "r undefined".
    """
    scores = score_genes(truth, prediction)
    best = np.argsort(np.where(np.isfinite(scores), -scores, np.inf), kind="stable")[:_N_SHOWN]
    n_columns = max(1, math.ceil(math.sqrt(len(best))))
    n_rows = max(1, -(-len(best) // n_columns))
    with house_style():
        figure = new_figure(2.6 * n_columns + 0.4, 2.5 * n_rows + 0.5)
        grid = figure.subplots(n_rows, n_columns, squeeze=False)
        for axes, gene in zip(grid.flat[: len(best)], best, strict=True):
            axes.set_title(score_title(genes[gene], float(scores[gene])))
            _draw_gene(axes, truth[:, gene], prediction[:, gene])
        for axes in grid.flat[len(best) :]:
            axes.set_axis_off()
        figure.supxlabel(f"measured ({UNIT})", fontsize=10)
        figure.supylabel(f"predicted ({UNIT})", fontsize=10)
    return figure


def plot_scatter(
    truth: Float[Array, "n_spots n_genes"],
    prediction: Float[Array, "n_spots n_genes"],
    genes: Sequence[str],
    path: Path,
) -> Path:
    """Write what `build_scatter` draws as PNG to `path`."""
    return save_figure(build_scatter(truth, prediction, genes), path)


def _draw_gene(axes: Axes, truth: Float[Array, " n_spots"], prediction: Float[Array, " n_spots"]) -> None:
    """Draw one gene: points, or their density where there are many."""
    is_finite = np.isfinite(truth) & np.isfinite(prediction)
    x, y = truth[is_finite], prediction[is_finite]
    if x.size > _MAX_POINTS:
        axes.hexbin(x, y, gridsize=40, bins="log", mincnt=1, cmap=MAP_COLOURS, linewidths=0)
    else:
        axes.scatter(x, y, s=9, alpha=0.5, color=COLOURS[0], linewidths=0)
    if x.size:  # the line must not stretch the axes: predictions vary less than single spots do
        limits = axes.get_xlim(), axes.get_ylim()
        axes.axline((0, 0), slope=1, color="0.35", linestyle="--", linewidth=1)
        axes.set_xlim(limits[0])
        axes.set_ylim(limits[1])
