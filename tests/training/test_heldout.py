import dataclasses

import numpy as np
import pytest
from scipy import stats

from spam.models import Likelihood, count_cdf, count_interval
from spam.models.reliability import HeldOut, judge, within_section_pearson

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
    found = judge(
        noise,
        noise,
        np.zeros(N, dtype=int),
        xy=np.random.default_rng(1).random((N, 2)),
        counts=counts,
        likelihood=likelihood,
        mu=mu,
        theta=theta,
        pi=pi,
    )
    for level in (0.05, 0.5, 0.9, 0.99):
        lower, upper = count_interval(likelihood, mu, theta, pi, level)
        expected = ((counts >= lower) & (counts <= upper)).mean()
        at = int(np.argmin(abs(found.levels - level)))
        assert found.coverage[at] == pytest.approx(expected)
    assert (np.diff(found.levels) > 0).all()
    assert (np.diff(found.coverage) >= 0).all()
    assert found.n_spots == N


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson"])
def test_cumulative_probabilities_are_sums_of_probabilities(likelihood: Likelihood) -> None:
    counts, mu, theta, pi = drawn(likelihood)
    found = count_cdf(likelihood, counts, mu, theta, pi)
    for i, g in ((0, 0), (5, 3), (42, 6)):
        x = np.arange(int(counts[i, g]) + 1)
        p = (
            stats.poisson.pmf(x, mu[i, g])
            if theta is None
            else stats.nbinom.pmf(x, theta[g], theta[g] / (theta[g] + mu[i, g]))
        )
        expected = p.sum() if pi is None else pi[i, g] + (1 - pi[i, g]) * p.sum()
        assert found[i, g] == pytest.approx(expected)
    below_all = count_cdf(likelihood, np.full((N, G), -1.0), mu, theta, pi)
    np.testing.assert_array_equal(below_all, np.zeros((N, G)))


def test_intervals_too_wide_are_narrowed() -> None:
    heldout = HeldOut(
        pearson=np.zeros(2),
        p_value=np.zeros(2),
        n_spots=5,
        levels=np.array([0.5, 0.8, 0.9, 0.99]),
        coverage=np.array([0.7, 0.9, 0.95, 1.0]),
    )
    assert heldout.level_for(0.9) == pytest.approx(0.8)
    assert heldout.level_for(0.925) == pytest.approx(0.85)
    assert heldout.level_for(0.1) == pytest.approx(0.5)  # nothing narrower was looked at
    again = HeldOut.from_tensors(heldout.to_tensors())
    assert again.level_for(0.97) == heldout.level_for(0.97)


def test_q_values_are_those_of_benjamini_and_hochberg() -> None:
    p = np.array([0.04, np.nan, 0.001, 0.03, 0.9, 0.001, np.nan, 0.02])
    heldout = HeldOut(pearson=p, p_value=p, n_spots=5, levels=np.ones(1), coverage=np.ones(1))
    tested = np.flatnonzero(np.isfinite(p))
    expected = np.full(8, np.nan)
    for i in tested:  # the lowest rate at which the step-up procedure rejects this gene
        expected[i] = min(p[j] * len(tested) / (p[tested] <= p[j]).sum() for j in tested if p[j] >= p[i])
    np.testing.assert_allclose(heldout.q_value, expected, rtol=1e-12)
    np.testing.assert_array_equal(HeldOut.from_tensors(heldout.to_tensors()).p_value, p)
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
