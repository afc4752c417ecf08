"""Where a section lies on its slide: the pixel size from both, and every spot inside the image."""

import dataclasses

import numpy as np

from spam.errors import SlideError, TileError
from spam.sections import Section
from spam.typing import Array, Bool, Float64

from .slide import Slide

__all__ = ["locate"]

_MPP_TOLERANCE = 0.05  # nominal and measured pixel sizes differ by a few per cent; a wrong one by a factor
_N_NAMED = 5

# Spots that fill most of the hires image, but sit in one corner of the slide, are counted in hires pixels.
_CORNER = 0.25
_FILLED = 0.6


def locate(section: Section, slide: Slide) -> Section:
    """Check a section against its slide, and take the µm per pixel from the slide where the section has none.

    Nothing is moved: coordinates that do not fit are an error, which says what would make them fit.

    Returns
    -------
    Section
        The section itself, or a copy with `mpp` and `xy_um` filled in and ``mpp_source="slide"``.

    Raises
    ------
    SlideError
        If the h5ad and the slide disagree on the µm per pixel by more than 5 % and no option settles it.
    TileError
        If a coordinate lies outside the image, or all lie in a corner that has the size of the hires image.
    """
    section = _with_mpp(section, slide)
    inside = _inside(section.xy_px, slide)
    if not inside.all():
        outside = np.flatnonzero(~inside)
        named = ", ".join(
            f"{str(section.ids[i])!r} at ({section.xy_px[i, 0]:g}, {section.xy_px[i, 1]:g})"
            for i in outside[:_N_NAMED]
        )
        more = f" and {len(outside) - _N_NAMED} more" if len(outside) > _N_NAMED else ""
        message = (
            f"{len(outside)} of {len(section.ids)} spots of section {section.name!r} lie outside the slide "
            f"{slide.path.name!r} of {slide.width} x {slide.height} px: {named}{more}; "
            f"{_likely_cause(section, slide)}"
        )
        raise TileError(message)
    if _looks_hires(section, slide):
        message = (
            f"all spots of section {section.name!r} lie in the upper left corner of the slide "
            f"{slide.path.name!r}, within the size that its hires image has (scale {section.hires_scale:g}), "
            "and fill it: the table seems to be in pixels of the hires image; give --coordinates hires "
            "(if the spots do lie in that corner, take the hires scale factor out of the h5ad)"
        )
        raise TileError(message)
    return section


def _with_mpp(section: Section, slide: Slide) -> Section:
    if slide.mpp is None:
        return section
    if section.mpp is None:
        xy_um = section.xy_px * slide.mpp if section.xy_um is None else section.xy_um
        return dataclasses.replace(section, mpp=slide.mpp, mpp_source="slide", xy_um=xy_um)
    is_far_off = abs(section.mpp - slide.mpp) > _MPP_TOLERANCE * slide.mpp
    if is_far_off and section.mpp_source != "option":
        message = (
            f"section {section.name!r} has {section.mpp:g} µm per pixel by its {section.mpp_source}, but its "
            f"slide {slide.path.name!r} states {slide.mpp:g}; find out which is right and give it with --mpp"
        )
        raise SlideError(message)
    return section


def _inside(xy_px: Float64[Array, "n 2"], slide: Slide) -> Bool[Array, " n"]:
    size = np.array([slide.width, slide.height])
    is_inside: Bool[Array, " n"] = np.logical_and.reduce((xy_px >= 0) & (xy_px < size), axis=1)
    return is_inside


def _likely_cause(section: Section, slide: Slide) -> str:
    """Name the options that would bring every spot inside; none is applied."""
    fits: list[str] = []
    if _inside(section.xy_px[:, ::-1], slide).all():
        fits.append(
            "with x and y exchanged all of them fit: give --swap-xy (or leave it out, if it was given)"
        )
    if section.mpp is not None and _inside(section.xy_px / section.mpp, slide).all():
        fits.append("taken as µm all of them fit: give --coordinates um")
    if section.hires_scale is not None and _inside(section.xy_px / section.hires_scale, slide).all():
        fits.append("taken as pixels of the hires image all of them fit: give --coordinates hires")
    return "; ".join(fits) or (
        "check that the table belongs to this slide, and see --coordinates, --swap-xy and --mpp"
    )


def _looks_hires(section: Section, slide: Slide) -> bool:
    scale = section.hires_scale
    if scale is None or scale > _CORNER:
        return False
    hires_size = np.array([slide.width, slide.height]) * scale
    extent = np.ptp(section.xy_px, axis=0)
    return bool((section.xy_px.max(axis=0) < hires_size).all() and (extent > _FILLED * hires_size).all())
