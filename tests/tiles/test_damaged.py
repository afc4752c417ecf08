"""Damaged and foreign files: each is one clear error, and no pixel is grey that the file does not hold."""

import io
import logging
import shutil
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from PIL import Image

from spam.errors import MissingInputError, SlideError
from spam.tiles import open_slide, overview
from spam.tiles.slide_formats import OpenSlideSlide
from spam.tiles.tiff_slide import TiffSlide

SVS = "slides/CMU-1-Small-Region.svs"


def is_refused(path, match, region=(0, 0, 401, 307)):
    with pytest.raises(SlideError, match=match), open_slide(path) as slide:
        slide.read(*region)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_jpeg(tmp_path, picture, share, progressive):
    path = tmp_path / "cut.jpg"
    Image.fromarray(picture).save(path, progressive=progressive)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    is_refused(path, r"cut\.jpg.*(cannot be decoded|not a readable PNG or JPEG)")


@pytest.mark.parametrize("damage", ["zeros", "noise", "early end"])
def test_a_jpeg_with_a_hole_is_not_filled_with_grey(tmp_path, picture, damage):
    path = tmp_path / "hole.jpg"
    Image.fromarray(picture).save(path)
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    if damage == "zeros":
        data[half:] = bytes(len(data) - half)
    elif damage == "noise":
        data[half:-2] = np.random.default_rng(1).bytes(len(data) - half - 2)
    else:
        data[half : half + 2] = b"\xff\xd9"
    path.write_bytes(data)
    if damage == "early end":  # Pillow accepts it, which is why it does not decode JPEG here
        with Image.open(path) as image:
            assert (np.asarray(image)[-8:] == 128).all()
    is_refused(path, r"hole\.jpg.*cannot be decoded at \(0, 0\) of level 0.*copied whole")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_png(tmp_path, slide_path, share):
    data = slide_path.read_bytes()
    slide_path.write_bytes(data[: int(len(data) * share)])
    is_refused(slide_path, r"slide\.png.*cannot be decoded.*copied whole")


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


@pytest.mark.parametrize("ome", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tiff_cut_or_zeroed_inside_a_tile(tmp_path, picture, kind, ome):
    path = tmp_path / "a.tif"
    more = {"ome": True} if ome else {"metadata": None}
    tifffile.imwrite(path, picture, tile=(64, 80), photometric="rgb", **more, **KINDS[kind])
    with open_slide(path) as slide:
        whole = slide.read(0, 0, 401, 307)
    with tifffile.TiffFile(path) as tiff:
        offsets, counts = tiff.pages.first.dataoffsets, tiff.pages.first.databytecounts
    last, data = int(np.argmax(offsets)), path.read_bytes()
    path.write_bytes(data[: offsets[last] + counts[last] // 2])
    with open_slide(path) as slide:
        assert type(slide) is TiffSlide
        for region in ((320, 256, 81, 51), (0, 0, 401, 307)):
            with pytest.raises(
                SlideError, match=r"decoded at .*the file ends inside block \d+.*copied whole"
            ):
                slide.read(*region)
            np.testing.assert_array_equal(slide.read(0, 0, 320, 256), whole[:256, :320])
    if kind not in ("none", "webp"):  # libwebp fills what is missing
        half = offsets[7] + counts[7] // 2
        path.write_bytes(data[:half] + bytes(offsets[7] + counts[7] - half) + data[offsets[7] + counts[7] :])
        is_refused(path, "cannot be decoded", region=(80, 64, 80, 64))


@pytest.mark.parametrize("n_bytes", [1000, 0.05, 0.3, 0.6])
def test_a_truncated_svs(tmp_path, shared_data, n_bytes):
    whole = (shared_data / SVS).read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(whole[: int(n_bytes if n_bytes > 1 else len(whole) * n_bytes)])
    words = (
        r"\(1000 bytes\).*no pictures.*end is missing"
        if n_bytes == 1000
        else "not a readable|cannot be decoded"
    )
    is_refused(path, rf"cut\.svs.*({words}).*copied whole", (0, 0, 2220, 2967))


@pytest.fixture
def broken_svs(tmp_path, shared_data):
    """An SVS of 10 x 13 tiles of 240 px, of which some end half way."""

    def write(*tiles):
        path = tmp_path / "hole.svs"
        shutil.copyfile(shared_data / SVS, path)
        with tifffile.TiffFile(path) as tiff, path.open("r+b") as file:
            for tile in tiles:
                n_bytes = tiff.pages.first.databytecounts[tile]
                file.seek(tiff.pages.first.dataoffsets[tile] + n_bytes // 2)
                file.write(bytes(n_bytes - n_bytes // 2))
        return path

    return write


def test_only_the_damaged_part_of_an_svs_is_refused(broken_svs, shared_data, caplog):
    with open_slide(broken_svs(43)) as slide, open_slide(shared_data / SVS) as truth:  # column 3, row 4
        assert type(slide) is OpenSlideSlide
        for _ in range(2):
            with pytest.raises(SlideError, match=r"hole\.svs.*at \(719, 1000\) of level 0.*copied whole"):
                slide.read(719, 1000, 2, 2)
            for region in ((0, 0, 720, 960), (960, 0, 240, 2967), (720, 1200, 240, 99)):
                np.testing.assert_array_equal(slide.read(*region), truth.read(*region))
        with pytest.raises(SlideError, match="cannot be decoded"):
            overview(slide)
        with caplog.at_level(logging.WARNING):
            seen, whole = overview(slide, is_forgiving=True), overview(truth)
        assert "hole.svs: 1 blocks" in caplog.text
        assert seen.scale == whole.scale
        left, top, right, bottom = (round(edge * seen.scale) for edge in (720, 960, 960, 1200))
        assert (seen.image[top + 3 : bottom - 3, left + 3 : right - 3] == 255).all()
        is_near = np.zeros(seen.image.shape[:2], dtype=bool)
        is_near[top - 3 : bottom + 3, left - 3 : right + 3] = True
        np.testing.assert_array_equal(seen.image[~is_near], whole.image[~is_near])


def test_threads_that_read_good_and_bad_places_of_an_openslide_agree(broken_svs, shared_data):
    """A thread that meets a damaged block reopens the slide; its error must not reach the other threads."""
    broken = {12, 40, 77, 100}
    with open_slide(broken_svs(*broken)) as slide, open_slide(shared_data / SVS) as truth:

        def read(i):
            region = (
                i % 10 * 240,
                i // 10 * 240,
                min(240, 2220 - i % 10 * 240),
                min(240, 2967 - i // 10 * 240),
            )
            try:
                return np.array_equal(slide.read(*region), truth.read(*region))
            except SlideError:
                return None

        with ThreadPoolExecutor(8) as pool:
            for _ in range(3):
                assert list(pool.map(read, range(130))) == [None if i in broken else True for i in range(130)]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        *((f"empty.{suffix}", b"", "0 bytes") for suffix in ("svs", "png", "tif", "dcm")),
        *(
            (f"text.{suffix}", b"barcode,x", r"begins with b'barcode.*PNG")
            for suffix in ("svs", "mrxs", "txt")
        ),
        ("short.tif", b"II*\0", "not a readable TIFF"),
        ("short.png", b"\x89PNG\r\n\x1a\n\0", "not a readable PNG"),
        ("folder.svs", None, r"a folder.*OME-Zarr.*DICOM"),
    ],
)
def test_files_that_are_not_slides(tmp_path, name, content, words):
    if content is None:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SlideError, match=rf"{name}.*{words}"):
        open_slide(tmp_path / name)
    with pytest.raises(MissingInputError, match=r"gone\.png \(--root\)"):
        open_slide(tmp_path / "gone.png")


@pytest.mark.parametrize("mode", ["grey", "colour", "clear"])
def test_16_bits_are_refused(tmp_path, picture, mode):
    imagecodecs = pytest.importorskip("imagecodecs")
    deep = picture.astype(np.uint16) * 257
    deep = {"grey": deep[..., 0], "colour": deep, "clear": np.dstack([deep, deep[..., :1]])}[mode]
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(deep)))
    with pytest.raises(SlideError, match=r"deep\.png.*16 bits.*8-bit"):
        open_slide(tmp_path / "deep.png")
    tifffile.imwrite(tmp_path / "deep.tif", deep[..., :3] if mode == "clear" else deep, metadata=None)
    with pytest.raises(SlideError, match=r"deep\.tif.*of uint16.*8-bit"):
        open_slide(tmp_path / "deep.tif")


def test_colours_that_would_have_to_be_guessed_are_refused(tmp_path, picture):
    Image.fromarray(picture).convert("CMYK").save(tmp_path / "print.jpg")
    with pytest.raises(SlideError, match=r"print\.jpg.*mode 'CMYK'.*8-bit"):
        open_slide(tmp_path / "print.jpg")
    clear, grey = np.dstack([picture, picture[..., :1]]), picture[..., 0]
    colormap, channels = np.zeros((3, 256), dtype=np.uint16), {"axes": "CYX"}
    for name, pixels, options, words in (
        ("print", clear, {"photometric": "separated"}, "4 channels of uint8.*SEPARATED"),
        ("palette", grey, {"photometric": "palette", "colormap": colormap}, "PALETTE"),
        ("inverted", grey, {"photometric": "miniswhite"}, "MINISWHITE"),
        ("scaled", clear, {"photometric": "rgb", "extrasamples": ["assocalpha"]}, "ASSOCALPHA"),
        ("unnamed", clear, {"photometric": "rgb", "extrasamples": ["unspecified"]}, "UNSPECIFIED"),
        ("stack", np.stack([grey] * 3), {"photometric": "minisblack"}, r"shape \(3, 307, 401\)"),
        (
            "markers.ome",
            np.stack([grey] * 4),
            {"photometric": "minisblack", "metadata": channels},
            "4 channels",
        ),
    ):
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, **options)
        with pytest.raises(SlideError, match=rf"{name}\.tif.*{words}.*8-bit"):
            open_slide(tmp_path / f"{name}.tif")


def test_an_ome_tiff_whose_other_file_is_missing(tmp_path, picture):
    planes, options = np.moveaxis(picture, -1, 0)[:2], {"photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, **options, metadata={"axes": "CYX"})
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        xml = tiff.ome_metadata
    uuid = '<UUID FileName="gone.ome.tif">urn:uuid:11111111-2222-3333-4444-555555555555</UUID>'
    more = f'<TiffData FirstC="2" IFD="0" PlaneCount="1">{uuid}</TiffData></Pixels>'
    xml = xml.replace('SizeC="2"', 'SizeC="3"').replace("</Pixels>", more)
    tifffile.imwrite(tmp_path / "b.ome.tif", planes, **options, description=xml.encode(), metadata=None)
    with pytest.raises(SlideError, match=r"b\.ome\.tif.*(another file|has 2 channels)"):
        open_slide(tmp_path / "b.ome.tif")


@pytest.mark.parametrize("stated", [(0, 0), (1, 0)])
def test_a_resolution_that_is_not_a_number_states_nothing(tmp_path, stated):
    path = tmp_path / "odd.tif"
    pixels = np.full((64, 64, 3), 200, np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", resolution=(20000, 20000), resolutionunit="CENTIMETER")
    with tifffile.TiffFile(path) as tiff, path.open("r+b") as file:
        for name in ("XResolution", "YResolution"):
            file.seek(tiff.pages.first.tags[name].valueoffset)
            file.write(struct.pack(f"{tiff.byteorder}II", *stated))
    with open_slide(path) as slide:
        assert slide.mpp is None
        np.testing.assert_array_equal(slide.read(0, 0, 64, 64), pixels)


# Empty files, and headers that claim more than there is


def rewrite(path, *, level=0, **values):
    """Overwrite numbers in the lists of blocks (`offsets`, `counts`) of a TIFF page; None keeps one."""
    names = {"offsets": "TileOffsets", "counts": "TileByteCounts"}
    with tifffile.TiffFile(path) as tiff, path.open("r+b") as file:
        for name, change in values.items():
            tag = tiff.pages[level].tags[names[name]]
            size = tag.valuebytecount // tag.count
            for i, value in change.items():
                file.seek(tag.valueoffset + i * size)
                file.write(value.to_bytes(size, "little"))


@pytest.fixture
def tiled(tmp_path, picture):
    """A TIFF of 6 x 5 tiles with a level of 3 x 3."""

    def write(**options):
        path = tmp_path / "a.tif"
        with tifffile.TiffWriter(path) as writer:
            for level in range(2):
                pixels = np.ascontiguousarray(picture[:: 2**level, :: 2**level])
                options = {"photometric": "rgb", "metadata": None, **options}
                writer.write(pixels, tile=(64, 80), subfiletype=level, **options)
        return path

    return write


@pytest.mark.parametrize("compression", ["jpeg", "zlib", None])
@pytest.mark.parametrize(("level", "n"), [(0, 30), (1, 9)])
def test_a_level_without_any_pixels_is_refused(tiled, compression, level, n):
    path = tiled(compression=compression)
    rewrite(path, level=level, counts=dict.fromkeys(range(n), 0))
    with pytest.raises(SlideError, match=rf"a\.tif.*level {level} .*all its {n} blocks are 0.*copied whole"):
        open_slide(path)


def test_blocks_without_data_are_counted(tiled, picture):
    path = tiled()
    rewrite(path, counts={0: 0, 7: 0}, offsets={0: 0})
    with open_slide(path) as slide:
        assert slide.notes == ("2 of 30 blocks of level 0 hold no data and are white",)
        assert slide.damage is None
        assert (slide.read(0, 0, 80, 64) == 255).all()
        np.testing.assert_array_equal(slide.read(80, 0, 80, 64), picture[:64, 80:160])
    rewrite(path, offsets={4: 0})
    with pytest.raises(SlideError, match="begin at byte 0"):
        open_slide(path)


@pytest.mark.parametrize(
    "change", [{"offsets": {3: 10**8, 5: 10**9}}, {"offsets": {0: 2**32 - 1, 29: 2**31}}]
)
def test_blocks_beyond_the_end_of_the_file_are_known_from_its_header(tiled, change):
    path = tiled()
    rewrite(path, **change)
    with open_slide(path) as slide:
        assert slide.damage == "ends before 2 of the 30 blocks of level 0"


def test_a_cut_file_is_known_from_its_header(tmp_path, picture):
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, picture, tile=(64, 80), photometric="rgb", metadata=None)
    path.write_bytes(path.read_bytes()[:-100])
    with open_slide(path) as slide:
        assert slide.damage == "ends before 1 of the 30 blocks of level 0"


def claim(kind, side):
    """A picture of 53 x 47 px whose header claims `side` x `side`."""
    file = io.BytesIO()
    Image.new("RGB", (53, 47), "pink").save(file, kind)
    data = bytearray(file.getvalue())
    if kind == "PNG":
        data[16:24] = side.to_bytes(4, "big") * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    else:
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = side.to_bytes(2, "big") * 2
    return bytes(data)


@pytest.mark.parametrize(
    ("kind", "side"), [("PNG", 60_000), ("JPEG", 60_000), ("PNG", 2**31 - 1), ("PNG", 20_000)]
)
def test_a_small_file_that_claims_a_large_picture_is_refused_when_it_is_opened(tmp_path, kind, side):
    path = tmp_path / "claim.img"
    path.write_bytes(claim(kind, side))
    with pytest.raises(
        SlideError, match=rf"claim\.img.*{side} x {side} pixels.*{path.stat().st_size}.*copied whole"
    ):
        open_slide(path)


def test_pictures_larger_than_the_memory_are_refused_when_they_are_opened(tmp_path, picture, monkeypatch):
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture).save(tmp_path / "a.jpg")
    tifffile.imwrite(tmp_path / "strip.tif", picture, photometric="rgb", metadata=None)
    tifffile.imwrite(tmp_path / "tiles.tif", picture, photometric="rgb", metadata=None, tile=(64, 80))
    monkeypatch.setattr("spam.tiles.slide._SMALL_BYTES", 0)
    monkeypatch.setattr("spam.tiles.slide.available_bytes", lambda: 401 * 307 * 5)
    for name in ("a.png", "a.jpg", "strip.tif"):
        with pytest.raises(SlideError, match=rf"{name}.*401 x 307 .*GB of memory.*vips tiffsave"):
            open_slide(tmp_path / name)
    open_slide(tmp_path / "tiles.tif").close()


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\x89HDF\r\n", "HDF5 file"),
        (b"\x1f\x8b\x08", "gunzip"),
        (b"PK\3\4", "ZIP"),
        (b"\xda\xce\xbe\x0a", "ND2.*bioformats2raw"),
        (b"%PDF-1.7", "PDF"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, start, words):
    (tmp_path / "a.png").write_bytes(start + bytes(100))
    with pytest.raises(SlideError, match=rf"a\.png.*{words}"):
        open_slide(tmp_path / "a.png")
