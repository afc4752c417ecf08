"""Options of `spam benchmark`."""

import dataclasses
from pathlib import Path
from typing import Literal

from .config import data, model, output
from .embed_config import FeatureOptions
from .shards import part_of, shard_fault, shard_option


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkConfig(FeatureOptions):
    """Options of `spam benchmark`: cross-validation of all methods on the same features, folds and scores."""

    by: Literal["section", "donor", "block"] | None = data(
        None,
        "unit to hold out in turn: section, donor, or block (a spatial block of each section) "
        "(default: donor if there are several, else section, else block)",
    )
    sections: tuple[str, ...] = data((), "sections to use, e.g. C2,C3,C4 (default: all in the store)")
    train_sections: tuple[str, ...] = data((), "training sections of a single transfer, instead of folds")
    test_sections: tuple[str, ...] = data((), "test sections of that transfer")
    folds: Path | None = data(
        None,
        "CSV with predefined folds, such as ids.csv of STP-Bench: one row per section, columns section (or sample_id), fold_0, "
        "fold_1 ... with the values train, test or nothing",
    )
    methods: tuple[str, ...] = model(
        ("all",), "methods to compare, by name, e.g. 'training mean,tuned ridge'"
    )
    seeds: int = model(5, "number of seeds for each method that uses random numbers", limits="[1,1000]")
    n_top_genes: int = data(
        541,
        "most variable genes to predict, chosen in each fold, plus the 50 genes of the HEST board",
        limits="[1,1000000]",
    )
    shard: str | None = shard_option("run, of all folds, methods and seeds,")
    out_dir: Path | None = output(
        None,
        "folder for benchmark.md, benchmark.json, genes.csv, scores.png and the finished runs",
        required="give a folder for the results",
    )
    report: bool = output(False, "also write report.html, as spam report does")
    overwrite: bool = output(
        False,
        "run the named methods again; replace a benchmark with other options or data in --out-dir",
    )

    def faults(self) -> list[str | None]:
        """List contradictions between options."""
        train, test = set(self.train_sections), set(self.test_sections)
        rules = {
            "--train-sections and --test-sections must be given together": bool(train) != bool(test),
            f"--train-sections and --test-sections share {', '.join(train & test)}": bool(train & test),
            "--train-sections and --test-sections exclude --by and --sections": bool(train or test)
            and bool(self.by or self.sections),
            "--folds excludes --by, --sections, --train-sections and --test-sections": self.folds
            and (self.by or self.sections or train or test),
            "--methods is empty": not self.methods,
        }
        of_parts = shard_fault(self.shard, is_overwrite=self.overwrite)
        return [of_parts, *(rule for rule, is_broken in rules.items() if is_broken)]

    @property
    def shard_of(self) -> tuple[int, int]:
        """Index of the part, from 0, and number of parts."""
        return part_of(self.shard)
