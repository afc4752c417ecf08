"""What each written file holds, read again by other means than it was written."""

import gzip
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.io
import tifffile
from cohorts import make_cohort
from PIL import Image
from plotting_tools import assert_plots, string_encodings

from spam.errors import ConfigError, OutputExistsError, SectionError
from spam.exports import export
from spam.schemas.store_config import ExportConfig
from spam.store import open_store

UNREADABLE = 4
GENES = ("G7", "G2", "G11")


def exported(source: Path, out: Path, form: str, **options: object) -> tuple[Path, tuple[str, ...]]:
    report = export(ExportConfig(source=source, out=out, format=form, **options))  # type: ignore[arg-type]
    return report.files[0], report.notes


@pytest.fixture(scope="module")
def truth(predictions: Path) -> anndata.AnnData:
    return anndata.read_h5ad(predictions)


def test_space_rangers_folder_of_counts(store, tmp_path):
    folder, notes = exported(store, tmp_path, "mex", sections=("S2",))
    section = open_store(store).section("S2")
    matrix = scipy.io.mmread(folder / "matrix.mtx.gz", spmatrix=True)
    assert matrix.dtype.kind == "i"
    np.testing.assert_array_equal(matrix.toarray().T, section.counts().toarray())
    barcodes = pd.read_csv(folder / "barcodes.tsv.gz", header=None)[0]
    genes = pd.read_csv(folder / "features.tsv.gz", sep="\t", header=None)
    assert (list(barcodes), list(genes[1]), set(genes[2])) == (
        list(section.ids),
        list(section.genes),
        {"Gene Expression"},
    )
    places = pd.read_csv(
        folder / "spatial/tissue_positions.csv", index_col="barcode", float_precision="round_trip"
    )
    assert list(places.index) == list(section.ids)
    np.testing.assert_array_equal(places[["pxl_col_in_fullres", "pxl_row_in_fullres"]], section.xy_px)
    assert notes == ()


def test_space_rangers_folder_of_predictions(predictions, truth, tmp_path):
    folder, notes = exported(predictions, tmp_path, "mex")
    is_known = np.arange(23) != UNREADABLE
    matrix = scipy.io.mmread(folder / "matrix.mtx.gz", spmatrix=True)
    np.testing.assert_allclose(matrix.toarray().T, truth.X[is_known], rtol=1e-6)
    places = pd.read_csv(folder / "spatial/tissue_positions.csv")
    assert list(places["barcode"]) == list(truth.obs_names[is_known])
    np.testing.assert_array_equal(places["array_row"], truth.obs["array_row"][is_known])
    factors = json.loads((folder / "spatial/scalefactors_json.json").read_text())
    assert factors["spot_diameter_fullres"] == 90.0
    assert factors["tissue_hires_scalef"] == 0.05
    assert factors["tissue_lowres_scalef"] == pytest.approx(0.05)  # the image has less than 600 px
    with Image.open(folder / "spatial/tissue_hires_image.png") as image:
        np.testing.assert_array_equal(image, truth.uns["spatial"]["P6"]["images"]["hires"])
    assert notes == ("P6 lacks 1 spot without a prediction",)


def test_detections_for_qupath(predictions, truth, tmp_path):
    path, notes = exported(predictions, tmp_path, "geojson", genes=GENES)
    assert path.name == "P6.geojson.gz"
    found = json.loads(gzip.decompress(path.read_bytes()), parse_constant=pytest.fail)  # NaN is no JSON
    assert found["type"] == "FeatureCollection"
    assert len({feature["id"] for feature in found["features"]}) == 23
    for i, feature in enumerate(found["features"]):
        assert (feature["type"], feature["geometry"]["type"]) == ("Feature", "Polygon")
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", feature["id"])
        ring = np.array(feature["geometry"]["coordinates"][0])
        assert ring[0].tolist() == ring[-1].tolist()
        np.testing.assert_allclose(ring[:-1].mean(axis=0), truth.obsm["spatial"][i], atol=0.01)
        distance = np.hypot(*(ring - truth.obsm["spatial"][i]).T)
        np.testing.assert_allclose(distance, 45.0, atol=0.01)
        says = feature["properties"]
        assert (says["objectType"], says["name"]) == ("detection", f"P6_{i}")
        values = {} if i == UNREADABLE else dict(zip(GENES, truth[i, list(GENES)].X[0].tolist(), strict=True))
        assert says["measurements"] == values
    assert notes == ()


def test_maps_lie_where_the_spots_are(predictions, truth, tmp_path):
    path, _ = exported(predictions, tmp_path, "ome-tiff", genes=GENES)
    with tifffile.TiffFile(path) as file:
        maps, description = file.asarray(), file.ome_metadata
        assert (file.series[0].axes, maps.dtype) == ("CYX", np.float32)
    tree = ElementTree.fromstring(description)
    pixels = tree.find(".//{*}Pixels")
    assert [channel.get("Name") for channel in tree.iterfind(".//{*}Channel")] == list(GENES)
    assert (pixels.get("PhysicalSizeXUnit"), pixels.get("PhysicalSizeYUnit")) == ("µm", "µm")
    size_um = float(pixels.get("PhysicalSizeX"))
    assert size_um == float(pixels.get("PhysicalSizeY")) == pytest.approx(0.5 * 90 / 8)
    centres_um = (np.mgrid[: maps.shape[1], : maps.shape[2]] + 0.5) * size_um  # rows, columns
    x_um, y_um = truth.obsm["spatial_um"].T
    # (row, column, spot)
    distance = np.hypot(centres_um[1][..., None] - x_um, centres_um[0][..., None] - y_um)
    covers = distance.argmin(axis=-1)
    expected = np.asarray(truth[:, list(GENES)].X)[covers].transpose(2, 0, 1)
    expected[:, distance.min(axis=-1) >= 22.5] = np.nan  # the radius is 45 px
    np.testing.assert_array_equal(maps, expected)
    assert np.isfinite(maps).any(axis=(1, 2)).all()


def test_vitessce_finds_all_that_its_configuration_names(predictions, truth, tmp_path):
    folder, notes = exported(predictions, tmp_path, "vitessce", genes=GENES)
    config = json.loads((folder / "config.json").read_text())
    (dataset,) = config["datasets"]
    spots, image = dataset["files"]
    for file in (spots, image):
        assert file["url"].startswith("http://localhost:8000/P6.vitessce/")
        assert (folder / file["url"].rpartition("/")[2]).exists()
    assert json.loads((folder / "spots.zarr/.zgroup").read_text()) == {"zarr_format": 2}
    found = anndata.read_zarr(folder / "spots.zarr")
    np.testing.assert_array_equal(found.X, truth.X)
    np.testing.assert_array_equal(found.obsm["spatial"], truth.obsm["spatial"])  # quarters: exact as float32
    assert spots["options"]["obsSets"] == [{"name": "label", "path": "obs/label"}]
    assert list(found.obs["label"].astype(str)) == list(truth.obs["label"].astype(str))
    with tifffile.TiffFile(folder / "overview.ome.tif") as file:
        np.testing.assert_array_equal(
            np.moveaxis(file.asarray(), 0, 2), truth.uns["spatial"]["P6"]["images"]["hires"]
        )
        order = ElementTree.fromstring(file.ome_metadata).find(".//{*}Pixels").get("DimensionOrder")
    (step,) = image["options"]["coordinateTransformations"]
    # Vitessce wants a factor per dimension, in the order of the file.
    assert dict(zip(order, step["scale"], strict=True)) == {"X": 20.0, "Y": 20.0, "C": 1, "Z": 1, "T": 1}
    assert config["coordinationSpace"]["featureSelection"] == {"A": ["G7"]}
    assert "http://localhost:8000" in notes[0]


@pytest.mark.parametrize(("form", "read"), [("csv", pd.read_csv), ("parquet", pd.read_parquet)])
def test_a_table_of_predictions_has_a_column_per_gene(predictions, truth, tmp_path, form, read):
    path, _ = exported(predictions, tmp_path, form)
    table = read(path).reset_index()
    assert list(table["spot_id"]) == list(truth.obs_names)
    np.testing.assert_array_equal(table[list(truth.var_names)].to_numpy(np.float32), truth.X)
    np.testing.assert_array_equal(table[["x_px", "y_px"]], truth.obsm["spatial"])
    np.testing.assert_array_equal(table["array_col"], truth.obs["array_col"])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(("form", "read"), [("h5ad", anndata.read_h5ad), ("zarr", anndata.read_zarr)])
def test_anndata_of_predictions_and_stores_is_plotted(store, predictions, truth, tmp_path, form, read):
    for source, name in ((predictions, "P6"), (store, "S2")):
        path, _ = exported(source, tmp_path / name, form, sections=(name,))
        found = read(path)
        assert_plots(found, name)
        assert string_encodings(path) <= {"string", "string-array"}
    np.testing.assert_array_equal(read(tmp_path / "P6" / f"P6.{form}").X, truth.X)


def test_genes_that_are_not_named_are_the_best_predicted_or_the_most_variable(
    store, predictions, truth, tmp_path
):
    path, notes = exported(predictions, tmp_path, "geojson")
    first = json.loads(gzip.decompress(path.read_bytes()))["features"][0]["properties"]["measurements"]
    best = truth.var["heldout_pearson"].sort_values(ascending=False, kind="stable").index[:20]
    assert list(first) == list(best)
    assert next(iter(first)) == "G7"
    assert notes == ("P6.geojson.gz holds 20 of 29 genes: see --genes",)
    path, _ = exported(store, tmp_path, "geojson", sections=("S1",))
    section = open_store(store).section("S1")
    variances = np.log1p(section.counts().toarray()).var(axis=0)
    first = json.loads(gzip.decompress(path.read_bytes()))["features"][0]["properties"]["measurements"]
    assert list(first) == list(section.genes[np.argsort(-variances)[:20]])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "geojson", "genes": ("G7", "ERBB2")}, "ERBB2.*--genes"),
        ({"format": "geojson", "genes": ("G77",)}, "similar: G7"),
        ({"format": "h5ad", "sections": ("P7",)}, "'P7'.*--sections.*P6"),
        ({"format": "h5ad", "features": ("uni2",)}, "--features uni2"),
    ],
)
def test_what_cannot_be_exported_is_named_and_nothing_is_written(predictions, tmp_path, options, words):
    with pytest.raises((ConfigError, SectionError), match=words):
        export(ExportConfig(source=predictions, out=tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "h5ad", "genes": ("G7",)}, "--genes"),
        ({"format": "mex", "features": ("tiny",)}, "--features"),
    ],
)
def test_options_that_a_format_would_ignore_are_refused(predictions, tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        ExportConfig(source=predictions, out=tmp_path / "out", **options)


@pytest.mark.parametrize("form", ["mex", "geojson", "ome-tiff", "vitessce"])
def test_a_section_without_counts_has_no_values_to_write(tmp_path, form):
    store = make_cohort(tmp_path / "bare.zarr", 1, change_counts="delete")
    with pytest.raises(SectionError, match=f"--format {form}: section 'S1' has no counts"):
        exported(store, tmp_path / "out", form)


def test_a_section_without_coordinates_has_no_places(predictions, tmp_path):
    adata = anndata.read_h5ad(predictions)
    del adata.obsm["spatial"]
    adata.write_h5ad(tmp_path / "bare.h5ad")
    with pytest.raises(SectionError, match="no finite coordinates"):
        exported(tmp_path / "bare.h5ad", tmp_path / "out", "geojson")
    path, _ = exported(tmp_path / "bare.h5ad", tmp_path / "out", "mex")
    assert sorted(file.name for file in path.iterdir()) == [
        "barcodes.tsv.gz",
        "features.tsv.gz",
        "matrix.mtx.gz",
    ]


def test_a_failed_export_of_a_folder_leaves_nothing(predictions, tmp_path, monkeypatch):
    monkeypatch.setattr("spam.exports.tables.io.mmwrite", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        exported(predictions, tmp_path / "out", "mex")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    exported(predictions, tmp_path / "out", "mex")
    with pytest.raises(OutputExistsError, match="'P6' already"):
        exported(predictions, tmp_path / "out", "mex")


def test_images_of_scanpy_and_unknown_spot_diameters_are_understood(predictions, tmp_path):
    """scanpy keeps PNG files as numbers from 0 to 1, and a laboratory's file may state no diameter."""
    adata = anndata.read_h5ad(predictions)
    image = adata.uns["spatial"]["P6"]["images"]["hires"]
    adata.uns["spatial"] = {
        "other": {"images": {"hires": image / np.float32(255)}, "scalefactors": {"tissue_hires_scalef": 0.05}}
    }
    adata.write_h5ad(tmp_path / "lab.h5ad")
    folder, _ = exported(tmp_path / "lab.h5ad", tmp_path / "out", "mex")
    with Image.open(folder / "spatial/tissue_hires_image.png") as found:
        np.testing.assert_array_equal(found, image)
    factors = json.loads((folder / "spatial/scalefactors_json.json").read_text())
    assert factors["spot_diameter_fullres"] == pytest.approx(160.0)  # 0.8 of the 200 px between spots


@pytest.fixture
def odd_file(tmp_path: Path) -> Path:
    """Legal, but odd: whole numbers as floats, a gene named like a column, three coordinates, a grey image, missing values."""
    n = 7
    obs = {
        "label": ["a", "b"] * 3 + ["a"],
        "cell type": np.arange(n),
        "Cell type": np.arange(n) * 2.5,
        "in_tissue": [1.0, np.nan, 0.0, 1.0, 1.0, 1.0, 1.0],
        "array_row": pd.Categorical([str(i) for i in range(n)]),
    }
    counts = np.arange(n * 3, dtype=np.float64).reshape(n, 3)
    adata = anndata.AnnData(
        X=counts,
        obs=pd.DataFrame(obs, index=[f"s{i}" for i in range(n)]),
        var=pd.DataFrame(index=["label", "ERBB2", "µ/1"]),
        obsm={"spatial": np.stack([np.arange(n) * 100, np.arange(n) % 2 * 100 + 50, np.zeros(n)], axis=1)},
        uns={
            "spatial": {
                "x": {
                    "images": {"hires": np.arange(35, dtype=np.uint16).reshape(5, 7) * 1000},
                    "scalefactors": {"tissue_hires_scalef": 0.01, "spot_diameter_fullres": np.nan},
                }
            }
        },
    )
    adata.write_h5ad(tmp_path / "odd.h5ad")
    return tmp_path / "odd.h5ad"


def test_an_odd_file_is_exported_with_the_right_numbers(odd_file, tmp_path):
    counts = np.arange(21).reshape(7, 3)
    folder, _ = exported(odd_file, tmp_path / "mex", "mex")
    assert folder.name == "odd"
    matrix = scipy.io.mmread(folder / "matrix.mtx.gz", spmatrix=True)
    assert matrix.dtype.kind == "i"
    np.testing.assert_array_equal(matrix.toarray().T, counts)
    places = pd.read_csv(folder / "spatial/tissue_positions.csv")
    assert places["in_tissue"].tolist() == [1, 1, 0, 1, 1, 1, 1]
    assert places["array_row"].tolist() == list(range(7))
    assert places["pxl_col_in_fullres"].tolist() == [i * 100 for i in range(7)]
    with Image.open(folder / "spatial/tissue_hires_image.png") as image:
        grey = np.round(np.arange(35).reshape(5, 7) * 1000 * 255 / 65535).astype(np.uint8)
        np.testing.assert_array_equal(image, np.stack([grey] * 3, axis=-1))
    table = pd.read_csv(exported(odd_file, tmp_path / "csv", "csv")[0])
    assert table["label"].tolist() == ["a", "b"] * 3 + ["a"]
    np.testing.assert_array_equal(table[["gene:label", "ERBB2", "µ/1"]], counts)
    path, _ = exported(odd_file, tmp_path / "geojson", "geojson", genes=("label", "µ/1"))
    found = json.loads(gzip.decompress(path.read_bytes()))["features"]
    says = [feature["properties"]["measurements"] for feature in found]
    assert says == [{"label": row[0], "µ/1": row[2]} for row in counts.tolist()]
    nearest = np.hypot(100, 100)
    ring = np.array(found[0]["geometry"]["coordinates"][0])
    np.testing.assert_allclose(np.hypot(*(ring - [0, 50]).T), 0.4 * nearest, atol=0.01)


@pytest.mark.parametrize("what", ["genes", "spots", "places", "text", "section"])
def test_a_file_without_one_place_and_name_for_each_spot_is_refused(odd_file, tmp_path, what):
    adata = anndata.read_h5ad(odd_file)
    if what == "genes":
        adata.var_names = ["A", "B", "A"]
    elif what == "spots":
        adata.obs_names = ["s1"] * 2 + [f"t{i}" for i in range(5)]
    elif what == "section":
        adata.obs["section"] = ["A"] * 5 + [None] * 2
    elif what == "places":
        adata.obsm["spatial"][3, 1] = np.nan
    else:
        adata.obsm["spatial"] = pd.DataFrame({"x": ["a"] * 7, "y": ["b"] * 7}, index=adata.obs_names)
    adata.write_h5ad(odd_file)
    words = {"genes": "var_names.*'A'", "spots": "obs_names.*'s1'", "section": "2 spots"}.get(
        what, "finite coordinates"
    )
    with pytest.raises(SectionError, match=words):
        exported(odd_file, tmp_path / "out", "geojson")
    assert not (tmp_path / "out").exists()


def test_the_folder_of_predictions_is_taken_for_its_file(predictions, truth, tmp_path):
    path, _ = exported(predictions.parent, tmp_path, "h5ad")
    np.testing.assert_array_equal(anndata.read_h5ad(path).X, truth.X)
