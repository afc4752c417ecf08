"""Graphs of a section: a hand-drawn one, Gaussian weights, borders, and graphs kept in a store."""

import math
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
from cohorts import add_section
from hypothesis import given, settings
from hypothesis import strategies as st

from spam.errors import ConfigError, SectionError, StoreError
from spam.graphs import (
    build_graphs,
    ensure_feature_graph,
    ensure_spatial_graph,
    feature_knn_graph,
    spatial_knn_graph,
)
from spam.graphs.section_graphs import gaussian_width
from spam.schemas.graph_config import GraphConfig
from spam.schemas.store_format import GraphMeta
from spam.store import Graph, Store, StoredSection, open_store

KEY = "tiny_112um"
MPP = 0.5

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
    assert (graph.connectivities.dtype, graph.distances.dtype) == (np.float32, np.float64)


def test_rows_are_sorted_and_without_duplicates() -> None:
    graph = spatial_knn_graph(np.random.default_rng(0).normal(size=(37, 2)), k=5)
    for matrix in (graph.connectivities, graph.distances):
        assert matrix.has_canonical_format
        np.testing.assert_array_equal(np.diff(matrix.indptr), np.full(37, 5))
    assert graph.connectivities.diagonal().sum() == 0


def test_shift_and_unit() -> None:
    # Shifted by whole numbers, so that no coordinate is rounded.
    here, there = spatial_knn_graph(SIX, k=3), spatial_knn_graph(SIX + np.array([1024.0, -512.0]), k=3)
    np.testing.assert_array_equal(dense(here), dense(there))
    assert here.meta == there.meta
    px = spatial_knn_graph(SIX * 2, k=3, unit="px")
    np.testing.assert_array_equal(dense(px)[0], dense(here)[0])
    np.testing.assert_array_equal(dense(px)[1], dense(here)[1] * 2)
    assert (px.meta.unit, here.meta.unit, px.meta.sigma) == ("px", "um", here.meta.sigma * 2)


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
    np.testing.assert_array_equal(graph.distances.data, [0, 5, 0, 5, 5, 5])
    assert graph.meta.sigma == 5.0
    far = math.exp(-0.5)
    np.testing.assert_allclose(graph.connectivities.data, [1, far, 1, far, far, far], rtol=1e-6)
    graph = spatial_knn_graph(np.full((5, 2), 7.0), k=2)
    np.testing.assert_array_equal(graph.connectivities.data, np.ones(10))
    np.testing.assert_array_equal(graph.distances.data, np.zeros(10))


def test_few_spots() -> None:
    for n_spots in (0, 1):
        graph = spatial_knn_graph(np.zeros((n_spots, 2)), k=3)
        assert graph.distances.shape == graph.connectivities.shape == (n_spots, n_spots)
        assert (graph.distances.nnz, graph.meta.k, graph.meta.sigma) == (0, 3, 1.0)
    graph = spatial_knn_graph(SIX, k=11)
    np.testing.assert_allclose(dense(graph)[1], np.linalg.norm(SIX[:, None] - SIX[None], axis=2), rtol=1e-15)
    assert graph.meta.k == 11


def test_a_far_spot_keeps_its_edges_at_weight_zero() -> None:
    graph = spatial_knn_graph(np.concatenate([SIX, [[1000.0, 0.0]]]), k=2)
    np.testing.assert_array_equal(graph.connectivities[[6]].data, [0, 0])
    np.testing.assert_allclose(sorted(graph.distances[[6]].data), [997.5, np.hypot(997.5, 2)])


@pytest.mark.parametrize(
    ("distances", "width"),
    [([[2.0], [4.0], [9.0]], 4.0), ([[0.0, 3.0], [0.0, 5.0]], 4.0), ([[0.0], [0.0]], 1.0)],
)
def test_width_is_the_median_distance_elsewhere(distances: list[list[float]], width: float) -> None:
    assert gaussian_width(np.array(distances)) == width


def test_feature_graph_connects_similar_directions() -> None:
    features = np.array([[1, 0], [3, 0.3], [0, 1], [0.1, 5]], dtype=np.float32)
    graph = feature_knn_graph(features, k=1, features_key="resnet_112um")
    unit = features.astype(float) / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    near, far = 1 - unit[0] @ unit[1], 1 - unit[2] @ unit[3]
    np.testing.assert_array_equal(graph.distances.indices, [1, 0, 3, 2])
    np.testing.assert_allclose(graph.distances.data, [near, near, far, far], rtol=1e-9)
    assert graph.meta.sigma == pytest.approx((near + far) / 2, rel=1e-9)
    expected = GraphMeta(kind="features", k=1, metric="cosine", unit="cosine", sigma=0.0, backend="scipy")
    assert replace(graph.meta, sigma=0.0) == replace(expected, features_key="resnet_112um")


def test_faults() -> None:
    with pytest.raises(ConfigError, match="--k must be at least 1"):
        spatial_knn_graph(SIX, k=0)
    with pytest.raises(SectionError, match="not finite"):
        spatial_knn_graph(SIX * np.nan, k=2)
    with pytest.raises(SectionError, match="all zeros"):
        feature_knn_graph(np.zeros((3, 5)), k=2, features_key="a")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    path = tmp_path / "cohort.zarr"
    add_section(path, "A", n_spots=23)
    add_section(path, "B", n_spots=17, seed=1)
    return open_store(path, is_read_only=False)


def assert_same(found: Graph | None, expected: Graph) -> None:
    assert found is not None
    assert found.meta == expected.meta
    for name in ("connectivities", "distances"):
        a, b = getattr(found, name), getattr(expected, name)
        np.testing.assert_array_equal(a.indptr, b.indptr)
        np.testing.assert_array_equal(a.indices, b.indices)
        np.testing.assert_array_equal(a.data, b.data)


def marked(section: StoredSection, key: str) -> Graph:
    """Write the stored graph back with doubled distances, to distinguish reading from building."""
    graph = section.graph(key)
    assert graph is not None
    changed = Graph(connectivities=graph.connectivities, distances=graph.distances * 2, meta=graph.meta)
    section.write_graph(key, changed)
    return changed


def test_spatial_graph_is_built_in_um_and_kept(store: Store) -> None:
    section = store.section("A")
    graph = ensure_spatial_graph(section, k=3)
    assert_same(graph, spatial_knn_graph(section.xy_px * MPP, k=3, unit="um"))
    assert_same(open_store(store.folder).section("A").graph("spatial"), graph)


def test_a_fitting_graph_is_read_and_another_k_is_rebuilt(store: Store) -> None:
    section = store.section("A")
    ensure_spatial_graph(section, k=3)
    ensure_feature_graph(section, KEY, k=3)
    changed = marked(section, "spatial"), marked(section, f"features_{KEY}")
    assert_same(ensure_spatial_graph(section, k=3), changed[0])
    assert_same(ensure_feature_graph(section, KEY, k=3), changed[1])
    assert ensure_spatial_graph(section, k=4).meta.k == 4
    assert ensure_feature_graph(section, KEY, k=4).meta.k == 4
    assert section.graph("spatial").meta.k == section.graph(f"features_{KEY}").meta.k == 4  # type: ignore[union-attr]


def test_without_um_the_graph_is_in_pixels(tmp_path: Path) -> None:
    add_section(tmp_path / "px.zarr", "A", n_spots=13, mpp=None)
    section = open_store(tmp_path / "px.zarr").section("A")
    assert_same(ensure_spatial_graph(section, k=2), spatial_knn_graph(section.xy_px, k=2, unit="px"))


def test_a_stored_graph_of_another_unit_or_of_other_features_is_rebuilt(store: Store) -> None:
    section = store.section("A")
    section.write_graph("spatial", spatial_knn_graph(section.xy_px, k=3, unit="px"))
    assert ensure_spatial_graph(section, k=3).meta.unit == "um"
    graph = ensure_feature_graph(section, KEY, k=3)
    other = replace(graph, meta=replace(graph.meta, features_identity="other"), distances=graph.distances * 2)
    section.write_graph(f"features_{KEY}", other)
    assert_same(ensure_feature_graph(section, KEY, k=3), graph)


def test_read_only_stores_stay_as_they_are(store: Store) -> None:
    section = open_store(store.folder).section("A")
    graph = ensure_spatial_graph(section, k=3)
    assert_same(graph, spatial_knn_graph(section.xy_px * MPP, k=3, unit="um"))
    assert ensure_feature_graph(section, KEY, k=3).meta.features_key == KEY
    assert section.graph("spatial") is None
    assert section.graph(f"features_{KEY}") is None


def test_all_graphs_are_built_within_their_sections(store: Store) -> None:
    report = build_graphs(GraphConfig(store=store.folder, k_spatial=3, k_features=5))
    assert report.store == store.folder
    keys = ("spatial", 3), ("features_tiny_112um", 5), ("features_tiny_224um", 5)
    assert [tuple(g.values())[:4] for g in report.graphs] == [
        (name, key, n_spots, n_spots * k) for name, n_spots in (("A", 23), ("B", 17)) for key, k in keys
    ]
    for built in report.graphs:
        section = open_store(store.folder).section(built["section"])
        graph = section.graph(built["key"])
        assert graph is not None
        assert graph.meta.to_mapping() == built["meta"]
        # Square over the spots of this section: no edge can lead to another section.
        assert graph.distances.shape == (section.n_spots, section.n_spots)
        assert_same(section.graph("spatial"), spatial_knn_graph(section.xy_um, k=3))


def test_named_sections_alone_are_built(store: Store) -> None:
    report = build_graphs(GraphConfig(store=store.folder, sections=("B",)))
    assert [g["section"] for g in report.graphs] == ["B", "B", "B"]
    assert [g["meta"]["k"] for g in report.graphs] == [12, 15, 15]
    assert open_store(store.folder).section("A").graph("spatial") is None


def test_existing_graphs_are_kept_without_overwrite(store: Store) -> None:
    config = {"store": store.folder, "k_spatial": 3, "k_features": 3}
    build_graphs(GraphConfig(**config))
    keys = ("spatial", f"features_{KEY}")
    built = [store.section("A").graph(key) for key in keys]
    changed = [marked(store.section("A"), key) for key in keys]
    for is_overwrite, expected in ((False, changed), (True, built)):
        build_graphs(GraphConfig(**config, overwrite=is_overwrite))
        for key, graph in zip(keys, expected, strict=True):
            assert_same(store.section("A").graph(key), graph)


def test_unknown_names(store: Store) -> None:
    with pytest.raises(StoreError, match="'C'"):
        build_graphs(GraphConfig(store=store.folder, sections=("A", "C")))
    with pytest.raises(StoreError, match="'other'"):
        ensure_feature_graph(store.section("A"), "other", k=2)


def test_neighbours_of_a_real_section_are_next_on_its_array(shared_data: Path) -> None:
    adata = anndata.read_h5ad(shared_data / "her2st" / "C2.h5ad")
    graph = spatial_knn_graph(adata.obsm["spatial"] * 0.69, k=4)
    assert graph.meta.sigma == pytest.approx(200, rel=0.1)  # the nominal pitch of the array in µm
    # The table also gives array positions, independent of the image.
    array = adata.obs[["array_row", "array_col"]].to_numpy(dtype=float)
    edges = graph.distances.tocoo()
    steps = np.abs(array[edges.row] - array[edges.col]).sum(axis=1)
    assert np.mean(steps == 1) > 0.85


def test_a_spot_whose_tile_could_not_be_read_has_no_neighbours_by_features(tmp_path: Path) -> None:
    unreadable = (0, 5, 22)
    add_section(tmp_path / "s.zarr", "A", n_spots=23, unreadable=unreadable)
    store = open_store(tmp_path / "s.zarr", is_read_only=False)
    section, rest = store.section("A"), np.delete(np.arange(23), unreadable)
    graph = ensure_feature_graph(section, KEY, k=3)
    alone = feature_knn_graph(section.features(KEY)[rest], k=3, features_key=KEY)
    for found, expected in zip(dense(graph), dense(alone), strict=True):
        assert found.shape == (23, 23)
        np.testing.assert_array_equal(found[np.ix_(rest, rest)], expected)
        assert found.sum() == pytest.approx(expected.sum(), rel=1e-6)
    assert graph.distances.nnz == alone.distances.nnz
    assert_same(open_store(store.folder).section("A").graph(f"features_{KEY}"), graph)
    # Coordinates are known for all spots; a trainer uses a graph without these.
    assert ensure_spatial_graph(section, k=3).distances.nnz == 23 * 3
    some = ensure_spatial_graph(section, k=3, is_among=np.isin(np.arange(23), rest))
    assert_same(some, spatial_knn_graph(section.xy_px[rest] * MPP, k=3, unit="um"))
    assert section.graph("spatial").distances.shape == (23, 23)  # type: ignore[union-attr]
    # The quality of the tiles gets no graph.
    report = build_graphs(GraphConfig(store=store.folder, k_spatial=3, k_features=3))
    assert [built["key"] for built in report.graphs] == ["spatial", f"features_{KEY}", "features_tiny_224um"]
