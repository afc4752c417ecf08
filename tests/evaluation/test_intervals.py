"""Bootstrap intervals against scipy's and against the normal law."""

import numpy as np
import pytest
from scipy import stats

from spam.evaluation.metrics import Interval, bootstrap_mean


def test_agrees_with_scipy_up_to_the_noise_of_drawing():
    values = np.random.default_rng(0).gamma(2.0, size=97)
    found = bootstrap_mean(values, seed=1, n=5000)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    # The ends of 5000 draws scatter by about 3 % of the standard error.
    noise = 0.15 * values.std() / np.sqrt(97)
    np.testing.assert_allclose([found.lower, found.upper], expected, atol=noise)
    assert found.mean == pytest.approx(values.mean())
    assert (found.level, found.n_units) == (0.95, 97)


def test_a_lower_level_is_a_narrower_interval():
    values = np.random.default_rng(0).normal(size=101)
    found = bootstrap_mean(values, seed=1, n=5000, level=0.5)
    half = stats.norm.ppf(0.75) * values.std() / np.sqrt(101)
    np.testing.assert_allclose(
        [found.lower - found.mean, found.upper - found.mean], [-half, half], atol=half / 5
    )


def test_groups_weigh_the_same_however_many_values_they_have():
    values = np.array([1.0, 1, 1, 1, 4, np.nan])
    found = bootstrap_mean(values, np.array(["a", "a", "a", "a", "b", "c"]), seed=0)
    # Two units: a mean of 1, 2.5 or 4, with probability 1/4, 1/2 and 1/4.
    assert found == Interval(mean=2.5, lower=1.0, upper=4.0, level=0.95, n_units=2)


def test_nan_is_left_out():
    values = np.random.default_rng(0).normal(size=7)
    with_nan = np.insert(values, [0, 3], np.nan)
    assert bootstrap_mean(with_nan, seed=3) == bootstrap_mean(values, seed=3)


def test_seed_and_number_of_draws_matter():
    values = np.random.default_rng(0).normal(size=7)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)
    assert bootstrap_mean(values, seed=3, n=10) != bootstrap_mean(values, seed=3, n=11)


@pytest.mark.parametrize(
    ("values", "mean"), [([], None), ([np.nan], None), ([2.0], 2.0), ([np.nan, 2.0], 2.0)]
)
def test_fewer_than_two_units_have_no_interval(values, mean):
    plain = bootstrap_mean(np.array(values, dtype=float), seed=0).to_mapping()
    assert plain == {
        "mean": mean,
        "lower": None,
        "upper": None,
        "level": 0.95,
        "n_units": 0 if mean is None else 1,
    }
