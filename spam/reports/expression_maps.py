"""Maps of expression and of clusters over the H&E image."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import EllipseCollection
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib_scalebar.scalebar import ScaleBar
from scipy.spatial import cKDTree

from spam.typing import Array, Bool, Float, Int64, Shaped, UInt8

from .figures import (
    MAP_COLOURS,
    MISSING_COLOUR,
    UNLIKE_COLOUR,
    WARNING_COLOUR,
    house_style,
    new_figure,
    save_figure,
)
from .score_charts import UNIT, pearson_of_finite, title_with_pearson

SEEN = "the checkpoint was trained on this section"
"""What maps say of a training section, whose correlations do not describe new tissue."""
_PANEL_IN = 3.1  # least width of a panel in inches
_MOST_PANEL_IN = 6.0
_MOST_ASPECT = 2.5  # height of a panel over its width
_LEAST_PITCH_IN = 0.017  # distance of two spots, 2.5 px: below it the spots of a whole slide run together
_CELL_PER_PITCH = 1.25  # side of the cells of means: none is empty between spots of a regular grid
_MOST_CELLS = 450  # side by side: two pixels each in the largest panel
_PERCENTILES = (2, 98)  # a single outlying spot must not determine the colour scale
_DIAMETER_PER_PITCH = 0.8  # spots are drawn almost touching
_MARGIN = 0.75  # in spot diameters, around the outermost spots
_N_DISTINCT = 20  # colours that can be told apart
_MOST_LETTERS = 24  # of the name of a gene or a cluster


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)  # without slots, for cached_property
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
    is_unlike
        Spots whose image is unlike the training sections; None: not checked.
    """

    name: str
    xy_px: Float[Array, "n_spots 2"]
    mpp: float | None = None
    overview: UInt8[Array, "height width 3"] | None = None
    overview_scale: float = 1.0
    is_unlike: Bool[Array, " n_spots"] | None = None

    @property
    def unlike(self) -> Int64[Array, " n_unlike"]:
        """Numbers of the spots that are unlike the training sections."""
        return np.flatnonzero([] if self.is_unlike is None else self.is_unlike)

    @cached_property
    def diameter_px(self) -> float:
        """Diameter to draw the spots with: 0.8 of the median distance between neighbours; 100 without neighbours."""
        distance, _ = cKDTree(self.xy_px).query(self.xy_px, k=[2])  # infinite for a single spot
        diameter_px = _DIAMETER_PER_PITCH * float(np.median(distance))
        return diameter_px if 0 < diameter_px < np.inf else 100.0

    @property
    def n_across(self) -> float:
        """Number of spots side by side in the width of a map, which is narrower than its panel in a tall section."""
        left, right, top, bottom = self.bounds_px
        width = max(right - left, (bottom - top) / _MOST_ASPECT)
        return width / self.diameter_px * _DIAMETER_PER_PITCH

    @property
    def is_rasterised(self) -> bool:
        """Whether the spots (above 120,000 in a square) are too small for discs: maps are images of means."""
        return self.n_across * _LEAST_PITCH_IN > _MOST_PANEL_IN

    @cached_property
    def bounds_px(self) -> tuple[float, float, float, float]:
        """Left, right, top and bottom of the region around the spots."""
        margin = self.diameter_px * (0.5 + _MARGIN)
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
    *,
    choice: str = "",
) -> Figure:
    """Draw the H&E once, and measured and predicted expression (log1p CP10k) of each gene over it.

    Both maps of a gene share one colour scale, from the 2nd to the 98th percentile of all their values. Spots without a
    finite value are grey, given entries have a dark outline, spots unlike the training sections a ring, and the correlation in
    the title is that of the scored entries. Without an overview there is no H&E, without `truth` no measured panel. `choice` says
    how the genes were chosen. With `path`, write a PNG.

    Spots that are too small to be told apart become an image whose cells are means over a few spots, unless entries are given. The
    cells of unlike spots are then coloured in the H&E in place of the rings.
    """
    layers = {"predicted": prediction} if truth is None else {"measured": truth, "predicted": prediction}
    colours = matplotlib.colormaps[MAP_COLOURS].with_extremes(bad=MISSING_COLOUR)
    with house_style():
        notes = [choice, "" if given is None else given.note]
        figure, groups = _lay_out(view, len(genes), len(layers), notes)
        for column, (gene, row) in enumerate(zip(genes, groups, strict=True)):
            norm = Normalize(
                *colour_limits(np.concatenate([values[:, column] for values in layers.values()]))
            )
            outline_pt = 0.0 if given is None else given.is_given[:, column].astype(float)
            for axes, (name, values) in zip(row, layers.items(), strict=True):
                if view.is_rasterised and given is None:
                    _draw_image(axes, view, values[:, column], norm, colours)
                else:
                    _draw_spots(axes, view, values[:, column], norm, colours, outline_pt)
                axes.set_title(name)
            if truth is not None:
                is_scored = np.s_[:] if given is None else given.is_scored[:, column]
                row[-1].set_title(_scored_title(truth[is_scored, column], prediction[is_scored, column]))
            row[0].set_title(f"{_short(gene)}, {row[0].get_title()}")
            _draw_rings(row[-1], view)
            bar = ScalarMappable(norm, colours)
            figure.colorbar(bar, ax=list(row), label=UNIT, shrink=0.8, pad=0.02, extend="both")
    return save_figure(figure, path)


def plot_cluster_maps(
    view: SectionView, groups: Mapping[str, Shaped[Array, " n_spots"]], path: Path | None = None
) -> Figure:
    """Draw the H&E and a panel for each grouping of the spots, by its title; spots of the group ``""`` are grey.

    Colours follow the order of the names within a panel. Spots unlike the training sections have a ring. With `path`, write a PNG.
    """
    with house_style():
        figure, rows = _lay_out(view, len(groups), 1, [])
        for (title, members), (axes,) in zip(groups.items(), rows, strict=True):
            names = [name for name in np.unique(members).tolist() if name]
            # Numbers of clusters in the order of numbers.
            names.sort(key=lambda name: (not name.isdigit(), name.zfill(9) if name.isdigit() else name))
            number = {name: float(i) for i, name in enumerate(names)}
            values = np.array([number.get(name, np.nan) for name in members.tolist()])
            n = max(len(names), 1)
            order = [*range(0, _N_DISTINCT, 2), *range(1, _N_DISTINCT, 2)]  # the strong colours first
            few = ListedColormap(matplotlib.colormaps["tab20"](order)[:n])
            many = matplotlib.colormaps["turbo"].resampled(n)
            colours = (few if n <= _N_DISTINCT else many).with_extremes(bad=MISSING_COLOUR)
            norm = Normalize(-0.5, n - 0.5)
            _draw_spots(axes, view, values, norm, colours, 0.0)
            _draw_rings(axes, view)
            axes.set_title(title)
            marks = [
                Line2D([], [], linestyle="", marker="o", color=colours(norm(i)), label=_short(name))
                for i, name in enumerate(names)
            ]
            place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "handletextpad": 0.1}
            axes.legend(handles=marks, ncols=math.ceil(len(marks) / _N_DISTINCT) or 1, **place)
    return save_figure(figure, path)


def _lay_out(
    view: SectionView, n_groups: int, n_panels: int, notes: Sequence[str]
) -> tuple[Figure, list[list[Axes]]]:
    """Make a figure with the H&E at the left and a group of panels for each gene, with the tissue, titles and warnings."""
    left, right, top, bottom = view.bounds_px
    aspect = min(max((bottom - top) / (right - left), 0.4), _MOST_ASPECT)
    panel_in = min(max(_PANEL_IN, view.n_across * _LEAST_PITCH_IN), _MOST_PANEL_IN)
    notes = [note for note in notes if note]
    per_row = max(math.ceil(math.sqrt(n_groups / 2)), 1)
    n_rows = max(math.ceil(n_groups / per_row), 1)
    n_image = 0 if view.overview is None else min(n_rows, 2)  # the H&E is that many panels wide and high
    n_columns = n_image + per_row * n_panels
    height_in = (panel_in * aspect + 0.3) * n_rows + 0.5 + 0.2 * len(notes)
    figure = new_figure(panel_in * n_columns + 1.1 * per_row, height_in)
    figure.suptitle("\n".join([f"Section {view.name}", *notes]))
    if len(view.unlike):
        warning = _warning(view)
        weight = "bold" if warning.startswith("WARNING") else "normal"
        figure.supxlabel(warning, fontweight=weight, color=WARNING_COLOUR, fontsize=11)
    grid = figure.add_gridspec(n_rows, n_columns)
    whole = [figure.add_subplot(grid[:n_image, :n_image])] if n_image else []
    panels = [
        [figure.add_subplot(grid[row, n_image + group * n_panels + panel]) for panel in range(n_panels)]
        for row, group in [divmod(number, per_row) for number in range(n_groups)]
    ]
    for axes in [*whole, *(axes for row in panels for axes in row)]:
        axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="equal")
        axes.spines[:].set_visible(False)
        draw_overview(axes, view, view.bounds_px, alpha=1.0 if axes in whole else 0.45)
    for axes in whole:
        axes.set_title("H&E")
        _draw_rings(axes, view)
        if view.is_rasterised and view.is_unlike is not None:
            clear = ListedColormap([UNLIKE_COLOUR]).with_extremes(bad=(0.0, 0.0, 0.0, 0.0))
            _draw_image(axes, view, np.where(view.is_unlike, 1.0, np.nan), Normalize(0, 1), clear)
    add_scale_bar([*whole, *panels[0]][0], view.mpp)
    return figure, panels


def _warning(view: SectionView) -> str:
    n_spots, n_unlike = len(view.xy_px), len(view.unlike)
    mark = " (ringed)"
    if view.is_rasterised:
        mark = "" if view.overview is None else " (coloured in the H&E)"
    share = f"{n_unlike} of {n_spots} spots ({n_unlike / n_spots:.0%})"
    found = f"{share} look unlike the training sections{mark}"
    return f"WARNING: {found}. Do not rely on this prediction." if 2 * n_unlike > n_spots else f"{found}."


def _short(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 1]}…"


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
    view: SectionView,
    values: Float[Array, " n_spots"],
    norm: Normalize,
    colours: Colormap,
    outline_pt: float | Float[Array, " n_spots"],
) -> None:
    look = {"norm": norm, "cmap": colours, "linewidths": outline_pt, "edgecolors": "0.1", "zorder": 1}
    is_crowded = view.n_across * _LEAST_PITCH_IN > _PANEL_IN
    # Discs of two pixels, smoothed at their edges, would have paler colours than the scale.
    diameter_px = view.diameter_px * (1.2 / _DIAMETER_PER_PITCH if is_crowded else 1.0)
    spots = draw_discs(axes, view.xy_px, diameter_px, **look, antialiaseds=not is_crowded)
    spots.set_array(np.ma.masked_invalid(values))


def _draw_image(
    axes: Axes, view: SectionView, values: Float[Array, " n_spots"], norm: Normalize, colours: Colormap
) -> None:
    """Draw the mean of the finite values in each cell of a grid; cells without a spot are transparent."""
    left, right, top, bottom = view.bounds_px
    pitch = view.diameter_px / _DIAMETER_PER_PITCH
    side = pitch * max(_CELL_PER_PITCH, view.n_across / _MOST_CELLS)
    n_across, n_down = math.ceil((right - left) / side), math.ceil((bottom - top) / side)
    across, down = ((view.xy_px - (left, top)) // side).astype(np.int64).T
    cells, is_finite = down * n_across + across, np.isfinite(values)
    n_spots, n = (np.bincount(found, minlength=n_down * n_across) for found in (cells, cells[is_finite]))
    total = np.bincount(cells[is_finite], values[is_finite], n_down * n_across)
    image = colours(norm(np.ma.masked_array(total, n == 0) / np.maximum(n, 1)))
    image[n_spots == 0] = 0
    extent = (left, left + n_across * side, top + n_down * side, top)
    axes.imshow(image.reshape(n_down, n_across, 4), extent=extent, zorder=1)


def _draw_rings(axes: Axes, view: SectionView) -> None:
    """Ring the spots that are unlike the training sections, thinly where spots are small; not where spots are an image."""
    if len(view.unlike) and not view.is_rasterised:
        width_pt = 72 * axes.get_window_extent().width / axes.figure.dpi
        diameter_pt = width_pt * view.diameter_px / abs(np.diff(axes.get_xlim())[0])
        look = {"facecolors": "none", "edgecolors": UNLIKE_COLOUR, "linewidths": min(0.2 * diameter_pt, 1.4)}
        draw_discs(axes, view.xy_px[view.unlike], view.diameter_px, **look, zorder=2)


def draw_discs(axes: Axes, xy_px: Float[Array, "n 2"], diameter_px: float, **look: Any) -> EllipseCollection:
    """Draw discs of a diameter in the unit of the axes."""
    place: dict[str, Any] = {"units": "xy", "offsets": xy_px, "offset_transform": axes.transData}
    discs = EllipseCollection(diameter_px, diameter_px, 0, **place, **look)
    axes.add_collection(discs, autolim=False)
    return discs


def add_scale_bar(axes: Axes, mpp: float | None) -> None:
    """Draw a bar of a round length, at most a fifth of the panel; none if the scale is unknown."""
    if mpp is None:
        return
    look = {"location": "lower left", "box_alpha": 0.75, "width_fraction": 0.012}
    axes.add_artist(ScaleBar(mpp, "um", **look))
