"""Scores of a predicted expression matrix, one number per gene, and bootstrap intervals of their means.

All scores compare truth and prediction over the spots of one section. A score that is undefined for a gene is NaN, never 0:
a correlation if truth or prediction is constant, R² and SSIM if the truth is constant, the AUC if all spots or none express
the gene, and every score if a value is NaN or there is no spot. Means over genes skip NaN and report how many were skipped.
"""

import dataclasses
from typing import TypeAlias

import numpy as np
from scipy import stats

from spam.models.expression import CountMatrix, is_constant
from spam.typing import Array, Bool, Float, Float64, Num, Shaped

_Matrix: TypeAlias = Num[Array, "n_spots n_genes"]
_PerGene: TypeAlias = Float64[Array, " n_genes"]


def pearson(truth: _Matrix, prediction: _Matrix) -> _PerGene:
    """Pearson correlation of each gene, in [-1, 1]; NaN if truth or prediction is constant."""
    a, b = _centred(truth), _centred(prediction)
    covariation = np.einsum("ng,ng->g", a, b)
    # Two roots, not the root of the product: that would underflow on a tiny scale.
    scale = np.sqrt(np.einsum("ng,ng->g", a, a)) * np.sqrt(np.einsum("ng,ng->g", b, b))
    r = _divide(covariation, scale, is_defined=~is_constant(truth) & ~is_constant(prediction))
    return np.asarray(np.clip(r, -1.0, 1.0))


def spearman(truth: _Matrix, prediction: _Matrix) -> _PerGene:
    """Spearman correlation of each gene (ties get their mean rank); NaN if either is constant."""
    r = pearson(_ranks(truth), _ranks(prediction))
    r[is_constant(truth) | is_constant(prediction)] = np.nan  # ranks would amplify rounding errors
    return r


def r2(truth: _Matrix, prediction: _Matrix) -> _PerGene:
    """Coefficient of determination of each gene: at most 1; negative if the section mean predicts better.

    Unlike a correlation it is sensitive to offset and scale. NaN if the truth is constant.
    """
    residual = ((np.asarray(truth, float) - prediction) ** 2).sum(axis=0)
    return 1 - _divide(residual, (_centred(truth) ** 2).sum(axis=0), is_defined=~is_constant(truth))


def mse(truth: _Matrix, prediction: _Matrix) -> _PerGene:
    """Mean squared error of each gene, in squared units of the expression."""
    return _mean((np.asarray(truth, float) - prediction) ** 2)


def mae(truth: _Matrix, prediction: _Matrix) -> _PerGene:
    """Mean absolute error of each gene, in units of the expression."""
    return _mean(np.abs(np.asarray(truth, float) - prediction))


def ssim(truth: _Matrix, prediction: _Matrix) -> _PerGene:
    r"""Structural similarity of each gene's map, with the whole section as one window.

    .. math:: \frac{(2 \mu_a \mu_b + C_1)(2 \sigma_{ab} + C_2)}
              {(\mu_a^2 + \mu_b^2 + C_1)(\sigma_a^2 + \sigma_b^2 + C_2)}

    with :math:`C_1 = 0.01^2, C_2 = 0.03^2`, after dividing truth and prediction by their maxima. NaN if the truth is
    constant, or if truth or prediction has no positive value.

    Source: Wang Z et al., IEEE Trans Image Process 13:600 (2004), doi 10.1109/TIP.2003.819861; scaling and single window
    as in Li B et al., Nat Methods 19:662 (2022), doi 10.1038/s41592-022-01480-9.
    """
    if len(truth) == 0:
        return np.full(truth.shape[1], np.nan)
    top_truth, top_prediction = truth.max(axis=0), prediction.max(axis=0)
    is_defined = ~is_constant(truth) & (top_truth > 0) & (top_prediction > 0)
    a = truth / np.where(is_defined, top_truth, np.nan)
    b = prediction / np.where(is_defined, top_prediction, np.nan)
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    covariance = ((a - mean_a) * (b - mean_b)).mean(axis=0)
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    denominator = (mean_a**2 + mean_b**2 + c1) * (a.var(axis=0) + b.var(axis=0) + c2)
    return np.asarray(numerator / denominator, dtype=np.float64)


def auc(truth: _Matrix, prediction: _Matrix) -> _PerGene:
    """Area under the ROC curve for detecting spots that express the gene (truth > 0).

    Ties of the prediction count half, so a constant prediction scores 0.5. NaN if all spots or none express the gene.
    """
    is_expressed = truth > 0
    n_expressed = is_expressed.sum(axis=0)
    n_silent = len(truth) - n_expressed
    # Mann-Whitney: number of correctly ordered pairs of an expressing and a silent spot.
    rank_sum = np.where(is_expressed, _ranks(prediction), 0.0).sum(axis=0)
    n_ordered = rank_sum - n_expressed * (n_expressed + 1) / 2
    area = _divide(n_ordered, n_expressed * n_silent, is_defined=(n_expressed > 0) & (n_silent > 0))
    area[np.isnan(prediction).any(axis=0) | np.isnan(truth).any(axis=0)] = np.nan
    return area


def coverage(counts: CountMatrix, lower: _Matrix, upper: _Matrix) -> _PerGene:
    """Fraction of spots whose raw count lies in the predicted interval, ends included."""
    dense = counts if isinstance(counts, np.ndarray) else counts.toarray()
    return _mean((lower <= dense) & (dense <= upper))


def correlate_genes(truth: Float[Array, " n_genes"], prediction: Float[Array, " n_genes"]) -> float:
    """Pearson correlation over genes of one number per gene; skips genes with a NaN on either side."""
    both = np.stack([truth, prediction], axis=1)
    both = both[np.isfinite(both).all(axis=1)]
    return float(pearson(both[:, :1], both[:, 1:])[0])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and its 95 % bootstrap interval.

    Attributes
    ----------
    mean
        Mean of the units; NaN without units.
    lower, upper
        Ends of the interval; NaN with fewer than two units.
    n_units
        Number of resampled values, NaN excluded.
    """

    mean: float
    lower: float
    upper: float
    n_units: int


def bootstrap_mean(values: Float[Array, " n_values"], *, seed: int = 0) -> Interval:
    """Average the values and compute a 95 % percentile interval from 1,000 bootstrap samples; NaN values are skipped.

    Efron B, Tibshirani RJ. An Introduction to the Bootstrap (1993), chapter 13.
    """
    units = values[np.isfinite(values)].astype(np.float64)
    mean = float(units.mean()) if len(units) else np.nan
    if len(units) < 2:
        return Interval(mean=mean, lower=np.nan, upper=np.nan, n_units=len(units))
    means = np.random.default_rng(seed).choice(units, size=(1000, len(units))).mean(axis=1)
    lower, upper = np.quantile(means, [0.025, 0.975])
    return Interval(mean=mean, lower=float(lower), upper=float(upper), n_units=len(units))


def _centred(values: _Matrix) -> Float64[Array, "n_spots n_genes"]:
    return np.asarray(values - _mean(values), dtype=np.float64)


def _mean(values: Shaped[Array, "n_spots n_genes"]) -> _PerGene:
    """Average over spots in float64; NaN without spots."""
    if len(values) == 0:
        return np.full(values.shape[1], np.nan)
    return np.asarray(values.mean(axis=0, dtype=np.float64))


def _ranks(values: _Matrix) -> Float64[Array, "n_spots n_genes"]:
    """Rank each gene over the spots, from 1; ties get their mean rank."""
    ranks = np.empty(values.shape)
    for start in range(0, values.shape[1], 64):  # blocks that fit the cache: twice as fast as all at once
        block = slice(start, start + 64)
        ranks[:, block] = stats.rankdata(values[:, block], axis=0)
    return ranks


def _divide(
    numerator: Num[Array, " n_genes"],
    denominator: Num[Array, " n_genes"],
    *,
    is_defined: Bool[Array, " n_genes"],
) -> _PerGene:
    """Divide where the quotient is defined; NaN elsewhere."""
    quotient = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=is_defined)
    return quotient
