"""What other tools read from an export is what the store holds."""

import dataclasses
import json

import anndata
import numpy as np
import pandas as pd
import pytest
from cohorts import add_section, make_cohort

from spam.errors import OutputExistsError, StoreError
from spam.exports import export
from spam.graphs import build_graphs
from spam.schemas.graph_config import GraphConfig
from spam.schemas.store_config import ExportConfig
from spam.schemas.tile_spec import MEASURES
from spam.store import open_store

KEYS = ("tiny_112um", "tiny_224um")


@pytest.mark.parametrize(("form", "read"), [("h5ad", anndata.read_h5ad), ("zarr", anndata.read_zarr)])
def test_anndata_holds_the_section(store, tmp_path, form, read):
    report = export(ExportConfig(source=store, out=tmp_path / "out", format=form))
    assert [file.name for file in report.files] == [f"S1.{form}", f"S2.{form}"]
    section = open_store(store).section("S1")
    found = read(tmp_path / "out" / f"S1.{form}")
    assert (section.counts() != found.X).nnz == 0
    assert found.X.dtype == np.int32
    assert list(found.obs_names) == list(section.ids)
    assert list(found.var_names) == list(section.genes)
    assert set(found.obs) == {"section", "donor", "library_id"}
    np.testing.assert_array_equal(found.obsm["spatial"], section.xy_px)
    np.testing.assert_array_equal(found.obsm["spatial_um"], section.xy_um)
    for key in KEYS:
        np.testing.assert_array_equal(found.obsm[key], section.features(key))
        graph = section.graph(f"features_{key}")
        assert (found.obsp[f"features_{key}_distances"] != graph.distances).nnz == 0
    spatial = section.graph("spatial")
    assert (found.obsp["spatial_connectivities"] != spatial.connectivities).nnz == 0
    assert found.uns["spatial_neighbors"]["params"]["n_neighbors"] == 5
    image = found.uns["spatial"]["S1"]
    np.testing.assert_array_equal(image["images"]["hires"], section.overview().image)
    assert image["scalefactors"]["tissue_hires_scalef"] == section.overview().scale
    said = json.loads(found.uns["spam"]["features"])
    assert said["tiny_112um"] == json.loads(json.dumps(section.feature_meta("tiny_112um").to_mapping()))


def test_parquet_holds_spots_and_counts(store, tmp_path):
    export(
        ExportConfig(source=store, out=tmp_path, format="parquet", sections=("S2",), features=("tiny_112um",))
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["S2.counts.parquet", "S2.parquet"]
    section = open_store(store).section("S2")
    spots = pd.read_parquet(tmp_path / "S2.parquet")
    features = section.features("tiny_112um")
    names = [f"tiny_112um:{place}" for place in range(features.shape[1])]
    assert list(spots.columns) == [*section.obs, "x_px", "y_px", "x_um", "y_um", *names]
    np.testing.assert_array_equal(spots[names].to_numpy(), features)
    np.testing.assert_array_equal(spots[["x_px", "y_px"]].to_numpy(), section.xy_px)
    long = pd.read_parquet(tmp_path / "S2.counts.parquet")
    wide = long.astype({"spot_id": str, "gene": str}).pivot_table(
        index="spot_id", columns="gene", values="count", fill_value=0
    )
    wide = wide.reindex(index=section.ids, columns=section.genes, fill_value=0)
    np.testing.assert_array_equal(wide.to_numpy(), section.counts().toarray())


def test_nothing_is_written_over(store, tmp_path):
    export(ExportConfig(source=store, out=tmp_path, sections=("S2",)))
    before = (tmp_path / "S2.h5ad").read_bytes()
    with pytest.raises(OutputExistsError, match=r"'S2\.h5ad' already"):
        export(ExportConfig(source=store, out=tmp_path))
    assert (tmp_path / "S2.h5ad").read_bytes() == before
    assert not (tmp_path / "S1.h5ad").exists()


@pytest.mark.parametrize(
    ("changes", "words"), [({"sections": ("S1", "S9")}, "S9"), ({"features": ("uni2",)}, "uni2")]
)
def test_unknown_names_are_refused(store, tmp_path, changes, words):
    with pytest.raises(StoreError, match=words):
        export(ExportConfig(source=store, out=tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_section_without_counts_is_exported(tmp_path):
    store = make_cohort(tmp_path / "bare.zarr", 1, change_counts="delete")
    export(ExportConfig(source=store, out=tmp_path / "out", format="parquet", features=("tiny",)))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["S1.parquet"]
    export(ExportConfig(source=store, out=tmp_path / "out"))
    assert anndata.read_h5ad(tmp_path / "out" / "S1.h5ad").X is None


def test_a_graph_over_features_that_were_replaced_is_left_out(tmp_path):
    store = make_cohort(tmp_path / "s.zarr", 1)
    build_graphs(GraphConfig(store=store, k_spatial=5, k_features=3))
    section = open_store(store, is_read_only=False).section("S1")
    key = f"features_{KEYS[0]}"
    graph = section.graph(key)
    meta = dataclasses.replace(graph.meta, features_identity="ab" * 32)
    section.write_graph(key, dataclasses.replace(graph, meta=meta))
    report = export(ExportConfig(source=store, out=tmp_path / "out"))
    assert report.stale == (f"S1/{key}",)
    assert f"S1/{key}" in report.summary()
    found = anndata.read_h5ad(tmp_path / "out" / "S1.h5ad")
    assert set(found.obsp) == {
        f"{graph}_{kind}"
        for graph in ("spatial", f"features_{KEYS[1]}")
        for kind in ("connectivities", "distances")
    }


@pytest.mark.parametrize(("form", "read"), [("h5ad", anndata.read_h5ad), ("zarr", anndata.read_zarr)])
def test_flags_of_tiles_are_columns_of_obs(tmp_path, form, read):
    add_section(tmp_path / "s.zarr", "S1", n_spots=13, unreadable=(2, 11))
    export(ExportConfig(source=tmp_path / "s.zarr", out=tmp_path, format=form, features=("tiny_112um",)))
    found = read(tmp_path / f"S1.{form}")
    assert set(found.obs) == {
        "section",
        "donor",
        "library_id",
        "tile_unreadable",
        "tile_blank",
        "tile_pen",
        "tile_blurred",
    }
    assert found.obs["tile_unreadable"].dtype == bool
    assert np.flatnonzero(found.obs["tile_unreadable"]).tolist() == [2, 11]
    assert set(found.obsm) == {"spatial", "spatial_um", "tiny_112um", "tiny_112um_quality"}
    measures = found.obsm["tiny_112um_quality"]
    assert list(measures.columns) == list(MEASURES)
    np.testing.assert_array_equal(
        measures.to_numpy(), open_store(tmp_path / "s.zarr").section("S1").quality("tiny_112um")
    )


def test_flags_and_measures_of_tiles_are_columns_of_a_table(tmp_path):
    add_section(tmp_path / "s.zarr", "S1", n_spots=13, unreadable=(2, 11))
    export(ExportConfig(source=tmp_path / "s.zarr", out=tmp_path, format="parquet", features=("tiny_224um",)))
    spots = pd.read_parquet(tmp_path / "S1.parquet")
    assert np.flatnonzero(spots["tile_unreadable"]).tolist() == [2, 11]
    names = [f"tiny_224um_quality:{name}" for name in MEASURES]
    measures = open_store(tmp_path / "s.zarr").section("S1").quality("tiny_224um")
    np.testing.assert_array_equal(spots[names].to_numpy(), measures)
