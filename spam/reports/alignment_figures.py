"""Spots over the H&E image: the whole slide, full-resolution zooms, and the scores of their placements."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spam.typing import Array, Float, UInt8

from .expression_maps import SectionView, add_scale_bar, draw_discs, draw_overview
from .figures import COLOURS, REFERENCE_COLOUR, house_style, new_figure, save_figure

_PANEL_IN = 3.1
_MANY = 800  # spots, whose rings would hide the tissue
_RING_COLOUR = "#00A0FF"  # far from the colours of H&E


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Zoom:
    """A part of the slide: its pixels, and its left, right, top and bottom edges in full-resolution pixels."""

    image: UInt8[Array, "height width 3"]
    edges_px: tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrawnPlacement:
    """Spots at some places of the slide, with zooms around some of them."""

    title: str
    xy_px: Float[Array, "n_spots 2"]
    zooms: Sequence[Zoom]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrawnNuclei:
    """Mean optical density around cells (1 µm per pixel), and the place of its peak (right, down)."""

    mean: Float[Array, "px px"]
    offset_um: tuple[float, float]
    is_clear: bool


def plot_alignment(
    view: SectionView,
    verdict: str,
    placements: Sequence[DrawnPlacement],
    scores: Mapping[str, tuple[float, float]],
    *,
    diameter_px: float,
    nuclei: DrawnNuclei | None = None,
    path: Path | None = None,
) -> Figure:
    """Draw a row for each placement (the whole slide, then its zooms), and the scores of all placements below.

    `view` gives the picture of the slide; `scores` the share of tissue and the explained expression by placement.
    """
    assert view.overview is not None
    height, width = np.array(view.overview.shape[:2]) / view.overview_scale
    slide_in = _PANEL_IN * min(max(width / height, 0.5), 2.0)
    n_zooms = max(len(one.zooms) for one in placements)
    size_in = slide_in + _PANEL_IN * n_zooms + 0.6, (_PANEL_IN + 0.3) * len(placements) + 3.0
    with house_style():
        figure = new_figure(*size_in)
        figure.suptitle("\n".join(textwrap.wrap(f"{view.name}: {verdict}", int(size_in[0] * 9))))
        heights = [_PANEL_IN + 0.3] * len(placements) + [2.4]
        parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)
        *rows, last = parts[:, 0]
        for row, one in zip(rows, placements, strict=True):
            axes = row.subplots(1, 1 + n_zooms, width_ratios=[slide_in] + [_PANEL_IN] * n_zooms)
            axes[0].set_title(one.title, fontweight="bold")
            draw_overview(axes[0], view, (0.0, width, 0.0, height), alpha=1.0)
            _draw_rings(axes[0], one.xy_px, diameter_px, width_pt=0.8 if len(one.xy_px) < _MANY else 0.25)
            axes[0].set(xlim=(0, width), ylim=(height, 0), aspect="equal")
            used = axes[: 1 + len(one.zooms)]  # another placement may have more zooms
            for number, (zoom, panel) in enumerate(zip(one.zooms, used[1:], strict=True), start=1):
                left, right, top, bottom = zoom.edges_px
                panel.imshow(zoom.image, extent=(left, right, bottom, top), interpolation="antialiased")
                _draw_rings(panel, one.xy_px, diameter_px, width_pt=1.6)
                panel.set(xlim=(left, right), ylim=(bottom, top), title=f"{number}")
                axes[0].plot(*_box(zoom.edges_px), color="black", linewidth=1.2)
                corner = min(right, width), max(top, 0)  # on the slide, where a zoom reaches over its edge
                axes[0].annotate(str(number), corner, fontweight="bold", ha="right", va="top")
            for panel in used:
                add_scale_bar(panel, view.mpp)
            for panel in axes:
                panel.set(xticks=[], yticks=[])
                panel.spines[:].set_visible(False)
            for panel in axes[1 + len(one.zooms) :]:
                panel.set_visible(False)
        below = last.subplots(1, 2, width_ratios=[3, 1])
        _draw_scores(below[0], scores)
        if nuclei is None:
            below[1].set_visible(False)
        else:
            _draw_nuclei(below[1], nuclei)
    return save_figure(figure, path)


def _box(edges_px: tuple[float, float, float, float]) -> tuple[list[float], list[float]]:
    left, right, top, bottom = edges_px
    return [left, right, right, left, left], [top, top, bottom, bottom, top]


def _draw_rings(axes: Axes, xy_px: Float[Array, "n 2"], diameter_px: float, *, width_pt: float) -> None:
    draw_discs(axes, xy_px, diameter_px, facecolors="none", edgecolors=_RING_COLOUR, linewidths=width_pt)


def _draw_scores(axes: Axes, scores: Mapping[str, tuple[float, float]]) -> None:
    """Draw the share of tissue and, on top of it, the explained expression of each placement."""
    names, places = list(scores), np.arange(len(scores))
    tissue, fit = np.array([scores[name] for name in names]).T
    axes.barh(places, tissue, color=REFERENCE_COLOUR, label="share of tissue at the spots")
    if fit.any():
        label = "expression explained by the colours there"
        axes.barh(places, np.maximum(fit, 0), left=tissue, color=COLOURS[1], label=label)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set(xlabel="score of the placement", xlim=(0, None))
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2)


def _draw_nuclei(axes: Axes, nuclei: DrawnNuclei) -> None:
    half = len(nuclei.mean) / 2
    axes.imshow(nuclei.mean, cmap="magma", extent=(-half, half, half, -half))
    axes.plot(0, 0, "+", color="white", markersize=12)
    if nuclei.is_clear:
        axes.plot(*nuclei.offset_um, "o", color=COLOURS[5], markersize=10, fillstyle="none")
    axes.set(title="mean picture around a cell", xlabel="µm")
