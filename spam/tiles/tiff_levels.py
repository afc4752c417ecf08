"""What a TIFF holds: which of its pages are the levels of its picture, and whether that is a picture of H&E."""

from pathlib import Path

import numpy as np
import tifffile
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG

from spam.errors import SlideError

__all__ = ["block_size", "check_picture", "levels_of"]

_ONE_PICTURE = "YXSC"  # tifffile's letters for the axes of one picture; S are samples of a pixel, C of pages


def levels_of(tiff: tifffile.TiffFile) -> list[list[tifffile.TiffPage]]:
    """Find the pages of each level of the picture, the full resolution first: one, or one per channel.

    The picture is the first image of an OME-TIFF, the largest of any other. Writers mark smaller levels as such,
    or keep them in SubIFDs. Where nothing is marked, further tiled pages of the same shape, smaller, are levels, as
    OpenSlide has it.

    Raises
    ------
    TiffFileError
        If there is no image, or a part of it lies in a file that is not there.
    """
    first = _picture_of(tiff)
    levels = [_pages_of(level) for level in first.levels]
    full = levels[0][0]
    if len(levels) == 1 and full.is_tiled:
        others = [_pages_of(other) for other in tiff.series if other.dtype == first.dtype]
        levels += [pages for pages in others if _is_smaller(pages[0], full)]
        levels.sort(key=lambda pages: -pages[0].imagewidth)
    return levels


def check_picture(tiff: tifffile.TiffFile, path: Path) -> None:
    """Refuse what is no single picture of 8-bit grey, RGB or RGBA.

    Raises
    ------
    SlideError
        Says what was found.
    """
    series = _picture_of(tiff)
    page = _pages_of(series)[0]
    n_channels = len(series.pages) * page.samplesperpixel
    is_stack = any(
        size > 1 and axis not in _ONE_PICTURE for axis, size in zip(series.axes, series.shape, strict=True)
    )
    if series.dtype == np.uint8 and not is_stack and _is_rgb(page, n_channels):
        return
    extra = "".join(f" and {EXTRASAMPLE(kind).name}" for kind in page.extrasamples)
    message = (
        f"slide {str(path)!r} holds {n_channels} channels of {series.dtype} (axes {series.axes!r}, shape "
        f"{series.shape}, colours {PHOTOMETRIC(page.photometric).name}{extra}); an H&E slide has 8-bit (uint8) "
        "grey, RGB or RGBA pixels; export it as 8-bit RGB"
    )
    raise SlideError(message)


def block_size(page: tifffile.TiffPage) -> tuple[int, int]:
    """Return width and height of the page's tiles or strips; a page of one strip may state one without end."""
    if page.is_tiled:
        return page.tilewidth, page.tilelength
    return page.imagewidth, min(page.rowsperstrip, page.imagelength)


def _is_rgb(page: tifffile.TiffPage, n_channels: int) -> bool:
    """Tell whether the decoded channels are grey, RGB, or RGB with an alpha that its colours were not scaled by."""
    if n_channels == 4:
        return page.photometric == PHOTOMETRIC.RGB and page.extrasamples == (EXTRASAMPLE.UNASSALPHA,)
    if page.photometric == PHOTOMETRIC.YCBCR:  # turned into RGB by the decoder of JPEG, if it sees all three
        return page.compression == COMPRESSION.JPEG and page.planarconfig == PLANARCONFIG.CONTIG
    return n_channels in (1, 3) and page.photometric in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB)


def _picture_of(tiff: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    if not tiff.series:
        message = (
            "it says where its pictures lie, and there are none; a file that was cut off often begins so"
        )
        raise tifffile.TiffFileError(message)
    if tiff.is_ome:
        return tiff.series[0]
    return max(
        tiff.series, key=lambda series: _pages_of(series)[0].imagewidth * _pages_of(series)[0].imagelength
    )


def _pages_of(series: tifffile.TiffPageSeries) -> list[tifffile.TiffPage]:
    pages = [page.aspage() for page in series.pages if page is not None]
    if len(pages) < len(series.pages):
        message = "a part of the image is in another file, which is not there"
        raise tifffile.TiffFileError(message)
    return pages


def _is_smaller(page: tifffile.TiffPage, full: tifffile.TiffPage) -> bool:
    """Tell whether a page is the picture of another at a lower resolution, each side rounded to whole pixels."""
    if not page.is_tiled or page.samplesperpixel != full.samplesperpixel:
        return False
    ratio = full.imagewidth / page.imagewidth
    return ratio > 1 and abs(full.imagelength / ratio - page.imagelength) <= 1
