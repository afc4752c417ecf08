"""Options of `spam predict`."""

import dataclasses
from pathlib import Path
from typing import Literal

from .config import Config, check, option

__all__ = ["PredictConfig"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PredictConfig(Config):
    """Options of `spam predict`."""

    store: Path | str | None = option(
        None, "feature store (folder, packed store, or address) that holds the section"
    )
    section: str | None = option(None, "section to predict (default: the only one in the store)")
    ckpt: Path | None = option(None, "checkpoint of `spam finetune`")
    context_h5ad: Path | None = option(
        None,
        "raw counts of a part of the section (some spots, some genes, or some genes of some spots): the rest is predicted "
        "from them too (obs['library_size']: their library sizes, where genes are left out)",
    )
    out_dir: Path | None = option(
        None, "folder for predictions.h5ad, metrics.json, genes.csv and plots", flags=("--save-dir",)
    )
    formats: tuple[Literal["csv", "parquet"], ...] = option(
        (), "further formats of the predicted matrix: csv, parquet"
    )
    coverage: float = option(0.9, "probability mass of the predictive interval")
    depth: float | None = option(
        None, "library size at which mu and intervals are stated (default: training median)"
    )
    plots: bool = option(True, "draw the histogram, scatter plots and expression maps")  # noqa: FBT003
    plot_genes: tuple[str, ...] = option(
        (), "genes to draw (default: the four best predicted, or most variable ones)"
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    batch_size: int = option(1024, "spots per step")
    overwrite: bool = option(False, "write over predictions in --out-dir")  # noqa: FBT003

    def __post_init__(self) -> None:
        check(
            [
                "--store is missing: give the feature store that holds the section"
                if self.store is None
                else None,
                "--ckpt is missing: give the checkpoint that `spam finetune` wrote"
                if self.ckpt is None
                else None,
                "--out-dir is missing: say where the results go" if self.out_dir is None else None,
                f"--coverage must be in (0, 1), not {self.coverage}" if not 0 < self.coverage < 1 else None,
                f"--depth must be positive, not {self.depth}"
                if self.depth is not None and not self.depth > 0
                else None,
                f"--batch-size must be at least 1, not {self.batch_size}" if self.batch_size < 1 else None,
                *(
                    f"--formats takes csv and parquet, not {name!r}"
                    for name in self.formats
                    if name not in ("csv", "parquet")
                ),
            ]
        )
