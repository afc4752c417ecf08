"""Predictive intervals of counts, exact for the zero-inflated distribution too."""

import numpy as np
from scipy import stats

from spam.errors import ConfigError
from spam.typing import Array, Float, Float64, Num

from .distributions import Likelihood

__all__ = ["count_cdf", "count_interval"]


def count_interval(
    likelihood: Likelihood,
    mu: Float[Array, "*shape"],
    theta: Float[Array, "..."] | None,
    pi: Float[Array, "..."] | None,
    coverage: float,
) -> tuple[Float64[Array, "*shape"], Float64[Array, "*shape"]]:
    """Equal-tailed interval of each count: its quantiles ``(1 - coverage) / 2`` and ``(1 + coverage) / 2``.

    A quantile is the smallest count whose cumulative probability reaches the level, so the interval covers at
    least `coverage`.

    Parameters
    ----------
    likelihood
        ``poisson`` reads `mu` alone, ``nb`` also `theta`, ``zinb`` also `pi`; what is not read is None.
    mu, theta
        Mean and inverse dispersion of the (not inflated) distribution; `theta` and `pi` broadcast against
        `mu`.
    pi
        Probability of an inflated zero.
    coverage
        Probability mass inside, in (0, 1).

    Raises
    ------
    ConfigError
        If `coverage` is not in (0, 1), or the parameters are not those of the likelihood.
    """
    faults = [
        f"coverage={coverage!r}, but it must be in (0, 1) (--coverage)" if not 0 < coverage < 1 else "",
        f"likelihood {likelihood!r}, but it must be zinb, nb or poisson"
        if likelihood not in ("zinb", "nb", "poisson")
        else "",
        f"theta of likelihood {likelihood!r} as {type(theta).__name__}"
        if (theta is None) != (likelihood == "poisson")
        else "",
        f"pi of likelihood {likelihood!r} as {type(pi).__name__}"
        if (pi is None) != (likelihood != "zinb")
        else "",
    ]
    if any(faults):
        message = "a predictive interval was asked for with " + "; ".join(fault for fault in faults if fault)
        raise ConfigError(message)
    mu = np.asarray(mu, dtype=np.float64)
    lower, upper = (
        _quantile((1 + sign * coverage) / 2, mu, theta, np.zeros(()) if pi is None else pi)
        for sign in (-1, 1)
    )
    return lower, upper


def count_cdf(
    likelihood: Likelihood,
    counts: Num[Array, "*shape"],
    mu: Float[Array, "*shape"],
    theta: Float[Array, "..."] | None,
    pi: Float[Array, "..."] | None,
) -> Float64[Array, "*shape"]:
    """Probability of a count of at most `counts`, which may be -1; parameters as for `count_interval`."""
    mu = np.asarray(mu, dtype=np.float64)
    if theta is None:
        below = stats.poisson.cdf(counts, mu)
    else:
        theta = np.asarray(theta, dtype=np.float64)
        below = stats.nbinom.cdf(counts, theta, theta / (theta + mu))
    if likelihood != "zinb" or pi is None:
        return np.asarray(below)
    return np.asarray(np.where(np.asarray(counts) < 0, 0.0, pi + (1 - pi) * below))


def _quantile(level: float, mu: Array, theta: Array | None, pi: Array) -> Array:
    """Smallest x with ``pi + (1 - pi) F(x) >= level``."""
    # Float rounding of pi close to 1 must not push the inner level below 0; a level <= 0 is met by x = 0.
    inner = np.clip((level - pi) / np.maximum(1 - pi, np.finfo(np.float64).tiny), 0.0, 1.0)
    if theta is None:
        x = stats.poisson.ppf(inner, mu)
    else:
        theta = np.asarray(theta, dtype=np.float64)
        x = stats.nbinom.ppf(inner, theta, theta / (theta + mu))
    quantile: Array = np.broadcast_to(np.maximum(x, 0.0), mu.shape).copy()  # scipy gives -1 at level 0
    return quantile
