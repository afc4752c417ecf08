"""`spam check-alignment` on real sections: verdict, advice, pictures, and the corrected table."""

import json
import shlex

import anndata
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

import spam
from spam.errors import ConfigError, SectionError
from spam.schemas.embed_config import InputConfig
from spam.schemas.import_config import ImportConfig
from spam.sections import read_section
from spam.sections.lab_file_writer import import_folder
from spam.tiles import check_placement, open_slide

REP1 = "mob_st1k_mouseA/rep1", "rep1.jpg"
LUNG = "xenium_lung_ncbi858/NCBI858", "NCBI858.jpg"
A2 = "her2st/A2", "A2_lowres.jpg"


def misplaced(shared_data, folder, source, change=lambda xy: xy, *, has_counts=True):
    """Write a real section with other coordinates; return the options that name it, and the right coordinates."""
    name, image = source
    adata = anndata.read_h5ad(shared_data / f"{name}.h5ad")
    xy = np.asarray(adata.obsm.pop("spatial"), dtype=np.float64)[:, :2]
    x, y = change(xy).T
    table = pd.DataFrame({"x": x, "y": y, "source_image": image, "spot_id": adata.obs_names})
    table["section"] = name.rpartition("/")[2]
    table.to_csv(folder / "map.csv", index=False)
    adata.write_h5ad(folder / "section.h5ad")
    root = shared_data / name.split("/")[0] / "images"
    options = {"csv": folder / "map.csv", "root": root, "out_dir": folder / "out"}
    options |= {"h5ad": folder / "section.h5ad"} if has_counts else {"mpp": 1.0}
    return options, xy


def check(options):
    report = spam.check_alignment(spam.AlignmentConfig(**options))
    (found,) = report.sections
    stored = json.loads((options["out_dir"] / "alignment.json").read_text())
    assert stored == report.to_mapping()
    for path in found.files:
        assert path.exists()
    assert imread(found.files[0]).std() > 0.05  # not one colour
    assert found.verdict in report.summary()
    return found


@pytest.mark.slow
def test_the_table_of_an_instruments_folder_goes_with_its_lab_files(shared_data, tmp_path):
    adata, home = anndata.read_h5ad(shared_data / "mob_st1k_mouseA" / "rep1.h5ad"), tmp_path / "folder" / "ST"
    for part in ("coord", "gene_exp", "image"):
        (home / part).mkdir(parents=True)
    frequent = np.argsort(-np.asarray(adata.X.sum(axis=0)).ravel())[:60]
    adata.to_df().iloc[:, frequent].astype(int).to_csv(home / "gene_exp" / "rep1_count.csv")
    xy = adata.obsm["spatial"]
    places = pd.DataFrame({"xaxis": xy[:, 1], "yaxis": xy[:, 0], "r": 30.0}, index=adata.obs_names)
    places.to_csv(home / "coord" / "rep1_coord.csv")
    image = tmp_path / "he.jpg"
    image.write_bytes((shared_data / "mob_st1k_mouseA" / "images" / "rep1.jpg").read_bytes())
    found = check({"from_": home.parent, "image": image, "out_dir": tmp_path / "out"})
    assert (found.is_wrong, found.way) == (True, "with x and y exchanged")
    words = shlex.split(found.advice)
    assert words[1:6] == ["spam", "import", str(home.parent), "--out-dir", "lab"]
    assert words[words.index("--h5ad") :][:2] == ["--h5ad", "lab/rep1.h5ad"]
    assert words[words.index("--root") :][:2] == ["--root", str(tmp_path)]
    import_folder(ImportConfig(folder=home.parent, image=image, out_dir=tmp_path / "lab"))
    assert "Exchange obsm['spatial'] of that h5ad too" in found.advice
    written = anndata.read_h5ad(tmp_path / "lab" / "rep1.h5ad")
    written.obsm["spatial"] = written.obsm["spatial"][:, ::-1]
    written.write_h5ad(tmp_path / "lab" / "rep1.h5ad")
    lab = {"h5ad": tmp_path / "lab" / "rep1.h5ad", "csv": found.files[1], "root": tmp_path}
    assert not check(lab | {"out_dir": tmp_path / "again"}).is_wrong


def test_cells_beside_their_nuclei(shared_data, tmp_path):
    options, truth = misplaced(shared_data, tmp_path, LUNG, lambda xy: xy + np.array([9.0, -6.0]))
    found = check(options)
    assert found.is_wrong
    assert "-9 µm (right) and +6 µm (down)" in found.verdict
    np.testing.assert_allclose(found.nuclei_um, (-9, 6), atol=1)
    corrected = options | {"csv": found.files[1], "out_dir": tmp_path / "again"}
    np.testing.assert_allclose(read_section(InputConfig(**_inputs(corrected))).xy_px, truth, atol=1.0)
    again = check(corrected)
    assert not again.is_wrong
    assert "the cells lie on nuclei" in again.verdict
    assert again.lattice_angle is None


def test_the_table_of_cells_replaces_them(shared_data, tmp_path):
    options, _ = misplaced(shared_data, tmp_path, LUNG)
    places = pd.read_csv(options["csv"])[["y", "x"]].to_numpy().tolist()
    points = [{"type": "Point", "coordinates": at} for at in places]
    cells = tmp_path / "NCBI858.geojson"
    cells.write_text(json.dumps([{"type": "Feature", "geometry": one} for one in points]))
    slide = options["root"] / "NCBI858.jpg"
    found = check({"cells": cells, "root": slide, "out_dir": tmp_path / "cells"})
    assert found.way == "with x and y exchanged"
    assert "--swap-xy" not in found.advice
    assert f"as --csv, with --root {options['root']}, instead of --cells" in found.advice
    again = check({"csv": found.files[1], "root": options["root"], "out_dir": tmp_path / "cells"})
    assert not again.is_wrong
    assert found.files[1].exists()  # it is the input


def _inputs(options):
    return {name: value for name, value in options.items() if name != "out_dir"}


@pytest.mark.slow
def test_exchanged_axes_and_the_option_that_mends_them(shared_data, tmp_path):
    """As in the source of the lung section, where x is the row."""
    options, _ = misplaced(shared_data, tmp_path, LUNG, lambda xy: xy[:, ::-1])
    found = check(options)
    assert (found.is_wrong, found.way) == (True, "with x and y exchanged")
    assert "--swap-xy" in found.advice
    assert found.tissue["as given"] < 0.5 < found.tissue["corrected"]
    again = tmp_path / "again"
    again.mkdir()
    (again / "NCBI858_corrected.csv").write_text("of an earlier run")
    mended = check(options | {"swap_xy": True, "out_dir": again})
    assert not mended.is_wrong
    assert len(mended.files) == 1
    assert not (again / "NCBI858_corrected.csv").exists()
    wrong = check(options | {"csv": found.files[1], "swap_xy": True, "out_dir": tmp_path / "third"})
    assert wrong.advice == "Omit --swap-xy."


@pytest.mark.slow
def test_a2_before_it_was_aligned(shared_data, tmp_path):
    """The array lies straight, as in the authors' first coordinates: a rotation of 5.7° and a shift of about 90 px."""

    def change(xy):
        angle, centre = np.deg2rad(5.67), xy.mean(axis=0)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return (xy - centre) @ turn.T + centre + np.array([70.0, -56.0])

    options, truth = misplaced(shared_data, tmp_path, A2, change)
    found = check(options)
    assert found.angle == pytest.approx(-5.67, abs=0.5)
    np.testing.assert_allclose(found.shift_px, (-70, 56), atol=10)
    assert found.lattice_angle == pytest.approx(0, abs=0.3)
    table = pd.read_csv(found.files[1])
    np.testing.assert_allclose(table[["x", "y"]], truth, atol=25)  # spots are 62 px apart


@pytest.mark.slow
def test_a_reduced_picture_is_named_by_its_factor(shared_data, tmp_path):
    options, _ = misplaced(shared_data, tmp_path, REP1, lambda xy: xy / 2)
    found = check(options)
    assert found.scale == pytest.approx(2, rel=0.04)
    assert "picture of 0.5" in found.advice
    assert "Use rep1_corrected.csv as --csv (and" in found.advice
    um, _ = misplaced(shared_data, tmp_path, REP1, lambda xy: xy * 2.762 / 2)
    found = check(um | {"coordinates": "um", "mpp": 2.762, "out_dir": tmp_path / "um"})
    assert "rep1_corrected.csv as --csv without --coordinates (and" in found.advice
    assert float(shlex.split(found.advice)[2].strip(",")) == pytest.approx(
        1.381, rel=0.04
    )  # Use --mpp X, or ...


@pytest.mark.slow
def test_spots_outside_of_the_slide_are_no_error(shared_data, tmp_path):
    options, _ = misplaced(shared_data, tmp_path, REP1, lambda xy: xy * 1.6)
    found = check(options)
    assert found.is_wrong
    assert found.scale == pytest.approx(1 / 1.6, rel=0.04)


def test_embedding_a_round_section_with_exchanged_axes_is_an_error(shared_data, tmp_path):
    options, _ = misplaced(shared_data, tmp_path, REP1, lambda xy: xy[:, ::-1])
    section = read_section(InputConfig(**_inputs(options)))
    with open_slide(section.tiles.path) as slide:
        with pytest.raises(spam.SpamError, match=r"% of the expression explained.*--swap-xy"):
            check_placement(section, slide, is_decided=False, is_forgiving=False)
        (note,) = check_placement(section, slide, is_decided=True, is_forgiving=False).join.notes
    assert "exchanged" in note


@pytest.mark.slow
def test_the_corrected_table_names_the_slide_below_its_folder(shared_data, tmp_path):
    options, _ = misplaced(shared_data, tmp_path, REP1, lambda xy: xy[:, ::-1])
    table = pd.read_csv(options["csv"]).assign(source_image="sub/rep1.jpg")
    table.to_csv(options["csv"], index=False)
    (tmp_path / "slides" / "sub").mkdir(parents=True)
    (tmp_path / "slides" / "sub" / "rep1.jpg").write_bytes((options["root"] / "rep1.jpg").read_bytes())
    options["root"] = tmp_path / "slides"
    found = check(options)
    assert set(pd.read_csv(found.files[1])["source_image"]) == {"sub/rep1.jpg"}
    assert read_section(InputConfig(**_inputs(options | {"csv": found.files[1]}))).n_spots == len(table)
    manifest = tmp_path / "sections.csv"
    manifest.write_text("section,h5ad,csv,root\n,section.h5ad,map.csv,slides\n,section.h5ad,map.csv,slides\n")
    with pytest.raises(SectionError, match=r"--manifest names several sections 'rep1'\. Use unique names"):
        spam.check_alignment(spam.AlignmentConfig(manifest=manifest, out_dir=tmp_path / "twice"))


def test_without_counts_the_sentence_says_what_cannot_be_seen(shared_data, tmp_path):
    options, _ = misplaced(shared_data, tmp_path, REP1, has_counts=False)
    found = check(options)
    assert not found.is_wrong
    assert "without counts" in found.verdict
    assert found.explained is None


def test_tile_files_and_a_missing_folder_are_errors(shared_data, tmp_path):
    tiles = {"csv": shared_data / "her2st" / "mapping_tiles_C5.csv", "root": shared_data / "her2st"}
    with pytest.raises(ConfigError, match="--out-dir"):
        spam.AlignmentConfig(**tiles)
    with pytest.raises(ConfigError, match="tile files"):
        spam.check_alignment(spam.AlignmentConfig(**tiles, out_dir=tmp_path / "out", mpp=0.69))
    assert not list(tmp_path.glob("out/*.png"))
