"""Decode each compressed block once, although tiles overlap: a cache of regions, and the order in which tiles are read."""

import math
import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import TypeAlias

import numpy as np

from spam.errors import SlideError
from spam.typing import Array, Float64, Int64, UInt8

from .slide import Slide, blocks_of
from .tile_cutting import level_of

CACHE_BYTES = 256 << 20
"""Largest size of the decoded pixels that are kept; bounds the memory for slides of any size."""

_REGION_PX = 1024  # approximate side of a region: many blocks per call, and few calls per tile
_SHARE = 0.7  # of the cache; the rest is for tiles that are read ahead
_MARGIN_PX = 8  # most pixels that resampling needs beyond a tile, on the level that it is cut from

_Key: TypeAlias = tuple[int, int, int]
"""Level, column and row of a region."""

_Region: TypeAlias = UInt8[Array, "h w 3"]
"""Decoded pixels; none (0 x 0) if they cannot be decoded."""


class CachedSlide(Slide):
    """Reads another slide in regions of whole compressed blocks, and keeps the most recently used ones.

    The other slide stays open when this one is closed. A region that cannot be decoded is tried once while it is kept;
    requests inside it go to the slide, so that a damaged block spoils only the tiles that contain it.

    Parameters
    ----------
    slide
        The slide.
    most_bytes
        Decoded pixels to keep, at least one region.
    """

    def __init__(self, slide: Slide, *, most_bytes: int = CACHE_BYTES) -> None:
        super().__init__(slide.path, level_sizes=slide.level_sizes, block_sizes=slide.block_sizes)
        self._slide = slide
        self._sizes = [region_size(slide, level) for level in range(len(slide.level_sizes))]
        self._most_bytes, self._n_bytes = most_bytes, 0
        self._regions: OrderedDict[_Key, Future[_Region]] = OrderedDict()
        self._lock = threading.Lock()

    def _read_inside(self, x: int, y: int, w: int, h: int, level: int) -> UInt8[Array, "h w 3"]:
        out = np.empty((h, w, 3), dtype=np.uint8)
        for column, row, in_out, in_region in blocks_of(x, y, w, h, self._sizes[level]):
            region = self._region((level, column, row))
            if region.size == 0:
                return self._slide.read(x, y, w, h, level)
            if region[in_region].shape == out.shape:
                return region[in_region]
            out[in_out] = region[in_region]
        return out

    def _region(self, key: _Key) -> _Region:
        """Return a region; the first thread that needs it decodes it, the others wait."""
        with self._lock:
            is_new = key not in self._regions
            future = self._regions.setdefault(key, Future())
            self._regions.move_to_end(key)
        if is_new:
            try:
                region = self._decode(*key)
            except BaseException as error:  # e.g. KeyboardInterrupt: the other threads must not wait forever
                del self._regions[key]
                future.set_exception(error)
                raise
            future.set_result(region)
            with self._lock:
                self._n_bytes += region.nbytes
                for old in list(self._regions):
                    if self._n_bytes > self._most_bytes and old != key and self._regions[old].done():
                        self._n_bytes -= self._regions.pop(old).result().nbytes
        return future.result()

    def _decode(self, level: int, column: int, row: int) -> _Region:
        (width, height), (level_width, level_height) = self._sizes[level], self.level_sizes[level]
        x, y = column * width, row * height
        try:
            return self._slide.read(x, y, min(width, level_width - x), min(height, level_height - y), level)
        except SlideError:  # raised again if the damaged part itself is read
            return np.empty((0, 0, 3), dtype=np.uint8)

    def close(self) -> None:
        """Release the pixels."""
        self._regions.clear()
        self._n_bytes = 0


def region_size(slide: Slide, level: int) -> tuple[int, int]:
    """Return width and height of the regions that a level is decoded in: whole blocks, about 1024 px."""
    width, height = (
        min(block * max(1, _REGION_PX // block), size)
        for block, size in zip(slide.block_sizes[level], slide.level_sizes[level], strict=True)
    )
    return width, height


def sweep_order(
    xy_px: Float64[Array, "n 2"],
    slide: Slide,
    *,
    native_px: float,
    out_px: int,
    cache_bytes: int = CACHE_BYTES,
) -> Int64[Array, " n"]:
    """Order tiles so that a cache of `cache_bytes` decodes each block of the slide once.

    The slide is swept from top to bottom by rows of regions, each from left to right. If the rows that a tile touches do
    not fit into the cache over the whole width, the slide is swept in vertical strips; then blocks on the border between
    two strips are decoded twice.

    Parameters
    ----------
    xy_px
        Centres of the tiles in full-resolution pixels.
    slide
        Slide that they are cut from.
    native_px, out_px
        Side of a tile in full-resolution pixels, and of the result; see `cut_tile`.
    cache_bytes
        Size of the cache.

    Returns
    -------
    Int64[Array, " n"]
        Indices of the tiles in reading order; ties keep their order.
    """
    level = level_of(slide, native_px, out_px)
    width, height = region_size(slide, level)
    downsample = slide.level_downsamples[level]
    side = native_px / downsample + 2 * _MARGIN_PX
    corners = np.maximum(xy_px / downsample - side / 2, 0)
    column, row = (corners / (width, height)).astype(np.int64).T
    rows_needed = math.ceil(side / height) + 1
    fitting = int(_SHARE * cache_bytes / (3 * width * height * rows_needed))
    strip = max(1, fitting - math.ceil(side / width))
    return np.lexsort((column, row, column // strip))
