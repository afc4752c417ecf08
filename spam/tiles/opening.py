"""The one place that decides which library reads a slide: by what the file holds, never by its name."""

from pathlib import Path

import numpy as np
import openslide
import tifffile

from spam.errors import MissingInputError, SlideError

from .image_slide import ImageSlide
from .openslide_slide import OpenSlideSlide
from .slide import Slide
from .tiff_slide import TiffSlide

__all__ = ["open_slide"]

_IMAGE_MAGIC = (b"\x89PNG", b"\xff\xd8\xff")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, either byte order


def open_slide(path: Path) -> Slide:
    """Open a slide for reading.

    OpenSlide reads what it recognises (svs, ndpi, mrxs, scn, tiled pyramidal TIFF and so on), tifffile every
    other TIFF. OME-TIFF goes to tifffile too, because OpenSlide sees neither its pyramid nor its pixel size.
    PNG and JPEG are decoded whole.

    Raises
    ------
    MissingInputError
        If there is no such file.
    SlideError
        If the file is none of these formats, is damaged, or has more than 8 bits per channel.
    """
    if not path.is_file():
        message = f"slide {str(path)!r} is not there; check --root and the table's source_image"
        raise MissingInputError(message)
    vendor = openslide.OpenSlide.detect_format(path)
    if vendor is not None and vendor != "generic-tiff":
        return OpenSlideSlide(path)
    with path.open("rb") as file:
        magic = file.read(4)
    if magic.startswith(_IMAGE_MAGIC):
        return ImageSlide(path)
    if magic in _TIFF_MAGIC:
        return OpenSlideSlide(path) if vendor and _is_plain(path) else TiffSlide(path)
    message = (
        f"slide {str(path)!r} is of no format that can be read (it begins with {magic!r}); "
        "supported are what OpenSlide reads, TIFF and OME-TIFF, PNG and JPEG; convert it to one of them"
    )
    raise SlideError(message)


def _is_plain(path: Path) -> bool:
    """Tell whether OpenSlide sees all that this TIFF holds: 8 bits, and no OME header."""
    try:
        with tifffile.TiffFile(path) as tiff:
            return not tiff.is_ome and tiff.pages.first.dtype == np.uint8
    except tifffile.TiffFileError as error:
        message = f"slide {str(path)!r} is not a readable TIFF: {error}; check that the file was copied whole"
        raise SlideError(message) from error
