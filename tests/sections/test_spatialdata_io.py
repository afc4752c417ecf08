"""Folders of instruments as spatialdata-io reads them: the same spots, genes, counts and positions. And what it reads for us.

spatialdata-io is no test dependency (it needs Python 3.12 and brings 130 packages). To run this: pip install 'spam-st[io]'.
The last run is in docs/vendor-folders.md.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile

from spam import ImportConfig, import_folder
from spam.errors import MissingInputError, SectionError
from spam.schemas.embed_config import InputConfig
from spam.sections import read_manifest, read_section
from spam.sections.instrument_folder import read_folder
from spam.sections.instrument_section import InstrumentSection
from spam.store.foreign_files import read_foreign_features
from spam.tiles import locate, open_slide
from tests.reference.instrument_folders import (
    write_bins,
    write_image,
    write_visium,
    write_xenium,
    write_zipped_zarr,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
REAL = {
    "spaceranger1_tiny": ("vendor_visium_spaceranger1_tiny/outs", "filtered_feature_bc_matrix.h5"),
    "spaceranger3_embryo": ("vendor_visium_spaceranger3_mouse_embryo/outs", "filtered_feature_bc_matrix.h5"),
    "section1": ("vendor_visium_hd_tiny/10xVisium/section1/outs", "raw_feature_bc_matrix.h5"),
    "section2": ("vendor_visium_hd_tiny/10xVisium/section2/outs", "raw_feature_bc_matrix.h5"),
}
ONLY_CELLS = dict.fromkeys(
    ("cells_boundaries", "nucleus_boundaries", "cells_labels", "nucleus_labels", "transcripts", "morphology_mip",
     "morphology_focus", "aligned_images"), False
)  # fmt: skip


@pytest.fixture
def theirs() -> Any:
    return pytest.importorskip("spatialdata_io", reason="spatialdata-io is not installed")


def assert_same(found: InstrumentSection, table: Any) -> None:
    """Compare ids, genes and counts; of spots outside the tissue, which we leave out, there must be none."""
    assert found.ids.tolist() == table.obs_names.tolist()
    assert found.gene_ids.tolist() == table.var["gene_ids"].tolist()
    np.testing.assert_array_equal(found.counts.toarray(), table.X.toarray())


def in_tissue(table: Any) -> Any:
    return table[table.obs["in_tissue"] == 1]


@pytest.mark.parametrize("name", [*REAL, "generated"])
def test_visium(theirs: Any, shared_data: Path, tmp_path: Path, name: str) -> None:
    folder, matrix = (
        shared_data / REAL.get(name, ("", ""))[0],
        REAL.get(name, ("", "filtered_feature_bc_matrix.h5"))[1],
    )
    if name == "generated":
        folder = tmp_path / "outs"
        write_visium(folder, degrees=11)
        write_image(folder / "spatial" / "tissue_lowres_image.png", 60, 50)
    found = read_folder(InputConfig(from_=folder))[1]
    data = theirs.visium(folder, dataset_id="visium", counts_file=matrix)
    table = in_tissue(data["table"])
    assert_same(found, table)
    circles = data["visium"].loc[table.obs["spot_id"]]
    np.testing.assert_array_equal(found.xy_px, np.stack([circles.geometry.x, circles.geometry.y], axis=1))
    stated = json.loads((folder / "spatial" / "scalefactors_json.json").read_text())["spot_diameter_fullres"]
    np.testing.assert_allclose(circles["radius"], stated / 2)


def write_feature_slice(outs: Path) -> None:
    """Write what spatialdata-io reads of Space Ranger's feature_slice.h5: the layout of the slide and its transforms."""
    identity = np.eye(3).tolist()
    layout = {"file_format": "1.0", "transform": identity}
    names = ("cytassist_colrow_to_spot_colrow", "cytassist_colrow_to_microscope_colrow")
    matrices = {
        name: identity for pair in names for name in (pair, "_to_".join(reversed(pair.split("_to_"))))
    }
    metadata = {"hd_layout_json": json.dumps(layout), "transform_matrices": matrices}
    with h5py.File(outs / "feature_slice.h5", "w") as file:
        file.attrs["metadata_json"] = json.dumps(metadata)


@pytest.mark.parametrize("name", ["real", "generated"])
def test_visium_hd(theirs: Any, shared_data: Path, tmp_path: Path, name: str) -> None:
    outs, size = tmp_path / "outs", 2 if name == "real" else 8
    if name == "real":
        shutil.copytree(shared_data / "vendor_visium_hd_tiny" / "binned_outputs", outs / "binned_outputs")
    else:
        write_bins(outs, size)
    write_feature_slice(outs)
    bin_folder = outs / "binned_outputs" / f"square_{size:03d}um"
    scales = json.loads((bin_folder / "spatial" / "scalefactors_json.json").read_text())
    (outs / "spatial").mkdir()
    (outs / "spatial" / "scalefactors_json.json").write_text(
        json.dumps({"tissue_lowres_scalef": 0.02, **scales})
    )
    found = read_folder(InputConfig(from_=outs, bin=str(size)))[1]
    data = theirs.visium_hd(
        outs, dataset_id="hd", bin_size=size, annotate_table_by_labels=False, load_all_images=False
    )
    table = in_tissue(data[f"square_{size:03d}um"])
    assert_same(found, table)
    np.testing.assert_array_equal(found.xy_px, table.obsm["spatial"])
    assert found.mpp == scales["microns_per_pixel"]


@pytest.mark.parametrize("name", ["lung", "generated"])
def test_xenium(theirs: Any, shared_data: Path, tmp_path: Path, name: str) -> None:
    """Centroids agree in µm, and, through the transformation of their aligned image, in its pixels."""
    outs = tmp_path / "outs"
    if name == "lung":
        shutil.copytree(shared_data / "xenium_lung_ncbi858" / "outs_rewritten", outs)
        facts = json.loads((outs / "experiment.xenium").read_text())
        (outs / "experiment.xenium").write_text(json.dumps({**facts, "analysis_sw_version": "xenium-1.0.2"}))
        n_cells = facts["num_cells"]
        zarr = {"cell_id": np.arange(1, n_cells + 1, dtype=np.uint32), "cell_summary": np.zeros((n_cells, 1))}
        write_zipped_zarr(outs / "cells.zarr.zip", zarr, {"cell_summary": {"column_names": ["cell_area"]}})
        alignment, image = outs / "he_imagealignment.csv", outs / "he_image.ome.tif"
    else:
        for cells in ("cells.zarr.zip", "cells.parquet"):
            write_xenium(outs, cells=cells)
        pd.read_parquet(outs / cells)[::-1].to_parquet(outs / cells)  # they need the order of the matrix
        alignment, image = outs / "he_imagealignment.csv", outs / "he_image.tif"
        tifffile.imwrite(image, np.zeros((190, 230, 3), np.uint8))
        alignment.write_text("0.65,-1.12583,807.98\n1.12583,0.65,-1309.7\n0,0,1\n")
    found = read_folder(InputConfig(from_=outs, image=image))[1]
    data = theirs.xenium(outs, cells_table=True, **ONLY_CELLS)
    table = data["table"]
    assert_same(found, table)
    np.testing.assert_array_equal(found.xy_um, table.obsm["spatial"])
    aligned = theirs.xenium_aligned_image(image, alignment)
    from spatialdata.transformations import get_transformation

    to_global = get_transformation(aligned, "global").to_affine_matrix(("x", "y"), ("x", "y"))
    pixel_um = json.loads((outs / "experiment.xenium").read_text())["pixel_size"]
    homogeneous = np.column_stack([found.xy_px, np.ones(len(found.ids))])
    np.testing.assert_allclose(
        (homogeneous @ to_global.T)[:, :2] * pixel_um, table.obsm["spatial"], rtol=1e-9
    )


# What the extra reads for us: generated files in the layout of the vendors.

N_CELLS, N_GENES = 13, 5
ANGLE = np.deg2rad(30)
TO_HE = np.array([[np.cos(ANGLE), -np.sin(ANGLE), 40.0], [np.sin(ANGLE), np.cos(ANGLE), -25.0], [0, 0, 1]])


def cells() -> tuple[np.ndarray, np.ndarray]:
    """Counts, the last column of a control, and positions."""
    rng = np.random.default_rng(17)
    return rng.poisson(2.0, (N_CELLS, N_GENES + 1)), rng.uniform(100, 900, (N_CELLS, 2))


def placed(xy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return np.array([matrix[:2, :2] @ one + matrix[:2, 2] for one in xy])


def write_matrix(path: Path, matrix: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, matrix, delimiter="," if path.parent.name != "images" else " ", fmt="%.17g")
    return path


def test_cosmx(theirs: Any, tmp_path: Path) -> None:
    folder, (counts, xy_global) = tmp_path / "Run1", cells()
    fov = np.repeat([1, 2], [7, 6])
    keys = {"fov": fov, "cell_ID": np.concatenate([np.arange(1, 8), np.arange(1, 7)])}
    genes = [*(f"GENE{i}" for i in range(N_GENES)), "NegPrb3"]
    folder.mkdir()
    background = pd.DataFrame(
        {"fov": [1], "cell_ID": [0], **dict.fromkeys(genes, 9)}
    )  # counts outside the cells
    matrix = pd.concat([background, pd.DataFrame({**keys, **dict(zip(genes, counts.T, strict=True))})])
    matrix.to_csv(folder / "Run1_exprMat_file.csv", index=False)
    local = xy_global - np.where(fov == 1, 50.0, 90.0)[:, None]
    places = {"CenterX_local_px": local[:, 0], "CenterY_local_px": local[:, 1]}
    places |= {"CenterX_global_px": xy_global[:, 0], "CenterY_global_px": xy_global[:, 1]}
    pd.DataFrame({**keys, "Area": 50, **places}).to_csv(folder / "Run1_metadata_file.csv", index=False)
    pd.DataFrame({"fov": [1, 2], "x_global_px": 0, "y_global_px": 0}).to_csv(
        folder / "Run1_fov_positions_file.csv"
    )
    for kind in ("CellComposite", "CellLabels"):
        (folder / kind).mkdir()
        for i in (1, 2):
            shape = (30, 40, 3) if kind == "CellComposite" else (30, 40)
            tifffile.imwrite(folder / kind / f"{kind}_F{i:03d}.tif", np.zeros(shape, np.uint8))
    alignment = write_matrix(tmp_path / "he_to_cosmx.csv", TO_HE)
    name, found = read_folder(InputConfig(from_=folder, image=tmp_path / "he.tif", alignment=alignment))
    assert (name, found.platform) == ("Run1", "CosMx")
    assert found.ids.tolist() == [f"{cell}_{f}" for f, cell in zip(keys["fov"], keys["cell_ID"], strict=True)]
    assert found.genes.tolist() == genes[:-1]
    np.testing.assert_array_equal(found.counts.toarray(), counts[:, :-1])
    np.testing.assert_allclose(found.xy_um, xy_global * 0.12028, rtol=1e-12)
    np.testing.assert_allclose(placed(found.xy_px, TO_HE), xy_global, rtol=1e-9)
    assert found.mpp == pytest.approx(0.12028)
    assert any("1 of 6 features are not genes" in note for note in found.notes)
    with pytest.raises(MissingInputError, match="--alignment"):
        read_folder(InputConfig(from_=folder, image=tmp_path / "he.tif"))
    assert read_folder(InputConfig(from_=folder))[1].xy_px is None
    (folder / "Run1_tx_file.csv.gz").touch()
    with pytest.raises(SectionError, match="gunzip"):
        read_folder(InputConfig(from_=folder))


def test_merscope(theirs: Any, tmp_path: Path) -> None:
    folder, (counts, xy_um) = tmp_path / "region_0", cells()
    genes, ids = [*(f"GENE{i}" for i in range(N_GENES)), "Blank-7"], [str(10**16 + i) for i in range(N_CELLS)]
    to_mosaic = np.array([[9.25, 0, 300.0], [0, 9.25, -700.0], [0, 0, 1]])
    write_matrix(folder / "images" / "micron_to_mosaic_pixel_transform.csv", to_mosaic)
    pd.DataFrame(counts, index=pd.Index(ids, name="cell"), columns=genes).to_csv(folder / "cell_by_gene.csv")
    facts = pd.DataFrame({"fov": 3, "volume": 500.5, "center_x": xy_um[:, 0], "center_y": xy_um[:, 1]})
    facts.index = pd.Index(ids, name="EntityID")
    facts.to_csv(folder / "cell_metadata.csv")
    alignment = write_matrix(tmp_path / "he.csv", 2 * TO_HE - np.diag([0, 0, 1]))
    found = read_folder(InputConfig(from_=folder, image=tmp_path / "he.tif", alignment=alignment))[1]
    assert (found.ids.tolist(), found.genes.tolist()) == (ids, genes[:-1])
    np.testing.assert_array_equal(found.counts.toarray(), counts[:, :-1])
    np.testing.assert_allclose(found.xy_um, xy_um, rtol=1e-12)
    back = placed(placed(found.xy_px, 2 * TO_HE - np.diag([0, 0, 1])), np.linalg.inv(to_mosaic))
    np.testing.assert_allclose(back, xy_um, rtol=1e-9)
    assert found.mpp == pytest.approx(2 / 9.25)
    assert (found.obs["volume"] == 500.5).all()


@pytest.fixture
def section_of_spatialdata(theirs: Any, tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A table on circles, an RGB image and a picture of one channel, each with a transformation to a shared system."""
    import spatialdata
    from anndata import AnnData
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Affine, Scale, Sequence, Translation

    counts, xy = cells()
    turn = Affine(TO_HE, input_axes=("x", "y"), output_axes=("x", "y"))
    circles = ShapesModel.parse(xy, geometry=0, radius=4.0, transformations={"global": turn})
    circles.index = pd.Index([f"spot{i}" for i in range(N_CELLS)])
    to_global = Sequence([Scale([0.5, 0.5], axes=("x", "y")), Translation([-600.0, -300.0], axes=("x", "y"))])
    noise = np.random.default_rng(3).integers(90, 200, (2900, 3100, 3), dtype=np.uint8)
    images = {
        "he": Image2DModel.parse(
            noise, dims=("y", "x", "c"), transformations={"global": to_global}, scale_factors=[4]
        ),
        "dapi": Image2DModel.parse(noise[:, :, :1], dims=("y", "x", "c")),
    }
    order = np.random.default_rng(5).permutation(N_CELLS)
    kinds = ["Gene Expression"] * N_GENES + ["Antibody Capture"]
    table = AnnData(
        X=counts[order].astype(np.float32),
        obs=pd.DataFrame({"region": pd.Categorical(["spots"] * N_CELLS), "instance": circles.index[order]}),
        var=pd.DataFrame({"feature_types": kinds}, index=[f"GENE{i}" for i in range(N_GENES + 1)]),
    )
    table.obs_names = [f"barcode{i}" for i in order]
    keys = {"region": "spots", "region_key": "region", "instance_key": "instance"}
    tables = {"table": TableModel.parse(table, **keys)}
    path = tmp_path / "brain.zarr"
    spatialdata.SpatialData(images=images, shapes={"spots": circles}, tables=tables).write(path)
    on_image = (placed(xy, TO_HE) + np.array([600.0, 300.0])) / 0.5
    return path, counts[order], on_image[order]


def test_a_spatialdata_zarr_with_its_image(section_of_spatialdata: Any) -> None:
    path, counts, xy_px = section_of_spatialdata
    section = read_section(InputConfig(from_=path, mpp=0.5))
    assert section.name == "brain"
    np.testing.assert_array_equal(section.counts.toarray(), counts[:, :-1])
    np.testing.assert_allclose(section.xy_px, xy_px, rtol=1e-9)
    assert section.genes.tolist() == [f"GENE{i}" for i in range(N_GENES)]
    with open_slide(section.tiles.path) as slide:
        assert (slide.width, slide.height) == (3100, 2900)
        located = locate(section, slide)
    assert (located.mpp, located.mpp_source) == (0.5, "option")
    import_folder(ImportConfig(folder=path, out_dir=path.parent / "lab"))
    (files,) = read_manifest(path.parent / "lab" / "sections.csv", root=None)
    again = read_section(files)
    assert again.tiles.path.resolve() == section.tiles.path.resolve()
    assert again.ids.tolist() == section.ids.tolist()
    np.testing.assert_allclose(again.xy_px, section.xy_px, rtol=1e-12)


def test_a_spatialdata_zarr_with_an_image_beside_it(section_of_spatialdata: Any, tmp_path: Path) -> None:
    """The matrix maps pixels of that image to the coordinate system; without it nothing is assumed."""
    path, _, xy_px = section_of_spatialdata
    image = write_image(tmp_path / "he.tif", 300, 300)
    with pytest.raises(MissingInputError, match="--alignment"):
        read_folder(InputConfig(from_=path, image=image))
    alignment = write_matrix(tmp_path / "he.csv", np.array([[0.5, 0, -600.0], [0, 0.5, -300.0], [0, 0, 1]]))
    found = read_folder(InputConfig(from_=path, image=image, alignment=alignment))[1]
    np.testing.assert_allclose(found.xy_px, xy_px, rtol=1e-9)
    assert found.mpp is None


def test_features_of_lazyslide(shared_data: Path, tmp_path: Path) -> None:
    """wsidata, the storage of LazySlide, writes tiles and features of a real slide; they are read as they are."""
    wsidata = pytest.importorskip("wsidata", reason="wsidata is not installed")
    slide = shared_data / "slides" / "CMU-1-Small-Region.svs"
    data = wsidata.open_wsi(str(slide), store=str(tmp_path / "w.zarr"))
    corners = np.array([[x, y] for y in range(0, 2800, 448) for x in range(0, 1700, 448)])
    sizes = {"height": 224, "width": 224, "stride_height": 224, "stride_width": 224, "base_downsample": 2.0}
    wsidata.io.add_tiles(
        data, "tiles", corners, wsidata.TileSpec(**sizes, mpp=0.998), np.zeros(len(corners), int)
    )
    features = np.random.default_rng(0).normal(size=(len(corners), 7)).astype(np.float32)
    wsidata.io.add_features(data, "uni_tiles", "tiles", features)
    data.write()
    found = read_foreign_features(tmp_path / "w.zarr")
    np.testing.assert_array_equal(found.features, features)
    np.testing.assert_array_equal(found.xy_px, corners + 224.0)
    assert (found.encoder_name, found.tile_px, found.mpp) == ("uni", 448.0, 0.499)
