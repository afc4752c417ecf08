"""Where images are looked for, and what is a slide and what are tile files."""

import pytest

from spam.errors import MissingInputError, SectionError
from spam.sections import SlideSource, TileFiles, read_section

FIVE = ["a.png", "b.png", "c.png", "d.png", "e.png"]


def test_root_comes_before_its_folder_images(lab):
    inside = lab.image("images/slide.tif", b"other")
    lab.write_csv()
    assert read_section(lab.config()).tiles == SlideSource(path=lab.folder / "slide.tif")
    (lab.folder / "slide.tif").unlink()
    assert read_section(lab.config()).tiles == SlideSource(path=inside)


def test_a_missing_slide_says_where_it_was_looked_for(lab):
    lab.write_csv(source_image=["gone.tif"] * 5)
    with pytest.raises(MissingInputError) as caught:
        read_section(lab.config())
    message = str(caught.value)
    assert "1 of 1 slide named in column 'source_image'" in message
    assert f"'gone.tif'; looked in {lab.folder} and {lab.folder / 'images'}; --root" in message


def test_missing_tile_files_are_counted(lab):
    for name in FIVE[:2]:
        lab.image(name)
    lab.write_csv(source_image=FIVE)
    with pytest.raises(
        MissingInputError, match=r"3 of 5 tile files .*'c\.png', 'd\.png', 'e\.png'; looked in"
    ):
        read_section(lab.config())


def test_as_many_images_as_rows_are_tile_files(lab):
    paths = tuple(lab.image(name) for name in FIVE)
    lab.write_csv(source_image=FIVE)
    assert read_section(lab.config()).tiles == TileFiles(paths=paths)


def test_only_rows_of_the_section_count(lab):
    lab.image("other.tif")
    lab.write_csv(source_image=["slide.tif"] * 3 + ["other.tif"] * 2, section=["S"] * 3 + ["T"] * 2)
    assert read_section(lab.config(section="T")).tiles == SlideSource(path=lab.folder / "other.tif")


def test_several_slides_in_one_section(lab):
    lab.image("other.tif")
    lab.write_csv(source_image=["slide.tif"] * 3 + ["other.tif"] * 2)
    words = r"5 rows of this section name 2 images .*'slide\.tif', 'other\.tif'.*column 'section'.*--section"
    with pytest.raises(SectionError, match=words):
        read_section(lab.config())


def test_a_tile_column_may_name_a_file_twice(lab):
    path = lab.image("a.png")
    lab.write_csv(drop=("source_image",), patch_path=["a.png"] * 5)
    assert read_section(lab.config()).tiles == TileFiles(paths=(path,) * 5)


def test_a_folder_is_no_image(lab):
    (lab.folder / "images").mkdir()
    lab.write_csv(source_image=["images"] * 5)
    words = r"'images' \(there are folders of that name.*OME-Zarr.*DICOM files\); looked in"
    with pytest.raises(MissingInputError, match=words):
        read_section(lab.config())


def test_rows_without_an_image(lab):
    lab.write_csv(source_image=["slide.tif", "", "slide.tif", "", "slide.tif"])
    with pytest.raises(
        SectionError, match=r"2 rows have an empty 'source_image', first for the ids 's7', 's1'"
    ):
        read_section(lab.config())


def test_absolute_names_are_taken_as_they_are(lab, tmp_path_factory):
    slide = tmp_path_factory.mktemp("elsewhere") / "slide.svs"
    slide.write_bytes(b"pixels")
    lab.write_csv(source_image=[str(slide)] * 5)
    assert read_section(lab.config()).tiles == SlideSource(path=slide)


def _boxes(*corners):
    names = ("x0_he_px", "y0_he_px", "x1_he_px", "y1_he_px")
    return {name: [corner] * 5 for name, corner in zip(names, corners, strict=True)}


@pytest.mark.parametrize(
    ("columns", "side", "note"),
    [
        ({}, None, None),
        ({"patch_size_px": [224] * 5}, 224, None),
        ({"patch_size_px": ["224.0"] * 5}, 224, None),
        ({"patch_size_px": [224, 224, 112, 224, 224]}, None, "tiles of 112 to 224 px; no one size"),
        (_boxes(3, 5, 100.2, 102), 97, None),
        (_boxes(3, 5, 100, 110), None, "97 to 105 px"),
    ],
)
def test_stated_size_of_the_tiles(lab, columns, side, note):
    lab.write_csv(**columns)
    section = read_section(lab.config())
    assert section.patch_px == side
    if note is None:
        assert section.join.notes == ()
    else:
        assert note in section.join.notes[0]


@pytest.mark.parametrize("size", ["", "0", "-224", "nan", "big"])
def test_a_size_that_is_none(lab, size):
    lab.write_csv(patch_size_px=["224"] * 4 + [size])
    with pytest.raises(SectionError, match="'patch_size_px' must hold positive numbers"):
        read_section(lab.config())
