"""Which statements of µm per pixel are believed."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from spam.tiles import open_slide
from spam.tiles.resolution import mpp_of_ome, trusted_mpp

OME = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels {}/></Image></OME>'


@pytest.mark.parametrize(
    ("attributes", "mpp"),
    [
        ('PhysicalSizeX="0.5" PhysicalSizeY="0.5"', 0.5),
        ('PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="0.25" PhysicalSizeYUnit="µm"', 0.25),
        ('PhysicalSizeX="0.002" PhysicalSizeXUnit="mm" PhysicalSizeY="0.002" PhysicalSizeYUnit="mm"', 2.0),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1" PhysicalSizeYUnit="pixel"', None),
        ('PhysicalSizeX="0.5"', None),
        ("", None),
    ],
)
def test_ome_header(attributes, mpp):
    assert mpp_of_ome(OME.format(attributes)) == mpp


def test_an_ome_header_that_is_no_xml_says_nothing():
    assert mpp_of_ome("<OME><Image>") is None
    assert mpp_of_ome("<OME/>") is None


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
    assert trusted_mpp(x, y) == (mpp if mpp is None else pytest.approx(mpp, rel=1e-12))


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


def test_the_dpi_of_a_picture_is_not_a_pixel_size(tmp_path):
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (53, 47)).save(tmp_path / name, dpi=(25_400, 25_400))
        with open_slide(tmp_path / name) as slide:
            assert slide.mpp is None
