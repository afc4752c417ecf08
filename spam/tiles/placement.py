"""Spots on the tissue of their slide: as given, exchanged, mirrored and turned."""

import math
from collections.abc import Mapping

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from spam.errors import SlideError, TileError
from spam.sections import Section
from spam.typing import Array, Float64, UInt8

from .slide import Slide
from .tile_cutting import Thumbnail, overview
from .tile_specs import with_notes
from .tissue_grid import tissue_mask

AS_GIVEN, EXCHANGED = "as given", "with x and y exchanged"

# Mean share of tissue at the spots. In 16 real sections no other placement than the right one had more (0.02 to 0.7 less),
# and 14 of them are recognised if x and y are exchanged; the other two are round, in the middle of a square picture.
_NOTABLE, _CERTAIN = 0.05, 0.1
_LEAST_SPOTS = 12
# Of the tissue, in the box around the spots. A part of a section often has more tissue in some turned place by chance (9 of 112
# halves and quarters of real sections, none of them with x and y exchanged); the boxes of whole sections hold 0.65 or more.
_LEAST_COVERED = 0.6
_ERRORS = 3.3  # standard errors of the mean difference over the spots: one in a thousand by chance


def placements(xy_px: Float64[Array, "n 2"], width: int, height: int) -> dict[str, Float64[Array, "n 2"]]:
    """Return the coordinates on a slide of `width` x `height` px if they were meant in each of eight ways.

    A turn or a mirrored picture is one of the slide: coordinates may have been marked on a copy of it that was turned.
    """
    x, y = xy_px.T
    right, low = width - x, height - y
    ways = {
        AS_GIVEN: (x, y),
        EXCHANGED: (y, x),
        "mirrored from left to right": (right, y),
        "mirrored from top to bottom": (x, low),
        "turned by 180°": (right, low),
        "turned by 90° clockwise": (width - y, x),
        "turned by 90° counterclockwise": (y, height - x),
        "mirrored at the other diagonal": (width - y, height - x),
    }
    return {name: np.stack(axes, axis=1) for name, axes in ways.items()}


def score_placements(
    image: UInt8[Array, "h w 3"], xy_px: Float64[Array, "n 2"], width: int, height: int
) -> dict[str, Float64[Array, " n"]]:
    """Return the share of tissue at each spot for each of the `placements`, in a small picture of the slide.

    The share is that of a square with half the distance of neighbouring spots as its side; outside of the slide it is 0.
    """
    h, w = image.shape[:2]
    to_picture = np.array([w / width, h / height])
    side = max(1, round(min(_distance(xy_px) * float(to_picture[0]), w, h) / 2))
    tissue = ndimage.uniform_filter(tissue_mask(image).astype(np.float32), side, mode="constant")

    def at(points: Float64[Array, "n 2"]) -> Float64[Array, " n"]:
        column, row = np.floor(points * to_picture).astype(np.int64).T
        is_inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
        shares = tissue[np.clip(row, 0, h - 1), np.clip(column, 0, w - 1)]
        return np.where(is_inside, shares, 0).astype(np.float64)

    return {name: at(points) for name, points in placements(xy_px, width, height).items()}


def covered_share(
    image: UInt8[Array, "h w 3"], xy_px: Float64[Array, "n 2"], width: int, height: int
) -> float:
    """Return which share of the tissue lies in the box around the spots, half of their distance wider than they are."""
    rows, columns = np.nonzero(tissue_mask(image))
    places = np.stack([columns, rows], axis=1) * (width / image.shape[1], height / image.shape[0])
    margin = _distance(xy_px) / 2
    low, high = xy_px.min(axis=0) - margin, xy_px.max(axis=0) + margin
    return float(((places >= low) & (places <= high)).all(axis=1).mean()) if len(places) else 0.0


def _distance(xy_px: Float64[Array, "n 2"]) -> float:
    """Return the median distance of a spot to its nearest neighbour; 0 for one spot."""
    return float(np.median(cKDTree(xy_px).query(xy_px, k=2)[0][:, 1])) if len(xy_px) > 1 else 0.0


def better_placement(shares: Mapping[str, Float64[Array, " n"]]) -> tuple[str, float] | None:
    """Return the placement with the most tissue and how much more it has (mean share), unless that may be chance.

    Exchanged axes are far more frequent than a turned slide, and win if they are as good.
    """
    given, means = shares[AS_GIVEN], {name: float(values.mean()) for name, values in shares.items()}
    best = max(means, key=lambda name: means[name] + _NOTABLE * (name == EXCHANGED))
    more = shares[best] - given
    gain, error = float(more.mean()), float(more.std()) / math.sqrt(len(more))
    is_sure = len(more) >= _LEAST_SPOTS and gain > _ERRORS * error
    return (best, gain) if is_sure and gain >= _NOTABLE else None


def check_placement(section: Section, slide: Slide, *, is_decided: bool, is_forgiving: bool) -> Section:
    """Check that the spots lie on tissue, and not better with x and y exchanged or on a turned slide.

    Tissue is found in a picture of at most 2048 px. Tissue that fills the slide, or lies alike in several placements, tells
    nothing; nor does a turned place of spots on a part of it.

    Parameters
    ----------
    section
        Section whose spots come from a table.
    slide
        Its slide.
    is_decided
        Whether the order of the axes is certain: then an exchange is a note, and no error.
    is_forgiving
        Whether damaged blocks count as glass; otherwise they are an error.

    Returns
    -------
    Section
        The section itself, or a copy with a note.

    Raises
    ------
    SlideError
        If the slide cannot be decoded, or shows one colour alone.
    TileError
        If far more spots lie on tissue with x and y exchanged.
    """
    if slide.damage and not is_forgiving:
        advice = "Check that it was copied whole, or leave out what is missing with --skip-bad-tiles"
        message = f"Slide {str(slide.path)!r} {slide.damage}. {advice}."
        raise SlideError(message)
    picture: Thumbnail = overview(slide, is_forgiving=is_forgiving)
    first = picture.image[0, 0]
    if (picture.image == first).all():
        colour = ", ".join(map(str, first.tolist()))
        message = f"Slide {str(slide.path)!r} shows nothing: every pixel is ({colour}). Check that it was copied whole."
        raise SlideError(message)
    shares = score_placements(picture.image, section.xy_px, slide.width, slide.height)
    better = better_placement(shares)
    if better is None:
        return section
    name, gain = better
    place = placements(section.xy_px, slide.width, slide.height)[name]
    is_part = covered_share(picture.image, place, slide.width, slide.height) < _LEAST_COVERED
    if name != EXCHANGED and is_part:
        return section
    before, after = (f"{shares[way].mean():.0%}" for way in (AS_GIVEN, name))
    found = f"on slide {slide.path.name!r}, the places of the {section.n_spots} spots are {before} tissue, {name} {after}"
    if name == EXCHANGED and gain >= _CERTAIN and not is_decided:
        advice = "Run again with --swap-xy, and exchange obsm['spatial'] of an h5ad too; or keep them with --no-swap-xy"
        message = f"Section {section.name!r}: {found}. {advice}."
        raise TileError(message)
    return with_notes(section, [f"{found}: check the coordinates"])
