"""Slides kept as a plain PNG or JPEG: decoded whole, once, when the first pixels are asked for."""

import threading
from pathlib import Path

from PIL import Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from spam.errors import SlideError
from spam.typing import Array, UInt8

from .rgb import rgb_from_image
from .slide import Slide

__all__ = ["ImageSlide"]

_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    UnidentifiedImageError,
)  # what Pillow raises on damaged files


class ImageSlide(Slide):
    """A PNG or JPEG as a slide of one level; its dpi is never taken for a pixel size.

    Opening reads the header alone. The pixels stay as stored: an EXIF rotation is not applied, because
    coordinates count stored pixels.

    Raises
    ------
    SlideError
        If the header cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._pixels: UInt8[Array, "h w 3"] | None = None
        try:
            with self._open(path) as image:
                size = image.size
        except _UNREADABLE as error:
            message = (
                f"slide {str(path)!r} is not a readable PNG or JPEG: {error}; open it in a viewer to check"
            )
            raise SlideError(message) from error
        super().__init__(path, level_sizes=(size,), block_sizes=(size,), mpp=None)

    @staticmethod
    def _open(path: Path) -> Image.Image:
        # Image.open refuses large images through a global limit; the format's own class does not ask for it.
        with path.open("rb") as file:
            is_png = file.read(4) == b"\x89PNG"
        if is_png:
            return PngImagePlugin.PngImageFile(path)
        return JpegImagePlugin.JpegImageFile(path)

    def _read_inside(self, x: int, y: int, w: int, h: int, level: int) -> UInt8[Array, "h w 3"]:
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decode()
        return self._pixels[y : y + h, x : x + w].copy()

    def _decode(self) -> UInt8[Array, "h w 3"]:
        try:
            with self._open(self.path) as image:
                return rgb_from_image(image, name=self.path.name)
        except SlideError:
            raise
        except _UNREADABLE as error:
            message = (
                f"slide {str(self.path)!r} cannot be decoded: {error}; check that the file was copied whole"
            )
            raise SlideError(message) from error

    def close(self) -> None:
        """Let go of the pixels."""
        self._pixels = None
