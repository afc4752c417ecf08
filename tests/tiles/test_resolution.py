"""Which statements of µm per pixel are believed."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from spam.tiles import open_slide
from spam.tiles.slide import UNSTATED, pixel_size
from spam.tiles.tiff_slide import ome_pixel_size

OME = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels {}/></Image></OME>'


@pytest.mark.parametrize(
    ("attributes", "mpp"),
    [
        ('PhysicalSizeX="0.5" PhysicalSizeY="0.5"', 0.5),
        ('PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="0.25" PhysicalSizeYUnit="µm"', 0.25),
        ('PhysicalSizeX="0.002" PhysicalSizeXUnit="mm" PhysicalSizeY="0.002" PhysicalSizeYUnit="mm"', 2.0),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1" PhysicalSizeYUnit="pixel"', None),
        ('PhysicalSizeX="half" PhysicalSizeY="half"', None),
        ('PhysicalSizeX="0.5"', None),
        ("", None),
    ],
)
def test_ome_header(attributes, mpp):
    size = ome_pixel_size(OME.format(attributes))
    assert size.mpp == mpp
    assert (size.note is None) == (mpp is not None)


def test_an_ome_header_that_is_no_xml_says_nothing():
    assert ome_pixel_size("<OME><Image>") == UNSTATED
    assert ome_pixel_size("<OME/>") == UNSTATED


@pytest.mark.parametrize(
    ("x", "y", "mpp"),
    [
        (0.5, 0.5, 0.5),
        (0.05, 0.05, 0.05),
        (20.0, 20.0, 20.0),
        (0.5, 0.505, 0.5025),
        (0.04, 0.04, None),
        (21.0, 21.0, None),
        (0.5, 0.6, None),
        (None, 0.5, None),
        (float("nan"), 0.5, None),
    ],
)
def test_implausible_or_oblong_pixels_are_not_trusted(x, y, mpp):
    size = pixel_size(x, y, stated="there")
    assert size.mpp == (mpp if mpp is None else pytest.approx(mpp, rel=1e-12))
    assert (size.note is None) == (mpp is not None)


@pytest.mark.parametrize(
    ("unit", "per_unit", "mpp"),
    [
        ("CENTIMETER", 20_000, 0.5),
        ("INCH", 25_400, 1.0),
        ("NONE", 20_000, None),
        ("INCH", 72, None),  # the resolution of a screen
    ],
)
@pytest.mark.parametrize("layout", [{"tile": (64, 64)}, {}])
def test_tiff_tags(tmp_path, unit, per_unit, mpp, layout):
    pixels = np.zeros((97, 89, 3), dtype=np.uint8)
    path = tmp_path / "a.tif"
    resolution = (per_unit, per_unit)
    tifffile.imwrite(
        path, pixels, photometric="rgb", resolution=resolution, resolutionunit=unit, metadata=None, **layout
    )
    with open_slide(path) as slide:
        assert slide.mpp == mpp
        assert (slide.mpp_note is None) == (mpp is not None)


def test_the_dpi_of_a_picture_is_not_a_pixel_size(tmp_path):
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (53, 47)).save(tmp_path / name, dpi=(25_400, 25_400))
        with open_slide(tmp_path / name) as slide:
            assert slide.mpp is None
            assert "is a" in slide.mpp_note
            assert "25400 dpi are for printing" in slide.mpp_note


def test_what_was_found_is_said(tmp_path):
    pixels = np.zeros((97, 89, 3), dtype=np.uint8)

    def note(name, **options):
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb", **options)
        with open_slide(tmp_path / name) as slide:
            assert slide.mpp is None
            return slide.mpp_note

    screen = note("a.tif", resolution=(72, 72), resolutionunit="INCH", metadata=None)
    assert screen.startswith(
        "states 352.8 µm per pixel (TIFF resolution: 72 pixels per inch), the resolution of a screen"
    )
    oblong = note("b.tif", resolution=(20_000, 10_000), resolutionunit="CENTIMETER", metadata=None)
    assert oblong.startswith(
        "states pixels of 0.5 x 1 µm (TIFF resolution: 20000 pixels per cm), which are not square"
    )
    assert note("c.tif", metadata=None) == "states no pixel size"
    unitless = {"axes": "YXS", "PhysicalSizeX": 3.0, "PhysicalSizeXUnit": "pixel"}
    unitless |= {"PhysicalSizeY": 3.0, "PhysicalSizeYUnit": "pixel"}
    said = note("d.ome.tif", metadata=unitless)
    assert (
        said
        == "states its pixel size in what is no length (OME-XML: PhysicalSizeX 3.0 pixel, PhysicalSizeY 3.0 pixel)"
    )


def test_resolution_tags_count_where_ome_is_silent(tmp_path):
    pixels = np.zeros((97, 89, 3), dtype=np.uint8)
    options = {"photometric": "rgb", "resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, **options)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert slide.mpp == 0.5
