"""Nearest neighbours against brute force, with ties, duplicates and every border."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_distances

from spam.errors import ConfigError, SectionError
from spam.graphs.neighbour_search import KD_TREE_MAX_DIM, Neighbours, knn

BACKENDS = ("scipy", "faiss")


def brute_force(points: np.ndarray, queries: np.ndarray | None, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Every distance, row by row; sorted by (distance, index)."""
    indices, distances = [], []
    for row, query in enumerate(points if queries is None else queries):
        to_all = [
            (float(np.sqrt(((point - query) ** 2).sum())), index)
            for index, point in enumerate(points)
            if queries is not None or index != row
        ]
        nearest = sorted(to_all)[:k]
        indices.append([index for _, index in nearest])
        distances.append([distance for distance, _ in nearest])
    return np.array(indices), np.array(distances)


def assert_same(found: Neighbours, expected: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_array_equal(found.indices, expected[0])
    np.testing.assert_allclose(found.distances, expected[1], rtol=1e-12, atol=1e-12)
    assert (found.indices.dtype, found.distances.dtype) == (np.int64, np.float64)


def square_grid(n_columns: int, n_rows: int) -> np.ndarray:
    x, y = np.meshgrid(np.arange(float(n_columns)), np.arange(float(n_rows)))
    return np.column_stack([x.ravel(), y.ravel()])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dim", [1, 2, 3, 17])
@pytest.mark.parametrize("k", [1, 7])
def test_random_points_agree_with_brute_force(backend: str, dim: int, k: int) -> None:
    points = np.random.default_rng(dim).normal(size=(101, dim))
    assert_same(knn(points, k=k, backend=backend), brute_force(points, None, k))


@pytest.mark.parametrize("backend", BACKENDS)
def test_queries_are_not_left_out(backend: str) -> None:
    points = np.random.default_rng(0).normal(size=(53, 5))
    queries = np.concatenate([points[:11], np.random.default_rng(1).normal(size=(8, 5))])
    found = knn(points, queries, k=3, backend=backend)
    assert_same(found, brute_force(points, queries, 3))
    np.testing.assert_array_equal(found.indices[:11, 0], np.arange(11))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("k", [1, 2, 3, 5, 6, 9, 13, 31])
def test_ties_on_a_square_grid_are_ordered_by_index(backend: str, k: int) -> None:
    # Most of these k cut through a ring of equally near neighbours; 31 does so beyond the first margin.
    points = square_grid(11, 13)
    assert_same(knn(points, k=k, backend=backend), brute_force(points, None, k))


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_far_from_the_origin_are_found(backend: str) -> None:
    # In float32 these points are hardly told apart; the bound on what that loses must send them round again.
    points = square_grid(7, 11) * 4 + 1e6
    assert_same(knn(points, k=6, backend=backend), brute_force(points, None, 6))


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_ties_are_asked_for_again(backend: str) -> None:
    # 97 points on a circle around the last one, all equally near: the first candidates cannot be enough.
    angles = np.arange(97) * np.pi / 2  # four places, so that distances are equal to the last bit
    points = np.concatenate([np.column_stack([np.round(np.cos(angles)), np.round(np.sin(angles))]), [[0, 0]]])
    found = knn(points, np.zeros((1, 2)), k=41, backend=backend)
    np.testing.assert_array_equal(found.indices[0], [97, *range(40)])
    np.testing.assert_array_equal(found.distances[0], [0.0, *[1.0] * 40])


@pytest.mark.parametrize("backend", BACKENDS)
def test_duplicated_points_leave_themselves_out_by_index(backend: str) -> None:
    points = np.repeat(np.array([[0.0, 0.0], [5.0, 0.0]]), [3, 2], axis=0)
    found = knn(points, k=3, backend=backend)
    np.testing.assert_array_equal(found.indices, [[1, 2, 3], [0, 2, 3], [0, 1, 3], [4, 0, 1], [3, 0, 1]])
    np.testing.assert_array_equal(found.distances, [[0, 0, 5]] * 3 + [[0, 5, 5]] * 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_points_at_one_place_are_ordered_by_index(backend: str) -> None:
    found = knn(np.full((61, 2), 3.0), k=4, backend=backend)
    expected = [[i for i in range(61) if i != row][:4] for row in range(61)]
    np.testing.assert_array_equal(found.indices, expected)
    np.testing.assert_array_equal(found.distances, np.zeros((61, 4)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("k", [6, 7, 8, 1000])
def test_fewer_points_than_k_give_all_of_them(backend: str, k: int) -> None:
    points = np.random.default_rng(3).normal(size=(7, 2))
    assert_same(knn(points, k=k, backend=backend), brute_force(points, None, k))
    assert_same(knn(points, points[:2], k=k, backend=backend), brute_force(points, points[:2], k))
    assert knn(points, k=k, backend=backend).indices.shape == (7, 6)


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize("n_points", [0, 1])
def test_no_neighbours(backend: str, n_points: int) -> None:
    found = knn(np.ones((n_points, 2)), k=3, backend=backend)
    assert found.indices.shape == found.distances.shape == (n_points, 0)
    assert (found.indices.dtype, found.distances.dtype) == (np.int64, np.float64)


def test_one_point_is_the_neighbour_of_a_query() -> None:
    found = knn(np.array([[1.0, 1.0]]), np.array([[4.0, 5.0]]), k=3)
    np.testing.assert_array_equal(found.indices, [[0]])
    np.testing.assert_array_equal(found.distances, [[5.0]])


def test_no_queries_give_no_rows() -> None:
    assert knn(np.ones((5, 2)), np.empty((0, 2)), k=3).indices.shape == (0, 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_cosine_agrees_with_scikit_learn(backend: str) -> None:
    features = np.random.default_rng(4).normal(size=(83, 13)).astype(np.float32) + 1
    found = knn(features, k=5, metric="cosine", backend=backend)
    distances = cosine_distances(features.astype(np.float64))
    np.fill_diagonal(distances, np.inf)
    expected = np.argsort(distances, axis=1)[:, :5]
    np.testing.assert_array_equal(found.indices, expected)
    np.testing.assert_allclose(found.distances, np.take_along_axis(distances, expected, 1), rtol=1e-10)


def test_cosine_does_not_see_length() -> None:
    features = np.array([[1.0, 0.0], [7.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    found = knn(features, k=3, metric="cosine")
    np.testing.assert_array_equal(found.indices, [[1, 2, 3], [0, 2, 3], [0, 1, 3], [2, 0, 1]])
    np.testing.assert_allclose(found.distances, [[0, 1, 2], [0, 1, 2], [1, 1, 1], [1, 2, 2]], atol=1e-15)


def test_auto_takes_the_tree_up_to_three_dimensions() -> None:
    points = np.random.default_rng(5).normal(size=(23, KD_TREE_MAX_DIM + 1))
    assert knn(points[:, :KD_TREE_MAX_DIM], k=2).backend == "scipy"
    assert knn(points, k=2).backend.startswith("faiss-")


@settings(deadline=None, max_examples=40)
@given(
    n_points=st.integers(2, 43),
    k=st.integers(1, 11),
    width=st.integers(1, 5),
    seed=st.integers(0, 10_000),
)
def test_both_backends_agree_with_brute_force_under_ties(
    n_points: int, k: int, width: int, seed: int
) -> None:
    # Whole coordinates in a small square: ties and duplicates everywhere.
    points = np.random.default_rng(seed).integers(0, width, size=(n_points, 2)).astype(float)
    expected = brute_force(points, None, min(k, n_points - 1))
    for backend in BACKENDS:
        assert_same(knn(points, k=k, backend=backend), expected)


@settings(deadline=None, max_examples=20)
@given(n_points=st.integers(2, 47), k=st.integers(1, 9), seed=st.integers(0, 10_000))
def test_permuting_points_permutes_the_result(n_points: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n_points, 2))  # no ties, so the order of equals does not matter
    order = rng.permutation(n_points)
    direct, permuted = knn(points, k=k), knn(points[order], k=k)
    np.testing.assert_array_equal(order[permuted.indices], direct.indices[order])
    np.testing.assert_array_equal(permuted.distances, direct.distances[order])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_points_that_are_not_finite_are_refused(bad: float) -> None:
    points = np.ones((11, 2))
    points[[3, 7], 1] = bad
    with pytest.raises(SectionError, match=r"2 of 11 points .* first in row 3.*finite"):
        knn(points, k=2)
    with pytest.raises(SectionError, match=r"2 of 11 queries .* row 3"):
        knn(np.ones((5, 2)), points, k=2)


def test_a_zero_vector_has_no_cosine() -> None:
    features = np.ones((5, 7))
    features[4] = 0
    with pytest.raises(
        SectionError, match=r"1 of 5 points are all zeros, first in row 4, and have no cosine"
    ):
        knn(features, k=2, metric="cosine")


@pytest.mark.parametrize("k", [0, -3])
def test_k_below_one_is_refused(k: int) -> None:
    with pytest.raises(ConfigError, match=rf"k must be at least 1, not {k}.*--k"):
        knn(np.ones((5, 2)), k=k)
