import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.preprocessing import StandardScaler

from spam.errors import ConfigError, StoreError
from spam.models import pearson_per_gene
from spam.models.linear import (
    FeatureTransform,
    choose_alpha,
    fit_ridge,
    hest_ridge_fit,
    standardise_per_section,
)


def _features(seed, n, d):
    rng = np.random.default_rng(seed)
    # Correlated, of very different scale and offset, as features of an image encoder are.
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * rng.lognormal(0, 2, d) + 7 * rng.normal(size=d)


@pytest.mark.parametrize(
    ("n", "d", "q"), [(53, 17, 5), (53, 17, 100), (13, 31, 7), (13, 31, 12), (2, 3, 3), (11, 1, 1)]
)
def test_transform_equals_sklearn_up_to_sign(n, d, q):
    x, new = _features(0, n, d), _features(1, 7, d)
    transform = FeatureTransform.fit(x, q)
    kept = min(q, n - 1, d)
    scaler = StandardScaler().fit(x)
    pca = PCA(kept, svd_solver="full").fit(scaler.transform(x))
    expected = pca.transform(scaler.transform(new))
    signs = np.sign((pca.components_ * transform.components).sum(1))
    assert (
        transform.components.max(1) >= -transform.components.min(1)
    ).all()  # the largest entry is positive
    assert len(transform.components) == kept
    np.testing.assert_allclose(transform.components * signs[:, None], pca.components_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(transform.apply(new) * signs, expected, rtol=1e-6, atol=1e-8)


def test_many_rows_in_float32_keep_the_axes_of_float64(monkeypatch):
    rng = np.random.default_rng(5)
    basis = np.linalg.qr(rng.normal(size=(97, 97)))[0]
    x = (rng.normal(size=(20_011, 97)) * 0.93 ** np.arange(97)) @ basis  # variance falls by a factor of 10^6
    exact = FeatureTransform.fit(x, 61)
    monkeypatch.setattr("spam.models.linear._MOST_IN_FLOAT64", 10)
    rough = FeatureTransform.fit(x, 61)
    assert rough.components.shape == exact.components.shape == (61, 97)
    # The same subspace: all principal angles are near 0.
    assert np.linalg.svd(rough.components @ exact.components.T)[1].min() > 0.999
    repeated = np.repeat(_features(4, 5, 23), 3, axis=0)
    assert len(FeatureTransform.fit(repeated, 14).components) == 4


def test_constant_features_do_not_divide_by_zero():
    x = _features(3, 19, 5)
    x[:, 2] = 0.1  # 0.1 has a rounded mean, so its computed variance is not exactly 0
    transform = FeatureTransform.fit(x.astype(np.float32), 5)
    assert transform.scale[2] == 1.0
    assert len(transform.components) == 4  # the fifth direction does not vary
    np.testing.assert_allclose(transform.components[:, 2], 0, atol=1e-12)


def test_directions_without_variance_are_left_out():
    x = np.repeat(_features(4, 5, 23), 3, axis=0)  # 15 rows, 5 distinct
    transform = FeatureTransform.fit(x, 14)
    assert len(transform.components) == 4
    np.testing.assert_allclose(transform.components @ transform.components.T, np.eye(4), atol=1e-10)


def test_transform_refuses_nan():
    x = _features(5, 11, 3)
    x[4, 1], x[7, 0] = np.nan, np.inf
    with pytest.raises(StoreError, match=r"2 of 11 .*spam embed --overwrite"):
        FeatureTransform.fit(x, 2)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize(("n", "q"), [(41, 7), (5, 13), (1, 3)])
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 3e4])
def test_ridge_equals_sklearn(fit_intercept, n, q, alpha):
    rng = np.random.default_rng(0)
    a, y, new = rng.normal(1, 2, (n, q)), rng.normal(3, 1, (n, 5)), rng.normal(1, 2, (3, q))
    ours = fit_ridge(a, y, alpha=alpha, fit_intercept=fit_intercept)
    theirs = SklearnRidge(alpha=alpha, fit_intercept=fit_intercept).fit(a, y)
    np.testing.assert_allclose(ours.coefficients, theirs.coef_.T, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ours.intercept, theirs.intercept_ * np.ones(5), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ours.predict(new), theirs.predict(new), rtol=1e-7, atol=1e-9)
    assert ours.alpha == alpha


def test_pearson_equals_scipy_and_is_nan_where_constant():
    rng = np.random.default_rng(0)
    p, t = rng.normal(size=(23, 5)), rng.normal(size=(23, 5))
    p[:, 1], t[:, 3] = 0.1, 0.1
    r = pearson_per_gene(p, t)
    expected = [pearsonr(p[:, g], t[:, g]).statistic if g not in (1, 3) else np.nan for g in range(5)]
    np.testing.assert_allclose(r, expected, rtol=1e-12)


def _cohort(n_groups=3):
    rng = np.random.default_rng(0)
    groups = np.repeat([f"s{i}" for i in range(n_groups)], 17)
    a = rng.normal(size=(len(groups), 11))
    y = a[:, :3] @ rng.normal(size=(3, 5)) + 3 * rng.normal(size=(len(groups), 5))
    y[:, 4] = 2.0  # constant everywhere: no score
    y[groups == "s0", 3] = 1.0  # constant in one section
    return a, y, groups


@pytest.mark.parametrize("shift", [0, 1])
def test_chosen_alpha_wins_leave_one_section_out_with_sklearn(shift):
    a, y, groups = _cohort()
    section = np.unique(groups, return_inverse=True)[1]
    a[:, 0] += 2 * shift * section  # the means of sections also tell inputs and genes apart
    y[:, :3] += 5 * shift * section[:, None]
    alphas = [0.1, 3.0, 30.0, 300.0, 1e5]
    scores = []
    for alpha in alphas:
        per_group = []
        for group in np.unique(groups):
            out = groups == group
            predicted = SklearnRidge(alpha=alpha).fit(a[~out], y[~out]).predict(a[out])
            r = [
                pearsonr(predicted[:, g], y[out][:, g]).statistic
                for g in range(5)
                if np.ptp(y[out][:, g]) > 0
            ]
            per_group.append(np.mean(r))
        scores.append(np.mean(per_group))
    best = alphas[int(np.argmax(scores))]
    assert best not in (alphas[0], alphas[-1])  # so the test is sensitive
    assert choose_alpha(a, y, groups, alphas) == best
    assert choose_alpha(a, y, groups, alphas[::-1]) == best


def test_score_decides_which_alpha_is_best():
    a, y, groups = _cohort()
    size = lambda predicted, truth: np.abs(predicted - truth.mean(0)).max(0)  # noqa: E731
    assert choose_alpha(a, y, groups, [1.0, 1e6], size) == 1.0
    assert choose_alpha(a, y, groups, [1.0, 1e6], lambda p, t: -size(p, t)) == 1e6


def test_of_equal_alphas_the_larger_wins():
    a, y, groups = _cohort()
    constant_score = lambda predicted, truth: np.ones(truth.shape[1])  # noqa: E731
    assert choose_alpha(a, y, groups, [2.0, 7.0, 5.0], constant_score) == 7.0


def test_without_inputs_that_vary_the_largest_alpha_wins():
    a, y, groups = _cohort(2)
    # Neither predictions of this group nor those of a ridge that is fitted on it have a correlation.
    a[groups == "s0"] = 0.0
    assert choose_alpha(a, y, groups, [2.0, 7.0, 5.0]) == 7.0


def test_choose_alpha_refuses_constant_genes():
    a, y, groups = _cohort()
    with pytest.raises(ConfigError, match="constant"):
        choose_alpha(a, y[:, 4:], groups, [1.0])


def test_a_section_that_varies_less_than_others_is_not_stretched():
    f = np.array([[1.0, 5.0, 0.0], [3.0, 5.0, 10.0], [5.0, 5.0, 20.0]], dtype=np.float32)
    own = np.sqrt(8 / 3)
    # the last varies more than the others do, and is brought down
    scale = np.array([4.0, 2.0, 5 * own]) + 1e-3
    np.testing.assert_allclose(
        standardise_per_section(f, at_least=np.array([4.0, 2.0, 0.5])),
        [[-2, 0, -10], [0, 0, 0], [2, 0, 10]] / scale,
        rtol=1e-6,
    )


def test_hest_probe_equals_sklearns_recipe():
    x, new = _features(6, 61, 19), _features(7, 5, 19)
    y = np.abs(_features(8, 61, 3))
    transform, ridge = hest_ridge_fit(x, y, n_components=7)
    scaler = StandardScaler().fit(x)
    pca = PCA(7, svd_solver="full").fit(scaler.transform(x))
    model = SklearnRidge(solver="svd", alpha=100 / (7 * 3), fit_intercept=False)
    model.fit(pca.transform(scaler.transform(x)), y)
    expected = model.predict(pca.transform(scaler.transform(new)))
    np.testing.assert_allclose(ridge.predict(transform.apply(new)), expected, rtol=1e-8)
    assert len(hest_ridge_fit(x, y)[0].components) == 19
