"""Charts of accuracy: Pearson r of all genes, scatter plots of the best genes, and scores of several methods."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spam.models.linear import pearson_per_gene
from spam.typing import Array, Float

from .figures import COLOURS, MAP_COLOURS, REFERENCE_COLOUR, house_style, new_figure, save_figure

UNIT = "log1p CP10k"
_BINS: list[float] = np.linspace(-1, 1, 41).tolist()
_N_SCATTERS = 9
_MAX_POINTS = 3000  # above this number points overlap, and their density is drawn instead


def pearson_of_finite(
    truth: Float[Array, "n_spots n_genes"], prediction: Float[Array, "n_spots n_genes"]
) -> Float[Array, " n_genes"]:
    """Pearson correlation of each gene over the spots where both values are finite; NaN where either is constant."""
    r = np.full(truth.shape[1], np.nan)
    for gene in range(truth.shape[1]):
        is_finite = np.isfinite(truth[:, gene]) & np.isfinite(prediction[:, gene])
        if is_finite.any():
            (r[gene],) = pearson_per_gene(prediction[is_finite, gene, None], truth[is_finite, gene, None])
    return r


def title_with_pearson(text: str, r: float) -> str:
    """Append a correlation to a panel title."""
    return f"{text}, r = {r:.2f}" if np.isfinite(r) else f"{text}, r undefined"


def plot_pcc_histogram(
    pearson_by_model: Mapping[str, Float[Array, " n_genes"]], path: Path | None = None
) -> Figure:
    """Draw one histogram of Pearson r per model; the first is filled, dashed lines mark the means.

    Genes with an undefined correlation (NaN) are left out; the legend gives their number. With `path`, write a PNG.
    """
    with house_style():
        figure = new_figure(8.6, 4.2)
        axes = figure.add_subplot()
        low, high = 0.0, 0.2  # zero is always visible
        for number, (model, pearson) in enumerate(pearson_by_model.items()):
            defined = pearson[np.isfinite(pearson)]
            colour = COLOURS[number % len(COLOURS)]
            mean = f"mean {defined.mean():.3f}" if defined.size else "no gene defined"
            undefined = f", {pearson.size - defined.size} undefined" if defined.size < pearson.size else ""
            label = f"{model}\n{mean} ({defined.size} genes{undefined})"
            if number == 0:
                axes.hist(defined, bins=_BINS, color=colour, alpha=0.35)
            width = 1.8 if number == 0 else 1.3
            axes.hist(defined, bins=_BINS, histtype="step", color=colour, linewidth=width, label=label)
            if defined.size:
                axes.axvline(float(defined.mean()), color=colour, linestyle="--", linewidth=1.2)
            low, high = float(defined.min(initial=low)), float(defined.max(initial=high))
        axes.set_xlim(max(-1.0, math.floor(low * 10) / 10 - 0.1), min(1.0, math.ceil(high * 10) / 10 + 0.1))
        axes.set(xlabel="Pearson r of a gene over the spots", ylabel="genes")
        axes.set_title("Prediction of each gene; dashed: mean", loc="left")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return save_figure(figure, path)


def plot_scatter(
    truth: Float[Array, "n_spots n_genes"],
    prediction: Float[Array, "n_spots n_genes"],
    genes: Sequence[str],
    path: Path | None = None,
) -> Figure:
    """Draw measured against predicted expression (log1p CP10k) of the nine genes with the highest Pearson r.

    Both axes have the same range, and the dashed line is ``predicted = measured``. Spots with a non-finite value are left out.
    Genes with an undefined correlation come last. With `path`, write a PNG.
    """
    r = pearson_of_finite(truth, prediction)
    best = np.argsort(-r, kind="stable")[:_N_SCATTERS]  # NaN sorts last
    n_columns = max(1, math.ceil(math.sqrt(len(best))))
    n_rows = max(1, -(-len(best) // n_columns))
    with house_style():
        figure = new_figure(2.6 * n_columns + 0.4, 2.5 * n_rows + 0.5)
        grid = figure.subplots(n_rows, n_columns, squeeze=False)
        for axes, gene in zip(grid.flat[: len(best)], best, strict=True):
            axes.set_title(title_with_pearson(genes[gene], float(r[gene])))
            _scatter_gene(axes, truth[:, gene], prediction[:, gene])
        for axes in grid.flat[len(best) :]:
            axes.set_axis_off()
        figure.supxlabel(f"measured ({UNIT})", fontsize=10)
        figure.supylabel(f"predicted ({UNIT})", fontsize=10)
    return save_figure(figure, path)


def _scatter_gene(axes: Axes, truth: Float[Array, " n_spots"], prediction: Float[Array, " n_spots"]) -> None:
    """Draw one gene as points, or as their density if there are many."""
    is_finite = np.isfinite(truth) & np.isfinite(prediction)
    x, y = truth[is_finite], prediction[is_finite]
    values = np.concatenate([x, y, *([[0.0, 1.0]] if not x.size else [])])
    margin = 0.04 * (np.ptp(values) or 1.0)
    low, high = float(values.min() - margin), float(values.max() + margin)
    if x.size > _MAX_POINTS:
        look: dict[str, Any] = {"bins": "log", "mincnt": 1, "cmap": MAP_COLOURS, "linewidths": 0}
        axes.hexbin(x, y, gridsize=40, extent=(low, high, low, high), **look)
    else:
        axes.scatter(x, y, s=9, alpha=0.5, color=COLOURS[0], linewidths=0)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.locator_params(nbins=4)
    axes.axline((0, 0), slope=1, color="0.35", linestyle="--", linewidth=1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MethodScore:
    """One method of a score chart.

    Attributes
    ----------
    name, is_reference
        Its name, and whether it is a baseline (drawn in grey).
    mean, lower, upper
        Score and its interval; NaN ends are not drawn.
    points
        Score of each test section.
    """

    name: str
    is_reference: bool
    mean: float
    lower: float
    upper: float
    points: tuple[float, ...]


def plot_score_chart(
    methods: Sequence[MethodScore], path: Path | None = None, *, label: str, title: str
) -> Figure:
    """Draw one line per method, from top to bottom: mean, interval, and a circle per test section.

    A method with an undefined mean keeps its line, marked "undefined". With `path`, write a PNG.
    """
    with house_style():
        figure = new_figure(8.0, 1.1 + 0.27 * max(len(methods), 1))
        axes = figure.add_subplot()
        for row, method in enumerate(methods):
            colour = REFERENCE_COLOUR if method.is_reference else COLOURS[1]
            axes.plot([method.lower, method.upper], [row, row], color=colour, linewidth=2.2, alpha=0.6)
            rows = np.full(len(method.points), row)
            axes.scatter(method.points, rows, s=12, facecolors="none", edgecolors=colour, linewidths=0.8)
            axes.scatter([method.mean], [row], s=26, color=colour, zorder=3)
            if not np.isfinite(method.mean):
                beside: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
                axes.annotate("undefined", (0.0, row), fontsize=8, color="0.4", **beside)
        axes.set_yticks(range(len(methods)), [method.name for method in methods])
        axes.set_ylim(len(methods) - 0.4, -0.6)
        axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
        axes.grid(axis="x", color="0.92", linewidth=0.8)
        axes.set_xlabel(label)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return save_figure(figure, path)
