"""Charts show every value at its place; figures do not depend on the user's matplotlib settings."""

import math
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from spam.reports import MethodScore, plot_pcc_histogram, plot_scatter, plot_score_chart
from spam.reports.figures import new_figure, save_figure


def test_histogram_counts_the_defined_genes() -> None:
    pearson = np.array([-1.0, -0.31, 0.02, 0.04, 0.51, 1.0, np.nan])
    (axes,) = plot_pcc_histogram({"spam": pearson}).axes
    heights = [patch.get_height() for patch in axes.patches if hasattr(patch, "get_height")]
    expected = [0] * 40
    for value in pearson[:-1]:
        expected[min(int((value + 1) / 0.05 + 1e-9), 39)] += 1
    assert heights == expected
    assert "6 genes, 1 undefined" in axes.get_legend().get_texts()[0].get_text()


def test_histogram_marks_the_mean_of_each_model() -> None:
    rng = np.random.default_rng(1)
    models = {
        "spam": rng.uniform(-0.2, 0.8, 101),
        "ridge": rng.uniform(-0.3, 0.6, 103),
        "mean": np.full(5, np.nan),
    }
    (axes,) = plot_pcc_histogram(models).axes
    means = [models["spam"].mean(), models["ridge"].mean()]  # no line without a defined gene
    assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx(means)
    assert len({line.get_color() for line in axes.lines}) == 2
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts[:2] == [
        f"{name}\nmean {models[name].mean():.3f} ({models[name].size} genes)" for name in ("spam", "ridge")
    ]
    assert "no gene defined" in texts[2]


@pytest.mark.parametrize("values", [[-0.97, 0.99], [0.5, 0.52], [-0.4, -0.3]])
def test_histogram_shows_every_gene_and_zero(values: list[float]) -> None:
    (axes,) = plot_pcc_histogram({"spam": np.array(values)}).axes
    low, high = axes.get_xlim()
    assert -1 <= low <= min(0, *values)
    assert 1 >= high >= max(0, *values)


def expression(n_spots: int, n_genes: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(n_spots)
    truth = rng.gamma(2.0, 1.0, (n_spots, n_genes))
    prediction = truth + np.linspace(4.0, 0.1, n_genes) * rng.standard_normal((n_spots, n_genes))
    return truth, prediction, [f"G{gene}" for gene in range(n_genes)]


def test_scatter_draws_the_nine_best_genes_best_first() -> None:
    truth, prediction, genes = expression(53, 13)
    figure = plot_scatter(truth, prediction, genes)
    r = [stats.pearsonr(truth[:, gene], prediction[:, gene]).statistic for gene in range(13)]
    best = np.argsort(r)[::-1][:9]
    assert [axes.get_title() for axes in figure.axes] == [f"G{gene}, r = {r[gene]:.2f}" for gene in best]
    for axes, gene in zip(figure.axes, best, strict=True):
        (points,) = axes.collections
        np.testing.assert_array_equal(
            points.get_offsets(), np.stack([truth[:, gene], prediction[:, gene]], axis=1)
        )


def test_scatter_leaves_out_missing_values_and_puts_undefined_genes_last() -> None:
    truth, prediction, genes = expression(31, 3)
    truth[2, 1], prediction[5, 1], prediction[:, 0] = np.nan, np.inf, 1.0
    figure = plot_scatter(truth, prediction, genes)
    kept = np.delete(np.arange(31), [2, 5])
    r = [
        stats.pearsonr(truth[rows, g], prediction[rows, g]).statistic
        for g, rows in ((2, np.arange(31)), (1, kept))
    ]
    titles = [axes.get_title() for axes in figure.axes if axes.axison]  # the fourth place is empty
    assert titles == [f"G2, r = {r[0]:.2f}", f"G1, r = {r[1]:.2f}", "G0, r undefined"]
    (points,) = figure.axes[1].collections
    np.testing.assert_array_equal(
        points.get_offsets(), np.stack([truth[kept, 1], prediction[kept, 1]], axis=1)
    )


@pytest.mark.parametrize("n_spots", [0, 1])
def test_scatter_of_hardly_any_spot(n_spots: int) -> None:
    figure = plot_scatter(np.ones((n_spots, 1)), np.ones((n_spots, 1)), ["A"])
    assert figure.axes[0].get_title() == "A, r undefined"


@pytest.mark.parametrize("n_spots", [53, 3001])
def test_both_axes_of_a_scatter_have_the_same_range(n_spots: int) -> None:
    """Points, and the density of many; both hold every value."""
    truth, prediction, genes = expression(n_spots, 1)
    shrunk = 0.1 * prediction + 5
    figure = plot_scatter(truth, shrunk, genes)
    (axes,) = figure.axes
    counts = axes.collections[0].get_array()
    assert (len(axes.collections[0].get_offsets()) if counts is None else counts.sum()) == n_spots
    assert axes.lines[0].get_slope() == 1
    figure.canvas.draw()
    box = axes.get_window_extent()
    assert axes.get_xlim() == axes.get_ylim()
    assert box.width == pytest.approx(box.height)
    low, high = axes.get_xlim()
    every = np.concatenate([truth.ravel(), shrunk.ravel()])
    assert low == pytest.approx(every.min() - 0.04 * np.ptp(every))
    assert high == pytest.approx(every.max() + 0.04 * np.ptp(every))


def method(name: str, mean: float, *, is_reference: bool = True) -> MethodScore:
    points = (mean - 0.15, mean, mean + 0.25)
    return MethodScore(
        name=name, is_reference=is_reference, mean=mean, lower=mean - 0.1, upper=mean + 0.2, points=points
    )


METHODS = [method("mean", math.nan), method("ridge", 0.3), method("SPAM", 0.45, is_reference=False)]


def test_scores_lie_on_the_line_of_their_method() -> None:
    (axes,) = plot_score_chart(METHODS, label="Pearson", title="t").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mean", "ridge", "SPAM"]
    low, high = axes.get_ylim()
    assert low > high  # from top to bottom
    intervals = [line for line in axes.lines if line.get_linewidth() > 2]
    np.testing.assert_allclose([list(line.get_xdata()) for line in intervals[1:]], [[0.2, 0.5], [0.35, 0.65]])
    assert [list(line.get_ydata()) for line in intervals] == [[0, 0], [1, 1], [2, 2]]
    offsets = [collection.get_offsets() for collection in axes.collections]
    assert [o[0].tolist() for o in offsets if len(o) == 1][-2:] == [[0.3, 1], [0.45, 2]]
    points = [o[:, 0].tolist() for o in offsets if len(o) == 3]
    np.testing.assert_allclose(points[1:], [[0.15, 0.3, 0.55], [0.3, 0.45, 0.7]])
    assert [text.get_text() for text in axes.texts] == ["undefined"]
    assert intervals[1].get_color() != intervals[2].get_color()


def test_equal_values_give_equal_bytes_of_the_stated_size(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plot_pcc_histogram({"spam": np.linspace(-0.1, 0.6, 31)}, tmp_path / "new" / name)
    assert (tmp_path / "new" / "a.png").read_bytes() == (tmp_path / "new" / "b.png").read_bytes()
    plot_scatter(*expression(31, 2), tmp_path / "new" / "scatter.png")
    plot_score_chart([], tmp_path / "new" / "empty.png", label="Pearson", title="t")
    # 8.6 x 4.2 in at 150 dpi
    sizes = {"a.png": (1290, 630), "scatter.png": (round((2.6 * 2 + 0.4) * 150), 450)}
    for name, size in sizes.items():
        with Image.open(tmp_path / "new" / name) as picture:
            assert (picture.format, picture.size) == ("PNG", size)
            assert "Software" not in picture.info
    names = [path.name for path in (tmp_path / "new").iterdir()]
    assert sorted(names) == ["a.png", "b.png", "empty.png", "scatter.png"]  # no partial file is left


def test_figures_neither_take_nor_leave_global_settings(tmp_path: Path) -> None:
    with matplotlib.rc_context({"font.size": 31, "axes.spines.top": True, "font.family": "serif"}):
        before = dict(matplotlib.rcParams)
        (axes,) = plot_pcc_histogram({"spam": np.linspace(0, 1, 7)}, tmp_path / "a.png").axes
        assert dict(matplotlib.rcParams) == before
    assert axes.xaxis.label.get_fontsize() == 10
    assert not axes.spines["top"].get_visible()
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    save_figure(new_figure(1.0, 1.0), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="empty image"):
        save_figure(new_figure(0.0, 0.0), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["plot.png"]
