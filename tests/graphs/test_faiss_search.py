"""FAISS: bounds that hold, recall that is measured, and a GPU that is used only after it worked."""

import faiss
import numpy as np
import pytest

from spam.graphs import faiss_search
from spam.graphs.faiss_search import FlatSearch, IvfSearch, faiss_kind
from spam.graphs.neighbour_search import knn


def clustered(n_points: int, dim: int) -> np.ndarray:
    rng = np.random.default_rng(n_points)
    centres = rng.normal(size=(31, dim)) * 3
    return (centres[rng.integers(0, 31, n_points)] + rng.normal(size=(n_points, dim))).astype(np.float32)


def test_no_other_point_lies_below_the_bound() -> None:
    points = clustered(211, 29) + 100  # far from the origin, where float32 loses most
    found, bound = FlatSearch(points).search(points[:17], 7)
    exact = np.linalg.norm(points[:17, None].astype(np.float64) - points[None].astype(np.float64), axis=2)
    np.put_along_axis(exact, found, np.inf, axis=1)
    assert (exact.min(axis=1) >= bound).all()
    assert (bound > 0).any()  # or the test would say nothing


def test_approximate_search_measures_its_recall() -> None:
    points = clustered(2003, 11)
    search = IvfSearch(points, sample=np.arange(0, 2003, 7), k=9, min_recall=0.95)
    exact, _ = FlatSearch(points).search(points[::7], 10)
    found, bound = search.search(points[::7], 10)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact.tolist(), strict=True)])
    assert search.recall == pytest.approx(shared)
    assert 0.95 <= search.recall <= 1
    assert np.isinf(bound).all()


def test_full_recall_can_be_asked_for() -> None:
    points = clustered(503, 5)
    search = IvfSearch(points, sample=np.arange(503), k=5, min_recall=1.0)
    found, _ = search.search(points, 6)
    exact, _ = FlatSearch(points).search(points, 6)
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(exact, axis=1))
    assert search.recall == 1.0


def test_cells_that_hold_too_few_points_are_filled_up() -> None:
    points = clustered(97, 5)
    found, _ = IvfSearch(points, sample=np.arange(5), k=1, min_recall=0.0).search(points, 89)
    assert found.min() >= 0
    assert all(len(set(row)) == 89 for row in found.tolist())


def test_many_points_of_many_dimensions_are_searched_approximately(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spam.graphs.neighbour_search.FLAT_MAX_POINTS", 2000)
    monkeypatch.setattr("spam.graphs.neighbour_search.RECALL_SAMPLE", 503)
    points = np.random.default_rng(0).normal(size=(3001, 13)).astype(np.float32)
    found = knn(points, k=3)
    exact = knn(points, k=3, backend="scipy")
    shared = np.mean(
        [
            len(set(a) & set(b)) / 3
            for a, b in zip(found.indices.tolist(), exact.indices.tolist(), strict=True)
        ]
    )
    if found.backend == "faiss-gpu":
        assert shared == found.recall == 1  # the GPU searches all points
        return
    assert 0.99 <= found.recall < 1
    assert shared == pytest.approx(found.recall, abs=0.02)
    right = (found.indices == exact.indices).all(axis=1)
    np.testing.assert_array_equal(found.distances[right], exact.distances[right])
    assert knn(points, k=3, backend="scipy").recall == knn(points[:2000], k=3).recall == 1


def test_kind_names_package_and_place() -> None:
    package = "faiss-gpu" if hasattr(faiss, "StandardGpuResources") else "faiss-cpu"
    place = "GPU" if faiss_search.gpu_resources() is not None else "CPU"
    assert faiss_kind() == f"{package} {faiss.__version__}, searches on the {place}"


def test_backend_says_where_it_searched() -> None:
    expected = "faiss-gpu" if faiss_search.gpu_resources() is not None else "faiss-cpu"
    assert knn(clustered(23, 7), k=2).backend == expected


@pytest.mark.gpu
def test_gpu_and_cpu_find_the_same() -> None:
    if faiss_search.gpu_resources() is None:
        pytest.skip("FAISS finds no GPU that it can use")
    points = clustered(5003, 67)
    found = knn(points, k=15, metric="cosine")
    expected = knn(points, k=15, metric="cosine", backend="scipy")
    assert found.backend == "faiss-gpu"
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.distances, expected.distances, rtol=1e-9)
