"""The charts of a benchmark show every method where its numbers are."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spam.reports import MethodScore, build_cost_chart, build_score_chart, plot_cost_chart, plot_score_chart


def method(name: str, mean: float, *, is_reference: bool = True, seconds: float = 2.0) -> MethodScore:
    return MethodScore(
        name=name,
        is_reference=is_reference,
        mean=mean,
        lower=mean - 0.1,
        upper=mean + 0.2,
        points=(mean - 0.15, mean, mean + 0.25),
        seconds=seconds,
    )


METHODS = [
    method("mean", math.nan),
    method("ridge", 0.3),
    method("SPAM", 0.45, is_reference=False, seconds=30.0),
]


def test_scores_lie_on_the_line_of_their_method() -> None:
    (axes,) = build_score_chart(METHODS, label="Pearson", title="t").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mean", "ridge", "SPAM"]
    low, high = axes.get_ylim()
    assert low > high  # from top to bottom
    intervals = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linewidth() > 2]
    np.testing.assert_allclose([list(line.get_xdata()) for line in intervals[1:]], [[0.2, 0.5], [0.35, 0.65]])
    assert [list(line.get_ydata()) for line in intervals] == [[0, 0], [1, 1], [2, 2]]
    means = [c.get_offsets()[0].tolist() for c in axes.collections if len(c.get_offsets()) == 1]
    assert means[-2:] == [[0.3, 1], [0.45, 2]]
    points = [c.get_offsets()[:, 0].tolist() for c in axes.collections if len(c.get_offsets()) == 3]
    np.testing.assert_allclose(points[1:], [[0.15, 0.3, 0.55], [0.3, 0.45, 0.7]])
    assert [text.get_text() for text in axes.texts] == ["undefined"]
    assert intervals[1].get_color() != intervals[2].get_color()


def test_cost_is_logarithmic_and_leaves_out_what_is_undefined() -> None:
    (axes,) = build_cost_chart(METHODS, label="Pearson", title="t").axes
    assert axes.get_xscale() == "log"
    assert [c.get_offsets()[0].tolist() for c in axes.collections] == [[2.0, 0.3], [30.0, 0.45]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["1  ridge", "2  SPAM"]


@pytest.mark.parametrize("methods", [METHODS, METHODS[:1], []])
def test_files_are_written_for_any_number_of_methods(methods: list[MethodScore], tmp_path: Path) -> None:
    for plot in (plot_score_chart, plot_cost_chart):
        path = plot(methods, tmp_path / "a.png", label="Pearson", title="t")
        with Image.open(path) as image:
            assert min(image.size) > 100
