"""Which spots of a section have tiles that show nothing, show something else than tissue, or could not be read."""

from collections.abc import Sequence

import numpy as np

from spam.errors import StoreError
from spam.schemas.tile_spec import TileFlag, tile_flags
from spam.typing import Array, Bool

from .section import StoredSection

__all__ = ["flagged_spots", "readable_spots"]


def flagged_spots(section: StoredSection, keys: Sequence[str]) -> dict[TileFlag, Bool[Array, " n_spots"]]:
    """Flag the spots of a section by the tiles that some features were made from.

    Parameters
    ----------
    section
        Section of a store.
    keys
        Keys of features. A spot has a flag if one of its tiles has it.

    Returns
    -------
    dict
        One array of booleans per flag; empty where no quality was measured for any of the features.

    Raises
    ------
    StoreError
        If a quality array is damaged.
    """
    measured = [measures for key in keys if (measures := section.quality(key)) is not None]
    by_key = [tile_flags(measures) for measures in measured]
    return {flag: np.any([flags[flag] for flags in by_key], axis=0) for flag in by_key[0]} if by_key else {}


def readable_spots(section: StoredSection, keys: Sequence[str]) -> Bool[Array, " n_spots"]:
    """Tell which spots have all of some features: those whose tiles could all be read.

    The features of the others are zeros, which stand for nothing: whoever computes with features leaves these spots
    out.

    Raises
    ------
    StoreError
        If there is no such spot, or a quality array is damaged.
    """
    flags = flagged_spots(section, keys)
    is_readable = ~flags["unreadable"] if flags else np.ones(section.n_spots, dtype=bool)
    if section.n_spots and not is_readable.any():
        message = (
            f"no tile of section {section.meta.name!r} could be read when {', '.join(keys)} was made, so there are no "
            "features to use; look at the slide or the tile files, and make them again with `spam embed --overwrite`"
        )
        raise StoreError(message)
    return is_readable
