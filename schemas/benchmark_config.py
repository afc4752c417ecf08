"""Options of `spam benchmark`."""

import dataclasses
import re
from pathlib import Path
from typing import Literal

from spam.errors import shortened

from .config import option
from .embed_config import FeatureOptions


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkConfig(FeatureOptions):
    """Options of `spam benchmark`: cross-validation of all methods on the same features, folds and scores."""

    by: Literal["section", "donor", "block"] | None = option(
        None,
        "unit to hold out in turn: section, donor, or block (a spatial block of each section) "
        "(default: donor if there are several, else section, else block)",
        panel="Data",
    )
    sections: tuple[str, ...] = option(
        (), "sections to use, e.g. C2,C3,C4 (default: all in the store)", panel="Data"
    )
    train_sections: tuple[str, ...] = option(
        (), "training sections of a single transfer, instead of folds", panel="Data"
    )
    test_sections: tuple[str, ...] = option((), "test sections of that transfer", panel="Data")
    methods: tuple[str, ...] = option(
        ("all",), "methods to compare, by name, e.g. 'training mean,tuned ridge'", panel="Model"
    )
    seeds: int = option(
        5, "number of seeds for each method that uses random numbers", limits="[1,1000]", panel="Model"
    )
    n_top_genes: int = option(
        541,
        "most variable genes to predict, chosen in each fold, plus the 50 genes of the HEST board",
        limits="[1,1000000]",
        panel="Data",
    )
    shard: str | None = option(
        None,
        "run part i of n, e.g. 2/8, of all folds, methods and seeds in a job array (default: everything)",
        metavar="<i/n>",
        panel="Advanced",
    )
    out_dir: Path | None = option(
        None,
        "folder for benchmark.md, benchmark.json, genes.csv, scores.png and the finished runs",
        required="give a folder for the results",
        panel="Output",
    )
    report: bool = option(False, "also write report.html, as spam report does", panel="Output")
    overwrite: bool = option(
        False,
        "run the named methods again; replace a benchmark with other options or data in --out-dir",
        panel="Output",
    )

    def faults(self) -> list[str | None]:
        """List contradictions between options."""
        train, test = set(self.train_sections), set(self.test_sections)
        is_part = (
            re.fullmatch(r"[1-9]\d{0,8}/[1-9]\d{0,8}", self.shard or "1/1")
            and self.shard_of[0] < self.shard_of[1]
        )
        rules = {
            "--train-sections and --test-sections must be given together": bool(train) != bool(test),
            f"--train-sections and --test-sections share {', '.join(train & test)}": bool(train & test),
            "--train-sections and --test-sections exclude --by and --sections": bool(train or test)
            and bool(self.by or self.sections),
            "--methods is empty": not self.methods,
            f"--shard must be i/n with i from 1 to n, e.g. 2/8, not {shortened(self.shard)}": not is_part,
            "--overwrite excludes --shard: one job would delete the results of another": bool(self.shard)
            and self.overwrite,
        }
        return [rule for rule, is_broken in rules.items() if is_broken]

    @property
    def shard_of(self) -> tuple[int, int]:
        """Index of the part, from 0, and number of parts."""
        part, n_parts = (self.shard or "1/1").split("/")
        return int(part) - 1, int(n_parts)
