from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from spam.schemas.simulate_config import SimulateConfig
from spam.simulation.expression import draw_counts, draw_gene_programmes, expression_rates
from spam.simulation.morphology import KINDS, MixtureField, share_covariance


def config(**values: object) -> SimulateConfig:
    return SimulateConfig(out_dir=Path("unused"), **values)


@pytest.fixture(scope="module")
def shares() -> np.ndarray:
    """Shares at one point of each of many sections."""
    rng = np.random.default_rng(11)
    return np.concatenate([MixtureField.draw(rng).shares(np.zeros((1, 2))) for _ in range(1511)])


@pytest.mark.parametrize(("n_programmes", "signal"), [(1, 1.0), (3, 0.5), (len(KINDS), 1.0)])
def test_morphology_moves_log_rates_by_the_signal(
    shares: np.ndarray, n_programmes: int, signal: float
) -> None:
    genes = draw_gene_programmes(config(n_genes=7, n_programmes=n_programmes, signal=signal))
    spread = (shares[:, :n_programmes] @ genes.loadings.T).std(axis=0)
    np.testing.assert_allclose(spread, signal, rtol=0.12)  # shares have heavy tails: 4 standard errors


def test_rates_are_the_softmax_of_the_log_rates() -> None:
    genes = draw_gene_programmes(config(n_genes=5, n_programmes=2, seed=3))
    shares = np.random.default_rng(0).dirichlet(np.ones(len(KINDS)), 7)
    effect = np.linspace(-0.3, 0.4, 5)
    rates = expression_rates(genes, shares, effect)
    mean, _ = share_covariance()
    for spot in range(7):
        score = [
            np.exp(
                genes.base[g]
                + effect[g]
                + sum(genes.loadings[g, j] * (shares[spot, j] - mean[j]) for j in (0, 1))
            )
            for g in range(5)
        ]
        np.testing.assert_allclose(rates[spot], np.array(score) / sum(score), rtol=1e-10)


def test_null_genes_keep_their_part_of_the_library_wherever_they_are() -> None:
    genes = draw_gene_programmes(config(n_genes=11, n_programmes=3, null_share=0.45, signal=1.3))
    null = genes.is_null
    assert null.sum() == 5
    assert (genes.loadings[null] == 0).all()
    plain = draw_gene_programmes(config(n_genes=11, n_programmes=3, signal=1.3))
    np.testing.assert_array_equal(genes.loadings[~null], plain.loadings[~null])
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(len(KINDS)), 7)
    effect = np.linspace(-0.3, 0.4, 11)
    rates = expression_rates(genes, shares, effect)
    level = np.exp(genes.base + effect) / np.exp(genes.base + effect).sum()
    np.testing.assert_allclose(rates[:, null], np.tile(level[null], (7, 1)), rtol=1e-12)
    # The others compete for the rest alone.
    weight = np.exp(genes.base + effect + (shares[:, :3] - share_covariance()[0][:3]) @ genes.loadings.T)[
        :, ~null
    ]
    expected = (1 - level[null].sum()) * weight / weight.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(rates[:, ~null], expected, rtol=1e-10)
    # What no image shows moves them, but leaves each part of the library as large as it is.
    moved = expression_rates(genes, shares, effect, rng.normal(size=(7, 11)))
    assert (moved[:, null].std(axis=0) > 0).all()
    np.testing.assert_allclose(moved[:, null].sum(axis=1), level[null].sum(), rtol=1e-10)
    np.testing.assert_allclose(moved.sum(axis=1), 1.0)


@pytest.mark.parametrize(("null_share", "n_null"), [(0.0, 0), (1.0, 7), (0.5, 4)])
def test_any_share_of_the_genes_can_be_null(null_share: float, n_null: int) -> None:
    genes = draw_gene_programmes(config(n_genes=7, null_share=null_share, seed=2))
    assert genes.is_null.sum() == n_null
    rates = expression_rates(genes, np.full((2, len(KINDS)), 1 / len(KINDS)), np.zeros(7))
    np.testing.assert_allclose(rates.sum(axis=1), 1.0)


def test_counts_have_the_mean_and_variance_of_a_negative_binomial() -> None:
    n_spots, theta = 200_003, 1.7
    rates = np.tile([0.2, 0.8], (n_spots, 1))
    rng = np.random.default_rng(1)
    depths, counts = draw_counts(rates, depth=50.0, theta=theta, rng=rng)
    assert counts.dtype == np.int32
    assert depths.mean() == pytest.approx(50.0, abs=4 * depths.std() / np.sqrt(n_spots))
    assert np.log(depths).std() == pytest.approx(0.35, rel=0.01)
    mean = depths[:, None] * rates
    variance = mean + mean**2 / theta
    z = (counts - mean).sum(axis=0) / np.sqrt(variance.sum(axis=0))
    assert np.abs(z).max() < 4
    # The squared Pearson residual has mean 1; its own spread comes from the sample.
    squared = (counts - mean) ** 2 / variance
    assert np.abs((squared.mean(axis=0) - 1) / (squared.std(axis=0) / np.sqrt(n_spots))).max() < 4


def test_counts_of_one_mean_pass_a_chi_square_test_against_scipy() -> None:
    rates = np.ones((100_003, 1))
    depths, counts = draw_counts(rates, depth=6.0, theta=2.0, rng=np.random.default_rng(2))
    # Given its depth each count is NB; mixing the cumulative probabilities over depths gives the expected table.
    edges = np.arange(0, 25)
    p = 2.0 / (2.0 + depths)
    expected = np.array([stats.nbinom.pmf(value, 2.0, p).sum() for value in edges])
    expected = np.append(expected, len(depths) - expected.sum())
    observed = np.bincount(np.minimum(counts[:, 0], 25), minlength=26)
    assert stats.chisquare(observed, expected).pvalue > 1e-4
