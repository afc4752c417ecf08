"""JPEG, decoded strictly: what is damaged is an error and never a grey area."""

import simplejpeg

from spam.typing import Array, UInt8

__all__ = ["decode_jpeg", "whole_jpeg"]

_START = b"\xff\xd8"
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # APP14 up to its last byte, the colour transform


def decode_jpeg(data: bytes) -> UInt8[Array, "h w c"]:
    """Decode a grey (1 channel) or colour (3) JPEG.

    Where data is missing, libjpeg only warns and fills the rest with grey, and Pillow and imagecodecs keep the
    warning to themselves; simplejpeg calls the same library and turns its warnings into errors.

    Raises
    ------
    ValueError
        If the data is no JPEG of 8 bits, ends too early or is damaged.
    """
    _, _, colourspace, _ = simplejpeg.decode_jpeg_header(data)
    pixels: UInt8[Array, "h w c"] = simplejpeg.decode_jpeg(
        data, colorspace="GRAY" if colourspace == "Gray" else "RGB"
    )
    return pixels


def whole_jpeg(data: bytes, *, tables: bytes | None, is_ycbcr: bool) -> bytes:
    """Make a JPEG of a block of a TIFF, which keeps its tables and its colour space outside of the blocks.

    The colour space is told to the decoder by an Adobe marker, as Photoshop writes it.
    """
    inserted = tables.removeprefix(_START)[:-2] if tables else b""
    return _START + _ADOBE + bytes([is_ycbcr]) + inserted + data.removeprefix(_START)
