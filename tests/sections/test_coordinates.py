"""Coordinates: which columns win, units, borders, and the comparison with the h5ad."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spam.errors import ConfigError, SectionError
from spam.sections import read_section
from spam.sections.coordinates import CENTRE_COLUMNS, Reading, Scale, compare_with_h5ad, to_pixels

MPP, HIRES = 0.25, 0.125
LIBRARY = {"S": {"metadata": {"mpp": MPP}, "scalefactors": {"tissue_hires_scalef": HIRES}}}


def _one_row(lab, columns):
    """Write a table of one spot that has these coordinate columns, numbered 8, 16, 24, …"""
    names = [*columns, "id", "source_image"]
    cells = [str(8 * (i + 1)) for i in range(len(columns))]
    lab.write_text(",".join(names) + "\n" + ",".join([*cells, "a", "slide.tif"]) + "\n")


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
    np.testing.assert_array_equal(read_section(lab.config(mpp=MPP)).xy_px, [centre])


@pytest.mark.parametrize(("better", "worse"), list(itertools.pairwise(CENTRE_COLUMNS)))
def test_pixels_of_the_image_win(lab, better, worse):
    _one_row(lab, better)
    alone = read_section(lab.config(mpp=MPP)).xy_px
    _one_row(lab, (*better, *worse))
    np.testing.assert_array_equal(read_section(lab.config(mpp=MPP)).xy_px, alone)


def test_um_on_request_takes_the_columns_named_so(lab):
    _one_row(lab, ("x", "y", "x_um", "y_um"))
    xy = read_section(lab.config(coordinates="um", mpp=MPP)).xy_px
    np.testing.assert_array_equal(xy, [[24 / MPP, 32 / MPP]])


@pytest.mark.parametrize("columns", [("x_um", "y_um"), ("x", "y")])
def test_um_need_mpp(lab, columns):
    _one_row(lab, columns)
    with pytest.raises(SectionError, match=r"in µm, and µm per pixel is unknown: give --mpp"):
        read_section(lab.config(coordinates="um"))


def test_hires_needs_the_scale_factor(lab):
    lab.write_h5ad()
    lab.write_csv()
    with pytest.raises(SectionError, match=r"--coordinates hires needs .*tissue_hires_scalef"):
        read_section(lab.config(coordinates="hires"))


def test_um_columns_are_no_hires_pixels(lab):
    _one_row(lab, ("x_um", "y_um"))
    with pytest.raises(ConfigError, match=r"--coordinates hires contradicts .*x_um, y_um"):
        read_section(lab.config(coordinates="hires"))


def test_no_coordinates(lab):
    lab.write_text("X,Y,id,source_image\n1,2,a,slide.tif\n")
    with pytest.raises(SectionError) as caught:
        read_section(lab.config())
    for words in ("no coordinates", *itertools.chain(*CENTRE_COLUMNS), "'X'", "'Y'"):
        assert words in str(caught.value)


@pytest.mark.parametrize("cell", ["", "nan", "inf", "-inf", "twelve", "1,5"])
@pytest.mark.parametrize("column", [0, 1])
def test_broken_coordinates_name_the_ids(lab, cell, column):
    cells = ["3", "5"]
    cells[column] = f'"{cell}"'
    lab.write_text(f"x,y,id,source_image\n1,2,good,slide.tif\n{','.join(cells)},bad,slide.tif\n")
    with pytest.raises(SectionError, match=r"1 rows have no finite number in x, y, first for the ids 'bad'"):
        read_section(lab.config())


def test_broken_coordinates_of_rows_without_a_spot_do_not_matter(lab):
    lab.write_h5ad(ids=["a"])
    lab.write_text("x,y,id,source_image\n3,5,a,slide.tif\n,,b,slide.tif\n")
    np.testing.assert_array_equal(read_section(lab.config()).xy_px, [[3.0, 5.0]])


@settings(deadline=None)  # shared machines stall
@given(
    xy=arrays(np.float64, (7, 2), elements=st.floats(-1e5, 1e5, width=32)),
    unit=st.sampled_from(["pixels", "um", "hires"]),
    is_swapped=st.booleans(),
)
def test_pixels_undo_unit_and_order(xy, unit, is_swapped):
    scale = Scale(mpp=MPP, mpp_source="option", hires=HIRES)  # powers of two: exact
    written = xy * {"pixels": 1.0, "um": MPP, "hires": HIRES}[unit]
    written = written[:, ::-1].copy() if is_swapped else written
    reading = Reading(columns=("x", "y"), unit=unit, is_swapped=is_swapped)
    np.testing.assert_array_equal(to_pixels(written, reading, scale), xy)


FACTORS = {"pixels": 1.0, "um": MPP, "hires": HIRES}
READINGS = list(itertools.product(FACTORS, (False, True)))


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
        assert compare_with_h5ad(written, lab.xy, reading, scale) == ()
        return
    with pytest.raises(SectionError, match=r"equal it when read .*or correct obsm\['spatial'\]") as caught:
        compare_with_h5ad(written, lab.xy, reading, scale)
    advice = str(caught.value).split("run again ")[1].split(", or correct")[0]
    expected = [f"--coordinates {unit}"] * (unit != "pixels") + ["--swap-xy"] * is_swapped
    assert advice == (f"with {' '.join(expected)}" if expected else "without --coordinates and --swap-xy")


def test_swapped_columns_of_real_files_are_noticed_and_mended_on_purpose(lab):
    order = [4, 2, 0, 1, 3]
    lab.write_h5ad(spatial=lab.xy)
    lab.write_csv(x=lab.xy[order, 1], y=lab.xy[order, 0])
    with pytest.raises(SectionError, match="when read with --swap-xy: run again with --swap-xy"):
        read_section(lab.config())
    np.testing.assert_array_equal(read_section(lab.config(swap_xy=True)).xy_px, lab.xy)


def test_no_option_is_named_that_cannot_be_asked_for(lab):
    """Columns named in µm are read in µm whatever is asked: an h5ad in µm is a note, not an advice to read pixels."""
    order = [4, 2, 0, 1, 3]
    lab.write_h5ad(spatial=lab.xy * MPP, libraries=LIBRARY)
    um = lab.xy[order] * MPP
    lab.write_csv(drop=("x", "y"), x_um=um[:, 0], y_um=um[:, 1])
    section = read_section(lab.config())
    np.testing.assert_array_equal(section.xy_px, lab.xy)
    assert "px from obsm['spatial']" in section.join.notes[0]


def test_rounded_tables_agree(lab):
    order = [4, 2, 0, 1, 3]
    lab.write_h5ad(spatial=lab.xy, libraries=LIBRARY)
    hires = np.rint(lab.xy[order] * HIRES)  # up to half a hires pixel, which is 4 pixels
    lab.write_csv(x=hires[:, 0], y=hires[:, 1])
    assert read_section(lab.config(coordinates="hires")).join.notes == ()


def test_other_coordinates_are_a_note_with_the_largest_distance(lab):
    spatial = lab.xy.copy()
    spatial[3, 1] += 17.0
    lab.write_h5ad(spatial=spatial, libraries=LIBRARY)
    lab.write_csv()
    section = read_section(lab.config())
    np.testing.assert_array_equal(section.xy_px, lab.xy)
    (note,) = section.join.notes
    assert note == "the table lies up to 17.0 px from obsm['spatial'] of the h5ad; the table was used"


def test_another_scale_that_no_option_explains_is_named_in_the_note(lab):
    order = [4, 2, 0, 1, 3]
    lab.write_h5ad(spatial=lab.xy * 4.0)
    lab.write_csv(x=lab.xy[order, 0], y=lab.xy[order, 1])
    section = read_section(lab.config())
    np.testing.assert_array_equal(section.xy_px, lab.xy)
    (note,) = section.join.notes
    assert "equals obsm['spatial'] times 0.25" in note
    assert "--coordinates" in note


def test_a_third_axis_of_obsm_is_left_out(lab):
    lab.write_h5ad(spatial=np.column_stack([lab.xy, np.full(5, 1e6)]))
    lab.write_csv()
    assert read_section(lab.config()).join.notes == ()
