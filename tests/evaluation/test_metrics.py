"""Scores per gene against scipy, scikit-learn and scikit-image, gene by gene, and their borders."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats
from skimage.metrics import structural_similarity
from sklearn import metrics as sk

from spam.evaluation.metrics import (
    auc,
    correlate_genes,
    coverage,
    mae,
    moran_correlation,
    mse,
    pearson,
    r2,
    spearman,
    ssim,
)
from spam.models.expression import morans_i

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


class TestMoranCorrelation:
    def test_is_the_correlation_of_the_two_indices_where_both_are_defined(self, pair):
        truth, prediction = (values.copy() for values in pair)
        truth[:, 3], prediction[:, 5] = 1.0, 2.0
        weights = sparse.random(N_SPOTS, N_SPOTS, density=0.2, format="csr", random_state=0)
        kept = np.setdiff1d(np.arange(N_GENES), [3, 5])
        expected = stats.pearsonr(morans_i(truth, weights)[kept], morans_i(prediction, weights)[kept])
        assert moran_correlation(truth, prediction, weights) == pytest.approx(expected.statistic, rel=1e-9)

    @pytest.mark.parametrize("genes", [[], [0.5], [0.5, np.nan]])
    def test_is_nan_with_fewer_than_two_genes(self, genes):
        assert np.isnan(correlate_genes(np.array(genes, dtype=float), np.array(genes, dtype=float)))


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csr_array])
def test_coverage_counts_both_ends(kind):
    counts = kind(np.array([[0, 5], [2, 1], [4, 9], [3, 0]]))
    lower = np.array([[0, 6], [0, 0], [1, 1], [4, 1]])
    upper = np.array([[0, 9], [2, 0], [3, 8], [9, 2]])
    np.testing.assert_array_equal(coverage(counts, lower, upper), [0.5, 0.0])
    np.testing.assert_array_equal(coverage(counts[:0], lower[:0], upper[:0]), [np.nan, np.nan])
