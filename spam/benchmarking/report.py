"""Outcome of a benchmark, as values and as a few lines."""

import dataclasses
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
import torch

from spam.evaluation import HEADLINE_SET, RIVAL
from spam.schemas.benchmark_config import BenchmarkConfig
from spam.training.cohort import FeatureChoice

from .cells import Cell
from .folds import Fold
from .leakage import FoldLeakage
from .method_cost import MethodCost
from .summary import PairedDifference, ScoreSummary, UnitKind

__all__ = ["BenchmarkReport", "describe_hardware"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BenchmarkReport:
    """Outcome of `benchmark`.

    Attributes
    ----------
    config
        What was asked for.
    features, folds, leakage, genes
        What it was run on: features, folds, what their sides have in common, and genes predicted in each fold.
    data_sha256
        Digest of features, coordinates and counts.
    scores
        Every score, see `score_table`.
    unit
        What intervals are drawn over.
    summaries, differences, costs
        Means with their spread, paired differences, and cost of each method.
    failures
        Cells without scores.
    software, hardware
        What it was run with.
    files
        Everything that was written, the finished cells apart.
    """

    config: BenchmarkConfig
    features: FeatureChoice
    folds: Sequence[Fold]
    leakage: Sequence[FoldLeakage]
    data_sha256: str
    scores: pd.DataFrame
    unit: UnitKind
    summaries: Sequence[ScoreSummary]
    differences: Sequence[PairedDifference]
    costs: Sequence[MethodCost]
    failures: Sequence[Cell]
    software: Mapping[str, str]
    hardware: Mapping[str, Any]
    files: Sequence[Path] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every method gave scores, those apart that do not apply to a fold."""
        return all(cell.failure is None or cell.failure.is_expected for cell in self.failures)

    @property
    def verdicts(self) -> list[str]:
        """One line per method that is no baseline: beats the tuned ridge or not."""
        return [
            d.sentence()
            for d in self.differences
            if (d.other, d.gene_set, d.score) == (RIVAL, HEADLINE_SET, "pearson")
        ]

    def find(self, method: str, gene_set: str, score: str) -> ScoreSummary | None:
        """Find one summary, or None where the method has no such score."""
        for summary in self.summaries:
            if (summary.method, summary.gene_set, summary.score) == (method, gene_set, score):
                return summary
        return None

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as JSON-ready types; NaN becomes None."""
        store = PurePath(str(self.config.store)).name  # folders of one machine mean nothing elsewhere
        values: dict[str, Any] = _plain(
            {
                "config": {**self.config.to_mapping(), "store": store, "out_dir": None},
                "features": dataclasses.asdict(self.features),
                "folds": [dataclasses.asdict(fold) for fold in self.folds],
                "leakage": [{**dataclasses.asdict(x), "sentences": x.sentences()} for x in self.leakage],
                "data_sha256": self.data_sha256,
                "unit": self.unit,
                "summaries": [dataclasses.asdict(summary) for summary in self.summaries],
                "differences": [
                    {**dataclasses.asdict(d), "is_better": d.is_better, "sentence": d.sentence()}
                    for d in self.differences
                ],
                "verdicts": self.verdicts,
                "costs": [dataclasses.asdict(cost) for cost in self.costs],
                "failures": [
                    {"fold": cell.fold, "method": cell.method, "seed": cell.seed}
                    | ({} if cell.failure is None else dataclasses.asdict(cell.failure))
                    for cell in self.failures
                ],
                "scores": self.scores.to_dict(orient="records"),
                "software": dict(self.software),
                "hardware": dict(self.hardware),
                "files": [path.name for path in self.files],
            }
        )
        return values

    def summary(self) -> str:
        """Show the headline scores, best last, with the verdicts and what failed."""
        headline = [s for s in self.summaries if (s.gene_set, s.score) == (HEADLINE_SET, "pearson")]
        headline.sort(key=lambda s: np.nan_to_num(s.interval.mean, nan=-2.0))
        width = max((len(s.method) for s in headline), default=0)
        lines = [f"{HEADLINE_SET} Pearson within test sections, mean over {self.unit}:"]
        lines += [f"  {s.method:<{width}}  {round(s.interval.mean, 3) + 0.0:.3f}" for s in headline]
        lines += self.verdicts
        lines += [
            f"{cell.method} gave no scores in {cell.fold} (seed {cell.seed}): {cell.failure.message}"
            for cell in self.failures
            if cell.failure is not None and not cell.failure.is_expected
        ]
        lines.append(f"written: {', '.join(str(path) for path in self.files)}")
        return "\n".join(lines)


def describe_hardware() -> dict[str, Any]:
    """Describe the machine as far as it decides seconds, without a name of it."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def _plain(value: Any) -> Any:
    """Replace NaN by None and NumPy's numbers by Python's, as deep as it goes."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
