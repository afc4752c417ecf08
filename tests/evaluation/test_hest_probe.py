"""The linear probe against scikit-learn's own calls, and the closed form against scikit-learn without its shortcuts."""

import numpy as np
import pytest
from hest_lab import reference_prediction
from sklearn.preprocessing import StandardScaler

from spam.errors import ConfigError
from spam.evaluation.hest_probe import N_FACTORS, predict_expression


def drawn(n: int, d: int, g: int, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training features and log1p counts, and test features; components of falling variance, as real features have."""
    rng = np.random.default_rng(n)
    latent = rng.normal(size=(n + 89, 7))
    noise = rng.normal(size=(n + 89, d)) * (1 + np.arange(d)) ** -0.5
    x = (latent @ rng.normal(size=(7, d)) + 3 * noise + 5).astype(dtype)
    y = np.log1p(rng.poisson(np.exp(latent @ rng.normal(size=(7, g)) * 0.3 + 1)).astype(float))
    return x[:n], y[:n], x[n:]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("n", "d", "g"), [(53, 17, 3), (29, 43, 1), (523, 509, 5)])
def test_sklearn_solver_is_the_published_calls(n: int, d: int, g: int, dtype: str) -> None:
    x, y, x_test = drawn(n, d, g, dtype)
    predicted = predict_expression(x, y, x_test, solver="sklearn")
    expected = np.asarray(reference_prediction(x, y, x_test)).reshape(89, g)
    np.testing.assert_array_equal(predicted, expected)


def test_randomised_components_follow_the_seed_of_the_benchmark() -> None:
    x, y, x_test = drawn(523, 509, 5)  # larger than 500, so scikit-learn draws random numbers
    predicted = predict_expression(x, y, x_test, solver="sklearn")
    other = reference_prediction(x, y, x_test, seed=2)
    assert np.abs(predicted - other).max() > 1e-4


@pytest.mark.parametrize(("n", "d", "g"), [(53, 17, 3), (29, 43, 2), (523, 509, 5)])
def test_exact_solver_is_what_sklearn_comes_to(n: int, d: int, g: int) -> None:
    x, y, x_test = drawn(n, d, g)
    predicted = predict_expression(x, y, x_test, solver="exact")
    # StandardScaler works in the format of the features: in float64 it rounds as the closed form does.
    expected = reference_prediction(x.astype(float), y, x_test.astype(float), svd_solver="full", tol=1e-12)
    np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-4)


def test_the_penalty_and_the_missing_intercept_by_the_normal_equations() -> None:
    x, y, x_test = drawn(53, 17, 3)
    scaler = StandardScaler().fit(x.astype(float))
    a, a_test = scaler.transform(x.astype(float)), scaler.transform(x_test.astype(float))
    # With all components kept, rotating the features changes nothing in a ridge.
    weights = np.linalg.solve(a.T @ a + 100 / (17 * 3) * np.eye(17), a.T @ y)
    np.testing.assert_allclose(
        predict_expression(x, y, x_test, solver="exact"), a_test @ weights, rtol=0, atol=1e-9
    )


def test_no_more_than_256_factors() -> None:
    assert N_FACTORS == 256
    x, y, x_test = drawn(523, 509, 5)
    scaler = StandardScaler().fit(x.astype(float))
    a, a_test = scaler.transform(x.astype(float)), scaler.transform(x_test.astype(float))
    axes = np.linalg.svd(a, full_matrices=False)[2][:256].T
    b = a @ axes
    weights = np.linalg.solve(b.T @ b + 100 / (256 * 5) * np.eye(256), b.T @ y)
    np.testing.assert_allclose(
        predict_expression(x, y, x_test, solver="exact"), a_test @ axes @ weights, rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("solver", ["sklearn", "exact"])
def test_one_training_spot_is_refused(solver: str) -> None:
    x, y, x_test = drawn(29, 7, 2)
    with pytest.raises(ConfigError, match=r"1 training spots"):
        predict_expression(x[:1], y[:1], x_test, solver=solver)
