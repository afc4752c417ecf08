"""Reliability of predictions: accuracy per gene on held-out spots, calibrated intervals, out-of-distribution images."""

import dataclasses

import numpy as np
from scipy import fft, stats
from scipy.spatial import KDTree

from spam.graphs import knn
from spam.typing import Array, Float, Float32, Float64, Int, Num

from .count_likelihood import Likelihood, count_cdf
from .linear import FeatureTransform, pearson_per_gene

FALSE_DISCOVERY_RATE = 0.05  # of the genes that are called predictable

_LEVELS = np.concatenate([np.arange(0.01, 1.0, 0.01), [0.995, 0.999, 0.9999]])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOut:
    """Accuracy and calibration on the held-out spots, stored in the checkpoint.

    Attributes
    ----------
    pearson
        Correlation of each gene within a held-out section, mean over these sections; NaN where it is not defined.
    p_value
        P value under the null of an equally smooth, image-independent expression map (`correlation_p_values`); NaN
        where the correlation is not defined.
    levels, coverage
        Nominal levels of central intervals, and the share of held-out counts (all spots and genes) that each interval
        contained; both increasing.
    """

    pearson: Float64[Array, " n_genes"]
    p_value: Float64[Array, " n_genes"]
    levels: Float64[Array, " n_levels"]
    coverage: Float64[Array, " n_levels"]

    @property
    def q_value(self) -> Float64[Array, " n_genes"]:
        """P values adjusted for the number of genes (Benjamini and Hochberg 1995); NaN where there is none."""
        q = np.full_like(self.p_value, np.nan)
        is_tested = np.isfinite(self.p_value)
        if is_tested.any():
            q[is_tested] = stats.false_discovery_control(self.p_value[is_tested])
        return q

    def level_for(self, coverage: float) -> float:
        """Nominal level whose intervals covered this share of the held-out counts, by linear interpolation."""
        return float(np.interp(coverage, self.coverage, self.levels))


def within_section_pearson(
    predicted: Float[Array, "n n_genes"], expression: Float[Array, "n n_genes"], section: Int[Array, " n"]
) -> Float64[Array, " n_genes"]:
    """Correlate each gene within each section, and average over the sections where the correlation is defined; else NaN."""
    per_section = np.stack(
        [pearson_per_gene(predicted[section == s], expression[section == s]) for s in np.unique(section)]
    )
    is_defined = np.isfinite(per_section)
    n_defined = is_defined.sum(axis=0)
    sums = np.where(is_defined, per_section, 0.0).sum(axis=0)
    mean: Array = np.where(n_defined > 0, sums / np.maximum(n_defined, 1), np.nan)
    return mean


def judge(
    predicted: Float[Array, "n n_genes"],
    expression: Float[Array, "n n_genes"],
    section: Int[Array, " n"],
    *,
    xy: Float[Array, "n 2"],
    counts: Num[Array, "n n_genes"],
    likelihood: Likelihood,
    mu: Float[Array, "n n_genes"],
    theta: Float[Array, " n_genes"] | None,
    pi: Float[Array, "n n_genes"] | None,
) -> HeldOut:
    """Measure accuracy and interval coverage of predictions on held-out spots.

    Parameters
    ----------
    predicted, expression
        Log1p(CP10k), predicted and measured.
    section
        Section of each spot: correlations are taken within each.
    xy
        Coordinates of each spot within its section.
    counts, likelihood, mu, theta, pi
        Raw counts, and the distribution that was predicted for them at the depth of each spot.
    """
    # A count is inside an interval if its cumulative probability reaches the lower level, and that of the count minus
    # one does not reach the upper level. This equals `count_interval` without inverting the CDF for each level.
    up_to = count_cdf(likelihood, counts, mu, theta, pi)
    below = count_cdf(likelihood, counts - 1.0, mu, theta, pi)
    share = [float(((up_to >= (1 - q) / 2) & (below < (1 + q) / 2)).mean()) for q in _LEVELS]
    return HeldOut(
        pearson=within_section_pearson(predicted, expression, section),
        p_value=correlation_p_values(predicted, expression, section, xy),
        levels=_LEVELS,
        coverage=np.asarray(share),
    )


_MAX_CELLS = 256  # of the raster, along the longer side: however large a section, it costs no more than this
_FEWEST = 3  # effective spots: with fewer there is no t distribution


def correlation_p_values(
    predicted: Float[Array, "n n_genes"],
    measured: Float[Array, "n n_genes"],
    section: Int[Array, " n"],
    xy: Float[Array, "n 2"],
) -> Float64[Array, " n_genes"]:
    """Test for each gene whether its correlation within the sections is above zero (one-sided).

    In each section the correlation is judged by Student's t, with the effective number of spots in place of their number
    (Dutilleul 1993, doi 10.2307/2532625). The sections' normal scores are added (Stouffer), each weighted by the inverse
    standard deviation of its correlation under the null. Sections of fewer than 3 spots are left out.

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
    r"""Effective number of spots: as many independent spots would give the correlation of each gene the same variance.

    For two independent patterns, each of them autocorrelated in space,

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
        Coordinates of the spots, in any unit.

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


_N_COMPONENTS = 32  # few, so that foreign tissue has a large residual (docs/experiments.md)
_NEIGHBOUR = 5  # the fifth nearest, so that a single unusual training spot has no effect
_QUANTILE = 0.99  # of the distances of left-out training sections


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AppearanceBank:
    """Image features of the training spots, not standardised within sections, because that would hide a different stain.

    Features of all tile sizes are scaled by their standard deviation over the training spots. The coordinates of a spot
    are its principal components and the norm of the residual. Its distance is that to the fifth nearest training spot.
    The unit is the .99 quantile of the distances of training spots to those of other groups (sections, or blocks of a
    single section), so that 1 % of the spots of a similar new section are expected beyond 1.

    Relative to the paper (Sun et al. 2022, arXiv 2204.06507): features are scaled and projected on components, not
    normalised to length 1, which hid foreign tissue here; the threshold comes from left-out sections, because spots of
    one section resemble each other.

    Attributes
    ----------
    transform
        Scaler and components.
    bank
        Coordinates of the training spots, (m, q + 1).
    section
        Section of each training spot, as its number among the sections of the checkpoint.
    unit
        Distance that counts as 1.
    """

    transform: FeatureTransform
    bank: Float32[Array, "m q_plus_1"]
    section: Int[Array, " m"]
    unit: float

    def distance(self, features: Float32[Array, "n d"], *, without: int = -1) -> Float64[Array, " n"]:
        """Distance of new spots: above 1 they are out of distribution. NaN if there is no spot to compare with.

        Parameters
        ----------
        features
            Features of all tile sizes side by side.
        without
            Number of a training section to leave out, for spots of that section.
        """
        points = _coordinates(self.transform, features)
        return _distance_to(self.bank[self.section != without], points) / self.unit


def fit_appearance(
    features: Float32[Array, "m d"], group: Int[Array, " m"], section: Int[Array, " m"]
) -> AppearanceBank:
    """Fit the coordinates of the training spots, and the unit of distance by leaving out one group at a time.

    Parameters
    ----------
    features
        Features of all tile sizes side by side.
    group
        Sections, or blocks of a lone section.
    section
        Number of the section of each spot.
    """
    transform = FeatureTransform.fit(features, _N_COMPONENTS)
    bank = _coordinates(transform, features)
    left_out = [_distance_to(bank[group != g], bank[group == g]) for g in np.unique(group)]
    # Identical images have distance 0; then every other image is far.
    unit = max(float(np.quantile(np.concatenate(left_out), _QUANTILE)), float(np.finfo(np.float32).tiny))
    return AppearanceBank(transform=transform, bank=bank, section=section.astype(np.int32), unit=unit)


def _coordinates(
    transform: FeatureTransform, features: Float32[Array, "n d"]
) -> Float32[Array, "n q_plus_1"]:
    """Principal components, and the norm of the residual."""
    inside = transform.apply(features)
    whole = (((features - transform.mean) / transform.scale) ** 2).sum(axis=1)
    outside = np.sqrt(np.maximum(whole - (inside**2).sum(axis=1), 0.0))
    return np.column_stack([inside, outside]).astype(np.float32)


def _distance_to(bank: Float32[Array, "m q"], points: Float32[Array, "n q"]) -> Float64[Array, " n"]:
    """Distance to the fifth nearest of the bank, or to the farthest of fewer; NaN without any."""
    if not len(bank):
        return np.full(len(points), np.nan)
    k = min(_NEIGHBOUR, len(bank))
    return knn(bank, points, k=k).distances[:, k - 1].astype(np.float64)
