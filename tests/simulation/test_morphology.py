import numpy as np
import pytest

from spam.simulation.morphology import KINDS, MixtureField, share_covariance, smooth_patterns

N_SECTIONS = 1201
SHARPNESS = 2.6
CORRELATION_UM = 220.0


@pytest.fixture(scope="module")
def shares() -> np.ndarray:
    """Shares of many sections, at the origin and 131 µm away: (section, point, kind)."""
    rng = np.random.default_rng(7)
    points = np.array([[0.0, 0.0], [131.0, 0.0]])
    return np.stack([MixtureField.draw(rng).shares(points) for _ in range(N_SECTIONS)])


def test_shares_are_positive_and_sum_to_one(shares: np.ndarray) -> None:
    assert (shares > 0).all()
    np.testing.assert_allclose(shares.sum(axis=-1), 1.0, rtol=1e-12)


def test_fields_are_standard_normal_with_the_closed_form_covariance(shares: np.ndarray) -> None:
    # log(share_i / share_j) undoes the softmax: sharpness * (field_i - field_j + prevalence_i - prevalence_j).
    prevalence = np.array([kind.prevalence for kind in KINDS])
    difference = (np.log(shares[..., 0] / shares[..., 1])) / SHARPNESS - (prevalence[0] - prevalence[1])
    # Standard errors: mean sqrt(2 / n) = 0.041; variances of a normal 2 * sqrt(2 / n) = 0.082.
    assert abs(difference.mean(axis=0)).max() < 4 * 0.041
    np.testing.assert_allclose(difference.var(axis=0), 2.0, atol=4 * 0.082)
    expected = 2 * np.exp(-(131.0**2) / (2 * CORRELATION_UM**2))
    assert np.cov(difference.T)[0, 1] == pytest.approx(expected, abs=4 * 0.082)


def test_share_moments_match_those_of_simulated_sections(shares: np.ndarray) -> None:
    mean, covariance = share_covariance()
    at_origin = shares[:, 0]
    error = 4 * at_origin.std(axis=0) / np.sqrt(N_SECTIONS)
    assert (np.abs(at_origin.mean(axis=0) - mean) < error).all()
    np.testing.assert_allclose(np.cov(at_origin.T), covariance, atol=0.015)  # 4 standard errors
    np.testing.assert_allclose(mean.sum(), 1.0)
    np.testing.assert_allclose(covariance.sum(axis=0), 0.0, atol=1e-12)  # shares sum to a constant


def test_share_moments_cannot_be_changed_by_a_caller() -> None:
    share_covariance()[0][:] = 5.0
    assert share_covariance()[0].sum() == pytest.approx(1.0)


def test_shares_do_not_depend_on_which_points_are_asked_for_together() -> None:
    mixture = MixtureField.draw(np.random.default_rng(3))
    points = np.random.default_rng(4).uniform(-700, 700, (5, 7, 2))
    together = mixture.shares(points)
    np.testing.assert_allclose(together[2, 3], mixture.shares(points[2, 3]), rtol=1e-12)
    assert together.shape == (5, 7, len(KINDS))


def test_smooth_patterns_are_standard_normal_and_as_smooth_as_the_tissue() -> None:
    points = np.array([[-50.0, 20.0], [-50.0, 151.0], [900.0, 900.0]])
    n = 4001
    patterns = smooth_patterns(np.random.default_rng(9), points, n)
    expected = np.exp(-(131.0**2) / (2 * CORRELATION_UM**2))
    covariance = patterns @ patterns.T / n
    close = np.array([[1.0, expected, 0.0], [expected, 1.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(covariance, close, atol=4 * np.sqrt(2 / n))
    assert abs(patterns.mean()) < 4 / np.sqrt(n)
