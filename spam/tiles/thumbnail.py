"""A small picture of the whole slide, for maps that are drawn long after the slide has gone."""

import dataclasses
import logging
import math

import numpy as np

from spam.errors import SlideError
from spam.typing import Array, UInt8

from .cutting import best_level, resample
from .slide import Slide

__all__ = ["Thumbnail", "overview", "shrink"]

_log = logging.getLogger(__name__)

_LONGER_SIDE_PX = 2048
_BAND_ROWS = 32  # rows of the picture made at once: bounds the memory on a slide that has no pyramid


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A small picture of a slide.

    Attributes
    ----------
    image
        RGB pixels.
    scale
        Its pixels per full-resolution pixel of the slide, at most 1.
    """

    image: UInt8[Array, "h w 3"]
    scale: float


def overview(slide: Slide, *, purpose: str = "its overview", is_forgiving: bool = False) -> Thumbnail:
    """Draw the whole slide, antialiased, with at most 2048 px on its longer side.

    A slide that is smaller stays as it is.

    Parameters
    ----------
    slide
        Slide to draw.
    purpose, is_forgiving
        See `shrink`.

    Raises
    ------
    SlideError
        If the slide cannot be decoded.
    """
    scale = _LONGER_SIDE_PX / max(slide.width, slide.height)
    return shrink(slide, scale=scale, purpose=purpose, is_forgiving=is_forgiving)


def shrink(slide: Slide, *, scale: float, purpose: str, is_forgiving: bool = False) -> Thumbnail:
    """Draw the whole slide, antialiased, `scale` times its size; from a scale of 1 it stays as it is.

    Parameters
    ----------
    slide
        Slide to draw.
    scale
        Pixels of the picture per full-resolution pixel.
    purpose
        What the picture is for, as the end of a warning: a damaged slide is drawn for several, and of each
        something else follows.
    is_forgiving
        Whether blocks that cannot be decoded are white (and a warning says how many), not an error.

    Raises
    ------
    SlideError
        If the slide cannot be decoded.
    """
    lost: set[tuple[int, int]] = set()
    picture = _draw(slide, scale, lost if is_forgiving else None)
    if lost:
        _log.warning(
            "slide %s: %d blocks cannot be decoded, and are white in %s", slide.path.name, len(lost), purpose
        )
    return picture


def _draw(slide: Slide, scale: float, lost: set[tuple[int, int]] | None) -> Thumbnail:
    if scale >= 1:
        return Thumbnail(image=_read(slide, 0, slide.height, 0, lost), scale=1.0)
    width, height = max(1, round(slide.width * scale)), max(1, round(slide.height * scale))
    image = np.empty((height, width, 3), dtype=np.uint8)
    level = best_level(slide, 1 / scale)
    level_width, level_height = slide.level_sizes[level]
    rows_per_row = level_height / height
    margin = math.ceil(2 * rows_per_row) + 1  # the filter looks two rows of the picture beyond its band
    for first in range(0, height, _BAND_ROWS):
        last = min(first + _BAND_ROWS, height)
        top, bottom = first * rows_per_row, last * rows_per_row
        y0 = math.floor(top) - margin
        band = _read(slide, y0, math.ceil(bottom) + margin - y0, level, lost)
        box = (0.0, top - y0, float(level_width), bottom - y0)
        image[first:last] = resample(band, width, last - first, box=box)
    return Thumbnail(image=image, scale=scale)


def _read(
    slide: Slide, y: int, h: int, level: int, lost: set[tuple[int, int]] | None
) -> UInt8[Array, "h w 3"]:
    """Read whole rows of a level; with `lost`, block by block where they are damaged, adding what is lost to it."""
    level_width, level_height = slide.level_sizes[level]
    try:
        return slide.read(0, y, level_width, h, level)
    except SlideError:
        if lost is None:
            raise
    width, height = slide.block_sizes[level]
    rows = np.full((h, level_width, 3), 255, dtype=np.uint8)
    # Above and below the slide, where its edge would be repeated, the rows stay white.
    for row in range(max(y, 0) // height, (min(y + h, level_height) - 1) // height + 1):
        y0, y1 = max(y, 0, row * height), min(y + h, level_height, (row + 1) * height)
        for column in range(-(-level_width // width)):
            x0, x1 = column * width, min((column + 1) * width, level_width)
            try:
                rows[y0 - y : y1 - y, x0:x1] = slide.read(x0, y0, x1 - x0, y1 - y0, level)
            except SlideError:
                lost.add((row, column))
    return rows
