"""The exact join: everything that does not match is counted and named; causes are named, never mended."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spam.errors import SectionError
from spam.schemas.embed_config import InputConfig
from spam.sections import read_section
from spam.sections.tile_table import Table, join_rows, requested_ids


def _tables(lab, *, h5ad, table):
    """Write an h5ad and a table with these ids; the row of a table id says its place in the list."""
    lab.write_h5ad(ids=h5ad, x=np.arange(len(h5ad) * 3).reshape(-1, 3))
    rows = [f"{2 * i},{3 * i},slide.tif,{name}" for i, name in enumerate(table)]
    lab.write_text("\n".join(["x,y,source_image,spot_id", *rows]) + "\n")


def test_everything_unmatched_is_counted_and_named(lab):
    _tables(lab, h5ad=["a", "b", "c"], table=["c", "u1", "u2", "a", "u3", "u4", "u5", "u6"])
    section = read_section(lab.config(allow_missing_tiles=True))
    join = section.join
    assert section.ids.tolist() == ["a", "c"]
    np.testing.assert_array_equal(section.xy_px, [[6.0, 9.0], [0.0, 0.0]])
    np.testing.assert_array_equal(section.counts.toarray(), [[0, 1, 2], [6, 7, 8]])
    assert (join.n_matched, join.n_table_only, join.n_h5ad_only) == (2, 6, 1)
    assert join.table_only_examples == ("u1", "u2", "u3", "u4", "u5")
    assert join.h5ad_only_examples == ("b",)
    assert join.describe() == (
        "2 spots with tiles; 6 rows without a spot (first 'u1', 'u2', 'u3', 'u4', 'u5'); "
        "1 spots without a tile (first 'b')"
    )


def test_a_spot_without_a_tile_is_an_error(lab):
    _tables(lab, h5ad=["a", "b", "c"], table=["a", "c", "z"])
    with pytest.raises(SectionError) as caught:
        read_section(lab.config())
    message = str(caught.value)
    assert "1 of the 3 spots of" in message
    assert "have no tile in" in message
    assert "'b'; 1 rows match no spot ('z')" in message
    assert message.endswith("--allow-missing-tiles")


def test_a_spot_outside_the_image_has_no_tile(lab):
    lab.write_h5ad(ids=["a", "b"])
    lab.write_text("x,y,source_image,id,inside_he\n1,2,slide.tif,a,1\n3,4,slide.tif,b,0\n")
    with pytest.raises(SectionError, match=r"1 of the 2 spots.*'b'.*1 rows have inside_he false"):
        read_section(lab.config())
    section = read_section(lab.config(allow_missing_tiles=True))
    assert section.ids.tolist() == ["a"]
    assert (section.join.n_outside, section.join.n_table_only) == (1, 0)


@pytest.mark.parametrize("allowed", [False, True])
def test_no_match_shows_both_sides(lab, allowed):
    _tables(lab, h5ad=["a", "b"], table=["c", "d", "e"])
    words = r"none of the 2 spots .*: the h5ad has 'a', 'b', the table has 'c', 'd', 'e'; give the table"
    with pytest.raises(SectionError, match=words):
        read_section(lab.config(allow_missing_tiles=allowed))


@pytest.mark.parametrize(
    ("h5ad", "table", "words", "options"),
    [
        (["1", "2"], ["1.0", "2.0"], r"--id-strip-suffix=\.0: then 2 of 2", {"id_strip_suffix": ".0"}),
        (["AC", "GT"], ["AC-1", "GT-1"], r"--id-strip-suffix=-1: then 2 of 2", {"id_strip_suffix": "-1"}),
        (["2", "3", "4"], ["1", "2", "3"], r"off by one.*--id-offset=1: then 3 of 3", {"id_offset": 1}),
        (["0", "1"], ["1", "2"], r"off by one.*--id-offset=-1: then 2 of 2", {"id_offset": -1}),
        (["0", "1"], ["7", "8"], r"give the table that belongs", None),
        (["1.0", "2.0"], ["1", "2"], r"h5ad's ids seem to carry the suffix '\.0'; add it to the ids", None),
        (["AC-1"], ["AC"], r"h5ad's ids seem to carry the suffix '-1'; add it", None),
        (["sample_1x2"], ["1x2"], r"h5ad's ids seem .* section's name; put 'sample_' before", None),
        (["1x2"], ["sample_1x2"], r"table's ids seem .* section's name; remove 'sample_'", None),
        (["AC"], ["AC-1.0"], r"give the table that belongs", None),
    ],
)
def test_a_visible_cause_names_the_option_that_mends_it(lab, h5ad, table, words, options):
    _tables(lab, h5ad=h5ad, table=table)
    with pytest.raises(SectionError, match=words):
        read_section(lab.config())
    if options is not None:
        section = read_section(lab.config(**options))
        assert section.ids.tolist() == h5ad
        np.testing.assert_array_equal(section.xy_px[:, 0], 2.0 * np.arange(len(h5ad)))


def test_a_cause_is_named_on_top_of_the_options_given(lab):
    _tables(lab, h5ad=["3", "4"], table=["1.0", "2.0"])
    with pytest.raises(SectionError, match=r"--id-offset=2: then 2 of 2"):
        read_section(lab.config(id_strip_suffix=".0", id_offset=1))
    _tables(lab, h5ad=["AC"], table=["AC-1.0"])
    with pytest.raises(SectionError, match=r"--id-strip-suffix=-1\.0: then 1 of 1"):
        read_section(lab.config(id_strip_suffix=".0"))


def test_dense_ids_that_are_off_by_one_are_noticed(lab):
    """All but one match by accident: the mistake of the first research code."""
    _tables(lab, h5ad=[str(i) for i in range(11)], table=[str(i + 1) for i in range(11)])
    with pytest.raises(SectionError, match=r"1 of the 11 spots.*off by one.*--id-offset=-1: then 11 of 11"):
        read_section(lab.config())
    (note,) = read_section(lab.config(allow_missing_tiles=True)).join.notes
    assert "--id-offset=-1: then 11 of 11" in note


def test_duplicates_on_either_side(lab):
    _tables(lab, h5ad=["a", "b"], table=["a", "b", "a"])
    with pytest.raises(SectionError, match=r"'spot_id': 1 ids occur more than once: 'a'; .*column 'section'"):
        read_section(lab.config())
    _tables(lab, h5ad=["a", "b", "b", "c", "c"], table=["a", "b", "c"])
    with pytest.raises(SectionError, match=r"obs_names: 2 ids occur more than once: 'b', 'c'"):
        read_section(lab.config())


def test_duplicates_in_other_sections_do_not_matter(lab):
    lab.write_h5ad(ids=["a", "a"], obs={"section": ["S", "T"]})
    lab.write_text("x,y,source_image,id,section\n1,2,slide.tif,a,S\n3,5,slide.tif,a,T\n")
    section = read_section(lab.config(section="T"))
    np.testing.assert_array_equal(section.xy_px, [[3.0, 5.0]])
    np.testing.assert_array_equal(section.counts.toarray(), lab.counts[[1]])


def test_ids_that_become_equal_are_duplicates(lab):
    _tables(lab, h5ad=["1"], table=["1", "1.0"])
    with pytest.raises(SectionError, match="1 ids occur more than once: '1'"):
        read_section(lab.config(id_strip_suffix=".0"))


def test_empty_ids(lab):
    _tables(lab, h5ad=["a"], table=["a", "", ""])
    with pytest.raises(SectionError, match="2 ids are empty"):
        read_section(lab.config())


def test_an_offset_needs_integers(lab):
    _tables(lab, h5ad=["1"], table=["1", "2.0", "x3"])
    with pytest.raises(
        SectionError, match=r"--id-offset 1 needs integer ids, but 2 .*'2\.0', 'x3'.*--id-strip-suffix"
    ):
        read_section(lab.config(id_offset=1))


@settings(deadline=None)  # shared machines stall
@given(
    numbers=st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=13),
    offset=st.integers(-1000, 1000),
    suffix=st.sampled_from([".0", "-1", "_x"]),
)
def test_suffix_and_offset_are_undone(numbers, offset, suffix):
    written = np.array([f"{number - offset}{suffix}" for number in numbers])
    config = InputConfig(id_offset=offset, id_strip_suffix=suffix)
    assert requested_ids(written, config).tolist() == [str(number) for number in numbers]


@settings(deadline=None)  # shared machines stall
@given(
    h5ad=st.lists(st.text("abc", min_size=1, max_size=3), unique=True, min_size=1, max_size=13),
    data=st.data(),
)
def test_join_equals_a_slow_loop(h5ad, data):
    names = data.draw(st.lists(st.text("abc", min_size=1, max_size=3), unique=True, min_size=1, max_size=17))
    names = [*names, h5ad[0]] if h5ad[0] not in names else names
    table = Table(path=Path("map.csv"), frame=pd.DataFrame({"id": names}), id_column="id", image_column="id")
    join = join_rows(
        table,
        np.array(h5ad),
        section="S",
        n_other_sections=0,
        config=InputConfig(allow_missing_tiles=True),
    )
    pairs = [(names.index(name), spot) for spot, name in enumerate(h5ad) if name in names]
    assert list(zip(join.table_rows.tolist(), join.h5ad_rows.tolist(), strict=True)) == pairs
    assert join.ids.tolist() == [h5ad[spot] for _, spot in pairs]
    assert join.report.n_table_only == len(names) - len(pairs)
    assert join.report.n_h5ad_only == len(h5ad) - len(pairs)
    assert join.report.table_only_examples == tuple([name for name in names if name not in h5ad][:5])
