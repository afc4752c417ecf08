"""Real sections of four data sets, against what anndata and the csv module read from the same files."""

import csv

import anndata
import numpy as np
import pytest

from spam.schemas.embed_config import InputConfig
from spam.sections import SlideSource, TileFiles, read_section

BRAIN = "V1_Adult_Mouse_Brain_crop"
SECTIONS = [
    *(("her2st", f"{name}.h5ad", name, name[0]) for name in ("A1", "C6")),
    ("mob_st2k", "MOB3.h5ad", "MOB3", "m2"),
    ("xenium_lung_ncbi858", "NCBI858.h5ad", "NCBI858", "NCBI858"),
    ("visium_mouse_brain_crop", "visium_mouse_brain_crop.h5ad", BRAIN, "mouse1"),
]


@pytest.mark.parametrize(("folder", "h5ad", "name", "donor"), SECTIONS)
def test_a_real_section(shared_data, folder, h5ad, name, donor):
    root = shared_data / folder
    section = read_section(InputConfig(h5ad=root / h5ad, csv=root / "mapping.csv", root=root))
    truth = anndata.read_h5ad(root / h5ad)
    metadata = truth.uns["spatial"][name]["metadata"]
    with (root / "mapping.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    of_section = [row for row in rows if row["section"] == name]

    assert (section.name, section.donor) == (name, donor)
    assert section.ids.tolist() == truth.obs_names.tolist()
    np.testing.assert_allclose(section.xy_px, truth.obsm["spatial"], rtol=0, atol=0.0051)  # CSV: 2 decimals
    assert section.mpp == metadata["mpp"]
    np.testing.assert_array_equal(section.xy_um, section.xy_px * metadata["mpp"])
    assert (section.counts != truth.X).nnz == 0
    assert section.genes.tolist() == truth.var_names.tolist()
    assert section.tiles == SlideSource(path=root / "images" / metadata["source_image"])
    np.testing.assert_array_equal(section.obs["array_row"], truth.obs["array_row"])
    assert section.join.n_matched == len(of_section) == truth.n_obs
    assert section.join.n_other_sections == len(rows) - len(of_section)
    assert (section.join.table_only, section.join.h5ad_only, section.join.n_outside) == ((), (), 0)
    if "label" in truth.obs:
        assert section.obs["label"].tolist() == truth.obs["label"].tolist()


def test_tile_files_of_a_real_section(shared_data):
    root = shared_data / "her2st"
    section = read_section(InputConfig(h5ad=root / "C5.h5ad", csv=root / "mapping_tiles_C5.csv", root=root))
    assert section.tiles == TileFiles(
        paths=tuple(root / "tiles" / "C5" / f"{name}.jpg" for name in section.ids)
    )
    assert section.n_spots == 181
