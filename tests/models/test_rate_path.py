import numpy as np
import pytest
import torch
from scipy import stats
from scipy.sparse import csr_matrix

from spam.models.expression import log1p_cp10k
from spam.models.rate_path import PER, dispersion_by_moments, fit_rate_path, log_rate_of
from spam.training.groups import Groups, cross_fit
from spam.typing import Array

N, Q, G = 67, 5, 11


def spots(seed: int = 0) -> tuple[Array, Array, csr_matrix, Array, Array]:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(N, Q)).astype(np.float32)
    rate = np.exp(rng.normal(2, 1, G) + inputs @ rng.normal(0, 0.3, (Q, G)))
    depth = rng.lognormal(7.5, 0.4, N)
    counts = csr_matrix(rng.poisson(rate * depth[:, None] / PER))
    totals = depth.round()
    return inputs, log1p_cp10k(counts, totals), counts, totals, np.arange(N) % 3


def test_rates_add_up_to_the_counts_of_each_gene() -> None:
    inputs, expression, counts, totals, group = spots()
    path = fit_rate_path(inputs, expression, counts, totals, group, alpha=3.0)
    expected = (np.exp(path.log_rate(inputs).astype(float)) * totals[:, None] / PER).sum(axis=0)
    np.testing.assert_allclose(expected, np.asarray(counts.sum(axis=0)).ravel(), rtol=1e-5)


def test_rates_rank_the_spots_as_the_ridge_does() -> None:
    inputs, expression, counts, totals, group = spots()
    path = fit_rate_path(inputs, expression, counts, totals, group, alpha=3.0)
    for g in range(G):
        order = stats.spearmanr(path.log_rate(inputs)[:, g], path.expression(inputs)[:, g]).statistic
        assert order > 1 - 1e-6


def test_a_gene_without_counts_gets_a_small_finite_rate() -> None:
    inputs, expression, counts, totals, group = spots()
    counts = counts.tolil()
    counts[:, 4] = 0
    expression[:, 4] = 0
    path = fit_rate_path(inputs, expression, csr_matrix(counts), totals, group, alpha=3.0)
    rate = np.exp(path.log_rate(inputs)[:, 4])
    assert np.isfinite(rate).all()
    assert (rate * totals / PER).sum() < 0.51


@pytest.mark.parametrize("has_ridge", [True, False])
def test_no_group_reaches_its_own_rates_and_no_validation_spot_any(has_ridge: bool) -> None:
    inputs, expression, counts, totals, group = spots()
    groups = Groups(group=group, is_val=group == 2, are_blocks=False)
    before = cross_fit(inputs, expression, counts, totals, group, groups, has_ridge=has_ridge)
    before = before.at(np.arange(N), inputs)
    other = spots(seed=5)
    for changed, reached in ((0, [1, 2]), (1, [0, 2]), (2, [])):
        rows = group == changed
        mixed_expression, mixed_counts = expression.copy(), counts.toarray()
        mixed_expression[rows], mixed_counts[rows] = other[1][rows], other[2].toarray()[rows]
        after = cross_fit(
            inputs, mixed_expression, csr_matrix(mixed_counts), totals, group, groups, has_ridge=has_ridge
        ).at(np.arange(N), inputs)
        for g in range(3):
            # of the ridge (0 without one), mean, offset
            changed_parts = list(zip(before, after, strict=True))
            for one, two in changed_parts if has_ridge else changed_parts[1:]:
                assert np.array_equal(one[group == g], two[group == g]) == (g not in reached)


def test_dispersion_is_recovered() -> None:
    rng = np.random.default_rng(2)
    theta = np.array([0.5, 3.0, 20.0])
    mu = rng.lognormal(1.5, 0.5, (20011, 3))
    counts = rng.negative_binomial(theta, theta / (theta + mu))
    np.testing.assert_allclose(dispersion_by_moments(csr_matrix(counts), mu), theta, rtol=0.15)


def test_counts_less_dispersed_than_a_poisson_get_the_upper_end() -> None:
    mu = np.full((31, 2), 4.0)
    counts = np.full((31, 2), 4)
    np.testing.assert_allclose(dispersion_by_moments(csr_matrix(counts), mu), [1e4, 1e4], rtol=1e-6)


def test_tensors_get_the_rates_that_the_path_gives() -> None:
    inputs, expression, counts, totals, group = spots()
    path = fit_rate_path(inputs, expression, counts, totals, group, alpha=3.0)
    by_tensor = log_rate_of(torch.from_numpy(path.expression(inputs)).double()).numpy() + path.offset
    np.testing.assert_allclose(by_tensor, path.log_rate(inputs), rtol=1e-4, atol=1e-4)


def test_a_path_without_a_ridge_is_the_mean_of_the_groups() -> None:
    inputs, expression, counts, totals, group = spots()
    path = fit_rate_path(inputs, expression, counts, totals, group, alpha=None)
    expected = np.mean([expression[group == g].mean(axis=0) for g in np.unique(group)], axis=0)
    np.testing.assert_allclose(
        path.expression(inputs), np.broadcast_to(expected, expression.shape), rtol=1e-5
    )
