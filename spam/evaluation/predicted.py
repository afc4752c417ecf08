"""What a board compares: the truth of one section, and what each predictor said about it."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import sparse

from spam.errors import SectionError
from spam.models.expression import CountMatrix
from spam.typing import Array, Num, Shaped

__all__ = ["PredictedExpression", "SectionTruth"]

# The axes of the fields below are left open (`_`): the records check them, with messages that help a user.


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SectionTruth:
    """What was measured in one section.

    Attributes
    ----------
    counts
        Raw counts (n_spots, n_genes).
    genes
        Names (n_genes,), all different.
    totals
        Library size of each spot (n_spots,) over all genes of the section.
    weights
        Spatial graph (n_spots, n_spots) for Moran's I, or None: then nothing is said about patterns.

    Raises
    ------
    SectionError
        If the sizes do not fit or a gene is named twice.
    """

    counts: CountMatrix
    genes: Shaped[Array, " _"]
    totals: Num[Array, " _"]
    weights: sparse.csr_matrix | sparse.csr_array | None = None

    def __post_init__(self) -> None:
        n_spots, n_genes = self.counts.shape
        _check(
            "the truth of a section",
            [
                _size("genes", len(self.genes), n_genes, "columns of the counts"),
                _size("totals", len(self.totals), n_spots, "rows of the counts"),
                None
                if self.weights is None
                else _size("weights", self.weights.shape[0], n_spots, "rows of the counts"),
                *_duplicates(self.genes),
            ],
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictedExpression:
    """What one predictor says about the spots of a section.

    Attributes
    ----------
    name
        Name of the predictor, as it stands in the tables.
    expression
        Predicted log1p(CP10k), (n_spots, n_genes).
    genes
        Names (n_genes,), all different; those that the section has not measured are not scored.
    is_reference
        True for a baseline; False for a model, which gets a verdict.
    nll
        Negative log-likelihood of the true counts, mean over spots (n_genes,), in nats; None without a
        distribution.
    lower, upper
        Predictive interval of the raw counts, (n_spots, n_genes); both or none.
    raw_scale, raw_genes
        Prediction of log1p(raw counts) by a variant trained on that target, for the HEST board, and its genes
        (default: `genes`). Without it the HEST board scores `expression` as it is: a Pearson correlation asks
        for no common scale, but a prediction that knows nothing of depth is at a disadvantage there.

    Raises
    ------
    SectionError
        If the sizes do not fit, a gene is named twice, or a prediction is NaN or infinite.
    """

    name: str
    expression: Num[Array, "_ _"]
    genes: Shaped[Array, " _"]
    is_reference: bool
    nll: Num[Array, " _"] | None = None
    lower: Num[Array, "_ _"] | None = None
    upper: Num[Array, "_ _"] | None = None
    raw_scale: Num[Array, "_ _"] | None = None
    raw_genes: Shaped[Array, " _"] | None = None

    def __post_init__(self) -> None:
        n_spots, n_genes = self.expression.shape
        faults = [
            _size("genes", len(self.genes), n_genes, "columns of the expression"),
            *_duplicates(self.genes),
            *_not_finite("expression", self.expression),
        ]
        if self.nll is not None:
            faults.append(_size("nll", len(self.nll), n_genes, "genes"))
        if (self.lower is None) != (self.upper is None):
            faults.append("an interval needs both lower and upper")
        for name in ("lower", "upper"):
            bound = getattr(self, name)
            if bound is not None and bound.shape != (n_spots, n_genes):
                faults.append(f"{name} has shape {bound.shape}, the expression {(n_spots, n_genes)}")
        if self.raw_scale is not None:
            raw_genes = self.genes if self.raw_genes is None else self.raw_genes
            if self.raw_scale.shape != (n_spots, len(raw_genes)):
                faults.append(f"raw_scale has shape {self.raw_scale.shape}, not {(n_spots, len(raw_genes))}")
            faults += [*_duplicates(raw_genes), *_not_finite("raw_scale", self.raw_scale)]
        _check(f"the prediction {self.name!r}", faults)


def _size(name: str, found: int, expected: int, of: str) -> str | None:
    """Say that a size is wrong, or None."""
    return None if found == expected else f"{name} has {found} entries for {expected} {of}"


def _duplicates(genes: Shaped[Array, " n_genes"]) -> Iterator[str]:
    """Say which genes are named twice."""
    index = pd.Index(genes)
    twice = sorted({str(gene) for gene in index[index.duplicated()]})
    if twice:
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        yield f"genes named more than once: {', '.join(map(repr, twice[:5]))}{more}"


def _not_finite(name: str, values: Num[Array, "n_spots n_genes"]) -> Iterator[str]:
    """Say how many values are NaN or infinite."""
    n_bad = int((~np.isfinite(values)).sum())
    if n_bad:
        yield f"{name} holds {n_bad} values of {values.size} that are NaN or infinite"


def _check(what: str, faults: list[str | None]) -> None:
    """Raise one error that lists all faults; None entries are no fault."""
    found = [fault for fault in faults if fault]
    if found:
        message = f"{what} does not fit together: {'; '.join(found)}; give arrays of the same spots and genes"
        raise SectionError(message)
