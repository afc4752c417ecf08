"""Scores per gene against scipy, scikit-learn and scikit-image, gene by gene, and their borders."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats
from skimage.metrics import structural_similarity
from sklearn import metrics as sk

from spam.evaluation.metrics import (
    Interval,
    auc,
    bootstrap_mean,
    correlate_genes,
    coverage,
    mae,
    mse,
    pearson,
    r2,
    spearman,
    ssim,
)

N_SPOTS, N_GENES = 41, 71  # more genes than are ranked at once
PER_GENE = {
    "pearson": (pearson, lambda t, p: stats.pearsonr(t, p).statistic),
    "spearman": (spearman, lambda t, p: stats.spearmanr(t, p).statistic),
    "r2": (r2, sk.r2_score),
    "mse": (mse, sk.mean_squared_error),
    "mae": (mae, sk.mean_absolute_error),
    "auc": (auc, lambda t, p: sk.roc_auc_score(t > 0, p)),
}


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Truth with many ties and zeros, and a prediction with some ties."""
    generator = np.random.default_rng(0)
    truth = np.log1p(generator.poisson(1.0, (N_SPOTS, N_GENES))).astype(np.float32)
    prediction = np.round(truth + generator.normal(size=truth.shape), 1).astype(np.float32)
    return truth, prediction


@pytest.mark.parametrize("name", PER_GENE)
def test_equals_the_reference_gene_by_gene(name, pair):
    score, reference = PER_GENE[name]
    truth, prediction = pair
    columns = zip(truth.T.astype(float), prediction.T.astype(float), strict=True)
    expected = [reference(t, p) for t, p in columns]
    np.testing.assert_allclose(score(truth, prediction), expected, rtol=1e-9, atol=1e-12)


def test_ssim_equals_scikit_image_with_one_window_over_the_map():
    generator = np.random.default_rng(1)
    truth = generator.random((49, 5))
    prediction = truth + generator.random((49, 5))
    expected = [
        structural_similarity(
            (t / t.max()).reshape(7, 7), (p / p.max()).reshape(7, 7), win_size=7, data_range=1.0,
            use_sample_covariance=False,
        )
        for t, p in zip(truth.T, prediction.T, strict=True)
    ]  # fmt: skip
    np.testing.assert_allclose(ssim(truth, prediction), expected, rtol=1e-9)


def test_ssim_of_the_truth_itself_is_one_at_any_scale():
    truth = np.random.default_rng(2).random((11, 3))
    np.testing.assert_allclose(ssim(truth, 7 * truth), np.ones(3))


class TestBorders:
    truth = np.array([[0.0, 1, 2, 0], [1, 1, 0, 0], [3, 1, np.nan, 0]])
    prediction = np.array([[2.0, 1, 2, 5], [2, 0, 1, 6], [2, 3, 1, 7]])

    # Genes: constant prediction, constant truth above 0, truth with a NaN, constant truth of 0.
    @pytest.mark.parametrize(
        ("score", "expected"),
        [
            (pearson, [np.nan, np.nan, np.nan, np.nan]),
            (spearman, [np.nan, np.nan, np.nan, np.nan]),
            (r2, [1 - 6 / (14 / 3), np.nan, np.nan, np.nan]),
            (mse, [6 / 3, 5 / 3, np.nan, 110 / 3]),
            (mae, [4 / 3, 1.0, np.nan, 6.0]),
            (auc, [0.5, np.nan, np.nan, np.nan]),
        ],
    )
    def test_undefined_is_nan_and_nothing_else_is(self, score, expected):
        np.testing.assert_allclose(score(self.truth, self.prediction), expected, rtol=1e-12)

    def test_ssim_needs_a_truth_that_varies_and_both_positive_somewhere(self):
        found = ssim(self.truth, self.prediction)
        np.testing.assert_array_equal(np.isnan(found), [False, True, True, True])
        np.testing.assert_array_equal(ssim(self.truth[:, :1], -self.prediction[:, :1]), [np.nan])

    @pytest.mark.parametrize("score", [pearson, spearman, r2, mse, mae, auc, ssim])
    def test_nan_in_the_prediction(self, score):
        truth = np.array([[0.0], [1.0], [2.0]])
        np.testing.assert_array_equal(score(truth, np.array([[0.0], [np.nan], [1.0]])), [np.nan])

    @pytest.mark.parametrize("score", [pearson, spearman, r2, mse, mae, auc, ssim])
    def test_no_spot(self, score):
        np.testing.assert_array_equal(score(np.empty((0, 3)), np.empty((0, 3))), [np.nan] * 3)

    @pytest.mark.parametrize("score", [pearson, spearman, r2, auc, ssim])
    def test_one_spot(self, score):
        np.testing.assert_array_equal(score(np.ones((1, 2)), np.full((1, 2), 3.0)), [np.nan] * 2)
        np.testing.assert_array_equal(mse(np.ones((1, 2)), np.full((1, 2), 3.0)), [4.0] * 2)

    @pytest.mark.parametrize("score", [pearson, spearman])
    def test_a_prediction_that_varies_by_rounding_alone_counts_as_constant(self, score):
        prediction = np.array([[1 / 3], [1 / 3], [1 / 3]], dtype=np.float32)
        prediction[1] = np.nextafter(prediction[1], np.float32(1))
        np.testing.assert_array_equal(score(np.array([[0.0], [1], [0]]), prediction), [np.nan])

    @pytest.mark.parametrize("score", [pearson, spearman])
    def test_a_correlation_does_not_depend_on_a_tiny_scale(self, score, pair):
        truth, prediction = (values.astype(float) for values in pair)
        found = score(truth * 1e-100, prediction * 1e-100)
        np.testing.assert_allclose(found, score(truth, prediction), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("score", [pearson, spearman, r2, mse, mae, auc, ssim])
@settings(deadline=None)  # a busy machine is no fault
@given(seed=st.integers(0, 2**32 - 1), n_spots=st.integers(1, 23))
def test_permuting_spots_changes_nothing(score, seed, n_spots):
    generator = np.random.default_rng(seed)
    truth = generator.poisson(1.0, (n_spots, 3)).astype(float)
    prediction = generator.normal(size=(n_spots, 3))
    order = generator.permutation(n_spots)
    found = score(truth[order], prediction[order])
    np.testing.assert_allclose(found, score(truth, prediction), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n_defined", [0, 1, 7])
def test_correlation_over_genes_skips_undefined_ones(n_defined):
    truth, prediction = np.random.default_rng(0).normal(size=(2, n_defined))
    expected = stats.pearsonr(truth, prediction).statistic if n_defined > 1 else np.nan
    found = correlate_genes(np.append(truth, [np.nan, 1.0]), np.append(prediction, [1.0, np.nan]))
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csr_array])
def test_coverage_counts_both_ends(kind):
    counts = kind(np.array([[0, 5], [2, 1], [4, 9], [3, 0]]))
    lower = np.array([[0, 6], [0, 0], [1, 1], [4, 1]])
    upper = np.array([[0, 9], [2, 0], [3, 8], [9, 2]])
    np.testing.assert_array_equal(coverage(counts, lower, upper), [0.5, 0.0])
    np.testing.assert_array_equal(coverage(counts[:0], lower[:0], upper[:0]), [np.nan, np.nan])


def test_bootstrap_agrees_with_the_normal_interval_of_a_large_sample():
    values = np.random.default_rng(0).normal(3.0, 2.0, 503)
    found = bootstrap_mean(values, seed=1)
    half = 1.96 * values.std(ddof=1) / np.sqrt(503)
    assert (found.mean, found.n_units) == (pytest.approx(values.mean()), 503)
    # The 2.5 % quantile of 1,000 draws has a standard error of about .03 half-widths.
    np.testing.assert_allclose(
        [found.lower, found.upper], values.mean() + np.array([-half, half]), atol=0.1 * half
    )


def test_bootstrap_of_two_values_ends_at_them():
    # Means of 1, 2.5 or 4, with probability 1/4, 1/2 and 1/4.
    expected = Interval(mean=2.5, lower=1.0, upper=4.0, n_units=2)
    assert bootstrap_mean(np.array([1.0, np.nan, 4.0]), seed=0) == expected


def test_the_bootstrap_depends_on_its_seed():
    values = np.random.default_rng(0).normal(size=7)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


@pytest.mark.parametrize(
    ("values", "mean", "n"), [([], np.nan, 0), ([np.nan], np.nan, 0), ([np.nan, 2.0], 2.0, 1)]
)
def test_fewer_than_two_units_have_no_interval(values, mean, n):
    found = bootstrap_mean(np.array(values, dtype=float), seed=0)
    np.testing.assert_equal((found.mean, found.lower, found.upper, found.n_units), (mean, np.nan, np.nan, n))
