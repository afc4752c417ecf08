"""How sure a mean score is: bootstrap intervals over genes, sections or donors."""

import dataclasses
from typing import Any

import numpy as np

from spam.typing import Array, Float, Shaped

__all__ = ["Interval", "bootstrap_mean"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and the bootstrap interval around it.

    Attributes
    ----------
    mean
        Mean of the units; NaN without any.
    lower, upper
        Ends of the interval; NaN with fewer than two units, where nothing can be said.
    level
        Probability mass of the interval.
    n_units
        What was drawn: values, or groups of values; NaN ones are not counted.
    """

    mean: float
    lower: float
    upper: float
    level: float
    n_units: int

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types; NaN becomes None."""
        return {k: None if v != v else v for k, v in dataclasses.asdict(self).items()}


def bootstrap_mean(
    values: Float[Array, " n_values"],
    groups: Shaped[Array, " n_values"] | None = None,
    *,
    seed: int,
    n: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Average the values and draw them again `n` times with replacement for a percentile interval.

    With `groups` (the donor of each value, say) the mean of each group is one unit: groups are drawn, and
    each weighs the same. NaN values are left out first.

    Efron B, Tibshirani RJ. An Introduction to the Bootstrap (1993), chapter 13.
    """
    is_defined = np.isfinite(values)
    units = values[is_defined].astype(np.float64)
    if groups is not None:
        _, index = np.unique(groups[is_defined], return_inverse=True)
        units = np.bincount(index, weights=units) / np.bincount(index)
    if len(units) < 2:
        mean = float(units[0]) if len(units) else float("nan")
        return Interval(mean=mean, lower=float("nan"), upper=float("nan"), level=level, n_units=len(units))
    generator = np.random.default_rng(seed)
    means = generator.choice(units, size=(n, len(units))).mean(axis=1)
    lower, upper = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        mean=float(units.mean()), lower=float(lower), upper=float(upper), level=level, n_units=len(units)
    )
