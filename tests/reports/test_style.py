import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from spam.reports import build_pcc_histogram, plot_pcc_histogram
from spam.reports.style import new_figure, save_figure


def test_plots_leave_no_global_state_behind(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    plot_pcc_histogram({"spam": np.linspace(0, 1, 7)}, tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_style_does_not_come_from_the_user(tmp_path: Path) -> None:
    with matplotlib.rc_context({"font.size": 31, "axes.spines.top": True, "font.family": "serif"}):
        (axes,) = build_pcc_histogram({"spam": np.linspace(0, 1, 7)}).axes
        assert axes.xaxis.label.get_fontsize() == 10
        assert not axes.spines["top"].get_visible()


def test_failed_plot_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plot.png"
    save_figure(new_figure(1.0, 1.0), path)
    before = path.read_bytes()

    def fail(self: Path, target: Path) -> None:
        raise OSError

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match=r"^$"):
        save_figure(new_figure(2.0, 2.0), path)
    assert path.read_bytes() == before
