"""What a file says about its µm per pixel, and when to believe it."""

import dataclasses
from collections.abc import Mapping
from xml.etree import ElementTree

import tifffile

__all__ = ["UNSTATED", "PixelSize", "ome_pixel_size", "pixel_size", "tag_pixel_size", "um_per_unit"]

_PLAUSIBLE_MPP = (0.05, 20.0)  # from 200x oil immersion to an overview scan; 72 dpi would be 353 µm
_NON_SQUARE = 0.02  # relative difference of the two axes
_UM_PER_UNIT: Mapping[str, float] = {
    "nm": 1e-3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    # OME-Zarr writes them out.
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
}
_RESOLUTION_UNITS = {2: ("inch", 25_400.0), 3: ("cm", 10_000.0)}  # TIFF 6.0, tag 296; 1 is "no unit"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PixelSize:
    """What a slide says about the size of its pixels.

    Attributes
    ----------
    mpp
        µm per full-resolution pixel, or None where the slide states none that can be believed.
    note
        Where `mpp` is None, what was found instead, as the end of a sentence about the slide; else None.
    """

    mpp: float | None
    note: str | None


UNSTATED = PixelSize(mpp=None, note="states no pixel size")


def um_per_unit(unit: str | None) -> float | None:
    """Return the length of a unit of OME-XML or OME-Zarr in µm; None for what is no length."""
    return None if unit is None else _UM_PER_UNIT.get(unit)


def pixel_size(mpp_x: float | None, mpp_y: float | None, *, stated: str) -> PixelSize:
    """Take the mean of both axes, unless it is absent, implausible, or the pixels are not square.

    Plausible is 0.05 to 20 µm: software that knows no pixel size writes the resolution of a screen or a
    printer.

    Parameters
    ----------
    mpp_x, mpp_y
        µm per pixel along both axes, or None where the file is silent.
    stated
        Where the file states it and in which words, for the note.
    """
    if mpp_x is None or mpp_y is None:
        return UNSTATED
    low, high = _PLAUSIBLE_MPP
    if not low <= mpp_x <= high or not low <= mpp_y <= high:
        note = (
            f"states {mpp_x:.4g} µm per pixel ({stated}), the resolution of a screen or a printer and not of a "
            f"microscope ({low:g} to {high:g} µm)"
        )
        return PixelSize(mpp=None, note=note)
    if abs(mpp_x - mpp_y) > _NON_SQUARE * mpp_x:
        note = f"states pixels of {mpp_x:.4g} x {mpp_y:.4g} µm ({stated}), which are not square"
        return PixelSize(mpp=None, note=note)
    return PixelSize(mpp=(mpp_x + mpp_y) / 2, note=None)


def ome_pixel_size(xml: str) -> PixelSize:
    """Read PhysicalSizeX and PhysicalSizeY of the first image of an OME-XML header.

    Source: OME schema 2016-06, ``Pixels/@PhysicalSizeX``. A header that is no XML counts as saying nothing.
    """
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return UNSTATED
    pixels = next((node for node in root.iter() if node.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return UNSTATED
    sizes: list[float | None] = []
    words: list[str] = []
    for axis in "XY":
        size = pixels.get(f"PhysicalSize{axis}")
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        if size is None:
            return UNSTATED
        words.append(f"PhysicalSize{axis} {size} {unit}")
        um = um_per_unit(unit)
        sizes.append(None if um is None else _number(size) * um)
    stated = f"OME-XML: {', '.join(words)}"
    if None in sizes:
        return PixelSize(mpp=None, note=f"states its pixel size in what is no length ({stated})")
    return pixel_size(sizes[0], sizes[1], stated=stated)


def tag_pixel_size(page: tifffile.TiffPage) -> PixelSize:
    """Read the resolution tags of a TIFF page; only centimetre and inch are units of length."""
    try:
        per_unit_x, per_unit_y = (float(value) for value in page.resolution)
    except ZeroDivisionError:  # 0/0 or 1/0, which some programs write for "unknown"
        return UNSTATED
    if int(page.resolutionunit) not in _RESOLUTION_UNITS or per_unit_x <= 0 or per_unit_y <= 0:
        return UNSTATED
    name, um = _RESOLUTION_UNITS[int(page.resolutionunit)]
    stated = f"TIFF resolution: {per_unit_x:g} pixels per {name}"
    return pixel_size(um / per_unit_x, um / per_unit_y, stated=stated)


def _number(text: str) -> float:
    """Read a number; NaN, which is implausible, for any other text."""
    try:
        return float(text)
    except ValueError:
        return float("nan")
