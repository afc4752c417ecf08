"""A cohort of four small sections, and short runs on it."""

from pathlib import Path

import pytest
from cohorts import make_cohort
from training_runs import finetuning, pretraining

from spam.training import finetune, pretrain


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("cohort") / "cohort.zarr")


@pytest.fixture(scope="session")
def pretrained(cohort: Path) -> Path:
    return pretrain(pretraining(cohort, cohort.parent / "pretrain", epochs=3)).run.best_path


@pytest.fixture(scope="session")
def finetuned(cohort: Path) -> Path:
    """A checkpoint as the defaults make it: no attention, no bank."""
    changes = {"attend": "none", "with_bank": False, "sections": ("S1", "S2", "S3")}
    return finetune(finetuning(cohort, cohort.parent / "finetune", **changes)).run.best_path
