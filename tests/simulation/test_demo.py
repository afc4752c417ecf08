from pathlib import Path

import anndata
import numpy as np
import pytest

from spam.errors import ConfigError, OutputExistsError
from spam.schemas.simulate_config import DemoConfig
from spam.simulation.demo import demo


@pytest.mark.slow
def test_the_demo_ends_with_scores_and_a_map_of_an_unseen_section(tmp_path: Path) -> None:
    report = demo(DemoConfig(out_dir=tmp_path / "demo"))
    assert list(report.steps) == ["cohort", "embed", "pretrain", "finetune", "predict"]
    outcome = report.prediction.to_mapping()
    assert not outcome["is_training_section"]
    assert (tmp_path / "demo/results/plots/expression_maps.png") in report.prediction.files
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


def test_data_needs_her2st(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--data .* needs `spam demo her2st`"):
        demo(DemoConfig(out_dir=tmp_path / "out", data=tmp_path))
