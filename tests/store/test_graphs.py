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
    assert not list(store.folder.glob(".unfinished-*"))


def test_graph_without_edges_on_one_spot(store, add, make_graph):
    empty = sparse.csr_array((1, 1), dtype=np.float32)
    graph = Graph(connectivities=empty, distances=empty, meta=make_graph().meta)
    section = add(store, n_spots=1)
    section.write_graph("spatial", graph)
    np.testing.assert_array_equal(section.graph("spatial").distances.toarray(), [[0.0]])
    assert section.graph("spatial").distances.nnz == 0


def test_a_graph_of_other_spots_is_refused(section, make_graph):
    with pytest.raises(StoreError, match=r"'spatial'.* 11 nodes, section 'C2' has 13 spots"):
        section.write_graph("spatial", make_graph(n=11))
    with pytest.raises(StoreError, match="'a/b'"):
        section.write_graph("a/b", make_graph())


PARTS = ["uns/spatial_neighbors", "obsp/spatial_connectivities", "obsp/spatial_distances"]


@pytest.mark.parametrize("lost", PARTS)
def test_a_half_graph_does_not_read_as_whole(section, store, make_graph, lost):
    section.write_graph("spatial", make_graph())
    (store.folder / "C2" / lost).rename(store.folder / "lost")
    if lost.startswith("uns"):  # the index holds the same
        assert_same(store.section("C2").graph("spatial"), make_graph())
    else:
        with pytest.raises(StoreError, match=rf"C2/{lost}/.*missing"):
            store.section("C2").graph("spatial")
    section.write_graph("spatial", make_graph(k=2))
    assert_same(section.graph("spatial"), make_graph(k=2))


def test_stored_graph_with_a_neighbour_that_is_no_spot_is_refused(section, store, make_graph, monkeypatch):
    """SciPy would read outside its memory."""
    graph = make_graph()
    graph.distances.indices[0] = 13
    section.write_graph("spatial", graph)
    with pytest.raises(
        StoreError,
        match=r"'obsp/spatial_distances' of section 'C2' .* is a damaged sparse matrix: indices go from 0 to 13",
    ):
        store.section("C2").graph("spatial")


def test_writing_a_graph_is_seen_by_sections_opened_later(section, store, make_graph):
    other = store.section("C2")
    section.write_graph("spatial", make_graph())
    assert other.graph("spatial") is None
    assert other.graph_keys == ()
    other.refresh()
    assert_same(other.graph("spatial"), make_graph())
    assert other.graph_keys == section.graph_keys == ("spatial",)
