"""Options of `spam hest`."""

import dataclasses
from pathlib import Path
from typing import Literal

from .config import Config, option
from .embed_config import DEFAULT_ENCODER

HestSolver = Literal["sklearn", "exact"]
"""Solver of the linear probe: scikit-learn as called by the HEST benchmark, or the closed form of the same model."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HestConfig(Config):
    """Options of `spam hest`: the linear probe of the HEST benchmark on its own files."""

    bench_data: Path | None = option(
        None,
        "folder of the benchmark's tasks, or of one task: adata (or st, as in HEST-1k), patches, splits",
        required="give the folder of the tasks, e.g. eval/bench_data",
    )
    tasks: tuple[str, ...] = option((), "tasks to run, e.g. IDC,PRAD (default: all in --bench-data)")
    enc_name: str = option(
        DEFAULT_ENCODER, "encoder of the patches; with --features the folder name of its embeddings"
    )
    features: Path | None = option(
        None, "folder of existing embeddings: TASK/ENCODER/SAMPLE.h5 with embeddings and barcodes"
    )
    solver: HestSolver = option(
        "sklearn",
        "sklearn: the benchmark's own calls, needs `pip install 'spam-st[hest]'`; exact: the same model in "
        "closed form, without random numbers",
    )
    batch_size: int = option(
        64,
        "patches per step; a GPU computes them in one pass",
        flags=("--img-batch-size",),
        limits="[1,1000000]",
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    out_dir: Path | None = option(
        None, "folder for hest.md, hest.json and new embeddings", required="give a folder for the results"
    )
    overwrite: bool = option(False, "replace results in --out-dir")

    def faults(self) -> list[str | None]:
        """List contradictions between options."""
        message = "--features excludes --batch-size and --device: nothing is embedded"
        is_unused = self.features is not None and (self.batch_size, self.device) != (64, "auto")
        return [message if is_unused else None]
