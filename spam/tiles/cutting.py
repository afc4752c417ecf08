"""One tile: a square of tissue, cut from the level that fits and resampled to the encoder's size."""

import math
from typing import Literal

import numpy as np
from PIL import Image

from spam.typing import Array, UInt8

from .slide import Slide

__all__ = ["Interpolation", "best_level", "cut_tile", "level_of", "resample"]

Interpolation = Literal["bicubic", "bilinear"]

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_SUPPORT = {"bicubic": 2, "bilinear": 1}  # half width of the filter, in pixels of the coarser image

# Levels are rounded to whole pixels, so that "4 times smaller" is stored as 4.0004.
_LEVEL_TOLERANCE = 1.01
# Less than half a pixel over a whole tile is how mpp is rounded, not a difference in scale: such tiles are
# copied.
_SAME_SIZE_PX = 0.5


def cut_tile(
    slide: Slide,
    x: float,
    y: float,
    *,
    native_px: float,
    out_px: int,
    interpolation: Interpolation = "bicubic",
) -> UInt8[Array, "out_px out_px 3"]:
    """Cut the square tile centred on (x, y) and bring it to `out_px`.

    The tile spans ``[x - native_px / 2, x + native_px / 2)``, where pixel ``i`` covers ``[i, i + 1)``. If its
    size differs from `out_px` by less than half a pixel, the full-resolution pixels are copied, beginning at
    ``floor(x - out_px / 2 + 0.5)``. Otherwise it is read from the coarsest level that still has at least
    `out_px` pixels across it, and resampled with antialiasing. Outside the slide its edge is repeated.

    Parameters
    ----------
    slide
        Slide to read.
    x, y
        Column and row of the centre, in full-resolution pixels.
    native_px
        Side of the tile in full-resolution pixels.
    out_px
        Side of the result in pixels.
    interpolation
        Filter of the resampling.

    Raises
    ------
    SlideError
        If the slide cannot be decoded there.
    """
    if abs(native_px - out_px) < _SAME_SIZE_PX:
        column, row = (math.floor(centre - out_px / 2 + 0.5) for centre in (x, y))
        return slide.read(column, row, out_px, out_px)
    level = level_of(slide, native_px, out_px)
    width, height = slide.level_sizes[level]
    per_px_x, per_px_y = slide.width / width, slide.height / height
    left, right = (x - native_px / 2) / per_px_x, (x + native_px / 2) / per_px_x
    top, bottom = (y - native_px / 2) / per_px_y, (y + native_px / 2) / per_px_y
    # The filter looks a little beyond the tile, so that a tile is what it would be in the whole slide
    # resampled.
    margin = math.ceil(_SUPPORT[interpolation] * max(1.0, (right - left) / out_px, (bottom - top) / out_px))
    x0, y0 = math.floor(left) - margin, math.floor(top) - margin
    region = slide.read(x0, y0, math.ceil(right) + margin - x0, math.ceil(bottom) + margin - y0, level=level)
    box = (left - x0, top - y0, right - x0, bottom - y0)
    return resample(region, out_px, out_px, box=box, interpolation=interpolation)


def level_of(slide: Slide, native_px: float, out_px: int) -> int:
    """Find the pyramid level that a tile is cut from; 0 where the slide has just the asked resolution."""
    return 0 if abs(native_px - out_px) < _SAME_SIZE_PX else best_level(slide, native_px / out_px)


def best_level(slide: Slide, downsample: float) -> int:
    """Find the coarsest level that is no coarser than `downsample` (within 1 %); level 0 if there is none."""
    fine_enough = [
        level
        for level, level_downsample in enumerate(slide.level_downsamples)
        if level_downsample <= downsample * _LEVEL_TOLERANCE
    ]
    return max(fine_enough, key=lambda level: slide.level_downsamples[level], default=0)


def resample(
    pixels: UInt8[Array, "h w 3"],
    width: int,
    height: int,
    *,
    box: tuple[float, float, float, float] | None = None,
    interpolation: Interpolation = "bicubic",
) -> UInt8[Array, "height width 3"]:
    """Resample an image, or the part of it in `box` (left, top, right, bottom), with antialiasing.

    The filter is stretched by the factor of reduction (Pillow's ``Image.resize``), so that every source pixel
    counts; interpolating between the nearest source pixels alone would alias.
    """
    image = Image.fromarray(pixels).resize((width, height), _FILTERS[interpolation], box=box)
    return np.array(image)
