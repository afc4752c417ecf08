from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spam.reports import build_pcc_histogram, plot_pcc_histogram


def test_bars_count_the_defined_genes() -> None:
    pearson = np.array([-1.0, -0.31, 0.02, 0.04, 0.51, 1.0, np.nan])
    figure = build_pcc_histogram({"spam": pearson})
    (axes,) = figure.axes
    bars = [patch for patch in axes.patches if hasattr(patch, "get_height")]
    heights = [bar.get_height() for bar in bars]
    expected = [0] * 40
    for value in pearson[:-1]:
        expected[min(int((value + 1) / 0.05 + 1e-9), 39)] += 1
    assert heights == expected
    assert "6 genes, 1 undefined" in axes.get_legend().get_texts()[0].get_text()


def test_each_model_has_its_mean_in_its_colour() -> None:
    rng = np.random.default_rng(1)
    models = {"spam": rng.uniform(-0.2, 0.8, 101), "ridge": rng.uniform(-0.3, 0.6, 103)}
    (axes,) = build_pcc_histogram(models).axes
    assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx([v.mean() for v in models.values()])
    assert all(line.get_linestyle() == "--" for line in axes.lines)
    assert len({line.get_color() for line in axes.lines}) == 2
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == [f"{name}\nmean {v.mean():.3f} ({v.size} genes)" for name, v in models.items()]


@pytest.mark.parametrize("pearson", [np.full(5, np.nan), np.empty(0)])
def test_models_without_a_defined_gene_are_said_so(pearson: np.ndarray) -> None:
    (axes,) = build_pcc_histogram({"training mean": pearson}).axes
    assert "no gene defined" in axes.get_legend().get_texts()[0].get_text()
    assert not axes.lines


def test_no_model_gives_an_empty_plot() -> None:
    (axes,) = build_pcc_histogram({}).axes
    assert axes.get_legend() is None


@pytest.mark.parametrize("values", [[-0.97, 0.99], [0.5, 0.52], [-0.4, -0.3]])
def test_every_gene_and_zero_are_in_sight(values: list[float]) -> None:
    (axes,) = build_pcc_histogram({"spam": np.array(values)}).axes
    low, high = axes.get_xlim()
    assert -1 <= low <= min(values)
    assert 1 >= high >= max(values)
    assert low <= 0 <= high


def test_file_is_a_png_of_the_stated_size(tmp_path: Path) -> None:
    path = plot_pcc_histogram({"spam": np.linspace(-0.1, 0.6, 31)}, tmp_path / "pcc.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.size == (1290, 630)  # 8.6 x 4.2 in at 150 dpi
        assert "Software" not in picture.info


def test_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        plot_pcc_histogram({"spam": np.linspace(-0.1, 0.6, 31)}, tmp_path / name)
        for name in ("a.png", "b.png")
    )
    assert first.read_bytes() == second.read_bytes()
