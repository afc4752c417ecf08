"""TIFF that is no scanner's own format: tiled or in strips, OME-TIFF, BigTIFF, JPEG 2000 and other compressions."""

import struct
import threading
from pathlib import Path

import numpy as np
import tifffile
from tifffile import COMPRESSION, PHOTOMETRIC, PLANARCONFIG

from spam.errors import SlideError
from spam.typing import Array, UInt8

from .jpeg import decode_jpeg, whole_jpeg
from .resolution import UNSTATED, ome_pixel_size, tag_pixel_size
from .rgb import rgb_from_array
from .slide import Slide
from .tiff_levels import block_size, check_picture, levels_of

__all__ = ["TiffSlide"]

_UNREADABLE = (
    tifffile.TiffFileError,
    struct.error,
    RuntimeError,
    ValueError,
    OSError,
    # What tifffile raises on headers that contradict themselves: sizes of zero, lists that are too short, huge arrays.
    ArithmeticError,
    LookupError,
    TypeError,
    MemoryError,
)  # imagecodecs: RuntimeError
_JPEG_2000 = frozenset(
    {
        COMPRESSION.JPEG2000,
        COMPRESSION.APERIO_JP2000_YCBC,
        COMPRESSION.JPEG_2000_LOSSY,
        COMPRESSION.APERIO_JP2000_RGB,
    }
)
_END = b"\xff\xd9"  # the last marker of a JPEG (EOI) as of a JPEG 2000 codestream (EOC)


class TiffSlide(Slide):
    """The first image of a TIFF, with the levels that tifffile finds for it; decoded block by block.

    Grey, RGB and RGBA are read, interleaved or one plane per channel. Blocks that the file leaves out are
    white; one that is shorter than stated or damaged is an error.

    Raises
    ------
    SlideError
        If the file cannot be parsed, is not 8-bit grey or RGB, or holds a stack and not one picture.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._tiff = tifffile.TiffFile(path)
        except _UNREADABLE as error:
            raise SlideError(_not_readable(path, error)) from error
        try:
            self._levels = levels_of(self._tiff)
            check_picture(self._tiff, path)
            first = self._levels[0][0]
            ome = self._tiff.ome_metadata
            size = ome_pixel_size(ome) if ome else UNSTATED
            size = tag_pixel_size(first) if size == UNSTATED else size
            level_sizes = tuple((level[0].imagewidth, level[0].imagelength) for level in self._levels)
            block_sizes = tuple(block_size(level[0]) for level in self._levels)
            if min(side for sizes in (*level_sizes, *block_sizes) for side in sizes) < 1:
                message = f"sizes {level_sizes} in blocks of {block_sizes}"
                raise tifffile.TiffFileError(message)
        except SlideError:
            self._tiff.close()
            raise
        except _UNREADABLE as error:
            self._tiff.close()
            raise SlideError(_not_readable(path, error)) from error
        super().__init__(
            path,
            level_sizes=level_sizes,
            block_sizes=block_sizes,
            mpp=size.mpp,
            mpp_note=size.note,
        )

    def _read_inside(self, x: int, y: int, w: int, h: int, level: int) -> UInt8[Array, "h w 3"]:
        try:
            planes = [self._read_page(page, x, y, w, h) for page in self._levels[level]]
        except _UNREADABLE as error:
            message = (
                f"slide {str(self.path)!r} cannot be decoded at ({x}, {y}) of level {level}: {error}; "
                "check that the file was copied whole"
            )
            raise SlideError(message) from error
        return rgb_from_array(np.concatenate(planes, axis=2), name=self.path.name)

    def _read_page(self, page: tifffile.TiffPage, x: int, y: int, w: int, h: int) -> UInt8[Array, "h w c"]:
        """Decode the tiles or strips that the region touches, and put each where it belongs."""
        tile_w, tile_h = block_size(page)
        n_across = -(-page.imagewidth // tile_w)
        n_down = -(-page.imagelength // tile_h)
        n_planes = page.samplesperpixel if page.planarconfig == PLANARCONFIG.SEPARATE else 1
        region = np.full((h, w, page.samplesperpixel), 255, dtype=np.uint8)
        for plane in range(n_planes):
            channels = slice(plane, plane + 1) if n_planes > 1 else slice(None)
            for down in range(y // tile_h, (y + h - 1) // tile_h + 1):
                for across in range(x // tile_w, (x + w - 1) // tile_w + 1):
                    tile = self._decode(page, (plane * n_down + down) * n_across + across)
                    if tile is None:
                        continue
                    top, left = down * tile_h, across * tile_w
                    y0, y1 = max(y, top), min(y + h, top + tile_h)
                    x0, x1 = max(x, left), min(x + w, left + tile_w)
                    # A block that is smaller than stated does not fit, and numpy says so (ValueError).
                    region[y0 - y : y1 - y, x0 - x : x1 - x, channels] = tile[
                        y0 - top : y1 - top, x0 - left : x1 - left
                    ]
        return region

    def _decode(self, page: tifffile.TiffPage, index: int) -> UInt8[Array, "h w c"] | None:
        offset, n_bytes = page.dataoffsets[index], page.databytecounts[index]
        if n_bytes == 0:
            return None
        file = page.parent.filehandle  # an OME-TIFF may be spread over several files
        if file.closed:
            message = "the slide is closed"
            raise ValueError(message)
        with self._lock:  # one file position for all threads; decoding goes on side by side
            file.seek(offset)
            packed = file.read(n_bytes)
        if len(packed) < n_bytes:
            message = f"the file ends inside block {index}, which reaches to byte {offset + n_bytes}"
            raise tifffile.TiffFileError(message)
        is_jpeg = page.compression == COMPRESSION.JPEG
        if (is_jpeg or page.compression in _JPEG_2000) and not packed.rstrip(b"\0").endswith(_END):
            message = f"block {index} lacks its last bytes"
            raise tifffile.TiffFileError(message)
        if is_jpeg:
            is_ycbcr = page.photometric == PHOTOMETRIC.YCBCR
            return decode_jpeg(whole_jpeg(packed, tables=page.jpegtables, is_ycbcr=is_ycbcr))
        tile, _, _ = page.decode(packed, index)
        return None if tile is None else tile[0]  # (depth, h, w, channels), and a slide has a depth of 1

    def close(self) -> None:
        """Let go of the file."""
        self._tiff.close()


def _not_readable(path: Path, error: Exception) -> str:
    return (
        f"slide {str(path)!r} ({path.stat().st_size} bytes) is not a readable TIFF: {error}; expected a whole TIFF with a "
        "picture in it; check that the file was copied whole, with as many bytes as where it came from"
    )
