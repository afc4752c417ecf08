"""TIFF that OpenSlide does not read, or not in full: OME-TIFF, strips, other compressions."""

import struct
import threading
from pathlib import Path

import numpy as np
import tifffile

from spam.errors import SlideError
from spam.typing import Array, UInt8

from .resolution import mpp_of_ome, mpp_of_tiff_tags
from .rgb import rgb_from_array
from .slide import Slide

__all__ = ["TiffSlide"]

_UNDECODABLE = (
    tifffile.TiffFileError,
    struct.error,
    RuntimeError,
    ValueError,
    OSError,
)  # imagecodecs: RuntimeError
_SEPARATE = 2  # TIFF 6.0, tag 284: one plane per channel


class TiffSlide(Slide):
    """The first image of a TIFF, with the levels that tifffile finds for it; decoded tile by tile.

    Grey, RGB and RGBA are read, interleaved or one plane per channel. Tiles that the file leaves out are
    white.

    Raises
    ------
    SlideError
        If the file cannot be parsed, is not 8-bit, or holds a stack and not one picture.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._tiff = tifffile.TiffFile(path)
            series = self._tiff.series[0]
        except (*_UNDECODABLE, IndexError) as error:
            message = (
                f"slide {str(path)!r} is not a readable TIFF: {error}; check that the file was copied whole"
            )
            raise SlideError(message) from error
        self._levels = [
            [page.aspage() for page in level.pages if page is not None] for level in series.levels
        ]
        first = self._levels[0][0]
        n_channels = len(self._levels[0]) * first.samplesperpixel
        if series.dtype != np.uint8 or n_channels not in (1, 3, 4):
            self._tiff.close()
            message = (
                f"slide {str(path)!r} holds {n_channels} channels of {series.dtype} "
                f"(axes {series.axes!r}, shape {series.shape}); an H&E slide has 8-bit (uint8) grey, RGB or "
                "RGBA pixels; export it as 8-bit RGB"
            )
            raise SlideError(message)
        ome = self._tiff.ome_metadata
        super().__init__(
            path,
            level_sizes=tuple((level[0].imagewidth, level[0].imagelength) for level in self._levels),
            block_sizes=tuple(_block_size(level[0]) for level in self._levels),
            mpp=(mpp_of_ome(ome) if ome else None) or mpp_of_tiff_tags(first),
        )

    def _read_inside(self, x: int, y: int, w: int, h: int, level: int) -> UInt8[Array, "h w 3"]:
        try:
            planes = [self._read_page(page, x, y, w, h) for page in self._levels[level]]
        except _UNDECODABLE as error:
            message = (
                f"slide {str(self.path)!r} cannot be decoded at ({x}, {y}) of level {level}: {error}; "
                "check that the file was copied whole"
            )
            raise SlideError(message) from error
        return rgb_from_array(np.concatenate(planes, axis=2), name=self.path.name)

    def _read_page(self, page: tifffile.TiffPage, x: int, y: int, w: int, h: int) -> UInt8[Array, "h w c"]:
        """Decode the tiles or strips that the region touches, and put each where it belongs."""
        tile_w, tile_h = _block_size(page)
        n_across = -(-page.imagewidth // tile_w)
        n_down = -(-page.imagelength // tile_h)
        n_planes = page.samplesperpixel if page.planarconfig == _SEPARATE else 1
        region = np.full((h, w, page.samplesperpixel), 255, dtype=np.uint8)
        for plane in range(n_planes):
            channels = slice(plane, plane + 1) if n_planes > 1 else slice(None)
            for down in range(y // tile_h, (y + h - 1) // tile_h + 1):
                for across in range(x // tile_w, (x + w - 1) // tile_w + 1):
                    tile = self._decode(page, (plane * n_down + down) * n_across + across)
                    if tile is None:
                        continue
                    top, left = down * tile_h, across * tile_w
                    y0, y1 = max(y, top), min(y + h, top + tile.shape[0])
                    x0, x1 = max(x, left), min(x + w, left + tile.shape[1])
                    region[y0 - y : y1 - y, x0 - x : x1 - x, channels] = tile[
                        y0 - top : y1 - top, x0 - left : x1 - left
                    ]
        return region

    def _decode(self, page: tifffile.TiffPage, index: int) -> UInt8[Array, "h w c"] | None:
        offset, n_bytes = page.dataoffsets[index], page.databytecounts[index]
        if n_bytes == 0:
            return None
        with self._lock:  # one file position for all threads; decoding goes on side by side
            self._tiff.filehandle.seek(offset)
            packed = self._tiff.filehandle.read(n_bytes)
        tile, _, _ = page.decode(packed, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        return None if tile is None else tile[0]  # (depth, h, w, channels), and a slide has a depth of 1

    def close(self) -> None:
        """Let go of the file."""
        self._tiff.close()


def _block_size(page: tifffile.TiffPage) -> tuple[int, int]:
    """Return width and height of the page's tiles or strips; a page of one strip may state one without end."""
    if page.is_tiled:
        return page.tilewidth, page.tilelength
    return page.imagewidth, min(page.rowsperstrip, page.imagelength)
