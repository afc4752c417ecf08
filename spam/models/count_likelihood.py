"""Likelihoods of raw counts (ZINB, NB, Poisson), their cumulative probabilities and predictive intervals."""

from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from scipy import stats
from torch.nn.functional import softplus

from spam.typing import Array, Float, Float64, Num

Likelihood: TypeAlias = Literal["zinb", "nb", "poisson"]


def count_log_prob(
    counts: Num[torch.Tensor, "..."],
    *,
    log_mu: Float[torch.Tensor, "..."],
    log_theta: Float[torch.Tensor, "..."] | None = None,
    zi_logits: Float[torch.Tensor, "..."] | None = None,
) -> torch.Tensor:
    r"""Elementwise log-probability of counts, in float32 (float64 for float64 parameters); arguments broadcast.

    Without `log_theta` a Poisson; with it a negative binomial of variance :math:`\mu + \mu^2 / \theta`; with `zi_logits`
    too, one that is replaced by 0 with probability ``sigmoid(zi_logits)``.

    Parameters are logarithms so that neither value nor gradient overflows. Log-gamma functions of nearly equal, huge
    arguments are subtracted in float64, for counts above 0 only (a minority of a spot's genes).

    Parameters
    ----------
    counts
        Whole numbers >= 0.
    log_mu
        Logarithm of the mean before zero inflation.
    log_theta
        Logarithm of the inverse dispersion.
    zi_logits
        Log-odds of an inflated zero.
    """
    precise = torch.promote_types(log_mu.dtype, torch.float32)
    x, log_mu = counts.to(precise), log_mu.to(precise)
    of_count = -torch.lgamma(x.double() + 1)
    if log_theta is None:
        of_zero = -log_mu.exp()
        where, x, a, of_count = _counted(x, log_mu.double(), of_count)
        return of_zero.masked_scatter(where, (x * a - a.exp() + of_count).to(precise))
    log_theta = log_theta.to(precise)
    ratio = log_mu - log_theta
    of_zero = -log_theta.exp() * softplus(ratio)  # theta log(1 + mu / theta)
    theta = log_theta.double().exp()
    where, count, theta, of_theta, of_count, ratio = _counted(
        x, theta, torch.lgamma(theta), of_count, log_mu.double() - log_theta.double()
    )
    of_ratio = count * ratio - (count + theta) * softplus(ratio, threshold=40.0)
    log_prob = torch.lgamma(count + theta) - of_theta + of_count + of_ratio
    log_prob = of_zero.masked_scatter(where, log_prob.to(precise))
    if zi_logits is None:
        return log_prob
    zi_logits = zi_logits.to(precise)
    kept = log_prob - softplus(zi_logits)
    return torch.where(x > 0, kept, torch.logaddexp(kept, -softplus(-zi_logits)))


def _counted(x: torch.Tensor, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Mask of counts above 0; these counts, and the other values at their places, in float64."""
    x, *values = torch.broadcast_tensors(x, *values)  # type: ignore[no-untyped-call]
    where = x > 0
    return where, x[where].double(), *(value[where] for value in values)


def count_interval(
    likelihood: Likelihood,
    mu: Float[Array, "*shape"],
    theta: Float[Array, "..."] | None,
    pi: Float[Array, "..."] | None,
    coverage: float,
) -> tuple[Float64[Array, "*shape"], Float64[Array, "*shape"]]:
    """Equal-tailed interval of each count: its quantiles ``(1 - coverage) / 2`` and ``(1 + coverage) / 2``.

    A quantile is the smallest count whose cumulative probability reaches the level, so the interval covers at
    least `coverage`, which is in (0, 1).

    Parameters
    ----------
    likelihood
        ``poisson`` reads `mu` alone, ``nb`` also `theta`, ``zinb`` also `pi`.
    mu, theta
        Mean and inverse dispersion of the distribution before inflation; `theta` and `pi` broadcast against `mu`.
    pi
        Probability of an inflated zero.
    """
    mu = np.asarray(mu, dtype=np.float64)
    inflated = pi if likelihood == "zinb" and pi is not None else np.zeros(())
    ends = []
    for level in ((1 - coverage) / 2, (1 + coverage) / 2):
        # Smallest x with pi + (1 - pi) F(x) >= level. Rounding of a pi close to 1 must not push the inner level below 0.
        inner = np.clip((level - inflated) / np.maximum(1 - inflated, np.finfo(np.float64).tiny), 0.0, 1.0)
        family, parameters = _frozen(likelihood, mu, theta)
        x = np.maximum(family.ppf(inner, *parameters), 0.0)  # scipy gives -1 at level 0
        ends.append(np.broadcast_to(x, mu.shape).copy())
    return ends[0], ends[1]


def count_cdf(
    likelihood: Likelihood,
    counts: Num[Array, "*shape"],
    mu: Float[Array, "*shape"],
    theta: Float[Array, "..."] | None,
    pi: Float[Array, "..."] | None,
) -> Float64[Array, "*shape"]:
    """Probability of a count of at most `counts`, which may be -1; parameters as for `count_interval`."""
    family, parameters = _frozen(likelihood, np.asarray(mu, dtype=np.float64), theta)
    below = np.asarray(family.cdf(counts, *parameters))
    if likelihood != "zinb" or pi is None:
        return below
    return np.asarray(np.where(np.asarray(counts) < 0, 0.0, pi + (1 - pi) * below))


def _frozen(likelihood: Likelihood, mu: Array, theta: Array | None) -> tuple[Any, tuple[Array, ...]]:
    """Distribution of scipy and its parameters, before zero inflation."""
    if likelihood == "poisson" or theta is None:
        return stats.poisson, (mu,)
    theta = np.asarray(theta, dtype=np.float64)
    return stats.nbinom, (theta, theta / (theta + mu))
