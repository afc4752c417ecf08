"""AnnData and zarr open a section without spam and find what was written."""

import json
import subprocess
import sys

import anndata
import numpy as np
import pytest
import zarr
from plotting_tools import assert_plots, string_encodings
from zarr.core.buffer import default_buffer_prototype


@pytest.fixture
def tables(make_tables, make_meta):
    return make_tables(make_meta())


@pytest.fixture
def adata(section, store, make_feature_meta, make_graph):
    writer = section.feature_writer(make_feature_meta())
    for chunk in writer.pending:
        writer.write(chunk, np.full((13, 5), 0.25)[chunk] * np.arange(1, 14)[chunk, None])
    writer.finish()
    section.feature_writer(make_feature_meta(key="unfinished_1px"))
    section.write_graph("spatial", make_graph())
    section.write_graph("features_tiny_112um", make_graph(k=2, kind="features", features_key="tiny_112um"))
    return anndata.read_zarr(store.folder / "C2")


def test_tables(adata, tables):
    np.testing.assert_array_equal(adata.X.toarray(), tables["counts"].toarray())
    assert adata.X.dtype == np.int32
    assert list(adata.obs_names) == list(tables["ids"])
    assert list(adata.var_names) == list(tables["genes"])
    columns = ["label", "array_row", "quality", "in_tissue", "nothing", "section", "library_id", "donor"]
    assert list(adata.obs) == columns
    for name, column in tables["obs"].items():
        np.testing.assert_array_equal(adata.obs[name].to_numpy(), column)
    assert set(adata.obs["section"]) == {"C2"}
    assert adata.obs["library_id"].cat.categories.tolist() == ["C2"]  # squidpy needs categories
    assert set(adata.obs["donor"]) == {"patient µ"}


def test_coordinates_and_features(adata, tables):
    assert set(adata.obsm) == {"spatial", "spatial_um", "tiny_112um"}
    np.testing.assert_array_equal(adata.obsm["spatial"], tables["xy_px"])
    np.testing.assert_array_equal(adata.obsm["spatial_um"], tables["xy_um"])
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


def test_scanpy_squidpy_and_old_readers_find_what_they_need(adata, store):
    assert_plots(adata, "C2")
    assert string_encodings(store.folder / "C2") == {"string", "string-array"}


def test_a_stated_spot_diameter_is_kept(store, add):
    add(store, spot_diameter_px=145.125)
    assert store.section("C2").spot_diameter_px == 145.125
    found = anndata.read_zarr(store.folder / "C2").uns["spatial"]["C2"]
    assert found["scalefactors"]["spot_diameter_fullres"] == 145.125


def test_overview_where_scanpy_looks_for_it(adata, tables):
    library = adata.uns["spatial"]["C2"]
    np.testing.assert_array_equal(library["images"]["hires"], tables["overview"][0])
    nearest = np.sort(np.hypot(*(tables["xy_px"][:, None] - tables["xy_px"]).transpose(2, 0, 1)))[:, 1]
    factors = {
        "tissue_hires_scalef": 0.0187,
        "spot_diameter_fullres": pytest.approx(0.8 * np.median(nearest)),
    }
    assert library["scalefactors"] == factors


def test_bare_section(store, add):
    bare = {"has_counts": False, "n_genes": 0, "donor": None, "mpp": None, "overview": None, "obs": {}}
    add(store, **bare)
    adata = anndata.read_zarr(store.folder / "C2")
    assert adata.shape == (13, 0)
    assert adata.X is None
    assert list(adata.obs) == ["section", "library_id"]
    assert (list(adata.obsm), list(adata.uns)) == (["spatial"], ["spatial"])
    assert store.section("C2").overview() is None
    image = adata.uns["spatial"]["C2"]["images"]["hires"]  # white, because no plot works without an image
    assert (image.shape, image.min()) == ((230, 256, 3), 255)
    assert adata.uns["spatial"]["C2"]["scalefactors"]["tissue_hires_scalef"] == pytest.approx(256 / 1009)


def test_nothing_counted(store, add):
    add(store, n_genes=0)
    assert anndata.read_zarr(store.folder / "C2").X.shape == (13, 0)


def in_order(value):
    """Sort the keys of nested mappings, whose order has no meaning."""
    return json.loads(json.dumps(value, sort_keys=True))


def as_written(array):
    """Give an array's metadata as JSON, where NaN, the fill value of features, equals itself."""
    files = array.metadata.to_buffer_dict(default_buffer_prototype())
    return json.loads(files["zarr.json"].to_bytes())


def test_the_index_holds_what_zarr_itself_would_consolidate(adata, store, tmp_path, tree):
    copy = tmp_path / "copy"
    for name, content in tree(store.folder / "C2").items():
        if "unfinished_1px" in name:
            continue
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    ours = json.loads((copy / "zarr.json").read_bytes())
    with pytest.warns(zarr.errors.ZarrUserWarning, match=r"not part in the Zarr format 3"):
        zarr.consolidate_metadata(copy)
    zarrs = json.loads((copy / "zarr.json").read_bytes())
    assert in_order(ours["consolidated_metadata"]) == in_order(zarrs["consolidated_metadata"])
    assert ours["attributes"] == zarrs["attributes"]


def test_zarr_finds_in_the_index_all_that_lies_in_the_folder(adata, store):
    consolidated = zarr.open_group(store.folder / "C2", mode="r", use_consolidated=True)
    listed = zarr.open_group(store.folder / "C2", mode="r", use_consolidated=False)
    found, expected = dict(consolidated.members(max_depth=None)), dict(listed.members(max_depth=None))
    assert "obsm/unfinished_1px" not in found
    del expected["obsm/unfinished_1px"]
    assert found.keys() == expected.keys()
    for name, node in expected.items():
        assert node.attrs.asdict() == found[name].attrs.asdict()
        if isinstance(node, zarr.Array):
            assert as_written(node) == as_written(found[name])
            np.testing.assert_array_equal(node[...], found[name][...])


def test_a_section_is_read_lazily(adata, store):
    pytest.importorskip("dask", reason="anndata reads lazily with dask")
    pytest.importorskip("xarray", reason="anndata reads lazily with xarray")
    lazy = anndata.experimental.read_lazy(store.folder / "C2")
    assert list(lazy.obs_names) == list(adata.obs_names)
    np.testing.assert_array_equal(lazy.X[2:5].compute().toarray(), adata.X[2:5].toarray())
    np.testing.assert_array_equal(lazy.obsm["tiny_112um"][3:11].compute(), adata.obsm["tiny_112um"][3:11])
    graph = lazy.obsp["spatial_connectivities"][:].compute()
    np.testing.assert_array_equal(graph.toarray(), adata.obsp["spatial_connectivities"].toarray())
    whole = lazy.to_memory()
    np.testing.assert_array_equal(whole.X.toarray(), adata.X.toarray())
    for name in adata.obs:
        np.testing.assert_array_equal(whole.obs[name].to_numpy(), adata.obs[name].to_numpy())
    assert set(whole.obsm) == set(adata.obsm)


def test_no_warning_is_met_by_other_programs(adata, store):
    code = (
        "import sys, anndata, zarr; adata = anndata.read_zarr(sys.argv[1]); "
        "group = zarr.open_group(sys.argv[1], mode='r'); "
        "print(adata.shape, sorted(adata.obsm), sorted(adata.obsp), group['obsm/tiny_112um'].shape)"
    )
    folder = str(store.folder / "C2")
    done = subprocess.run(
        [*(sys.executable, "-P", "-W", "error", "-W", "ignore::DeprecationWarning"), "-c", code, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    graphs = ["features_tiny_112um_connectivities", "features_tiny_112um_distances"]
    graphs += ["spatial_connectivities", "spatial_distances"]
    assert done.stderr == ""
    assert done.stdout == f"(13, 7) ['spatial', 'spatial_um', 'tiny_112um'] {graphs} (13, 5)\n"
