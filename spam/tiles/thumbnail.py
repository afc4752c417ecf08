"""A small picture of the whole slide, for maps that are drawn long after the slide has gone."""

import dataclasses
import math

import numpy as np

from spam.typing import Array, UInt8

from .cutting import best_level, resample
from .slide import Slide

__all__ = ["Thumbnail", "overview", "shrink"]

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


def overview(slide: Slide) -> Thumbnail:
    """Draw the whole slide, antialiased, with at most 2048 px on its longer side.

    A slide that is smaller stays as it is.

    Raises
    ------
    SlideError
        If the slide cannot be decoded.
    """
    return shrink(slide, scale=_LONGER_SIDE_PX / max(slide.width, slide.height))


def shrink(slide: Slide, *, scale: float) -> Thumbnail:
    """Draw the whole slide, antialiased, `scale` times its size; from a scale of 1 it stays as it is.

    Raises
    ------
    SlideError
        If the slide cannot be decoded.
    """
    if scale >= 1:
        return Thumbnail(image=slide.read(0, 0, slide.width, slide.height), scale=1.0)
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
        band = slide.read(0, y0, level_width, math.ceil(bottom) + margin - y0, level=level)
        box = (0.0, top - y0, float(level_width), bottom - y0)
        image[first:last] = resample(band, width, last - first, box=box)
    return Thumbnail(image=image, scale=scale)
