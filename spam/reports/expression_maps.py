"""Maps of expression over the H&E image."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import EllipseCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from spam.errors import ConfigError
from spam.typing import Array, Bool, Float

from .given_entries import GivenEntries
from .scatter import UNIT
from .scores import score_genes, score_title
from .section_view import SectionView
from .style import MAP_COLOURS, MISSING_COLOUR, house_style, new_figure, save_figure

__all__ = ["build_expression_maps", "plot_expression_maps"]

_PANEL_IN = 3.1  # width of a panel in inches
_PERCENTILES = (2, 98)  # a single outlying spot must not wash out the map
_OUTLINE_PT, _OUTLINE_COLOUR = 1.0, "0.1"
_BAR_STEPS_UM = np.array([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000])


def build_expression_maps(
    view: SectionView,
    genes: Sequence[str],
    prediction: Float[Array, "n_spots n_genes"],
    truth: Float[Array, "n_spots n_genes"] | None = None,
    given: GivenEntries | None = None,
) -> Figure:
    """Draw a row of panels for each gene: the H&E, the measured and the predicted expression over it.

    Measured and predicted expression of a gene (log1p CP10k) share one colour scale, from the 2nd to the 98th
    percentile of both together. Spots without a finite value are grey. The H&E is left out without an
    overview, the measured panel without `truth`. Spots are drawn at their true size, those that were given with a dark
    outline; the correlation in the title is that of the entries that are scored.

    Raises
    ------
    ConfigError
        If `genes` is empty.
    """
    if not genes:
        message = f"there is no gene to draw on section {view.name!r}; name some, e.g. --plot-genes ERBB2"
        raise ConfigError(message)
    left, right, top, bottom = view.bounds_px()
    aspect = min(max((bottom - top) / (right - left), 0.4), 2.5)
    layers = {"measured": truth, "predicted": prediction}
    panels = [name for name, values in layers.items() if values is not None]
    n_columns = len(panels) + (view.overview is not None)
    with house_style():
        figure = new_figure(
            _PANEL_IN * n_columns + 1.1, (_PANEL_IN * aspect + 0.3) * len(genes) + 0.5, layout="compressed"
        )
        figure.suptitle(f"Section {view.name}" + ("" if given is None else f"\n{given.note}"))
        grid = figure.subplots(len(genes), n_columns, squeeze=False)
        for row, gene in enumerate(genes):
            shown = {name: values[:, row] for name, values in layers.items() if values is not None}
            norm = _shared_scale(shown.values())
            for axes in grid[row]:
                _frame(axes, view)
            grid[row, 0].set_ylabel(gene, fontsize=11, fontweight="bold")
            if view.overview is not None:
                _draw_overview(grid[row, 0], view, alpha=1.0)
                grid[row, 0].set_title("H&E")
            is_given = np.zeros(len(prediction), dtype=bool) if given is None else given.is_given[:, row]
            for axes, (name, values) in zip(grid[row, -len(panels) :], shown.items(), strict=True):
                _draw_overview(axes, view, alpha=0.45)
                _draw_spots(axes, view, values, norm, is_given)
                axes.set_title(name)
            if truth is not None:
                is_scored = np.ones(len(prediction), dtype=bool) if given is None else given.is_scored[:, row]
                grid[row, -1].set_title(
                    _scored_title("predicted", truth[:, row], prediction[:, row], is_scored)
                )
            _add_scale_bar(grid[row, 0], view)
            figure.colorbar(
                ScalarMappable(norm, _colours()),
                ax=list(grid[row]),
                label=UNIT,
                shrink=0.8,
                pad=0.02,
                extend="both",
            )
    return figure


def plot_expression_maps(
    view: SectionView,
    genes: Sequence[str],
    prediction: Float[Array, "n_spots n_genes"],
    path: Path,
    *,
    truth: Float[Array, "n_spots n_genes"] | None = None,
    given: GivenEntries | None = None,
) -> Path:
    """Write what `build_expression_maps` draws as PNG to `path`."""
    return save_figure(build_expression_maps(view, genes, prediction, truth, given), path)


def _scored_title(
    text: str,
    truth: Float[Array, " n_spots"],
    prediction: Float[Array, " n_spots"],
    is_scored: Bool[Array, " n_spots"],
) -> str:
    """Add the correlation over the scored entries to a title, or that there are none."""
    if not is_scored.any():
        return f"{text}, not scored"
    (r,) = score_genes(truth[is_scored, None], prediction[is_scored, None])
    return score_title(text, float(r))


def _colours() -> matplotlib.colors.Colormap:
    """Take the colour map of expression, with grey for what is missing."""
    return matplotlib.colormaps[MAP_COLOURS].with_extremes(bad=MISSING_COLOUR)


def _shared_scale(layers: Iterable[Float[Array, " n_spots"]]) -> Normalize:
    """Find the colour limits for all panels of a gene; a constant gene gets a scale one unit wide."""
    values = np.concatenate([np.ravel(layer) for layer in layers])
    values = values[np.isfinite(values)]
    if not values.size:
        return Normalize(0.0, 1.0)
    low, high = np.percentile(values, _PERCENTILES)
    if not high > low:
        low, high = values.min(), values.max()
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return Normalize(float(low), float(high))


def _frame(axes: Axes, view: SectionView) -> None:
    """Show the spots' part of the slide, y downwards as in the image, without ticks."""
    left, right, top, bottom = view.bounds_px()
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_visible(False)


def _draw_overview(axes: Axes, view: SectionView, *, alpha: float) -> None:
    """Lay the overview under a panel, in full-resolution pixels; fainter where spots lie on it."""
    if view.overview is None:
        return
    scale = view.overview_scale
    height, width = view.overview.shape[:2]
    left, right, top, bottom = (round(edge * scale) for edge in view.bounds_px())
    # What lies outside the panel is not seen, but would cost time.
    left, right = max(left, 0), min(right + 1, width)
    top, bottom = max(top, 0), min(bottom + 1, height)
    if left >= right or top >= bottom:
        return
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(
        view.overview[top:bottom, left:right],
        extent=(left / scale, right / scale, bottom / scale, top / scale),
        alpha=alpha,
        interpolation="antialiased",
        zorder=0,
    )
    axes.set(xlim=limits[0], ylim=limits[1])


def _draw_spots(
    axes: Axes,
    view: SectionView,
    values: Float[Array, " n_spots"],
    norm: Normalize,
    is_given: Bool[Array, " n_spots"],
) -> None:
    """Draw each spot as a disc of its true size, coloured by its value; one that was given has an outline."""
    diameter = view.drawn_diameter_px()
    spots = EllipseCollection(
        diameter,
        diameter,
        0,
        units="xy",
        offsets=view.xy_px,
        offset_transform=axes.transData,
        cmap=_colours(),
        norm=norm,
        linewidths=np.where(is_given, _OUTLINE_PT, 0.0),
        edgecolors=_OUTLINE_COLOUR,
        zorder=1,
    )
    spots.set_array(np.ma.masked_invalid(values))
    axes.add_collection(spots, autolim=False)


def _add_scale_bar(axes: Axes, view: SectionView) -> None:
    """Draw a bar of a round length, about a fifth of the panel."""
    if view.mpp is None:
        return
    left, right, _, _ = view.bounds_px()
    wanted_um = (right - left) * view.mpp / 5
    length_um = _BAR_STEPS_UM[np.argmin(np.abs(np.log(_BAR_STEPS_UM / wanted_um)))]
    label = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um} µm"
    length_px = length_um / view.mpp
    bar = AnchoredSizeBar(
        axes.transData,
        length_px,
        label,
        "lower left",
        pad=0.3,
        sep=3,
        borderpad=0.2,
        size_vertical=(right - left) / 150,
        frameon=True,
    )
    bar.patch.set(alpha=0.75, linewidth=0)
    axes.add_artist(bar)
