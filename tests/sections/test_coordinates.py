"""Coordinates and µm per pixel: which columns win, units, borders, and the comparison with the h5ad."""

import dataclasses
import itertools

import anndata
import numpy as np
import pytest

from spam.errors import ConfigError, SectionError
from spam.sections.coordinates import (
    CENTRE_COLUMNS,
    Reading,
    Scale,
    compare_with_h5ad,
    find_array,
    pitch_hint,
    require_pitch,
    to_pixels,
)

MPP, HIRES = 0.25, 0.125  # powers of two: exact
LIBRARY = {"S": {"metadata": {"mpp": MPP}, "scalefactors": {"tissue_hires_scalef": HIRES}}}
FACTORS = {"pixels": 1.0, "um": MPP, "hires": HIRES}
READINGS = list(itertools.product(FACTORS, (False, True)))


def _one_row(lab, columns):
    """Write a table of one spot that has these coordinate columns, numbered 8, 16, 24, …"""
    cells = [str(8 * (i + 1)) for i in range(len(columns))]
    lab.write_text(",".join([*columns, "id", "source_image"]), ",".join([*cells, "a", "slide.tif"]))


@pytest.mark.parametrize(
    ("columns", "centre"),
    [
        (("x", "y"), (8, 16)),
        (("x_he_px", "y_he_px"), (8, 16)),
        (("pxl_row_in_fullres", "pxl_col_in_fullres"), (16, 8)),
        (("x0_he_px", "y0_he_px", "x1_he_px", "y1_he_px"), (16, 24)),
        (("x_morph_px", "y_morph_px"), (8, 16)),
        (("x_um", "y_um"), (8 / MPP, 16 / MPP)),
    ],
)
def test_every_name_of_coordinates(lab, columns, centre):
    _one_row(lab, columns)
    np.testing.assert_array_equal(lab.read(mpp=MPP).xy_px, [centre])


@pytest.mark.parametrize(("better", "worse"), list(itertools.pairwise(CENTRE_COLUMNS)))
def test_pixels_of_the_image_win(lab, better, worse):
    _one_row(lab, better)
    alone = lab.read(mpp=MPP).xy_px
    _one_row(lab, (*better, *worse))
    np.testing.assert_array_equal(lab.read(mpp=MPP).xy_px, alone)


def test_um_on_request_takes_the_columns_named_so(lab):
    _one_row(lab, ("x", "y", "x_um", "y_um"))
    np.testing.assert_array_equal(lab.read(coordinates="um", mpp=MPP).xy_px, [[24 / MPP, 32 / MPP]])


def test_units_that_cannot_be_converted(lab):
    for columns in (("x_um", "y_um"), ("x", "y")):
        _one_row(lab, columns)
        lab.refused(SectionError, ", ".join(columns), "µm per pixel", "--mpp", coordinates="um")
    lab.refused(SectionError, "--coordinates hires", "tissue_hires_scalef", coordinates="hires")
    _one_row(lab, ("x_um", "y_um"))
    lab.refused(ConfigError, "x_um, y_um", "--coordinates hires", coordinates="hires")


def test_no_coordinates(lab):
    lab.write_text("X,Y,id,source_image", "1,2,a,slide.tif")
    lab.refused(SectionError, *itertools.chain(*CENTRE_COLUMNS), "'X'", "'Y'")


@pytest.mark.parametrize("cell", ["", "nan", "inf", "-inf", "twelve", '"1,5"'])
@pytest.mark.parametrize("column", [0, 1])
def test_broken_coordinates_name_the_ids_unless_no_spot_uses_them(lab, cell, column):
    cells = ["3", "5"]
    cells[column] = cell
    lab.write_text("x,y,id,source_image", "1,2,good,slide.tif", f"{','.join(cells)},bad,slide.tif")
    lab.refused(SectionError, "1 row has no", "x, y", "'bad'")
    lab.write_h5ad(ids=["good"])
    np.testing.assert_array_equal(lab.read().xy_px, [[1.0, 2.0]])


@pytest.mark.parametrize("true", READINGS)
@pytest.mark.parametrize("asked", READINGS)
def test_a_wrong_reading_is_named_with_the_right_options(lab, asked, true):
    """Coordinates are written in one unit and order and read in another: an error names the options that fit."""
    unit, is_swapped = true
    written = lab.xy * FACTORS[unit]
    written = written[:, ::-1].copy() if is_swapped else written
    scale = Scale(mpp=MPP, mpp_source="h5ad", hires=HIRES)
    reading = Reading(columns=("x", "y"), unit=asked[0], is_swapped=asked[1])
    if asked == true:
        np.testing.assert_array_equal(to_pixels(written, reading, scale), lab.xy)
        assert compare_with_h5ad(written, lab.xy, reading, scale) == ()
        return
    with pytest.raises(SectionError, match=r"obsm\['spatial'\]") as caught:
        compare_with_h5ad(written, lab.xy, reading, scale)
    expected = [f"--coordinates {unit}"] * (unit != "pixels") + ["--swap-xy"] * is_swapped
    words = f"with {' '.join(expected)}:" if expected else "without --coordinates and --swap-xy:"
    assert f"Run again {words}" in str(caught.value)


def test_swapped_columns_of_real_files_are_noticed_and_mended_on_purpose(lab):
    lab.write_h5ad(spatial=lab.xy)
    lab.write_csv(xy=lab.xy[:, ::-1])
    lab.refused(SectionError, "with --swap-xy")
    np.testing.assert_array_equal(lab.read(swap_xy=True).xy_px, lab.xy)


def test_tables_that_agree_or_differ(lab):
    def notes(xy, spatial, **options):
        lab.write_h5ad(spatial=spatial, libraries=LIBRARY)
        lab.write_csv(xy=xy)
        return lab.read(**options).join.notes

    assert notes(np.rint(lab.xy * HIRES), lab.xy, coordinates="hires") == ()  # half a hires pixel is 4 pixels
    assert notes(lab.xy, np.column_stack([lab.xy, np.full(5, 1e6)])) == ()  # a third axis is left out
    moved, broken = lab.xy.copy(), lab.xy.copy()
    moved[3, 1] += 17.0
    broken[2, 0] = np.nan
    (note,) = notes(lab.xy, moved)
    assert "obsm['spatial'] of the h5ad by up to 17 px" in note
    assert "times" not in note
    (note,) = notes(lab.xy, lab.xy * 3.0)
    assert "0.3333 times obsm['spatial']" in note
    assert "--coordinates" in note
    (note,) = notes(lab.xy, broken)
    assert "NaN" in note
    assert "1 of 5 spots" in note
    (note,) = notes(lab.xy, np.full((5, 2), np.inf))
    assert "5 of 5 spots" in note
    far = lab.xy.copy()
    far[3, 1] = -1e300
    (note,) = notes(lab.xy, far)
    assert "by up to 1e+300 px (1 of 5 spots)" in note
    moved[2, 0] = np.nan
    assert [
        words
        for note, words in zip(notes(lab.xy, moved), ("1 of 5 spots", "17 px (1 of 4 spots)"), strict=True)
        if words in note
    ] == ["1 of 5 spots", "17 px (1 of 4 spots)"]
    apart = lab.xy * 3.0
    apart[1] = 5.0
    assert "0.3333 times obsm['spatial']" in notes(lab.xy, apart)[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1e9])
@pytest.mark.parametrize("asked", READINGS[1:])
def test_one_bad_row_does_not_hide_that_the_others_are_read_wrongly(lab, asked, bad):
    spatial = lab.xy.copy()
    spatial[3] = bad
    scale = Scale(mpp=MPP, mpp_source="h5ad", hires=HIRES)
    reading = Reading(columns=("x", "y"), unit=asked[0], is_swapped=asked[1])
    n = 5 if np.isfinite(bad) else 4
    with pytest.raises(
        SectionError, match=rf"without --coordinates and --swap-xy: then 4 of {n} spots agree"
    ):
        compare_with_h5ad(lab.xy, spatial, reading, scale)
    assert (
        len(
            compare_with_h5ad(
                lab.xy, spatial, dataclasses.replace(reading, unit="pixels", is_swapped=False), scale
            )
        )
        == 1
    )


def test_no_option_is_named_that_cannot_be_asked_for(lab):
    """Columns named in µm are always read in µm: an h5ad in µm is a note, not advice to read pixels."""
    lab.write_h5ad(spatial=lab.xy * MPP, libraries=LIBRARY)
    um = lab.xy[list(lab.table_order)] * MPP
    lab.write_csv(drop=("x", "y"), x_um=um[:, 0], y_um=um[:, 1])
    np.testing.assert_array_equal(lab.read().xy_px, lab.xy)
    assert "obsm['spatial']" in lab.read().join.notes[0]


@pytest.mark.parametrize("group", ["metadata", "scalefactors"])
@pytest.mark.parametrize("key", ["mpp", "microns_per_pixel"])
def test_every_place_of_mpp_in_the_h5ad(lab, group, key):
    lab.write_csv()
    lab.write_h5ad(libraries={"lib": {group: {key: 0.37}}})
    section = lab.read()
    assert (section.mpp, section.mpp_source) == (0.37, "h5ad")
    np.testing.assert_array_equal(section.xy_um, section.xy_px * 0.37)
    assert lab.read(mpp=0.37).join.notes == section.join.notes == ()
    for mpp, factor in ((0.5, 1.35), (3.7, 10), (0.037, 0.1)):
        section = lab.read(mpp=mpp)
        assert (section.mpp, section.mpp_source) == (mpp, "option")
        assert f"--mpp {mpp:g} overrides the 0.37 µm per pixel of uns" in section.join.notes[0]
        assert f"['{group}']['{key}'] of the h5ad (by a factor of {factor:g})" in section.join.notes[0]
    for value in (0.0, -0.5, float("nan"), "half", 0.04, 352.8):
        lab.write_h5ad(libraries={"lib": {group: {key: value}}})
        lab.refused(SectionError, f"['{group}']['{key}']", str(value).strip("-.0"), "--mpp")
        section = lab.read(mpp=25.0)
        assert section.mpp == 25.0
        (note,) = section.join.notes
        assert note.startswith("--mpp 25 ")
        assert str(value).strip("-.0") in note
        assert f"['{group}']['{key}']" in note


@pytest.mark.parametrize("mpp", [0.0, -1.0, 0.005, 250.0, float("nan"), float("inf")])
def test_an_option_that_is_not_a_pixel_size(lab, mpp):
    lab.write_csv()
    lab.refused(ConfigError, "--mpp", str(mpp), mpp=mpp)


def test_several_libraries_need_the_right_name(lab):
    lab.write_csv()
    lab.write_h5ad(libraries={"A": {"metadata": {"mpp": 0.3}}, "B": {"metadata": {"mpp": 0.7}}})
    assert lab.read().mpp is None
    assert lab.read(section="B").mpp == 0.7


def test_two_pixel_sizes_in_the_h5ad(lab):
    lab.write_csv()
    lab.write_h5ad(libraries={"lib": {"metadata": {"mpp": 0.5}, "scalefactors": {"microns_per_pixel": 0.51}}})
    assert lab.read().mpp == 0.5
    lab.write_h5ad(libraries={"lib": {"metadata": {"mpp": 0.5}, "scalefactors": {"microns_per_pixel": 0.25}}})
    lab.refused(SectionError, "is 0.5", "is 0.25", "--mpp")
    assert len(lab.read(mpp=0.25).join.notes) == 1


def test_hints_about_the_pixel_size(lab):
    lab.write_csv()
    for library, words in (
        ({"scalefactors": {"spot_diameter_fullres": 89.4}}, "89.4 means about 0.727 (Visium: 65 µm)"),
        # as R writes it
        ({"scalefactors": {"spot_diameter_fullres": np.array([178.8])}}, "178.8 means about 0.364 "),
        ({"metadata": {"mpp": 1.0, "mpp_is_estimate": True}}, "1 µm per pixel as an estimate"),
    ):
        lab.write_h5ad(libraries={"lib": library})
        assert words in lab.read().join.notes[0]
    lab.write_h5ad(libraries={"lib": {"scalefactors": {"spot_diameter_fullres": 89.4}}})
    assert lab.read(mpp=0.6).join.notes == ()


# Arrays of spots


def lattice(pitch_px, *, n=9, is_hexagonal=True, angle=0.3, jitter=0.0, seed=1):
    rows, columns = np.mgrid[:n, :n]
    shift, high = (0.5 * (rows % 2), np.sqrt(0.75)) if is_hexagonal else (0.0, 1.0)
    xy = np.stack([columns + shift, rows * high], axis=-1).reshape(-1, 2) * pitch_px
    xy = xy + np.random.default_rng(seed).normal(size=xy.shape) * jitter * pitch_px
    return xy @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@pytest.mark.parametrize("pitch_px", [23.4, 137.6, 411.0])
@pytest.mark.parametrize("angle", [0.0, 0.3, np.pi / 2])
def test_visium_is_recognised_by_its_hexagons(pitch_px, angle):
    xy = lattice(pitch_px, angle=angle)
    for part in (xy, np.rint(xy), xy[:40], xy[xy[:, 1] > np.median(xy[:, 1])]):
        array = find_array(part, {})
        assert (array.name, array.pitch_um) == ("Visium", 100.0)
        assert array.pitch_px == pytest.approx(pitch_px, rel=0.01)  # coordinates may be rounded
        assert array.mpp == pytest.approx(100 / pitch_px, rel=0.01)


def test_other_arrays_need_a_stated_pitch_and_cells_have_none():
    square, cells = (
        lattice(289.0, is_hexagonal=False, jitter=0.1),
        np.random.default_rng(2).random((997, 2)) * 5000,
    )
    for xy in (square, cells, lattice(10.0)[:6]):
        assert find_array(xy, {}) is None
    assert find_array(cells, {"metadata": {"spot_pitch_um": 200.0}}) is None
    for library in ({"metadata": {"spot_pitch_um": 200.0}}, {"metadata": {"pitch_um": np.array([200.0])}}):
        array = find_array(square, library)
        assert (array.name, array.pitch_um) == ("the h5ad", 200.0)
        assert array.pitch_px == pytest.approx(289.0, rel=0.05)
    bins = find_array(lattice(16.0, is_hexagonal=False), {"scalefactors": {"bin_size_um": 8.0}})
    assert (bins.pitch_um, bins.mpp) == (8.0, pytest.approx(0.5, rel=1e-9))
    assert find_array(lattice(60.0), {"metadata": {"pitch_um": 150.0}}).mpp == pytest.approx(2.5, rel=1e-9)


@pytest.mark.parametrize(
    ("diameter_um", "words"), [(65.0, "agrees (65 µm)"), (55.0, "agrees (55 µm)"), (20.0, "does not fit")]
)
def test_the_hint_is_the_pitch_checked_by_the_diameter(diameter_um, words):
    library = {"scalefactors": {"spot_diameter_fullres": diameter_um / 0.7268}}
    xy = lattice(100 / 0.7268)
    hint = pitch_hint(find_array(xy, library), library)
    assert "a spot pitch of 137.6 px means about 0.727 (Visium: 100 µm)" in hint
    assert words in hint
    assert "diameter" not in pitch_hint(find_array(xy, {}), {})
    assert pitch_hint(None, {}) is None


def test_real_sections_have_the_pitch_of_their_array(shared_data):
    for name, pitch_um, tolerance in (("colon_visium/colon_d0", 100, 0.01), ("her2st/C2", 200, 0.1), ("her2st/A1", 200, 0.1),
                                      ("mob_st2k/MOB1", 142, 0.05), ("xenium_lung_ncbi858/NCBI858", None, 0)):  # fmt: skip
        adata = anndata.read_h5ad(shared_data / f"{name}.h5ad", backed="r")
        (library,) = adata.uns["spatial"].values()
        array = find_array(np.asarray(adata.obsm["spatial"], dtype=np.float64), library)
        assert (array.pitch_um if array else None) == pitch_um
        if array is not None:
            assert array.mpp == pytest.approx(float(library["metadata"]["mpp"]), rel=tolerance)
            for factor in (0.1, 1.5, 10):
                with pytest.raises(SectionError, match=r"--mpp"):
                    require_pitch(array, float(library["metadata"]["mpp"]) * factor, "option", "S")
            require_pitch(array, float(library["metadata"]["mpp"]), "h5ad", "S")
