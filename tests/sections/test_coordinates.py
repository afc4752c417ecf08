"""Coordinates and µm per pixel: which columns win, units, borders, and the comparison with the h5ad."""

import itertools

import numpy as np
import pytest

from spam.errors import ConfigError, SectionError
from spam.sections.coordinates import CENTRE_COLUMNS, Reading, Scale, compare_with_h5ad, to_pixels

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
    lab.refused(SectionError, "1 rows", "x, y", "'bad'")
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
    assert "obsm['spatial'] of the h5ad by up to 17.0 px" in note
    assert "times" not in note
    (note,) = notes(lab.xy, lab.xy * 3.0)
    assert "0.3333 times obsm['spatial']" in note
    assert "--coordinates" in note
    (note,) = notes(lab.xy, broken)
    assert "NaN" in note


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
    section = lab.read(mpp=0.5)
    assert (section.mpp, section.mpp_source) == (0.5, "option")
    for value in (0.0, -0.5, float("nan"), "half", 0.04, 352.8):
        lab.write_h5ad(libraries={"lib": {group: {key: value}}})
        lab.refused(SectionError, f"['{group}']['{key}']", str(value).strip("-.0"), "--mpp")
        assert lab.read(mpp=25.0).mpp == 25.0


@pytest.mark.parametrize("mpp", [0.0, -1.0, 0.005, 250.0, float("nan"), float("inf")])
def test_an_option_that_is_not_a_pixel_size(lab, mpp):
    lab.write_csv()
    lab.refused(ConfigError, "--mpp", str(mpp), mpp=mpp)


def test_several_libraries_need_the_right_name(lab):
    lab.write_csv()
    lab.write_h5ad(libraries={"A": {"metadata": {"mpp": 0.3}}, "B": {"metadata": {"mpp": 0.7}}})
    assert lab.read().mpp is None
    assert lab.read(section="B").mpp == 0.7


def test_hints_about_the_pixel_size(lab):
    lab.write_csv()
    for library, words in (
        ({"scalefactors": {"spot_diameter_fullres": 89.4}}, "89.4 means about 0.727 "),
        ({"metadata": {"mpp": 1.0, "mpp_is_estimate": True}}, "1 µm per pixel as an estimate"),
    ):
        lab.write_h5ad(libraries={"lib": library})
        assert words in lab.read().join.notes[0]
        assert lab.read(mpp=0.6).join.notes == ()
