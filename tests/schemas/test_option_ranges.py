"""Every configuration names the flag of a value that it refuses, and all of them at once."""

from pathlib import Path
from typing import Any

import pytest

from spam.errors import ConfigError
from spam.schemas.config import Config
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.predict_config import PredictConfig
from spam.schemas.simulate_config import DemoConfig, SimulateConfig
from spam.schemas.training_config import FinetuneConfig, PretrainConfig

HERE = Path()
GOOD: dict[type[Config], dict[str, Any]] = {
    EmbedConfig: {"store": HERE, "csv": HERE, "root": HERE},
    PretrainConfig: {"store": HERE, "save_dir": HERE},
    FinetuneConfig: {"store": HERE, "save_dir": HERE},
    PredictConfig: {"store": HERE, "ckpt": HERE, "out_dir": HERE},
    SimulateConfig: {"out_dir": HERE},
    DemoConfig: {},
}
BAD = [
    (EmbedConfig, {"store": None}, "--store is missing"),
    (EmbedConfig, {"csv": None}, "give --manifest, or --csv and --root"),
    (EmbedConfig, {"manifest": HERE}, "--manifest names h5ad, csv, section and donor itself"),
    (EmbedConfig, {"batch_size": 0}, "--batch-size must be at least 1, not 0"),
    (EmbedConfig, {"num_workers": -1}, "--num-workers must not be negative, not -1"),
    (EmbedConfig, {"chunk_rows": 0}, "--chunk-rows must be at least 1, not 0"),
    (EmbedConfig, {"mpp": 0.0}, "--mpp must be a positive number of µm, not 0.0"),
    (EmbedConfig, {"tile_um": (112.0,), "tile_px": (224,)}, "--tile-um or --tile-px, not both"),
    (EmbedConfig, {"tile_um": (-1.0,)}, "--tile-um must be positive, not -1.0"),
    (EmbedConfig, {"tile_px": (0,)}, "--tile-px must be positive, not 0"),
    (PretrainConfig, {"store": None}, "--store is missing"),
    (PretrainConfig, {"save_dir": None}, "--save-dir is missing"),
    (PretrainConfig, {"epochs": 0}, "--epochs must be positive, not 0"),
    (PretrainConfig, {"batch_size": 1}, "--batch-size must be at least 2, not 1"),
    (PretrainConfig, {"dropout": 1.0}, r"--dropout must be in \[0, 1\), not 1.0"),
    (PretrainConfig, {"weight_decay": -0.1}, "--weight-decay must not be negative"),
    (PretrainConfig, {"seed": -1}, "--seed must not be negative, not -1"),
    (PretrainConfig, {"temperature": 0.0}, "--temperature must be positive, not 0.0"),
    (PretrainConfig, {"mixing": 1.5}, r"--mixing must be in \[0, 1\], not 1.5"),
    (PretrainConfig, {"proj_dim": 0}, "--proj-dim must be positive, not 0"),
    (FinetuneConfig, {"heads": 7}, "--heads must divide --fuse-dim, not 7 into 512"),
    (FinetuneConfig, {"n_neighbours": 1}, "--n-neighbours must be at least 2, not 1"),
    (FinetuneConfig, {"n_references": 1}, "--n-references must be at least 2, not 1"),
    (PredictConfig, {"ckpt": None}, "--ckpt is missing"),
    (PredictConfig, {"out_dir": None}, "--out-dir is missing"),
    (PredictConfig, {"coverage": 1.0}, r"--coverage must be in \(0, 1\), not 1.0"),
    (PredictConfig, {"depth": 0.0}, "--depth must be positive, not 0.0"),
    (PredictConfig, {"formats": ("xlsx",)}, "--formats takes csv and parquet, not 'xlsx'"),
    (SimulateConfig, {"out_dir": None}, "--out-dir is missing"),
    (SimulateConfig, {"n_spots": 0}, "--n-spots must be at least 1, not 0"),
    (SimulateConfig, {"theta": 0.0}, "--theta must be positive, not 0.0"),
    (SimulateConfig, {"signal": -1.0}, "--signal must not be negative, not -1.0"),
    (SimulateConfig, {"seed": -3}, "--seed must not be negative, not -3"),
    (DemoConfig, {"seed": -3}, "--seed must not be negative, not -3"),
]


@pytest.mark.parametrize(("kind", "change", "words"), BAD)
def test_a_value_out_of_range_is_refused_by_its_flag(
    kind: type[Config], change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        kind(**{**GOOD[kind], **change})


@pytest.mark.parametrize("kind", GOOD)
def test_good_values_are_taken(kind: type[Config]) -> None:
    kind(**GOOD[kind])


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(
        ConfigError, match=r"--epochs must be positive.*--lr must be positive.*--heads must divide"
    ):
        FinetuneConfig(store=HERE, save_dir=HERE, epochs=0, lr=-1.0, heads=7)
