"""Damaged and foreign files: each is one clear error, and nothing ever comes out grey that the file does not hold."""

import io
import logging
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from PIL import Image

from spam.errors import SlideError
from spam.tiles import open_slide, overview
from spam.tiles.slide_formats import OpenSlideSlide
from spam.tiles.tiff_slide import TiffSlide

SVS = "slides/CMU-1-Small-Region.svs"


def jpeg_bytes(picture, **options):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", **options)
    return file.getvalue()


def is_refused(path, match, region=(0, 0, 401, 307)):
    with pytest.raises(SlideError, match=match), open_slide(path) as slide:
        slide.read(*region)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_jpeg(tmp_path, picture, share, progressive):
    data = jpeg_bytes(picture, progressive=progressive)
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: int(len(data) * share)])
    is_refused(path, r"cut\.jpg.*(cannot be decoded|no.* readable PNG or JPEG)")


@pytest.mark.parametrize("damage", ["zeros", "noise", "early end"])
def test_a_jpeg_with_a_hole_is_not_filled_with_grey(tmp_path, picture, damage):
    data = bytearray(jpeg_bytes(picture))
    half = len(data) // 2
    if damage == "zeros":
        data[half:] = bytes(len(data) - half)
    elif damage == "noise":
        data[half:-2] = (
            np.random.default_rng(1).integers(0, 255, len(data) - half - 2, dtype=np.uint8).tobytes()
        )
    else:
        data[half : half + 2] = b"\xff\xd9"
    path = tmp_path / "hole.jpg"
    path.write_bytes(data)
    if damage == "early end":  # what Pillow makes of it, and why it does not decode JPEG here
        with Image.open(path) as image:
            assert (np.asarray(image)[-8:] == 128).all()
    is_refused(
        path, r"hole\.jpg.*cannot be decoded: .*(Premature end|Corrupt JPEG|premature end).*copied whole"
    )


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_png(tmp_path, picture, share):
    Image.fromarray(picture).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: int(len(data) * share)])
    is_refused(tmp_path / "cut.png", r"cut\.png.*cannot be decoded.*copied whole")


KINDS = {
    "none": {},
    "lzw": {"compression": "lzw"},
    "zlib": {"compression": "zlib", "predictor": True},
    "zstd": {"compression": "zstd"},
    "packbits": {"compression": "packbits"},
    "jpeg": {"compression": "jpeg"},
    "jpeg of rgb": {"compression": "jpeg", "compressionargs": {"outcolorspace": "rgb"}},
    "jpeg2000": {"compression": "jpeg2000"},
    "webp": {"compression": "webp"},
}


@pytest.fixture(params=[False, True], ids=["plain", "ome"])
def write(request, tmp_path, picture):
    def write(**options):
        path = tmp_path / ("a.ome.tif" if request.param else "a.tif")
        more = {"ome": True} if request.param else {"metadata": None}
        tifffile.imwrite(path, picture, tile=(64, 80), photometric="rgb", **more, **options)
        return path

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_a_tiff_cut_inside_its_last_tile(write, kind):
    path = write(**KINDS[kind])
    with open_slide(path) as slide:
        whole = slide.read(0, 0, 401, 307)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        last = int(np.argmax(page.dataoffsets))
        end = page.dataoffsets[last] + page.databytecounts[last] // 2
    data = path.read_bytes()
    path.write_bytes(data[:end])
    with open_slide(path) as slide:
        assert type(slide) is TiffSlide
        np.testing.assert_array_equal(slide.read(0, 0, 320, 256), whole[:256, :320])
        for region in ((320, 256, 81, 51), (0, 0, 401, 307)):
            with pytest.raises(
                SlideError, match=r"cannot be decoded at .*the file ends inside block \d+.*copied whole"
            ):
                slide.read(*region)
        np.testing.assert_array_equal(slide.read(0, 0, 320, 256), whole[:256, :320])


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"none", "webp"}))  # libwebp fills what is missing
def test_a_tiff_with_a_tile_half_zero(write, kind):
    path = write(**KINDS[kind])
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        offset, n_bytes = page.dataoffsets[7], page.databytecounts[7]
    data = bytearray(path.read_bytes())
    data[offset + n_bytes // 2 : offset + n_bytes] = bytes(n_bytes - n_bytes // 2)
    path.write_bytes(data)
    is_refused(path, "cannot be decoded", region=(80, 64, 80, 64))


def test_jpeg_tiles_are_those_of_tifffile(tmp_path, picture):
    grey = picture[..., 0]
    planes = {"planarconfig": "separate"}
    for name, pixels, options in (
        ("ycbcr", picture, {"photometric": "rgb"}),
        ("rgb", picture, {"photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}}),
        ("subsampled", picture, {"photometric": "rgb", "subsampling": (2, 2)}),
        ("grey", grey, {"photometric": "minisblack"}),
        ("planes", np.moveaxis(picture, -1, 0), {"photometric": "rgb", **planes}),
        ("strips", picture, {"photometric": "rgb", "rowsperstrip": 16, "tile": None}),
    ):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(
            path, pixels, **{"tile": (64, 80), "compression": "jpeg", "metadata": None, **options}
        )
        expected = tifffile.imread(path)
        expected = np.moveaxis(expected, 0, -1) if name == "planes" else np.atleast_3d(expected)
        with open_slide(path) as slide:
            read = slide.read(0, 0, 401, 307)
            np.testing.assert_array_equal(read, np.broadcast_to(expected, read.shape), err_msg=name)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
def test_a_truncated_svs(tmp_path, shared_data, share):
    whole = (shared_data / SVS).read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(whole[: int(len(whole) * share)])
    is_refused(
        path,
        r"cut\.svs.*(cannot be opened|cannot be decoded|not a readable TIFF).*copied whole",
        (0, 0, 2220, 2967),
    )


def test_a_file_cut_before_its_list_of_pictures_says_so(tmp_path, shared_data):
    whole = (shared_data / SVS).read_bytes()
    (tmp_path / "cut.svs").write_bytes(whole[:1000])
    is_refused(
        tmp_path / "cut.svs",
        r"cut\.svs' \(1000 bytes\) is not a readable TIFF: it says where its pictures lie, and there are none; .*cut off"
        r".*; expected a whole TIFF with a picture in it; check that the file was copied whole, with as many bytes",
    )


@pytest.fixture
def svs_with_a_hole(tmp_path, shared_data):
    """An SVS of 10 x 13 tiles of 240 px, whose tile in column 3 and row 4 ends half way."""
    path = tmp_path / "hole.svs"
    shutil.copyfile(shared_data / SVS, path)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        offset, n_bytes = page.dataoffsets[43], page.databytecounts[43]
    with path.open("r+b") as file:
        file.seek(offset + n_bytes // 2)
        file.write(bytes(n_bytes - n_bytes // 2))
    return path


def test_only_the_damaged_part_of_an_svs_is_refused(svs_with_a_hole, shared_data, caplog):
    with open_slide(svs_with_a_hole) as slide, open_slide(shared_data / SVS) as truth:
        assert type(slide) is OpenSlideSlide
        for _ in range(2):
            with pytest.raises(
                SlideError, match=r"hole\.svs.*cannot be decoded at \(719, 1000\) of level 0.*copied whole"
            ):
                slide.read(719, 1000, 2, 2)
            for region in ((0, 0, 720, 960), (960, 0, 240, 2967), (720, 1200, 240, 99)):
                np.testing.assert_array_equal(slide.read(*region), truth.read(*region))
        with pytest.raises(SlideError, match="cannot be decoded"):
            overview(slide)
        with caplog.at_level(logging.WARNING):
            seen, whole = overview(slide, is_forgiving=True), overview(truth)
        assert caplog.messages == [
            "slide hole.svs: 1 blocks cannot be decoded, and are white in its overview"
        ]
        assert seen.scale == whole.scale
        left, top, right, bottom = (round(edge * seen.scale) for edge in (720, 960, 960, 1200))
        assert (seen.image[top + 3 : bottom - 3, left + 3 : right - 3] == 255).all()
        is_near = np.zeros(seen.image.shape[:2], dtype=bool)
        is_near[top - 3 : bottom + 3, left - 3 : right + 3] = True
        np.testing.assert_array_equal(seen.image[~is_near], whole.image[~is_near])


def test_a_fault_in_one_thread_is_none_in_another(svs_with_a_hole, shared_data):
    corners = [(int(x), int(y)) for y in range(0, 2900, 231) for x in range(0, 2200, 187)]
    with open_slide(svs_with_a_hole) as slide, open_slide(shared_data / SVS) as truth:

        def read(corner):
            try:
                return slide.read(*corner, 97, 89)
            except SlideError:
                return None

        with ThreadPoolExecutor(4) as pool:
            regions = list(pool.map(read, corners))
        n_refused = 0
        for (x, y), region in zip(corners, regions, strict=True):
            if x + 97 > 720 and x < 960 and y + 89 > 960 and y < 1200:
                assert region is None
                n_refused += 1
            else:
                np.testing.assert_array_equal(region, truth.read(x, y, 97, 89))
    assert n_refused > 1


@pytest.mark.parametrize("name", ["empty.svs", "empty.png", "empty.tif", "empty.dcm"])
def test_an_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(SlideError, match=rf"{name}.*it is empty: 0 bytes"):
        open_slide(tmp_path / name)


@pytest.mark.parametrize("name", ["text.svs", "text.ome.tif", "text.mrxs", "text.png"])
def test_text_under_a_slides_name(tmp_path, name):
    (tmp_path / name).write_text("barcode,x,y\n")
    with pytest.raises(SlideError, match=rf"{name}.*no format that can be read \(it begins with b'barcode"):
        open_slide(tmp_path / name)


def test_a_folder_where_a_file_is_expected(tmp_path):
    (tmp_path / "slide.svs").mkdir()
    with pytest.raises(
        SlideError, match=r"slide\.svs.*it is a folder, and neither an OME-Zarr nor a folder of DICOM"
    ):
        open_slide(tmp_path / "slide.svs")


def test_cmyk_is_refused(tmp_path, picture):
    Image.fromarray(picture).convert("CMYK").save(tmp_path / "print.jpg")
    with pytest.raises(SlideError, match=r"print\.jpg.*mode 'CMYK', not 8-bit grey or RGB.*colour.*profile"):
        open_slide(tmp_path / "print.jpg")
    ink = np.dstack([255 - picture, picture[..., :1]])
    tifffile.imwrite(tmp_path / "print.tif", ink, photometric="separated", tile=(64, 80), metadata=None)
    with pytest.raises(SlideError, match=r"print\.tif.*4 channels of uint8.*SEPARATED.*8-bit RGB"):
        open_slide(tmp_path / "print.tif")


@pytest.mark.parametrize("mode", ["grey", "colour", "clear"])
def test_16_bits_are_refused(tmp_path, picture, mode):
    imagecodecs = pytest.importorskip("imagecodecs")
    deep = picture.astype(np.uint16) * 257
    deep = {"grey": deep[..., 0], "colour": deep, "clear": np.dstack([deep, deep[..., :1]])}[mode]
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(deep)))
    with pytest.raises(SlideError, match=r"deep\.png.*16 bits.*8-bit RGB"):
        open_slide(tmp_path / "deep.png")
    tifffile.imwrite(tmp_path / "deep.tif", deep[..., :3] if mode == "clear" else deep, metadata=None)
    with pytest.raises(SlideError, match=r"deep\.tif.*of uint16.*8-bit RGB"):
        open_slide(tmp_path / "deep.tif")


def test_colours_that_would_have_to_be_guessed_are_refused(tmp_path, picture):
    clear = np.dstack([picture, picture[..., :1]])
    palette = np.zeros((3, 256), dtype=np.uint16)
    for name, pixels, options, words in (
        ("palette", picture[..., 0], {"photometric": "palette", "colormap": palette}, "PALETTE"),
        ("inverted", picture[..., 0], {"photometric": "miniswhite"}, "MINISWHITE"),
        ("scaled", clear, {"photometric": "rgb", "extrasamples": ["assocalpha"]}, "ASSOCALPHA"),
        ("unnamed", clear, {"photometric": "rgb", "extrasamples": ["unspecified"]}, "UNSPECIFIED"),
        ("stack", np.stack([picture[..., 0]] * 3), {"photometric": "minisblack"}, r"shape \(3, 307, 401\)"),
        (
            "markers",
            np.stack([picture[..., 0]] * 4),
            {"photometric": "minisblack", "metadata": {"axes": "CYX"}},
            "4 channels",
        ),
    ):
        path = tmp_path / f"{name}.ome.tif" if "metadata" in options else tmp_path / f"{name}.tif"
        tifffile.imwrite(path, pixels, **options)
        with pytest.raises(SlideError, match=rf"{name}.*{words}.*8-bit RGB"):
            open_slide(path)


def test_an_ome_tiff_whose_other_file_is_not_there(tmp_path, picture):
    planes = np.moveaxis(picture, -1, 0)
    tifffile.imwrite(tmp_path / "a.ome.tif", planes[:2], photometric="minisblack", metadata={"axes": "CYX"})
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        xml = tiff.ome_metadata
    uuid = "urn:uuid:11111111-2222-3333-4444-555555555555"
    more = f'<TiffData FirstC="2" IFD="0" PlaneCount="1"><UUID FileName="gone.ome.tif">{uuid}</UUID></TiffData></Pixels>'
    xml = xml.replace('SizeC="2"', 'SizeC="3"').replace("</Pixels>", more)
    tifffile.imwrite(
        tmp_path / "b.ome.tif", planes[:2], photometric="minisblack", description=xml.encode(), metadata=None
    )
    with pytest.raises(SlideError, match=r"b\.ome\.tif.*(another file|holds 2 channels)"):
        open_slide(tmp_path / "b.ome.tif")


@pytest.mark.parametrize("stated", [(0, 0), (1, 0)])
def test_a_resolution_that_is_no_number_states_nothing(tmp_path, stated):
    path = tmp_path / "odd.tif"
    pixels = np.full((64, 64, 3), 200, np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", resolution=(20000, 20000), resolutionunit="CENTIMETER")
    with tifffile.TiffFile(path) as tiff:
        offsets = [tiff.pages.first.tags[name].valueoffset for name in ("XResolution", "YResolution")]
        order = tiff.byteorder
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            file.write(struct.pack(f"{order}II", *stated))
    with open_slide(path) as slide:
        assert slide.mpp is None
        np.testing.assert_array_equal(slide.read(0, 0, 64, 64), pixels)


def test_threads_that_read_good_and_bad_places_of_an_openslide_agree(tmp_path, shared_data):
    """Whoever reads a damaged block opens the slide anew; nobody else may meet its fault."""
    path = tmp_path / "bad.svs"
    shutil.copy(shared_data / "slides/CMU-1-Small-Region.svs", path)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        broken = {12, 40, 77, 100}
        places = [(page.dataoffsets[i], page.databytecounts[i]) for i in sorted(broken)]
        n_across, side, n = -(-page.imagewidth // page.tilewidth), page.tilewidth, len(page.dataoffsets)
        size = page.imagewidth, page.imagelength
    with path.open("r+b") as file:
        for offset, n_bytes in places:
            file.seek(offset)
            file.write(bytes(n_bytes))

    with open_slide(path) as slide:

        def fails(i):
            x, y = (i % n_across) * side, (i // n_across) * side
            try:
                slide.read(x, y, min(side, size[0] - x), min(side, size[1] - y))
            except SlideError:
                return True
            return False

        with ThreadPoolExecutor(8) as pool:
            for _ in range(3):
                found = set(np.flatnonzero(list(pool.map(fails, range(n)))))
                assert found == broken
