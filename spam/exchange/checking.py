"""Checks of features and places as they were found: every fault is listed, nothing is mended."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from spam.sections.lab_section import quoted
from spam.typing import Array

from .records import Places

__all__ = ["combined_places", "feature_faults", "place_faults", "rows_of"]


def rows_of(values: Array) -> Array:
    """Drop a leading axis of one: some programs write (1, n, dim), a batch of one slide."""
    return values[0] if values.ndim == 3 and values.shape[0] == 1 else values


def feature_faults(features: Array) -> Iterator[str]:
    """Say what is wrong with an array that should be features of shape (n, dim)."""
    if features.ndim != 2:
        kind = " (one vector for the whole slide?)" if features.ndim == 1 else ""
        yield f"the features are of shape {features.shape}{kind}, expected (tiles, dim): give the features of tiles"
    elif not features.size:
        yield f"the features are of shape {features.shape}, expected at least one tile: extract the slide again"
    if features.dtype.kind != "f":
        yield (
            f"the features are of type {features.dtype}, expected floating-point numbers: give the encoder's own output"
        )
    elif features.ndim == 2:
        with np.errstate(over="ignore"):  # what float32 cannot hold counts as not finite
            is_broken = ~np.isfinite(features.astype(np.float32)).all(axis=1)
        if is_broken.any():
            rows = quoted([str(row) for row in np.flatnonzero(is_broken)])
            yield (
                f"{int(is_broken.sum())} of {len(features)} rows of the features hold NaN, infinity or what float32 "
                f"cannot hold (rows {rows}), expected finite numbers: extract the slide again"
            )


def combined_places(own: Places, given: Places | None) -> tuple[Places, list[str]]:
    """Join what the features' own file says of the places with what the file of coordinates says, and list contradictions.

    Either may complete the other: CLAM states the side of its tiles in the coordinates alone.
    """
    if given is None:
        return own, []
    faults = []
    if own.xy is not None and given.xy is not None:
        is_same = own.is_corner == given.is_corner and np.array_equal(rows_of(own.xy), rows_of(given.xy))
        if not is_same:
            faults.append(
                f"{given.name} has other coordinates than {own.name}, expected the same corners in the same order: "
                "give the coordinates that these features were made from, or leave out --coordinates"
            )
    for what, one, other in (("side", own.side_px, given.side_px), ("µm per pixel", own.mpp, given.mpp)):
        if one is not None and other is not None and one != other:
            faults.append(
                f"the {what} is {one:g} according to {own.name} and {other:g} according to {given.name}, expected one "
                "value: give the coordinates that these features were made from"
            )
    first, second = (own, given) if own.xy is not None else (given, own)
    joined = Places(
        name=first.name,
        xy=first.xy,
        is_corner=first.is_corner,
        side_px=first.side_px if first.side_px is not None else second.side_px,
        mpp=first.mpp if first.mpp is not None else second.mpp,
        ids=first.ids if first.ids is not None else second.ids,
    )
    return joined, faults


def place_faults(places: Places, n_tiles: int | None) -> Iterator[str]:
    """Say what is wrong with the places of `n_tiles` tiles (None where that is not known)."""
    if places.xy is None and places.ids is None:
        yield (
            "nothing says which tile a row belongs to, expected coordinates or ids: give them with --coordinates (CLAM: "
            "patches/<slide>.h5; slide2vec: tiles/<sample>.coordinates.npz; otherwise a CSV, one row per row)"
        )
    if places.ids is not None:
        yield from _id_faults(places.ids, places.name, n_tiles)
    if places.xy is not None:
        yield from _xy_faults(rows_of(places.xy), places.name, n_tiles)
        side = places.side_px
        if places.is_corner and side is None:
            yield (
                f"{places.name} holds top-left corners and nothing says how large a tile is, so its centre is unknown: give "
                "the program's own file of coordinates with --coordinates (CLAM: patches/<slide>.h5)"
            )
        elif side is not None and not (np.isfinite(side) and side > 0):
            yield f"{places.name} states a side of {side:g} px, expected a positive number: extract the slide again"


def _id_faults(ids: Array, name: str, n_tiles: int | None) -> Iterator[str]:
    if n_tiles is not None and len(ids) != n_tiles:
        yield f"{name} has {len(ids)} ids for {n_tiles} rows of features, expected one each: give the table of this file"
    index = pd.Index(ids)
    if (index == "").any():
        yield f"{name} has {int((index == '').sum())} empty ids, expected one for each row: complete them"
    repeated = index[index.duplicated()].unique().difference([""])
    if len(repeated):
        yield (
            f"{name} has {len(repeated)} ids more than once ({quoted(list(repeated))}), expected each once: give the "
            "features of one section"
        )


def _xy_faults(xy: Array, name: str, n_tiles: int | None) -> Iterator[str]:
    if xy.ndim != 2 or xy.shape[1] != 2:
        yield f"{name} has coordinates of shape {xy.shape}, expected (tiles, 2): give x and y alone"
        return
    if n_tiles is not None and len(xy) != n_tiles:
        yield (
            f"{name} has {len(xy)} coordinates for {n_tiles} rows of features, expected one each: give the coordinates that "
            "these features were made from"
        )
    is_broken = ~np.isfinite(xy).all(axis=1)
    if is_broken.any():
        rows = quoted([str(row) for row in np.flatnonzero(is_broken)])
        yield f"{name} has {int(is_broken.sum())} coordinates that are no finite numbers (rows {rows}): complete them"
    places, counts = np.unique(xy[~is_broken], axis=0, return_counts=True)
    repeated = places[counts > 1].tolist()
    if repeated:
        yield (
            f"{name} has {len(repeated)} places more than once (first {tuple(repeated[0])}), expected each once: give the "
            "features of one slide, extracted once"
        )
