"""What the network's output is added to (gene mean or image ridge), its count rates, and the recipe baselines."""

import dataclasses

import numpy as np
import torch
from scipy.sparse import csr_array, csr_matrix

from spam.typing import Array, Float, Float32, Float64, Int64, Num

from .count_likelihood import softplus_without_grad
from .expression import Expression, dense
from .linear import FeatureTransform, Ridge, choose_alpha, fit_ridge, hest_ridge_fit

ALPHAS = (1e1, 3e1, 1e2, 3e2, 1e3, 3e3, 1e4, 3e4)  # candidate penalties
DEFAULT_ALPHA = 1e3  # for a single group; in the middle of what real cohorts choose (docs/experiments-log.md)
PER = 1e4  # expression is stated per 10k counts
_ROWS = 4096  # spots whose rates are computed at a time, to bound the memory
_SHARPNESS = 20.0  # the soft floor at zero bends within 1/20 of log1p units
_THETA_RANGE = (1e-2, 1e4)  # beyond these a negative binomial is all zeros, or a Poisson


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RatePath:
    """Expression and count rates from a ridge on image inputs, or from the gene means alone (zero coefficients).

    The ridge predicts log1p(CP10k) minus the section mean. The rate follows from the mean over the training sections, a
    soft floor at zero and the inverse of log1p; a gene's offset makes the rates sum to the counts, because a mean of
    logarithms is not the logarithm of a mean:

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

    @property
    def has_ridge(self) -> bool:
        """Whether the path depends on the image."""
        return bool(np.isfinite(self.ridge.alpha))

    def expression(self, inputs: Float[Array, "n q"]) -> Float32[Array, "n n_genes"]:
        """Log1p(CP10k)."""
        expression: Array = self.ridge.predict(inputs) + self.gene_mean
        return expression.astype(np.float32)

    def log_rate(self, inputs: Float[Array, "n q"]) -> Float32[Array, "n n_genes"]:
        """Logarithm of the expression per 10k."""
        log_rate: Array = _log_rate(self.ridge.predict(inputs) + self.gene_mean) + self.offset
        return log_rate.astype(np.float32)


def group_means(
    expression: Expression, group: Int64[Array, " n"], rows: Int64[Array, " m"] | None = None
) -> Float64[Array, "n_groups g"]:
    """Mean expression of each group of some spots (default: all), in the order of ``np.unique(group)``."""
    rows = np.arange(len(group)) if rows is None else rows
    names, rank, n_spots = np.unique(group[rows], return_inverse=True, return_counts=True)
    sums = np.zeros((len(names), expression.shape[1]))
    for start in range(0, len(rows), _ROWS):  # the product is in float64, and so a copy
        own = rank[start : start + _ROWS]
        is_member = csr_array((np.ones(len(own)), (own, np.arange(len(own)))), shape=(len(names), len(own)))
        sums += dense(is_member @ expression[rows[start : start + _ROWS]])
    means: Array = sums / n_spots[:, None]
    return means


def fit_rate_path(
    inputs: Float[Array, "_ q"],
    expression: Expression,
    counts: csr_matrix,
    totals: Float64[Array, " n"],
    section: Int64[Array, " n"],
    *,
    alpha: float | None,
) -> RatePath:
    """Fit the path on spots of one or more sections; targets are centred within each section.

    Parameters
    ----------
    inputs, expression
        Of all spots; without a ridge, `inputs` may have no rows, and log1p(CP10k) may be sparse.
    alpha
        Penalty of the ridge; None fits the gene means alone.
    """
    means = group_means(expression, section)
    gene_mean = means.mean(axis=0)
    if alpha is None:
        nothing = np.zeros((inputs.shape[1], expression.shape[1]))
        ridge = Ridge(coefficients=nothing, intercept=nothing[0], alpha=np.inf)
        expected = np.exp(_log_rate(gene_mean)) * (totals / PER).sum()  # the same rate for all spots
    else:
        rank = np.unique(section, return_inverse=True)[1]
        ridge = fit_ridge(inputs, expression - means[rank], alpha=alpha)
        parts = np.array_split(np.arange(len(totals)), range(_ROWS, len(totals), _ROWS))
        expected = sum(
            (totals[rows] / PER) @ np.exp(_log_rate(ridge.predict(inputs[rows]) + gene_mean))
            for rows in parts
        )
    observed = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    # Half a count keeps a gene without any count at a small, finite rate.
    offset = np.log(np.maximum(observed, 0.5)) - np.log(expected)
    return RatePath(ridge=ridge, gene_mean=gene_mean, offset=offset)


def choose_penalty(
    inputs: Float[Array, "n q"], expression: Float[Array, "n n_genes"], group: Int64[Array, " n"]
) -> float:
    """Choose the ridge penalty by leaving out one group at a time; `DEFAULT_ALPHA` for a single group."""
    names, rank = np.unique(group, return_inverse=True)
    if len(names) == 1:
        return DEFAULT_ALPHA
    return choose_alpha(inputs, expression - group_means(expression, group)[rank], group, ALPHAS)


def dispersion_by_moments(counts: csr_matrix, mu: Float[Array, "n n_genes"]) -> Float64[Array, " n_genes"]:
    """Inverse dispersion of each gene by the method of moments, from ``Var = mu + mu² / theta``.

    Clipped to [0.01, 10 000]; a gene less dispersed than a Poisson gets the upper end.
    """
    excess = ((counts.toarray() - mu) ** 2 - mu).sum(axis=0, dtype=np.float64)
    squares = (np.asarray(mu, dtype=np.float64) ** 2).sum(axis=0)
    theta: Array = np.clip(squares / np.maximum(excess, squares / _THETA_RANGE[1] + 1e-12), *_THETA_RANGE)
    return theta


def log_rate_of(expression: Float[torch.Tensor, "*b n_genes"]) -> Float[torch.Tensor, "*b n_genes"]:
    """Logarithm of the rate per 10k without offset: log expm1 of log1p(CP10k), softly floored at zero; without a gradient."""
    # A floor far below one count in a million keeps the log finite; exp overflows at 89, and log1p(CP10k) is below 10.
    floored = softplus_without_grad(_SHARPNESS * expression).div_(_SHARPNESS).clamp_(1e-6, 80.0)
    grown = floored.exp()
    return (grown - 1.0).mul_(floored).div_(grown.log_()).log_()  # expm1 as log1p in `softplus_without_grad`


def per_10k(expression: Float[Array, "n g"]) -> Float64[Array, "n g"]:
    """Convert log1p(CP10k) to counts per 10k, clipped to 0 .. 10k."""
    counts: Array = np.expm1(np.clip(expression, 0.0, np.log1p(PER), dtype=np.float64))
    return counts


def _log_rate(expression: Float[Array, "*n n_genes"]) -> Float32[Array, "*n n_genes"]:
    log_rate: Array = log_rate_of(torch.from_numpy(np.asarray(expression, dtype=np.float32))).numpy()
    return log_rate


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Baselines:
    """Training mean and HEST ridge; the third baseline, the tuned ridge, is a `RatePath` on the model's own inputs.

    Attributes
    ----------
    mean
        Mean log1p(CP10k) over all training spots, (n_genes,).
    transform
        Scaler and components of the raw features of the smallest tile.
    ridge
        HEST recipe for log1p(CP10k) of all modelled genes (penalty as for the 50 genes of the HEST board).
    raw_ridge
        HEST recipe for log1p of raw counts of the genes of ``hest-50``.
    """

    mean: Float32[Array, " n_genes"]
    transform: FeatureTransform
    ridge: Ridge
    raw_ridge: Ridge


def fit_baselines(
    features: Float[Array, "n dim"],
    expression: Float32[Array, "n n_genes"],
    hest_counts: Num[Array, "n n_hest"],
) -> Baselines:
    """Fit the HEST recipe on features of one tile size.

    HEST scores 50 genes at a time; the ridge for all modelled genes gets the penalty that these 50 would have.
    """
    transform, raw_ridge = hest_ridge_fit(features, np.log1p(hest_counts))
    ridge = fit_ridge(transform.apply(features), expression, alpha=raw_ridge.alpha, fit_intercept=False)
    return Baselines(mean=expression.mean(axis=0), transform=transform, ridge=ridge, raw_ridge=raw_ridge)
