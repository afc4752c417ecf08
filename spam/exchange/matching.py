"""Finds for each spot of a section the row of the features that were made elsewhere."""

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from spam.errors import ConfigError, SectionError
from spam.sections.lab_section import quoted
from spam.typing import Array, Bool, Float64, Int64, Shaped

from .records import ForeignFeatures

__all__ = ["match_to_spots"]

_TIE_PX = 1e-6  # two tiles this much apart in distance are equally near; rounding of coordinates is far below
_SHARE_FOR_HINT = 0.9  # of the spots: tissue that was not tiled must not hide that all else is shifted


def match_to_spots(
    foreign: ForeignFeatures,
    ids: Shaped[Array, " n_spots"],
    xy_px: Float64[Array, "n_spots 2"] | None,
    *,
    tolerance_px: float,
) -> Int64[Array, " n_spots"]:
    """Return for each spot the row of the features of its tile.

    Spots are matched by id where the features have ids; where both sides have coordinates too, these must
    agree within the tolerance, since ids such as ``10x13`` occur in every section. Without ids each spot gets the
    tile whose centre is nearest. Several spots may share a tile; tiles without a spot are left out.

    Parameters
    ----------
    foreign
        The features.
    ids, xy_px
        Names and centres (full-resolution pixels) of the stored section's spots; no centres in a store that
        was shared without them.
    tolerance_px
        Largest distance between a spot and the centre of its tile, in full-resolution pixels.

    Raises
    ------
    ConfigError
        If the tolerance is negative or no number.
    SectionError
        If a spot has no tile or two equally near ones. Counts and names them, and says by how much all tiles
        are shifted where that explains it.
    """
    if not tolerance_px >= 0:
        message = (
            f"--tolerance-px must not be negative, not {tolerance_px!r}; give a distance in slide pixels"
        )
        raise ConfigError(message)
    if foreign.ids is not None:
        return _rows_by_id(foreign, foreign.ids, ids, xy_px, tolerance_px)
    if foreign.xy_px is None or xy_px is None:
        message = (
            f"{foreign.source.name} has no ids, and {'it' if foreign.xy_px is None else 'the section'} has no "
            "coordinates: expected ids on both sides, or coordinates; import it with a CSV of ids, or into a store with "
            "coordinates"
        )
        raise SectionError(message)
    return _rows_by_place(foreign, foreign.xy_px, ids, xy_px, tolerance_px)


def _rows_by_id(
    foreign: ForeignFeatures,
    foreign_ids: Shaped[Array, " n_tiles"],
    ids: Shaped[Array, " n_spots"],
    xy_px: Float64[Array, "n_spots 2"] | None,
    tolerance_px: float,
) -> Int64[Array, " n_spots"]:
    rows = np.asarray(pd.Index(foreign_ids).get_indexer(pd.Index(ids)), dtype=np.int64)
    is_missing = rows < 0
    faults = []
    if is_missing.any():
        faults.append(
            f"{_count(is_missing, ids)} have no row with their id, while it has {quoted(list(foreign_ids))}"
        )
    if foreign.xy_px is not None and xy_px is not None:
        distance = np.linalg.norm(foreign.xy_px[rows] - xy_px, axis=1)
        is_apart = ~is_missing & (distance > tolerance_px)
        if is_apart.any():
            faults.append(
                f"{_count(is_apart, ids)} have their id there, but more than {tolerance_px:g} px away "
                f"({_distances(distance[is_apart])}), so another slide or other pixels are meant"
            )
    if faults:
        message = (
            f"{foreign.source.name} does not fit this section: {'; '.join(faults)}; expected one row for each spot: give "
            "the features of this section, with its ids and in full-resolution pixels (see --tolerance-px)"
        )
        raise SectionError(message)
    return rows


def _rows_by_place(
    foreign: ForeignFeatures,
    centres: Float64[Array, "n_tiles 2"],
    ids: Shaped[Array, " n_spots"],
    xy_px: Float64[Array, "n_spots 2"],
    tolerance_px: float,
) -> Int64[Array, " n_spots"]:
    tree = cKDTree(centres)
    distances, rows = tree.query(xy_px, k=2)  # with a single tile the second is infinitely far
    is_missing = distances[:, 0] > tolerance_px
    is_tied = ~is_missing & (distances[:, 1] - distances[:, 0] <= _TIE_PX)
    faults = []
    if is_missing.any():
        faults.append(
            f"{_count(is_missing, ids)} have no tile within {tolerance_px:g} px "
            f"({_distances(distances[is_missing, 0])})"
        )
    if is_tied.any():
        faults.append(f"{_count(is_tied, ids)} lie just between two tiles, so either could be meant")
    if faults:
        hint = _shift_hint(tree, xy_px, foreign.tile_px, tolerance_px) if is_missing.any() else None
        advice = (
            hint or "give the features of this slide in full-resolution pixels, or a larger --tolerance-px"
        )
        message = (
            f"{foreign.source.name} does not fit this section: {'; '.join(faults)}; expected one tile for each spot: "
            f"{advice}"
        )
        raise SectionError(message)
    return np.asarray(rows[:, 0], dtype=np.int64)


def _shift_hint(
    tree: cKDTree, xy_px: Float64[Array, "n_spots 2"], tile_px: float | None, tolerance_px: float
) -> str | None:
    """Say which one shift of all tiles would give nearly all spots a tile, if there is one."""
    if len(xy_px) < 3:  # one or two points can always be shifted onto others
        return None
    nearest = tree.data[tree.query(xy_px)[1]]
    shifts = [np.median(xy_px - nearest, axis=0), xy_px.mean(axis=0) - tree.data.mean(axis=0)]
    if tile_px is not None:
        shifts = [np.full(2, tile_px / 2), np.full(2, -tile_px / 2), *shifts]
    n_needed = _SHARE_FOR_HINT * len(xy_px)
    for shift in shifts:
        n_hits = int((tree.query(xy_px - shift)[0] <= tolerance_px).sum())
        if n_hits >= n_needed:
            x, y = (f"{value:+.1f}" for value in shift)
            return (
                f"{n_hits} of {len(xy_px)} spots would have one if all tiles were moved by ({x}, {y}) px; if that is half "
                "a tile, corners were given as centres: correct the coordinates (centre = corner + side / 2)"
            )
    return None


def _count(is_meant: Bool[Array, " n_spots"], ids: Shaped[Array, " n_spots"]) -> str:
    return f"{int(is_meant.sum())} of {len(ids)} spots ({quoted(list(ids[is_meant]))})"


def _distances(found: Float64[Array, " n"]) -> str:
    return f"smallest distance {found.min():.1f} px, median {np.median(found):.1f} px"
