"""What a file says about its µm per pixel, and when to believe it."""

from collections.abc import Mapping
from xml.etree import ElementTree

import tifffile

__all__ = ["mpp_of_ome", "mpp_of_tiff_tags", "trusted_mpp"]

_PLAUSIBLE_MPP = (0.05, 20.0)  # from 200x oil immersion to an overview scan; 72 dpi would be 353 µm
_NON_SQUARE = 0.02  # relative difference of the two axes
_UM_PER_UNIT: Mapping[str, float] = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4}
_UM_PER_RESOLUTION_UNIT = {2: 25_400.0, 3: 10_000.0}  # TIFF 6.0, tag 296: inch, centimetre; 1 is "no unit"


def trusted_mpp(mpp_x: float | None, mpp_y: float | None) -> float | None:
    """Return the mean of both axes, or None if it is absent, implausible, or the pixels are not square.

    Plausible is 0.05 to 20 µm: software that knows no pixel size writes the resolution of a screen or a
    printer.
    """
    low, high = _PLAUSIBLE_MPP
    if mpp_x is None or mpp_y is None or not low <= mpp_x <= high or not low <= mpp_y <= high:
        return None
    if abs(mpp_x - mpp_y) > _NON_SQUARE * mpp_x:
        return None
    return (mpp_x + mpp_y) / 2


def mpp_of_ome(xml: str) -> float | None:
    """Read PhysicalSizeX and PhysicalSizeY of the first image of an OME-XML header, in µm.

    Source: OME schema 2016-06, ``Pixels/@PhysicalSizeX``. A header that is no XML counts as saying nothing.
    """
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    pixels = next((node for node in root.iter() if node.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return None
    sizes: list[float | None] = []
    for axis in "XY":
        size = pixels.get(f"PhysicalSize{axis}")
        unit = _UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        sizes.append(float(size) * unit if size is not None and unit is not None else None)
    return trusted_mpp(sizes[0], sizes[1])


def mpp_of_tiff_tags(page: tifffile.TiffPage) -> float | None:
    """Read the resolution tags of a TIFF page; only centimetre and inch are units of length."""
    unit = _UM_PER_RESOLUTION_UNIT.get(int(page.resolutionunit))
    per_unit_x, per_unit_y = (float(value) for value in page.resolution)
    if unit is None or per_unit_x <= 0 or per_unit_y <= 0:
        return None
    return trusted_mpp(unit / per_unit_x, unit / per_unit_y)
