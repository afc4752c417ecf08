import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pattern_truth import hexagonal_disc, slow_effective_size, smooth_noise
from scipy import stats

from spam.models.reliability import correlation_p_values, effective_sizes


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
    np.testing.assert_allclose(effective_sizes(a, b, xy), expected, rtol=1e-9)


def test_place_scale_and_order_of_the_spots_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    xy = hexagonal_disc(113)
    a, b = smooth_noise(rng, xy, 2.0, 5), smooth_noise(rng, xy, 2.0, 5)
    found = effective_sizes(a, b, xy)
    order = rng.permutation(113)
    np.testing.assert_allclose(effective_sizes(a, b, 1e4 + 97.0 * xy), found, rtol=1e-9)
    np.testing.assert_allclose(effective_sizes(a[order], b[order], xy[order]), found, rtol=1e-9)
    np.testing.assert_allclose(effective_sizes(b, a, xy), found, rtol=1e-12)
    np.testing.assert_allclose(effective_sizes(3 - 7 * a, b, xy), found, rtol=1e-9)


@pytest.mark.parametrize("length", [1.5, 2.5])
def test_effective_size_is_what_correlations_vary_by(length: float) -> None:
    rng = np.random.default_rng(1)
    xy = hexagonal_disc(307)
    a, b = smooth_noise(rng, xy, length, 499), smooth_noise(rng, xy, length, 499)
    r = np.array([stats.pearsonr(a[:, g], b[:, g]).statistic for g in range(499)])
    # Estimated from centred values, autocorrelation is a little low, and the size a little high.
    assert np.median(effective_sizes(a, b, xy)) == pytest.approx(1 + 1 / r.var(), rel=0.25)
    assert 1 + 1 / r.var() < 307 / 4


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
