"""Slides kept as a plain PNG or JPEG: decoded whole, once, when the first pixels are asked for."""

import threading
from pathlib import Path

from PIL import Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from spam.errors import SlideError
from spam.typing import Array, UInt8

from .jpeg import decode_jpeg
from .rgb import rgb_from_array, rgb_from_image
from .slide import Slide

__all__ = ["ImageSlide"]

_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    UnidentifiedImageError,
)  # what Pillow and simplejpeg raise on damaged files
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
_PNG = b"\x89PNG"
_BIT_DEPTH_AT = 24  # in a PNG: 8 bytes of signature, then IHDR with its length, name, width and height


class ImageSlide(Slide):
    """A PNG or JPEG as a slide of one level; its dpi is never taken for a pixel size.

    Opening reads the header alone. The pixels stay as stored: an EXIF rotation is not applied, because
    coordinates count stored pixels.

    Raises
    ------
    SlideError
        If the header cannot be read, or states other pixels than 8-bit grey or RGB, with or without
        transparency.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._pixels: UInt8[Array, "h w 3"] | None = None
        with path.open("rb") as file:
            header = file.read(_BIT_DEPTH_AT + 1)
        self._is_png = header.startswith(_PNG)
        try:
            with self._open(path) as image:
                size, mode, dpi = image.size, image.mode, image.info.get("dpi")
        except _UNREADABLE as error:
            message = (
                f"slide {str(path)!r} is not a readable PNG or JPEG: {error}; open it in a viewer to check"
            )
            raise SlideError(message) from error
        # Pillow would cut the 16 bits of an RGB PNG to 8 and call the mode "RGB".
        is_deep = self._is_png and header[_BIT_DEPTH_AT] > 8
        if mode not in _EIGHT_BIT_MODES or is_deep:
            found = f"pixels of 16 bits (mode {mode!r})" if is_deep else f"pixels of mode {mode!r}"
            message = (
                f"slide {str(path)!r} has {found}, not 8-bit grey or RGB; export it as 8-bit RGB, with its own "
                "colour profile applied, e.g. with `vips icc_transform IN OUT.png srgb`"
            )
            raise SlideError(message)
        kind = "PNG" if self._is_png else "JPEG"
        printed = f" (its {float(dpi[0]):g} dpi are for printing)" if dpi else ""
        super().__init__(
            path,
            level_sizes=(size,),
            block_sizes=(size,),
            mpp=None,
            mpp_note=f"is a {kind}, which states no pixel size{printed}",
        )

    def _open(self, path: Path) -> Image.Image:
        # Image.open refuses large images through a global limit; the format's own class does not ask for it.
        plugin = PngImagePlugin.PngImageFile if self._is_png else JpegImagePlugin.JpegImageFile
        return plugin(path)

    def _read_inside(self, x: int, y: int, w: int, h: int, level: int) -> UInt8[Array, "h w 3"]:
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decode()
        return self._pixels[y : y + h, x : x + w].copy()

    def _decode(self) -> UInt8[Array, "h w 3"]:
        try:
            if not self._is_png:
                return rgb_from_array(decode_jpeg(self.path.read_bytes()), name=self.path.name)
            with self._open(self.path) as image:
                return rgb_from_image(image)
        except _UNREADABLE as error:
            message = (
                f"slide {str(self.path)!r} cannot be decoded: {error}; check that the file was copied whole"
            )
            raise SlideError(message) from error

    def close(self) -> None:
        """Let go of the pixels."""
        self._pixels = None
