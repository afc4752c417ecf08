"""The style that all figures share, and how they are saved."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spam.atomic import replacing

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours of series, distinguishable with colour blindness (Okabe and Ito, 2008)."""

MAP_COLOURS = "viridis"
MISSING_COLOUR = "#B3B3B3"
REFERENCE_COLOUR = "#7F7F7F"
UNLIKE_COLOUR, WARNING_COLOUR = "#D55E00", "#A81E00"

_DPI = 150
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same figure on every machine
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "figure.titlesize": 13,
    "figure.facecolor": "white",
}


def house_style() -> AbstractContextManager[None]:
    """Return the context in which a figure is built; user settings of matplotlib have no effect inside."""
    context: AbstractContextManager[None] = matplotlib.rc_context(_STYLE)
    return context


def new_figure(
    width_in: float, height_in: float, *, layout: Literal["constrained", "compressed"] = "constrained"
) -> Figure:
    """Make an empty figure outside pyplot's global state."""
    figure = Figure(figsize=(width_in, height_in), dpi=_DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path | None) -> Figure:
    """Write a figure as PNG in one step (no path: nothing is written) and return it; equal figures give equal bytes."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with house_style(), replacing(path) as partial:
            figure.savefig(partial, format="png", dpi=_DPI, metadata={"Software": None})
    return figure
