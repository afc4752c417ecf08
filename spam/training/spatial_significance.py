"""Is a correlation over tissue more than chance? Spots that lie together are alike, and so count for fewer."""

import numpy as np
from scipy import fft, stats
from scipy.spatial import KDTree

from spam.models.linear import pearson_per_gene
from spam.typing import Array, Float, Float64, Int

__all__ = ["correlation_p_values", "effective_sizes"]

_MAX_CELLS = 256  # of the raster, along the longer side: however large a section, it costs no more than this
_FEWEST = 3  # effective spots: with fewer there is no t distribution


def correlation_p_values(
    predicted: Float[Array, "n n_genes"],
    measured: Float[Array, "n n_genes"],
    section: Int[Array, " n"],
    xy: Float[Array, "n 2"],
) -> Float64[Array, " n_genes"]:
    """Test for each gene whether it correlates above zero within the sections; one-sided, all sections together.

    In each section the correlation is judged by Student's t, with the effective number of spots in place of their number
    (Dutilleul 1993, doi 10.2307/2532625). The sections' normal scores are added (Stouffer), each weighted by the inverse
    standard deviation that its correlation has by chance. Sections of fewer than 3 spots say nothing.

    Returns
    -------
    P values; NaN where a gene is constant, on either side, in every section.
    """
    score, information = np.zeros((2, predicted.shape[1]))
    for rows in (section == s for s in np.unique(section)):
        if rows.sum() < _FEWEST:
            continue
        r = pearson_per_gene(predicted[rows], measured[rows])
        n = effective_sizes(predicted[rows], measured[rows], xy[rows])
        t = r * np.sqrt((n - 2.0) / np.maximum(1.0 - r**2, np.finfo(np.float64).eps))
        # Above 0, so that the score of a perfect correlation can still be added to another.
        tail = np.maximum(stats.t.sf(np.abs(t), n - 2.0), np.finfo(np.float64).tiny)
        is_defined = np.isfinite(r)
        score += np.where(is_defined, np.sqrt(n - 1.0) * np.sign(t) * stats.norm.isf(tail), 0.0)
        information += np.where(is_defined, n - 1.0, 0.0)
    with_any = np.where(information > 0, information, np.nan)
    p_values: Array = stats.norm.sf(score / np.sqrt(with_any))
    return p_values


def effective_sizes(
    a: Float[Array, "n n_genes"], b: Float[Array, "n n_genes"], xy: Float[Array, "n 2"]
) -> Float64[Array, " n_genes"]:
    r"""Count the independent spots that would let the correlation of each gene vary as much as these do by chance.

    For two patterns that have nothing to do with each other, but are each autocorrelated in space,

    .. math:: \mathrm{var}(r) \approx \frac{1}{n^2} \sum_h N_h \hat\rho_a(h) \hat\rho_b(h), \qquad
              M = 1 + 1 / \mathrm{var}(r),

    where :math:`N_h` ordered pairs of spots lie about ``h`` spot distances apart (each spot with itself at
    :math:`h = 0`), and :math:`\hat\rho(h)` is their autocorrelation (Clifford, Richardson and Hémon 1989, doi
    10.2307/2532039). Where either is independent from spot to spot, M is about n.

    Distances are those between the cells of a raster, as wide as neighbouring spots are apart (or as 1/256 of the
    section, where that is more): then Fourier transforms give the sums over all pairs.

    Parameters
    ----------
    a, b
        Two values of each gene in each of 3 or more spots.
    xy
        Where the spots lie, in any unit.

    Returns
    -------
    From 3 to n: estimates can cancel, but no pattern has more independent spots than there are spots.
    """
    n = len(xy)
    cells, distance = _raster(xy)
    n_pairs = np.maximum(_sums_of_products(np.ones((n, 1)), cells, distance), 1.0)
    both = _autocorrelation(a, cells, distance, n_pairs) * _autocorrelation(b, cells, distance, n_pairs)
    variance = (1.0 + (n_pairs * both).sum(axis=1) / n) / n
    sizes: Array = np.clip(1.0 + 1.0 / np.maximum(variance, 1.0 / n), _FEWEST, n)
    return sizes


def _raster(xy: Float[Array, "n 2"]) -> tuple[Int[Array, "n 2"], Int[Array, "height width"]]:
    """Give the cell of each spot, and the length in cells of every lag that a Fourier transform of the raster has."""
    step = float(np.median(KDTree(xy).query(xy, k=2)[0][:, 1]))
    corner = xy.min(axis=0)
    width = max(step, float((xy.max(axis=0) - corner).max()) / _MAX_CELLS) or 1.0
    cells = np.rint((xy - corner) / width).astype(np.int64)
    # Twice as large as the section: no lag may run over the border into the other side.
    shape = [fft.next_fast_len(int(2 * last + 1), real=True) for last in cells.max(axis=0)]
    lags = [np.minimum(np.arange(size), size - np.arange(size)) for size in shape]
    return cells, np.rint(np.hypot(lags[0][:, None], lags[1])).astype(np.int64)


def _sums_of_products(
    values: Float[Array, "n n_genes"], cells: Int[Array, "n 2"], distance: Int[Array, "height width"]
) -> Float64[Array, "n_genes n_distances"]:
    """Sum the products of all ordered pairs of different spots, by their distance."""
    sums = []
    for gene in np.asarray(values.T, dtype=np.float64):
        raster = np.zeros(distance.shape)
        np.add.at(raster, tuple(cells.T), gene)
        products = fft.irfft2(np.abs(fft.rfft2(raster)) ** 2, s=distance.shape)
        by_distance = np.bincount(distance.ravel(), weights=products.ravel())
        by_distance[0] -= gene @ gene  # spots with themselves
        sums.append(by_distance)
    return np.stack(sums)


def _autocorrelation(
    values: Float[Array, "n n_genes"],
    cells: Int[Array, "n 2"],
    distance: Int[Array, "height width"],
    n_pairs: Float64[Array, "1 n_distances"],
) -> Float64[Array, "n_genes n_distances"]:
    """Autocorrelation of each gene at each distance; 0 for a constant."""
    centred = values - values.mean(axis=0, dtype=np.float64)
    variance = (centred**2).mean(axis=0)
    mean_product = _sums_of_products(centred, cells, distance) / n_pairs
    autocorrelation: Array = mean_product / np.where(variance > 0, variance, np.inf)[:, None]
    return autocorrelation
