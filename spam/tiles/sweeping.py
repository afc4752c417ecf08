"""The order in which tiles are read: as their pixels lie in the file, so that every block is decoded once."""

import math

import numpy as np

from spam.typing import Array, Float64, Int64

from .block_cache import CACHE_BYTES, region_size
from .cutting import level_of
from .slide import Slide

__all__ = ["sweep_order"]

_SHARE = 0.7  # of the cache; the rest is for tiles that are read ahead
_MARGIN_PX = 8  # pixels that resampling looks beyond a tile, at most, on the level that a tile is cut from


def sweep_order(
    xy_px: Float64[Array, "n 2"],
    slide: Slide,
    *,
    native_px: float,
    out_px: int,
    cache_bytes: int = CACHE_BYTES,
) -> Int64[Array, " n"]:
    """Order tiles so that a cache of `cache_bytes` decodes each block of the slide once.

    The slide is swept from top to bottom, region row by region row, each from left to right. Where the rows that a tile
    touches do not fit into the cache over the whole width, the slide is swept in upright strips; then the blocks on the
    border between two strips are decoded twice.

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
        Numbers of the tiles, in the order of reading; tiles at the same place in the order of their numbers.
    """
    level = level_of(slide, native_px, out_px)
    width, height = region_size(slide, level)
    downsample = slide.level_downsamples[level]
    side = native_px / downsample + 2 * _MARGIN_PX
    corners = np.maximum(xy_px / downsample - side / 2, 0)
    column, row = (corners / (width, height)).astype(np.int64).T
    rows_alive = math.ceil(side / height) + 1
    fitting = int(_SHARE * cache_bytes / (3 * width * height * rows_alive))
    strip = max(1, fitting - math.ceil(side / width))
    return np.lexsort((np.arange(len(xy_px)), column, row, column // strip))
