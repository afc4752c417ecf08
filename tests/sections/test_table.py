"""The tile table: every column name met in the wild, ids as they are written, and each way a file can be broken."""

import numpy as np
import pytest

from spam.errors import SectionError
from spam.sections import TileFiles, read_section
from spam.sections.tile_table import ID_COLUMNS, TILE_COLUMNS, read_table

XY = "x,y,source_image"


@pytest.mark.parametrize("column", ID_COLUMNS)
def test_every_id_column_is_read_as_text(lab, column):
    lab.write_text(f"{XY},{column}\n2,3,slide.tif,1.0\n5,7,slide.tif,007\n11,13,slide.tif,NA\n")
    assert read_section(lab.config()).ids.tolist() == ["1.0", "007", "NA"]


@pytest.mark.parametrize("column", TILE_COLUMNS)
def test_every_tile_file_column_is_read(lab, column):
    lab.image("images/a.png")
    lab.write_text(f"x,y,{column},id\n2,3,images/a.png,u\n")
    assert read_section(lab.config()).tiles == TileFiles(paths=(lab.folder / "images/a.png",))


def test_first_accepted_name_wins(lab):
    lab.write_text("id,barcode,cell_id,file,source_image\n1,2,3,4,5\n")
    table = read_table(lab.csv)
    assert (table.id_column, table.image_column) == ("cell_id", "source_image")


def test_names_are_case_sensitive_and_all_faults_come_at_once(lab):
    lab.write_text("x,y,Spot_ID,Image\n1,2,3,4\n")
    with pytest.raises(SectionError) as caught:
        read_table(lab.csv)
    message = str(caught.value)
    for words in (*ID_COLUMNS, "source_image", *TILE_COLUMNS, "'Spot_ID'", "'Image'", "rename"):
        assert words in message


def test_byte_order_mark_and_quotes_are_no_part_of_a_name(lab):
    lab.csv.write_bytes('\ufeffspot_id,x,y,source_image\r\n"a,b",2,3,slide.tif\r\n'.encode())
    assert read_section(lab.config()).ids.tolist() == ["a,b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read as a CSV.*comma-separated"),
        ("x,y,source_image,spot_id\n", "has a header but no rows"),
        ("x,y,source_image,spot_id\n1,2,slide.tif,a,surplus\n", "more cells than its header"),
        ("x,y,source_image,spot_id\n1,2,slide.tif,a\n1,2,slide.tif,a,b,c\n", "cannot be read as a CSV"),
        ("x;y;source_image;spot_id\n1;2;slide.tif;a\n", "separated by semicolons, expected commas"),
        ("x;y;source_image;spot_id\n1,5;2,5;slide.tif;a\n", "separated by semicolons, expected commas"),
        ("x\ty\tsource_image\tspot_id\n1\t2\tslide.tif\ta\n", "separated by tabs, expected commas"),
    ],
)
def test_broken_tables(lab, text, words):
    lab.write_text(text)
    with pytest.raises(SectionError, match=words):
        read_section(lab.config())


def test_not_utf8(lab):
    lab.csv.write_bytes(b"x,y,source_image,spot_id\n1,2,\xff\xfe,a\n")
    with pytest.raises(SectionError, match="UTF-8"):
        read_section(lab.config())


@pytest.mark.parametrize("false", ["False", "false", "0", "0.0", " FALSE "])
@pytest.mark.parametrize("true", ["True", "true", "1", "1.0"])
def test_rows_outside_the_image_are_no_tiles(lab, true, false):
    lab.write_text(
        f"{XY},id,inside_he\n2,3,slide.tif,a,{true}\n,,slide.tif,b,{false}\n7,11,slide.tif,c,{true}\n"
    )
    section = read_section(lab.config())
    assert section.ids.tolist() == ["a", "c"]
    np.testing.assert_array_equal(section.xy_px, [[2.0, 3.0], [7.0, 11.0]])
    assert section.join.n_outside == 1
    assert "1 rows outside the H&E image" in section.join.describe()


def test_unclear_inside_he(lab):
    lab.write_text(f"{XY},id,inside_he\n2,3,slide.tif,a,yes\n5,7,slide.tif,b,\n")
    with pytest.raises(SectionError, match=r"inside_he.*true/false or 1/0, but 2 rows hold 'yes', ''"):
        read_section(lab.config())


def test_all_rows_outside(lab):
    lab.write_text(f"{XY},id,inside_he\n2,3,slide.tif,a,0\n")
    with pytest.raises(SectionError, match="all 1 rows of section 'map' have inside_he false"):
        read_section(lab.config())
