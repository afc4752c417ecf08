"""The tile table: its column names, ids as written, broken files, and the exact join that names causes and mends none."""

import bz2
import gzip
import lzma
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spam.errors import MissingInputError, SectionError, SpamError
from spam.schemas.embed_config import InputConfig
from spam.sections import TileFiles, read_manifest
from spam.sections.h5ad import H5ad
from spam.sections.id_join import join_rows
from spam.sections.tile_table import ID_COLUMNS, TILE_COLUMNS, Table, read_table

XY = "x,y,source_image"


@pytest.mark.parametrize("column", ID_COLUMNS)
def test_every_id_column_is_read_as_text(lab, column):
    lab.write_text(f"{XY},{column}", "2,3,slide.tif,1.0", "5,7,slide.tif,007", "11,13,slide.tif,NA")
    assert lab.read().ids.tolist() == ["1.0", "007", "NA"]


@pytest.mark.parametrize("column", TILE_COLUMNS)
def test_every_tile_file_column_is_read(lab, column):
    lab.image("images/a.png")
    lab.write_text(f"x,y,{column},id", "2,3,images/a.png,u")
    assert lab.read().tiles == TileFiles(paths=(lab.folder / "images/a.png",))


def test_the_first_accepted_name_wins(lab):
    lab.write_text("id,barcode,cell_id,file,source_image", "1,2,3,4,5")
    table = read_table(lab.csv)
    assert (table.id_column, table.image_column) == ("cell_id", "source_image")


def test_names_are_case_sensitive_and_all_faults_come_at_once(lab):
    lab.write_text("x,y,Spot_ID,Image", "1,2,3,4")
    lab.refused(SectionError, *ID_COLUMNS, "source_image", *TILE_COLUMNS, "'Spot_ID'", "'Image'")


def test_byte_order_mark_and_quotes_are_not_part_of_a_name(lab):
    lab.csv.write_bytes('\ufeffspot_id,x,y,source_image\r\n"a,b",2,3,slide.tif\r\n'.encode())
    assert lab.read().ids.tolist() == ["a,b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not a CSV table but empty"),
        (b"x,y,source_image,spot_id\n", "no rows"),
        (b"x,y,source_image,spot_id\n1,2,slide.tif,a,surplus\n", "Expected 4 fields"),
        (b"x,y,source_image,spot_id\n1,2,slide.tif,a\n1,2,slide.tif,a,b,c\n", "as a CSV"),
        (b"x;y;source_image;spot_id\n1;2;slide.tif;a\n", "semicolons"),
        (b"x;y;source_image;spot_id\n1,5;2,5;slide.tif;a\n", "semicolons"),
        (b"x\ty\tsource_image\tspot_id\n1\t2\tslide.tif\ta\n", "tabs"),
        (b"x,y,source_image,spot_id\n1,2,\xff\xfe,a\n", "UTF-8"),
        (b"x,y,source_image,id,inside_he\n2,3,slide.tif,a,yes\n5,7,slide.tif,b,\n", "2 rows have 'yes', ''"),
        (b"x,y,source_image,id,inside_he\n2,3,slide.tif,a,0\n", "all 1 rows of section 'map' have inside_he"),
    ],
)
def test_broken_tables(lab, text, words):
    lab.csv.write_bytes(text)
    lab.refused(SectionError, "map.csv", words)


@pytest.mark.parametrize(
    ("true", "false"), [("True", "False"), ("true", "0.0"), ("1", "0"), ("1.0", " FALSE ")]
)
def test_rows_outside_the_image_are_not_tiles(lab, true, false):
    rows = (f"2,3,slide.tif,a,{true}", f",,slide.tif,b,{false}", f"7,11,slide.tif,c,{true}")
    lab.write_text(f"{XY},id,inside_he", *rows)
    section = lab.read()
    assert section.ids.tolist() == ["a", "c"]
    np.testing.assert_array_equal(section.xy_px, [[2.0, 3.0], [7.0, 11.0]])
    assert section.join.describe() == "2 spots with tiles; 1 row outside the H&E image"
    lab.write_h5ad(ids=["c", "b"])
    lab.refused(SectionError, "1 of the 2 spots", "'b'", "1 row has inside_he false")
    section = lab.read(allow_missing_tiles=True)
    assert (section.ids.tolist(), section.join.n_outside, section.join.table_only) == (["c"], 1, ("a",))
    np.testing.assert_array_equal(section.xy_px, [[7.0, 11.0]])


def _boxes(*corners):
    names = ("x0_he_px", "y0_he_px", "x1_he_px", "y1_he_px")
    return {name: [corner] * 5 for name, corner in zip(names, corners, strict=True)}


@pytest.mark.parametrize(
    ("columns", "side", "note"),
    [
        ({}, None, None),
        ({"patch_size_px": [224] * 5}, 224, None),
        ({"patch_size_px": ["224.0"] * 5}, 224, None),
        ({"patch_size_px": [224, 224, 112, 224, 224]}, None, "112 to 224 px"),
        (_boxes(3, 5, 100.2, 102), 97, None),
        (_boxes(3, 5, 100, 110), None, "97 to 105 px"),
    ],
)
def test_the_stated_size_of_the_tiles(lab, columns, side, note):
    lab.write_csv(**columns)
    section = lab.read()
    assert section.patch_px == side
    assert note in section.join.describe() if note else section.join.notes == ()


@pytest.mark.parametrize("cell", ["180,5", "1_80", "", "inf", "0xB4", "1 80"])
def test_a_cell_that_is_no_number_is_shown(lab, cell):
    lab.write_csv(x=[1.5, 2.5, cell, 4.5, 5.5])
    lab.refused(
        SectionError, "1 row has no finite number in x, y", f"ids 's3'; the first has {cell!r}, '211.0'"
    )


@pytest.mark.parametrize("size", ["", "0", "-224", "nan", "big"])
def test_a_size_that_is_not_positive(lab, size):
    lab.write_csv(patch_size_px=["224"] * 4 + [size])
    lab.refused(SectionError, "map.csv", "'patch_size_px'", "positive")


def _tables(lab, *, h5ad, table):
    """Write an h5ad and a table with these ids; the coordinates of a table id give its place in the list."""
    lab.write_h5ad(ids=h5ad, x=np.arange(len(h5ad) * 3).reshape(-1, 3))
    lab.write_text(f"{XY},spot_id", *(f"{2 * i},{3 * i},slide.tif,{name}" for i, name in enumerate(table)))


def test_everything_unmatched_is_counted_and_named(lab):
    _tables(lab, h5ad=["a", "b", "c"], table=["c", "u1", "u2", "a", "u3", "u4", "u5", "u6"])
    lab.refused(
        SectionError, "1 of the 3 spots", "'b'", "6 rows match no spot ('u1',", "--allow-missing-tiles"
    )
    section = lab.read(allow_missing_tiles=True)
    assert section.ids.tolist() == ["a", "c"]
    np.testing.assert_array_equal(section.xy_px, [[6.0, 9.0], [0.0, 0.0]])
    np.testing.assert_array_equal(section.counts.toarray(), [[0, 1, 2], [6, 7, 8]])
    assert section.join.table_only == ("u1", "u2", "u3", "u4", "u5", "u6")
    assert section.join.describe() == (
        "2 spots with tiles; 6 rows without a spot ('u1', 'u2', 'u3', 'u4', 'u5' and 1 more); "
        "1 spot without a tile ('b')"
    )


@pytest.mark.parametrize(
    ("h5ad", "table", "words", "options"),
    [
        (["1", "2"], ["1.0", "2.0"], ("--id-strip-suffix=.0: then 2 of 2",), {"id_strip_suffix": ".0"}),
        (["AC", "GT"], ["AC-1", "GT-1"], ("--id-strip-suffix=-1: then 2 of 2",), {"id_strip_suffix": "-1"}),
        (["2", "3", "4"], ["1", "2", "3"], ("off by one", "--id-offset=1: then 3 of 3"), {"id_offset": 1}),
        (["0", "1"], ["1", "2"], ("off by one", "--id-offset=-1: then 2 of 2"), {"id_offset": -1}),
        (["a", "b"], ["7", "8"], ("2 of the 2 spots", "'a', 'b'", "'7', '8'", "--section"), None),
        (
            ["1.0", "2.0"],
            ["1", "2"],
            ("--h5ad-id-strip-suffix=.0: then 2 of 2",),
            {"h5ad_id_strip_suffix": ".0"},
        ),
        (
            ["AC-1-12"],
            ["AC-1"],
            ("--h5ad-id-strip-suffix=-12: then 1 of 1",),
            {"h5ad_id_strip_suffix": "-12"},
        ),
        (["sample_1x2"], ["1x2"], ("h5ad's ids begin with 'sample_'", "add it"), None),
        (["1x2"], ["sample_1x2"], ("table's ids begin with 'sample_'", "remove it"), None),
        (["AC"], ["AC-1.0"], ("--id-strip-suffix=-1.0: then 1 of 1",), {"id_strip_suffix": "-1.0"}),
        (["aacg-1", "ccgt-1"], ["AACG-1", "CCGT-1"], ("upper and lower case", "then 2 of 2"), None),
    ],
)
def test_a_visible_cause_names_the_option_that_mends_it(lab, h5ad, table, words, options):
    _tables(lab, h5ad=h5ad, table=table)
    lab.refused(SectionError, *words)
    if options is not None:
        section = lab.read(**options)
        assert section.ids.tolist() == h5ad
        np.testing.assert_array_equal(section.xy_px[:, 0], 2.0 * np.arange(len(h5ad)))


def test_a_cause_is_named_on_top_of_the_options_given(lab):
    _tables(lab, h5ad=["3", "-4"], table=["1.0", "-6.0"])
    lab.refused(SectionError, "--id-offset=2: then 2 of 2", id_strip_suffix=".0", id_offset=1)
    assert lab.read(id_strip_suffix=".0", id_offset=2).ids.tolist() == ["3", "-4"]
    _tables(lab, h5ad=["AC"], table=["AC-1.0"])
    lab.refused(SectionError, "--id-strip-suffix=-1.0: then 1 of 1", id_strip_suffix=".0")


def test_dense_ids_that_are_off_by_one_are_noticed(lab):
    """All but one match by accident: the mistake of the first research code."""
    _tables(lab, h5ad=[str(i) for i in range(11)], table=[str(i + 1) for i in range(11)])
    lab.refused(SectionError, "1 of the 11 spots", "--id-offset=-1: then 11 of 11")
    assert "--id-offset=-1: then 11 of 11" in lab.read(allow_missing_tiles=True).join.notes[0]


@pytest.mark.parametrize("odd", ["x", "-", "7.5"])
def test_one_odd_id_does_not_hide_that_the_others_are_off_by_one(lab, odd):
    _tables(lab, h5ad=[str(i) for i in range(11)], table=[odd if i == 4 else str(i + 1) for i in range(11)])
    with pytest.raises(SectionError) as caught:
        lab.read()
    assert "--id-offset=-1 once the 1 ids that are no integers are removed: then 10 of 11" in str(
        caught.value
    )
    assert "--allow-missing-tiles" not in str(caught.value)  # it would join each spot with its neighbour


def test_a_change_that_matches_a_few_ids_by_chance_is_not_advised(lab):
    _tables(lab, h5ad=["1", "2", "3", "4"], table=["A_1", "B_7", "C_8", "D_9"])
    with pytest.raises(SectionError) as caught:
        lab.read()
    assert "begin with" not in str(caught.value)


def test_a_column_of_another_name_that_has_the_ids_is_named(lab):
    numbers = ["11", "12", "13", "14", "15"]
    lab.write_h5ad(ids=numbers, obs={"n": np.arange(5.0), "barcode": lab.ids})
    lab.write_csv()
    lab.refused(SectionError, "obs['barcode'] of the h5ad has the table's ids", "then 5 of 5")
    lab.write_h5ad(ids=numbers, obs={"cell": range(203, 208)})
    lab.write_csv(spot_id=range(203, 208))
    lab.refused(SectionError, "obs['cell'] of the h5ad has the table's ids", "then 5 of 5")
    lab.write_h5ad()
    lab.write_csv(spot_id=numbers, Barcode=[lab.ids[i] for i in lab.table_order])
    lab.refused(SectionError, "Column 'Barcode' of map.csv has the h5ad's ids, name it 'spot_id'", "5 of 5")


@pytest.mark.parametrize(
    ("h5ad", "table", "words", "options"),
    [
        (["a", "b"], ["a", "b", "a"], ("'spot_id': 1 ids", "'a'", "column 'section'"), {}),
        (["a", "b", "b", "c", "c"], ["a", "b", "c"], ("obs_names: 2 ids", "'b', 'c'"), {}),
        (["1"], ["1", "1.0"], ("1 ids", "'1'"), {"id_strip_suffix": ".0"}),
        (["a"], ["a", "", ""], ("2 ids are empty",), {}),
        (["1"], ["1", "2.0", "x3"], ("--id-offset 1", "2 ids", "'2.0', 'x3'", "--id-strip-suffix"), {"id_offset": 1}),
    ],
)  # fmt: skip
def test_ids_that_cannot_be_joined(lab, h5ad, table, words, options):
    _tables(lab, h5ad=h5ad, table=table)
    lab.refused(SectionError, *words, **options)


def test_duplicates_in_other_sections_do_not_matter(lab):
    lab.write_h5ad(ids=["a", "a"], obs={"section": ["S", "T"]})
    lab.write_text(f"{XY},id,section", "1,2,slide.tif,a,S", "3,5,slide.tif,a,T")
    section = lab.read(section="T")
    np.testing.assert_array_equal(section.xy_px, [[3.0, 5.0]])
    np.testing.assert_array_equal(section.counts.toarray(), lab.counts[[1]])


@settings(deadline=None)  # shared machines stall
@given(
    h5ad=st.lists(st.text("abc", min_size=1, max_size=3), unique=True, min_size=1, max_size=13),
    names=st.lists(st.text("abc", min_size=1, max_size=3), unique=True, min_size=1, max_size=17),
)
def test_join_equals_a_slow_loop(h5ad, names):
    names = [*names, h5ad[0]] if h5ad[0] not in names else names
    table = Table(path=Path("map.csv"), frame=pd.DataFrame({"id": names}), id_column="id", image_column="id")
    config = InputConfig(allow_missing_tiles=True)
    spots = H5ad(
        path=Path("a.h5ad"),
        where="--h5ad a.h5ad",
        n_rows=len(h5ad),
        rows=np.arange(len(h5ad)),
        ids=np.array(h5ad),
        obs={},
        unreadable={},
        spatial=None,
        libraries={},
        places=(),
        notes=(),
    )
    join = join_rows(table, spots, section="S", config=config)
    pairs = [(names.index(name), spot) for spot, name in enumerate(h5ad) if name in names]
    assert list(zip(join.table_rows.tolist(), join.h5ad_rows.tolist(), strict=True)) == pairs
    assert join.ids.tolist() == [h5ad[spot] for _, spot in pairs]
    assert join.report.table_only == tuple(name for name in names if name not in h5ad)
    assert join.report.h5ad_only == tuple(name for name in h5ad if name not in names)


# Tables as they come (issue 15)


def test_the_column_of_ids_that_matches_the_h5ad_is_used_and_named(lab):
    lab.write_h5ad()
    lab.write_csv(spot_id=range(5), barcode=[lab.ids[i] for i in lab.table_order], cell_id=list("vwxyz"))
    section = lab.read()
    assert section.ids.tolist() == list(lab.ids)
    np.testing.assert_array_equal(section.xy_px, lab.xy)
    assert section.join.notes == (
        "the ids are those of column 'barcode', which match the h5ad, not 'spot_id'",
    )
    assert lab.read(h5ad=None).ids.tolist() == list("01234")  # without an h5ad the first of the known names


def test_ids_in_the_row_names_that_pandas_writes(lab):
    lab.write_h5ad()
    lab.write_csv(drop=("spot_id",))
    frame = pd.read_csv(lab.csv)
    frame.index = [lab.ids[i] for i in lab.table_order]
    frame.to_csv(lab.csv)
    section = lab.read()
    assert section.ids.tolist() == list(lab.ids)
    np.testing.assert_array_equal(section.xy_px, lab.xy)


@pytest.mark.parametrize(
    ("h5ad", "table", "option"),
    [
        (["AAAC-1-0", "CCGT-1-0"], ["AAAC-1", "CCGT-1"], "-0"),
        (["AAAC-1_Sample A", "CCGT-1_Sample A"], ["AAAC-1", "CCGT-1"], "_Sample A"),
        (["12-7", "13-7", "14-7"], ["12", "13", "14"], "-7"),
        (["AAAC ", "CCGT "], ["AAAC", "CCGT"], " "),
    ],
)
def test_what_a_concatenation_put_behind_the_ids_is_found_and_stripped(lab, h5ad, table, option):
    _tables(lab, h5ad=h5ad, table=table)
    words = f"--h5ad-id-strip-suffix={shlex.quote(option)}: then {len(h5ad)} of {len(h5ad)}"
    lab.refused(SectionError, words)  # as a shell takes it
    section = lab.read(h5ad_id_strip_suffix=option)
    assert section.ids.tolist() == h5ad  # the h5ad's own names
    np.testing.assert_array_equal(section.xy_px[:, 0], 2.0 * np.arange(len(h5ad)))
    _tables(lab, h5ad=[*h5ad, h5ad[0].removesuffix(option)], table=table)
    lab.refused(SectionError, "obs_names without", "1 ids occur more than once", h5ad_id_strip_suffix=option)


def test_missing_tiles_are_not_offered_if_most_ids_differ(lab):
    _tables(lab, h5ad=["a", "b", "c", "d", "e"], table=["a", "b", "u", "v", "w"])
    with pytest.raises(SectionError) as caught:
        lab.read()
    assert "--allow-missing-tiles" not in str(caught.value)
    _tables(lab, h5ad=["a", "b", "c", "d", "e"], table=["a", "b", "c", "v", "w"])
    lab.refused(SectionError, "--allow-missing-tiles")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"x,y,x,source_image,spot_id\n1,2,3,slide.tif,a\n", ("'x'", "more than once")),
        (b"spot_id,x,y,source_image,spot_id\na,1,2,slide.tif,b\n", ("'spot_id'", "more than once")),
        (b"AC-1,1,0,0,101,202\nGT-1,1,1,1,103,207\n", ("no header", "'AC-1'", "spam import FOLDER")),
        (b"barcode,pxl_row_in_fullres,pxl_col_in_fullres\nAC-1,1,2\n", ("source_image", "spam import FOLDER")),
        (b"1,2,3\n4,5,6\n", ("no header",)),
        (b",".join(b"gene%d" % i for i in range(300_000)) + b"\n1\n", ("'gene0,",)),
        (b"z" * 5_000_000 + b",x,y\n1,2,3\n", ("'zzz", "zzz'")),
        (b"x,y,source_image,spot_id\n1,2,slide.tif," + b"z" * 5_000_000 + b"\n", ("5,000,000 characters",)),
        (b"x,y,source_image,spot_id\n1,2," + b"z" * 9_000 + b".tif,a\n", ("not found", "'zzz")),
        (b"x,y,source_image,spot_id,inside_he\n1,2,slide.tif,a," + b"z" * 9_000 + b"\n", ("'inside_he'", "'zzz")),
        (b"\x1f\x8b" + b"x" * 99, ("gunzip -k",)),
        (b"PK\x03\x04" + b"x" * 99, ("ZIP",)),
        (b"\xff\xfex\0,\0", ("UTF-16",)),
        (b"\x89PNG\r\n\x1a\n", ("an image", "'source_image'")),
    ],
)  # fmt: skip
def test_tables_of_another_kind_are_named_in_one_short_message(lab, text, words):
    lab.csv.write_bytes(text)
    with pytest.raises(SpamError) as caught:
        lab.read()
    message = str(caught.value)
    assert "map.csv" in message
    assert [word for word in words if word not in message] == []
    assert len(message) < 700


@pytest.mark.parametrize("pack", [gzip, bz2, lzma])
def test_compressed_tables_are_read(lab, pack):
    lab.write_csv()
    packed = lab.folder / f"map.csv.{ {gzip: 'gz', bz2: 'bz2', lzma: 'xz'}[pack] }"
    packed.write_bytes(pack.compress(lab.csv.read_bytes()))
    assert lab.read(csv=packed).ids.tolist() == lab.read().ids.tolist()
    packed.write_bytes(packed.read_bytes()[:-20])
    lab.refused(SectionError, packed.name, csv=packed)


def test_faults_of_a_manifest_are_counted_beyond_the_first(lab):
    rows = [f"T{i},gone{i}.csv,." for i in range(300)]
    lab.write_text("section,csv,root", *rows, f"X,{'v' * 5_000_000},.")
    with pytest.raises(
        MissingInputError, match="row 1: csv 'gone0.csv' not found; .* and 293 more"
    ) as caught:
        read_manifest(lab.csv, root=None)
    assert len(str(caught.value)) < 900
