"""Fine-tuned checkpoints of three small sections; a fourth, S4, is predicted."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cohorts import make_cohort

from spam.schemas.predict_config import PredictConfig
from spam.schemas.training_config import FinetuneConfig
from spam.training import finetune

SMALL = {"epochs": 1, "n_top_genes": 29, "members": 1, "fuse_dim": 24, "k": 5, "n_neighbours": 4}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("cohort") / "cohort.zarr")


@pytest.fixture(scope="session")
def train_on() -> Callable[..., Path]:
    """Train on sections of a store; options override those of a small network with a bank and full attention."""

    def train(
        store: Path, name: str, sections: tuple[str, ...] = ("S1", "S2", "S3"), **options: object
    ) -> Path:
        full = {
            "epochs": 3,
            "heads": 3,
            "members": 2,
            "attend": "both",
            "with_bank": True,
            "n_references": 5,
            "lr": 3e-3,
        }
        values = {**SMALL, **full, **options}
        return finetune(
            FinetuneConfig(store=store, sections=sections, save_dir=store.parent / name, **values)
        ).run.last_path  # type: ignore[arg-type]

    return train


@pytest.fixture(scope="session")
def checkpoint(store: Path, train_on: Callable[..., Path]) -> Path:
    """ZINB, attention to neighbours and references, with a bank."""
    return train_on(store, "zinb")


@pytest.fixture(scope="session")
def default_checkpoint(store: Path, train_on: Callable[..., Path]) -> Path:
    """As trained by default: no attention, no bank."""
    return train_on(store, "default", attend="none", with_bank=False, likelihood="nb")


@pytest.fixture(scope="session")
def config_of() -> Callable[..., PredictConfig]:
    """Options of `spam predict` for S4 without plots."""

    def config(store: Path, checkpoint: Path, out: Path, **changes: object) -> PredictConfig:
        values = {"section": "S4", "plots": False, **changes}
        return PredictConfig(store=store, ckpt=checkpoint, out_dir=out, **values)  # type: ignore[arg-type]

    return config
