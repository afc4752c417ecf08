"""Real sections of four data sets, against what anndata and the csv module read from the same files."""

import csv

import anndata
import numpy as np
import pytest

from spam.schemas.embed_config import InputConfig
from spam.sections import SlideSource, TileFiles, read_manifest, read_section

HER2ST = [("A1", "A"), ("A2", "A"), ("C2", "C"), ("C3", "C"), ("C4", "C"), ("C5", "C"), ("C6", "C")]
BULB = [("MOB1", "m1"), ("MOB2", "m1"), ("MOB3", "m2"), ("MOB4", "m2")]
BRAIN = "V1_Adult_Mouse_Brain_crop"
SECTIONS = [
    *(("her2st", f"{name}.h5ad", name, donor) for name, donor in HER2ST),
    *(("mob_st2k", f"{name}.h5ad", name, donor) for name, donor in BULB),
    ("xenium_lung_ncbi858", "NCBI858.h5ad", "NCBI858", "NCBI858"),
    ("visium_mouse_brain_crop", "visium_mouse_brain_crop.h5ad", BRAIN, "mouse1"),
]


def _rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("folder", "h5ad", "name", "donor"), SECTIONS)
def test_a_real_section(shared_data, folder, h5ad, name, donor):
    root = shared_data / folder
    section = read_section(InputConfig(h5ad=root / h5ad, csv=root / "mapping.csv", root=root))
    truth = anndata.read_h5ad(root / h5ad)
    metadata = truth.uns["spatial"][name]["metadata"]
    rows = _rows(root / "mapping.csv")
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
    assert (section.join.n_table_only, section.join.n_h5ad_only, section.join.n_outside) == (0, 0, 0)
    if "label" in truth.obs:
        assert section.obs["label"].tolist() == truth.obs["label"].tolist()


def test_tile_files_of_a_real_section(shared_data):
    root = shared_data / "her2st"
    section = read_section(InputConfig(h5ad=root / "C5.h5ad", csv=root / "mapping_tiles_C5.csv", root=root))
    assert section.tiles == TileFiles(
        paths=tuple(root / "tiles" / "C5" / f"{name}.jpg" for name in section.ids)
    )
    assert section.n_spots == 181


def test_pure_prediction_from_a_cohort_table(shared_data):
    root = shared_data / "her2st"
    section = read_section(InputConfig(csv=root / "mapping.csv", root=root, section="C6"))
    rows = [row for row in _rows(root / "mapping.csv") if row["section"] == "C6"]
    assert section.ids.tolist() == [row["spot_id"] for row in rows]
    np.testing.assert_array_equal(section.xy_px, [[float(row["x"]), float(row["y"])] for row in rows])
    assert (section.donor, section.counts) == ("C", None)


def test_a_manifest_of_real_sections(shared_data, tmp_path):
    lines = [f"{name},,{name}.h5ad,mapping.csv," for name, _ in BULB]
    manifest = tmp_path / "sections.csv"
    manifest.write_text("\n".join(["section,donor,h5ad,csv,root", *lines]) + "\n")
    configs = read_manifest(manifest, root=shared_data / "mob_st2k")
    assert [read_section(config).donor for config in configs] == [donor for _, donor in BULB]
