"""Options of `spam benchmark`."""

import dataclasses
import re
from pathlib import Path
from typing import Literal

from .config import check, flag, folder_fault, option
from .embed_config import FeatureOptions

__all__ = ["BenchmarkConfig"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkConfig(FeatureOptions):
    """Options of `spam benchmark`: cross-validation of all methods on the same features, folds and scores."""

    by: Literal["section", "donor", "block"] | None = option(
        None,
        "unit to hold out in turn: section, donor, or block (a spatial block of each section) "
        "(default: donor if there are several, else section, else block)",
    )
    sections: tuple[str, ...] = option((), "sections to use, e.g. C2,C3,C4 (default: all)")
    train_sections: tuple[str, ...] = option((), "training sections of a single transfer, instead of folds")
    test_sections: tuple[str, ...] = option((), "test sections of that transfer")
    methods: tuple[str, ...] = option(
        ("all",), "methods to compare, by name, e.g. 'training mean,tuned ridge'"
    )
    seeds: int = option(5, "seeds of each method with randomness")
    n_top_genes: int = option(
        541, "most variable genes to predict, chosen in each fold, plus the 50 genes of the HEST board"
    )
    shard: str | None = option(
        None,
        "run the i-th of n parts of all folds, methods and seeds, e.g. 2/8, in a job array (default: all)",
        metavar="<i/n>",
    )
    out_dir: Path | None = option(
        None, "folder for benchmark.md, benchmark.json, genes.csv, scores.png and the finished runs"
    )
    overwrite: bool = option(
        False,  # noqa: FBT003
        "run the named methods again; replaces a benchmark with other options or data in --out-dir",
    )

    def __post_init__(self) -> None:
        is_transfer = bool(self.train_sections or self.test_sections)
        both = [name for name in self.train_sections if name in self.test_sections]
        repeated = {
            name: sorted({value for value in values if values.count(value) > 1})
            for name in ("sections", "train_sections", "test_sections", "methods")
            if (values := getattr(self, name))
        }
        check(
            [
                "--store is missing (the feature store)" if self.store is None else None,
                "--out-dir is missing (the folder of the results)" if self.out_dir is None else None,
                folder_fault("out_dir", self.out_dir),
                "--train-sections and --test-sections must be given together"
                if is_transfer and not (self.train_sections and self.test_sections)
                else None,
                f"--train-sections and --test-sections share {', '.join(both)}" if both else None,
                "--train-sections and --test-sections exclude --by and --sections"
                if is_transfer and (self.by or self.sections)
                else None,
                *(f"{flag(name)} repeats {', '.join(values)}" for name, values in repeated.items() if values),
                "--methods is empty" if not self.methods else None,
                *(
                    f"{flag(name)} must be at least 1, not {getattr(self, name)}"
                    for name in ("seeds", "k", "n_top_genes")
                    if getattr(self, name) < 1
                ),
                f"--shard must be i/n with i from 1 to n, e.g. 2/8, not {self.shard!r}"
                if not re.fullmatch(r"[1-9]\d*/[1-9]\d*", self.shard or "1/1")
                or self.shard_of[0] >= self.shard_of[1]
                else None,
                "--overwrite excludes --shard: one job would delete the results of another"
                if self.shard and self.overwrite
                else None,
            ]
        )

    @property
    def shard_of(self) -> tuple[int, int]:
        """Index of the part, from 0, and number of parts."""
        part, n_parts = (self.shard or "1/1").split("/")
        return int(part) - 1, int(n_parts)
