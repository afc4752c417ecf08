"""Every TIFF that is not a scanner's format: tiles or strips, OME-TIFF, BigTIFF, JPEG 2000 and other compressions."""

import struct
import threading
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tifffile
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG

from spam.errors import SlideError
from spam.typing import Array, UInt8

from .slide import UNSTATED, PixelSize, Slide, blocks_of, decode_jpeg, pixel_size, require_stored, to_rgb

_ONE_PICTURE = "YXSC"  # tifffile's letters for the axes of one picture; S are samples of a pixel, C of pages
_RESOLUTION_UNITS = {2: ("inch", 25_400.0), 3: ("cm", 10_000.0)}  # TIFF 6.0, tag 296; 1 is "no unit"
_JPEG_2000 = frozenset(kind for kind in COMPRESSION if "2000" in kind.name)
_START, _END = b"\xff\xd8", b"\xff\xd9"  # of a JPEG; a JPEG 2000 codestream ends alike
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # APP14 up to its last byte, the colour transform


class TiffSlide(Slide):
    """The picture of a TIFF with its pyramid levels, decoded block by block.

    Grey, RGB and RGBA are read, interleaved or one plane per channel. Of several pictures the largest is read. Blocks that
    the file leaves out are white, but not all of them; one that is shorter than stated or damaged is an error.

    Raises
    ------
    SlideError
        If the pixels are not 8-bit grey or RGB, or the file holds a stack.
    """

    kind = "TIFF"
    # RuntimeError: imagecodecs. Last row: tifffile on contradictory headers (sizes of zero, short lists, huge arrays).
    unreadable = (
        *(tifffile.TiffFileError, struct.error, RuntimeError, ValueError, OSError),
        *(ArithmeticError, LookupError, TypeError, MemoryError),
    )

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._tiff = tifffile.TiffFile(path)
        try:
            picture = _picture_of(self._tiff)
            self._levels = _levels_of(self._tiff, picture)
            pages = [level[0] for level in self._levels]
            _require_rgb(picture, pages[0], path)
            checks = [_check_blocks(page, at) for at, level in enumerate(self._levels) for page in level]
            self.damage = next((damage for damage, _ in checks if damage), None)
            notes = [note for _, note in checks]
            n_others = len(self._tiff.series) - 1
            n_others -= 0 if len(picture.levels) > 1 else len(self._levels) - 1
            if n_others:
                named = f"{picture.name!r} of " if picture.name else ""
                named += f"{pages[0].imagewidth} x {pages[0].imagelength} px"
                notes.append(f"{path.name} holds {n_others + 1} pictures; the largest, {named}, is read")
            orientation = pages[0].tags.get("Orientation")
            self.orientation = (
                int(orientation.value) if orientation and orientation.value in range(1, 9) else 1
            )
            size = ome_pixel_size(self._tiff.ome_metadata or "", picture=picture)
            super().__init__(
                path,
                level_sizes=tuple((page.imagewidth, page.imagelength) for page in pages),
                block_sizes=tuple(map(_block_size, pages)),
                size=_tag_pixel_size(pages[0]) if size == UNSTATED else size,
                notes=tuple(dict.fromkeys(filter(None, notes))),
            )
        except BaseException:
            self._tiff.close()
            raise

    def _read_inside(self, x: int, y: int, w: int, h: int, level: int) -> UInt8[Array, "h w 3"]:
        planes = [self._read_page(page, x, y, w, h) for page in self._levels[level]]
        return to_rgb(np.concatenate(planes, axis=2))

    def _read_page(self, page: tifffile.TiffPage, x: int, y: int, w: int, h: int) -> UInt8[Array, "h w c"]:
        """Decode the tiles or strips that the region touches, and put them together."""
        size = tile_w, tile_h = _block_size(page)
        n_across, n_down = -(-page.imagewidth // tile_w), -(-page.imagelength // tile_h)
        n_planes = page.samplesperpixel if page.planarconfig == PLANARCONFIG.SEPARATE else 1
        region = np.full((h, w, page.samplesperpixel), 255, dtype=np.uint8)
        for plane in range(n_planes):
            channels = slice(plane, plane + 1) if n_planes > 1 else slice(None)
            for across, down, in_region, in_tile in blocks_of(x, y, w, h, size):
                tile = self._decode(page, (plane * n_down + down) * n_across + across)
                if tile is not None:  # numpy raises ValueError if it is smaller than stated
                    region[(*in_region, channels)] = tile[in_tile]
        return region

    def _decode(self, page: tifffile.TiffPage, index: int) -> UInt8[Array, "h w c"] | None:
        offset, n_bytes = page.dataoffsets[index], page.databytecounts[index]
        if n_bytes == 0:
            return None
        file = page.parent.filehandle  # an OME-TIFF may be spread over several files
        with self._lock:  # threads share the file position; decoding runs in parallel
            file.seek(offset)
            packed = file.read(n_bytes)
        if len(packed) < n_bytes:
            message = f"the file ends inside block {index}, before byte {offset + n_bytes}"
            raise tifffile.TiffFileError(message)
        is_jpeg = page.compression == COMPRESSION.JPEG
        if (is_jpeg or page.compression in _JPEG_2000) and not packed.rstrip(b"\0").endswith(_END):
            message = f"block {index} lacks its last bytes"
            raise tifffile.TiffFileError(message)
        if is_jpeg:
            # A TIFF keeps the tables and the colour space outside of its blocks; the Adobe marker states the latter.
            tables = page.jpegtables.removeprefix(_START)[:-2] if page.jpegtables else b""
            colours = _ADOBE + bytes([page.photometric == PHOTOMETRIC.YCBCR])
            return decode_jpeg(_START + colours + tables + packed.removeprefix(_START))
        tile, _, _ = page.decode(packed, index)
        return None if tile is None else tile[0]  # (depth, h, w, channels), and a slide has a depth of 1

    def close(self) -> None:
        """Close the file."""
        self._tiff.close()


def _levels_of(tiff: tifffile.TiffFile, first: tifffile.TiffPageSeries) -> list[list[tifffile.TiffPage]]:
    """Find the pages of each level, the full resolution first: one page, or one per channel.

    Writers mark smaller levels as such or keep them in SubIFDs. If nothing is marked, further tiled pages of the same
    shape, but smaller, are levels, as in OpenSlide; in an OME-TIFF they are other pictures, such as an overview.
    """
    levels = [_pages_of(level) for level in first.levels]
    full = levels[0][0]
    if len(levels) == 1 and full.is_tiled and not tiff.is_ome:
        others = [_pages_of(other) for other in tiff.series if other.dtype == first.dtype]
        levels += [pages for pages in others if _is_smaller(pages[0], full)]
        levels.sort(key=lambda pages: -pages[0].imagewidth)
    return levels


def _picture_of(tiff: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """Return the largest picture, the first of several; overviews, labels and lower resolutions are smaller."""
    if not tiff.series:
        message = "it has no pictures, probably because its end is missing"
        raise tifffile.TiffFileError(message)
    return max(tiff.series, key=lambda series: series.keyframe.imagewidth * series.keyframe.imagelength)


def _check_blocks(page: tifffile.TiffPage, level: int) -> tuple[str | None, str | None]:
    """Compare the lists of blocks with the size of a page and of its file.

    Returns what is missing because the file ends early, and a note if some blocks hold no data.

    Raises
    ------
    TiffFileError, ValueError
        If the lists are too short, all blocks are empty, one begins at byte 0, or is too short for what it must hold.
    """
    width, height = _block_size(page)
    is_planar = page.planarconfig == PLANARCONFIG.SEPARATE
    n = (
        -(-page.imagewidth // width)
        * -(-page.imagelength // height)
        * (page.samplesperpixel if is_planar else 1)
    )
    counts, offsets = (np.array(values[:n], np.int64) for values in (page.databytecounts, page.dataoffsets))
    n_empty = int((counts <= 0).sum())
    for is_wrong, fault in (
        (
            min(len(counts), len(offsets)) < n,
            f"lists only {min(len(counts), len(offsets))} of its {n} blocks",
        ),
        (n_empty == n, f"holds no pixels: the byte counts of all its {n} blocks are 0"),
        (
            len(counts) == len(offsets) and ((offsets <= 0) & (counts > 0)).any(),
            "has blocks that begin at byte 0",
        ),
    ):
        if is_wrong:
            message = f"level {level} {fault}"
            raise tifffile.TiffFileError(message)
    n_channels = 1 if is_planar else page.samplesperpixel
    require_stored(width * height * n_channels, int(counts.max()), f"a block of {width} x {height} pixels")
    n_beyond = int((offsets + counts > page.parent.filehandle.size).sum())
    return (
        f"ends before {n_beyond} of the {n} blocks of level {level}" if n_beyond else None,
        f"{n_empty} of {n} blocks of level {level} hold no data and are white" if n_empty else None,
    )


def _pages_of(series: tifffile.TiffPageSeries) -> list[tifffile.TiffPage]:
    pages = [page.aspage() for page in series.pages if page is not None]
    if len(pages) < len(series.pages):
        message = "a part of the image is in another file, which is missing"
        raise tifffile.TiffFileError(message)
    return pages


def _is_smaller(page: tifffile.TiffPage, full: tifffile.TiffPage) -> bool:
    """Return whether a page may be the same picture at a lower resolution, each side rounded to whole pixels."""
    if not page.is_tiled or page.samplesperpixel != full.samplesperpixel:
        return False
    ratio = full.imagewidth / page.imagewidth
    return ratio > 1 and abs(full.imagelength / ratio - page.imagelength) <= 1


def _block_size(page: tifffile.TiffPage) -> tuple[int, int]:
    """Return width and height of the page's tiles or strips; a single strip may state an endless height."""
    if page.is_tiled:
        return page.tilewidth, page.tilelength
    return page.imagewidth, min(page.rowsperstrip, page.imagelength)


def _require_rgb(series: tifffile.TiffPageSeries, page: tifffile.TiffPage, path: Path) -> None:
    n_channels = len(series.pages) * page.samplesperpixel
    sizes = zip(series.axes, series.shape, strict=True)
    is_stack = any(size > 1 and axis not in _ONE_PICTURE for axis, size in sizes)
    if n_channels == 4:  # an alpha that the colours were not multiplied with
        is_rgb = page.photometric == PHOTOMETRIC.RGB and page.extrasamples == (EXTRASAMPLE.UNASSALPHA,)
    elif page.photometric == PHOTOMETRIC.YCBCR:  # the JPEG decoder converts it if it sees all channels
        is_rgb = page.compression == COMPRESSION.JPEG and page.planarconfig == PLANARCONFIG.CONTIG
    else:
        is_rgb = n_channels in (1, 3) and page.photometric in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB)
    if is_rgb and series.dtype == np.uint8 and not is_stack:
        return
    extra = "".join(f" and {EXTRASAMPLE(kind).name}" for kind in page.extrasamples)
    found = f"axes {series.axes!r}, shape {series.shape}, {PHOTOMETRIC(page.photometric).name}{extra}"
    message = (
        f"Slide {str(path)!r} has {n_channels} channels of {series.dtype} ({found}). Convert it to 8-bit RGB."
    )
    raise SlideError(message)


def ome_pixel_size(xml: str, picture: tifffile.TiffPageSeries | None = None) -> PixelSize:
    """Read PhysicalSizeX and PhysicalSizeY of a picture, else of the first, in an OME-XML header.

    Text that is not XML gives no pixel size. Pictures are distinguished by size and name.

    Source: OME schema 2016-06, ``Pixels/@PhysicalSizeX``.
    """
    try:
        images = [
            (image.get("Name"), pixels)
            for image in ElementTree.fromstring(xml).iterfind("{*}Image")
            for pixels in image.iterfind("{*}Pixels")
        ]
    except ElementTree.ParseError:
        return UNSTATED
    if picture is not None and len(images) > 1:
        page = picture.keyframe
        sides = str(page.imagewidth), str(page.imagelength)
        images = [
            (name, pixels) for name, pixels in images if (pixels.get("SizeX"), pixels.get("SizeY")) == sides
        ]
        images.sort(key=lambda image: image[0] != picture.name)
    pixels = images[0][1] if images else None
    names = ("PhysicalSizeX", "PhysicalSizeY")
    if pixels is None or not set(names) <= set(pixels.keys()):
        return UNSTATED
    sizes = [pixels.attrib[name] for name in names]
    units = [pixels.get(f"{name}Unit", "µm") for name in names]
    stated = f"OME-XML: {' x '.join(f'{size} {unit}' for size, unit in zip(sizes, units, strict=True))}"
    try:
        return pixel_size(*map(float, sizes), units=units, stated=stated)
    except ValueError:
        return PixelSize(mpp=None, note=f"states a pixel size that is not a number ({stated})")


def _tag_pixel_size(page: tifffile.TiffPage) -> PixelSize:
    """Read the resolution tags of a TIFF page; only centimetre and inch are units of length."""
    try:
        per_unit_x, per_unit_y = (float(value) for value in page.resolution)
    except ZeroDivisionError:  # 0/0 or 1/0, which some programs write for "unknown"
        return UNSTATED
    name, um = _RESOLUTION_UNITS.get(int(page.resolutionunit), ("", 0.0))
    if not name or per_unit_x <= 0 or per_unit_y <= 0:
        return UNSTATED
    return pixel_size(um / per_unit_x, um / per_unit_y, stated=f"TIFF tags: {per_unit_x:g} pixels per {name}")
