"""Every kind of file gives the same pixels, wherever a region lies."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from spam.errors import MissingInputError, SlideError
from spam.tiles import open_slide
from spam.tiles.slide_formats import ImageSlide
from spam.tiles.tiff_slide import TiffSlide
from spam.typing import Array, UInt8

TIFF_KINDS = {
    "tiled": {"tile": (64, 80)},
    "strips": {"rowsperstrip": 13},
    "one strip": {},
    "lzw strips": {"rowsperstrip": 7, "compression": "lzw"},
    "zstd tiles": {"tile": (64, 80), "compression": "zstd"},
    "ome": {"tile": (64, 80), "ome": True},
    "planes": {"tile": (64, 80), "planarconfig": "separate"},
    "deflate": {"tile": (64, 80), "compression": "zlib", "predictor": True},
    "jpeg 2000": {"tile": (64, 80), "compression": "jpeg2000"},
    "jpeg 2000 planes": {"tile": (64, 80), "compression": "jpeg2000", "planarconfig": "separate"},
    "aperio's jpeg 2000": {"tile": (64, 80), "compression": "aperio_jp2000_rgb"},
    "bigtiff": {"tile": (64, 80), "bigtiff": True},
    "big endian": {"tile": (64, 80), "byteorder": ">"},
    "ome planes": {"tile": (64, 80), "planarconfig": "separate", "ome": True},
}


def _write_tiff(path: Path, pixels: UInt8[Array, "..."], *, ome: bool = False, **options: object) -> None:
    options = {"photometric": "rgb", **options}
    if options.get("planarconfig") == "separate":
        pixels = np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(path, pixels, ome=ome, metadata={} if ome else None, **options)


@pytest.mark.parametrize("kind", TIFF_KINDS)
def test_each_kind_of_tiff_gives_the_pixels_that_were_written(kind, tmp_path, picture):
    options = TIFF_KINDS[kind]
    path = tmp_path / ("slide.ome.tif" if options.get("ome") else "slide.tif")
    _write_tiff(path, picture, **options)
    with open_slide(path) as slide:
        assert type(slide) is TiffSlide
        assert (slide.width, slide.height) == (401, 307)
        assert slide.level_downsamples == (1.0,)
        np.testing.assert_array_equal(slide.read(0, 0, 401, 307), picture)
        np.testing.assert_array_equal(slide.read(59, 61, 97, 71), picture[61:132, 59:156])


def test_png_and_jpeg_give_the_pixels_that_pillow_decodes(tmp_path, picture):
    for name in ("a.png", "a.jpg"):
        Image.fromarray(picture).save(tmp_path / name)
        with open_slide(tmp_path / name) as slide, Image.open(tmp_path / name) as image:
            assert type(slide) is ImageSlide
            np.testing.assert_array_equal(slide.read(0, 0, 401, 307), np.asarray(image))


def test_the_kind_of_file_counts_not_its_name(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "named.tif", format="PNG")
    with open_slide(tmp_path / "named.tif") as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 401, 307), picture)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(x=st.integers(-500, 900), y=st.integers(-500, 800), w=st.integers(1, 53), h=st.integers(1, 41))
def test_outside_the_slide_its_edge_is_repeated(slide_path, picture, x, y, w, h):
    padded = np.pad(picture, ((500, 600), (500, 600), (0, 0)), mode="edge")
    with open_slide(slide_path) as slide:
        np.testing.assert_array_equal(
            slide.read(x, y, w, h), padded[y + 500 : y + 500 + h, x + 500 : x + 500 + w]
        )


def test_ome_pyramid_gives_its_levels_and_pixel_size(tmp_path, picture):
    path = tmp_path / "pyramid.ome.tif"
    half = picture[::2, ::2]
    with tifffile.TiffWriter(path, ome=True) as writer:
        metadata = {"axes": "YXS", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm"}
        metadata |= {"PhysicalSizeY": 250.0, "PhysicalSizeYUnit": "nm"}
        writer.write(picture, subifds=1, tile=(64, 64), photometric="rgb", metadata=metadata)
        writer.write(half, subfiletype=1, tile=(64, 64), photometric="rgb")
    with open_slide(path) as slide:
        assert slide.level_sizes == ((401, 307), (201, 154))
        np.testing.assert_allclose(slide.level_downsamples, [1.0, (401 / 201 + 307 / 154) / 2])
        assert slide.mpp == 0.25
        np.testing.assert_array_equal(slide.read(3, 5, 150, 120, level=1), half[5:125, 3:153])


def test_grey_becomes_rgb(tmp_path, picture):
    grey = picture[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    _write_tiff(tmp_path / "grey.tif", grey, photometric="minisblack", rowsperstrip=11)
    for name in ("grey.png", "grey.tif"):
        with open_slide(tmp_path / name) as slide:
            np.testing.assert_array_equal(slide.read(0, 0, 401, 307), np.stack([grey] * 3, axis=-1))


def test_transparency_shows_white(tmp_path, picture):
    alpha = np.random.default_rng(2).integers(0, 256, (307, 401), dtype=np.uint8)
    rgba = np.dstack([picture, alpha])
    share = alpha[..., None] / 255
    over_white = np.floor(picture * share + 255 * (1 - share) + 0.5).astype(np.uint8)
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    _write_tiff(tmp_path / "clear.tif", rgba, extrasamples=["unassalpha"], rowsperstrip=11)
    for name in ("clear.png", "clear.tif"):
        with open_slide(tmp_path / name) as slide:
            np.testing.assert_array_equal(slide.read(0, 0, 401, 307), over_white)


def test_tiles_that_a_tiff_leaves_out_are_white(tmp_path, picture):
    def tiles():
        for top in range(0, 128, 64):
            for left in range(0, 192, 64):
                yield None if (top, left) == (64, 64) else picture[top : top + 64, left : left + 64]

    tifffile.imwrite(
        tmp_path / "sparse.ome.tif", tiles(), shape=(128, 192, 3), dtype=np.uint8, tile=(64, 64), photometric="rgb"
    )  # fmt: skip
    expected = picture[:128, :192].copy()
    expected[64:128, 64:128] = 255
    with open_slide(tmp_path / "sparse.ome.tif") as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 192, 128), expected)


def test_many_threads_read_what_one_reads(tmp_path, picture):
    _write_tiff(tmp_path / "a.ome.tif", picture, tile=(16, 16), ome=True)
    corners = np.random.default_rng(3).integers(0, 300, (199, 2)).tolist()
    with open_slide(tmp_path / "a.ome.tif") as slide, ThreadPoolExecutor(5) as pool:
        regions = list(pool.map(lambda corner: slide.read(*corner, 83, 7), corners))
    padded = np.pad(picture, ((0, 100), (0, 100), (0, 0)), mode="edge")
    for (x, y), region in zip(corners, regions, strict=True):
        np.testing.assert_array_equal(region, padded[y : y + 7, x : x + 83])


def test_large_pictures_are_read_without_touching_pillows_limit(slide_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(slide_path)
    with warnings.catch_warnings(), open_slide(slide_path) as slide:
        warnings.simplefilter("error")
        assert slide.read(0, 0, 401, 307).shape == (307, 401, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_more_than_8_bits_are_refused(tmp_path, picture):
    deep = picture.astype(np.uint16) * 257
    Image.fromarray(deep[..., 0]).save(tmp_path / "deep.png")
    _write_tiff(tmp_path / "tiled.tif", deep, tile=(64, 64))
    _write_tiff(tmp_path / "strips.tif", deep)
    with (
        pytest.raises(SlideError, match=r"deep\.png.*I;16.*8-bit RGB"),
        open_slide(tmp_path / "deep.png") as slide,
    ):
        slide.read(0, 0, 1, 1)
    for name in ("tiled.tif", "strips.tif"):
        with pytest.raises(SlideError, match=rf"{name}.*uint16.*8-bit RGB"):
            open_slide(tmp_path / name)


def test_a_stack_of_pictures_is_refused(tmp_path):
    stack = np.zeros((5, 31, 37), dtype=np.uint8)
    tifffile.imwrite(
        tmp_path / "stack.ome.tif", stack, ome=True, photometric="minisblack", metadata={"axes": "CYX"}
    )
    with pytest.raises(SlideError, match=r"5 channels of uint8.*'CYX'"):
        open_slide(tmp_path / "stack.ome.tif")


def test_what_is_no_slide_is_an_error_that_says_so(tmp_path, slide_path):
    with pytest.raises(MissingInputError, match=r"gone\.png.*--root"):
        open_slide(tmp_path / "gone.png")
    (tmp_path / "notes.txt").write_text("not a slide")
    with pytest.raises(SlideError, match=r"notes\.txt.*no format.*PNG and JPEG"):
        open_slide(tmp_path / "notes.txt")
    (tmp_path / "short.tif").write_bytes(b"II*\0")
    with pytest.raises(SlideError, match=r"short\.tif.*not a readable TIFF"):
        open_slide(tmp_path / "short.tif")
    (tmp_path / "short.png").write_bytes(slide_path.read_bytes()[:9])
    with pytest.raises(SlideError, match=r"short\.png.*not a readable PNG"):
        open_slide(tmp_path / "short.png")


def test_a_file_cut_short_is_an_error_when_its_pixels_are_read(tmp_path, slide_path, picture):
    whole = slide_path.read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    _write_tiff(tmp_path / "whole.tif", picture, rowsperstrip=11, compression="zlib")
    whole = (tmp_path / "whole.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "whole.tif") as tiff:
        offset, n_bytes = tiff.pages.first.dataoffsets[20], tiff.pages.first.databytecounts[20]
    (tmp_path / "hole.tif").write_bytes(whole[:offset] + b"\0" * n_bytes + whole[offset + n_bytes :])
    for name in ("half.png", "hole.tif"):
        with open_slide(tmp_path / name) as slide, pytest.raises(SlideError, match="cannot be decoded"):
            slide.read(0, 0, 401, 307)


def test_blocks_are_those_that_the_file_stores(tmp_path, picture, slide_path):
    for options, block in (
        ({"tile": (64, 80)}, (80, 64)),
        ({"tile": (64, 80), "ome": True}, (80, 64)),
        ({"rowsperstrip": 13}, (401, 13)),
        ({}, (401, 307)),
    ):
        path = tmp_path / ("a.ome.tif" if "ome" in options else "a.tif")
        _write_tiff(path, picture, **options)
        with open_slide(path) as slide:
            assert slide.block_sizes == (block,)
    with open_slide(slide_path) as slide:
        assert slide.block_sizes == ((401, 307),)
