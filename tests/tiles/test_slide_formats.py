"""Every kind of file gives the pixels, levels, blocks and pixel size that were written, in every region."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from spam.tiles import open_slide, overview
from spam.tiles.slide import UNSTATED, pixel_size
from spam.tiles.slide_formats import ImageSlide
from spam.tiles.tiff_slide import TiffSlide, ome_pixel_size

TILES = {"tile": (64, 80)}
TIFF_KINDS = {
    "tiled": TILES,
    "strips": {"rowsperstrip": 13},
    "one strip": {},
    "lzw strips": {"rowsperstrip": 7, "compression": "lzw"},
    "zstd tiles": {**TILES, "compression": "zstd"},
    "ome": {**TILES, "ome": True},
    "planes": {**TILES, "planarconfig": "separate"},
    "deflate": {**TILES, "compression": "zlib", "predictor": True},
    "jpeg 2000": {**TILES, "compression": "jpeg2000"},
    "jpeg 2000 planes": {**TILES, "compression": "jpeg2000", "planarconfig": "separate"},
    "aperio's jpeg 2000": {**TILES, "compression": "aperio_jp2000_rgb"},
    "bigtiff": {**TILES, "bigtiff": True},
    "big endian": {**TILES, "byteorder": ">"},
    "ome planes": {**TILES, "planarconfig": "separate", "ome": True},
}


def write_tiff(path, pixels, *, ome=False, **options):
    pixels = np.moveaxis(pixels, -1, 0) if options.get("planarconfig") == "separate" else pixels
    options = {"photometric": "rgb", "metadata": {} if ome else None, **options}
    tifffile.imwrite(path, pixels, ome=ome, **options)


@pytest.mark.parametrize("kind", TIFF_KINDS)
def test_each_kind_of_tiff_gives_the_pixels_that_were_written(kind, tmp_path, picture):
    options = TIFF_KINDS[kind]
    path = tmp_path / "slide.tif"
    write_tiff(path, picture, **options)
    with open_slide(path) as slide:
        assert type(slide) is TiffSlide
        assert (slide.width, slide.height, slide.level_downsamples) == (401, 307, (1.0,))
        strips = (401, options.get("rowsperstrip", 307))
        assert slide.block_sizes == ((80, 64) if "tile" in options else strips,)
        np.testing.assert_array_equal(slide.read(0, 0, 401, 307), picture)
        np.testing.assert_array_equal(slide.read(59, 61, 97, 71), picture[61:132, 59:156])


def test_jpeg_blocks_are_those_of_tifffile(tmp_path, picture):
    planes = np.moveaxis(picture, -1, 0)
    for name, pixels, options in (
        ("ycbcr", picture, {"photometric": "rgb"}),
        ("rgb", picture, {"photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}}),
        ("subsampled", picture, {"photometric": "rgb", "subsampling": (2, 2)}),
        ("grey", picture[..., 0], {"photometric": "minisblack"}),
        ("planes", planes, {"photometric": "rgb", "planarconfig": "separate"}),
        ("strips", picture, {"photometric": "rgb", "rowsperstrip": 16, "tile": None}),
    ):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, pixels, **{**TILES, "compression": "jpeg", "metadata": None, **options})
        expected = tifffile.imread(path)
        expected = np.moveaxis(expected, 0, -1) if name == "planes" else np.atleast_3d(expected)
        with open_slide(path) as slide:
            read = slide.read(0, 0, 401, 307)
        np.testing.assert_array_equal(read, np.broadcast_to(expected, read.shape), err_msg=name)


def test_png_and_jpeg_give_the_pixels_that_pillow_decodes_under_any_name(tmp_path, picture):
    for name, kind in (("a.png", "PNG"), ("a.jpg", "JPEG"), ("named.tif", "PNG")):
        Image.fromarray(picture).save(tmp_path / name, format=kind)
        with open_slide(tmp_path / name) as slide, Image.open(tmp_path / name) as image:
            assert type(slide) is ImageSlide
            assert slide.block_sizes == slide.level_sizes == ((401, 307),)
            np.testing.assert_array_equal(slide.read(0, 0, 401, 307), np.asarray(image))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(x=st.integers(-500, 900), y=st.integers(-500, 800), w=st.integers(1, 53), h=st.integers(1, 41))
def test_outside_the_slide_its_edge_is_repeated(slide_path, picture, x, y, w, h):
    padded = np.pad(picture, ((500, 600), (500, 600), (0, 0)), mode="edge")
    with open_slide(slide_path) as slide:
        region = slide.read(x, y, w, h)
    np.testing.assert_array_equal(region, padded[y + 500 : y + 500 + h, x + 500 : x + 500 + w])


def test_grey_becomes_rgb_and_transparency_white(tmp_path, picture):
    grey = picture[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    write_tiff(tmp_path / "grey.tif", grey, photometric="minisblack", rowsperstrip=11)
    alpha = np.random.default_rng(2).integers(0, 256, (307, 401), dtype=np.uint8)
    rgba, share = np.dstack([picture, alpha]), alpha[..., None] / 255
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    write_tiff(tmp_path / "clear.tif", rgba, extrasamples=["unassalpha"], rowsperstrip=11)
    over_white = np.floor(picture * share + 255 * (1 - share) + 0.5).astype(np.uint8)
    for name, expected in (("grey", np.stack([grey] * 3, axis=-1)), ("clear", over_white)):
        for suffix in (".png", ".tif"):
            with open_slide(tmp_path / (name + suffix)) as slide:
                np.testing.assert_array_equal(slide.read(0, 0, 401, 307), expected)


def test_blocks_that_a_tiff_leaves_out_are_white(tmp_path, picture):
    corners = [(top, left) for top in (0, 64) for left in (0, 64, 128)]
    tiles = (None if at == (64, 64) else picture[at[0] : at[0] + 64, at[1] : at[1] + 64] for at in corners)
    options = {"dtype": np.uint8, "tile": (64, 64), "photometric": "rgb"}
    tifffile.imwrite(tmp_path / "sparse.ome.tif", tiles, shape=(128, 192, 3), **options)
    expected = picture[:128, :192].copy()
    expected[64:128, 64:128] = 255
    with open_slide(tmp_path / "sparse.ome.tif") as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 192, 128), expected)


def test_many_threads_read_what_one_reads(tmp_path, picture):
    write_tiff(tmp_path / "a.ome.tif", picture, tile=(16, 16), ome=True)
    corners = np.random.default_rng(3).integers(0, 300, (199, 2)).tolist()
    with open_slide(tmp_path / "a.ome.tif") as slide, ThreadPoolExecutor(5) as pool:
        regions = list(pool.map(lambda corner: slide.read(*corner, 83, 7), corners))
    padded = np.pad(picture, ((0, 100), (0, 100), (0, 0)), mode="edge")
    for (x, y), region in zip(corners, regions, strict=True):
        np.testing.assert_array_equal(region, padded[y : y + 7, x : x + 83])


def test_large_pictures_are_read_without_touching_pillows_limit(slide_path, picture, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(slide_path)
    with warnings.catch_warnings(), open_slide(slide_path) as slide:
        warnings.simplefilter("error")
        np.testing.assert_array_equal(slide.read(0, 0, 401, 307), picture)


# Pyramids


def are_read(path, levels):
    with open_slide(path) as slide:
        assert type(slide) is TiffSlide
        assert slide.level_sizes == tuple((pixels.shape[1], pixels.shape[0]) for pixels in levels)
        assert slide.block_sizes == ((80, 64),) * len(levels)
        for level, pixels in enumerate(levels):
            np.testing.assert_array_equal(slide.read(0, 0, *slide.level_sizes[level], level=level), pixels)
            np.testing.assert_array_equal(slide.read(17, 23, 61, 43, level=level), pixels[23:66, 17:78])
        return slide.mpp


@pytest.fixture
def levels(picture):
    return [np.ascontiguousarray(picture[:: 2**level, :: 2**level]) for level in range(3)]


@pytest.mark.parametrize("compression", ["jpeg2000", "aperio_jp2000_rgb", "zlib"])
@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_levels_in_subifds_as_xenium_has_them(tmp_path, levels, compression, planarconfig, bigtiff):
    path = tmp_path / "he_image.ome.tif"
    options = {"photometric": "rgb", "planarconfig": planarconfig, **TILES, "compression": compression}
    metadata = {"PhysicalSizeX": 0.2737, "PhysicalSizeY": 0.2737}
    with tifffile.TiffWriter(path, ome=True, bigtiff=bigtiff) as writer:
        for level, pixels in enumerate(levels):
            more = {"subfiletype": 1} if level else {"subifds": 2, "metadata": metadata}
            pixels = np.moveaxis(pixels, -1, 0) if planarconfig == "separate" else pixels
            writer.write(pixels, **options, **more)
    assert are_read(path, levels) == pytest.approx(0.2737)


@pytest.mark.parametrize("is_marked", [True, False])
@pytest.mark.parametrize("order", [1, -1])
def test_levels_that_follow_each_other(tmp_path, picture, levels, is_marked, order):
    path = tmp_path / "pyramid.tif"
    other = np.ascontiguousarray(picture[:200, :200])  # of another shape: not a level
    with tifffile.TiffWriter(path) as writer:
        for pixels in [*levels[::order], other]:
            smaller = int(is_marked and pixels is not levels[0] and pixels is not other)
            writer.write(pixels, photometric="rgb", **TILES, subfiletype=smaller, metadata=None)
    are_read(path, levels)


def test_planes_as_pages(tmp_path, picture):
    planes = np.ascontiguousarray(np.moveaxis(picture, -1, 0))
    metadata = {"axes": "CYX"}
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, photometric="minisblack", **TILES, metadata=metadata)
    are_read(tmp_path / "a.ome.tif", [picture])


PLACES = np.random.default_rng(5).random((7, 2))


@pytest.mark.parametrize(
    ("name", "level", "block", "n_levels"),
    [
        ("slides/CMU-1-Small-Region.svs", 0, 240, 1),
        *(("her2st/pyramid/C3.tif", level, 256, 3) for level in range(3)),
        ("xenium_lung_ncbi858/outs_rewritten/he_image.ome.tif", 0, 256, 1),
    ],
)
def test_real_slides_are_what_tifffile_and_openslide_read(shared_data, name, level, block, n_levels):
    path = shared_data / name
    pixels = tifffile.imread(path, level=level)
    with open_slide(path) as slide:
        width, height = slide.level_sizes[level]
        assert (height, width, 3) == pixels.shape
        assert slide.block_sizes == ((block, block),) * n_levels
        # On other levels OpenSlide interpolates, since their downsample is not whole; it does not read OME-TIFF.
        truth = openslide.OpenSlide(path) if level == 0 and "ome" not in name else None
        for place in PLACES:
            x, y = (place * (width - 301, height - 257)).astype(int).tolist()
            region = slide.read(x, y, 301, 257, level=level)
            np.testing.assert_array_equal(region, pixels[y : y + 257, x : x + 301])
            if truth is not None:
                seen = np.asarray(truth.read_region((x, y), level, (301, 257)).convert("RGB"))
                np.testing.assert_array_equal(region, seen)
        corner = slide.read(width - 97, height - 89, 97, 89, level=level)
        np.testing.assert_array_equal(corner, pixels[-89:, -97:])
        if width < 2048 and level == 0:
            np.testing.assert_array_equal(overview(slide).image, pixels)


def test_the_colour_space_of_an_aperio_slide_is_found_outside_its_tiles(shared_data):
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    with TiffSlide(path) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 2220, 2967), tifffile.imread(path))


# Orientation and several pictures

EXIF = range(1, 9)


def save_turned(path, pixels, orientation):
    """Store pixels so that the orientation of EXIF brings them upright; by Pillow's inverse."""
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # numbers of Image.Transpose that undo the orientation
    image = Image.fromarray(pixels)
    stored = image.transpose(Image.Transpose(turns[orientation])) if orientation > 1 else image
    exif = Image.Exif()
    exif[274] = orientation
    if path.suffix == ".tif":
        options = {"tile": (64, 80), "photometric": "rgb", "metadata": None}
        tifffile.imwrite(path, np.asarray(stored), extratags=[(274, 3, 1, orientation, True)], **options)
    else:
        stored.save(path, exif=exif, **({"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}))
    return path


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("orientation", EXIF)
def test_a_turned_picture_is_read_upright(tmp_path, picture, suffix, orientation):
    path = save_turned(tmp_path / f"a{suffix}", picture, orientation)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert expected.shape == picture.shape
    tolerance = 8 if suffix == ".jpg" else 0  # of the compression
    assert np.abs(expected.astype(int) - picture).mean() <= tolerance
    padded = np.pad(expected, ((40, 60), (40, 60), (0, 0)), mode="edge")
    with open_slide(path) as slide:
        assert (slide.width, slide.height) == (401, 307)
        assert [str(orientation) in note for note in slide.notes] == [True] * (orientation > 1)
        np.testing.assert_array_equal(slide.read(0, 0, 401, 307), expected)
        for x, y, w, h in ((-31, 17, 97, 71), (350, 290, 83, 41), (5, -9, 13, 331)):
            np.testing.assert_array_equal(
                slide.read(x, y, w, h), padded[y + 40 : y + 40 + h, x + 40 : x + 40 + w]
            )


def test_the_orientation_may_follow_the_pixels_of_a_png(tmp_path, picture):
    data = save_turned(tmp_path / "a.png", picture, 6).read_bytes()
    start = data.index(b"eXIf") - 4
    stop = start + 12 + int.from_bytes(data[start : start + 4], "big")
    end = data.index(b"IEND") - 4
    (tmp_path / "late.png").write_bytes(data[:start] + data[stop:end] + data[start:stop] + data[end:])
    with open_slide(tmp_path / "late.png") as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 401, 307), picture)


def test_levels_of_a_turned_pyramid(tmp_path, picture):
    stored = np.rot90(picture)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for level in range(2):
            pixels = np.ascontiguousarray(stored[:: 2**level, :: 2**level])
            tags = {"extratags": [(274, 3, 1, 6, True)], "subfiletype": level}
            writer.write(pixels, photometric="rgb", **TILES, metadata=None, **tags)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.level_sizes == ((401, 307), (201, 154))
        assert slide.block_sizes == ((64, 80), (64, 80))
        half = np.rot90(stored[::2, ::2], -1)
        np.testing.assert_array_equal(slide.read(17, 23, 61, 43, level=1), half[23:66, 17:78])


def write_pictures(path, *pictures, ome=True):
    """Write a TIFF of several pictures: (name, pixels, µm per pixel, further options)."""
    with tifffile.TiffWriter(path, ome=ome) as writer:
        for name, pixels, mpp, options in pictures:
            size = {"Name": name, "PhysicalSizeX": mpp, "PhysicalSizeY": mpp} if ome else None
            writer.write(pixels, photometric="rgb", **TILES, metadata=size, **options)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_of_several_pictures_the_largest_is_read_with_its_own_pixel_size(tmp_path, picture, place):
    # of the same shape, but an overview: no level of the scan
    small = np.ascontiguousarray(picture[::2, ::2])
    tall = np.ascontiguousarray(picture[:, :100])
    pictures = [("macro", small[::-1].copy(), 2.0, {}), ("label", tall, 3.0, {})]
    pictures.insert(place, ("scan", picture, 0.5, {}))
    write_pictures(tmp_path / "a.ome.tif", *pictures)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert (slide.level_sizes, slide.mpp) == (((401, 307),), 0.5)
        np.testing.assert_array_equal(slide.read(0, 0, 401, 307), picture)
        (note,) = slide.notes
        assert "3 pictures" in note
        assert "'scan' of 401 x 307 px" in note


def test_of_pictures_of_one_size_the_first_is_read_and_levels_are_no_pictures(tmp_path, picture):
    write_pictures(tmp_path / "a.ome.tif", ("one", picture, 0.5, {}), ("two", picture[::-1].copy(), 0.25, {}))
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert slide.mpp == 0.5
        np.testing.assert_array_equal(slide.read(0, 0, 401, 307), picture)
        assert "'one'" in slide.notes[0]
    write_pictures(tmp_path / "b.tif", ("", picture, 0, {}), ("", picture[::2, ::2].copy(), 0, {}), ome=False)
    with open_slide(tmp_path / "b.tif") as slide:
        assert (len(slide.level_sizes), slide.notes) == (2, ())


# µm per pixel

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
def test_ome_headers(attributes, mpp):
    size = ome_pixel_size(OME.format(attributes))
    assert size.mpp == mpp
    assert (size.note is None) == (mpp is not None)
    for xml in ("<OME><Image>", "<OME/>", ""):
        assert ome_pixel_size(xml) == UNSTATED


def test_pictures_of_one_size_are_told_apart_by_their_name():
    pixels = '<Image Name="{}"><Pixels SizeX="7" SizeY="5" PhysicalSizeX="{}" PhysicalSizeY="{}"/></Image>'
    xml = f"<OME>{pixels.format('one', 0.5, 0.5)}{pixels.format('two', 0.25, 0.25)}</OME>"
    for name, mpp in (("one", 0.5), ("two", 0.25)):
        picture = SimpleNamespace(name=name, keyframe=SimpleNamespace(imagewidth=7, imagelength=5))
        assert ome_pixel_size(xml, picture).mpp == mpp


@pytest.mark.parametrize(
    ("x", "y", "mpp"),
    [
        *((0.05, 0.05, 0.05), (20.0, 20.0, 20.0), (0.5, 0.505, 0.5025)),
        *((0.04, 0.04, None), (21.0, 21.0, None), (0.5, 0.6, None), (float("nan"), 0.5, None)),
    ],
)
def test_implausible_or_oblong_pixels_are_not_trusted(x, y, mpp):
    size = pixel_size(x, y, stated="there")
    assert size.mpp == (mpp if mpp is None else pytest.approx(mpp, rel=1e-12))
    assert (size.note is None) == (mpp is not None)


@pytest.mark.parametrize(
    ("unit", "per_unit", "mpp", "words"),
    [
        ("CENTIMETER", (20_000, 20_000), 0.5, ()),
        ("INCH", (25_400, 25_400), 1.0, ()),
        ("NONE", (20_000, 20_000), None, ("states no pixel size",)),
        ("INCH", (72, 72), None, ("states 352.8 µm per pixel", "72 pixels per inch", "0.05 to 20")),
        ("CENTIMETER", (20_000, 10_000), None, ("0.5 x 1 µm", "20000 pixels per cm", "not square")),
    ],
)
@pytest.mark.parametrize("ome", [False, True])  # the tags count if OME is silent
def test_resolution_tags_of_tiff(tmp_path, unit, per_unit, mpp, words, ome):
    path = tmp_path / "a.tif"
    write_tiff(path, np.zeros((97, 89, 3), np.uint8), ome=ome, resolution=per_unit, resolutionunit=unit)
    with open_slide(path) as slide:
        assert slide.mpp == mpp
        assert (slide.mpp_note is None) == (mpp is not None)
        assert all(word in (slide.mpp_note or "") for word in words)


def test_the_dpi_of_a_picture_is_not_a_pixel_size(tmp_path):
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (53, 47)).save(tmp_path / name, dpi=(25_400, 25_400))
        with open_slide(tmp_path / name) as slide:
            assert slide.mpp is None
            assert "25400 dpi are for printing" in slide.mpp_note
