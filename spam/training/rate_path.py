"""The path that the network is added to: mean expression or a ridge on image features, and the rates that belong to it."""

import dataclasses

import numpy as np
import torch
from scipy.sparse import csr_matrix

from spam.models.linear import Ridge, choose_alpha, fit_ridge
from spam.typing import Array, Float, Float32, Float64, Int64

from .groups import Groups

__all__ = [
    "PER",
    "RatePath",
    "choose_penalty",
    "cross_fit",
    "dispersion_by_moments",
    "fit_rate_path",
    "group_means",
    "log_rate_of",
]

ALPHAS = (1e1, 3e1, 1e2, 3e2, 1e3, 3e3, 1e4, 3e4)  # tried inside the groups that a path is fitted on
DEFAULT_ALPHA = (
    1e3  # where there is one group only; in the middle of what real cohorts choose (docs/experiments.md)
)
PER = 1e4  # expression is stated per 10k counts
_SHARPNESS = 20.0  # the soft floor at zero bends within 1/20 of log1p units
_THETA_RANGE = (1e-2, 1e4)  # beyond these a negative binomial is all zeros, or a Poisson


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RatePath:
    """Expression per 10k as a ridge sees it.

    The ridge predicts log1p(CP10k) relative to the section's mean; adding the mean over the training sections, flooring
    softly at zero and undoing the log1p gives a rate, and a gene's offset makes the rates add up to the counts (a mean
    of logarithms is not the logarithm of a mean):

        log rate = log(expm1(softplus(ridge + gene mean))) + offset

    Attributes
    ----------
    ridge
        From inputs (n, q) to centred log1p(CP10k) (n, n_genes).
    gene_mean
        Mean log1p(CP10k) over the training sections, (n_genes,).
    offset
        Correction of the log-rate, (n_genes,).
    """

    ridge: Ridge
    gene_mean: Float64[Array, " n_genes"]
    offset: Float64[Array, " n_genes"]

    def expression(self, inputs: Float[Array, "n q"]) -> Float32[Array, "n n_genes"]:
        """Log1p(CP10k) by the ridge alone: the tuned ridge baseline."""
        expression: Array = self.ridge.predict(inputs) + self.gene_mean
        return expression.astype(np.float32)

    def log_rate(self, inputs: Float[Array, "n q"]) -> Float32[Array, "n n_genes"]:
        """Logarithm of the expression per 10k."""
        log_rate: Array = _log_rate(self.ridge.predict(inputs) + self.gene_mean) + self.offset
        return log_rate.astype(np.float32)

    def to_tensors(self, name: str) -> dict[str, Array]:
        """Return the arrays that a checkpoint keeps, under `name`."""
        return {
            f"{name}.coefficients": self.ridge.coefficients,
            f"{name}.intercept": self.ridge.intercept,
            f"{name}.alpha": np.asarray([self.ridge.alpha]),
            f"{name}.gene_mean": self.gene_mean,
            f"{name}.offset": self.offset,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Array], name: str) -> "RatePath":
        """Rebuild from what `to_tensors` returned for the same name."""
        ridge = Ridge(
            coefficients=tensors[f"{name}.coefficients"],
            intercept=tensors[f"{name}.intercept"],
            alpha=float(tensors[f"{name}.alpha"][0]),
        )
        return cls(ridge=ridge, gene_mean=tensors[f"{name}.gene_mean"], offset=tensors[f"{name}.offset"])


def group_means(expression: Float[Array, "n g"], group: Int64[Array, " n"]) -> Float64[Array, "n_groups g"]:
    """Mean expression of each group, in the order of ``np.unique(group)``."""
    return np.stack([expression[group == g].mean(axis=0, dtype=np.float64) for g in np.unique(group)])


def fit_rate_path(
    inputs: Float[Array, "n q"],
    expression: Float[Array, "n n_genes"],
    counts: csr_matrix,
    totals: Float64[Array, " n"],
    section: Int64[Array, " n"],
    *,
    alpha: float | None,
) -> RatePath:
    """Fit the path on spots of one or more sections; targets are centred within each section.

    Parameters
    ----------
    alpha
        Penalty of the ridge; None leaves the mean alone.
    """
    means = group_means(expression, section)
    rank = np.unique(section, return_inverse=True)[1]
    if alpha is None:
        nothing = np.zeros((inputs.shape[1], expression.shape[1]))
        ridge = Ridge(coefficients=nothing, intercept=nothing[0], alpha=np.inf)
    else:
        ridge = fit_ridge(inputs, expression - means[rank], alpha=alpha)
    gene_mean = means.mean(axis=0)
    rates = np.exp(_log_rate(ridge.predict(inputs) + gene_mean)) * (totals / PER)[:, None]
    observed = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    # Half a count keeps a gene without any count at a small, finite rate.
    offset = np.log(np.maximum(observed, 0.5)) - np.log(rates.sum(axis=0))
    return RatePath(ridge=ridge, gene_mean=gene_mean, offset=offset)


def choose_penalty(
    inputs: Float[Array, "n q"], expression: Float[Array, "n n_genes"], group: Int64[Array, " n"]
) -> float:
    """Choose the ridge penalty by leaving out one group at a time; a lone group gets a fixed one."""
    names, rank = np.unique(group, return_inverse=True)
    if len(names) == 1:
        return DEFAULT_ALPHA
    return choose_alpha(inputs, expression - group_means(expression, group)[rank], group, ALPHAS)


def cross_fit(
    inputs: Float[Array, "n q"],
    expression: Float[Array, "n n_genes"],
    counts: csr_matrix,
    totals: Float64[Array, " n"],
    section: Int64[Array, " n"],
    groups: Groups,
    *,
    has_ridge: bool,
) -> tuple[Float32[Array, "n n_genes"], Float32[Array, "n n_genes"], Float32[Array, "n n_genes"]]:
    """Predict every spot by a path that has seen neither its group nor any validation spot.

    The penalty is chosen anew for each group, without it. So a training spot meets the path as a new section will: its
    own counts cannot reach its own prediction.

    Returns
    -------
    What the ridge adds (0 without one), the mean that it is added to, both in log1p(CP10k), and the offset of the
    log-rate: (n, n_genes) each.
    """
    pattern, level, offset = np.empty((3, *expression.shape), dtype=np.float32)
    for g in np.unique(groups.group):
        rows = groups.group == g
        fit = ~groups.is_val & ~rows & (totals > 0)
        alpha = choose_penalty(inputs[fit], expression[fit], groups.group[fit]) if has_ridge else None
        path = fit_rate_path(
            inputs[fit], expression[fit], counts[fit], totals[fit], section[fit], alpha=alpha
        )
        pattern[rows], level[rows] = path.ridge.predict(inputs[rows]), path.gene_mean
        offset[rows] = path.offset
    return pattern, level, offset


def dispersion_by_moments(counts: csr_matrix, mu: Float[Array, "n n_genes"]) -> Float64[Array, " n_genes"]:
    """Inverse dispersion of each gene by the method of moments, from ``Var = mu + mu² / theta``.

    Clipped to [0.01, 10 000]; a gene less dispersed than a Poisson gets the upper end.
    """
    excess = ((counts.toarray() - mu) ** 2 - mu).sum(axis=0, dtype=np.float64)
    squares = (np.asarray(mu, dtype=np.float64) ** 2).sum(axis=0)
    theta: Array = np.clip(squares / np.maximum(excess, squares / _THETA_RANGE[1] + 1e-12), *_THETA_RANGE)
    return theta


def log_rate_of(expression: Float[torch.Tensor, "*b n_genes"]) -> Float[torch.Tensor, "*b n_genes"]:
    """Logarithm of expm1 of log1p expression, softly floored at zero: `RatePath`'s own, for tensors."""
    floored = torch.logaddexp(expression.new_zeros(()), _SHARPNESS * expression) / _SHARPNESS
    return torch.log(torch.expm1(floored.clamp(min=1e-6)))


def _log_rate(expression: Float[Array, "n n_genes"]) -> Float64[Array, "n n_genes"]:
    """Logarithm of expm1 of the softly floored log1p expression."""
    floored = np.logaddexp(0.0, _SHARPNESS * np.asarray(expression, dtype=np.float64)) / _SHARPNESS
    return np.log(
        np.expm1(np.maximum(floored, 1e-6))
    )  # a floor far below one count in a million keeps the log finite
