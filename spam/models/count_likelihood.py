"""Likelihoods of raw counts (ZINB, NB, Poisson), their cumulative probabilities and predictive intervals."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from scipy import stats
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from spam.typing import Array, Float, Float32, Float64, Int64, Num

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


_SMALL = 16  # counts up to this are looked up in a table of each gene


class _ZinbSum(torch.autograd.Function):
    """Sum of the log-probabilities of a matrix of counts, by `zinb_log_prob_sum`."""

    @staticmethod
    def forward(
        ctx: Any,
        log_mu: torch.Tensor,
        log_theta: torch.Tensor,
        zi_logits: torch.Tensor,
        place: torch.Tensor,
        count: torch.Tensor,
    ) -> torch.Tensor:
        # As if all counts were 0: log(pi + (1 - pi) p0) = logaddexp(zi, log p0) - softplus(zi).
        log_theta = log_theta.clamp(max=80.0)  # exp overflows at 89
        theta = log_theta.exp()
        ratio = log_mu - log_theta
        soft_ratio = softplus_without_grad(ratio)
        log_p0 = -theta * soft_ratio  # -theta log(1 + mu / theta)
        share = ratio.sigmoid()  # mu / (theta + mu)
        slope = theta * share  # -d log_p0 / d log_mu
        excess = log_p0 - zi_logits
        kept = excess.sigmoid()  # probability that a zero is not an inflated one
        inflated = _softplus(zi_logits)
        log_prob = _softplus(excess).add_(zi_logits).sub_(inflated).view(-1)
        of_theta = log_p0.add_(slope).mul_(kept)
        of_mu = slope.mul_(kept).neg_()
        inflation = zi_logits.sigmoid()
        of_zi = 1.0 - inflation - kept
        # The counts above 0.
        gene = place % len(log_theta)
        constant, harmonic = _of_counts(count, log_theta, gene)
        theta = theta.index_select(0, gene)
        ratio, soft_ratio, share, inflated, inflation = (
            matrix.view(-1).index_select(0, place)
            for matrix in (ratio, soft_ratio, share, inflated, inflation)
        )
        count = count.to(ratio.dtype)
        total = count + theta
        of_theta_at = (harmonic - soft_ratio).mul_(theta)
        value = constant.addcmul_(count, ratio).sub_(soft_ratio.mul_(total)).sub_(inflated)
        slope_at = count.sub_(total.mul_(share))
        log_prob.scatter_(0, place, value)
        of_mu.view(-1).scatter_(0, place, slope_at)
        of_theta.view(-1).scatter_(0, place, of_theta_at.sub_(slope_at))
        of_zi.view(-1).scatter_(0, place, inflation.neg_())
        ctx.save_for_backward(of_mu, of_theta.sum(dim=0), of_zi)
        return log_prob.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_mu, of_theta, of_zi = ctx.saved_tensors
        return grad * of_mu, grad * of_theta, grad * of_zi, None, None


def softplus_without_grad(x: Float[torch.Tensor, "*shape"]) -> Float[torch.Tensor, "*shape"]:
    """Compute ``log(1 + exp(x))`` to full relative precision, without a gradient.

    Rounding of ``1 + u`` cancels in ``u log(1 + u) / ((1 + u) - 1)`` (Kahan); the tiny number makes this ``u`` where ``1 + u``
    is 1. Exponentials and logarithms are vectorised on every CPU; log1p, softplus and logaddexp of PyTorch with MKL take
    four times as long on AMD.
    """
    tiny = torch.finfo(x.dtype).tiny
    u = x.abs().neg_().exp_()
    rounded = u + 1.0
    log = rounded.log().add_(tiny).div_(rounded.sub_(1.0).add_(tiny)).mul_(u)
    return log.add_(x.clamp(min=0.0))


def _softplus(x: Float[torch.Tensor, "*shape"]) -> Float[torch.Tensor, "*shape"]:
    """Compute ``log(1 + exp(x))`` to an absolute error of 1e-7, in half of the time of `softplus_without_grad`."""
    return x.clamp(min=0.0).sub_(x.abs().sigmoid_().log_())


def _of_counts(
    count: torch.Tensor, log_theta: torch.Tensor, gene: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute ``lgamma(count + theta) - lgamma(theta) - lgamma(count + 1)`` and its derivative by theta, in float64 at first.

    For small counts, which are nearly all, these are sums of ``log((theta + k) / (k + 1))`` and ``1 / (theta + k)`` over k < count.
    """
    theta, k = log_theta.double().exp(), torch.arange(_SMALL, device=log_theta.device)
    steps = theta[:, None] + k
    at = gene * _SMALL + count.clamp(max=_SMALL) - 1
    found = [
        terms.cumsum(dim=-1).to(log_theta.dtype).flatten().index_select(0, at)
        for terms in ((steps / (k + 1)).log(), steps.reciprocal())
    ]
    large = (count > _SMALL).nonzero()[:, 0]
    if len(large):
        theta, count = theta[gene[large]], count[large].double()
        total = count + theta
        found[0][large] = (total.lgamma() - theta.lgamma() - (count + 1).lgamma()).to(log_theta.dtype)
        found[1][large] = (total.digamma() - theta.digamma()).to(log_theta.dtype)
    return found[0], found[1]


def zinb_log_prob_sum(
    place: Int64[torch.Tensor, " n_counts"],
    count: Num[torch.Tensor, " n_counts"],
    *,
    log_mu: Float32[torch.Tensor, "b n_genes"],
    log_theta: Float32[torch.Tensor, " n_genes"],
    zi_logits: Float32[torch.Tensor, "b n_genes"],
) -> Float32[torch.Tensor, ""]:
    """Sum over spots and genes of `count_log_prob` for a ZINB, in a fraction of the time.

    Zeros need one term. Value and gradient are computed in one pass.

    Parameters
    ----------
    place, count
        Where the counts above 0 stand in the (b, n_genes) matrix, row after row, and their values.
    log_mu, log_theta, zi_logits
        As for `count_log_prob`.
    """
    total: torch.Tensor = _ZinbSum.apply(log_mu, log_theta, zi_logits, place, count)
    return total


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
    # Smallest x with pi + (1 - pi) F(x) >= level. Rounding of a pi close to 1 must not push the inner level below 0.
    inner = (
        np.clip((level - inflated) / np.maximum(1 - inflated, np.finfo(np.float64).tiny), 0.0, 1.0)
        for level in ((1 - coverage) / 2, (1 + coverage) / 2)
    )
    family, parameters = _frozen(likelihood, mu, theta)
    lower, upper, *flat = (np.broadcast_to(each, mu.shape).ravel() for each in (*inner, *parameters))
    ends, rest = _summed_quantiles(flat, lower, upper)
    for end, level in zip(ends, (lower, upper), strict=True):
        # scipy takes longer, but not in proportion to the quantile; it gives -1 at level 0.
        end[rest] = np.maximum(family.ppf(level[rest], *(each[rest] for each in flat)), 0.0)
    return ends[0].reshape(mu.shape), ends[1].reshape(mu.shape)


_MOST_SUMMED = 64  # counts whose probabilities are added one by one


def _summed_quantiles(
    parameters: Sequence[Float64[Array, " n"]], lower: Float64[Array, " n"], upper: Float64[Array, " n"]
) -> tuple[Float64[Array, "2 n"], Int64[Array, " rest"]]:
    """Add the probabilities of 0, 1, 2, … for all entries at once, until both levels are reached.

    Parameters
    ----------
    parameters
        Of `_frozen`: the mean of a Poisson, or number and probability of successes of a negative binomial.

    Returns
    -------
    Both quantiles, and the entries whose upper quantile is above `_MOST_SUMMED`.
    """
    ends, active = np.zeros((2, len(lower))), np.arange(len(lower))
    # p(x + 1) / p(x) is (scale + x * slope) / (x + 1): mu / (x + 1), or (theta + x) (1 - success) / (x + 1).
    if len(parameters) == 1:
        scale, slope, p = parameters[0], np.zeros(len(lower)), np.exp(-parameters[0])
    else:
        theta, success = parameters
        scale, slope, p = theta * (1.0 - success), 1.0 - success, success**theta
    state = np.stack([p, p, lower, upper, scale, slope])
    for x in range(_MOST_SUMMED + 1):
        ends[0, active[state[1] < state[2]]] += 1.0
        is_below = ~(state[1] >= state[3])  # NaN stays, for scipy
        active, state = active[is_below], state[:, is_below]
        ends[1, active] += 1.0
        p, cdf, _, _, scale, slope = state
        p *= (scale + x * slope) / (x + 1)
        cdf += p
    return ends, active


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
