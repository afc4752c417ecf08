from contextlib import AbstractContextManager
from pathlib import Path

import anndata
import numpy as np
import pytest

from spam.errors import ConfigError, OutputExistsError
from spam.progress import SILENT, Advance
from spam.schemas.simulate_config import DemoConfig
from spam.simulation.demo import demo

RESULTS = {"cohort", "cohort.zarr", "pretrain", "finetune", "results"}


@pytest.mark.slow
def test_the_demo_ends_with_scores_and_a_map_of_an_unseen_section(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        demo(DemoConfig(out_dir=tmp_path / "demo", seed=1), progress=Interrupting("embed"))
    report = demo(DemoConfig(out_dir=tmp_path / "demo"))
    assert {path.name for path in (tmp_path / "demo").iterdir()} == RESULTS
    assert list(report.steps) == ["cohort", "embed", "pretrain", "finetune", "predict"]
    outcome = report.prediction.to_mapping()
    assert not outcome["is_training_section"]
    assert (tmp_path / "demo/results/plots/expression_maps.png") in report.prediction.files
    page = tmp_path / "demo/results/report.html"
    assert report.summary().endswith(f"open {page} in a browser")
    assert "Section D2S2" in page.read_text()
    found = anndata.read_h5ad(tmp_path / "demo/results/predictions.h5ad")
    truth = anndata.read_h5ad(tmp_path / f"demo/cohort/{outcome['section']}.h5ad")[
        found.obs_names, found.var_names
    ]
    rate = np.log1p(np.asarray(truth.layers["true_rate"]))
    r = [np.corrcoef(rate[:, g], found.X[:, g])[0, 1] for g in range(found.n_vars)]
    assert np.median(r) > 0.6  # against the true rate; morphology is drawn from it


def test_a_folder_with_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"is not empty.*--overwrite"):
        demo(DemoConfig(out_dir=tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


class Interrupting:
    """Progress that interrupts a run at its first task of some name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def task(self, description: str, total: int) -> AbstractContextManager[Advance]:
        if self.name in description:
            raise KeyboardInterrupt
        return SILENT.task(description, total)


def test_an_interrupted_demo_is_repeated_without_further_options(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            demo(DemoConfig(out_dir=tmp_path / "demo"), progress=Interrupting(""))


def test_data_needs_her2st(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--data .* needs `spam demo her2st`"):
        demo(DemoConfig(out_dir=tmp_path / "out", data=tmp_path))
