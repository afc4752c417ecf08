import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pattern_truth import hexagonal_disc, slow_effective_size, smooth_noise
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from spam.models.checkpoint import from_tensors, to_tensors
from spam.models.count_likelihood import Likelihood, count_interval
from spam.models.reliability import (
    AppearanceBank,
    HeldOut,
    correlation_p_values,
    effective_sizes,
    fit_appearance,
    judge,
    within_section_pearson,
)

N, G = 43, 7


def drawn(likelihood: Likelihood) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Counts with the distribution that they were drawn from."""
    rng = np.random.default_rng(3)
    mu = rng.gamma(2.0, 3.0, (N, G))
    theta = None if likelihood == "poisson" else rng.uniform(0.5, 5.0, G)
    pi = rng.uniform(0.05, 0.4, (N, G)) if likelihood == "zinb" else None
    counts = rng.poisson(mu) if theta is None else rng.negative_binomial(theta, theta / (theta + mu))
    if pi is not None:
        counts = np.where(rng.random((N, G)) < pi, 0, counts)
    return counts.astype(float), mu, theta, pi


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson"])
def test_coverage_is_that_of_the_intervals_themselves(likelihood: Likelihood) -> None:
    counts, mu, theta, pi = drawn(likelihood)
    noise = np.random.default_rng(0).normal(size=(N, G))
    section = np.arange(N) * 3 // N
    found = judge(
        noise,
        noise,
        section,
        xy=np.random.default_rng(1).random((N, 2)),
        counts=counts,
        likelihood=likelihood,
        mu=mu,
        theta=None if theta is None else np.broadcast_to(theta, (N, G)),
        pi=pi,
    )
    for level in (0.05, 0.5, 0.9, 0.99):
        lower, upper = count_interval(likelihood, mu, theta, pi, level)
        is_inside = (counts >= lower) & (counts <= upper)
        at = int(np.argmin(abs(found.levels - level)))
        assert found.coverage[at] == pytest.approx(is_inside.mean())
        assert found.lowest[at] == pytest.approx(min(is_inside[section == s].mean() for s in range(3)))
    assert (np.diff(found.levels) > 0).all()
    assert (np.diff(found.coverage) >= 0).all()


def test_intervals_too_wide_are_narrowed() -> None:
    heldout = HeldOut(
        pearson=np.zeros(2),
        p_value=np.zeros(2),
        levels=np.array([0.5, 0.8, 0.9, 0.99]),
        coverage=np.array([0.7, 0.9, 0.95, 1.0]),
        lowest=np.array([0.6, 0.8, 0.9, 1.0]),
    )
    assert heldout.level_for(0.9, is_calibrated=True) == pytest.approx(0.8)
    assert heldout.level_for(0.925, is_calibrated=True) == pytest.approx(0.85)
    assert heldout.level_for(0.1, is_calibrated=True) == pytest.approx(0.5)  # nothing narrower was looked at
    assert heldout.level_for(0.9, is_calibrated=False) == pytest.approx(0.9)
    assert heldout.level_for(0.85, is_calibrated=False) == pytest.approx(0.85)
    again = from_tensors(HeldOut, to_tensors(heldout, "heldout"), "heldout")
    assert again.level_for(0.97, is_calibrated=False) == heldout.level_for(0.97, is_calibrated=False)


def test_q_values_are_those_of_benjamini_and_hochberg() -> None:
    p = np.array([0.04, np.nan, 0.001, 0.03, 0.9, 0.001, np.nan, 0.02])
    heldout = HeldOut(pearson=p, p_value=p, levels=np.ones(1), coverage=np.ones(1), lowest=np.ones(1))
    tested = np.flatnonzero(np.isfinite(p))
    expected = np.full(8, np.nan)
    for i in tested:  # the lowest rate at which the step-up procedure rejects this gene
        expected[i] = min(p[j] * len(tested) / (p[tested] <= p[j]).sum() for j in tested if p[j] >= p[i])
    np.testing.assert_allclose(heldout.q_value, expected, rtol=1e-12)
    np.testing.assert_array_equal(from_tensors(HeldOut, to_tensors(heldout, "heldout"), "heldout").p_value, p)
    nothing = dataclasses.replace(heldout, pearson=np.full(3, np.nan), p_value=np.full(3, np.nan))
    assert np.isnan(nothing.q_value).tolist() == [True] * 3


def test_correlations_are_taken_within_each_section_and_then_averaged() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, N, G))
    section = np.repeat([4, 9], [19, N - 19])
    a[section == 9] += 100.0  # a shift between sections is no correlation
    b[section == 9] += 100.0
    b[section == 4, 2] = 1.0  # constant in one section
    b[:, 5] = 3.0  # constant in both
    found = within_section_pearson(a, b, section)
    for g in range(G):
        parts = [
            stats.pearsonr(a[section == s, g], b[section == s, g]).statistic
            for s in (4, 9)
            if np.ptp(b[section == s, g]) > 0
        ]
        assert (np.isnan(found[g])) == (not parts)
        if parts:
            assert found[g] == pytest.approx(np.mean(parts))


def grid(rows: int, columns: int) -> np.ndarray:
    return np.stack(np.divmod(np.arange(rows * columns), columns), axis=1).astype(float)


@given(rows=st.integers(1, 5), columns=st.integers(3, 7), seed=st.integers(0, 99), is_smooth=st.booleans())
@settings(deadline=None, max_examples=25)
def test_effective_sizes_are_those_of_a_loop_over_all_pairs(
    rows: int, columns: int, seed: int, *, is_smooth: bool
) -> None:
    rng = np.random.default_rng(seed)
    xy = grid(rows, columns)
    a, b = (smooth_noise(rng, xy, 1.5 if is_smooth else 0.01, 3) for _ in range(2))
    expected = [slow_effective_size(a[:, g], b[:, g], xy) for g in range(3)]
    np.testing.assert_allclose(effective_sizes(a, b, xy), expected, rtol=1e-4)


def test_place_scale_and_order_of_the_spots_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    xy = hexagonal_disc(113)
    a, b = smooth_noise(rng, xy, 2.0, 5), smooth_noise(rng, xy, 2.0, 5)
    found = effective_sizes(a, b, xy)
    order = rng.permutation(113)
    np.testing.assert_allclose(effective_sizes(a, b, 1e4 + 97.0 * xy), found, rtol=1e-4)
    np.testing.assert_allclose(effective_sizes(a[order], b[order], xy[order]), found, rtol=1e-4)
    np.testing.assert_allclose(effective_sizes(b, a, xy), found, rtol=1e-9)
    np.testing.assert_allclose(effective_sizes(3 - 7 * a, b, xy), found, rtol=1e-4)


@pytest.mark.parametrize("length", [1.5, 2.5])
def test_effective_size_is_what_correlations_vary_by(length: float) -> None:
    rng = np.random.default_rng(1)
    xy = hexagonal_disc(307)
    a, b = smooth_noise(rng, xy, length, 499), smooth_noise(rng, xy, length, 499)
    r = np.array([stats.pearsonr(a[:, g], b[:, g]).statistic for g in range(499)])
    # Estimated from centred values, autocorrelation is a little low, and the size a little high.
    assert np.median(effective_sizes(a, b, xy)) == pytest.approx(1 + 1 / r.var(), rel=0.25)
    assert 1 + 1 / r.var() < 307 / 4


@pytest.mark.parametrize(
    ("of_a", "of_b"),
    [((1.5, 0.0), (1.5, 0.0)), ((2.5, 0.5), (1.5, 0.0)), ((0.01, 0.0), (2.5, 0.0)), ((2.5, 0.9), (2.5, 0.9))],
)
def test_effective_size_is_that_of_dutilleul_for_the_true_covariance(
    of_a: tuple[float, float], of_b: tuple[float, float]
) -> None:
    """M = 1 + tr(B Ca) tr(B Cb) / tr(B Ca B Cb), B the centring matrix (Dutilleul 1993, equation 3.1)."""
    rng = np.random.default_rng(8)
    xy = hexagonal_disc(307)
    centring = np.eye(307) - 1 / 307

    def centred(length: float, nugget: float) -> np.ndarray:
        smooth = np.exp(-cdist(xy, xy, "sqeuclidean") / (2 * length**2))
        return centring @ ((1 - nugget) * smooth + nugget * np.eye(307))

    a, b = centred(*of_a), centred(*of_b)
    exact = 1 + np.trace(a) * np.trace(b) / np.trace(a @ b)
    drawn = (smooth_noise(rng, xy, length, 199, nugget=nugget) for length, nugget in (of_a, of_b))
    # Estimated from centred values, autocorrelation is a little low, and the size a little high.
    assert 0.95 * exact < np.median(effective_sizes(*drawn, xy)) < 1.3 * exact


def test_one_section_is_tested_by_the_distribution_of_a_correlation_of_so_many_spots() -> None:
    rng = np.random.default_rng(2)
    xy = hexagonal_disc(61)
    a = smooth_noise(rng, xy, 1.0, 7)
    b = 0.4 * a + smooth_noise(rng, xy, 1.0, 7)
    r = np.array([stats.pearsonr(a[:, g], b[:, g]).statistic for g in range(7)])
    shape = effective_sizes(a, b, xy) / 2 - 1
    expected = stats.beta(shape, shape, loc=-1, scale=2).sf(r)
    np.testing.assert_allclose(correlation_p_values(a, b, np.full(61, 4), xy), expected, rtol=1e-6)


def test_sections_are_combined_by_stouffer_weighted_by_their_effective_sizes() -> None:
    rng = np.random.default_rng(3)
    n = (47, 31, 2)
    xy = np.concatenate([hexagonal_disc(size) for size in n])
    section = np.repeat([8, 1, 5], n)
    a, b = rng.normal(size=(2, sum(n), 6))
    b += 0.2 * a
    b[section == 1, 2] = 1.0  # nothing to see in one section
    b[:, 4] = 3.0  # nor in any
    found = correlation_p_values(a, b, section, xy)
    rows = [section == 8, section == 1]
    alone = np.stack([correlation_p_values(a[r], b[r], section[r], xy[r]) for r in rows])
    sizes = np.stack([effective_sizes(a[r], b[r], xy[r]) for r in rows])
    for g in (0, 1, 3, 5):
        expected = stats.combine_pvalues(alone[:, g], "stouffer", weights=np.sqrt(sizes[:, g] - 1)).pvalue
        assert found[g] == pytest.approx(expected, rel=1e-6), g
    assert found[2] == pytest.approx(alone[0, 2], rel=1e-6)
    assert np.isnan(found).tolist() == [False] * 4 + [True, False]


@pytest.mark.parametrize(("length", "nugget"), [(0.01, 0.0), (2.0, 0.9), (2.0, 0.5), (2.0, 0.0), (4.0, 0.5)])
def test_smooth_noise_is_called_significant_no_more_often_than_stated(length: float, nugget: float) -> None:
    rng = np.random.default_rng(4)
    n_tests = 2003
    xy = np.concatenate([hexagonal_disc(n) for n in (181, 127)])
    section = np.repeat([0, 1], [181, 127])
    predicted, measured = (
        np.concatenate([smooth_noise(rng, hexagonal_disc(n), of, n_tests, nugget=share) for n in (181, 127)])
        for of, share in ((2.0, 0.0), (length, nugget))
    )
    p = correlation_p_values(predicted, measured, section, xy)
    for level in (0.05, 0.01, 0.001):
        error = 4 * np.sqrt(level * (1 - level) / n_tests)
        # 1.2: what estimating the autocorrelation costs where both patterns are as smooth as can be.
        assert (p < level).mean() < 1.2 * level + error, level
    if length > 1 and nugget < 0.9:  # a test that takes spots for independent
        naive = [
            stats.pearsonr(predicted[:, g], measured[:, g], alternative="greater").pvalue for g in range(503)
        ]
        assert (np.array(naive) < 0.01).mean() > 0.03


def test_a_real_correlation_is_found_in_few_noisy_spots() -> None:
    rng = np.random.default_rng(5)
    xy = hexagonal_disc(179)
    truth = smooth_noise(rng, xy, 2.0, 101)
    measured = 0.8 * truth + rng.standard_normal((179, 101))
    p = correlation_p_values(
        truth + 0.3 * rng.standard_normal(truth.shape), measured, np.zeros(179, dtype=int), xy
    )
    assert np.mean(p < 0.001) > 0.9
    assert (correlation_p_values(-truth, measured, np.zeros(179, dtype=int), xy) > 0.5).mean() > 0.99


def test_perfect_and_opposite_correlations_stay_finite_and_spots_may_lie_on_one_another() -> None:
    rng = np.random.default_rng(6)
    a = rng.normal(size=(23, 2))
    section = np.repeat([0, 1], [12, 11])
    b = a.copy()
    b[section == 1, 1] *= -1
    found = correlation_p_values(a, b, section, grid(1, 23))
    assert 0 <= found[0] < 1e-40
    assert 1e-6 < found[1] < 1 - 1e-6  # one section for it, one against it
    there = correlation_p_values(a, b, section, np.zeros((23, 2)))
    assert np.isfinite(there).all()
    assert np.isnan(correlation_p_values(a[:2], b[:2], section[:2], grid(1, 2))).all()


SECTION = np.repeat([0, 1, 2], [37, 39, 41])


def images(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(117, 24)) @ rng.normal(size=(24, 24))).astype(np.float32)


def fifth(points: np.ndarray, queries: np.ndarray) -> np.ndarray:
    return NearestNeighbors(n_neighbors=5).fit(points).kneighbors(queries)[0][:, 4]


def test_distances_are_those_of_scaled_features_in_units_of_a_left_out_section() -> None:
    # 24 features have 24 components: nothing is left out, and a rotation changes no distance.
    features = images()
    bank = fit_appearance(features, SECTION, SECTION)
    scaler = StandardScaler().fit(features)
    scaled = scaler.transform(features)
    left_out = [fifth(scaled[s != SECTION], scaled[s == SECTION]) for s in range(3)]
    unit = np.quantile(np.concatenate(left_out), 0.99)
    assert bank.unit == pytest.approx(unit, rel=1e-5)
    new = images(1)[:19]
    np.testing.assert_allclose(bank.distance(new), fifth(scaled, scaler.transform(new)) / unit, rtol=1e-4)
    own = bank.distance(features[SECTION == 1], without=1)
    np.testing.assert_allclose(own, left_out[1] / unit, rtol=1e-4)
    kept = from_tensors(AppearanceBank, to_tensors(bank, "appearance"), "appearance")
    np.testing.assert_array_equal(kept.distance(new), bank.distance(new))
    flagged = [bank.distance(features[s == SECTION], without=s) > 1 for s in range(3)]
    assert np.concatenate(flagged).sum() == 2  # of 117: those above the .99 quantile


def test_a_training_section_is_recognised_by_a_part_of_its_spots() -> None:
    features = images()
    whole = fit_appearance(features, SECTION, SECTION)
    is_kept = np.arange(117) % 4 > 0
    is_kept[SECTION == 1] = np.arange((SECTION == 1).sum()) % 4 == 0
    part = dataclasses.replace(whole, bank=whole.bank[is_kept], section=whole.section[is_kept])
    for bank in (whole, part):
        assert [bank.section_of(features[s == SECTION]) for s in range(3)] == [0, 1, 2]
        assert bank.section_of(images(1)) == -1


def test_a_half_of_a_training_section_is_recognised_and_blank_tiles_are_not() -> None:
    features = images()
    features[:3] = features[0]  # blank tiles of the first section
    bank = fit_appearance(features, SECTION, SECTION)
    own = np.flatnonzero(SECTION == 1)
    assert bank.section_of(features[own[: len(own) // 2]]) == 1
    new = np.concatenate([images(seed) for seed in range(2, 12)])
    new[::17] = features[0]
    assert bank.section_of(new) == -1


def test_each_held_out_section_calibrates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spam.models.reliability._MOST_COUNTS", 0)
    monkeypatch.setattr("spam.models.reliability._FEWEST_SPOTS", 11)
    counts, mu, theta, pi = drawn("nb")
    section = np.zeros(N, dtype=int)
    section[:11] = 1  # few spots, whose counts no interval covers
    counts[:11] = 10_000_000
    assert theta is not None
    found = judge(
        mu,
        mu,
        section,
        xy=np.random.default_rng(1).random((N, 2)),
        counts=counts,
        likelihood="nb",
        mu=mu,
        theta=np.broadcast_to(theta, (N, G)),
        pi=pi,
    )
    at = int(np.argmin(abs(found.levels - 0.9)))
    assert found.lowest[at] == 0
    assert 0.4 < found.coverage[at] < 0.5  # 11 spots of each


def test_foreign_images_are_recognised_however_little_training_images_vary() -> None:
    """Features in which training varies along 40 directions, and new tissue along one more."""
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(67, 67)))[0]
    features, like = (
        rng.normal(size=(n, 40)) @ axes[:40] + 0.01 * rng.normal(size=(n, 67)) for n in (117, 211)
    )
    bank = fit_appearance(features.astype(np.float32), SECTION, SECTION)
    assert bank.bank.shape == (117, 33)
    assert (bank.distance(like.astype(np.float32)) > 1).mean() < 0.1
    assert (bank.distance((like + 12 * axes[50]).astype(np.float32)) > 1).mean() > 0.9
    shifted = like + 6 * features.std(axis=0)
    assert (bank.distance(shifted.astype(np.float32)) > 1).all()


def test_one_odd_training_spot_does_not_make_similar_images_familiar() -> None:
    features = images()
    unit = fit_appearance(features, SECTION, SECTION).unit
    odd = features.mean(axis=0) + 20 * features.std(axis=0)
    for n_odd, is_familiar in ((1, False), (5, True)):
        features[:n_odd] = odd
        bank = dataclasses.replace(fit_appearance(features, SECTION, SECTION), unit=unit)
        assert (bank.distance(odd[None])[0] < 1e-3) == is_familiar


def test_few_or_no_spots_to_compare_with_and_identical_images() -> None:
    features = images()
    bank = fit_appearance(features, SECTION, SECTION)
    few = dataclasses.replace(bank, section=np.where(np.isin(np.arange(117), (50, 60)), 1, 0))
    points = bank.bank.astype(np.float64)
    farthest = np.linalg.norm(points[:3, None] - points[[50, 60]], axis=2).max(axis=1)
    np.testing.assert_allclose(few.distance(features[:3], without=0), farthest / bank.unit, rtol=1e-5)
    alone = dataclasses.replace(bank, section=np.zeros(117, dtype=np.int32))
    assert np.isnan(alone.distance(features[:3], without=0)).all()
    same = fit_appearance(np.ones((117, 24), dtype=np.float32), SECTION, SECTION)
    new = np.stack([np.ones(24), np.full(24, 1.5)]).astype(np.float32)
    assert (same.distance(new) > 1).tolist() == [False, True]
