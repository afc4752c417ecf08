"""`spam import` and `spam embed --from`: one record by both ways, and the layouts of public collections."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from spam import ImportConfig, import_folder
from spam.errors import ConfigError, MissingInputError, OutputExistsError, SectionError
from spam.schemas.embed_config import InputConfig
from spam.sections import Section, SlideSource, read_manifest, read_section
from tests.reference.instrument_folders import (
    N_SPOTS,
    dense_counts,
    write_bins,
    write_cells,
    write_image,
    write_visium,
    write_xenium,
)


def both_ways(folder: Path, out: Path, **options: object) -> tuple[Section, Section]:
    """Read a folder directly, and through the files that `spam import` writes."""
    report = import_folder(ImportConfig(folder=folder, out_dir=out, **options))
    (config,) = [row for row in read_manifest(report.files[-1], root=None) if row.section == report.section]
    return read_section(InputConfig(from_=folder, **options)), read_section(config)


def assert_same_section(direct: Section, through_files: Section) -> None:
    assert (direct.name, direct.donor) == (through_files.name, through_files.donor)
    assert direct.ids.tolist() == through_files.ids.tolist()
    np.testing.assert_array_equal(direct.xy_px, through_files.xy_px)
    assert direct.mpp == through_files.mpp
    assert direct.counts is not None
    assert through_files.counts is not None
    assert direct.genes is not None
    assert through_files.genes is not None
    np.testing.assert_array_equal(direct.counts.toarray(), through_files.counts.toarray())
    assert direct.genes.tolist() == through_files.genes.tolist()
    assert direct.obs.keys() == through_files.obs.keys()
    for name, values in direct.obs.items():
        np.testing.assert_array_equal(values, through_files.obs[name])
    assert isinstance(direct.tiles, SlideSource)
    assert isinstance(through_files.tiles, SlideSource)
    assert direct.tiles.path.samefile(through_files.tiles.path)
    assert direct.hires_scale == through_files.hires_scale
    assert direct.array == through_files.array


def _visium(folder: Path) -> dict[str, object]:
    write_visium(folder / "outs")
    return {}


def _bins(folder: Path) -> dict[str, object]:
    write_bins(folder, 8)
    return {"bin": "8"}


def _cells(folder: Path) -> dict[str, object]:
    write_cells(folder)
    return {"donor": "d1"}


def _xenium(folder: Path) -> dict[str, object]:
    write_xenium(folder)
    (folder / "he_imagealignment.csv").write_text("0.9,0.1,5\n-0.1,0.9,7\n0,0,1\n")
    return {"section": "lung"}


@pytest.mark.parametrize("write", [_visium, _bins, _cells, _xenium])
def test_both_ways_give_one_record(tmp_path: Path, write: Callable[[Path], dict[str, object]]) -> None:
    options = write(tmp_path / "sample")
    image = write_image(tmp_path / "slides" / "he.png", 90, 70)
    assert_same_section(*both_ways(tmp_path / "sample", tmp_path / "lab", image=image, **options))


def test_an_option_overrules_the_pixel_size_and_says_so(tmp_path: Path) -> None:
    write_visium(tmp_path / "a", mpp=0.5)
    image = write_image(tmp_path / "he.png", 90, 70)
    direct, through_files = both_ways(tmp_path / "a", tmp_path / "lab", image=image, mpp=0.54)
    assert (direct.mpp, direct.mpp_source) == (0.54, "option")
    assert through_files.mpp == 0.54
    assert any(
        "--mpp 0.54 overrides the 0.5 µm" in note and "factor of 1.08" in note for note in direct.join.notes
    )


@pytest.mark.parametrize("options", [{"mpp": 0.26}, {"image": "tissue_hires_image.png"}])
def test_the_h5ad_of_bins_states_one_pixel_size(tmp_path: Path, options: dict[str, object]) -> None:
    write_bins(tmp_path / "hd", 8, mpp=0.25)
    image = write_image(tmp_path / str(options.get("image", "he.png")), 90, 70)
    direct, through_files = both_ways(tmp_path / "hd", tmp_path / "lab", **{**options, "image": image})
    assert_same_section(direct, through_files)
    assert direct.mpp == pytest.approx(options.get("mpp", 2.5))


def test_one_spot_has_no_pitch(tmp_path: Path) -> None:
    _, positions = write_visium(tmp_path / "v", n_spots=1)
    positions[:1].to_csv(tmp_path / "v" / "spatial" / "tissue_positions.csv", index=False)
    image = write_image(tmp_path / "he.png", 90, 70)
    direct, through_files = both_ways(tmp_path / "v", tmp_path / "lab", image=image)
    assert (direct.mpp, direct.mpp_source, through_files.mpp) == (None, None, None)
    assert read_section(InputConfig(from_=tmp_path / "v", image=image, mpp=0.7)).mpp == 0.7


def test_files_that_were_read_are_recorded_with_their_digests(tmp_path: Path) -> None:
    write_visium(tmp_path / "a")
    image = write_image(tmp_path / "he.png", 90, 70)
    config = InputConfig(from_=tmp_path / "a", image=image)
    before, after = read_section(config), read_section(config)
    assert [source.role for source in before.sources] == ["folder", "slide"]
    assert before.sources == after.sources
    positions = tmp_path / "a" / "spatial" / "tissue_positions.csv"
    positions.write_text(positions.read_text().replace("AC0000-1,1,", "AC0000-1,0,"))
    changed = read_section(config)
    assert changed.sources[0].sha256 != before.sources[0].sha256
    assert changed.sources[1] == before.sources[1]


def test_several_sections_in_one_manifest(tmp_path: Path) -> None:
    image = write_image(tmp_path / "slides" / "he.png", 90, 70)
    for name in ("s1", "s2", "s3"):
        write_visium(tmp_path / name / "outs")
        import_folder(ImportConfig(folder=tmp_path / name, out_dir=tmp_path / "lab", image=image))
    write_visium(tmp_path / "s2" / "outs", n_spots=5)
    again = ImportConfig(folder=tmp_path / "s2", out_dir=tmp_path / "lab", image=image, donor="d2")
    with pytest.raises(OutputExistsError, match=r"s2\.h5ad exists.*--overwrite"):
        import_folder(again)
    import_folder(
        ImportConfig(
            **{
                **again.to_mapping(),
                "folder": tmp_path / "s2",
                "out_dir": tmp_path / "lab",
                "image": image,
                "overwrite": True,
            }
        )
    )
    sections = [read_section(row) for row in read_manifest(tmp_path / "lab" / "sections.csv", root=None)]
    assert {one.name: (one.donor, one.n_spots) for one in sections} == {
        "s1": (None, N_SPOTS),
        "s3": (None, N_SPOTS),
        "s2": ("d2", 5),
    }


def test_images_behind_links(tmp_path: Path) -> None:
    """The name of the link counts, not that of its target; folders may be links too."""
    write_visium(tmp_path / "a")
    target = write_image(tmp_path / "archive" / "0f3a.png", 90, 70)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "he.png").symlink_to(target)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "lab").symlink_to(tmp_path / "deep" / "er")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    image = tmp_path / "links" / "he.png"
    direct, through_files = both_ways(tmp_path / "b", tmp_path / "lab", image=image)
    assert_same_section(direct, through_files)
    assert isinstance(through_files.tiles, SlideSource)
    assert through_files.tiles.path.name == "he.png"
    assert through_files.name == "b"


def test_without_an_image_only_counts_and_positions_are_written(tmp_path: Path) -> None:
    _, ids, xy_um = write_xenium(tmp_path / "x")
    report = import_folder(ImportConfig(folder=tmp_path / "x", out_dir=tmp_path / "lab"))
    assert [path.name for path in report.files] == ["x.h5ad"]
    assert "--image, --alignment and --overwrite" in report.summary()
    adata = anndata.read_h5ad(tmp_path / "lab" / "x.h5ad")
    assert adata.obs_names.tolist() == ids
    np.testing.assert_array_equal(adata.obsm["spatial"], xy_um)
    assert adata.uns["spatial"]["x"]["metadata"]["unit"] == "um"
    assert "mpp" not in adata.uns["spatial"]["x"]["metadata"]
    write_visium(tmp_path / "v")
    with pytest.raises(ConfigError, match="--image is missing"):
        read_section(InputConfig(from_=tmp_path / "v"))


def test_the_h5ad_is_plain(tmp_path: Path) -> None:
    counts, positions = write_visium(tmp_path / "v", mpp=0.5)
    image = write_image(tmp_path / "he.png", 90, 70)
    import_folder(ImportConfig(folder=tmp_path / "v", out_dir=tmp_path, image=image, donor="d7"))
    adata = anndata.read_h5ad(tmp_path / "v.h5ad")
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    pixels = positions[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy()[:N_SPOTS]
    np.testing.assert_array_equal(adata.obsm["spatial"], pixels)
    library = adata.uns["spatial"]["v"]
    assert library["scalefactors"]["spot_diameter_fullres"] == 130
    assert library["metadata"]["mpp"] == pytest.approx(0.5)
    assert library["metadata"]["source_image"] == "he.png"
    assert set(adata.obs["patient"]) == {"d7"}
    table = pd.read_csv(tmp_path / "v.csv")
    np.testing.assert_allclose(table[["x", "y"]], pixels, rtol=0, atol=1e-9)
    assert set(table["source_image"]) == {"he.png"}


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda root: (root / "notes.txt").write_text("x"), "no folder of Xenium, .*'notes.txt'"),
        (lambda root: (root / "C2.h5ad").write_text("x"), "spam embed --h5ad"),
        (
            lambda root: (root / "S1_binned_outputs.tar.gz").write_text("x"),
            "tar -xf .*S1_binned_outputs.tar.gz",
        ),
        (lambda root: write_visium(root / "lung" / "outs"), r"Did you mean \S*lung"),
        (lambda root: write_xenium(root / "run" / "region"), r"Did you mean \S*region"),
    ],
)
def test_a_wrong_folder_names_the_right_one(
    tmp_path: Path, build: Callable[[Path], object], words: str
) -> None:
    build(tmp_path)
    with pytest.raises(SectionError, match=words):
        read_section(InputConfig(from_=tmp_path, image=tmp_path))


def test_parts_of_the_right_folder_are_not_recommended(tmp_path: Path) -> None:
    """The spot files of her2st alone look like a data set: only the folder that has counts too is named."""
    spots = tmp_path / "her2st" / "raw" / "data" / "ST-spotfiles"
    spots.mkdir(parents=True)
    (spots / "C2_selection.tsv").touch()
    with pytest.raises(SectionError, match=r"Did you mean \S*/raw/data\?$"):
        read_section(InputConfig(from_=tmp_path / "her2st", image=tmp_path))


def test_the_folder_spatial_leads_to_the_one_above(tmp_path: Path) -> None:
    write_visium(tmp_path / "outs")
    with pytest.raises(SectionError, match=r"Did you mean \S*outs"):
        read_section(InputConfig(from_=tmp_path / "outs" / "spatial", image=tmp_path))


def test_a_file_instead_of_its_folder(tmp_path: Path) -> None:
    write_visium(tmp_path)
    with pytest.raises(MissingInputError, match=r"filtered_feature_bc_matrix\.h5 is a file. Give its folder"):
        read_section(InputConfig(from_=tmp_path / "filtered_feature_bc_matrix.h5", image=tmp_path))


def test_options_of_another_layout_are_refused(tmp_path: Path) -> None:
    write_visium(tmp_path / "v")
    write_xenium(tmp_path / "x")
    with pytest.raises(ConfigError, match="--alignment .*is for Xenium, .*, but .*Space Ranger"):
        read_section(InputConfig(from_=tmp_path / "v", alignment=tmp_path / "m.csv"))
    with pytest.raises(ConfigError, match="--bin 8 is for Space Ranger, but .*Xenium"):
        read_section(InputConfig(from_=tmp_path / "x", bin="8"))


def test_an_image_that_does_not_exist(tmp_path: Path) -> None:
    write_visium(tmp_path / "outs")
    with pytest.raises(MissingInputError, match=r"he\.tif \(--image\)"):
        import_folder(ImportConfig(folder=tmp_path, out_dir=tmp_path / "lab", image=tmp_path / "he.tif"))
    assert not (tmp_path / "lab").exists()


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", ""])
def test_names_that_are_no_file_names(tmp_path: Path, name: str) -> None:
    write_visium(tmp_path / "outs")
    if name:
        with pytest.raises(SectionError, match="--section"):
            import_folder(ImportConfig(folder=tmp_path, out_dir=tmp_path / "lab", section=name))
        assert not (tmp_path / "lab").exists()


@pytest.fixture
def her2st(shared_data: Path, tmp_path: Path) -> Path:
    """Patient C in the layout of the repository, with its images."""
    data = tmp_path / "her2st" / "data"
    shutil.copytree(shared_data / "her2st" / "raw" / "data", data, copy_function=shutil.copyfile)
    for name in ("C2", "C6"):
        place = data / "ST-imgs" / "C" / name
        place.mkdir(parents=True)
        (place / f"5714_HE_BT_{name}.jpg").symlink_to(shared_data / "her2st" / "images" / f"{name}.jpg")
    return data.parent


def test_legacy_st_equals_the_section_that_others_prepared(
    her2st: Path, shared_data: Path, tmp_path: Path
) -> None:
    direct, through_files = both_ways(her2st, tmp_path / "lab", section="C6")
    assert_same_section(direct, through_files)
    truth = anndata.read_h5ad(shared_data / "her2st" / "C6.h5ad")
    assert (direct.donor, set(direct.ids)) == ("C", set(truth.obs_names))
    truth = truth[direct.ids]
    np.testing.assert_allclose(direct.xy_px, truth.obsm["spatial"], atol=0.01)
    assert direct.genes is not None
    assert direct.counts is not None
    columns = pd.Index(direct.genes).get_indexer(truth.var_names)
    assert (columns >= 0).all()
    np.testing.assert_array_equal(direct.counts.toarray()[:, columns], truth.X.toarray())
    assert direct.mpp == pytest.approx(truth.uns["spatial"]["C6"]["metadata"]["mpp"], rel=0.005)


def test_legacy_st_asks_for_one_of_several_sections(her2st: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="5 sections: 'C2', .*--section"):
        read_section(InputConfig(from_=her2st))
    with pytest.raises(ConfigError, match="not 'C9'"):
        read_section(InputConfig(from_=her2st, section="C9"))
    with pytest.raises(ConfigError, match="--image is missing"):
        read_section(InputConfig(from_=her2st, section="C4"))


def test_legacy_st_made_up(tmp_path: Path) -> None:
    """Genes x spots, one spot not selected, one without a position, a gene called NA."""
    counts = dense_counts(5, 3)
    names = ["2x3", "4x3", "2x5", "4x5", "6x7"]
    genes = ["A", "NA", "B"]
    table = pd.DataFrame(counts.T, index=genes, columns=names)
    table.to_csv(tmp_path / "S1.tsv", sep="\t")
    spots = pd.DataFrame({"x": [4, 2, 2, 6], "y": [5, 3, 5, 7], "selected": [1, 1, 1, 0]})
    spots["pixel_x"], spots["pixel_y"] = spots["x"] * 150.0 + 7, spots["y"] * 150.0 + 11
    spots.to_csv(tmp_path / "S1_selection.tsv", sep="\t", index=False)
    image = write_image(tmp_path / "he.png", 90, 70)
    direct, through_files = both_ways(tmp_path, tmp_path / "lab", image=image)
    assert_same_section(direct, through_files)
    assert direct.ids.tolist() == ["S1_2x3", "S1_2x5", "S1_4x5"]
    assert direct.counts is not None
    assert direct.genes is not None
    np.testing.assert_array_equal(direct.counts.toarray(), counts[[0, 2, 3]])
    assert direct.genes.tolist() == genes
    np.testing.assert_allclose(direct.xy_px, [[307, 461], [307, 761], [607, 761]])
    assert direct.mpp == pytest.approx(200 / 150)
    assert any("2 of 5 spots without a position" in note for note in direct.join.notes)


def write_hest(root: Path) -> tuple[np.ndarray, np.ndarray]:
    counts = dense_counts()
    xy = np.random.default_rng(1).uniform(100, 900, (N_SPOTS, 2))
    for name in ("TENX1", "INT2"):
        adata = anndata.AnnData(X=counts.astype(np.float32))
        adata.obs_names = [f"{name}_{i}x1" for i in range(N_SPOTS)]
        adata.var_names = [f"G{i}" for i in range(counts.shape[1])]
        adata.obsm["spatial"] = xy
        (root / "st").mkdir(parents=True, exist_ok=True)
        adata.write_h5ad(root / "st" / f"{name}.h5ad")
        (root / "metadata").mkdir(exist_ok=True)
        facts = {"pixel_size_um_embedded": 0.26, "pixel_size_um_estimated": 0.2537, "st_technology": "Visium"}
        (root / "metadata" / f"{name}.json").write_text(json.dumps(facts | {"patient": "Patient 3"}))
        write_image(root / "wsis" / f"{name}.tif", 90, 70)
    return counts, xy


def test_hest(tmp_path: Path) -> None:
    counts, xy = write_hest(tmp_path / "hest")
    direct, through_files = both_ways(tmp_path / "hest", tmp_path / "lab", section="INT2")
    assert_same_section(direct, through_files)
    assert direct.counts is not None
    np.testing.assert_array_equal(direct.counts.toarray(), counts)
    np.testing.assert_array_equal(direct.xy_px, xy)
    assert (direct.mpp, direct.donor, direct.name) == (0.2537, "Patient 3", "INT2")
    assert isinstance(direct.tiles, SlideSource)
    assert direct.tiles.path.name == "INT2.tif"
    with pytest.raises(ConfigError, match="2 sections: 'INT2', 'TENX1'.*--section"):
        read_section(InputConfig(from_=tmp_path / "hest"))


def test_hest_without_positions_says_where_they_were_looked_for(tmp_path: Path) -> None:
    write_hest(tmp_path)
    path = tmp_path / "st" / "INT2.h5ad"
    adata = anndata.read_h5ad(path)
    del adata.obsm["spatial"]
    adata.obs["pxl_col_in_fullres"] = 1.0
    adata.write_h5ad(path)
    with pytest.raises(SectionError, match=r"INT2\.h5ad .*obsm\['spatial'\].*pxl_row_in_fullres"):
        read_section(InputConfig(from_=tmp_path, section="INT2"))


def write_stimage(root: Path, technology: str, pitch_px: float) -> tuple[np.ndarray, pd.DataFrame]:
    home = root / technology
    counts = dense_counts(12, 5)
    ids = [f"Human_A_{i % 4}x{i // 4}" for i in range(12)]
    place = np.arange(12)
    coordinates = pd.DataFrame(
        {"yaxis": 300 + place // 4 * pitch_px, "xaxis": 900 + place % 4 * pitch_px, "r": pitch_px / 4},
        index=ids,
    )
    for name in ("gene_exp", "coord", "image"):
        (home / name).mkdir(parents=True)
    table = pd.DataFrame(counts, index=ids, columns=["A", "B", "NA", "D", "E"])
    table.to_csv(home / "gene_exp" / "Human_A_count.csv")
    coordinates[::-1].to_csv(home / "coord" / "Human_A_coord.csv")
    write_image(home / "image" / "Human_A.png", 90, 70)
    return counts, coordinates


@pytest.mark.parametrize(("technology", "pitch_um"), [("ST", 200), ("Visium", 100), ("VisiumHD", None)])
def test_stimage(tmp_path: Path, technology: str, pitch_um: float | None) -> None:
    counts, coordinates = write_stimage(tmp_path / "stimage", technology, 160.0)
    for folder in (tmp_path / "stimage", tmp_path / "stimage" / technology):
        direct, through_files = both_ways(folder, tmp_path / f"lab_{folder.name}")
        assert_same_section(direct, through_files)
        assert direct.counts is not None
        assert direct.genes is not None
        np.testing.assert_array_equal(direct.counts.toarray(), counts)
        np.testing.assert_array_equal(direct.xy_px, coordinates[["xaxis", "yaxis"]])
        assert direct.genes.tolist() == ["A", "B", "NA", "D", "E"]
        assert direct.mpp == (None if pitch_um is None else pytest.approx(pitch_um / 160))
        assert direct.name == "Human_A"


@pytest.mark.parametrize(
    ("files", "extra"),
    [
        (("Run1_exprMat_file.csv", "Run1_metadata_file.csv"), "'spam-st[io]' (with Python 3.12"),
        (("cell_by_gene.csv", "cell_metadata.csv"), "'spam-st[io]' (with Python 3.12"),
        (("zarr.json",), "'spam-st[spatialdata]'"),
    ],
)
def test_a_layout_that_needs_an_extra_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], extra: str
) -> None:
    for package in ("spatialdata", "spatialdata_io"):
        monkeypatch.setitem(sys.modules, package, None)  # not installed
    for name in files:
        (tmp_path / name).write_text('{"attributes": {"spatialdata_attrs": {"version": "0.2"}}}')
    with pytest.raises(ConfigError, match=re.escape(f"pip install {extra}")):
        import_folder(ImportConfig(folder=tmp_path, out_dir=tmp_path / "lab"))
    assert not (tmp_path / "lab").exists()
