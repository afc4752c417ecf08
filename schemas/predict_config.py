"""Options of `spam predict`."""

import dataclasses
from pathlib import Path
from typing import Literal

from .config import Config, option


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PredictConfig(Config):
    """Options of `spam predict`."""

    store: Path | str | None = option(
        None,
        "store with the section (folder, packed store, or address)",
        required="give the feature store that holds the section",
        panel="Data",
    )
    section: str | None = option(
        None, "section to predict (default: the only one in the store)", panel="Data"
    )
    ckpt: Path | None = option(
        None,
        "checkpoint of `spam finetune`",
        required="give the best.safetensors that `spam finetune` wrote",
        panel="Data",
    )
    context_h5ad: Path | None = option(
        None,
        "raw counts of a part of the section (some spots, some genes, or both), used to predict the rest; library sizes "
        "in obs['library_size'] if genes are left out. A gene panel needs a checkpoint of `spam finetune --with-bank`",
        panel="Data",
    )
    out_dir: Path | None = option(
        None,
        "folder for predictions.h5ad, metrics.json, genes.csv and plots",
        flags=("--save-dir",),
        required="give a folder for the results",
        panel="Output",
    )
    formats: tuple[Literal["csv", "parquet"], ...] = option(
        (), "further formats of the predicted matrix: csv, parquet", panel="Output"
    )
    coverage: float = option(
        0.9,
        "nominal coverage of the predictive intervals (layers lower and upper)",
        limits="(0,1)",
        panel="Output",
    )
    depth: float | None = option(
        None,
        "library size for which mu and the intervals are given (default: median of the training spots)",
        limits=">0",
        panel="Output",
    )
    plots: bool = option(True, "draw histogram, scatter plots and expression maps", panel="Output")  # noqa: FBT003
    plot_genes: tuple[str, ...] = option(
        (), "genes to draw (default: the four best predicted, or the most variable)", panel="Output"
    )
    overwrite: bool = option(False, "replace the predictions in --out-dir", panel="Output")  # noqa: FBT003
    device: str = option("auto", "auto, cpu, cuda or cuda:N", panel="Advanced")
    batch_size: int = option(1024, "spots per step", limits=">=1", panel="Advanced")
