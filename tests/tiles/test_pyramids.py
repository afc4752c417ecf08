"""Levels of TIFF pyramids, however their writers keep them, and what real slides hold at several places."""

import numpy as np
import openslide
import pytest
import tifffile

from spam.tiles import open_slide, overview
from spam.tiles.tiff_slide import TiffSlide


def halves(picture, n_levels=3):
    return [np.ascontiguousarray(picture[:: 2**level, :: 2**level]) for level in range(n_levels)]


def are_read(path, levels):
    with open_slide(path) as slide:
        assert type(slide) is TiffSlide
        assert slide.level_sizes == tuple((pixels.shape[1], pixels.shape[0]) for pixels in levels)
        assert slide.block_sizes == ((80, 64),) * len(levels)
        for level, pixels in enumerate(levels):
            np.testing.assert_array_equal(slide.read(0, 0, *slide.level_sizes[level], level=level), pixels)
            np.testing.assert_array_equal(slide.read(17, 23, 61, 43, level=level), pixels[23:66, 17:78])


@pytest.mark.parametrize("compression", ["jpeg2000", "aperio_jp2000_rgb", "zlib"])
@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_levels_in_subifds_as_xenium_has_them(tmp_path, picture, compression, planarconfig, bigtiff):
    levels = halves(picture)
    path = tmp_path / "he_image.ome.tif"
    options = {
        "photometric": "rgb",
        "planarconfig": planarconfig,
        "tile": (64, 80),
        "compression": compression,
    }
    with tifffile.TiffWriter(path, ome=True, bigtiff=bigtiff) as writer:
        for level, pixels in enumerate(levels):
            more = (
                {"subfiletype": 1}
                if level
                else {"subifds": 2, "metadata": {"PhysicalSizeX": 0.2737, "PhysicalSizeY": 0.2737}}
            )
            writer.write(
                np.moveaxis(pixels, -1, 0) if planarconfig == "separate" else pixels, **options, **more
            )
    are_read(path, levels)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.2737)


@pytest.mark.parametrize("is_marked", [True, False])
@pytest.mark.parametrize("order", [1, -1])
def test_levels_that_follow_each_other(tmp_path, picture, is_marked, order):
    levels = halves(picture)
    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as writer:
        for pixels in levels[::order]:
            smaller = int(is_marked and pixels is not levels[0])
            writer.write(pixels, photometric="rgb", tile=(64, 80), subfiletype=smaller, metadata=None)
        writer.write(
            np.ascontiguousarray(picture[:200, :200]), photometric="rgb", tile=(64, 80), metadata=None
        )
    are_read(path, levels)


def test_planes_as_pages(tmp_path, picture):
    planes = np.ascontiguousarray(np.moveaxis(picture, -1, 0))
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, planes, photometric="minisblack", tile=(64, 80), metadata={"axes": "CYX"})
    are_read(path, [picture])


PLACES = np.random.default_rng(5).random((7, 2))


def test_an_aperio_slide_is_what_openslide_and_tifffile_read(shared_data):
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    pixels = tifffile.imread(path)
    with TiffSlide(path) as slide:  # its JPEG is RGB, with no marker inside the tiles to say so
        np.testing.assert_array_equal(slide.read(0, 0, 2220, 2967), pixels)
    with open_slide(path) as slide, openslide.OpenSlide(path) as truth:
        assert slide.block_sizes == ((240, 240),)
        for place in PLACES:
            x, y = (place * (2220 - 301, 2967 - 257)).astype(int).tolist()
            region = slide.read(x, y, 301, 257)
            np.testing.assert_array_equal(
                region, np.asarray(truth.read_region((x, y), 0, (301, 257)).convert("RGB"))
            )
            np.testing.assert_array_equal(region, pixels[y : y + 257, x : x + 301])


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_pyramid_is_what_tifffile_and_openslide_read(shared_data, level):
    path = shared_data / "her2st" / "pyramid" / "C3.tif"
    pixels = tifffile.imread(path, level=level)
    with open_slide(path) as slide, openslide.OpenSlide(path) as truth:
        width, height = slide.level_sizes[level]
        assert truth.level_dimensions == slide.level_sizes
        for place in PLACES:
            x, y = (place * (width - 301, height - 257)).astype(int).tolist()
            region = slide.read(x, y, 301, 257, level=level)
            np.testing.assert_array_equal(region, pixels[y : y + 257, x : x + 301])
            if level == 0:  # on the others it interpolates, since their downsample is not whole
                regions = np.asarray(truth.read_region((x, y), level, (301, 257)).convert("RGB"))
                np.testing.assert_array_equal(region, regions)
        corner = slide.read(width - 97, height - 89, 97, 89, level=level)
        np.testing.assert_array_equal(corner, pixels[-89:, -97:])


def test_a_xenium_image_is_what_tifffile_reads(shared_data):
    path = shared_data / "xenium_lung_ncbi858" / "outs_rewritten" / "he_image.ome.tif"
    pixels = tifffile.imread(path)
    with open_slide(path) as slide:
        assert slide.block_sizes == ((256, 256),)
        np.testing.assert_array_equal(slide.read(0, 0, 1431, 1249), pixels)
        for place in PLACES:
            x, y = (place * (1431 - 301, 1249 - 257)).astype(int).tolist()
            np.testing.assert_array_equal(slide.read(x, y, 301, 257), pixels[y : y + 257, x : x + 301])
        assert overview(slide).image.shape == (1249, 1431, 3)
