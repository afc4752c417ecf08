from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from spam.reports import build_scatter, plot_scatter


def expression(n_spots: int, n_genes: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(n_spots)
    truth = rng.gamma(2.0, 1.0, (n_spots, n_genes))
    noise = np.linspace(4.0, 0.1, n_genes)
    prediction = truth + noise * rng.standard_normal((n_spots, n_genes))
    return truth, prediction, [f"G{gene}" for gene in range(n_genes)]


def test_the_nine_best_genes_are_drawn_best_first() -> None:
    truth, prediction, genes = expression(53, 13)
    figure = build_scatter(truth, prediction, genes)
    r = [stats.pearsonr(truth[:, gene], prediction[:, gene]).statistic for gene in range(13)]
    best = np.argsort(r)[::-1][:9]
    assert [axes.get_title() for axes in figure.axes] == [f"G{gene}, r = {r[gene]:.2f}" for gene in best]
    for axes, gene in zip(figure.axes, best, strict=True):
        (points,) = axes.collections
        np.testing.assert_array_equal(
            points.get_offsets(), np.stack([truth[:, gene], prediction[:, gene]], axis=1)
        )


def test_few_genes_and_those_without_correlation() -> None:
    truth, prediction, genes = expression(31, 3)
    prediction[:, 2] = 1.0
    figure = build_scatter(truth, prediction, genes)
    titles = [axes.get_title() for axes in figure.axes if axes.axison]
    assert titles[-1] == "G2, r undefined"
    assert len(titles) == 3
    assert sum(not axes.axison for axes in figure.axes) == 1  # a grid of two rows of two


def test_spots_that_are_not_finite_are_left_out() -> None:
    truth, prediction, genes = expression(31, 1)
    truth[2, 0], prediction[5, 0] = np.nan, np.inf
    (axes,) = build_scatter(truth, prediction, genes).axes
    kept = np.delete(np.arange(31), [2, 5])
    (points,) = axes.collections
    np.testing.assert_array_equal(
        points.get_offsets(), np.stack([truth[kept, 0], prediction[kept, 0]], axis=1)
    )


@pytest.mark.parametrize("n_spots", [0, 1])
def test_hardly_any_spot(n_spots: int) -> None:
    figure = build_scatter(np.ones((n_spots, 1)), np.ones((n_spots, 1)), ["A"])
    assert figure.axes[0].get_title() == "A, r undefined"


def test_many_spots_are_drawn_as_density() -> None:
    truth, prediction, genes = expression(3001, 1)
    (axes,) = build_scatter(truth, prediction, genes).axes
    (hexagons,) = axes.collections
    assert hexagons.get_array().sum() == 3001


def test_line_of_equality_leaves_the_limits_to_the_points() -> None:
    truth, prediction, genes = expression(31, 1)
    (axes,) = build_scatter(truth, 0.1 * prediction + 5, genes).axes
    (line,) = axes.lines
    assert line.get_slope() == 1
    low, high = axes.get_ylim()
    assert low > 0.1 * prediction.min() + 4.5
    assert high < 0.1 * prediction.max() + 5.5


def test_file_is_a_png(tmp_path: Path) -> None:
    path = plot_scatter(*expression(31, 2), tmp_path / "scatter.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.size == (round((2.6 * 2 + 0.4) * 150), 450)
