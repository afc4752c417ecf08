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
    found = open_store(store.path).section("C2").graph("spatial")
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
    assert not (store.path / ".unfinished").exists()


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


@pytest.mark.parametrize(
    "lost", ["uns/spatial_neighbors", "obsp/spatial_connectivities", "obsp/spatial_distances"]
)
def test_a_half_graph_does_not_read_as_whole(section, store, make_graph, lost):
    section.write_graph("spatial", make_graph())
    (store.path / "C2" / lost).rename(store.path / "lost")
    if lost.startswith("uns"):
        assert section.graph("spatial") is None
    else:
        with pytest.raises(StoreError, match=rf"damaged at .*C2/{lost}"):
            section.graph("spatial")
    section.write_graph("spatial", make_graph(k=2))
    assert_same(section.graph("spatial"), make_graph(k=2))


def test_a_graph_of_unknown_description_is_damaged(section, store, make_graph):
    section.write_graph("spatial", make_graph())
    node = store.path / "C2" / "uns" / "spatial_neighbors" / "zarr.json"
    metadata = json.loads(node.read_text())
    metadata["attributes"]["spam"]["meta"]["colour"] = "red"
    node.write_text(json.dumps(metadata))
    with pytest.raises(StoreError, match=r"damaged at .*spatial_neighbors.*colour"):
        section.graph("spatial")


def test_a_stored_graph_over_other_spots_is_damaged(section, store, make_graph, make_record):
    section.write_graph("spatial", make_graph())
    (store.path / "C2" / "uns" / "spatial_neighbors").rename(store.path / "description")
    (store.path / "C2" / "obsp").rename(store.path / "matrices")
    smaller = store.add_section(make_record(n_spots=11), is_overwrite=True)
    (store.path / "C2" / "obsp" / "zarr.json").unlink()
    (store.path / "C2" / "obsp").rmdir()
    (store.path / "matrices").rename(store.path / "C2" / "obsp")
    (store.path / "description").rename(store.path / "C2" / "uns" / "spatial_neighbors")
    with pytest.raises(StoreError, match=r"a graph of 13 nodes over 11 spots"):
        smaller.graph("spatial")
