"""Options of `spam predict`."""

import dataclasses
from pathlib import Path
from typing import Literal

from .config import Config, advanced, data, option, output


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SlideConfig(Config):
    """A slide in place of all lab files."""

    slide: Path | None = option(
        None,
        "slide to predict, a file: tiles on a grid over its tissue, and a report; results go to the folder SLIDE_predicted, "
        "unless --out-dir names another",
        is_argument=True,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PredictConfig(Config):
    """Options of `spam predict`."""

    store: Path | str | None = data(
        None, "store with the section: folder, packed store or address", required="run `spam embed` first"
    )
    section: str | None = data(None, "section to predict (default: the only one in the store)")
    ckpt: Path | str | None = data(
        None,
        "checkpoint of `spam finetune`: its folder or file, or an address such as hf://org/name, https://host/best.safetensors or "
        "s3://bucket/name; #sha256=... after it pins the file",
        required="give that of `spam finetune`, or an address such as hf://org/name",
    )
    context_h5ad: Path | None = data(
        None,
        "raw counts of a part of the section (some spots, some genes, or both), used to predict the rest; library sizes "
        "in obs['library_size'] if genes are left out. A gene panel needs a checkpoint of `spam finetune --with-bank`",
    )
    out_dir: Path | None = output(
        None,
        "folder for predictions.h5ad, metrics.json, genes.csv and plots",
        flags=("--save-dir",),
        required="give a folder for the results",
    )
    formats: tuple[Literal["csv", "parquet"], ...] = output(
        (), "further formats of the predicted matrix: csv, parquet"
    )
    coverage: float = output(
        0.9, "nominal coverage of the predictive intervals (layers lower and upper)", limits="(0,1)"
    )
    depth: float | None = output(
        None,
        "library size for which mu and the intervals are given (default: median of the training spots)",
        limits="(0,1000000000]",
    )
    plots: bool = output(True, "draw histogram, scatter plots and expression maps")
    plot_genes: tuple[str, ...] = output(
        (), "genes to draw (default: the four best predicted, or the most variable)"
    )
    report: bool = output(False, "also write report.html, as spam report does")
    overwrite: bool = output(False, "replace the predictions in --out-dir")
    device: str = advanced("auto", "auto, cpu, cuda or cuda:N")
    batch_size: int = advanced(1024, "spots per step", limits="[1,1000000]")
    memory_budget: float | None = advanced(
        None,
        "GB of memory for image features, and for predictions; larger features are read from the store whenever they are needed, "
        "and larger predictions are kept in files of --out-dir, with the same result; counts, graph and copies take more (default: "
        "half of the free memory)",
        limits="(0,1000000]",
    )
