"""Graphs in a store: built once, read after that, never across sections."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from quality_arrays import add_quality, good_measures

from spam.errors import ConfigError, StoreError
from spam.graphs import (
    build_graphs,
    ensure_feature_graph,
    ensure_spatial_graph,
    feature_knn_graph,
    spatial_knn_graph,
)
from spam.schemas.graph_config import GraphConfig
from spam.schemas.store_format import FeatureMeta, SectionMeta
from spam.store import Graph, SectionRecord, Store, StoredSection, create_store, open_store

KEY = "tiny_112um"
MPP = 0.5


def add_section(store: Store, name: str, *, n_spots: int, mpp: float | None = MPP) -> StoredSection:
    rng = np.random.default_rng(n_spots)
    xy_px = rng.uniform(0, 1000, size=(n_spots, 2))
    meta = SectionMeta(
        name=name,
        donor=None,
        n_spots=n_spots,
        n_genes=0,
        has_counts=False,
        mpp=mpp,
        mpp_source=None if mpp is None else "option",
        slide_width_px=1000,
        slide_height_px=1000,
        sources=(),
        software={},
    )
    section = store.add_section(
        SectionRecord(
            meta=meta,
            ids=np.array([f"{name}_{i}" for i in range(n_spots)]),
            xy_px=xy_px,
            xy_um=None if mpp is None else xy_px * mpp,
            counts=None,
            genes=None,
            obs={},
            overview=None,
        )
    )
    features = FeatureMeta(
        key=KEY,
        origin="embed",
        encoder={"name": "tiny"},
        weights_sha256="0" * 64,
        lora_sha256=None,
        sampling=None,
        precision="float32",
        software={},
        tile={},
        dim=7,
        dtype="float32",
        chunk_rows=11,
    )
    writer = section.feature_writer(features)
    for chunk in writer.pending:
        writer.write(chunk, rng.normal(size=(chunk.stop - chunk.start, 7)).astype(np.float32))
    writer.finish()
    return section


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = create_store(tmp_path / "cohort.zarr")
    add_section(store, "A", n_spots=23)
    add_section(store, "B", n_spots=17)
    return store


def assert_same(found: Graph | None, expected: Graph) -> None:
    assert found is not None
    assert found.meta == expected.meta
    for name in ("connectivities", "distances"):
        a, b = getattr(found, name), getattr(expected, name)
        np.testing.assert_array_equal(a.indptr, b.indptr)
        np.testing.assert_array_equal(a.indices, b.indices)
        np.testing.assert_array_equal(a.data, b.data)


def marked(section: StoredSection, key: str) -> Graph:
    """Write the stored graph back with doubled distances, so that reading it can be told from building it."""
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


def test_a_fitting_graph_is_read_and_another_k_builds_anew(store: Store) -> None:
    section = store.section("A")
    ensure_spatial_graph(section, k=3)
    ensure_feature_graph(section, KEY, k=3)
    changed = marked(section, "spatial"), marked(section, f"features_{KEY}")
    assert_same(ensure_spatial_graph(section, k=3), changed[0])
    assert_same(ensure_feature_graph(section, KEY, k=3), changed[1])
    assert ensure_spatial_graph(section, k=4).meta.k == 4
    assert ensure_feature_graph(section, KEY, k=4).meta.k == 4
    assert section.graph("spatial").meta.k == section.graph(f"features_{KEY}").meta.k == 4  # type: ignore[union-attr]


def test_overwriting_builds_anew(store: Store) -> None:
    section = store.section("A")
    first = ensure_spatial_graph(section, k=3), ensure_feature_graph(section, KEY, k=3)
    marked(section, "spatial"), marked(section, f"features_{KEY}")
    assert_same(ensure_spatial_graph(section, k=3, is_overwrite=True), first[0])
    assert_same(ensure_feature_graph(section, KEY, k=3, is_overwrite=True), first[1])
    assert_same(section.graph("spatial"), first[0])


def test_without_um_the_graph_is_in_pixels(tmp_path: Path) -> None:
    section = add_section(create_store(tmp_path / "px.zarr"), "A", n_spots=13, mpp=None)
    assert_same(ensure_spatial_graph(section, k=2), spatial_knn_graph(section.xy_px, k=2, unit="px"))


def test_a_stored_graph_of_another_unit_does_not_fit(store: Store) -> None:
    section = store.section("A")
    section.write_graph("spatial", spatial_knn_graph(section.xy_px, k=3, unit="px"))
    assert ensure_spatial_graph(section, k=3).meta.unit == "um"


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
    assert [(g.section, g.key, g.n_spots, g.n_edges) for g in report.graphs] == [
        ("A", "spatial", 23, 69),
        ("A", f"features_{KEY}", 23, 115),
        ("B", "spatial", 17, 51),
        ("B", f"features_{KEY}", 17, 85),
    ]
    for built in report.graphs:
        section = open_store(store.folder).section(built.section)
        graph = section.graph(built.key)
        assert graph is not None
        assert graph.meta == built.meta
        # Square over this section's own spots alone: an edge into another section cannot be written down.
        assert graph.distances.shape == (section.n_spots, section.n_spots)
        assert_same(section.graph("spatial"), spatial_knn_graph(section.xy_um, k=3))


def test_named_sections_alone_are_built(store: Store) -> None:
    report = build_graphs(GraphConfig(store=store.folder, sections=("B",)))
    assert [g.section for g in report.graphs] == ["B", "B"]
    assert [g.meta.k for g in report.graphs] == [12, 15]
    assert open_store(store.folder).section("A").graph("spatial") is None


def test_building_again_keeps_what_is_there_unless_told(store: Store) -> None:
    config = {"store": store.folder, "k_spatial": 3, "k_features": 3}
    build_graphs(GraphConfig(**config))
    changed = marked(store.section("A"), "spatial")
    build_graphs(GraphConfig(**config))
    assert_same(store.section("A").graph("spatial"), changed)
    build_graphs(GraphConfig(**config, overwrite=True))
    assert_same(store.section("A").graph("spatial"), spatial_knn_graph(store.section("A").xy_um, k=3))


def test_each_graph_is_one_step_of_progress(store: Store) -> None:
    class Watcher:
        def __init__(self) -> None:
            self.total, self.notes = 0, []

        def task(self, description: str, total: int) -> "Watcher":
            self.total = total
            return self

        def __enter__(self):
            return lambda steps=1, *, note="": self.notes.append(note)

        def __exit__(self, *error: object) -> None:
            pass

    watcher = Watcher()
    build_graphs(GraphConfig(store=store.folder), progress=watcher)
    assert (watcher.total, watcher.notes) == (4, ["A", "A", "B", "B"])


def test_unknown_names_are_told(store: Store) -> None:
    with pytest.raises(StoreError, match="'C'"):
        build_graphs(GraphConfig(store=store.folder, sections=("A", "C")))
    with pytest.raises(StoreError, match="'other'"):
        ensure_feature_graph(store.section("A"), "other", k=2)


def test_configuration_names_every_fault() -> None:
    with pytest.raises(ConfigError, match=r"--store is missing.*--k-spatial.*not 0.*--k-features.*not -1"):
        GraphConfig(k_spatial=0, k_features=-1)


def test_neighbours_of_a_real_section_are_next_on_its_array(shared_data: Path) -> None:
    anndata = pytest.importorskip("anndata")
    adata = anndata.read_h5ad(shared_data / "her2st" / "C2.h5ad")
    graph = spatial_knn_graph(adata.obsm["spatial"] * 0.69, k=4)
    assert graph.meta.sigma == pytest.approx(200, rel=0.1)  # the nominal pitch of the array in µm
    # The table also says where each spot is on the array, apart from the image: nearest is next on the array.
    array = adata.obs[["array_row", "array_col"]].to_numpy(dtype=float)
    edges = graph.distances.tocoo()
    steps = np.abs(array[edges.row] - array[edges.col]).sum(axis=1)
    assert np.mean(steps == 1) > 0.85


def test_a_spot_whose_tile_could_not_be_read_has_no_neighbours_by_features(store: Store) -> None:
    section = store.section("A")
    plain = ensure_feature_graph(section, KEY, k=3)
    unreadable = [0, 5, 22]
    rest = np.delete(np.arange(23), unreadable)
    features = section.features(KEY)
    features[unreadable] = 0
    meta = section.feature_meta(KEY)
    writer = section.feature_writer(replace(meta, software={"spam": "2"}), is_overwrite=True)
    for chunk in list(writer.pending):
        writer.write(chunk, features[chunk])
    writer.finish()
    add_quality(section, KEY, good_measures(23, unreadable))
    graph = ensure_feature_graph(section, KEY, k=3)
    alone = feature_knn_graph(features[rest], k=3, features_key=KEY)
    for name in ("connectivities", "distances"):
        found, expected, before = (getattr(g, name) for g in (graph, alone, plain))
        assert found.shape == before.shape == (23, 23)
        assert (found[rest][:, rest] != expected).nnz == 0
        assert found[rest][:, rest].nnz == found.nnz == expected.nnz
    assert_same(open_store(store.folder).section("A").graph(f"features_{KEY}"), graph)
    # Coordinates are known whether a tile could be read or not; a trainer takes a graph without these spots.
    assert ensure_spatial_graph(section, k=3).distances.nnz == 23 * 3
    is_among = np.isin(np.arange(23), rest)
    assert_same(
        ensure_spatial_graph(section, k=3, is_among=is_among),
        spatial_knn_graph(section.xy_px[rest] * MPP, k=3, unit="um"),
    )
    assert section.graph("spatial").distances.shape == (23, 23)  # type: ignore[union-attr]


def test_the_quality_of_tiles_gets_no_graph(store: Store) -> None:
    add_quality(store.section("A"), KEY, good_measures(23))
    report = build_graphs(GraphConfig(store=store.folder, sections=("A",), k_spatial=3, k_features=3))
    assert [graph.key for graph in report.graphs] == ["spatial", f"features_{KEY}"]
