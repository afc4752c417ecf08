"""One tile, cut from the pyramid level that fits and resampled to the encoder's size; a small picture of a whole slide."""

import dataclasses
import logging
import math
from typing import Literal

import numpy as np
from PIL import Image

from spam.errors import SlideError
from spam.typing import Array, UInt8

from .slide import Slide, blocks_of, require_memory

Interpolation = Literal["bicubic", "bilinear"]

_log = logging.getLogger(__name__)

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_SUPPORT = {"bicubic": 2, "bilinear": 1}  # half width of the filter, in pixels of the coarser image
_LEVEL_TOLERANCE = 1.01  # levels are rounded to whole pixels: "4 times smaller" is stored as 4.0004
_SAME_SIZE_PX = 0.5  # a smaller difference over a whole tile comes from rounding mpp: such tiles are copied
_OVERVIEW_PX = 2048
# of a small picture made at once: bounds the memory for slides without a pyramid
_BAND_ROWS, _BAND_BYTES = (32, 1 << 30)


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

    The tile spans ``[x - native_px / 2, x + native_px / 2)``, where pixel ``i`` covers ``[i, i + 1)``. If its size differs
    from `out_px` by less than half a pixel, the full-resolution pixels are copied, beginning at
    ``floor(x - out_px / 2 + 0.5)``. Otherwise it is read from the coarsest level that still has at least `out_px` pixels
    across it, and resampled with antialiasing. Outside the slide its edge is repeated.

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
    # The filter extends beyond the tile, so that a tile equals the resampled whole slide at its place.
    margin = math.ceil(_SUPPORT[interpolation] * max(1.0, (right - left) / out_px, (bottom - top) / out_px))
    x0, y0 = math.floor(left) - margin, math.floor(top) - margin
    region = slide.read(x0, y0, math.ceil(right) + margin - x0, math.ceil(bottom) + margin - y0, level=level)
    box = (left - x0, top - y0, right - x0, bottom - y0)
    return resample(region, out_px, out_px, box=box, interpolation=interpolation)


def level_of(slide: Slide, native_px: float, out_px: int) -> int:
    """Return the pyramid level that a tile is cut from; 0 if it is copied."""
    return 0 if abs(native_px - out_px) < _SAME_SIZE_PX else _best_level(slide, native_px / out_px)


def _best_level(slide: Slide, downsample: float) -> int:
    """Return the coarsest level that is no coarser than `downsample` (within 1 %); level 0 if there is none."""
    factors = slide.level_downsamples
    fine_enough = [level for level, factor in enumerate(factors) if factor <= downsample * _LEVEL_TOLERANCE]
    return max(fine_enough, key=lambda level: factors[level], default=0)


def resample(
    pixels: UInt8[Array, "h w 3"],
    width: int,
    height: int,
    *,
    box: tuple[float, float, float, float] | None = None,
    interpolation: Interpolation = "bicubic",
) -> UInt8[Array, "height width 3"]:
    """Resample an image, or the part of it in `box` (left, top, right, bottom), with antialiasing.

    Pillow stretches the filter by the factor of reduction, so that every source pixel counts.
    """
    return np.array(Image.fromarray(pixels).resize((width, height), _FILTERS[interpolation], box=box))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A small RGB picture of a slide, and its pixels per full-resolution pixel (at most 1)."""

    image: UInt8[Array, "h w 3"]
    scale: float


def overview(slide: Slide, *, is_forgiving: bool = False) -> Thumbnail:
    """Shrink the whole slide to at most 2048 px on its longer side (see `shrink`)."""
    scale = _OVERVIEW_PX / max(slide.width, slide.height)
    return shrink(slide, scale=scale, is_forgiving=is_forgiving)


def shrink(slide: Slide, *, scale: float, is_forgiving: bool) -> Thumbnail:
    """Shrink the whole slide to `scale` times its size, antialiased; it is never enlarged.

    Parameters
    ----------
    slide
        Slide to draw.
    scale
        Pixels of the picture per full-resolution pixel.
    is_forgiving
        Whether damaged blocks become white with a warning; otherwise they are an error.

    Raises
    ------
    SlideError
        If the slide cannot be decoded; if `is_forgiving`, nowhere.
    """
    lost: dict[tuple[int, int], SlideError] | None = {} if is_forgiving else None
    level = 0 if scale >= 1 else _best_level(slide, 1 / scale)
    if scale >= 1:
        image, scale = _read_rows(slide, 0, slide.height, 0, lost), 1.0
    else:
        width, height = max(1, round(slide.width * scale)), max(1, round(slide.height * scale))
        image = np.empty((height, width, 3), dtype=np.uint8)
        level_width, level_height = slide.level_sizes[level]
        rows_per_row = level_height / height
        margin = math.ceil(2 * rows_per_row) + 1  # the filter extends two rows of the picture beyond its band
        n_rows = min(_BAND_ROWS, max(1, int(_BAND_BYTES / (3 * level_width * rows_per_row))))
        n_bytes = 3 * level_width * (n_rows * rows_per_row + 2 * margin)
        require_memory(slide.path, 2 * n_bytes, f"rows of {level_width} pixels without smaller levels")
        for first in range(0, height, n_rows):
            last = min(first + n_rows, height)
            top, bottom = first * rows_per_row, last * rows_per_row
            y0 = math.floor(top) - margin
            band = _read_rows(slide, y0, math.ceil(bottom) + margin - y0, level, lost)
            box = (0.0, top - y0, float(level_width), bottom - y0)
            image[first:last] = resample(band, width, last - first, box=box)
    if lost:
        if len(lost) == _n_blocks(slide, level):
            raise next(iter(lost.values()))
        words = "slide %s: %d blocks cannot be decoded: white in the overview, and no tiles of a grid"
        _log.warning(words, slide.path.name, len(lost))
    return Thumbnail(image=image, scale=scale)


def _read_rows(
    slide: Slide, y: int, h: int, level: int, lost: dict[tuple[int, int], SlideError] | None
) -> UInt8[Array, "h w 3"]:
    """Read whole rows of a level; with `lost`, damaged rows block by block, adding the damaged blocks to `lost`."""
    level_width, level_height = slide.level_sizes[level]
    try:
        return slide.read(0, y, level_width, h, level)
    except SlideError:
        if lost is None or _n_blocks(slide, level) == 1:
            raise
    rows = np.full((h, level_width, 3), 255, dtype=np.uint8)
    top, bottom = max(y, 0), min(y + h, level_height)  # above and below the slide the rows stay white
    inside = rows[top - y : bottom - y]
    for column, row, place, _ in blocks_of(0, top, level_width, bottom - top, slide.block_sizes[level]):
        ys, xs = place
        try:
            size = xs.stop - xs.start, ys.stop - ys.start
            inside[place] = slide.read(xs.start, top + ys.start, *size, level)
        except SlideError as error:
            lost[row, column] = error
    return rows


def _n_blocks(slide: Slide, level: int) -> int:
    sides = zip(slide.level_sizes[level], slide.block_sizes[level], strict=True)
    return math.prod(-(-size // block) for size, block in sides)
