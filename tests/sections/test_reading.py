"""From made-up lab files to a section, whole arrays compared."""

import hashlib

import numpy as np
import pytest

from spam.errors import ConfigError, MissingInputError, SectionError, SpamError
from spam.sections import SlideSource, TileFiles, read_section

MPP = 0.5
LIBRARY = {"S": {"metadata": {"mpp": MPP}, "scalefactors": {"tissue_hires_scalef": 0.1}}}


def _sha(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()


def test_everything_comes_in_the_order_of_the_h5ad(lab):
    lab.write_h5ad(
        obs={"section": ["S"] * 5, "patient": ["P"] * 5, "array_row": [2, 3, 5, 7, 11]},
        spatial=lab.xy,
        libraries=LIBRARY,
    )
    lab.write_csv()
    section = read_section(lab.config())

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
    assert [(s.role, s.name, s.sha256) for s in section.sources] == [
        ("h5ad", "sample.h5ad", _sha(lab.h5ad.read_bytes())),
        ("csv", "map.csv", _sha(lab.csv.read_bytes())),
        ("slide", "slide.tif", _sha(b"slide.tif")),
    ]
    assert [s.n_bytes for s in section.sources] == [
        lab.h5ad.stat().st_size,
        lab.csv.stat().st_size,
        len(b"slide.tif"),
    ]


def test_without_h5ad_the_table_says_everything(lab):
    lab.write_csv(section=["T", "T", "other", "T", "T"], donor=["D", "D", "E", "D", "D"])
    section = read_section(lab.config(section="T"))

    assert (section.name, section.donor) == ("T", "D")
    assert section.ids.tolist() == ["s2", "s7", "s1", "s5"]
    np.testing.assert_array_equal(section.xy_px, lab.xy[[4, 2, 1, 3]])
    assert section.counts is None
    assert section.genes is None
    assert (section.mpp, section.mpp_source, section.xy_um, section.hires_scale) == (None, None, None, None)
    assert section.obs == {}
    assert section.join.n_other_sections == 1
    assert section.join.describe() == "4 spots with tiles; 1 rows of other sections"
    assert [source.role for source in section.sources] == ["csv", "slide"]


def test_h5ad_without_matrix_has_no_counts(lab):
    lab.write_h5ad(x=None)
    lab.write_csv()
    section = read_section(lab.config())
    assert section.counts is None
    assert section.genes is None
    assert section.ids.tolist() == list(lab.ids)


def test_one_spot_of_an_h5ad_is_a_section(lab):
    lab.write_h5ad(ids=["s1"], spatial=lab.xy[1:2])
    lab.write_csv()
    section = read_section(lab.config())
    np.testing.assert_array_equal(section.xy_px, lab.xy[1:2])
    np.testing.assert_array_equal(section.counts.toarray(), lab.counts[:1])
    assert section.join.n_table_only == 4


def test_section_of_several_is_cut_out(lab):
    lab.write_h5ad(
        ids=["s1", "b", "s5"],
        obs={"section": ["A", "B", "A"], "patient": ["p", "q", "p"], "rank": [2, 3, 5]},
        libraries={"A": {"metadata": {"mpp": 0.25}}, "B": {"metadata": {"mpp": 4.0}}},
    )
    lab.write_csv()
    section = read_section(lab.config(section="A"))
    assert section.ids.tolist() == ["s1", "s5"]
    np.testing.assert_array_equal(section.counts.toarray(), lab.counts[[0, 2]])
    np.testing.assert_array_equal(section.obs["rank"], [2, 5])
    assert (section.donor, section.mpp) == ("p", 0.25)


def test_tile_files_come_in_spot_order_with_one_digest(lab):
    names = [f"tiles/{name}.png" for name in lab.ids]
    for name in names:
        lab.image(name)
    order = [4, 2, 0, 1, 3]
    lab.write_h5ad()
    lab.write_csv(source_image=[names[row] for row in order])
    section = read_section(lab.config())
    assert section.tiles == TileFiles(paths=tuple(lab.folder / name for name in names))
    source = section.sources[-1]
    assert (source.role, source.name, source.n_bytes) == ("tiles", "tiles", sum(map(len, names)))
    assert source.sha256 == _sha(*(name.encode() for name in names))


def test_all_missing_inputs_are_named_at_once(lab):
    missing = {option: lab.folder / f"no_{option}" for option in ("h5ad", "csv", "root")}
    with pytest.raises(MissingInputError) as caught:
        read_section(lab.config(**missing))
    message = str(caught.value)
    for option, path in missing.items():
        assert f"--{option} {path} is not a" in message


@pytest.mark.parametrize("option", ["csv", "root"])
def test_csv_and_root_are_needed(lab, option):
    lab.write_csv()
    with pytest.raises(ConfigError, match=rf"needs a table of tiles .*--{option}, given: None"):
        read_section(lab.config(**{option: None}))


def test_name_hint_is_weaker_than_the_option(lab):
    lab.write_csv()
    assert read_section(lab.config(), name_hint="hinted").name == "hinted"
    assert read_section(lab.config(section="asked"), name_hint="hinted").name == "asked"
    assert read_section(lab.config()).name == "map"


def _flip(lab, **options):
    """Read with and without the options and return what changed, by attribute; errors are outcomes too."""

    def outcome(**given):
        try:
            section = read_section(lab.config(**given))
        except SpamError as error:
            return {"error": str(error)}
        return {
            "name": section.name,
            "donor": section.donor,
            "mpp": section.mpp,
            "xy": section.xy_px.tolist(),
            "counts": section.counts.toarray().tolist(),
            "n": section.n_spots,
        }

    before, after = outcome(), outcome(**options)
    return {key for key in before | after if before.get(key) != after.get(key)}


def test_every_option_changes_something(lab):
    lab.write_h5ad(layers={"other": lab.counts + 1}, libraries=LIBRARY)
    lab.write_csv(section=["S"] * 5)
    assert "error" in _flip(lab, section="else")
    assert _flip(lab, donor="D") == {"donor"}
    assert _flip(lab, mpp=2.0) == {"mpp"}
    assert _flip(lab, counts_layer="other") == {"counts"}
    assert _flip(lab, coordinates="um") == {"xy"}
    assert _flip(lab, coordinates="hires") == {"xy"}
    assert _flip(lab, swap_xy=True) == {"xy"}
    assert "error" in _flip(lab, id_offset=1)
    assert "error" in _flip(lab, id_strip_suffix="3")
    lab.write_h5ad(ids=[*lab.ids, "extra"], x=np.zeros((6, 3)), libraries=LIBRARY)
    assert "n" in _flip(lab, allow_missing_tiles=True)


def test_obsm_with_nan_is_noted(lab):
    spatial = lab.xy.copy()
    spatial[2, 0] = np.nan
    lab.write_h5ad(spatial=spatial)
    lab.write_csv()
    assert "not compared" in read_section(lab.config()).join.describe()


def test_unreadable_h5ad_and_csv(lab):
    lab.write_csv()
    lab.h5ad.write_bytes(b"no HDF5 at all")
    with pytest.raises(SectionError, match=r"sample\.h5ad cannot be read as an AnnData file.*write it again"):
        read_section(lab.config())
