"""Expression from raw counts, and the choice of genes by variance, level or spatial pattern; numpy and scipy only.

Choose genes on training sections alone: a choice that depends on the test section is a leak.
"""

from typing import TypeAlias

import numpy as np
from scipy import sparse

from spam.typing import Array, Bool, Float, Float32, Float64, Int64, Num

CountMatrix: TypeAlias = sparse.csr_matrix | sparse.csr_array | np.ndarray
"""Raw counts (n_spots, n_genes): CSR as the store gives them, or dense."""

Expression: TypeAlias = sparse.csr_array | np.ndarray
"""Expression, sparse or dense."""

MIN_DETECTED_SHARE = (
    0.1  # the HEST benchmark's filter (arXiv 2406.16192): below it, variance is mostly dropout
)


_ROWS, _VALUES = 1 << 14, 1 << 22  # spots, and values above 0, in float64 at a time


def log1p_cp10k(counts: CountMatrix, totals: Num[Array, " n_spots"]) -> Float32[Array, "n_spots n_genes"]:
    """Expression from raw counts: ``log(1 + 10000 * counts / totals)``.

    `totals` is a spot's library size over **all** genes of its section, also where `counts` holds only some
    of them; otherwise the expression of a gene would depend on which other genes are modelled. A spot
    without any count has expression 0.
    """
    return dense(sparse_log1p_cp10k(sparse.csr_array(counts), totals))


def sparse_log1p_cp10k(
    counts: sparse.csr_matrix | sparse.csr_array, totals: Num[Array, " n_spots"]
) -> sparse.csr_array:
    """`log1p_cp10k` in float32, sparse as the counts; both share the places of their values."""
    scale, lengths = 1e4 / np.where(totals > 0, totals, 1.0), np.diff(counts.indptr)
    values = np.empty(counts.nnz, dtype=np.float32)
    for start in range(0, len(lengths), _ROWS):
        rows, stop = slice(start, start + _ROWS), min(start + _ROWS, len(lengths))
        own = slice(counts.indptr[start], counts.indptr[stop])
        values[own] = np.log1p(counts.data[own] * np.repeat(scale[rows], lengths[rows]))
    return sparse.csr_array((values, counts.indices, counts.indptr), shape=counts.shape)


def dense(expression: Expression) -> Float[Array, "n_spots n_genes"]:
    """Expression as an array."""
    return expression if isinstance(expression, np.ndarray) else np.asarray(expression.toarray())


def highly_variable_genes(
    expression: Expression, is_detected_share: Float[Array, " n_genes"], *, n: int
) -> Int64[Array, " n_chosen"]:
    """Choose the `n` genes of the largest variance over the spots, most variable first.

    Pool the spots of all training sections; for the genes of the HEST benchmark give log1p of the raw
    counts. `is_detected_share` is the share of these spots with a count above 0: only genes detected in
    more than 10 % of the spots are eligible, and where fewer than `n` are, all of them are returned. Equal
    variances keep the order of the genes.
    """
    if isinstance(expression, np.ndarray):
        variance = expression.var(axis=0, dtype=np.float64)
    else:
        mean = expression.mean(axis=0, dtype=np.float64)
        zeros = expression.shape[0] - np.bincount(expression.indices, minlength=len(mean))
        squares = np.zeros(len(mean))
        for start in range(0, expression.nnz, _VALUES):
            genes, values = (part[start : start + _VALUES] for part in (expression.indices, expression.data))
            squares += np.bincount(genes, (values - mean[genes]) ** 2, minlength=len(mean))
        variance = (squares + zeros * mean**2) / expression.shape[0]
    return _largest(np.where(is_detected_share > MIN_DETECTED_SHARE, variance, np.nan), n)


def highly_expressed_genes(expression: Expression, *, n: int) -> Int64[Array, " n_chosen"]:
    """Choose the `n` genes (all, if there are fewer) of the highest mean over the spots, highest first."""
    return _largest(expression.mean(axis=0, dtype=np.float64), n)


def spatially_variable_genes(
    autocorrelation: Float[Array, "n_sections n_genes"], *, n: int
) -> Int64[Array, " n_chosen"]:
    """Choose the `n` genes of the highest Moran's I, averaged over the training sections, highest first.

    `autocorrelation` holds one row of `morans_i` per section. A gene that is constant in some section (NaN
    there) is not eligible; where fewer than `n` are, all of them are returned.
    """
    return _largest(autocorrelation.mean(axis=0, dtype=np.float64), n)


def morans_i(
    values: Num[Array, "n_spots n_genes"], weights: sparse.csr_matrix | sparse.csr_array
) -> Float64[Array, " n_genes"]:
    r"""Compute Moran's I of each gene: how alike the values of neighbouring spots are.

    .. math:: I = \frac{n}{\sum_{ij} w_{ij}} \frac{\sum_{ij} w_{ij} z_i z_j}{\sum_i z_i^2}, \; z = x - \bar x

    Near 1 for a smooth map, ``-1 / (n - 1)`` expected without any pattern, -1 for a checkerboard. `weights`
    (n_spots, n_spots) is used as it is: not made symmetric, rows not normalised. NaN for a constant gene and
    where there is no edge.

    Moran PAP. Notes on continuous stochastic phenomena. Biometrika 37:17 (1950), doi 10.2307/2332142.
    """
    n_spots, n_genes = values.shape
    total_weight = float(weights.sum())
    if n_spots == 0 or total_weight == 0:
        return np.full(n_genes, np.nan)
    centred = values - values.mean(axis=0, dtype=np.float64)
    between = (centred * (weights @ centred)).sum(axis=0)
    within = (centred**2).sum(axis=0)
    index = np.full(n_genes, np.nan)
    np.divide(n_spots * between, total_weight * within, out=index, where=~is_constant(values))
    return index


def is_constant(values: Num[Array, "n_spots n_genes"]) -> Bool[Array, " n_genes"]:
    """Whether each gene is constant over the spots, up to rounding in float32.

    True for a single spot and for none; False for a gene that holds a NaN.
    """
    if len(values) == 0:
        return np.ones(values.shape[1], dtype=bool)
    spread = values.max(axis=0) - values.min(axis=0)
    # 1e-6 of the value is 8 float32 steps: what one product, summed in another order, can differ by.
    return np.asarray(spread <= 1e-6 * np.abs(values).max(axis=0))


def _largest(score: Float64[Array, " n_genes"], n: int) -> Int64[Array, " n_chosen"]:
    """Find the `n` largest scores, largest first; ties stay in order, NaN is never chosen."""
    order = np.argsort(-score, kind="stable")[: int(np.isfinite(score).sum())]
    return order[:n].astype(np.int64)
