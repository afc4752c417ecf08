"""Kriging of residuals: against scikit-learn's Gaussian process, a loop over left-out spots, and known fields."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from spam.prediction import kriging
from spam.prediction.kriging import ResidualField, choose_field, krige


def spots(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, np.sqrt(n), (n, 2))


def smooth(xy: np.ndarray, n_genes: int, *, share: float, seed: int = 0) -> np.ndarray:
    """Residuals of which `share` is an exponential field of length 4, and the rest noise."""
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky(np.exp(-cdist(xy, xy) / 4) + 1e-9 * np.eye(len(xy)))
    field = root @ rng.normal(size=(len(xy), n_genes))
    return np.sqrt(share) * field + np.sqrt(1 - share) * rng.normal(size=field.shape)


def test_it_is_the_mean_of_a_gaussian_process() -> None:
    xy = spots(53)
    rows = np.flatnonzero(np.random.default_rng(1).random(53) < 0.6)
    residual = smooth(xy, 7, share=0.6)[rows]
    expected, field = krige(residual, rows, xy)
    assert field.share > 0
    kernel = ConstantKernel(field.level, "fixed")
    kernel += ConstantKernel(field.share, "fixed") * Matern(field.length, "fixed", nu=0.5)
    kernel += WhiteKernel(1 - field.share, "fixed")
    process = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(xy[rows], residual)
    np.testing.assert_allclose(expected, process.predict(xy), rtol=1e-9, atol=1e-9)


def test_the_field_chosen_is_the_one_whose_left_out_spots_are_predicted_best() -> None:
    xy, length = spots(31), 1.0
    residual = smooth(xy, 5, share=0.7)
    chosen = choose_field(residual, xy, spacing=length)

    def left_out_error(field: ResidualField) -> float:
        error = np.empty_like(residual)
        for i in range(len(xy)):
            kept = np.arange(len(xy)) != i
            weights = np.linalg.solve(field.measured(xy[kept]), field.covariance(xy[kept], xy[[i]]))
            error[i] = residual[i] - weights[:, 0] @ residual[kept]
        return float(((error**2).sum(axis=0) / (residual**2).sum(axis=0)).mean())

    others = [ResidualField(level=0.0, share=0.0, length=length)]
    others += [
        ResidualField(level=level, share=share, length=length * steps)
        for level in (0.01, 0.1, 1.0)
        for share in (0.02, 0.1, 0.4, 0.7)
        for steps in (1.5, 3.0, 6.0)
    ]
    assert left_out_error(chosen) <= min(map(left_out_error, others)) + 1e-12


def test_noise_teaches_next_to_nothing_and_a_smooth_field_most_of_what_there_is() -> None:
    xy = spots(211)
    is_measured = np.random.default_rng(2).random(211) < 0.5
    rows = np.flatnonzero(is_measured)
    noise = smooth(xy, 97, share=0.0)
    expected, field = krige(noise[rows], rows, xy)
    assert field.share <= 0.02
    assert (expected**2).mean() < 0.01
    pattern = smooth(xy, 97, share=1.0)
    expected, field = krige(pattern[rows], rows, xy)
    assert field.share == 0.7
    assert ((expected - pattern)[~is_measured] ** 2).mean() < 0.4 * (pattern[~is_measured] ** 2).mean()


def test_a_common_level_reaches_far_and_a_local_pattern_does_not() -> None:
    xy = np.concatenate([spots(47), [[1e4, 1e4]]])
    rows = np.arange(47)
    rng = np.random.default_rng(3)
    shifted, field = krige(2.0 + 0.1 * rng.normal(size=(47, 3)), rows, xy)
    assert field.level == 1.0
    np.testing.assert_allclose(shifted[-1], 2.0, atol=0.15)
    local, field = krige(smooth(xy[:-1], 3, share=1.0), rows, xy)
    assert field.share > 0
    assert np.abs(local[-1]).max() < 0.5 * np.abs(local[:-1]).max()


@pytest.mark.parametrize("n_measured", [1, 2])
def test_one_spot_teaches_nothing_and_two_do_not_break_it(n_measured: int) -> None:
    xy = spots(13)
    expected, field = krige(np.ones((n_measured, 3)), np.arange(n_measured), xy)
    assert np.isfinite(expected).all()
    if n_measured == 1:
        assert field.level == field.share == 0
        np.testing.assert_array_equal(expected, 0.0)


def test_residuals_of_zero_and_spots_on_one_another_are_taken() -> None:
    rows = np.arange(5)
    np.testing.assert_array_equal(krige(np.zeros((5, 3)), rows, spots(7))[0], 0.0)
    assert np.isfinite(krige(np.arange(15.0).reshape(5, 3), rows, np.ones((7, 2)))[0]).all()
    assert np.isfinite(krige(np.ones((1, 2)), np.array([0]), np.ones((1, 2)))[0]).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 23), st.integers(0, 99))
def test_permuting_the_measured_spots_changes_nothing_but_rounding(n: int, seed: int) -> None:
    xy, rng = spots(29, seed), np.random.default_rng(seed)
    rows = rng.choice(29, n, replace=False)
    residual = smooth(xy, 5, share=0.5, seed=seed)[rows]
    order = rng.permutation(n)
    expected, field = krige(residual, rows, xy)
    permuted, same = krige(residual[order], rows[order], xy)
    assert field == same
    np.testing.assert_allclose(permuted, expected, rtol=1e-9, atol=1e-9)


def test_a_large_section_looks_at_near_spots_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a bound below the number of measured spots, each spot's answer is that of its nearest ones alone."""
    monkeypatch.setattr(kriging, "_N_NEAR", 11)
    xy = spots(61)
    rows = np.arange(0, 61, 2)
    residual = smooth(xy, 3, share=0.6)[rows]
    expected, field = krige(residual, rows, xy)
    for i in range(61):
        near = np.argsort(cdist(xy[[i]], xy[rows])[0], kind="stable")[:11]
        weights = np.linalg.solve(field.measured(xy[rows][near]), field.covariance(xy[rows][near], xy[[i]]))
        np.testing.assert_allclose(expected[i], weights[:, 0] @ residual[near], rtol=1e-9, atol=1e-12)
