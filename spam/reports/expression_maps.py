"""Maps of expression over the H&E image."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import EllipseCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from scipy.spatial import cKDTree

from spam.typing import Array, Bool, Float, UInt8

from .figures import MAP_COLOURS, MISSING_COLOUR, house_style, new_figure, save_figure
from .score_charts import UNIT, pearson_of_finite, title_with_pearson

_PANEL_IN = 3.1  # width of a panel in inches
_PERCENTILES = (2, 98)  # a single outlying spot must not determine the colour scale
_DIAMETER_PER_PITCH = 0.8  # spots are drawn almost touching
_MARGIN = 0.75  # in spot diameters, around the outermost spots
_BAR_STEPS_UM = np.array([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SectionView:
    """The section that maps are drawn on.

    Attributes
    ----------
    name
        Name of the section, for the title.
    xy_px
        Spot centres in full-resolution pixels (x = column, y = row).
    mpp
        µm per full-resolution pixel; None: no scale bar.
    overview
        Small image of the slide; None: maps on white.
    overview_scale
        Overview pixels per full-resolution pixel.
    """

    name: str
    xy_px: Float[Array, "n_spots 2"]
    mpp: float | None = None
    overview: UInt8[Array, "height width 3"] | None = None
    overview_scale: float = 1.0

    def spot_diameter_px(self) -> float:
        """Diameter to draw the spots with: 0.8 of the median distance between neighbours; 100 without neighbours."""
        distance, _ = cKDTree(self.xy_px).query(self.xy_px, k=[2])  # infinite for a single spot
        diameter_px = _DIAMETER_PER_PITCH * float(np.median(distance))
        return diameter_px if 0 < diameter_px < np.inf else 100.0

    def bounds_px(self, diameter_px: float) -> tuple[float, float, float, float]:
        """Left, right, top and bottom of the region around the spots."""
        margin = diameter_px * (0.5 + _MARGIN)
        (left, top), (right, bottom) = self.xy_px.min(axis=0) - margin, self.xy_px.max(axis=0) + margin
        return float(left), float(right), float(top), float(bottom)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GivenEntries:
    """Measured entries that the prediction used, and entries that are scored; some are neither.

    Attributes
    ----------
    is_given, is_scored
        By spot and drawn gene.
    note
        Second line of the title.
    """

    is_given: Bool[Array, "n_spots n_genes"]
    is_scored: Bool[Array, "n_spots n_genes"]
    note: str


def plot_expression_maps(
    view: SectionView,
    genes: Sequence[str],
    prediction: Float[Array, "n_spots n_genes"],
    truth: Float[Array, "n_spots n_genes"] | None = None,
    given: GivenEntries | None = None,
    path: Path | None = None,
) -> Figure:
    """Draw a row of panels for each gene: the H&E, measured and predicted expression over it (log1p CP10k).

    Both maps of a gene share one colour scale, from the 2nd to the 98th percentile of all their values. Spots without a
    finite value are grey, given entries have a dark outline, and the correlation in the title is that of the scored
    entries. Without an overview there is no H&E, without `truth` no measured panel. With `path`, write a PNG.
    """
    diameter_px = view.spot_diameter_px()
    bounds_px = view.bounds_px(diameter_px)
    left, right, top, bottom = bounds_px
    aspect = min(max((bottom - top) / (right - left), 0.4), 2.5)
    layers = {"predicted": prediction} if truth is None else {"measured": truth, "predicted": prediction}
    n_columns = len(layers) + (view.overview is not None)
    size_in = _PANEL_IN * n_columns + 1.1, (_PANEL_IN * aspect + 0.3) * len(genes) + 0.5
    colours = matplotlib.colormaps[MAP_COLOURS].with_extremes(bad=MISSING_COLOUR)
    with house_style():
        figure = new_figure(*size_in, layout="compressed")
        figure.suptitle(f"Section {view.name}" + ("" if given is None else f"\n{given.note}"))
        for column, (gene, row) in enumerate(
            zip(genes, figure.subplots(len(genes), n_columns, squeeze=False), strict=True)
        ):
            for axes in row:
                axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="equal")
                axes.spines[:].set_visible(False)
            row[0].set_ylabel(gene, fontsize=11, fontweight="bold")
            if view.overview is not None:
                draw_overview(row[0], view, bounds_px, alpha=1.0)
                row[0].set_title("H&E")
            norm = Normalize(
                *colour_limits(np.concatenate([values[:, column] for values in layers.values()]))
            )
            outline_pt = 0.0 if given is None else given.is_given[:, column].astype(float)
            for axes, (name, values) in zip(row[-len(layers) :], layers.items(), strict=True):
                draw_overview(axes, view, bounds_px, alpha=0.45)
                _draw_spots(axes, view.xy_px, diameter_px, values[:, column], norm, colours, outline_pt)
                axes.set_title(name)
            if truth is not None:
                is_scored = np.s_[:] if given is None else given.is_scored[:, column]
                row[-1].set_title(_scored_title(truth[is_scored, column], prediction[is_scored, column]))
            if view.mpp is not None:
                add_scale_bar(row[0], right - left, view.mpp)
            bar = ScalarMappable(norm, colours)
            figure.colorbar(bar, ax=list(row), label=UNIT, shrink=0.8, pad=0.02, extend="both")
    return save_figure(figure, path)


def _scored_title(truth: Float[Array, " n_scored"], prediction: Float[Array, " n_scored"]) -> str:
    if not len(truth):
        return "predicted, not scored"
    return title_with_pearson("predicted", float(pearson_of_finite(truth[:, None], prediction[:, None])[0]))


def colour_limits(values: Float[Array, " n"]) -> tuple[float, float]:
    """Values at the ends of the colour scale, from the finite values; the scale of a constant gene is one unit wide."""
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, _PERCENTILES)
    if low == high:  # a rare gene: show its whole range
        low, high = values.min(), values.max()
    if low == high:
        low, high = low - 0.5, high + 0.5
    return float(low), float(high)


def draw_overview(
    axes: Axes, view: SectionView, bounds_px: tuple[float, float, float, float], *, alpha: float
) -> None:
    """Draw the visible part of the overview under a panel, in full-resolution pixels."""
    if view.overview is None:
        return
    left, right, top, bottom = (max(round(edge * view.overview_scale), 0) for edge in bounds_px)
    crop = view.overview[top : bottom + 1, left : right + 1]
    if crop.size:  # empty if the spots lie outside the image
        height, width = crop.shape[:2]
        extent = np.array([left, left + width, top + height, top]) / view.overview_scale
        axes.imshow(crop, extent=extent.tolist(), alpha=alpha, interpolation="antialiased", zorder=0)


def _draw_spots(
    axes: Axes,
    xy_px: Float[Array, "n_spots 2"],
    diameter_px: float,
    values: Float[Array, " n_spots"],
    norm: Normalize,
    colours: Colormap,
    outline_pt: float | Float[Array, " n_spots"],
) -> None:
    """Draw each spot as a disc in slide coordinates, coloured by its value."""
    place: dict[str, Any] = {"units": "xy", "offsets": xy_px, "offset_transform": axes.transData}
    look: dict[str, Any] = {
        "cmap": colours,
        "norm": norm,
        "linewidths": outline_pt,
        "edgecolors": "0.1",
        "zorder": 1,
    }
    spots = EllipseCollection(diameter_px, diameter_px, 0, **place, **look)
    spots.set_array(np.ma.masked_invalid(values))
    axes.add_collection(spots, autolim=False)


def add_scale_bar(axes: Axes, width_px: float, mpp: float) -> None:
    """Draw a bar of a round length, about a fifth of the panel."""
    length_um = _BAR_STEPS_UM[np.argmin(np.abs(np.log(_BAR_STEPS_UM / (width_px * mpp / 5))))]
    label = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um} µm"
    style = {"pad": 0.3, "sep": 3, "borderpad": 0.2, "size_vertical": width_px / 150}
    bar = AnchoredSizeBar(axes.transData, length_um / mpp, label, "lower left", **style)
    bar.patch.set(alpha=0.75, linewidth=0)
    axes.add_artist(bar)
