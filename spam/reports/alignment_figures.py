"""Spots over the H&E image: the whole slide, full-resolution zooms, and the scores of their placements."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from spam.typing import Array, Float, UInt8

from .expression_maps import SectionView, add_scale_bar, draw_overview
from .figures import COLOURS, REFERENCE_COLOUR, house_style, new_figure, save_figure

_PANEL_IN = 3.1


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
    n_zooms = max(len(one.zooms) for one in placements)
    n_rows = len(placements)
    assert view.overview is not None
    height, width = np.array(view.overview.shape[:2]) / view.overview_scale
    aspect = min(max(height / width, 0.5), 1.6)
    with house_style():
        figure = new_figure(_PANEL_IN * (2 + n_zooms), 2 * _PANEL_IN * aspect * n_rows * 0.72 + 2.9)
        figure.suptitle(f"{view.name}: {verdict}", wrap=True)
        *rows, last = figure.subfigures(n_rows + 1, 1, height_ratios=[2 * aspect * 0.72] * n_rows + [0.8])
        for row, one in zip(np.atleast_1d(rows), placements, strict=True):
            axes = row.subplots(1, 1 + n_zooms, width_ratios=[2] + [1] * n_zooms)
            row.supylabel(one.title, fontsize=11, fontweight="bold")
            draw_overview(axes[0], view, (0.0, width, 0.0, height), alpha=1.0)
            _draw_rings(axes[0], one.xy_px, diameter_px, COLOURS[0], width_pt=0.8)
            axes[0].set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect="equal")
            if view.mpp is not None:
                add_scale_bar(axes[0], width, view.mpp)
            for number, (zoom, panel) in enumerate(zip(one.zooms, axes[1:], strict=False), start=1):
                left, right, top, bottom = zoom.edges_px
                panel.imshow(zoom.image, extent=(left, right, bottom, top), interpolation="antialiased")
                _draw_rings(panel, one.xy_px, diameter_px, COLOURS[0], width_pt=1.6)
                panel.set(
                    xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], title=f"zoom {number}"
                )
                if view.mpp is not None:
                    add_scale_bar(panel, right - left, view.mpp)
                box = ([left, right, right, left, left], [top, top, bottom, bottom, top])
                axes[0].plot(*box, color="black", linewidth=1.2)
                axes[0].annotate(str(number), (right, top), fontweight="bold", ha="right", va="bottom")
        bottom = last.subplots(1, 2 if nuclei else 1, width_ratios=[4, 1] if nuclei else None)
        _draw_scores(bottom[0] if nuclei else bottom, scores)
        if nuclei:
            _draw_nuclei(bottom[1], nuclei)
    return save_figure(figure, path)


def _draw_rings(
    axes: Axes, xy_px: Float[Array, "n 2"], diameter_px: float, colour: str, *, width_pt: float
) -> None:
    axes.add_collection(
        EllipseCollection(
            diameter_px,
            diameter_px,
            0,
            units="xy",
            offsets=xy_px,
            offset_transform=axes.transData,
            facecolors="none",
            edgecolors=colour,
            linewidths=width_pt,
        ),
        autolim=False,
    )


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
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _draw_nuclei(axes: Axes, nuclei: DrawnNuclei) -> None:
    half = len(nuclei.mean) / 2
    axes.imshow(nuclei.mean, cmap="magma", extent=(-half, half, half, -half))
    axes.plot(0, 0, "+", color="white", markersize=12)
    if nuclei.is_clear:
        axes.plot(*nuclei.offset_um, "o", color=COLOURS[5], markersize=10, fillstyle="none")
    axes.set(title="mean picture around a cell", xlabel="µm")
