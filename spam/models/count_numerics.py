"""Log-probabilities of the negative binomial and the Poisson that keep their digits in float32.

The textbook form subtracts log-gamma functions of nearly equal, huge arguments. Loader's form below has no
such difference: every pair of terms that would cancel is written as one small term. It is a binomial log-probability
of `theta` out of ``n = x + theta`` with chance ``theta / (theta + mu)``.

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
_SERIES_FROM = 8.0
# Bernoulli numbers B(2k) / (2k (2k - 1)): the tail of Stirling's series; and B(2k) / (2k): of the digamma function.
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
_DIGAMMA = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)
_ARTANH = tuple(1 / (2 * k + 3) for k in range(12))


def _series(coefficients: tuple[float, ...], x: torch.Tensor, n_terms: int) -> torch.Tensor:
    """Polynomial with the coefficient of the lowest power first; float32 needs the first `n_terms` only."""
    terms = coefficients if x.dtype == torch.float64 else coefficients[:n_terms]
    total = torch.full_like(x, terms[-1])
    for coefficient in reversed(terms[:-1]):
        total.mul_(x).add_(coefficient)
    return total


def _stirling_error(z: torch.Tensor) -> torch.Tensor:
    """Distance of log z! to Stirling's formula, for z > 0; falls from infinity to 0."""
    inverse = 1 / z.clamp(min=_SERIES_FROM)
    series = _series(_STIRLING, inverse * inverse, 3) * inverse
    small = z.clamp(max=_SERIES_FROM)
    direct = torch.lgamma(small + 1) - (small + 0.5) * small.log() + small - _HALF_LOG_2PI
    return torch.where(z >= _SERIES_FROM, series, direct)


def _digamma_error(z: torch.Tensor) -> torch.Tensor:
    """``z (digamma(z) - log z)`` for z > 0; rises from -1 to -0.5."""
    inverse = 1 / z.clamp(min=_SERIES_FROM)
    series = -0.5 - _series(_DIGAMMA, inverse * inverse, 3) * inverse
    small = z.clamp(max=_SERIES_FROM)
    # digamma(z) = digamma(z + 1) - 1 / z keeps digits where z is tiny.
    direct = small * (torch.digamma(small + 1) - small.log()) - 1
    return torch.where(z >= _SERIES_FROM, series, direct)


def _deviance(t: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """``-log(1 - t) - t`` for t < 1; `rest` is 1 - t, got without the difference, which rounds for t near 1."""
    v = t / (2 - t)
    is_small = v.abs() < 0.2
    w = torch.where(is_small, v, 0.0)
    square = w * w
    # -log(1 - t) = 2 artanh(v), and t = 2 v / (1 + v): the linear terms drop out.
    series = t * w + 2 * w * square * _series(_ARTANH, square, 6)
    return torch.where(is_small, series, -rest.log() - t)


class _NegativeBinomialLogProb(torch.autograd.Function):
    """Elementwise log-probability of counts; all arguments of one shape."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, log_mu: torch.Tensor, log_theta: torch.Tensor) -> torch.Tensor:
        mu, theta = log_mu.exp(), log_theta.exp()
        total = theta + mu
        shift = (mu - x) / total
        by_log_mu = -theta * shift
        by_log_theta = -theta * _deviance(shift, (theta + x) / total)
        # Of x = 0: -theta log(1 + mu / theta). What counts add is worked out for them alone, mostly a minority.
        log_prob = by_log_mu + by_log_theta
        counted = x.flatten().nonzero().squeeze(1)
        x, mu, theta, total, shift = (v.flatten()[counted] for v in (x, mu, theta, total, shift))
        n = x + theta
        deviance = _deviance(-shift * theta / x, mu / total * (n / x))
        own = (
            _stirling_error(n)
            - _stirling_error(theta)
            - _stirling_error(x)
            - x * deviance
            + 0.5 * (theta / n / x).log()
            - _HALF_LOG_2PI
        )
        log_prob.view(-1)[counted] = own + by_log_theta.view(-1)[counted]
        if ctx.needs_input_grad[2]:
            by_log_theta.view(-1)[counted] += theta / n * _digamma_error(n) - _digamma_error(theta)
        ctx.save_for_backward(by_log_mu, by_log_theta)
        return log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        by_log_mu, by_log_theta = ctx.saved_tensors
        return None, grad * by_log_mu, grad * by_log_theta


class _PoissonLogProb(torch.autograd.Function):
    """Elementwise log-probability of counts; both arguments of one shape."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, log_mu: torch.Tensor) -> torch.Tensor:
        mu = log_mu.exp()
        ctx.save_for_backward(x - mu)
        log_prob = -mu
        is_counted = x > 0
        count, mean = x[is_counted], mu[is_counted]
        deviance = _deviance((count - mean) / count, mean / count)
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
