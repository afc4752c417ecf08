"""Nearest neighbours against brute force: ties, duplicates, borders, and the bounds and recall of FAISS."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_distances

from spam.errors import ConfigError, SectionError
from spam.graphs import Neighbours, faiss_kind, knn, neighbour_search
from spam.graphs.neighbour_search import KD_TREE_MAX_DIM

BOTH = pytest.mark.parametrize("backend", ["scipy", "faiss"])


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


def flat_index(points: np.ndarray) -> faiss.IndexFlatL2:
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points)
    return index


def clustered(n_points: int, dim: int) -> np.ndarray:
    rng = np.random.default_rng(n_points)
    centres = rng.normal(size=(31, dim)) * 3
    return (centres[rng.integers(0, 31, n_points)] + rng.normal(size=(n_points, dim))).astype(np.float32)


@BOTH
@pytest.mark.parametrize(("dim", "k"), [(1, 7), (2, 1), (3, 7), (17, 7)])
def test_random_points(backend: str, dim: int, k: int) -> None:
    points = np.random.default_rng(dim).normal(size=(101, dim))
    assert_same(knn(points, k=k, backend=backend), brute_force(points, None, k))
    queries = np.concatenate([points[:11], points[:8] + 0.1])
    assert_same(knn(points, queries, k=k, backend=backend), brute_force(points, queries, k))


@BOTH
@pytest.mark.parametrize("k", [1, 3, 5, 9, 31])
def test_ties_on_a_square_grid_are_ordered_by_index(backend: str, k: int) -> None:
    # Most of these k cut through a ring of equally near neighbours; 31 also exceeds the first margin.
    points = square_grid(11, 13)
    assert_same(knn(points, k=k, backend=backend), brute_force(points, None, k))


@BOTH
def test_ties_far_from_the_origin(backend: str) -> None:
    # float32 hardly separates these points: its error bound must request more candidates.
    points = square_grid(7, 11) * 4 + 1e6
    assert_same(knn(points, k=6, backend=backend), brute_force(points, None, 6))


@BOTH
def test_many_ties_need_more_candidates(backend: str) -> None:
    # 97 points on a circle around the last one, all equally near.
    angles = np.arange(97) * np.pi / 2  # four places, so that distances are equal to the last bit
    points = np.concatenate([np.column_stack([np.round(np.cos(angles)), np.round(np.sin(angles))]), [[0, 0]]])
    found = knn(points, np.zeros((1, 2)), k=41, backend=backend)
    np.testing.assert_array_equal(found.indices[0], [97, *range(40)])
    np.testing.assert_array_equal(found.distances[0], [0.0, *[1.0] * 40])


@BOTH
def test_duplicated_points_leave_themselves_out_by_index(backend: str) -> None:
    points = np.repeat(np.array([[0.0, 0.0], [5.0, 0.0]]), [3, 2], axis=0)
    found = knn(points, k=3, backend=backend)
    np.testing.assert_array_equal(found.indices, [[1, 2, 3], [0, 2, 3], [0, 1, 3], [4, 0, 1], [3, 0, 1]])
    np.testing.assert_array_equal(found.distances, [[0, 0, 5]] * 3 + [[0, 5, 5]] * 2)


@BOTH
@pytest.mark.parametrize("k", [6, 7, 1000])
def test_fewer_points_than_k(backend: str, k: int) -> None:
    points = np.random.default_rng(3).normal(size=(7, 2))
    assert_same(knn(points, k=k, backend=backend), brute_force(points, None, k))
    assert_same(knn(points, points[:2], k=k, backend=backend), brute_force(points, points[:2], k))


@pytest.mark.parametrize("backend", ["auto", "scipy", "faiss"])
def test_no_neighbours(backend: str) -> None:
    for n_points in (0, 1):
        found = knn(np.ones((n_points, 2)), k=3, backend=backend)
        assert found.indices.shape == found.distances.shape == (n_points, 0)
    assert knn(np.ones((5, 2)), np.empty((0, 2)), k=3, backend=backend).indices.shape == (0, 3)


@BOTH
def test_cosine(backend: str) -> None:
    features = np.random.default_rng(4).normal(size=(83, 13)).astype(np.float32) + 1
    found = knn(features, k=5, metric="cosine", backend=backend)
    distances = cosine_distances(features.astype(np.float64))
    np.fill_diagonal(distances, np.inf)
    expected = np.argsort(distances, axis=1)[:, :5]
    np.testing.assert_array_equal(found.indices, expected)
    np.testing.assert_allclose(found.distances, np.take_along_axis(distances, expected, 1), rtol=1e-10)
    scaled = features * np.random.default_rng(0).uniform(0.5, 7, size=(83, 1))
    np.testing.assert_array_equal(knn(scaled, k=5, metric="cosine", backend=backend).indices, expected)


def test_auto_uses_the_tree_up_to_three_dimensions() -> None:
    points = np.random.default_rng(5).normal(size=(23, KD_TREE_MAX_DIM + 1))
    assert knn(points[:, :KD_TREE_MAX_DIM], k=2).backend == "scipy"
    on_gpu = neighbour_search.gpu_resources() is not None
    assert knn(points, k=2).backend == ("faiss-gpu" if on_gpu else "faiss-cpu")
    package = "faiss-gpu" if hasattr(faiss, "StandardGpuResources") else "faiss-cpu"
    assert faiss_kind() == f"{package} {faiss.__version__}, searches on the {'GPU' if on_gpu else 'CPU'}"


@settings(deadline=None, max_examples=30)
@given(n_points=st.integers(2, 43), k=st.integers(1, 11), width=st.integers(1, 5), seed=st.integers(0, 9999))
def test_both_backends_under_ties(n_points: int, k: int, width: int, seed: int) -> None:
    # Whole coordinates in a small square: ties and duplicates everywhere.
    points = np.random.default_rng(seed).integers(0, width, size=(n_points, 2)).astype(float)
    expected = brute_force(points, None, min(k, n_points - 1))
    for backend in ("scipy", "faiss"):
        assert_same(knn(points, k=k, backend=backend), expected)


def test_no_other_point_lies_below_the_bound() -> None:
    points = clustered(211, 29) + 100  # far from the origin, where float32 loses most
    found, bound = neighbour_search._flat_search(flat_index(points), points)[1](points[:17], 7)
    exact = np.linalg.norm(points[:17, None].astype(np.float64) - points[None].astype(np.float64), axis=2)
    np.put_along_axis(exact, found, np.inf, axis=1)
    assert (exact.min(axis=1) >= bound).all()
    assert (bound > 0).any()


def test_approximate_search_measures_its_recall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbour_search, "FLAT_MAX_POINTS", 2000)
    monkeypatch.setattr(neighbour_search, "RECALL_SAMPLE", 503)
    rng = np.random.default_rng(0)  # more dimensions than components, and noise in all of them
    points = rng.normal(size=(3001, 13)) @ rng.normal(size=(13, 79)) + 0.7 * rng.normal(size=(3001, 79))
    found, exact = knn(points, k=3), knn(points, k=3, backend="scipy")
    rows = zip(found.indices.tolist(), exact.indices.tolist(), strict=True)
    shared = np.mean([len(set(a) & set(b)) / 3 for a, b in rows])
    if found.backend == "faiss-gpu":
        assert shared == found.recall == 1  # the GPU searches all points
        return
    assert 0.99 <= found.recall < 1
    assert shared == pytest.approx(found.recall, abs=0.02)
    right = (found.indices == exact.indices).all(axis=1)
    np.testing.assert_array_equal(found.distances[right], exact.distances[right])
    assert exact.recall == knn(points[:2000], k=3).recall == 1
    # In these, 64 components find too few neighbours, however many cells are searched: so all points are.
    noise = rng.normal(size=(3001, 257))
    every = knn(noise, noise[:101], k=3)
    assert every.recall == 1
    np.testing.assert_array_equal(every.indices, knn(noise, noise[:101], k=3, backend="scipy").indices)


def test_each_of_many_equal_points_counts_as_found() -> None:
    points = np.repeat(np.random.default_rng(1).normal(size=(3, 71)), 101, axis=0).astype(np.float32)
    index = flat_index(points)  # as of blank tiles; most cells are empty
    flat = neighbour_search._flat_search(index, points)[1]
    search, recall, order = neighbour_search._cell_search(index, points, flat, 7)
    assert recall == 1
    assert search is not flat
    np.testing.assert_array_equal(np.sort(order), np.arange(303))


def test_cells_with_too_few_points_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbour_search, "MIN_RECALL", 0.0)
    points = clustered(97, 5)
    index = flat_index(points)
    flat = neighbour_search._flat_search(index, points)[1]
    search, *_ = neighbour_search._cell_search(index, points, flat, 1)
    found, _ = search(points, 89)
    assert found.min() >= 0
    assert all(len(set(row)) == 89 for row in found.tolist())


@pytest.mark.gpu
def test_gpu_and_cpu_find_the_same() -> None:
    if neighbour_search.gpu_resources() is None:
        pytest.skip("FAISS finds no usable GPU")
    points = clustered(5003, 67)
    found = knn(points, k=15, metric="cosine")
    expected = knn(points, k=15, metric="cosine", backend="scipy")
    assert found.backend == "faiss-gpu"
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.distances, expected.distances, rtol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_points_that_are_not_finite(bad: float) -> None:
    points = np.ones((11, 2))
    points[[3, 7], 1] = bad
    for arguments in ((points,), (np.ones((5, 2)), points)):
        with pytest.raises(SectionError, match=r"2 of 11 points .* row 3"):
            knn(*arguments, k=2)


def test_other_faults() -> None:
    features = np.ones((5, 7))
    features[4] = 0
    with pytest.raises(SectionError, match=r"1 of 5 points are all zeros.* row 4"):
        knn(features, k=2, metric="cosine")
    with pytest.raises(ConfigError, match=r"--k must be at least 1, not -3"):
        knn(np.ones((5, 2)), k=-3)
