"""Options of `spam hest`."""

import dataclasses
from pathlib import Path
from typing import Literal

from .config import Config, check, flag, folder_fault, option
from .embed_config import DEFAULT_ENCODER

__all__ = ["HestConfig", "HestSolver"]

HestSolver = Literal["sklearn", "exact"]
"""Solver of the linear probe: scikit-learn as called by the HEST benchmark, or the closed form of the same model."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HestConfig(Config):
    """Options of `spam hest`: the linear probe of the HEST benchmark on its own files."""

    bench_data: Path | None = option(
        None, "folder of the benchmark's tasks, or of one task: adata (or st, as in HEST-1k), patches, splits"
    )
    tasks: tuple[str, ...] = option((), "tasks to run, e.g. IDC,PRAD (default: all in --bench-data)")
    enc_name: str = option(
        DEFAULT_ENCODER, "encoder of the patches; with --features the folder name of its embeddings"
    )
    features: Path | None = option(
        None, "existing embeddings: FOLDER/TASK/ENCODER/SAMPLE.h5 with embeddings and barcodes"
    )
    solver: HestSolver = option(
        "sklearn",
        "sklearn: the benchmark's own calls, needs `pip install 'spam-st[hest]'`; exact: the same model in "
        "closed form, without random numbers",
    )
    batch_size: int = option(64, "patches per forward pass", flags=("--img-batch-size",))
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    out_dir: Path | None = option(None, "folder for hest.md, hest.json and new embeddings")
    overwrite: bool = option(False, "replace results in --out-dir")  # noqa: FBT003

    def __post_init__(self) -> None:
        repeated = sorted({name for name in self.tasks if self.tasks.count(name) > 1})
        unused = [
            flag(field.name)
            for field in dataclasses.fields(self)
            if field.name in ("batch_size", "device") and getattr(self, field.name) != field.default
        ]
        check(
            [
                "--bench-data is missing (the folder of the tasks, e.g. eval/bench_data)"
                if self.bench_data is None
                else None,
                "--out-dir is missing (the folder of the results)" if self.out_dir is None else None,
                folder_fault("out_dir", self.out_dir),
                f"--tasks repeats {', '.join(repeated)}" if repeated else None,
                f"--batch-size must be at least 1, not {self.batch_size}" if self.batch_size < 1 else None,
                f"--features excludes {' and '.join(unused)}: nothing is embedded"
                if self.features is not None and unused
                else None,
            ]
        )
