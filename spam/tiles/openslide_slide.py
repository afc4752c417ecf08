"""Slides that OpenSlide reads: the scanners' own formats and DICOM."""

import threading
from pathlib import Path

import numpy as np
import openslide

from spam.errors import SlideError
from spam.typing import Array, UInt8

from .resolution import pixel_size
from .rgb import rgb_from_array
from .slide import Slide

__all__ = ["OpenSlideSlide"]

_USUAL_BLOCK = (256, 256)  # where the format does not say, e.g. because its blocks overlap (MRXS)


class OpenSlideSlide(Slide):
    """A slide behind the OpenSlide library, which reads from several threads by itself.

    OpenSlide takes the corner of a region in full-resolution pixels, as whole numbers: on a level whose
    downsample is not whole, a region lies off by up to half a full-resolution pixel, and is interpolated. Where
    the scanner took no picture, the slide is white.

    Raises
    ------
    SlideError
        If OpenSlide recognises the file but cannot open it.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._slide = openslide.OpenSlide(path)
        except openslide.OpenSlideError as error:
            message = f"slide {str(path)!r} cannot be opened: {error}; check that the file was copied whole"
            raise SlideError(message) from error
        x, y = (
            self._slide.properties.get(key)
            for key in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
        )
        vendor = self._slide.properties[openslide.PROPERTY_NAME_VENDOR]
        size = pixel_size(float(x) if x else None, float(y) if y else None, stated=f"its {vendor} header")
        self._downsamples = tuple(self._slide.level_downsamples)
        super().__init__(
            path,
            level_sizes=tuple(self._slide.level_dimensions),
            block_sizes=tuple(self._block_size(level) for level in range(self._slide.level_count)),
            mpp=size.mpp,
            mpp_note=size.note,
        )

    def _block_size(self, level: int) -> tuple[int, int]:
        width, height = (
            self._slide.properties.get(f"openslide.level[{level}].tile-{side}")
            for side in ("width", "height")
        )
        return (int(width), int(height)) if width and height else _USUAL_BLOCK

    def _read_inside(self, x: int, y: int, w: int, h: int, level: int) -> UInt8[Array, "h w 3"]:
        downsample = self._downsamples[level]
        where = ((round(x * downsample), round(y * downsample)), level, (w, h))
        try:
            region = self._slide.read_region(*where)
        except openslide.OpenSlideError:
            # From its first fault on, an open slide refuses everything, also to threads that read elsewhere in it:
            # only a slide opened anew, which nobody else has yet, can tell whether the fault is here.
            with self._lock:
                try:
                    anew = openslide.OpenSlide(self.path)
                    region = anew.read_region(*where)
                    self._slide = anew
                except openslide.OpenSlideError as error:
                    message = (
                        f"slide {str(self.path)!r} cannot be decoded at ({x}, {y}) of level {level}: {error}; "
                        "check that the file was copied whole"
                    )
                    raise SlideError(message) from error
        return rgb_from_array(np.asarray(region), name=self.path.name)

    def close(self) -> None:
        """Let go of the file."""
        self._slide.close()
