"""Slides of several files: found as one, and their digest covers every file."""

import hashlib
import time

import pytest

from spam.errors import MissingInputError
from spam.sections import SlideSource, TileFiles, read_section
from spam.sections.lab_section import describe_sources, is_slide, slide_files

DICOM = bytes(128) + b"DICM"


def fill(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_at_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def digest_of(path):
    (source,) = describe_sources(h5ad=None, csv=None, tiles=SlideSource(path=path))
    assert (source.role, source.name) == ("slide", path.name)
    return source.sha256, source.n_bytes


@pytest.fixture
def zarr(tmp_path):
    return fill(tmp_path / "a.ome.zarr", zarr_at_json=b"{}", p0__c__0=b"one", p0__c__1=b"two")


def test_what_is_a_slide(tmp_path, zarr):
    series = fill(tmp_path / "series", a_at_dcm=DICOM, b_at_dcm=DICOM + b"b", _at_DS_Store=b"")
    mixed = fill(tmp_path / "mixed", a_at_dcm=DICOM, b_at_txt=b"text")
    old = fill(tmp_path / "old.zarr", _at_zgroup=b"{}")
    (tmp_path / "empty").mkdir()
    assert [is_slide(path) for path in (zarr, series, old, mixed / "a.dcm", mixed / "b.txt")] == [True] * 5
    assert [is_slide(path) for path in (mixed, tmp_path / "empty", tmp_path / "gone")] == [False] * 3


def test_the_files_of_each_kind(tmp_path, zarr):
    assert slide_files(zarr) == (zarr / "p0/c/0", zarr / "p0/c/1", zarr / "zarr.json")
    mrxs = (
        fill(tmp_path, s_at_mrxs=b"", s__Data_at_dat=b"d", s__Slidedat_at_ini=b"i", other_at_txt=b"")
        / "s.mrxs"
    )
    assert slide_files(mrxs) == (mrxs, tmp_path / "s/Data.dat", tmp_path / "s/Slidedat.ini")
    series = fill(tmp_path / "series", a_at_dcm=DICOM, b_at_dcm=DICOM + b"b", c_at_txt=b"")
    assert slide_files(series / "b.dcm") == (series / "a.dcm", series / "b.dcm")
    assert slide_files(series / "c.txt") == (series / "c.txt",)


def test_the_digest_of_one_file_is_its_sha256(tmp_path):
    path = fill(tmp_path, a_at_svs=b"pixels") / "a.svs"
    assert digest_of(path) == (hashlib.sha256(b"pixels").hexdigest(), 6)


def test_the_digest_of_a_folder_covers_names_and_bytes(tmp_path, zarr):
    parts = (("p0/c/0", b"one"), ("p0/c/1", b"two"), ("zarr.json", b"{}"))
    expected = b"".join(
        name.encode() + b"\0" + str(len(data)).encode() + b"\0" + data for name, data in parts
    )
    assert digest_of(zarr) == (hashlib.sha256(expected).hexdigest(), 8)
    before = digest_of(zarr)
    copy = fill(tmp_path / "elsewhere" / "a.ome.zarr", p0__c__1=b"two", p0__c__0=b"one", zarr_at_json=b"{}")
    assert digest_of(copy) == before
    (copy / "p0/c/1").rename(copy / "p0/c/2")
    assert digest_of(copy)[0] != before[0]
    fill(copy, p0__c__1=b"twp")
    (copy / "p0/c/2").unlink()
    assert digest_of(copy)[0] != before[0]
    (copy / "p0/c/1").unlink()
    assert digest_of(copy)[0] != before[0]


def test_a_table_may_name_a_folder(lab):
    fill(lab.folder / "images" / "he.ome.zarr", zarr_at_json=b"{}")
    lab.write_csv(source_image=["he.ome.zarr"] * 5)
    section = read_section(lab.config())
    assert section.tiles == SlideSource(path=lab.folder / "images" / "he.ome.zarr")
    assert section.sources[-1].name == "he.ome.zarr"
    assert section.sources[-1].n_bytes == 2


def test_one_missing_file_of_a_thousand_is_named_at_once(lab):
    ids = [f"s{i}" for i in range(1000)]
    names = [f"t{i}.png" for i in range(1000)]
    for name in names:
        lab.image(name, b"no image at all")  # nothing is decoded to find what is missing
    lab.write_text(
        "\n".join(
            ["spot_id,x,y,patch_path", *(f"{i},1,2,{name}" for i, name in zip(ids, names, strict=True))]
        )
    )
    assert isinstance(read_section(lab.config()).tiles, TileFiles)
    (lab.folder / "t617.png").unlink()
    started = time.perf_counter()
    with pytest.raises(
        MissingInputError, match=r"1 of 1000 tile files named in column 'patch_path'.*'t617\.png'; looked in"
    ):
        read_section(lab.config())
    assert time.perf_counter() - started < 5
