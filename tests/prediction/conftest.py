"""A fine-tuned checkpoint of three small sections; a fourth is predicted."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cohorts import make_cohort

from spam.schemas.training_config import FinetuneConfig
from spam.training import finetune


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("cohort") / "cohort.zarr")


def train(store: Path, likelihood: str) -> Path:
    config = FinetuneConfig(
        store=store,
        sections=("S1", "S2", "S3"),
        save_dir=store.parent / likelihood,
        epochs=3,
        fuse_dim=24,
        heads=3,
        members=2,
        attend="both",
        with_bank=True,
        k=5,
        n_neighbours=4,
        n_references=5,
        n_top_genes=29,
        likelihood=likelihood,  # type: ignore[arg-type]
        lr=3e-3,
    )
    return finetune(config).run.last_path


@pytest.fixture(scope="session")
def train_on() -> Callable[[Path, str], Path]:
    return train


@pytest.fixture(scope="session")
def checkpoint(store: Path) -> Path:
    return train(store, "zinb")


@pytest.fixture(scope="session")
def checkpoints(store: Path, checkpoint: Path) -> dict[str, Path]:
    return {"zinb": checkpoint, "nb": train(store, "nb"), "poisson": train(store, "poisson")}
