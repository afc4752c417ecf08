"""Options of `spam benchmark`."""

import dataclasses
from pathlib import Path
from typing import Literal

from .config import check, folder_fault, option
from .embed_config import FeatureOptions

__all__ = ["BenchmarkConfig"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkConfig(FeatureOptions):
    """Options of `spam benchmark`: cross-validation of all methods on the same features, folds and scores."""

    by: Literal["section", "donor", "block"] | None = option(
        None,
        "what is held out in turn: section, donor, or block, a spatial block of each section "
        "(default: donor where there are several, else section, else block)",
    )
    sections: tuple[str, ...] = option((), "sections to take, e.g. C2,C3,C4 (default: all of the store)")
    train_sections: tuple[str, ...] = option((), "sections to train on in one transfer, instead of folds")
    test_sections: tuple[str, ...] = option((), "sections to test on in that transfer")
    methods: tuple[str, ...] = option(
        ("all",), "methods to compare, by their names in the tables, e.g. 'training mean,tuned ridge'"
    )
    seeds: int = option(5, "seeds of each method that depends on one")
    n_top_genes: int = option(
        541, "most variable genes to predict, chosen in each fold; the 50 genes of the HEST board come on top"
    )
    jobs: int = option(1, "methods to run side by side, each in a process with its share of the cores")
    out_dir: Path | None = option(
        None, "folder for benchmark.md, benchmark.json, genes.csv, the figures and the finished cells"
    )
    overwrite: bool = option(
        False,  # noqa: FBT003
        "compute the named methods again; a benchmark of other options or data in --out-dir is removed",
    )

    def __post_init__(self) -> None:
        is_transfer = bool(self.train_sections or self.test_sections)
        both = [name for name in self.train_sections if name in self.test_sections]
        twice = {
            name: sorted({value for value in values if values.count(value) > 1})
            for name, values in (
                ("--sections", self.sections),
                ("--train-sections", self.train_sections),
                ("--test-sections", self.test_sections),
                ("--methods", self.methods),
            )
        }
        check(
            [
                "--store is missing: give the feature store that `spam embed` wrote"
                if self.store is None
                else None,
                "--out-dir is missing: say where the results go" if self.out_dir is None else None,
                folder_fault("out_dir", self.out_dir),
                "--train-sections and --test-sections belong together: give both for one transfer, or neither"
                if is_transfer and not (self.train_sections and self.test_sections)
                else None,
                f"{', '.join(both)} is both in --train-sections and in --test-sections: a section is never on both sides"
                if both
                else None,
                "--train-sections and --test-sections ask for one transfer, --by and --sections for folds; give one of them"
                if is_transfer and (self.by or self.sections)
                else None,
                *(f"{name} names {', '.join(names)} twice" for name, names in twice.items() if names),
                "--methods names nobody; leave it out for all" if not self.methods else None,
                *(
                    f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}"
                    for name in ("seeds", "k", "n_top_genes", "jobs")
                    if getattr(self, name) < 1
                ),
            ]
        )
