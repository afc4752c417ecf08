"""How well the genes are predicted: the distribution of their Pearson correlations."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from spam.typing import Array, Float

from .style import COLOURS, house_style, new_figure, save_figure

__all__ = ["build_pcc_histogram", "plot_pcc_histogram"]

_BINS: list[float] = np.linspace(-1, 1, 41).tolist()


def build_pcc_histogram(pearson_by_model: Mapping[str, Float[Array, " n_genes"]]) -> Figure:
    """Draw one histogram per model over the same bins; the first is filled, dashed lines mark the means.

    Genes without a defined correlation (NaN: constant in truth or prediction) are left out, and the legend
    says how many.
    """
    with house_style():
        figure = new_figure(8.6, 4.2)
        axes = figure.add_subplot()
        finite = [np.empty(0)]
        for number, (model, pearson) in enumerate(pearson_by_model.items()):
            defined = pearson[np.isfinite(pearson)]
            finite.append(defined)
            colour = COLOURS[number % len(COLOURS)]
            if number == 0:
                axes.hist(defined, bins=_BINS, color=colour, alpha=0.35)
            axes.hist(
                defined,
                bins=_BINS,
                histtype="step",
                color=colour,
                linewidth=1.8 if number == 0 else 1.3,
                label=_label(model, defined.size, pearson.size, defined),
            )
            if defined.size:
                axes.axvline(float(defined.mean()), color=colour, linestyle="--", linewidth=1.2)
        low, high = _limits(np.concatenate(finite))
        axes.set_xlim(low, high)
        axes.set_xlabel("Pearson r of a gene over the spots")
        axes.set_ylabel("genes")
        axes.set_title("Prediction of each gene; dashed: mean", loc="left")
        if pearson_by_model:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def plot_pcc_histogram(pearson_by_model: Mapping[str, Float[Array, " n_genes"]], path: Path) -> Path:
    """Write what `build_pcc_histogram` draws as PNG to `path`."""
    return save_figure(build_pcc_histogram(pearson_by_model), path)


def _label(model: str, n_defined: int, n_genes: int, defined: Float[Array, " n_defined"]) -> str:
    """Say the model's mean and how many genes it is over."""
    mean = f"mean {defined.mean():.3f}" if n_defined else "no gene defined"
    undefined = f", {n_genes - n_defined} undefined" if n_defined < n_genes else ""
    return f"{model}\n{mean} ({n_defined} genes{undefined})"


def _limits(defined: Float[Array, " n_defined"]) -> tuple[float, float]:
    """Cut empty bins off both sides, but keep zero in sight."""
    low = min(float(defined.min(initial=0.0)), 0.0)
    high = max(float(defined.max(initial=0.0)), 0.2)
    return max(-1.0, np.floor(low * 10) / 10 - 0.1), min(1.0, np.ceil(high * 10) / 10 + 0.1)
