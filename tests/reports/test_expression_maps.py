"""Maps draw every value at its spot, on one scale per gene, over the right part of the slide."""

import dataclasses
from pathlib import Path

import anndata
import matplotlib
import numpy as np
import pytest
from matplotlib.collections import EllipseCollection
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib_scalebar.scalebar import ScaleBar
from PIL import Image

from spam.reports import GivenEntries, SectionView, plot_cluster_maps, plot_expression_maps
from spam.reports.figures import MISSING_COLOUR

GENES = ("ERBB2", "CD3E")
N_SPOTS = 37


@pytest.fixture
def view() -> SectionView:
    rng = np.random.default_rng(3)
    return SectionView(
        name="C6",
        xy_px=rng.uniform(200, 1100, (N_SPOTS, 2)),
        mpp=0.7,
        overview=rng.integers(0, 256, (61, 71, 3), dtype=np.uint8),
        overview_scale=0.05,
    )


@pytest.fixture
def expression() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    truth = rng.gamma(2.0, 1.0, (N_SPOTS, 2))
    return truth, 0.5 * truth + rng.normal(1.0, 0.3, (N_SPOTS, 2))


def layers_of(figure: Figure) -> list[EllipseCollection]:
    """The layers of spots, in the order of the panels."""
    return [
        artist for axes in figure.axes for artist in axes.collections if isinstance(artist, EllipseCollection)
    ]


def test_panels_draw_their_values_on_the_scale_of_both(view, expression) -> None:
    truth, prediction = expression
    figure = plot_expression_maps(view, GENES, prediction, truth)
    r = [np.corrcoef(truth[:, gene], prediction[:, gene])[0, 1] for gene in (0, 1)]
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [
        "H&E",  # once
        *("ERBB2, measured", f"predicted, r = {r[0]:.2f}"),
        *("CD3E, measured", f"predicted, r = {r[1]:.2f}"),
    ]
    assert [axes.get_ylabel() for axes in figure.axes].count("log1p CP10k") == 2  # one colour bar per gene
    layers = layers_of(figure)
    shown = [truth[:, 0], prediction[:, 0], truth[:, 1], prediction[:, 1]]
    for i, (layer, values) in enumerate(zip(layers, shown, strict=True)):
        np.testing.assert_array_equal(layer.get_array(), values)
        np.testing.assert_array_equal(layer.get_offsets(), view.xy_px)
        both = np.concatenate([truth[:, i // 2], prediction[:, i // 2]])
        np.testing.assert_allclose(layer.get_clim(), np.percentile(both, [2, 98]))


def test_given_entries_are_outlined_and_the_correlation_is_that_of_the_scored_ones(view, expression) -> None:
    truth, prediction = expression
    is_given, is_scored = np.zeros((2, N_SPOTS, 2), dtype=bool)
    is_given[[2, 3, 29], 0] = True
    is_scored[4:23, 0] = True
    given = GivenEntries(is_given=is_given, is_scored=is_scored, note="outlined: given")
    figure = plot_expression_maps(view, GENES, prediction, truth, given)
    measured, predicted, *others = layers_of(figure)
    for layer in (measured, predicted):
        assert np.flatnonzero(layer.get_linewidths()).tolist() == [2, 3, 29]
    assert not any(np.any(layer.get_linewidths()) for layer in others)
    r = np.corrcoef(truth[4:23, 0], prediction[4:23, 0])[0, 1]
    titles = [axes.get_title() for axes in figure.axes if axes.get_title().startswith("predicted")]
    assert titles == [f"predicted, r = {r:.2f}", "predicted, not scored"]
    assert figure.get_suptitle() == "Section C6\noutlined: given"


def test_overview_lies_under_the_spots_in_slide_pixels(view, expression) -> None:
    panel = plot_expression_maps(view, GENES[:1], expression[1][:, :1]).axes[0]
    (picture,) = panel.images
    left, right, bottom, top = np.array(picture.get_extent()) * 0.05  # in overview pixels
    np.testing.assert_allclose([left, right, bottom, top], np.round([left, right, bottom, top]), atol=1e-9)
    shown = np.asarray(picture.get_array())
    rows, columns = slice(round(top), round(bottom)), slice(round(left), round(right))
    np.testing.assert_array_equal(shown, view.overview[rows, columns])
    # The picture covers the whole panel up to half an overview pixel, and y runs downwards as on the slide.
    (low, high), (lower, upper) = panel.get_xlim(), panel.get_ylim()
    assert lower > upper
    assert left / 0.05 <= low + 20
    assert right / 0.05 >= high - 20
    assert bottom / 0.05 >= lower - 20
    assert top / 0.05 <= upper + 20


def test_without_overview_and_truth_one_panel_is_left(view, expression) -> None:
    figure = plot_expression_maps(SectionView(name="C6", xy_px=view.xy_px), GENES[:1], expression[1][:, :1])
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["ERBB2, predicted"]
    assert not figure.axes[0].images
    assert not figure.axes[0].artists  # no scale bar without µm per pixel


@pytest.mark.parametrize(
    ("extent_px", "mpp", "um", "start"),
    [(300.0, 0.7, 125, "125 "), (3000.0, 0.7, 1000, "1 mm"), (20.0, 0.2, 2, "2 ")],
)
def test_scale_bar_has_a_round_length_in_um(extent_px: float, mpp: float, um: float, start: str) -> None:
    view = SectionView(name="a", xy_px=np.array([[0.0, 0.0], [extent_px, 0.0]]), mpp=mpp)
    figure = plot_expression_maps(view, ("A",), np.array([[1.0], [2.0]]))
    figure.canvas.draw()
    (bar,) = [artist for artist in figure.axes[0].artists if isinstance(artist, ScaleBar)]
    assert bar.info.scale_text.startswith(start)
    assert bar.info.length_px * mpp == pytest.approx(um)


def test_unlike_spots_are_ringed_and_counted_in_a_warning(view, expression) -> None:
    for n_unlike, words in ((5, "5 of 37 spots (14%)"), (20, "WARNING: 20 of 37 spots (54%)")):
        marked = dataclasses.replace(view, is_unlike=np.arange(N_SPOTS) < n_unlike)
        figure = plot_expression_maps(marked, GENES, expression[1], choice="genes of --gene")
        clusters = plot_cluster_maps(marked, {"clusters": np.full(N_SPOTS, "0", dtype=object)})
        for drawn, n_rings in (
            (figure, 3),
            (clusters, 2),
        ):  # on the H&E, and on each prediction or clustering
            rings = [one for one in layers_of(drawn) if one.get_array() is None]
            assert len(rings) == n_rings
            for ring in rings:
                np.testing.assert_array_equal(ring.get_offsets(), view.xy_px[:n_unlike])
            assert drawn.get_supxlabel().startswith(words)
            assert ("Do not rely" in drawn.get_supxlabel()) == (n_unlike == 20)
        assert figure.get_suptitle() == "Section C6\ngenes of --gene"
    assert plot_expression_maps(view, GENES, expression[1]).get_supxlabel() == ""


def test_spots_of_a_whole_slide_stay_apart() -> None:
    """100,000 spots in a square: the panel grows until a spot has more than two pixels."""
    side = 316
    xy_px = np.stack(np.divmod(np.arange(side**2), side), axis=1) * 100.0
    figure = plot_expression_maps(SectionView(name="a", xy_px=xy_px), ("A",), np.ones((side**2, 1)))
    figure.canvas.draw()
    panel = figure.axes[0]
    pitch = np.diff(panel.transData.transform([[0.0, 0.0], [100.0, 0.0]])[:, 0])
    assert 2.0 < pitch < 3.0
    assert figure.get_figwidth() < 10


def test_spots_that_cannot_be_told_apart_become_means() -> None:
    """130,000 cells at random places: the means of a slow loop; empty cells are transparent, cells without a value grey."""
    n = 130_000
    rng = np.random.default_rng(5)
    xy_px = rng.uniform(0, 5000, (n, 2))
    values = rng.normal(2, 1, (n, 1)) + (xy_px[:, :1] > 2500)
    values[xy_px[:, 1] < 100] = np.nan
    view = SectionView(
        name="a",
        xy_px=xy_px,
        overview=np.full((50, 50, 3), 255, dtype=np.uint8),
        overview_scale=0.01,
        is_unlike=xy_px[:, 1] > 4000,
    )
    figure = plot_expression_maps(view, ("A",), values)
    assert not layers_of(figure)
    he, panel = figure.axes[:2]
    image = panel.images[-1]
    left, right, bottom, top = image.get_extent()
    n_down, n_across = image.get_array().shape[:2]
    width, height = (right - left) / n_across, (bottom - top) / n_down
    assert width == pytest.approx(height)
    colours = matplotlib.colormaps["viridis"]
    norm = Normalize(*np.nanpercentile(values, [2, 98]))
    for row, column in rng.integers(0, (n_down, n_across), (300, 2)):
        x, y = (xy_px - (left, top)).T
        inside = (
            (x >= column * width)
            & (x < (column + 1) * width)
            & (y >= row * height)
            & (y < (row + 1) * height)
        )
        found = values[inside, 0]
        wanted = (0.0, 0.0, 0.0, 0.0)
        if len(found):
            is_grey = np.isnan(found).all()
            wanted = to_rgba(MISSING_COLOUR) if is_grey else colours(norm(np.nanmean(found)))
        np.testing.assert_allclose(image.get_array()[row, column], wanted, atol=1e-6)
    marked = he.images[-1].get_array()[..., 3] > 0
    spots = np.zeros((n_down, n_across), dtype=bool)
    spots[tuple(((xy_px - (left, top)) // width).astype(int)[:, ::-1].T)] = True
    np.testing.assert_array_equal(marked[int(0.82 * n_down) :], spots[int(0.82 * n_down) :])
    assert not marked[: int(0.79 * n_down)].any()
    assert "coloured in the H&E" in figure.get_supxlabel()
    clusters = plot_cluster_maps(view, {"clusters": np.full(n, "0", dtype=object)})
    assert [len(axes.collections) for axes in clusters.axes[:2]] == [
        0,
        1,
    ]  # the discs of the clusters, no rings


def test_a_tall_section_is_drawn_like_a_wide_one() -> None:
    """100 x 4,000 spots: discs would be smaller than a pixel in either direction."""
    xy_px = np.stack(np.divmod(np.arange(400_000), 4000), axis=1) * 10.0
    for xy in (xy_px, xy_px[:, ::-1]):
        figure = plot_expression_maps(SectionView(name="a", xy_px=xy), ("A",), np.ones((len(xy), 1)))
        assert not layers_of(figure)
        assert figure.axes[0].images[-1].get_array()[..., 3].all()  # no cell without a spot


def test_clusters_are_drawn_in_the_order_of_their_numbers(view) -> None:
    groups = np.array([*("10", "9", "", "2"), *["10"] * (N_SPOTS - 4)], dtype=object)
    figure = plot_cluster_maps(view, {"clusters": groups, "label": np.full(N_SPOTS, "stroma", dtype=object)})
    first, second = layers_of(figure)
    assert first.get_array().filled(np.nan)[:4].tolist() == pytest.approx([2, 1, np.nan, 0], nan_ok=True)
    assert not np.ma.getmaskarray(second.get_array()).any()
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert [[text.get_text() for text in one.get_texts()] for one in legends] == [
        ["2", "9", "10"],
        ["stroma"],
    ]
    drawn = first.to_rgba(first.get_array())[[3, 1, 0]]
    for handle, colour in zip(legends[0].legend_handles, drawn, strict=True):
        np.testing.assert_allclose(handle.get_color(), colour)


def test_missing_values_are_grey_and_affect_neither_scale_nor_correlation(view, expression) -> None:
    truth, prediction = (values.copy() for values in expression)
    prediction[3, 0], prediction[5, 0], truth[7, 0] = np.nan, np.inf, np.nan
    figure = plot_expression_maps(view, GENES[:1], prediction[:, :1], truth[:, :1])
    measured, predicted = layers_of(figure)
    assert np.flatnonzero(np.ma.getmaskarray(predicted.get_array())).tolist() == [3, 5]
    assert np.flatnonzero(np.ma.getmaskarray(measured.get_array())).tolist() == [7]
    both = np.concatenate([truth[:, 0], prediction[:, 0]])
    np.testing.assert_allclose(predicted.get_clim(), np.percentile(both[np.isfinite(both)], [2, 98]))
    np.testing.assert_allclose(predicted.to_rgba(predicted.get_array())[[3, 5], :3], 0xB3 / 255, atol=1e-6)
    kept = np.delete(np.arange(N_SPOTS), [3, 5, 7])
    assert (
        figure.axes[2].get_title()
        == f"predicted, r = {np.corrcoef(truth[kept, 0], prediction[kept, 0])[0, 1]:.2f}"
    )


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([2.0] * 5, (1.5, 2.5)),
        ([np.nan] * 5, (0.0, 1.0)),
        ([0.0] * 60 + [3.0], (0.0, 3.0)),  # both percentiles are 0: the range is shown
    ],
)
def test_constant_empty_and_rare_genes_get_a_scale(values: list[float], limits: tuple[float, float]) -> None:
    rows = np.arange(len(values))
    view = SectionView(name="a", xy_px=np.stack([rows * 10.0, rows % 7 * 10.0], axis=1))
    (layer,) = layers_of(plot_expression_maps(view, ("A",), np.array(values)[:, None]))
    assert layer.get_clim() == limits


def test_spots_fill_four_fifths_of_their_distance_in_the_picture() -> None:
    # The share of coloured pixels between the panel's edges gives the size of the two discs.
    view = SectionView(name="a", xy_px=np.array([[0.0, 0.0], [1000.0, 0.0], [1000.0, 1000.0]]))
    figure = plot_expression_maps(view, ("A",), np.ones((3, 1)))
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    box = figure.axes[0].get_window_extent()
    height = pixels.shape[0]
    panel = pixels[height - round(box.y1) : height - round(box.y0), round(box.x0) : round(box.x1)]
    coloured = (panel.max(axis=2) - panel.min(axis=2) > 40).mean()
    assert coloured == pytest.approx(3 * np.pi * 400**2 / (1000 + 2 * 800 * 1.25) ** 2, rel=0.05)


@pytest.mark.parametrize("xy_px", [np.zeros((1, 2)), np.zeros((3, 2))])
def test_spots_without_a_distance_are_written_as_png(
    xy_px: np.ndarray, view: SectionView, tmp_path: Path
) -> None:
    one = SectionView(name="a", xy_px=xy_px + 500, mpp=0.5, overview=view.overview, overview_scale=0.05)
    values = np.ones((len(xy_px), 1))
    plot_expression_maps(one, ("A",), values, values + 1, path=tmp_path / "new" / "maps.png")
    with Image.open(tmp_path / "new" / "maps.png") as picture:
        # Three square panels of 3.1 in with room for the bar and the titles, at 150 dpi.
        assert picture.size == (round((3.1 * 3 + 1.1) * 150), round((3.1 + 0.3 + 0.5) * 150))


def test_spots_outside_the_overview_are_drawn(view, expression) -> None:
    far = SectionView(name="a", xy_px=view.xy_px + 9000, overview=view.overview, overview_scale=0.05)
    assert len(layers_of(plot_expression_maps(far, GENES, expression[1]))) == 2


def test_real_section_is_drawn(shared_data: Path) -> None:
    adata = anndata.read_h5ad(shared_data / "her2st" / "C6.h5ad")
    counts = adata[:, ["ERBB2", "CD74"]].X.toarray()
    expression = np.log1p(1e4 * counts / np.asarray(adata.X.sum(axis=1)))
    view = SectionView(name="C6", xy_px=np.asarray(adata.obsm["spatial"], dtype=float), mpp=0.689)
    figure = plot_expression_maps(view, ("ERBB2", "CD74"), expression)
    for layer, values in zip(layers_of(figure), expression.T, strict=True):
        np.testing.assert_array_equal(layer.get_array(), values)
