"""A cohort of four small sections, and short runs on it."""

from pathlib import Path

import pytest
from cohorts import make_cohort

from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam.training import finetune, pretrain


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("cohort") / "cohort.zarr")


@pytest.fixture(scope="session")
def pretrained(cohort: Path) -> Path:
    folder = cohort.parent / "pretrain"
    config = PretrainConfig(
        store=cohort, save_dir=folder, epochs=3, proj_dim=16, batch_size=31, n_top_genes=29, k=5
    )
    return pretrain(config).run.best_path


@pytest.fixture(scope="session")
def finetuned(cohort: Path, pretrained: Path) -> Path:
    folder = cohort.parent / "finetune"
    config = FinetuneConfig(
        store=cohort,
        sections=("S1", "S2", "S3"),
        save_dir=folder,
        epochs=2,
        fuse_dim=24,
        heads=3,
        members=2,
        attend="both",
        k=5,
        n_neighbours=4,
        n_references=5,
        n_top_genes=29,
    )
    return finetune(config).run.best_path
