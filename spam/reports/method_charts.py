"""How methods compare: their scores with intervals, and their scores against what they cost."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .style import COLOURS, house_style, new_figure, save_figure

__all__ = ["MethodScore", "build_cost_chart", "build_score_chart", "plot_cost_chart", "plot_score_chart"]

_REFERENCE_COLOUR = "#7F7F7F"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MethodScore:
    """One method of a chart.

    Attributes
    ----------
    name, is_reference
        Its name, and whether it is a baseline, which is drawn in grey.
    mean, lower, upper
        Score and its interval; NaN ends are not drawn.
    points
        Score of each test section, drawn as small points.
    seconds
        Cost of one fit.
    """

    name: str
    is_reference: bool
    mean: float
    lower: float
    upper: float
    points: tuple[float, ...]
    seconds: float


def build_score_chart(methods: Sequence[MethodScore], *, label: str, title: str) -> Figure:
    """Draw one line per method from top to bottom: its mean, its interval, and a small point per test section.

    Methods without a defined mean keep their line, with a word on it.
    """
    with house_style():
        figure = new_figure(8.0, 1.1 + 0.27 * max(len(methods), 1))
        axes = figure.add_subplot()
        rows = np.arange(len(methods))
        for row, method in zip(rows, methods, strict=True):
            colour = _colour(method)
            axes.plot([method.lower, method.upper], [row, row], color=colour, linewidth=2.2, alpha=0.6)
            axes.scatter(
                method.points,
                np.full(len(method.points), row),
                s=12,
                facecolors="none",
                edgecolors=colour,
                linewidths=0.8,
            )
            axes.scatter([method.mean], [row], s=26, color=colour, zorder=3)
            if not np.isfinite(method.mean):
                axes.annotate(
                    "undefined",
                    (0.0, row),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                    color="0.4",
                )
        axes.set_yticks(rows, [method.name for method in methods])
        axes.set_ylim(len(methods) - 0.4, -0.6)
        axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
        axes.grid(axis="x", color="0.92", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel(label)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure


def build_cost_chart(methods: Sequence[MethodScore], *, label: str, title: str) -> Figure:
    """Draw each method's mean score against its seconds, numbered, with the names beside the chart.

    Methods without a defined mean are left out.
    """
    drawn = [method for method in methods if np.isfinite(method.mean)]
    with house_style():
        figure = new_figure(8.6, max(4.2, 0.8 + 0.21 * len(drawn)))
        axes = figure.add_subplot()
        for number, method in enumerate(drawn, start=1):
            seconds = max(
                method.seconds, 1e-3
            )  # a logarithm needs a floor; no fit is worth telling below a millisecond
            axes.scatter(
                [seconds],
                [method.mean],
                s=24,
                color=_colour(method),
                label=f"{number}  {method.name}",
                zorder=3,
            )
            axes.annotate(
                str(number),
                (seconds, method.mean),
                xytext=(4, 3),
                textcoords="offset points",
                fontsize=8,
                color="0.25",
            )
        axes.set_xscale("log")
        axes.grid(color="0.92", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("seconds for one fit and prediction")
        axes.set_ylabel(label)
        axes.set_title(title, loc="left")
        if drawn:
            axes.legend(
                loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize=8, handletextpad=0.2, labelspacing=0.35
            )
    return figure


def plot_score_chart(methods: Sequence[MethodScore], path: Path, *, label: str, title: str) -> Path:
    """Write what `build_score_chart` draws as PNG to `path`."""
    return save_figure(build_score_chart(methods, label=label, title=title), path)


def plot_cost_chart(methods: Sequence[MethodScore], path: Path, *, label: str, title: str) -> Path:
    """Write what `build_cost_chart` draws as PNG to `path`."""
    return save_figure(build_cost_chart(methods, label=label, title=title), path)


def _colour(method: MethodScore) -> str:
    return _REFERENCE_COLOUR if method.is_reference else COLOURS[1]
