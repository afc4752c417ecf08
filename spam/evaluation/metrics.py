"""Scores of a predicted expression matrix, one number per gene; numpy and scipy only.

All of them compare truth and prediction over the spots of one section. A score that is not defined for a
gene is NaN, never 0: where the truth is constant (a correlation, R², SSIM), where the prediction is constant
(a correlation), where all spots or none express the gene (AUC), where either holds a NaN, or where there is
no spot. Whoever averages over genes leaves NaN out and says how many there were.
"""

import numpy as np
from scipy import sparse, stats

from spam.models.expression import CountMatrix, is_constant, morans_i
from spam.typing import Array, Bool, Float, Float64, Num, Shaped

__all__ = [
    "auc",
    "correlate_genes",
    "coverage",
    "mae",
    "moran_correlation",
    "mse",
    "pearson",
    "r2",
    "spearman",
    "ssim",
]


def pearson(
    truth: Num[Array, "n_spots n_genes"], prediction: Num[Array, "n_spots n_genes"]
) -> Float64[Array, " n_genes"]:
    """Pearson correlation of each gene, in [-1, 1]; NaN where truth or prediction is constant."""
    a, b = _centred(truth), _centred(prediction)
    covariation = np.einsum("ng,ng->g", a, b)
    # Two roots, not the root of the product: that would underflow on a tiny scale.
    scale = np.sqrt(np.einsum("ng,ng->g", a, a)) * np.sqrt(np.einsum("ng,ng->g", b, b))
    r = _divide(covariation, scale, is_defined=~is_constant(truth) & ~is_constant(prediction))
    return np.asarray(np.clip(r, -1.0, 1.0))


def spearman(
    truth: Num[Array, "n_spots n_genes"], prediction: Num[Array, "n_spots n_genes"]
) -> Float64[Array, " n_genes"]:
    """Spearman correlation of each gene (ties get their mean rank); NaN where either is constant."""
    r = pearson(_ranks(truth), _ranks(prediction))
    r[is_constant(truth) | is_constant(prediction)] = np.nan  # ranks would make much of rounding errors
    return r


def r2(
    truth: Num[Array, "n_spots n_genes"], prediction: Num[Array, "n_spots n_genes"]
) -> Float64[Array, " n_genes"]:
    """Coefficient of determination of each gene, at most 1, below 0 where the section's mean does better.

    Unlike a correlation it sees a wrong level or a wrong scale. NaN where the truth is constant.
    """
    residual = ((np.asarray(truth, float) - prediction) ** 2).sum(axis=0)
    return 1 - _divide(residual, (_centred(truth) ** 2).sum(axis=0), is_defined=~is_constant(truth))


def mse(
    truth: Num[Array, "n_spots n_genes"], prediction: Num[Array, "n_spots n_genes"]
) -> Float64[Array, " n_genes"]:
    """Mean squared error of each gene, in squared units of the expression."""
    return _mean((np.asarray(truth, float) - prediction) ** 2)


def mae(
    truth: Num[Array, "n_spots n_genes"], prediction: Num[Array, "n_spots n_genes"]
) -> Float64[Array, " n_genes"]:
    """Mean absolute error of each gene, in units of the expression."""
    return _mean(np.abs(np.asarray(truth, float) - prediction))


def ssim(
    truth: Num[Array, "n_spots n_genes"], prediction: Num[Array, "n_spots n_genes"]
) -> Float64[Array, " n_genes"]:
    r"""Structural similarity of each gene's map, the whole section being one window.

    .. math:: \frac{(2 \mu_a \mu_b + C_1)(2 \sigma_{ab} + C_2)}
              {(\mu_a^2 + \mu_b^2 + C_1)(\sigma_a^2 + \sigma_b^2 + C_2)}

    with :math:`C_1 = 0.01^2, C_2 = 0.03^2`. Truth and prediction are each divided by their maximum first, so
    levels are compared in relation to the brightest spot. NaN where the truth is constant, or where truth or
    prediction is nowhere positive.

    The formula is of Wang Z et al., IEEE Trans Image Process 13:600 (2004), doi 10.1109/TIP.2003.819861; the
    scaling and the single window are those of Li B et al., Nat Methods 19:662 (2022), doi
    10.1038/s41592-022-01480-9, as usual for spatial transcriptomics.
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
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    size = (mean_a**2 + mean_b**2 + c1) * (a.var(axis=0) + b.var(axis=0) + c2)
    return np.asarray(likeness / size, dtype=np.float64)


def auc(
    truth: Num[Array, "n_spots n_genes"], prediction: Num[Array, "n_spots n_genes"]
) -> Float64[Array, " n_genes"]:
    """Area under the ROC curve of telling from the prediction if a spot expresses the gene (truth > 0).

    Ties of the prediction count half, so a constant prediction scores 0.5. NaN where all spots or none
    express the gene.
    """
    is_expressed = truth > 0
    n_expressed = is_expressed.sum(axis=0)
    n_silent = len(truth) - n_expressed
    # Mann and Whitney: how many pairs of an expressing and a silent spot are in the right order.
    rank_sum = np.where(is_expressed, _ranks(prediction), 0.0).sum(axis=0)
    n_ordered = rank_sum - n_expressed * (n_expressed + 1) / 2
    area = _divide(n_ordered, n_expressed * n_silent, is_defined=(n_expressed > 0) & (n_silent > 0))
    area[np.isnan(prediction).any(axis=0) | np.isnan(truth).any(axis=0)] = np.nan
    return area


def moran_correlation(
    truth: Num[Array, "n_spots n_genes"],
    prediction: Num[Array, "n_spots n_genes"],
    weights: sparse.csr_matrix | sparse.csr_array,
) -> float:
    """Correlate over genes the Moran's I of the true maps with that of the predicted maps.

    High where the prediction knows which genes form patterns, wherever those lie. Genes without Moran's I on
    either side are left out; NaN where fewer than two are left.
    """
    return correlate_genes(morans_i(truth, weights), morans_i(prediction, weights))


def correlate_genes(truth: Float[Array, " n_genes"], prediction: Float[Array, " n_genes"]) -> float:
    """Correlate (Pearson) one number per gene over genes; leaves genes out that are NaN on either side."""
    both = np.stack([truth, prediction], axis=1)
    both = both[np.isfinite(both).all(axis=1)]
    return float(pearson(both[:, :1], both[:, 1:])[0])


def coverage(
    counts: CountMatrix,
    lower: Num[Array, "n_spots n_genes"],
    upper: Num[Array, "n_spots n_genes"],
) -> Float64[Array, " n_genes"]:
    """Share of spots whose raw count lies in the predicted interval, both ends included."""
    dense = counts if isinstance(counts, np.ndarray) else counts.toarray()
    return _mean((lower <= dense) & (dense <= upper))


def _centred(values: Num[Array, "n_spots n_genes"]) -> Float64[Array, "n_spots n_genes"]:
    """Subtract each gene's mean."""
    return np.asarray(values - _mean(values), dtype=np.float64)


def _mean(values: Shaped[Array, "n_spots n_genes"]) -> Float64[Array, " n_genes"]:
    """Average over spots, in float64; NaN without any spot."""
    if len(values) == 0:
        return np.full(values.shape[1], np.nan)
    return np.asarray(values.mean(axis=0, dtype=np.float64))


def _ranks(values: Num[Array, "n_spots n_genes"]) -> Float64[Array, "n_spots n_genes"]:
    """Rank each gene over the spots, from 1; ties get their mean rank."""
    ranks = np.empty(values.shape)
    for start in range(0, values.shape[1], 64):  # blocks that stay in the cache: twice as fast as all at once
        block = slice(start, start + 64)
        ranks[:, block] = stats.rankdata(values[:, block], axis=0)
    return ranks


def _divide(
    numerator: Num[Array, " n_genes"],
    denominator: Num[Array, " n_genes"],
    *,
    is_defined: Bool[Array, " n_genes"],
) -> Float64[Array, " n_genes"]:
    """Divide where the quotient is defined; NaN elsewhere."""
    quotient = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=is_defined)
    return quotient
