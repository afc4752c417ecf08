"""Short runs of both stages on the small cohorts of `cohorts`."""

from pathlib import Path

from spam.schemas.training_config import FinetuneConfig, PretrainConfig

SMALL_PRETRAIN = {"proj_dim": 16, "batch_size": 31, "n_top_genes": 29, "k": 5, "epochs": 2}
SMALL_FINETUNE = {
    "fuse_dim": 24,
    "heads": 3,
    "members": 2,
    "attend": "both",
    "with_bank": True,
    "k": 5,
    "n_neighbours": 4,
    "n_references": 5,
    "n_top_genes": 29,
    "epochs": 2,
    "batch_size": 31,
}


def pretraining(store: Path, out: Path, **changes: object) -> PretrainConfig:
    return PretrainConfig(**{"store": store, "save_dir": out, **SMALL_PRETRAIN, **changes})  # type: ignore[arg-type]


def finetuning(store: Path | str, out: Path, **changes: object) -> FinetuneConfig:
    return FinetuneConfig(**{"store": store, "save_dir": out, **SMALL_FINETUNE, **changes})  # type: ignore[arg-type]
