"""From made-up lab files to a section: whole arrays, names and donors, images, digests, and the manifest."""

import hashlib

import numpy as np
import pytest

from spam.errors import ConfigError, MissingInputError, SectionError, SpamError
from spam.schemas.embed_config import InputConfig
from spam.sections import SlideSource, TileFiles, read_manifest, read_section
from spam.sections.lab_section import describe_sources, is_slide, slide_files

MPP = 0.5
LIBRARY = {"S": {"metadata": {"mpp": MPP}, "scalefactors": {"tissue_hires_scalef": 0.1}}}
FIVE = ["a.png", "b.png", "c.png", "d.png", "e.png"]
DICOM = bytes(128) + b"DICM"


def _sha(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()


def test_everything_comes_in_the_order_of_the_h5ad(lab):
    obs = {"section": ["S"] * 5, "patient": ["P"] * 5, "array_row": [2, 3, 5, 7, 11]}
    lab.write_h5ad(obs=obs, spatial=lab.xy, libraries=LIBRARY)
    lab.write_csv()
    section = lab.read()
    assert (section.name, section.donor, section.n_spots) == ("S", "P", 5)
    assert section.ids.tolist() == list(lab.ids)
    assert section.ids.dtype.kind == "U"
    np.testing.assert_array_equal(section.xy_px, lab.xy)
    np.testing.assert_array_equal(section.xy_um, lab.xy * MPP)
    assert (section.mpp, section.mpp_source, section.hires_scale) == (MPP, "h5ad", 0.1)
    np.testing.assert_array_equal(section.counts.toarray(), lab.counts)
    assert section.counts.dtype == np.int32
    assert section.genes.tolist() == list(lab.genes)
    assert list(section.obs) == ["array_row"]
    np.testing.assert_array_equal(section.obs["array_row"], [2, 3, 5, 7, 11])
    assert section.tiles == SlideSource(path=lab.folder / "slide.tif")
    assert section.patch_px is None
    assert section.join.describe() == "5 spots with tiles"
    assert [(s.role, s.name, s.n_bytes, s.sha256) for s in section.sources] == [
        ("h5ad", "sample.h5ad", lab.h5ad.stat().st_size, _sha(lab.h5ad.read_bytes())),
        ("csv", "map.csv", lab.csv.stat().st_size, _sha(lab.csv.read_bytes())),
        ("slide", "slide.tif", 9, _sha(b"slide.tif")),
    ]


def test_without_h5ad_everything_comes_from_the_table(lab):
    lab.write_csv(section=["T", "T", "other", "T", "T"], donor=["D", "D", "E", "D", "D"])
    section = lab.read(section="T")
    assert (section.name, section.donor) == ("T", "D")
    assert section.ids.tolist() == ["s2", "s7", "s1", "s5"]
    np.testing.assert_array_equal(section.xy_px, lab.xy[[4, 2, 1, 3]])
    assert section.counts is section.genes is None
    assert (section.mpp, section.mpp_source, section.xy_um, section.hires_scale) == (None, None, None, None)
    assert section.obs == {}
    assert section.join.describe() == "4 spots with tiles; 1 row of the table for other sections"
    assert [source.role for source in section.sources] == ["csv", "slide"]


def test_one_section_of_several_and_one_spot(lab):
    lab.write_h5ad(
        ids=["s1", "b", "s5"],
        obs={"section": ["A", "B", "A"], "patient": ["p", "q", "p"], "rank": [2, 3, 5]},
        libraries={"A": {"metadata": {"mpp": 0.25}}, "B": {"metadata": {"mpp": 4.0}}},
    )
    lab.write_csv()
    section = lab.read(section="A")
    assert section.ids.tolist() == ["s1", "s5"]
    np.testing.assert_array_equal(section.counts.toarray(), lab.counts[[0, 2]])
    np.testing.assert_array_equal(section.obs["rank"], [2, 5])
    assert (section.donor, section.mpp) == ("p", 0.25)
    lab.write_h5ad(ids=["s1"], spatial=lab.xy[1:2])
    section = lab.read()
    np.testing.assert_array_equal(section.xy_px, lab.xy[1:2])
    np.testing.assert_array_equal(section.counts.toarray(), lab.counts[:1])
    assert len(section.join.table_only) == 4


def test_all_missing_inputs_are_named_at_once(lab):
    missing = {option: lab.folder / f"no_{option}" for option in ("h5ad", "csv", "root")}
    words = [f"not found: {path} (--{option})" for option, path in missing.items()]
    lab.refused(MissingInputError, *words, **missing)
    slide = lab.folder / "slide.tif"
    lab.refused(
        MissingInputError, f"Not a folder, but a file: {slide} (--root)", f"{lab.folder}.", root=slide
    )
    for option in ("csv", "root"):
        lab.refused(ConfigError, f"--{option} (given: None)", **{option: None})


def _outcome(lab, **options):
    try:
        section = lab.read(**options)
    except SpamError as error:
        return {"error": str(error)}
    arrays = {"xy": section.xy_px.tolist(), "counts": section.counts.toarray().tolist(), "n": section.n_spots}
    return {"name": section.name, "donor": section.donor, "mpp": section.mpp, **arrays}


def test_every_option_changes_something(lab):
    def flip(**options):
        before, after = _outcome(lab), _outcome(lab, **options)
        return {key for key in before | after if before.get(key) != after.get(key)}

    lab.write_h5ad(layers={"other": lab.counts + 1}, libraries=LIBRARY)
    lab.write_csv(section=["S"] * 5)
    assert "error" in flip(section="else")
    assert flip(donor="D") == {"donor"}
    assert flip(mpp=2.0) == {"mpp"}
    assert flip(counts_layer="other") == {"counts"}
    for option in ({"coordinates": "um"}, {"coordinates": "hires"}, {"swap_xy": True}):
        assert flip(**option) == {"xy"}
    assert "error" in flip(id_offset=1)
    assert "error" in flip(id_strip_suffix="3")
    lab.write_h5ad(ids=[*lab.ids, "extra"], x=np.zeros((6, 3)), libraries=LIBRARY)
    assert "n" in flip(allow_missing_tiles=True)


# Names and donors


def test_the_name_comes_from_option_hint_obs_library_table_or_file(lab):
    lab.write_csv(section=["T"] * 5)
    assert lab.read().name == "T"
    lab.write_csv(section=[""] * 5)
    assert lab.read().name == "map"
    assert read_section(lab.config(), name_hint="hinted").name == "hinted"
    assert read_section(lab.config(section="asked"), name_hint="hinted").name == "asked"
    library = {"images": {"none": 0}}
    for name, options in (
        ("obs", {"obs": {"section": ["obs"] * 5}, "libraries": {"lib": library}}),
        ("lib", {"libraries": {"lib": library}}),
        ("sample", {"libraries": {"lib": library, "lib2": library}}),
        ("sample", {}),
    ):
        lab.write_h5ad(**options)
        assert lab.read().name == name


def test_sections_that_are_ambiguous_or_missing(lab):
    lab.write_csv(section=["T", "U", "V", "W", "T"])
    lab.refused(SectionError, "map.csv", "4 sections: 'T', 'U', 'V', 'W'", "--section")
    lab.refused(SectionError, "map.csv", "'T', 'U', 'V', 'W'", "'X'", "--section", section="X")
    lab.write_h5ad(obs={"section": ["A", "B", "A", "A", "C"]})
    lab.refused(SectionError, "obs['section']", "sample.h5ad", "3 sections: 'A', 'B', 'C'", "--section")
    lab.refused(SectionError, "obs['section']", "'A', 'B', 'C'", "'X'", section="X")
    lab.refused(SectionError, "map.csv", "'T', 'U', 'V', 'W'", "'A'", "--section", section="A")


@pytest.mark.parametrize("column", ["patient", "donor"])
def test_the_donor_comes_from_h5ad_or_table(lab, column):
    lab.write_csv()
    assert lab.read().donor is None
    lab.write_csv(**{column: ["D"] * 5})
    assert lab.read().donor == "D"
    lab.write_h5ad(obs={column: ["D", None, "D", "D", "D"]})
    assert lab.read().donor == "D"
    lab.write_csv()
    assert lab.read().donor == "D"
    assert lab.read(donor="asked").donor == "asked"


def test_contradicting_donors_are_named_with_their_places(lab):
    lab.write_csv(patient=["D", "E", "D", "D", "D"])
    lab.refused(SectionError, "'D' in column 'patient' of map.csv", "'E' in column 'patient'", "--donor")
    lab.write_h5ad(obs={"patient": ["P"] * 5})
    lab.write_csv(donor=["D", "D", "D", "D", ""])
    lab.refused(SectionError, "2 are stated", "'P' in obs['patient']", "'D' in column 'donor' of map.csv")
    assert lab.read(donor="D").donor == "D"


# Images


def test_root_comes_before_its_folder_images(lab, tmp_path_factory):
    inside = lab.image("images/slide.tif", b"other")
    lab.write_csv()
    assert lab.read().tiles == SlideSource(path=lab.folder / "slide.tif")
    (lab.folder / "slide.tif").unlink()
    assert lab.read().tiles == SlideSource(path=inside)
    absolute = tmp_path_factory.mktemp("elsewhere") / "slide.svs"
    absolute.write_bytes(b"pixels")
    lab.write_csv(source_image=[str(absolute)] * 5)
    assert lab.read().tiles == SlideSource(path=absolute)


def test_tile_files_come_in_spot_order_with_one_digest(lab):
    names = [f"tiles/{name}.png" for name in lab.ids]
    paths = tuple(lab.image(name) for name in names)
    lab.write_h5ad()
    lab.write_csv(source_image=[names[row] for row in lab.table_order])
    section = lab.read()
    assert section.tiles == TileFiles(paths=paths)
    source = section.sources[-1]
    assert (source.role, source.name, source.n_bytes) == ("tiles", "tiles", sum(map(len, names)))
    assert source.sha256 == _sha(*(name.encode() for name in names))
    lab.write_csv(drop=("source_image",), patch_path=["tiles/s1.png"] * 5)
    assert lab.read().tiles == TileFiles(paths=(paths[1],) * 5)


def test_only_rows_of_the_section_count(lab):
    lab.image("other.tif")
    images = ["slide.tif"] * 3 + ["other.tif"] * 2
    lab.write_csv(source_image=images, section=["S"] * 3 + ["T"] * 2)
    assert lab.read(section="T").tiles == SlideSource(path=lab.folder / "other.tif")
    lab.write_csv(source_image=images)
    lab.refused(SectionError, "2 images", "'slide.tif', 'other.tif'", "column 'section'", "--section")


def test_missing_images_are_counted_and_named(lab):
    lab.write_csv(source_image=["gone.tif"] * 5)
    folders = (str(lab.folder), str(lab.folder / "images"), "(--root)")
    lab.refused(MissingInputError, "1 of 1 slides", "'source_image'", "'gone.tif'", *folders)
    for name in FIVE[:2]:
        lab.image(name)
    lab.write_csv(source_image=FIVE)
    lab.refused(MissingInputError, "3 of 5 tile files", "'c.png', 'd.png', 'e.png'", *folders)
    (lab.folder / "images").mkdir()
    lab.write_csv(source_image=["images"] * 5)
    lab.refused(MissingInputError, "Folders, but not OME-Zarr or DICOM: 'images'")
    lab.write_csv(source_image=["slide.tif", "", "slide.tif", "", "slide.tif"])
    lab.refused(SectionError, "2 rows", "'source_image'", "'s7', 's1'")


# Slides of several files


def _fill(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


ZARR = {"p0/c/0": b"one", "p0/c/1": b"two", "zarr.json": b"{}"}


def test_what_is_a_slide_and_its_files(tmp_path, lab):
    zarr = _fill(lab.folder / "images" / "a.ome.zarr", ZARR)
    series = _fill(tmp_path / "series", {"a.dcm": DICOM, "b.dcm": DICOM + b"b", ".DS_Store": b""})
    mixed = _fill(tmp_path / "mixed", {"a.dcm": DICOM, "b.dcm": DICOM, "c.txt": b""})
    old = _fill(tmp_path / "old.zarr", {".zgroup": b"{}"})
    mrxs = (
        _fill(tmp_path / "m", {"s.mrxs": b"", "s/Data.dat": b"d", "s/S.ini": b"i", "o.txt": b""}) / "s.mrxs"
    )
    (tmp_path / "empty").mkdir()
    assert [is_slide(path) for path in (zarr, series, old, mixed / "a.dcm", mixed / "c.txt")] == [True] * 5
    assert [is_slide(path) for path in (mixed, tmp_path / "empty", tmp_path / "gone")] == [False] * 3
    assert slide_files(zarr) == tuple(zarr / name for name in ZARR)
    assert slide_files(mrxs) == (mrxs, mrxs.parent / "s/Data.dat", mrxs.parent / "s/S.ini")
    assert slide_files(mixed / "b.dcm") == (mixed / "a.dcm", mixed / "b.dcm")
    assert slide_files(mixed / "c.txt") == (mixed / "c.txt",)
    lab.write_csv(source_image=["a.ome.zarr"] * 5)
    section = lab.read()
    assert section.tiles == SlideSource(path=zarr)
    assert (section.sources[-1].name, section.sources[-1].n_bytes) == ("a.ome.zarr", 8)


def test_the_digest_of_a_folder_covers_names_and_bytes(tmp_path):
    def digest(files, name):
        folder = _fill(tmp_path / name / "a.zarr", files)
        return describe_sources(SlideSource(path=folder))[0].sha256

    whole = b"".join(f"{name}\0{len(data)}\0".encode() + data for name, data in ZARR.items())
    assert digest(ZARR, "whole") == digest(dict(reversed(ZARR.items())), "copy") == _sha(whole)
    others = (
        {**ZARR, "p0/c/1": b"twp"},
        {"p0/c/0": b"one", "zarr.json": b"{}"},
        {"p0/c/0": b"one", "p0/c/2": b"two", "zarr.json": b"{}"},
    )
    assert len({digest(files, str(i)) for i, files in enumerate((ZARR, *others))}) == 4


# Manifests


@pytest.fixture
def cohort(tmp_path):
    """A folder with two sections, a data root beside it, and a way to read a manifest."""
    names = ("lists/a.csv", "lists/a.h5ad", "data/b.csv", "data/b.h5ad", "data/slides/x", "lists/a.txt")
    _fill(tmp_path, dict.fromkeys(names, b"something"))

    def read(*lines, root=None):
        path = tmp_path / "lists" / "sections.csv"
        path.write_text("".join(f"{line}\n" for line in lines))
        return read_manifest(path, root=root)

    read.folder = tmp_path
    return read


HEADER = "section,donor,h5ad,csv,root"


def test_paths_start_from_the_manifest_then_from_root(cohort):
    folder = cohort.folder
    lines = ("A,P,a.h5ad,a.csv,slides", ",,,b.csv,", "", "C,,b.h5ad,b.csv,../data")
    lists, data = folder / "lists", folder / "data"
    first = {"h5ad": lists / "a.h5ad", "csv": lists / "a.csv", "root": data / "slides"}
    third = {"h5ad": data / "b.h5ad", "csv": data / "b.csv", "root": lists / "../data"}
    assert cohort(HEADER, *lines, root=data) == (
        InputConfig(section="A", donor="P", **first),
        InputConfig(csv=data / "b.csv", root=data),
        InputConfig(section="C", **third),
    )
    assert cohort("csv", "a.csv", root=folder) == (InputConfig(csv=lists / "a.csv", root=folder),)


def test_all_faults_are_listed_with_their_rows(cohort):
    with pytest.raises(SectionError) as caught:
        cohort(HEADER, "A,,no.h5ad,a.csv,.", "B,,,,.", "A,,a.h5ad,no.csv,")
    for words in (
        "row 1: h5ad 'no.h5ad'",
        "row 2: no csv",
        "row 3: section 'A' repeats row 1",
        "row 3: no root (or give --root)",
        "row 3: csv 'no.csv'",
        f"Searched {cohort.folder / 'lists'}",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("section,csv,mpp", "'mpp'.*section, donor, h5ad, csv, root"),
        ("section,donor,h5ad", "no column 'csv'"),
        ("section,patient,image", "'patient', 'image'"),
        (HEADER, "no rows"),
    ],
)
def test_other_columns_and_no_rows(cohort, header, words):
    rows = () if header == HEADER else ("a,b,c",)
    with pytest.raises(SectionError, match=words):
        cohort(header, *rows, root=cohort.folder)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("gone.h5ad,a.csv,nowhere", r"row 1: h5ad 'gone\.h5ad'.*row 1: root 'nowhere'.*lists and .*data"),
        ("../data,../data,a.txt", r"row 1: h5ad '../data'.*row 1: csv '../data'.*row 1: root 'a\.txt'"),
    ],
)
def test_missing_files_alone_are_missing_inputs(cohort, row, words):
    with pytest.raises(MissingInputError, match=words):
        cohort("h5ad,csv,root", row, root=cohort.folder / "data")
    with pytest.raises(MissingInputError, match=r"none\.csv \(--manifest\)"):
        read_manifest(cohort.folder / "none.csv", root=None)
