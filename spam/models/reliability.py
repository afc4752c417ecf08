"""Reliability of predictions: accuracy per gene on held-out spots, calibrated intervals, out-of-distribution images."""

import dataclasses
import math

import numpy as np
import torch
from scipy import fft, stats
from scipy.spatial import KDTree

from spam.graphs import knn
from spam.typing import Array, Float, Float32, Float64, Int, Num, Rows

from .count_likelihood import Likelihood, count_cdf
from .linear import FeatureTransform, pearson_per_gene

FALSE_DISCOVERY_RATE = 0.05  # of the genes that are called predictable

_MOST_COUNTS = 1 << 21  # on which intervals are calibrated, divided among the held-out sections
_FEWEST_SPOTS = 200  # of a held-out section for that, if it has as many
_LEVELS = np.concatenate([np.arange(0.01, 1.0, 0.01), [0.995, 0.999, 0.9999]])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOut:
    """Accuracy and calibration on the held-out spots, stored in the checkpoint.

    Attributes
    ----------
    pearson
        Correlation of each gene within a held-out section, mean over these sections; NaN where it is not defined.
    p_value
        P value under the null of an equally smooth, image-independent expression map (`correlation_p_values`); NaN if the
        correlation is not defined.
    levels, coverage
        Nominal levels of central intervals, and the share of the held-out counts (pooled over spots and genes) that they
        covered; both increase.
    lowest
        The same share in the held-out section that was covered least.
    """

    pearson: Float64[Array, " n_genes"]
    p_value: Float64[Array, " n_genes"]
    levels: Float64[Array, " n_levels"]
    coverage: Float64[Array, " n_levels"]
    lowest: Float64[Array, " n_levels"]

    @property
    def q_value(self) -> Float64[Array, " n_genes"]:
        """P values adjusted for multiple testing (Benjamini and Hochberg 1995); NaN where the P value is undefined."""
        q = np.full_like(self.p_value, np.nan)
        is_tested = np.isfinite(self.p_value)
        if is_tested.any():
            q[is_tested] = stats.false_discovery_control(self.p_value[is_tested])
        return q

    def level_for(self, coverage: float, *, is_calibrated: bool) -> float:
        """Nominal level of the interval that covered this share of the held-out counts, by linear interpolation.

        If held-out sections are no calibration for a section (`is_calibrated`), the wider level is used that covered this share
        in each of them.
        """
        return float(np.interp(coverage, self.coverage if is_calibrated else self.lowest, self.levels))


def within_section_pearson(
    predicted: Float[Array, "n n_genes"], expression: Float[Array, "n n_genes"], section: Int[Array, " n"]
) -> Float64[Array, " n_genes"]:
    """Correlate each gene within each section, and average the defined correlations; NaN if none is defined."""
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
    theta: Float[Array, "n n_genes"] | None,
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
        Coordinates of each spot in its section.
    counts, likelihood, mu, theta, pi
        Raw counts, and their predicted distribution at the library size of each spot.
    """
    # A count is inside an interval if its cumulative probability reaches the lower level, and that of the count minus
    # one does not reach the upper level. This equals `count_interval` without inverting the CDF for each level.
    parts = [np.flatnonzero(section == s) for s in np.unique(section)]
    each = max(_FEWEST_SPOTS, _MOST_COUNTS // (counts.shape[1] * len(parts)))
    rng = np.random.default_rng(0)
    some = np.sort(np.concatenate([rng.permutation(rows)[:each] for rows in parts]))
    theta, pi = (None if each is None else each[some] for each in (theta, pi))
    up_to = count_cdf(likelihood, counts[some], mu[some], theta, pi)
    below = count_cdf(likelihood, counts[some] - 1.0, mu[some], theta, pi)
    spots = np.stack([((up_to >= (1 - q) / 2) & (below < (1 + q) / 2)).mean(axis=1) for q in _LEVELS])
    return HeldOut(
        pearson=within_section_pearson(predicted, expression, section),
        p_value=correlation_p_values(predicted, expression, section, xy),
        levels=_LEVELS,
        coverage=spots.mean(axis=1),
        lowest=np.min([spots[:, section[some] == s].mean(axis=1) for s in np.unique(section[some])], axis=0),
    )


_MAX_CELLS = 256  # of the raster, along the longer side: bounds the cost of a large section
_GENES = 64  # whose rasters exist at a time
_FEWEST = 3  # effective spots; the t distribution is undefined with fewer


def correlation_p_values(
    predicted: Float[Array, "n n_genes"],
    measured: Float[Array, "n n_genes"],
    section: Int[Array, " n"],
    xy: Float[Array, "n 2"],
) -> Float64[Array, " n_genes"]:
    """Test each gene for a positive correlation within the sections (one-sided, sections combined).

    In each section the correlation is tested by Student's t with the effective sample size in place of the number of spots
    (Dutilleul 1993, doi 10.2307/2532625). The normal scores of the sections are combined by Stouffer's method, weighted by
    the inverse standard deviation of the correlation under the null. Sections of fewer than 3 spots are left out.

    Returns
    -------
    P values; NaN if the measured or the predicted gene is constant in every section.
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
    r"""Effective sample size of the correlation of each gene, given spatial autocorrelation.

    For two independent patterns, each autocorrelated in space,

    .. math:: \mathrm{var}(r) \approx \frac{1}{n^2} \sum_h N_h \hat\rho_a(h) \hat\rho_b(h), \qquad
              M = 1 + 1 / \mathrm{var}(r),

    where :math:`N_h` is the number of ordered pairs of spots about ``h`` spot distances apart (each spot with itself at
    :math:`h = 0`), and :math:`\hat\rho(h)` is the autocorrelation at this distance (Clifford, Richardson and Hémon 1989,
    doi 10.2307/2532039). M is about n if either pattern is independent between spots.

    Spots are binned into a raster, with cells as wide as the distance between neighbouring spots (at least 1/256 of the
    section), so that the sums over all pairs are Fourier transforms.

    Parameters
    ----------
    a, b
        Two values of each gene in each of 3 or more spots.
    xy
        Coordinates of the spots, in any unit.

    Returns
    -------
    Effective sample sizes, clipped to 3 .. n because the estimated autocorrelations can cancel.
    """
    n = len(xy)
    cells, distance = _raster(xy)
    raster = np.zeros(distance.shape)
    np.add.at(raster, tuple(cells.T), 1.0)
    pairs = np.rint(fft.irfft2(np.abs(fft.rfft2(raster)) ** 2, s=distance.shape))
    n_pairs = np.bincount(distance.ravel(), pairs.ravel())
    n_pairs[0] -= n  # spots with themselves
    n_pairs = np.maximum(n_pairs, 1.0)
    spectra = _ring_spectra(distance)
    both = math.prod(_autocorrelation(each, cells, distance.shape, spectra, n_pairs) for each in (a, b))
    variance = (1.0 + (n_pairs * both).sum(axis=1) / n) / n
    sizes: Array = np.clip(1.0 + 1.0 / np.maximum(variance, 1.0 / n), _FEWEST, n)
    return sizes


def _raster(xy: Float[Array, "n 2"]) -> tuple[Int[Array, "n 2"], Int[Array, "height width"]]:
    """Raster cell of each spot, and the length in cells of every lag of the Fourier transform."""
    step = float(np.median(KDTree(xy).query(xy, k=2)[0][:, 1]))
    corner = xy.min(axis=0)
    width = max(step, float((xy.max(axis=0) - corner).max()) / _MAX_CELLS) or 1.0
    cells = np.rint((xy - corner) / width).astype(np.int64)
    # Padded to twice the size of the section, so that lags do not wrap around.
    shape = [fft.next_fast_len(int(2 * last + 1), real=True) for last in cells.max(axis=0)]
    lags = [np.minimum(np.arange(size), size - np.arange(size)) for size in shape]
    return cells, np.rint(np.hypot(lags[0][:, None], lags[1])).astype(np.int64)


def _ring_spectra(distance: Int[Array, "height width"]) -> Float32[torch.Tensor, "frequencies distances"]:
    """Compute the weights of a power spectrum in the sums of its autocovariance over the lags of each distance.

    The sums are linear in the spectrum, so one matrix product replaces an inverse transform for each gene. Rings are symmetric,
    so the weights of a frequency are also those of the negative one.
    """
    (height, width), lags, spectra = distance.shape, torch.from_numpy(distance), []
    for ring in range(int(distance.max()) + 1):
        spectrum = torch.fft.rfft2((lags == ring).float()).real / distance.size
        spectrum[:, 1 : (width + 1) // 2] *= 2.0  # also stands for its conjugate
        spectra.append(spectrum[: height // 2 + 1].flatten())
    return torch.stack(spectra, dim=1)


def _autocorrelation(
    values: Float[Array, "n n_genes"],
    cells: Int[Array, "n 2"],
    shape: tuple[int, ...],
    spectra: Float32[torch.Tensor, "frequencies distances"],
    n_pairs: Float64[Array, " distances"],
) -> Float64[Array, "n_genes distances"]:
    """Autocorrelation of each gene at each distance, in float32; 0 for a constant."""
    centred = values - values.mean(axis=0, dtype=np.float64)
    deviation = np.sqrt((centred**2).mean(axis=0))
    standard = torch.from_numpy((centred / np.where(deviation > 0, deviation, np.inf)).T.astype(np.float32))
    inside, half = tuple(cells.max(axis=0) + 1), shape[0] // 2 + 1
    places = torch.from_numpy(np.ravel_multi_index(tuple(cells.T), inside))
    sums = []
    for genes in torch.split(standard, _GENES):
        rasters = torch.zeros(len(genes), math.prod(inside)).scatter_add_(1, places.expand_as(genes), genes)
        waves = torch.fft.rfft2(rasters.view(-1, *inside), s=shape)
        power = waves.real.square() + waves.imag.square()
        power[:, 1 : shape[0] - half + 1] += power[:, half:].flip(1)  # negative frequencies
        by_distance = power[:, :half].flatten(1) @ spectra
        by_distance[:, 0] -= genes.square().sum(dim=1)  # spots with themselves
        sums.append(by_distance.numpy())
    autocorrelation: Array = np.concatenate(sums) / n_pairs
    return autocorrelation


_ROWS = 8192  # images that are projected at a time
_N_COMPONENTS = 32  # so few that foreign tissue leaves a remainder (docs/experiments-log.md)
_NEIGHBOUR = 5  # the fifth nearest, so that a single outlier among the training spots has no effect
_FEWEST_SEEN = 10  # images of a section in the bank, by which a larger section can be recognised
_SAME_IMAGE = 0.01  # distance; other hardware and rounding to float16 change features by less
_QUANTILE = 0.99  # of the distances of left-out training groups


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AppearanceBank:
    """Out-of-distribution detector: distance of an image from the images of the training spots.

    Features are not standardised within their section, which would hide a foreign stain. Features of all tile sizes are
    scaled by their standard deviation over the training spots and represented by their principal components and the length
    of the residual. The distance of a spot is that to its fifth nearest training spot. It is divided by the .99 quantile of
    the distances of training spots to other groups (sections, or blocks of a single section), so 1 % of the spots of a
    similar new section are expected above 1.

    Relative to the paper (Sun et al. 2022, arXiv 2204.06507): features are scaled and projected on components instead of
    normalised to length 1, which hid foreign tissue here; the threshold comes from left-out sections, because spots of one
    section are similar.

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

    def section_of(self, features: Float[Rows, "n d"]) -> int:
        """Number of the training section that most of these images are from; -1 for new images.

        The bank may hold a sample of a section: then most of this sample must be among these images.
        """
        found = knn(self.bank, _coordinates(self.transform, features), k=1)
        places = found.indices[found.distances[:, 0] < _SAME_IMAGE * self.unit, 0]
        if 2 * len(places) > len(features):
            return int(np.bincount(self.section[places]).argmax())
        # Each place counts once: many blank tiles are one image.
        n_seen = np.bincount(self.section)
        n_found = np.bincount(self.section[np.unique(places)], minlength=len(n_seen))
        number = int(np.argmax(n_found / np.maximum(n_seen, 1)))
        return number if 2 * n_found[number] > max(int(n_seen[number]), _FEWEST_SEEN) else -1

    def distance(self, features: Float[Rows, "n d"], *, without: int = -1) -> Float64[Array, " n"]:
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

    def reach(self, unit: Int[Array, " m"], section: Int[Array, " m"]) -> float:
        """Largest median distance of a section (or block) from the training spots of other units; infinite without others.

        Parameters
        ----------
        unit
            Donor, section or block of each training spot, as a number.
        section
            Section or block of each training spot.
        """
        medians = [
            np.median(_distance_to(self.bank[unit != unit[rows][0]], self.bank[rows]))
            for rows in (section == s for s in np.unique(section))
        ]
        known = [median for median in medians if np.isfinite(median)]
        # Identical training images have distance 0, and every other image is farther.
        return max(float(max(known)) / self.unit, float(np.finfo(np.float32).tiny)) if known else np.inf


def fit_appearance(
    features: Float[Array, "m d"], group: Int[Array, " m"], section: Int[Array, " m"]
) -> AppearanceBank:
    """Fit the detector on training spots; the unit comes from the distances between groups.

    Parameters
    ----------
    features
        Features of all tile sizes side by side.
    group
        Sections, or blocks of a single section.
    section
        Number of the section of each spot.
    """
    transform = FeatureTransform.fit(features, _N_COMPONENTS)
    bank = _coordinates(transform, features)
    left_out = [_distance_to(bank[group != g], bank[group == g]) for g in np.unique(group)]
    # If all training images are identical, every other image is out of distribution.
    unit = max(float(np.quantile(np.concatenate(left_out), _QUANTILE)), float(np.finfo(np.float32).tiny))
    return AppearanceBank(transform=transform, bank=bank, section=section.astype(np.int32), unit=unit)


def _coordinates(transform: FeatureTransform, features: Float[Rows, "n d"]) -> Float32[Array, "n q_plus_1"]:
    """Principal components, and the length of the residual."""
    found = np.empty((len(features), len(transform.components) + 1), dtype=np.float32)
    for start in range(0, len(features), _ROWS):
        rows = features[start : start + _ROWS]  # read once
        inside, whole = transform.apply(rows), transform.square_length(rows)
        found[start : start + _ROWS, :-1] = inside
        found[start : start + _ROWS, -1] = np.sqrt(np.maximum(whole - (inside**2).sum(axis=1), 0.0))
    return found


def _distance_to(bank: Float32[Array, "m q"], points: Float32[Array, "n q"]) -> Float64[Array, " n"]:
    """Distance to the fifth nearest of the bank, or to the farthest of fewer; NaN without any."""
    if not len(bank):
        return np.full(len(points), np.nan)
    k = min(_NEIGHBOUR, len(bank))
    return knn(bank, points, k=k).distances[:, k - 1].astype(np.float64)
