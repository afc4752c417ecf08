"""Graphs of a section: a hand-drawn one, the Gaussian weights, and every border."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spam.errors import ConfigError, SectionError
from spam.graphs import feature_knn_graph, spatial_knn_graph
from spam.graphs.neighbour_graphs import gaussian_width
from spam.schemas.store_format import GraphMeta
from spam.store import Graph

#  5          y = 4
#
#  3     4    y = 2
#  0  1  2    y = 0
# x=0  1  2.5
SIX = np.array([[0, 0], [1, 0], [2.5, 0], [0, 2], [2.5, 2], [0, 4]], dtype=float)
# Two nearest neighbours of each, by hand; 4 has 1 and 3 equally near, so the lower index.
SIX_NEIGHBOURS = [[1, 3], [0, 2], [1, 4], [0, 5], [2, 1], [3, 4]]
SIX_DISTANCES = [[1, 2], [1, 1.5], [1.5, 2], [2, 2], [2, 2.5], [2, math.hypot(2.5, 2)]]
SIX_SIGMA = 1.75  # nearest neighbours at 1, 1, 1.5, 2, 2, 2


def dense(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    return graph.connectivities.toarray(), graph.distances.toarray()


def test_hand_drawn_graph() -> None:
    graph = spatial_knn_graph(SIX, k=2, unit="px")
    distances = np.zeros((6, 6))
    np.put_along_axis(distances, np.array(SIX_NEIGHBOURS), np.array(SIX_DISTANCES), axis=1)
    weights = np.where(distances > 0, np.exp(-(distances**2) / (2 * SIX_SIGMA**2)), 0)
    found_weights, found_distances = dense(graph)
    np.testing.assert_allclose(found_distances, distances, rtol=1e-15)
    np.testing.assert_allclose(found_weights, weights, rtol=1e-6)
    assert graph.meta == GraphMeta(
        kind="spatial", k=2, metric="euclidean", unit="px", sigma=SIX_SIGMA, backend="scipy"
    )
    assert graph.connectivities.dtype == np.float32
    assert graph.distances.dtype == np.float64


def test_rows_are_sorted_and_without_duplicates() -> None:
    graph = spatial_knn_graph(np.random.default_rng(0).normal(size=(37, 2)), k=5)
    for matrix in (graph.connectivities, graph.distances):
        matrix.check_format()
        assert matrix.has_canonical_format
        np.testing.assert_array_equal(np.diff(matrix.indptr), np.full(37, 5))
    assert graph.connectivities.diagonal().sum() == 0


def test_moving_the_section_changes_nothing() -> None:
    # Shifted by whole numbers, so that no coordinate is rounded.
    here, there = spatial_knn_graph(SIX, k=3), spatial_knn_graph(SIX + np.array([1024.0, -512.0]), k=3)
    np.testing.assert_array_equal(dense(here), dense(there))
    assert here.meta == there.meta


def test_another_unit_scales_distances_and_not_weights() -> None:
    px, um = spatial_knn_graph(SIX, k=3, unit="px"), spatial_knn_graph(SIX * 0.5, k=3, unit="um")
    np.testing.assert_array_equal(dense(px)[0], dense(um)[0])
    np.testing.assert_array_equal(dense(px)[1] * 0.5, dense(um)[1])
    assert (px.meta.unit, um.meta.unit, um.meta.sigma) == ("px", "um", px.meta.sigma / 2)


@settings(deadline=None, max_examples=20)
@given(n_spots=st.integers(2, 41), k=st.integers(1, 13), seed=st.integers(0, 10_000))
def test_permuting_spots_permutes_the_graph(n_spots: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    xy = rng.normal(size=(n_spots, 2))
    order = rng.permutation(n_spots)
    direct, permuted = dense(spatial_knn_graph(xy, k=k)), dense(spatial_knn_graph(xy[order], k=k))
    for before, after in zip(direct, permuted, strict=True):
        np.testing.assert_array_equal(after, before[np.ix_(order, order)])


def test_spots_at_one_place_keep_their_zero_distance() -> None:
    graph = spatial_knn_graph(np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]]), k=2)
    assert graph.distances.nnz == graph.connectivities.nnz == 6
    np.testing.assert_array_equal(graph.distances.data, [0, 5, 0, 5, 5, 5])
    assert graph.meta.sigma == 5.0
    np.testing.assert_allclose(
        graph.connectivities.data, [1, math.exp(-0.5), 1, *[math.exp(-0.5)] * 3], rtol=1e-6
    )


def test_all_spots_at_one_place_weigh_the_same() -> None:
    graph = spatial_knn_graph(np.full((5, 2), 7.0), k=2)
    assert graph.meta.sigma == 1.0
    np.testing.assert_array_equal(graph.connectivities.data, np.ones(10))
    np.testing.assert_array_equal(graph.distances.data, np.zeros(10))


@pytest.mark.parametrize("n_spots", [0, 1])
def test_too_few_spots_give_no_edges(n_spots: int) -> None:
    graph = spatial_knn_graph(np.zeros((n_spots, 2)), k=3)
    assert graph.distances.shape == graph.connectivities.shape == (n_spots, n_spots)
    assert graph.distances.nnz == graph.connectivities.nnz == 0
    assert (graph.meta.k, graph.meta.sigma) == (3, 1.0)


def test_few_spots_are_joined_with_all_others() -> None:
    graph = spatial_knn_graph(SIX, k=11)
    np.testing.assert_array_equal(np.diff(graph.distances.indptr), np.full(6, 5))
    expected = np.linalg.norm(SIX[:, None] - SIX[None], axis=2)
    np.testing.assert_allclose(dense(graph)[1], expected, rtol=1e-15)
    assert graph.meta.k == 11


def test_a_far_spot_keeps_its_edges_at_weight_zero() -> None:
    xy = np.concatenate([SIX, [[1000.0, 0.0]]])
    graph = spatial_knn_graph(xy, k=2)
    np.testing.assert_array_equal(graph.connectivities[[6]].data, [0, 0])
    np.testing.assert_allclose(sorted(graph.distances[[6]].data), [997.5, np.hypot(997.5, 2)])


@pytest.mark.parametrize(
    ("distances", "width"),
    [
        ([[2.0], [4.0], [9.0]], 4.0),
        ([[0.0, 3.0], [0.0, 5.0]], 4.0),
        ([[0.0], [0.0]], 1.0),
        ([[0.0], [6.0]], 6.0),
    ],
)
def test_width_is_the_median_distance_elsewhere(distances: list[list[float]], width: float) -> None:
    assert gaussian_width(np.array(distances)) == width


def test_feature_graph_joins_what_points_the_same_way() -> None:
    features = np.array([[1, 0], [3, 0.3], [0, 1], [0.1, 5]], dtype=np.float32)
    graph = feature_knn_graph(features, k=1, features_key="resnet_112um")
    unit = features.astype(float) / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    near, far = 1 - unit[0] @ unit[1], 1 - unit[2] @ unit[3]
    np.testing.assert_array_equal(graph.distances.indices, [1, 0, 3, 2])
    np.testing.assert_allclose(graph.distances.data, [near, near, far, far], rtol=1e-9)
    assert graph.meta == GraphMeta(
        kind="features",
        k=1,
        metric="cosine",
        unit="cosine",
        sigma=pytest.approx((near + far) / 2, rel=1e-9),
        backend="scipy",
        features_key="resnet_112um",
    )


def test_feature_graph_of_many_dimensions_says_what_searched() -> None:
    features = np.random.default_rng(1).normal(size=(31, 67)).astype(np.float32)
    by_faiss = feature_knn_graph(features, k=5, features_key="a")
    by_tree = feature_knn_graph(features, k=5, features_key="a", backend="scipy")
    assert by_faiss.meta.backend.startswith("faiss-")
    assert by_tree.meta.backend == "scipy"
    np.testing.assert_array_equal(dense(by_faiss), dense(by_tree))


def test_faults_of_the_points_are_told() -> None:
    with pytest.raises(ConfigError, match="k must be at least 1"):
        spatial_knn_graph(SIX, k=0)
    with pytest.raises(SectionError, match="NaN"):
        spatial_knn_graph(SIX * np.nan, k=2)
    with pytest.raises(SectionError, match="all zeros"):
        feature_knn_graph(np.zeros((3, 5)), k=2, features_key="a")
