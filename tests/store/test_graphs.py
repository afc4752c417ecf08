import json

import numpy as np
import pytest
from scipy import sparse

from spam.errors import StoreError
from spam.store import Graph, open_store


def assert_same(found: Graph, expected: Graph) -> None:
    assert found.meta == expected.meta
    for name in ("connectivities", "distances"):
        for part in ("data", "indices", "indptr"):
            a, b = (getattr(getattr(graph, name), part) for graph in (found, expected))
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


def test_a_graph_comes_back_with_its_zero_distances(section, store, make_graph):
    assert section.graph("spatial") is None
    graph = make_graph()
    section.write_graph("spatial", graph)
    found = open_store(store.folder).section("C2").graph("spatial")
    assert_same(found, graph)
    assert found.distances.nnz == 3 * 13  # the first neighbour lies at distance 0 and is kept


def test_spatial_and_feature_graphs_stand_side_by_side(section, make_graph):
    spatial = make_graph(k=2)
    features = make_graph(
        k=5, kind="features", metric="cosine", unit="cosine", features_key="e_1px", recall=0.5
    )
    section.write_graph("spatial", spatial)
    section.write_graph("features_e_1px", features)
    assert_same(section.graph("spatial"), spatial)
    assert_same(section.graph("features_e_1px"), features)


def test_a_graph_is_replaced(section, store, make_graph, tree):
    section.write_graph("spatial", make_graph(k=5))
    section.write_graph("spatial", make_graph(k=2))
    assert_same(section.graph("spatial"), make_graph(k=2))
    assert not (store.folder / ".unfinished").exists()


def test_a_graph_without_edges_on_one_spot(store, make_record, make_graph):
    empty = sparse.csr_array((1, 1), dtype=np.float32)
    graph = Graph(connectivities=empty, distances=empty, meta=make_graph().meta)
    section = store.add_section(make_record(n_spots=1))
    section.write_graph("spatial", graph)
    np.testing.assert_array_equal(section.graph("spatial").distances.toarray(), [[0.0]])
    assert section.graph("spatial").distances.nnz == 0


def test_a_graph_of_other_spots_is_refused(section, make_graph):
    with pytest.raises(StoreError, match=r"'spatial' has 11 nodes, section 'C2' has 13 spots; build it"):
        section.write_graph("spatial", make_graph(n=11))
    with pytest.raises(StoreError, match=r"'a/b' cannot name a folder"):
        section.write_graph("a/b", make_graph())


PARTS = ["uns/spatial_neighbors", "obsp/spatial_connectivities", "obsp/spatial_distances"]


@pytest.mark.parametrize("lost", PARTS)
def test_a_half_graph_does_not_read_as_whole(section, store, make_graph, lost):
    section.write_graph("spatial", make_graph())
    (store.folder / "C2" / lost).rename(store.folder / "lost")
    if lost.startswith("uns"):  # what it says stands in the index
        assert_same(store.section("C2").graph("spatial"), make_graph())
    else:
        with pytest.raises(StoreError, match=rf"damaged at .*C2/{lost}.*the file is not there"):
            store.section("C2").graph("spatial")
    section.write_graph("spatial", make_graph(k=2))
    assert_same(section.graph("spatial"), make_graph(k=2))


@pytest.mark.parametrize("lost", PARTS[1:])
def test_a_graph_whose_index_lacks_a_matrix_is_damaged(section, store, make_graph, reseal, lost):
    def drop(document):
        files, nodes = document["attributes"]["spam"]["files"], document["consolidated_metadata"]["metadata"]
        for part in (files, nodes):
            for name in [name for name in part if name.startswith(lost)]:
                del part[name]

    section.write_graph("spatial", make_graph())
    reseal(store.folder / "C2" / "zarr.json", drop)
    with pytest.raises(StoreError, match=rf"damaged at .*C2/{lost}: it cannot be opened"):
        store.section("C2").graph("spatial")


def test_a_graph_of_unknown_description_is_damaged(section, store, make_graph, reindex):
    section.write_graph("spatial", make_graph())
    node = store.folder / "C2" / "uns" / "spatial_neighbors" / "zarr.json"
    metadata = json.loads(node.read_text())
    metadata["attributes"]["spam"]["meta"]["colour"] = "red"
    node.write_text(json.dumps(metadata))
    reindex(store.folder / "C2", "uns/spatial_neighbors/zarr.json")
    with pytest.raises(StoreError, match=r"damaged at .*spatial_neighbors.*colour"):
        store.section("C2").graph("spatial")


@pytest.mark.parametrize(
    ("shape", "n_starts", "message"),
    [
        ([17, 17], 18, r"spatial_connectivities: its shape is \[17, 17\], expected \[13, 13\]"),
        ([13, 17], 14, r"spatial_connectivities: its shape is \[13, 17\], expected \[13, 13\]"),
        ([13, 13], 18, r"spatial_connectivities: it makes no CSR matrix"),
    ],
)
def test_a_stored_graph_over_other_spots_is_damaged(
    section, store, make_graph, reindex, swap_array, shape, n_starts, message
):
    section.write_graph("spatial", make_graph(k=5))
    folder = store.folder / "C2"
    for matrix in PARTS[1:]:
        node = folder / matrix / "zarr.json"
        metadata = json.loads(node.read_text())
        metadata["attributes"]["shape"] = shape
        node.write_text(json.dumps(metadata))
        starts = np.minimum(np.arange(n_starts), 13) * 5
        swap_array(folder, f"{matrix}/indptr", starts)
    reindex(folder, *(f"{matrix}/zarr.json" for matrix in PARTS[1:]))
    with pytest.raises(StoreError, match=rf"damaged at .*{message}"):
        store.section("C2").graph("spatial")


def test_writing_a_graph_is_seen_by_sections_opened_later(section, store, make_graph):
    other = store.section("C2")
    section.write_graph("spatial", make_graph())
    assert other.graph("spatial") is None
    assert other.graph_keys == ()
    other.refresh()
    assert_same(other.graph("spatial"), make_graph())
    assert other.graph_keys == section.graph_keys == ("spatial",)
