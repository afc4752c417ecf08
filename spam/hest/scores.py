"""Scores of the HEST benchmark: Pearson per gene over all test spots of a split, averaged over genes, then over splits."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from spam.typing import Array, Float64

__all__ = ["SplitScore", "TaskScore", "mean_of_defined"]


def mean_of_defined(values: Sequence[float] | Array) -> float:
    """Average what is not NaN; NaN if nothing is left."""
    values = np.asarray(values, dtype=np.float64)
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SplitScore:
    """Scores of one split.

    Attributes
    ----------
    number
        Number of the split.
    n_train, n_test
        Spots that it was trained on, and that it is scored on.
    pearson
        Correlation per gene, in the order of the task's genes, over the spots of all test samples; NaN where a gene
        (or its prediction) is the same at every spot.
    """

    number: int
    n_train: int
    n_test: int
    pearson: Float64[Array, " n_genes"]

    @property
    def mean(self) -> float:
        """Mean over the genes that have a correlation."""
        return mean_of_defined(self.pearson)

    @property
    def n_undefined(self) -> int:
        """Genes without a correlation."""
        return int(np.isnan(self.pearson).sum())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskScore:
    """Scores of one task: its genes, its splits."""

    name: str
    genes: tuple[str, ...]
    splits: tuple[SplitScore, ...]

    @property
    def pearson_mean(self) -> float:
        """Mean over splits."""
        return mean_of_defined([split.mean for split in self.splits])

    @property
    def pearson_std(self) -> float:
        """Standard deviation over splits (ddof 0, as HEST's)."""
        means = np.array([split.mean for split in self.splits])
        defined = means[~np.isnan(means)]
        return float(defined.std()) if len(defined) else float("nan")

    @property
    def n_undefined(self) -> int:
        """Correlations that are not defined, counted over genes and splits."""
        return sum(split.n_undefined for split in self.splits)
