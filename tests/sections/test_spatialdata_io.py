"""Folders of instruments as spatialdata-io reads them: the same spots, genes, counts and positions.

spatialdata-io is no test dependency (it needs Python 3.12 and brings 130 packages). To run this: pip install 'spam-st[io]'.
Numbers of the last run are in docs/reliability.md.
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

from spam.schemas.embed_config import InputConfig
from spam.sections.instrument_folder import read_folder
from spam.sections.instrument_section import InstrumentSection
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
