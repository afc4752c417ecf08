"""Expression from counts, gene choice and Moran's I, against slow loops and drawn cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from spam.models.expression import (
    highly_expressed_genes,
    highly_variable_genes,
    is_constant,
    log1p_cp10k,
    morans_i,
    spatially_variable_genes,
)

N_SPOTS, N_GENES = 13, 7


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(0).poisson(1.5, (N_SPOTS, N_GENES)).astype(np.int32)


class TestLog1pCp10k:
    def test_hand_computed_case(self):
        counts = np.array([[1, 0, 3], [0, 0, 0]], dtype=np.int32)
        found = log1p_cp10k(counts, np.array([20, 0]))
        np.testing.assert_allclose(found, [[np.log(501), 0, np.log(1501)], [0, 0, 0]], rtol=1e-6)
        assert found.dtype == np.float32

    @pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csr_array])
    def test_equals_a_loop_in_any_layout_and_leaves_the_counts_alone(self, counts, kind):
        totals = counts.sum(1) + 5  # as if other genes had been measured too
        given_counts = kind(counts.copy())
        found = log1p_cp10k(given_counts, totals)
        expected = [[np.log(1 + 1e4 * x / t) for x in row] for row, t in zip(counts, totals, strict=True)]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        after = given_counts if isinstance(given_counts, np.ndarray) else given_counts.toarray()
        np.testing.assert_array_equal(after, counts)

    def test_a_gene_does_not_depend_on_which_others_are_given(self, counts):
        totals = counts.sum(1)
        csr = sparse.csr_matrix(counts)
        np.testing.assert_array_equal(
            log1p_cp10k(csr[:, [4, 2]], totals), log1p_cp10k(csr, totals)[:, [4, 2]]
        )

    @pytest.mark.parametrize("n_spots", [0, 1])
    def test_few_spots(self, n_spots):
        found = log1p_cp10k(sparse.csr_matrix(np.ones((n_spots, 3), dtype=np.int32)), np.full(n_spots, 3))
        np.testing.assert_allclose(found, np.full((n_spots, 3), np.log1p(1e4 / 3)), rtol=1e-6)


class TestGeneChoice:
    def test_variance_decides_among_genes_detected_often_enough(self):
        # Gene 0 varies most but is detected in 10 % of the spots, which is not more than 10 %.
        expression = np.array([[0, 1, 5, 2.0, 0], [9, 3, 5, 2.5, 2]])
        share = np.array([0.1, 0.5, 1.0, 0.9, 0.5])
        np.testing.assert_array_equal(highly_variable_genes(expression, share, n=2), [1, 4])
        np.testing.assert_array_equal(highly_variable_genes(expression, share, n=11), [1, 4, 3, 2])

    def test_sparse_expression_has_the_variances_of_dense(self):
        rng = np.random.default_rng(0)
        expression = rng.random((211, 31)) * (rng.random((211, 31)) < 0.3)
        found = highly_variable_genes(sparse.csr_array(expression), np.ones(31), n=31)
        np.testing.assert_array_equal(found, np.argsort(-expression.var(axis=0), kind="stable"))

    def test_equal_variances_keep_the_order_of_the_genes(self):
        high = np.where(np.arange(101) % 3 == 1, 2.0, 1.0)
        expression = np.stack([np.zeros(101), high])
        expected = [*range(1, 101, 3), *(i for i in range(101) if i % 3 != 1)]
        np.testing.assert_array_equal(highly_variable_genes(expression, np.ones(101), n=101), expected)
        np.testing.assert_array_equal(highly_variable_genes(expression, np.ones(101), n=37), expected[:37])

    def test_expression_level(self):
        expression = np.array([[1, 4, 0], [3, 4, 9.0]])
        np.testing.assert_array_equal(highly_expressed_genes(expression, n=2), [2, 1])
        np.testing.assert_array_equal(highly_expressed_genes(expression, n=5), [2, 1, 0])

    def test_autocorrelation_is_averaged_over_sections_and_must_be_defined_in_all(self):
        index = np.array([[0.9, 0.1, np.nan, 0.6], [-0.5, 0.3, 1.0, 0.4]])
        np.testing.assert_array_equal(spatially_variable_genes(index, n=2), [3, 0])
        np.testing.assert_array_equal(spatially_variable_genes(index, n=4), [3, 0, 1])


def grid_weights(height: int, width: int) -> sparse.csr_matrix:
    """Edges between the four nearest squares of a board."""
    index = np.arange(height * width).reshape(height, width)
    pairs = np.concatenate(
        [
            np.stack([index[:, :-1].ravel(), index[:, 1:].ravel()], 1),
            np.stack([index[:-1].ravel(), index[1:].ravel()], 1),
        ]
    )
    rows, columns = np.concatenate([pairs, pairs[:, ::-1]]).T
    return sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(index.size, index.size))


class TestMoransI:
    def test_drawn_boards(self):
        # Checkerboard: every neighbour differs, I = -1. Halves, drawn `##..` twice: of 10 edges 8 join equals
        # and 2 join opposites, (8 - 2) / 10 = 0.6.
        checkerboard = np.indices((4, 4)).sum(0).ravel() % 2
        assert morans_i(checkerboard[:, None].astype(float), grid_weights(4, 4)) == pytest.approx([-1.0])
        halves = np.array([[1, 1, 0, 0], [1, 1, 0, 0]]).ravel()
        assert morans_i(halves[:, None].astype(float), grid_weights(2, 4)) == pytest.approx([0.6])

    def test_equals_a_double_loop_with_uneven_one_way_weights(self):
        generator = np.random.default_rng(1)
        values = generator.normal(size=(N_SPOTS, N_GENES))
        weights = generator.random((N_SPOTS, N_SPOTS))
        weights[weights < 0.7] = 0
        expected = []
        for gene in values.T:
            z = gene - sum(gene) / N_SPOTS
            between = sum(weights[i, j] * z[i] * z[j] for i in range(N_SPOTS) for j in range(N_SPOTS))
            expected.append(N_SPOTS / weights.sum() * between / sum(z**2))
        np.testing.assert_allclose(morans_i(values, sparse.csr_matrix(weights)), expected, rtol=1e-10)

    def test_equals_esda_and_squidpy(self):
        # esda 2.9.0 (Moran, transformations B and R, lat2W) and squidpy 1.8.2 (spatial_autocorr, same weights), which agree.
        i, j = np.divmod(np.arange(63), 9)
        peak = np.exp(-((i - 3) ** 2 + (j - 4) ** 2) / 6)
        values = np.stack(
            [np.sin(i / 2) + np.cos(j / 3), (i * 7 + j * j) % 11, (i + j) % 2, peak], axis=1
        ).astype(float)
        rook = grid_weights(7, 9)
        queen = sparse.csr_matrix(
            (abs(i[:, None] - i) <= 1) & (abs(j[:, None] - j) <= 1), dtype=float
        ) - sparse.eye(63)
        for weights, binary, by_row in (
            (
                rook,
                [0.856308534133, -0.237834813305, -1.0, 0.85608250399],
                [0.909579863314, -0.221377101681, -1.0, 0.821081213033],
            ),
            (
                sparse.csr_matrix(queen),
                [0.791164702537, -0.112649221319, -0.067726276229, 0.779522211692],
                [0.858679484797, -0.116045544769, -0.097244623656, 0.723954080809],
            ),
        ):
            np.testing.assert_allclose(morans_i(values, weights), binary, atol=1e-11)
            normalised = sparse.csr_matrix(weights / weights.sum(axis=1))
            np.testing.assert_allclose(morans_i(values, normalised), by_row, atol=1e-11)

    def test_undefined_is_nan(self):
        values = np.array([[1.0, 2.0, np.nan], [1.0, 3.0, 1.0]])
        edge = sparse.csr_matrix(np.array([[0, 1.0], [1.0, 0]]))
        np.testing.assert_allclose(morans_i(values, edge), [np.nan, -1.0, np.nan])
        np.testing.assert_array_equal(morans_i(values, sparse.csr_matrix((2, 2))), [np.nan] * 3)
        np.testing.assert_array_equal(morans_i(values[:1], sparse.csr_matrix((1, 1))), [np.nan] * 3)
        np.testing.assert_array_equal(morans_i(values[:0], sparse.csr_matrix((0, 0))), [np.nan] * 3)

    @settings(deadline=None)  # a busy machine is no fault
    @given(seed=st.integers(0, 2**32 - 1), n_spots=st.integers(2, 29))
    def test_permuting_spots_changes_nothing(self, seed, n_spots):
        generator = np.random.default_rng(seed)
        values = generator.normal(size=(n_spots, 3))
        weights = sparse.csr_matrix(generator.random((n_spots, n_spots)))
        order = generator.permutation(n_spots)
        found = morans_i(values[order], weights[order][:, order])
        np.testing.assert_allclose(found, morans_i(values, weights), rtol=1e-9, atol=1e-12)


def test_constant_means_up_to_rounding():
    third = np.float32(1 / 3)
    values = np.array(
        [[0, third, 1, 0, np.nan], [0, np.nextafter(third, np.float32(1)), 1.001, 1e-9, 1]], dtype=np.float32
    )
    np.testing.assert_array_equal(is_constant(values), [True, True, False, False, False])
    np.testing.assert_array_equal(is_constant(values[:1, :2]), [True, True])
    np.testing.assert_array_equal(is_constant(values[:0]), [True] * 5)
