"""AnnData, which the store does not use, reads every section and finds what was written."""

import anndata
import numpy as np
import pytest
import zarr


@pytest.fixture
def adata(section, store, make_feature_meta, make_graph):
    writer = section.feature_writer(make_feature_meta())
    for chunk in writer.pending:
        writer.write(chunk, np.full((13, 5), 0.25)[chunk] * np.arange(1, 14)[chunk, None])
    writer.finish()
    section.feature_writer(make_feature_meta(key="unfinished_1px"))
    section.write_graph("spatial", make_graph())
    section.write_graph("features_tiny_112um", make_graph(k=2, kind="features", features_key="tiny_112um"))
    return anndata.read_zarr(store.path / "C2")


def test_tables(adata, make_record):
    record = make_record()
    np.testing.assert_array_equal(adata.X.toarray(), record.counts.toarray())
    assert adata.X.dtype == np.int32
    assert list(adata.obs_names) == list(record.ids)
    assert list(adata.var_names) == list(record.genes)
    assert list(adata.obs) == ["label", "array_row", "quality", "in_tissue", "section", "donor"]
    for name, column in record.obs.items():
        np.testing.assert_array_equal(adata.obs[name].to_numpy(), column)
    assert set(adata.obs["section"]) == {"C2"}
    assert set(adata.obs["donor"]) == {"patient µ"}


def test_coordinates_and_features(adata, make_record):
    record = make_record()
    assert set(adata.obsm) == {"spatial", "spatial_um", "tiny_112um"}
    np.testing.assert_array_equal(adata.obsm["spatial"], record.xy_px)
    np.testing.assert_array_equal(adata.obsm["spatial_um"], record.xy_um)
    expected = (np.full((13, 5), 0.25) * np.arange(1, 14)[:, None]).astype(np.float16)
    np.testing.assert_array_equal(adata.obsm["tiny_112um"], expected)


@pytest.mark.parametrize(("key", "k"), [("spatial", 3), ("features_tiny_112um", 2)])
def test_graphs_under_squidpys_keys(adata, make_graph, key, k):
    described = adata.uns[f"{key}_neighbors"]
    assert described["connectivities_key"] == f"{key}_connectivities"
    assert described["distances_key"] == f"{key}_distances"
    assert described["params"] == {"n_neighbors": k, "metric": "euclidean", "unit": "um", "sigma": 1.5}
    graph = make_graph(k=k)
    for name in ("connectivities", "distances"):
        found = adata.obsp[described[f"{name}_key"]]
        np.testing.assert_array_equal(found.toarray(), getattr(graph, name).toarray())


def test_the_overview_where_scanpy_looks_for_it(adata, make_record):
    library = adata.uns["spatial"]["C2"]
    np.testing.assert_array_equal(library["images"]["hires"], make_record().overview.image)
    assert library["scalefactors"] == {"tissue_hires_scalef": 0.0187}


def test_a_bare_section(store, make_record):
    bare = {"has_counts": False, "n_genes": 0, "donor": None, "mpp": None, "overview": None, "obs": {}}
    store.add_section(make_record(**bare))
    adata = anndata.read_zarr(store.path / "C2")
    assert adata.shape == (13, 0)
    assert adata.X is None
    assert list(adata.obs) == ["section"]
    assert (list(adata.obsm), list(adata.uns)) == (["spatial"], [])


def test_nothing_counted(store, make_record):
    store.add_section(make_record(n_genes=0))
    assert anndata.read_zarr(store.path / "C2").X.shape == (13, 0)


def test_consolidated_metadata_hide_nothing(adata, section, store, make_graph):
    with pytest.warns(zarr.errors.ZarrUserWarning, match=r"not part in the Zarr format 3"):
        zarr.consolidate_metadata(store.path / "C2")
    assert anndata.read_zarr(store.path / "C2").shape == (13, 7)
    section.write_graph("late", make_graph())
    assert store.section("C2").graph("late") is not None
