"""The tools themselves open what was written. They are no test dependency (numba, dask, geopandas …): install them to run this.

pip install scanpy squidpy spatialdata vitessce ome-types
"""

import gzip
import json
from pathlib import Path
from typing import Any

import anndata
import matplotlib as mpl
import numpy as np
import pytest
import tifffile

from spam.exports import export
from spam.schemas.store_config import ExportConfig

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
GENES = ("G7", "G2")


def tool(name: str) -> Any:
    mpl.use("Agg")
    return pytest.importorskip(name, reason=f"{name} is not installed")


def exported(source: Path, out: Path, form: str, section: str) -> Path:
    genes = GENES if form in ("ome-tiff", "vitessce") else ()
    config = ExportConfig(source=source, out=out, format=form, sections=(section,), genes=genes)  # type: ignore[arg-type]
    return export(config).files[0]


def drawn_values(axes: Any) -> np.ndarray:
    """Values of the circles that were drawn, sorted."""
    return np.sort(np.concatenate([np.ma.compressed(c.get_array()) for c in axes.collections]))


@pytest.mark.parametrize("kind", ["store", "predictions", "h5ad", "zarr", "mex"])
def test_scanpy_and_squidpy_plot_without_arguments(store, predictions, tmp_path, kind):
    scanpy, squidpy = tool("scanpy"), tool("squidpy")
    if kind == "store":
        adata = anndata.read_zarr(store / "S1")
    elif kind == "predictions":
        adata = anndata.read_h5ad(predictions)
    else:
        path = exported(store, tmp_path, kind, "S1")
        readers = {"h5ad": anndata.read_h5ad, "zarr": anndata.read_zarr}
        of_spaceranger = {"counts_file": "matrix.mtx.gz", "library_id": "S1"}
        adata = squidpy.read.visium(path, **of_spaceranger) if kind == "mex" else readers[kind](path)
    scanpy.pl.spatial(adata, show=False)
    (axes,) = scanpy.pl.spatial(adata, color="G7", show=False)
    x = adata[:, "G7"].X
    values = np.asarray(x.toarray() if hasattr(x, "toarray") else x).ravel()
    np.testing.assert_allclose(drawn_values(axes), np.sort(values[np.isfinite(values)]))
    squidpy.pl.spatial_scatter(adata, color="G7")
    if kind != "mex":
        squidpy.pl.spatial_scatter(adata, color="G7", library_key="library_id")


def test_spatialdata_opens_the_export_and_refuses_the_store(store, predictions, tmp_path):
    spatialdata = tool("spatialdata")
    truth = anndata.read_h5ad(predictions)
    found = spatialdata.read_zarr(exported(predictions, tmp_path, "spatialdata", "P6"))
    np.testing.assert_array_equal(found["table"].X, truth.X)
    spots = found["spots"]
    assert list(spots.index) == list(truth.obs_names)
    np.testing.assert_array_equal(
        np.stack([spots.geometry.x, spots.geometry.y], axis=1), truth.obsm["spatial"]
    )
    assert set(spots["radius"]) == {45.0}
    image = np.moveaxis(found["overview"].to_numpy(), 0, 2)
    np.testing.assert_array_equal(image, truth.uns["spatial"]["P6"]["images"]["hires"])
    matrix = spatialdata.transformations.get_transformation(found["overview"]).to_affine_matrix(
        ("x", "y"), ("x", "y")
    )
    np.testing.assert_allclose(matrix, np.diag([20.0, 20.0, 1.0]))
    with pytest.raises(FileNotFoundError, match=r"anndata\.read_zarr.*spam export"):
        spatialdata.read_zarr(store)


def test_names_that_spatialdata_refuses_are_changed(predictions, tmp_path):
    spatialdata = tool("spatialdata")
    adata = anndata.read_h5ad(predictions)
    adata.obs = adata.obs.assign(**{"cell type": 1, "Cell type": 2, "__x": 3, "µm": 4})
    adata.write_h5ad(tmp_path / "odd.h5ad")
    table = spatialdata.read_zarr(exported(tmp_path / "odd.h5ad", tmp_path, "spatialdata", "P6"))["table"]
    found = [set(table.obs[name]) for name in table.obs]
    assert [one for one in found if one in ({1}, {2}, {3}, {4})] == [{1}, {2}, {3}, {4}]


def test_vitessce_reads_the_configuration(predictions, tmp_path):
    vitessce = tool("vitessce")
    config = json.loads((exported(predictions, tmp_path, "vitessce", "P6") / "config.json").read_text())
    assert vitessce.VitessceConfig.from_dict(config).to_dict()["datasets"] == config["datasets"]


def test_the_ome_xml_is_valid(predictions, tmp_path):
    ome_types = tool("ome_types")
    with tifffile.TiffFile(exported(predictions, tmp_path, "ome-tiff", "P6")) as file:
        pixels = ome_types.from_xml(file.ome_metadata).images[0].pixels
    assert [channel.name for channel in pixels.channels] == list(GENES)


def test_geojson_is_read_by_geopandas(predictions, tmp_path):
    geopandas = tool("geopandas")
    path = exported(predictions, tmp_path, "geojson", "P6")
    (tmp_path / "plain.geojson").write_bytes(gzip.decompress(path.read_bytes()))
    found, truth = geopandas.read_file(tmp_path / "plain.geojson"), anndata.read_h5ad(predictions)
    assert found.geometry.is_valid.all()
    centres = np.stack([found.geometry.centroid.x, found.geometry.centroid.y], axis=1)
    np.testing.assert_allclose(centres, truth.obsm["spatial"], atol=0.01)
