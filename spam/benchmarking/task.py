"""What a benchmark asks of a method, and what the method answers."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

from spam.training.cohort import FeatureChoice, SpotData
from spam.training.genes import GeneChoice
from spam.typing import Array, Float32

__all__ = ["CountPrediction", "FoldTask", "Method", "MethodPrediction"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldTask:
    """One fold as a method sees it: the expression of the test sections is not in it, so it cannot leak.

    Attributes
    ----------
    name
        Name of the fold.
    train
        Sections, or parts of a lone section, to fit on, with counts.
    test
        Sections, or a part of a lone section, to predict: images and coordinates, no counts.
    genes
        Genes to predict, in order, and the sets that are scored; chosen on `train` alone.
    features
        Which feature arrays stand side by side in ``SpotData.features``.
    k
        Spatial neighbours in the graphs.
    """

    name: str
    train: tuple[SpotData, ...]
    test: tuple[SpotData, ...]
    genes: GeneChoice
    features: FeatureChoice
    k: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CountPrediction:
    """A distribution of raw counts, for methods that state one; the harness scales it to each spot's measured depth.

    Attributes
    ----------
    likelihood
        Family.
    rate
        Mean per 10k counts before zero inflation, (n_spots, n_genes).
    theta
        Inverse dispersion (n_genes,), None for a Poisson.
    pi
        Probability of an excess zero (n_spots, n_genes), for a ZINB alone.
    lower, upper
        Predictive interval of the raw counts as quantile levels that the method has calibrated on its own training
        folds, e.g. ``(0.04, 0.97)`` for 90 %.
    """

    likelihood: Literal["zinb", "nb", "poisson"]
    rate: Float32[Array, "n_spots n_genes"]
    theta: Float32[Array, " n_genes"] | None = None
    pi: Float32[Array, "n_spots n_genes"] | None = None
    lower: float = 0.05
    upper: float = 0.95


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MethodPrediction:
    """What a method says of one test section.

    Attributes
    ----------
    expression
        Predicted log1p(CP10k) of the task's genes, (n_spots, n_genes); a common offset or scale per gene is free for
        the correlations, not for the errors.
    counts
        Distribution of the raw counts, or None.
    raw_scale
        Prediction of log1p(raw counts) of the genes of ``hest-50``, in their order, by a variant that was fitted to that
        target, or None.
    """

    expression: Float32[Array, "n_spots n_genes"]
    counts: CountPrediction | None = None
    raw_scale: Float32[Array, "n_spots n_hest"] | None = None


@runtime_checkable  # for the run-time type checks of the tests
class Method(Protocol):
    """A way to predict expression: a baseline, a peer's idea, or a variant of SPAM.

    Attributes
    ----------
    name
        Name in the tables.
    is_reference
        True for a baseline, which gets no verdict.
    is_seeded
        Whether another seed gives another result; one seed is enough where not.
    """

    name: str
    is_reference: bool
    is_seeded: bool

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Fit on the training sections and predict every test section, by name.

        Must be deterministic for a seed on one machine, and must leave NumPy's and torch's global generators as they were.
        """
        ...
