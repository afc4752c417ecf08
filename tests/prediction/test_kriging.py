"""Kriging of residuals: against scikit-learn's Gaussian process, a loop over left-out spots, and known fields."""

from pathlib import Path

import anndata
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from spam.models import log1p_cp10k
from spam.models.linear import pearson_per_gene
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


def test_the_chosen_field_predicts_left_out_spots_best() -> None:
    xy = spots(31)
    residual = smooth(xy, 5, share=0.7)

    def left_out_error(field: ResidualField) -> float:
        error = np.empty_like(residual)
        for i in range(len(xy)):
            kept = np.arange(len(xy)) != i
            weights = np.linalg.solve(field.measured(xy[kept]), field.covariance(xy[kept], xy[[i]]))
            error[i] = residual[i] - weights[:, 0] @ residual[kept]
        return float(((error**2).sum(axis=0) / (residual**2).sum(axis=0)).mean())

    others = [ResidualField(level=0.0, share=0.0, length=1.0)]
    others += [
        ResidualField(level=level, share=share, length=length)
        for level in (0.01, 0.1, 1.0)
        for share in (0.02, 0.1, 0.4, 0.7)
        for length in (1.5, 3.0, 6.0)
    ]
    chosen = choose_field(residual, xy, spacing=1.0)
    assert left_out_error(chosen) <= min(map(left_out_error, others)) + 1e-12


@pytest.mark.parametrize(("share", "chosen", "error"), [(0.0, 0.02, 1.02), (1.0, 0.7, 0.4)])
def test_noise_is_not_carried_over_and_a_smooth_field_is(share: float, chosen: float, error: float) -> None:
    xy = spots(211)
    is_measured = np.random.default_rng(2).random(211) < 0.5
    pattern = smooth(xy, 97, share=share)
    expected, field = krige(pattern[is_measured], np.flatnonzero(is_measured), xy)
    assert field.share <= chosen if share == 0 else field.share == chosen
    left = ~is_measured
    assert ((expected - pattern)[left] ** 2).mean() < error * (pattern[left] ** 2).mean()


def test_a_common_level_reaches_far_and_a_local_pattern_does_not() -> None:
    xy = np.concatenate([spots(47), [[1e4, 1e4]]])
    rows = np.arange(47)
    shifted, field = krige(2.0 + 0.1 * np.random.default_rng(3).normal(size=(47, 3)), rows, xy)
    assert field.level == 1.0
    np.testing.assert_allclose(shifted[-1], 2.0, atol=0.15)
    local, field = krige(smooth(xy[:-1], 3, share=1.0), rows, xy)
    assert field.share > 0
    assert np.abs(local[-1]).max() < 0.5 * np.abs(local[:-1]).max()


def test_without_information_nothing_changes() -> None:
    # one measured spot
    np.testing.assert_array_equal(krige(np.ones((1, 3)), np.arange(1), spots(13))[0], 0.0)
    np.testing.assert_array_equal(krige(np.zeros((5, 3)), np.arange(5), spots(7))[0], 0.0)
    np.testing.assert_array_equal(krige(np.ones((1, 2)), np.array([0]), np.ones((1, 2)))[0], 0.0)
    assert np.isfinite(
        krige(np.arange(15.0).reshape(5, 3), np.arange(5), np.ones((7, 2)))[0]
    ).all()  # all at one place


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 23), st.integers(0, 99))
def test_the_order_of_measured_spots_does_not_matter(n: int, seed: int) -> None:
    xy, rng = spots(29, seed), np.random.default_rng(seed)
    rows = rng.choice(29, n, replace=False)
    residual = smooth(xy, 5, share=0.5, seed=seed)[rows]
    order = rng.permutation(n)
    expected, field = krige(residual, rows, xy)
    permuted, same = krige(residual[order], rows[order], xy)
    assert field == same
    np.testing.assert_allclose(permuted, expected, rtol=1e-9, atol=1e-9)


def test_in_a_large_section_only_near_spots_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kriging, "_N_NEAR", 11)
    xy = spots(61)
    rows = np.arange(0, 61, 2)
    residual = smooth(xy, 3, share=0.6)[rows]
    expected, field = krige(residual, rows, xy)
    for i in range(61):
        near = np.argsort(cdist(xy[[i]], xy[rows])[0], kind="stable")[:11]
        weights = np.linalg.solve(field.measured(xy[rows][near]), field.covariance(xy[rows][near], xy[[i]]))
        np.testing.assert_allclose(expected[i], weights[:, 0] @ residual[near], rtol=1e-9, atol=1e-12)


def test_on_a_real_section_it_is_better_than_the_nearest_measured_spots(shared_data: Path) -> None:
    known, target = (anndata.read_h5ad(shared_data / "her2st" / f"C{i}.h5ad") for i in (3, 6))
    genes = known.var_names.intersection(target.var_names)
    before, truth = (
        log1p_cp10k(adata[:, genes].X, np.asarray(adata.X.sum(axis=1), dtype=float).ravel())
        for adata in (known, target)
    )
    variable = np.argsort(-before.var(axis=0))[:300]
    level, truth = before[:, variable].mean(axis=0), truth[:, variable]
    xy = target.obsm["spatial"].astype(float)
    is_measured = np.random.default_rng(0).random(len(xy)) < 0.5
    rows = np.flatnonzero(is_measured)
    found, field = krige(truth[rows] - level, rows, xy)
    nearest = truth[rows][cKDTree(xy[rows]).query(xy, k=4)[1]].mean(axis=1)
    assert field.share > 0
    error = [float(((p - truth)[~is_measured] ** 2).mean()) for p in (level + found, nearest, level)]
    assert error[0] < 0.95 * min(error[1:])
    r = [np.nanmean(pearson_per_gene(p[~is_measured], truth[~is_measured])) for p in (level + found, nearest)]
    assert r[0] > r[1]
