"""The look that all plots share, and how they are saved."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["COLOURS", "MAP_COLOURS", "MISSING_COLOUR", "house_style", "new_figure", "save_figure"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours of series, told apart by colour-blind readers (Okabe and Ito, 2008)."""

MAP_COLOURS = "viridis"
MISSING_COLOUR = "#B3B3B3"

_DPI = 150
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same plot on every machine
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "figure.titlesize": 13,
    "figure.facecolor": "white",
}


def house_style() -> AbstractContextManager[None]:
    """Open the block in which a figure is built: artists take their style when they are made."""
    context: AbstractContextManager[None] = matplotlib.rc_context(_STYLE)
    return context


def new_figure(
    width_in: float, height_in: float, *, layout: Literal["constrained", "compressed"] = "constrained"
) -> Figure:
    """Make an empty figure that belongs to no window and no global state."""
    figure = Figure(figsize=(width_in, height_in), dpi=_DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all, without a word on the machine that made it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    with house_style():
        figure.savefig(partial, format="png", dpi=_DPI, metadata={"Software": None})
    partial.replace(path)
    return path
