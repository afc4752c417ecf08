from pathlib import Path

import anndata
import numpy as np
import pytest
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnchoredOffsetbox
from PIL import Image

from spam.errors import ConfigError
from spam.reports import GivenEntries, SectionView, build_expression_maps, plot_expression_maps

GENES = ("ERBB2", "CD3E")
N_SPOTS = 37


@pytest.fixture
def view() -> SectionView:
    rng = np.random.default_rng(3)
    return SectionView(
        name="C6",
        xy_px=rng.uniform(200, 1100, (N_SPOTS, 2)),
        mpp=0.7,
        spot_diameter_px=79.0,
        overview=rng.integers(0, 256, (61, 71, 3), dtype=np.uint8),
        overview_scale=0.05,
    )


@pytest.fixture
def expression() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    truth = rng.gamma(2.0, 1.0, (N_SPOTS, 2))
    return truth, 0.5 * truth + rng.normal(1.0, 0.3, (N_SPOTS, 2))


def spots(figure: Figure) -> list[EllipseCollection]:
    """The layers of spots, in the order of the panels."""
    return [
        artist for axes in figure.axes for artist in axes.collections if isinstance(artist, EllipseCollection)
    ]


def test_each_panel_draws_its_values_where_the_spots_are(view, expression) -> None:
    truth, prediction = expression
    layers = spots(build_expression_maps(view, GENES, prediction, truth))
    assert len(layers) == 4
    for layer, values in zip(
        layers, (truth[:, 0], prediction[:, 0], truth[:, 1], prediction[:, 1]), strict=True
    ):
        np.testing.assert_array_equal(layer.get_array(), values)
        np.testing.assert_array_equal(layer.get_offsets(), view.xy_px)


def test_measured_and_predicted_share_the_percentiles_of_both(view, expression) -> None:
    truth, prediction = expression
    layers = spots(build_expression_maps(view, GENES, prediction, truth))
    for gene in (0, 1):
        both = np.concatenate([truth[:, gene], prediction[:, gene]])
        for layer in layers[2 * gene : 2 * gene + 2]:
            np.testing.assert_allclose(layer.get_clim(), np.percentile(both, [2, 98]))


def test_panels_and_titles(view, expression) -> None:
    truth, prediction = expression
    figure = build_expression_maps(view, GENES, prediction, truth)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    r = [np.corrcoef(truth[:, gene], prediction[:, gene])[0, 1] for gene in (0, 1)]
    assert titles == [
        *("H&E", "measured", f"predicted, r = {r[0]:.2f}"),
        *("H&E", "measured", f"predicted, r = {r[1]:.2f}"),
    ]
    assert figure.get_suptitle() == "Section C6"
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert [label for label in labels if label in GENES] == list(GENES)
    assert labels.count("log1p CP10k") == 2  # one colour bar a gene


def test_given_entries_are_outlined_and_the_correlation_is_that_of_the_scored_ones(view, expression) -> None:
    truth, prediction = expression
    is_given, is_scored = np.zeros((2, N_SPOTS, 2), dtype=bool)
    is_given[[2, 3, 29], 0] = True
    is_scored[4:23, 0] = True
    given = GivenEntries(is_given=is_given, is_scored=is_scored, note="outlined: given")
    figure = build_expression_maps(view, GENES, prediction, truth, given)
    measured, predicted, *others = spots(figure)
    for layer in (measured, predicted):
        assert np.flatnonzero(layer.get_linewidths()).tolist() == [2, 3, 29]
    assert not any(np.any(layer.get_linewidths()) for layer in others)
    r = np.corrcoef(truth[4:23, 0], prediction[4:23, 0])[0, 1]
    titles = [axes.get_title() for axes in figure.axes if axes.get_title().startswith("predicted")]
    assert titles == [f"predicted, r = {r:.2f}", "predicted, not scored"]
    assert figure.get_suptitle() == "Section C6\noutlined: given"


def test_overview_lies_under_the_spots_in_slide_pixels(view, expression) -> None:
    figure = build_expression_maps(view, GENES[:1], expression[1][:, :1])
    panel = figure.axes[0]
    (picture,) = panel.images
    left, right, bottom, top = picture.get_extent()
    assert (left, right, bottom, top) == pytest.approx(
        tuple(np.round(np.array([left, right, bottom, top]) * 0.05) / 0.05)
    )
    shown = np.asarray(picture.get_array())
    columns, rows = round(left * 0.05), round(top * 0.05)
    np.testing.assert_array_equal(
        shown, view.overview[rows : rows + shown.shape[0], columns : columns + shown.shape[1]]
    )
    # The picture covers the whole panel, and y runs downwards as on the slide.
    (low, high), (lower, upper) = panel.get_xlim(), panel.get_ylim()
    assert left <= low + 20  # half an overview pixel
    assert right >= high - 20
    assert lower > upper
    assert bottom >= lower - 20
    assert top <= upper + 20


def test_without_overview_and_truth_one_panel_is_left(view, expression) -> None:
    bare = SectionView(name="C6", xy_px=view.xy_px)
    figure = build_expression_maps(bare, GENES[:1], expression[1][:, :1])
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["predicted"]
    assert not any(axes.images for axes in figure.axes if axes.get_title())
    assert not figure.axes[0].artists  # no scale bar without µm


@pytest.mark.parametrize(
    ("extent_px", "mpp", "label"), [(900.0, 0.7, "100 µm"), (9000.0, 0.7, "1 mm"), (40.0, 0.2, "2 µm")]
)
def test_scale_bar_has_a_round_length_in_um(extent_px: float, mpp: float, label: str) -> None:
    view = SectionView(
        name="a",
        xy_px=np.array([[0.0, 0.0], [extent_px, extent_px]]),
        mpp=mpp,
        spot_diameter_px=extent_px / 50,
    )
    figure = build_expression_maps(view, ("A",), np.array([[1.0], [2.0]]))
    (bar,) = [artist for artist in figure.axes[0].artists if isinstance(artist, AnchoredOffsetbox)]
    assert bar.txt_label.get_text() == label
    (rectangle,) = bar.size_bar.get_children()
    number, unit = label.split()
    assert rectangle.get_width() * mpp == pytest.approx(float(number) * {"µm": 1, "mm": 1000}[unit])


def test_missing_values_are_grey_and_do_not_touch_the_scale(view, expression) -> None:
    truth, prediction = (values.copy() for values in expression)
    prediction[3, 0], prediction[5, 0], truth[7, 0] = np.nan, np.inf, np.nan
    figure = build_expression_maps(view, GENES[:1], prediction[:, :1], truth[:, :1])
    measured, predicted = spots(figure)
    assert np.flatnonzero(np.ma.getmaskarray(predicted.get_array())).tolist() == [3, 5]
    assert np.flatnonzero(np.ma.getmaskarray(measured.get_array())).tolist() == [7]
    both = np.concatenate([truth[:, 0], prediction[:, 0]])
    np.testing.assert_allclose(predicted.get_clim(), np.percentile(both[np.isfinite(both)], [2, 98]))
    colours = predicted.to_rgba(predicted.get_array())
    np.testing.assert_allclose(colours[[3, 5], :3], 0xB3 / 255, atol=1e-6)
    assert [axes.get_title() for axes in figure.axes][2] == "predicted, r undefined"


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([2.0] * 5, (1.5, 2.5)),
        ([np.nan] * 5, (0.0, 1.0)),
        ([0.0] * 60 + [3.0], (0.0, 3.0)),  # both percentiles are 0: the range is shown
    ],
)
def test_constant_empty_and_rare_genes_get_a_scale(values: list[float], limits: tuple[float, float]) -> None:
    n = len(values)
    xy_px = np.stack([np.arange(n) * 10.0, np.arange(n) % 7 * 10.0], axis=1)
    figure = build_expression_maps(SectionView(name="a", xy_px=xy_px), ("A",), np.array(values)[:, None])
    assert spots(figure)[0].get_clim() == limits


def test_spots_have_their_true_size_in_the_picture(tmp_path: Path) -> None:
    # Two discs of 200 px, 1000 px apart: the share of coloured pixels between the panel's edges tells their size.
    view = SectionView(name="a", xy_px=np.array([[0.0, 0.0], [1000.0, 1000.0]]), spot_diameter_px=200.0)
    figure = build_expression_maps(view, ("A",), np.array([[1.0], [1.0]]))
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    box = figure.axes[0].get_window_extent()
    height = pixels.shape[0]
    panel = pixels[height - round(box.y1) : height - round(box.y0), round(box.x0) : round(box.x1)]
    coloured = (panel.max(axis=2) - panel.min(axis=2) > 40).mean()
    side = 1000 + 2 * 200 * 1.25
    assert coloured == pytest.approx(2 * np.pi * 100**2 / side**2, rel=0.05)


def test_diameter_falls_back_on_the_distance_of_the_spots() -> None:
    grid = np.stack(np.meshgrid(np.arange(5) * 30.0, np.arange(7) * 30.0), axis=-1).reshape(-1, 2)
    assert SectionView(name="a", xy_px=grid).drawn_diameter_px() == pytest.approx(24.0)
    assert SectionView(name="a", xy_px=grid[:1]).drawn_diameter_px() > 0
    assert SectionView(name="a", xy_px=np.zeros((3, 2))).drawn_diameter_px() > 0
    assert SectionView(name="a", xy_px=grid, spot_diameter_px=11.0).drawn_diameter_px() == 11.0


def test_one_spot_is_written_as_png(tmp_path: Path, view: SectionView) -> None:
    one = SectionView(name="a", xy_px=view.xy_px[:1], mpp=0.5, overview=view.overview, overview_scale=0.05)
    path = plot_expression_maps(
        one, ("A",), np.array([[1.0]]), tmp_path / "new" / "maps.png", truth=np.array([[2.0]])
    )
    assert path == tmp_path / "new" / "maps.png"
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        # Three square panels of 3.1 in with room for the bar and the titles, at 150 dpi.
        assert picture.size == (round((3.1 * 3 + 1.1) * 150), round((3.1 + 0.3 + 0.5) * 150))
        assert "Software" not in picture.info
    assert [p.name for p in path.parent.iterdir()] == ["maps.png"]


def test_no_gene_is_refused(view: SectionView) -> None:
    with pytest.raises(ConfigError, match=r"no gene to draw on section 'C6'.*--plot-genes"):
        build_expression_maps(view, (), np.empty((N_SPOTS, 0)))


def test_real_section_is_drawn(shared_data: Path, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(shared_data / "her2st" / "C6.h5ad")
    counts = adata[:, ["ERBB2", "CD74"]].X.toarray()
    expression = np.log1p(1e4 * counts / np.asarray(adata.X.sum(axis=1)))
    view = SectionView(
        name="C6",
        xy_px=np.asarray(adata.obsm["spatial"], dtype=float),
        mpp=0.689,
        spot_diameter_px=145.1,
    )
    figure = build_expression_maps(view, ("ERBB2", "CD74"), expression)
    for layer, values in zip(spots(figure), expression.T, strict=True):
        np.testing.assert_array_equal(layer.get_array(), values)
