"""Log-probabilities of the negative binomial and the Poisson that keep their digits in float32.

The textbook form subtracts log-gamma functions of nearly equal, huge arguments. Loader's form below has no
such difference: every pair of terms that would cancel is written as one small term.

Source: C. Loader, Fast and accurate computation of binomial probabilities, 2000 (the algorithm of R's
``dbinom``), with a negative binomial written as a binomial over real-valued sizes. Relative to the paper:
means and sizes come as logarithms, and the gradients are written out, so that they are finite wherever the
value is.
"""

import math
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

__all__ = ["negative_binomial_log_prob", "poisson_log_prob"]

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
# Bernoulli numbers B(2k) / (2k (2k - 1)): the tail of Stirling's series. At z = 8 the first term left
# out is 1e-14.
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
# B(2k) / (2k): the same for the digamma function.
_DIGAMMA = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)
_SERIES_FROM = 8.0


def _horner(coefficients: tuple[float, ...], x: torch.Tensor) -> torch.Tensor:
    """Polynomial with the coefficient of the lowest power first."""
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def _stirling_error(z: torch.Tensor) -> torch.Tensor:
    """Distance of log z! to Stirling's formula, for z > 0; falls from infinity to 0."""
    large = z.clamp(min=_SERIES_FROM)
    series = _horner(_STIRLING, 1 / (large * large)) / large
    small = z.clamp(max=_SERIES_FROM)
    direct = torch.lgamma(small + 1) - (small + 0.5) * small.log() + small - _HALF_LOG_2PI
    return torch.where(z >= _SERIES_FROM, series, direct)


def _digamma_error(z: torch.Tensor) -> torch.Tensor:
    """``z (digamma(z) - log z)`` for z > 0; rises from -1 to -0.5."""
    large = z.clamp(min=_SERIES_FROM)
    series = -0.5 - _horner(_DIGAMMA, 1 / (large * large)) / large
    small = z.clamp(max=_SERIES_FROM)
    # digamma(z) = digamma(z + 1) - 1 / z keeps digits where z is tiny.
    direct = small * (torch.digamma(small + 1) - small.log()) - 1
    return torch.where(z >= _SERIES_FROM, series, direct)


def _deviance(t: torch.Tensor, log_rest: torch.Tensor) -> torch.Tensor:
    """``-log(1 - t) - t`` for t < 1; `log_rest` is log(1 - t), got without the difference, for t near 1."""
    v = t / (2 - t)
    is_small = v.abs() < 0.1
    w = torch.where(is_small, v, torch.zeros_like(v))
    # -log(1 - t) = 2 artanh(v): the linear terms drop out. Eight terms of v² <= 0.01 suffice for float64.
    series = t * w + 2 * w**3 * _horner(tuple(1 / (2 * k + 3) for k in range(8)), w * w)
    log_one_minus_t = torch.where(t > 0.9, log_rest, torch.log1p(-t.clamp(max=0.95)))
    return torch.where(is_small, series, -log_one_minus_t - t)


class _NegativeBinomialLogProb(torch.autograd.Function):
    """Elementwise log-probability of counts; all arguments of one shape."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, log_mu: torch.Tensor, log_theta: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, log_mu, log_theta)
        ratio = (log_mu - log_theta).exp()
        # Where the ratio over- or underflows, its log1p is one of its two asymptotes.
        log1p_ratio = torch.where(ratio > 1, log_mu - log_theta + torch.log1p(1 / ratio), torch.log1p(ratio))
        log_prob = -log_theta.exp() * log1p_ratio  # of x = 0
        is_counted = x > 0
        log_prob[is_counted] = _log_prob_of_positive(x[is_counted], log_mu[is_counted], log_theta[is_counted])
        return log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, log_mu, log_theta = ctx.saved_tensors
        mu, theta = log_mu.exp(), log_theta.exp()
        shift = (mu - x) / (theta + mu)
        by_log_mu = -theta * shift
        by_log_theta = -theta * _deviance(shift, (theta + x).log() - (theta + mu).log())
        is_counted = x > 0
        r, n = theta[is_counted], (theta + x)[is_counted]
        by_log_theta[is_counted] += r / n * _digamma_error(n) - _digamma_error(r)
        return None, grad * by_log_mu, grad * by_log_theta


def _log_prob_of_positive(x: torch.Tensor, log_mu: torch.Tensor, log_theta: torch.Tensor) -> torch.Tensor:
    """Loader's form: a binomial of `theta` out of ``x + theta``, whose chance is ``theta / (theta + mu)``."""
    mu, theta = log_mu.exp(), log_theta.exp()
    n, total = x + theta, theta + mu
    gap = (x - mu) / total
    deviance_x = _deviance(gap * theta / x, log_mu - x.log() + n.log() - total.log())
    deviance_theta = _deviance(-gap, n.log() - total.log())
    return (
        0.5 * (theta / n).log()
        - 0.5 * x.log()
        - _HALF_LOG_2PI
        + _stirling_error(n)
        - _stirling_error(theta)
        - _stirling_error(x)
        - x * deviance_x
        - theta * deviance_theta
    )


class _PoissonLogProb(torch.autograd.Function):
    """Elementwise log-probability of counts; both arguments of one shape."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, log_mu: torch.Tensor) -> torch.Tensor:
        mu = log_mu.exp()
        ctx.save_for_backward(x - mu)
        log_prob = -mu
        is_counted = x > 0
        count, log_mean = x[is_counted], log_mu[is_counted]
        deviance = _deviance((count - mu[is_counted]) / count, log_mean - count.log())
        log_prob[is_counted] = -0.5 * count.log() - _HALF_LOG_2PI - _stirling_error(count) - count * deviance
        return log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (residual,) = ctx.saved_tensors
        return None, grad * residual


def negative_binomial_log_prob(
    x: torch.Tensor, log_mu: torch.Tensor, log_theta: torch.Tensor
) -> torch.Tensor:
    """Log-probability of counts with mean ``mu`` and variance ``mu + mu²/theta``, elementwise; broadcasts."""
    shape = np.broadcast_shapes(x.shape, log_mu.shape, log_theta.shape)
    arguments = (tensor.expand(shape) for tensor in (x, log_mu, log_theta))
    result: torch.Tensor = _NegativeBinomialLogProb.apply(*arguments)
    return result


def poisson_log_prob(x: torch.Tensor, log_mu: torch.Tensor) -> torch.Tensor:
    """Log-probability of counts with mean and variance ``mu``, elementwise; broadcasts."""
    shape = np.broadcast_shapes(x.shape, log_mu.shape)
    result: torch.Tensor = _PoissonLogProb.apply(x.expand(shape), log_mu.expand(shape))
    return result
