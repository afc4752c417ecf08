"""Outcome of the HEST benchmark, as values, as a page and as a few lines."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spam.schemas.hest_config import HestConfig

from .scores import TaskScore, mean_of_defined

__all__ = ["HestReport"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HestReport:
    """Outcome of `hest_benchmark`.

    Attributes
    ----------
    config
        What was asked for.
    tasks
        Scores of each task.
    software
        Versions that the numbers depend on.
    files
        The page and the numbers that were written.
    """

    config: HestConfig
    tasks: Sequence[TaskScore]
    software: Mapping[str, str]
    files: Sequence[Path]

    @property
    def average(self) -> float:
        """Mean over tasks, as the last line of HEST's tables."""
        return mean_of_defined([task.pearson_mean for task in self.tasks])

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as JSON-ready types, named as in HEST's own files; NaN becomes None."""
        return {
            "encoder_name": self.config.enc_name,
            "solver": self.config.solver,
            "average": _plain(self.average),
            "results": [_task_values(task) for task in self.tasks],
            "software": dict(self.software),
            "files": [path.name for path in self.files],
        }

    def to_markdown(self) -> str:
        """Write the page: one table of tasks, one of genes per task."""
        return "\n".join(
            [
                "# HEST benchmark",
                "",
                f"Encoder `{self.config.enc_name}`, solver `{self.config.solver}`. Pearson with log1p(raw counts) "
                "per gene, over all test spots of a split; mean over genes, then over splits. Depth is part of the target, "
                "so such a score says less about tissue than those of `spam benchmark`.",
                "",
                "| task | mean | std over splits | each split | genes | undefined |",
                "|---|---|---|---|---|---|",
                *(_task_row(task) for task in self.tasks),
                f"| **average** | {_shown(self.average)} | | | | |",
                "",
                "Undefined: a gene that is the same at every test spot of a split has no correlation there, and is in no "
                "mean. HEST's own code gives NaN for the whole split then.",
                *(line for task in self.tasks for line in _gene_table(task)),
                "",
                "Versions: " + ", ".join(f"{name} {version}" for name, version in self.software.items()),
                "",
            ]
        )

    def summary(self) -> str:
        """Show the mean of each task and their average."""
        width = max(len(task.name) for task in self.tasks)
        lines = [f"HEST benchmark, {self.config.enc_name}, solver {self.config.solver}:"]
        for task in self.tasks:
            undefined = f", {task.n_undefined} correlations undefined" if task.n_undefined else ""
            spread = f"± {_shown(task.pearson_std)} over {len(task.splits)} splits"
            lines.append(f"  {task.name:<{width}}  {_shown(task.pearson_mean)} {spread}{undefined}")
        lines.append(f"  average  {_shown(self.average)}")
        lines.append(f"written: {', '.join(str(path) for path in self.files)}")
        return "\n".join(lines)


def _task_values(task: TaskScore) -> dict[str, Any]:
    return {
        "dataset_name": task.name,
        "pearson_mean": _plain(task.pearson_mean),
        "pearson_std": _plain(task.pearson_std),
        "mean_per_split": [_plain(split.mean) for split in task.splits],
        "n_undefined": task.n_undefined,
        "splits": [
            {"number": split.number, "n_train": split.n_train, "n_test": split.n_test}
            for split in task.splits
        ],
        "pearson_corrs": [
            {
                "name": gene,
                "mean": _plain(mean),
                "std": _plain(std),
                "pearson_corrs": [_plain(r) for r in values],
            }
            for gene, mean, std, values in _genes_best_first(task)
        ],
    }


def _genes_best_first(task: TaskScore) -> list[tuple[str, float, float, list[float]]]:
    """List genes with mean and standard deviation over splits; those without any correlation come last."""
    rows = []
    for j, gene in enumerate(task.genes):
        values = [float(split.pearson[j]) for split in task.splits]
        defined = [value for value in values if not math.isnan(value)]
        rows.append((gene, mean_of_defined(values), float(np.std(defined)) if defined else math.nan, values))
    return sorted(rows, key=lambda row: (math.isnan(row[1]), -row[1]))


def _task_row(task: TaskScore) -> str:
    each = " ".join(_shown(split.mean) for split in task.splits)
    mean, std = _shown(task.pearson_mean), _shown(task.pearson_std)
    return f"| {task.name} | {mean} | {std} | {each} | {len(task.genes)} | {task.n_undefined} |"


def _gene_table(task: TaskScore) -> list[str]:
    numbers = " | ".join(f"split {split.number}" for split in task.splits)
    rows = [
        f"| {gene} | {_shown(mean)} | {_shown(std)} | {' | '.join(map(_shown, values))} |"
        for gene, mean, std, values in _genes_best_first(task)
    ]
    return [
        "",
        f"## {task.name}",
        "",
        f"| gene | mean | std | {numbers} |",
        "|---" * (3 + len(task.splits)) + "|",
        *rows,
    ]


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
