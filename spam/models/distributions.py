"""Distributions of raw counts, parametrised by logarithms so that neither value nor gradient overflows.

`log_mu` and `log_theta` may be of any real size that exp() can hold; over x 0..1e5, mu 1e-8..1e6 and theta
1e-4..1e8 the float32 log-probabilities agree with the exact ones to ``1e-5 + 1e-5 * |log p|`` everywhere
(`tests/models/test_distributions.py`). Half-precision parameters are raised to float32.
"""

import dataclasses
from typing import Literal, TypeAlias

import torch
from torch.nn.functional import softplus

from spam.errors import ConfigError, SectionError
from spam.typing import Float, Num

from .count_numerics import negative_binomial_log_prob, poisson_log_prob

__all__ = [
    "CountDistribution",
    "Likelihood",
    "NegativeBinomial",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
    "build_distribution",
]

Likelihood: TypeAlias = Literal["zinb", "nb", "poisson"]


def _counts(x: torch.Tensor, log_mu: torch.Tensor, *, validate: bool) -> torch.Tensor:
    """Give counts the number format of the parameters, after checking that they are counts."""
    if validate:
        is_count = (x >= 0) & (x == x.floor()) & (x < torch.inf)
        if not bool(is_count.all()):
            bad = x[~is_count]
            message = (
                f"{bad.numel()!r} values are not counts (the first is {bad.flatten()[0].item()!r}); a count "
                "likelihood needs raw counts, whole numbers >= 0, not normalised or log values; name the "
                "layer that holds them with --counts-layer"
            )
            raise SectionError(message)
    return x.to(log_mu.dtype)


def _precise(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.to(torch.promote_types(parameter.dtype, torch.float32))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Poisson:
    """Counts without overdispersion: variance = mean.

    Attributes
    ----------
    log_mu
        Logarithm of the mean.
    """

    log_mu: Float[torch.Tensor, "*shape"]

    @property
    def mean(self) -> Float[torch.Tensor, "*shape"]:
        """Expected count."""
        return _precise(self.log_mu).exp()

    @property
    def variance(self) -> Float[torch.Tensor, "*shape"]:
        """Variance of the count."""
        return self.mean

    def log_prob(self, x: Num[torch.Tensor, "*shape"], *, validate: bool = True) -> torch.Tensor:
        """Elementwise log-probability; raises SectionError if `validate` and a value is not a count."""
        log_mu = _precise(self.log_mu)
        return poisson_log_prob(_counts(x, log_mu, validate=validate), log_mu)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NegativeBinomial:
    """Counts with variance ``mu + mu² / theta``.

    Attributes
    ----------
    log_mu
        Logarithm of the mean.
    log_theta
        Logarithm of the inverse dispersion; broadcasts against `log_mu`. Large: Poisson.
    """

    log_mu: Float[torch.Tensor, "..."]
    log_theta: Float[torch.Tensor, "..."]

    @property
    def mean(self) -> torch.Tensor:
        """Expected count."""
        return _precise(self.log_mu).exp()

    @property
    def variance(self) -> torch.Tensor:
        """Variance of the count."""
        mean = self.mean
        return mean + mean * (_precise(self.log_mu) - _precise(self.log_theta)).exp()

    def log_prob(self, x: Num[torch.Tensor, "..."], *, validate: bool = True) -> torch.Tensor:
        """Elementwise log-probability; raises SectionError if `validate` and a value is not a count."""
        log_mu = _precise(self.log_mu)
        counts = _counts(x, log_mu, validate=validate)
        return negative_binomial_log_prob(counts, log_mu, _precise(self.log_theta))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ZeroInflatedNegativeBinomial:
    """A negative binomial that is replaced by 0 with probability ``pi = sigmoid(zi_logits)``.

    Attributes
    ----------
    log_mu
        Logarithm of the mean of the negative binomial; the mean of the counts is ``(1 - pi) mu``.
    log_theta
        Logarithm of its inverse dispersion; broadcasts.
    zi_logits
        Log-odds of the replacement; broadcasts.
    """

    log_mu: Float[torch.Tensor, "..."]
    log_theta: Float[torch.Tensor, "..."]
    zi_logits: Float[torch.Tensor, "..."]

    @property
    def mean(self) -> torch.Tensor:
        """Expected count, zeros of both kinds included."""
        return torch.sigmoid(-_precise(self.zi_logits)) * _precise(self.log_mu).exp()

    @property
    def variance(self) -> torch.Tensor:
        """Variance of the count: ``(1 - pi) mu (1 + mu (pi + 1 / theta))``."""
        mu = _precise(self.log_mu).exp()
        over = (_precise(self.log_mu) - _precise(self.log_theta)).exp()
        return self.mean * (1 + over + mu * torch.sigmoid(_precise(self.zi_logits)))

    def log_prob(self, x: Num[torch.Tensor, "..."], *, validate: bool = True) -> torch.Tensor:
        """Elementwise log-probability; raises SectionError if `validate` and a value is not a count."""
        log_mu, logits = _precise(self.log_mu), _precise(self.zi_logits)
        counts = _counts(x, log_mu, validate=validate)
        kept = negative_binomial_log_prob(counts, log_mu, _precise(self.log_theta)) - softplus(logits)
        return torch.where(counts > 0, kept, torch.logaddexp(kept, -softplus(-logits)))


CountDistribution: TypeAlias = Poisson | NegativeBinomial | ZeroInflatedNegativeBinomial


def build_distribution(
    name: Likelihood,
    *,
    log_mu: Float[torch.Tensor, "..."],
    log_theta: Float[torch.Tensor, "..."] | None = None,
    zi_logits: Float[torch.Tensor, "..."] | None = None,
) -> CountDistribution:
    """Build a count distribution by the name of its likelihood.

    ``poisson`` takes `log_mu` alone, ``nb`` also `log_theta`, ``zinb`` also `zi_logits`. They broadcast.

    Raises
    ------
    ConfigError
        If the name is unknown, a parameter is missing, or one is given that the distribution does not have.
    """
    if name == "zinb" and log_theta is not None and zi_logits is not None:
        return ZeroInflatedNegativeBinomial(log_mu=log_mu, log_theta=log_theta, zi_logits=zi_logits)
    if name == "nb" and log_theta is not None and zi_logits is None:
        return NegativeBinomial(log_mu=log_mu, log_theta=log_theta)
    if name == "poisson" and log_theta is None and zi_logits is None:
        return Poisson(log_mu=log_mu)
    given = [key for key, value in (("log_theta", log_theta), ("zi_logits", zi_logits)) if value is not None]
    message = (
        f"likelihood {name!r} was given log_mu and {given!r}; 'poisson' takes log_mu alone, 'nb' log_theta "
        "as well, 'zinb' both log_theta and zi_logits; choose one with --likelihood"
    )
    raise ConfigError(message)
