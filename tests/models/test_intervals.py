import count_truth
import numpy as np
import pytest
from scipy import stats

from spam.errors import ConfigError
from spam.models import count_interval

MU = np.array([0.003, 0.4, 1.0, 5.7, 23.0, 131.0])
THETA = np.array([0.05, 0.9, 4.0, 1e6])
PI = np.array([0.0, 0.1, 0.5, 0.97])
TABLE = np.arange(10_007)  # the widest of these distributions reaches 0.995 at about 4000


def _cdf(mu, theta, pi):
    nb = stats.nbinom.cdf(TABLE, theta, theta / (theta + mu))
    return pi + (1 - pi) * nb


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.99])
def test_interval_of_zinb_is_that_of_the_tabulated_distribution(coverage):
    mu, theta, pi = (v.ravel() for v in np.meshgrid(MU, THETA, PI, indexing="ij"))
    lower, upper = count_interval("zinb", mu, theta, pi, coverage)
    tables = [_cdf(*parameters) for parameters in zip(mu, theta, pi, strict=True)]
    np.testing.assert_array_equal(
        lower, [count_truth.smallest_count((1 - coverage) / 2, table) for table in tables]
    )
    np.testing.assert_array_equal(
        upper, [count_truth.smallest_count((1 + coverage) / 2, table) for table in tables]
    )


def test_interval_of_nb_and_poisson():
    lower, upper = count_interval("nb", MU, np.array(0.9), None, 0.9)
    tables = [_cdf(mu, 0.9, 0.0) for mu in MU]
    np.testing.assert_array_equal(lower, [count_truth.smallest_count(0.05, table) for table in tables])
    np.testing.assert_array_equal(upper, [count_truth.smallest_count(0.95, table) for table in tables])
    lower, upper = count_interval("poisson", MU, None, None, 0.9)
    tables = [stats.poisson.cdf(TABLE, mu) for mu in MU]
    np.testing.assert_array_equal(lower, [count_truth.smallest_count(0.05, table) for table in tables])
    np.testing.assert_array_equal(upper, [count_truth.smallest_count(0.95, table) for table in tables])


def test_parameters_broadcast_over_spots_and_genes():
    mu = MU.reshape(2, 3)
    theta, pi = np.array([0.3, 2.0, 11.0]), np.array([[0.2], [0.6]])
    lower, upper = count_interval("zinb", mu, theta, pi, 0.8)
    full = count_interval("zinb", mu, *(np.broadcast_to(v, mu.shape) for v in (theta, pi)), 0.8)
    np.testing.assert_array_equal(lower, full[0])
    np.testing.assert_array_equal(upper, full[1])
    assert lower.shape == upper.shape == (2, 3)


def test_borders_give_zero():
    zeros = np.zeros(1)
    for mu, pi in ((5.0, 1.0), (0.0, 0.0), (0.0, 1.0)):
        lower, upper = count_interval("zinb", zeros + mu, zeros + 2.0, zeros + pi, 0.9)
        np.testing.assert_array_equal([lower, upper], [zeros, zeros])
    lower, upper = count_interval("poisson", np.zeros((0, 3)), None, None, 0.9)
    assert lower.shape == upper.shape == (0, 3)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.1, float("nan")])
def test_coverage_outside_its_range_is_refused(coverage):
    with pytest.raises(ConfigError, match=r"coverage=.*must be in \(0, 1\) \(--coverage\)"):
        count_interval("poisson", MU, None, None, coverage)


def test_all_faults_of_the_parameters_are_told_at_once():
    with pytest.raises(ConfigError, match=r"theta of likelihood 'poisson'.*pi of likelihood 'poisson'"):
        count_interval("poisson", MU, MU, MU, 0.9)
    with pytest.raises(ConfigError, match=r"theta of likelihood 'zinb' as NoneType.*pi of likelihood 'zinb'"):
        count_interval("zinb", MU, None, None, 0.9)
