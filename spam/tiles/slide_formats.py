"""Opening a slide by what the file holds (never by its name); PNG and JPEG, and all that OpenSlide reads."""

import contextlib
import os
import struct
import threading
from pathlib import Path
from typing import TypeAlias

import numpy as np
import openslide
from PIL import Image, JpegImagePlugin, PngImagePlugin

from spam.errors import MissingInputError, SlideError
from spam.sections.file_kinds import kind_of_file
from spam.sections.lab_section import is_dicom, is_ome_zarr, is_slide, quoted, slide_files
from spam.typing import Array, UInt8

from .ome_zarr_slide import OmeZarrSlide
from .slide import UNSTATED, PixelSize, Slide, decode_jpeg, pixel_size, require_memory, require_stored, to_rgb
from .tiff_slide import TiffSlide

_PNG, _JPEG = b"\x89PNG", b"\xff\xd8\xff"
_PNG_SIGNATURE = _PNG + b"\r\n\x1a\n"
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, either byte order
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
_ORIENTATION = 274  # tag of TIFF and EXIF
_BIT_DEPTH_AT = 24  # in a PNG: 8 bytes of signature, then IHDR with its length, name, width and height
_USUAL_BLOCK = (256, 256)  # for formats that state none, e.g. because their blocks overlap (MRXS)


class ImageSlide(Slide):
    """A PNG or JPEG as a slide of one level, decoded whole when the first pixels are read; its dpi is ignored.

    Raises
    ------
    SlideError
        If the pixels are not 8-bit grey or RGB, with or without transparency.
    """

    kind = "PNG or JPEG"
    unreadable = (OSError, SyntaxError, ValueError, struct.error)

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._pixels: UInt8[Array, "h w 3"] | None = None
        with path.open("rb") as file:
            header = file.read(_BIT_DEPTH_AT + 1)
        self._is_png = header.startswith(_PNG)
        with self._open(path) as image:
            size, mode, dpi = image.size, image.mode, image.info.get("dpi")
            self.orientation = _orientation_of(image, path)
            n_bands = len(image.getbands())
        # Pillow cuts the 16 bits of an RGB PNG to 8 and calls the mode "RGB".
        is_deep = self._is_png and header[_BIT_DEPTH_AT] > 8
        if mode not in _EIGHT_BIT_MODES or is_deep:
            found = f"pixels of mode {mode!r}{' with 16 bits' if is_deep else ''}"
            message = f"Slide {str(path)!r} has {found}. Convert it to 8-bit RGB: vips icc_transform IN OUT.png srgb"
            raise SlideError(message)
        n_bits = header[_BIT_DEPTH_AT] if self._is_png else 8
        n_px = size[0] * size[1]
        require_stored(n_px * n_bands * n_bits / 8, path.stat().st_size, f"{size[0]} x {size[1]} pixels")
        # Pillow has 4 bytes per pixel, and converts twice.
        require_memory(path, n_px * (12 if self._is_png else 6), f"its {size[0]} x {size[1]} pixels")
        printed = f" (its {float(dpi[0]):g} dpi are for printing)" if dpi else ""
        note = f"is a {'PNG' if self._is_png else 'JPEG'}, which states no pixel size{printed}"
        super().__init__(path, level_sizes=(size,), block_sizes=(size,), size=PixelSize(mpp=None, note=note))

    def _open(self, path: Path) -> Image.Image:
        # Image.open refuses large images through a global limit; the format's class does not.
        return (PngImagePlugin.PngImageFile if self._is_png else JpegImagePlugin.JpegImageFile)(path)

    def _read_inside(self, x: int, y: int, w: int, h: int, level: int) -> UInt8[Array, "h w 3"]:
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decode()
        return self._pixels[y : y + h, x : x + w].copy()

    def _decode(self) -> UInt8[Array, "h w 3"]:
        if not self._is_png:
            return to_rgb(decode_jpeg(self.path.read_bytes()))
        with self._open(self.path) as image:
            is_transparent = "A" in image.mode or "transparency" in image.info
            return to_rgb(np.asarray(image.convert("RGBA" if is_transparent else "RGB")))

    def release(self) -> None:
        """Free the pixels."""
        self._pixels = None

    close = release


class OpenSlideSlide(Slide):
    """A slide in a scanner's format or DICOM, read by OpenSlide; areas that were not scanned are white.

    OpenSlide takes the corner of a region in whole full-resolution pixels: on a level whose downsample is not whole, a
    region is off by up to half a full-resolution pixel, and is interpolated.
    """

    kind = "slide for OpenSlide"
    unreadable = (openslide.OpenSlideError,)

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._slide = openslide.OpenSlide(path)
        self._downsamples = self._slide.level_downsamples
        stated = self._slide.properties
        x, y = (stated.get(f"openslide.mpp-{axis}") for axis in "xy")
        vendor = stated["openslide.vendor"]
        levels = [f"openslide.level[{level}].tile" for level in range(self._slide.level_count)]
        blocks = [(stated.get(f"{level}-width"), stated.get(f"{level}-height")) for level in levels]
        super().__init__(
            path,
            level_sizes=tuple(self._slide.level_dimensions),
            block_sizes=tuple((int(w), int(h)) if w and h else _USUAL_BLOCK for w, h in blocks),
            size=pixel_size(float(x), float(y), stated=f"its {vendor} header") if x and y else UNSTATED,
        )

    def _read_inside(self, x: int, y: int, w: int, h: int, level: int) -> UInt8[Array, "h w 3"]:
        downsample = self._downsamples[level]
        where = ((round(x * downsample), round(y * downsample)), level, (w, h))
        try:
            region = self._slide.read_region(*where)
        except openslide.OpenSlideError:
            # After its first error an OpenSlide refuses every region, also in other threads. Only a fresh one, which
            # no other thread has yet, shows whether this region is damaged.
            with self._lock:
                fresh = openslide.OpenSlide(self.path)
                region = fresh.read_region(*where)
                self._slide = fresh
        return to_rgb(np.asarray(region))

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


class UprightSlide(Slide):
    """Another slide, turned and mirrored as its EXIF orientation says, so that coordinates count upright pixels.

    Viewers and programs that people mark spots in show such a picture upright. Blocks may begin at another corner than
    the upper left one: a damaged one costs its neighbours too.

    Source: TIFF 6.0 and EXIF 2.32, tag 274.
    """

    kind = "picture with an EXIF orientation"

    def __init__(self, slide: Slide, orientation: int) -> None:
        self._slide, self.damage = slide, slide.damage
        # The upright picture is the stored one with these axes reversed, and then transposed.
        self._is_reversed = orientation in (3, 4, 6, 7), orientation in (2, 3, 7, 8)  # rows, columns
        self._is_transposed = orientation >= 5
        sizes = (slide.level_sizes, slide.block_sizes)
        level_sizes, block_sizes = (
            tuple((h, w) if self._is_transposed else (w, h) for w, h in of_levels) for of_levels in sizes
        )
        note = (
            f"{slide.path.name} is stored turned (EXIF orientation {orientation}) and is read upright, as viewers show it; "
            "coordinates count upright pixels"
        )
        super().__init__(
            slide.path,
            level_sizes=level_sizes,
            block_sizes=block_sizes,
            size=PixelSize(mpp=slide.mpp, note=slide.mpp_note),
            notes=(*slide.notes, note),
        )

    def _read_inside(self, x: int, y: int, w: int, h: int, level: int) -> UInt8[Array, "h w 3"]:
        if self._is_transposed:
            x, y, w, h = y, x, h, w
        width, height = self._slide.level_sizes[level]
        rows, columns = (slice(None, None, -1 if is_reversed else 1) for is_reversed in self._is_reversed)
        x, y = width - x - w if self._is_reversed[1] else x, height - y - h if self._is_reversed[0] else y
        pixels = self._slide.read(x, y, w, h, level)[rows, columns]
        return np.ascontiguousarray(pixels.swapaxes(0, 1) if self._is_transposed else pixels)

    def release(self) -> None:
        """Free the pixels of the stored picture."""
        self._slide.release()

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


def _orientation_of(image: Image.Image, path: Path) -> int:
    """Return the EXIF orientation without decoding the picture (EXIF may follow the pixels of a PNG); 1 if none is stated."""
    stated = None
    # broken EXIF data count as missing
    with contextlib.suppress(SyntaxError, ValueError, TypeError, KeyError, struct.error):
        stated = Image.Image.getexif(image).get(_ORIENTATION)
        if stated is None and image.format == "PNG":
            exif = Image.Exif()
            exif.load(_chunk_of_png(path, b"eXIf"))
            stated = exif.get(_ORIENTATION)
    return stated if isinstance(stated, int) and stated in range(1, 9) else 1


def _chunk_of_png(path: Path, name: bytes) -> bytes:
    """Return the content of the first chunk of this name; nothing if there is none."""
    with path.open("rb") as file:
        file.seek(len(_PNG_SIGNATURE))
        while len(head := file.read(8)) == 8:
            n_bytes = int.from_bytes(head[:4], "big")
            if head[4:] == name:
                return file.read(n_bytes)
            file.seek(n_bytes + 4, os.SEEK_CUR)  # and the checksum
    return b""


_Reader: TypeAlias = type[ImageSlide] | type[OpenSlideSlide] | type[TiffSlide] | type[OmeZarrSlide]


def open_slide(path: Path) -> Slide:
    """Open a slide for reading.

    OpenSlide reads the scanners' formats (svs, ndpi, mrxs, scn, bif, ...) and DICOM; tifffile reads every other TIFF,
    because it finds OME pyramids, supports all compressions, and reports damage in each of them. A folder is an OME-Zarr or
    a DICOM series.

    A picture with an EXIF orientation is read upright.

    Raises
    ------
    MissingInputError
        If the file does not exist.
    SlideError
        If the format is unknown, the file is damaged or empty, its pixels are not 8-bit grey or RGB, or a block of them
        needs more memory than is available.
    """
    if not path.exists():
        message = f"Slide not found: {path} (--root)."
        raise MissingInputError(message)
    reader = reader_of(path)
    if reader is None:
        known = "all that OpenSlide reads, TIFF, OME-TIFF, OME-Zarr, PNG and JPEG"
        message = f"Slide {str(path)!r} has an unknown format ({_found(path)}). Supported: {known}."
        raise SlideError(message)
    try:
        slide = reader(_one_of_series(path) if reader is OpenSlideSlide and path.is_dir() else path)
    except SlideError:
        raise
    except reader.unreadable as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        n_bytes = f" ({path.stat().st_size} bytes)" if path.is_file() else ""
        found = f"{str(path)!r}{n_bytes} is not a readable {reader.kind}: {reason}"
        message = f"Slide {found}. Check that it was copied whole."
        raise SlideError(message) from error
    block_px, (w, h) = max((w * h, (w, h)) for w, h in slide.block_sizes)
    try:
        # A block, and the region that shows it.
        require_memory(path, 6 * block_px, f"its blocks of {w} x {h} pixels")
    except SlideError:
        slide.close()
        raise
    return slide if slide.orientation == 1 else UprightSlide(slide, slide.orientation)


def reader_of(path: Path) -> _Reader | None:
    """Choose the reader of a file or folder by its first bytes; None if it is not a slide."""
    if path.is_dir():
        return OmeZarrSlide if is_ome_zarr(path) else OpenSlideSlide if is_slide(path) else None
    if openslide.OpenSlide.detect_format(path) not in (None, "generic-tiff"):
        return OpenSlideSlide
    with path.open("rb") as file:
        magic = file.read(4)
    if magic.startswith((_PNG, _JPEG)):
        return ImageSlide
    return TiffSlide if magic in _TIFF_MAGIC else None


def _found(path: Path) -> str:
    """Say what a file is, and what to do with it."""
    if path.is_dir():
        return "a folder, but neither an OME-Zarr nor DICOM files"
    with path.open("rb") as file:
        start = file.read(16)
    if is_dicom(path):
        return "a DICOM image, but no whole slide image of modality 'SM'"
    if not start:
        return "it is empty: 0 bytes"
    kind = kind_of_file(path)
    return f"it is {kind}" if kind else f"it begins with {start!r}"


def _one_of_series(folder: Path) -> Path:
    """Return one file of the only slide in a folder of DICOM files; OpenSlide finds the others."""
    series: dict[str, Path] = {}
    for file in slide_files(folder):
        if openslide.OpenSlide.detect_format(file) is not None:
            with openslide.OpenSlide(file) as slide:
                series.setdefault(slide.properties["dicom.SeriesInstanceUID"], file)
    if len(series) != 1:
        first = _found(next(iter(slide_files(folder))))
        found = (
            quoted([file.name for file in series.values()]) or f"no whole slide image (the first is {first})"
        )
        message = f"Folder {str(folder)!r} must hold the DICOM files of one slide, but has {found}."
        raise SlideError(message)
    return next(iter(series.values()))
