"""What a model shows on spots that it was not trained on: accuracy of each gene, and how wide its intervals have to be."""

import dataclasses

import numpy as np
from scipy import stats

from spam.models import Likelihood, count_cdf
from spam.models.linear import pearson_per_gene
from spam.typing import Array, Float, Float64, Int, Num

from .spatial_significance import correlation_p_values

__all__ = ["FALSE_DISCOVERY_RATE", "HeldOut", "judge", "within_section_pearson"]

FALSE_DISCOVERY_RATE = 0.05  # of the genes that are called predictable

_LEVELS = np.concatenate([np.arange(0.01, 1.0, 0.01), [0.995, 0.999, 0.9999]])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOut:
    """Figures of the held-out spots, kept in the checkpoint.

    Attributes
    ----------
    pearson
        Correlation of each gene within a held-out section, mean over these sections; NaN where it is not defined.
    p_value
        How often a gene of the same smoothness that the images know nothing of would correlate as well
        (`correlation_p_values`); NaN where the correlation is not defined.
    n_spots
        Spots that it is based on.
    levels, coverage
        Central intervals of these nominal levels covered this share of the held-out counts (of spots and genes alike);
        both rise.
    """

    pearson: Float64[Array, " n_genes"]
    p_value: Float64[Array, " n_genes"]
    n_spots: int
    levels: Float64[Array, " n_levels"]
    coverage: Float64[Array, " n_levels"]

    @property
    def q_value(self) -> Float64[Array, " n_genes"]:
        """P values adjusted for the number of genes (Benjamini and Hochberg 1995); NaN where there is none."""
        q = np.full_like(self.p_value, np.nan)
        is_tested = np.isfinite(self.p_value)
        if is_tested.any():
            q[is_tested] = stats.false_discovery_control(self.p_value[is_tested])
        return q

    def level_for(self, coverage: float) -> float:
        """Nominal level of the interval that covered this share of the held-out counts; between two, in proportion."""
        return float(np.interp(coverage, self.coverage, self.levels))

    def to_tensors(self) -> dict[str, Array]:
        """Return the arrays that a checkpoint keeps."""
        return {
            "heldout.pearson": self.pearson,
            "heldout.p_value": self.p_value,
            "heldout.n_spots": np.asarray([self.n_spots]),
            "heldout.levels": self.levels,
            "heldout.coverage": self.coverage,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Array]) -> "HeldOut":
        """Rebuild from what `to_tensors` returned."""
        return cls(
            pearson=tensors["heldout.pearson"],
            p_value=tensors["heldout.p_value"],
            n_spots=int(tensors["heldout.n_spots"][0]),
            levels=tensors["heldout.levels"],
            coverage=tensors["heldout.coverage"],
        )


def within_section_pearson(
    predicted: Float[Array, "n n_genes"], expression: Float[Array, "n n_genes"], section: Int[Array, " n"]
) -> Float64[Array, " n_genes"]:
    """Correlate each gene within each section, and average over the sections where it is defined; NaN where in none."""
    per_section = np.stack(
        [pearson_per_gene(predicted[section == s], expression[section == s]) for s in np.unique(section)]
    )
    is_defined = np.isfinite(per_section)
    n_defined = is_defined.sum(axis=0)
    sums = np.where(is_defined, per_section, 0.0).sum(axis=0)
    mean: Array = np.where(n_defined > 0, sums / np.maximum(n_defined, 1), np.nan)
    return mean


def judge(
    predicted: Float[Array, "n n_genes"],
    expression: Float[Array, "n n_genes"],
    section: Int[Array, " n"],
    *,
    xy: Float[Array, "n 2"],
    counts: Num[Array, "n n_genes"],
    likelihood: Likelihood,
    mu: Float[Array, "n n_genes"],
    theta: Float[Array, " n_genes"] | None,
    pi: Float[Array, "n n_genes"] | None,
) -> HeldOut:
    """Compare predictions of held-out spots with what was measured.

    Parameters
    ----------
    predicted, expression
        Log1p(CP10k), predicted and measured.
    section
        Section of each spot: correlations are taken within each.
    xy
        Where each spot lies in its section.
    counts, likelihood, mu, theta, pi
        Raw counts, and the distribution that was predicted for them at the depth of each spot.
    """
    # A count lies between two quantiles if its cumulative probability reaches the lower level, and that of the count
    # below it does not reach the upper one: `count_interval`, without an inversion for each level.
    up_to = count_cdf(likelihood, counts, mu, theta, pi)
    below = count_cdf(likelihood, counts - 1.0, mu, theta, pi)
    share = [float(((up_to >= (1 - q) / 2) & (below < (1 + q) / 2)).mean()) for q in _LEVELS]
    return HeldOut(
        pearson=within_section_pearson(predicted, expression, section),
        p_value=correlation_p_values(predicted, expression, section, xy),
        n_spots=len(predicted),
        levels=_LEVELS,
        coverage=np.asarray(share),
    )
