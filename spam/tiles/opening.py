"""The one place that decides which library reads a slide: by what the file holds, never by its name."""

from collections.abc import Callable
from pathlib import Path

import openslide

from spam.errors import MissingInputError, SlideError
from spam.sections.lab_section import is_ome_zarr, is_slide_folder, slide_files

from .image_slide import ImageSlide
from .ome_zarr_slide import OmeZarrSlide
from .openslide_slide import OpenSlideSlide
from .slide import Slide
from .tiff_slide import TiffSlide

__all__ = ["open_slide", "reader_of"]

_IMAGE_MAGIC = (b"\x89PNG", b"\xff\xd8\xff")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, either byte order


def open_slide(path: Path) -> Slide:
    """Open a slide for reading.

    OpenSlide reads the scanners' own formats (svs, ndpi, mrxs, scn, bif and so on) and DICOM, tifffile every
    other TIFF: unlike OpenSlide it sees OME pyramids, reads all compressions, and takes damage for an error
    whatever the compression. PNG and JPEG are decoded whole. A folder is an OME-Zarr or a DICOM series.

    Raises
    ------
    MissingInputError
        If there is no such file.
    SlideError
        If the file is none of these formats, is damaged, or has other pixels than 8-bit grey or RGB.
    """
    if not path.exists():
        message = f"slide {str(path)!r} is not there; check --root and the table's source_image"
        raise MissingInputError(message)
    reader = reader_of(path)
    if reader is None:
        message = (
            f"slide {str(path)!r} is of no format that can be read ({_found(path)}); supported are what OpenSlide "
            "reads, TIFF and OME-TIFF, OME-Zarr, PNG and JPEG; convert it to one of them"
        )
        raise SlideError(message)
    return reader(_one_of_series(path) if path.is_dir() and reader is OpenSlideSlide else path)


def reader_of(path: Path) -> Callable[[Path], Slide] | None:
    """Say who reads a file or folder, by its first bytes; None if it is no slide."""
    if path.is_dir():
        if is_ome_zarr(path):
            return OmeZarrSlide
        return OpenSlideSlide if is_slide_folder(path) else None
    vendor = openslide.OpenSlide.detect_format(path)
    if vendor is not None and vendor != "generic-tiff":
        return OpenSlideSlide
    with path.open("rb") as file:
        magic = file.read(4)
    if magic.startswith(_IMAGE_MAGIC):
        return ImageSlide
    return TiffSlide if magic in _TIFF_MAGIC else None


def _found(path: Path) -> str:
    if path.is_dir():
        return "it is a folder, and neither an OME-Zarr nor a folder of DICOM files"
    with path.open("rb") as file:
        start = file.read(16)
    return f"it begins with {start!r}" if start else "it is empty: 0 bytes"


def _one_of_series(folder: Path) -> Path:
    """Return a file of the one slide in a folder of DICOM files: OpenSlide finds the others by itself."""
    series: dict[str, Path] = {}
    for file in slide_files(folder):
        if openslide.OpenSlide.detect_format(file) is not None:
            try:
                with openslide.OpenSlide(file) as slide:
                    series.setdefault(slide.properties["dicom.SeriesInstanceUID"], file)
            except openslide.OpenSlideError as error:
                message = (
                    f"slide {str(file)!r} cannot be opened: {error}; check that the folder was copied whole"
                )
                raise SlideError(message) from error
    if len(series) != 1:
        found = ", ".join(repr(file.name) for file in series.values()) or "no whole slide image"
        message = (
            f"folder {str(folder)!r} must hold the DICOM files of one slide, but has {found}; keep each slide in a "
            "folder of its own, or name one of its files"
        )
        raise SlideError(message)
    return next(iter(series.values()))
