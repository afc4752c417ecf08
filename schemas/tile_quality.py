"""Quality of tiles: what is measured of each, and from where on a tile is flagged."""

from typing import Any, Literal, get_args

__all__ = ["MEASURES", "TileFlag", "flag_column", "tile_flags"]

MEASURES = ("readable", "tissue", "pen", "sharpness")
"""Columns of a quality array, float32.

``readable``: 1, or 0 for a tile that could not be read, whose other measures and features are all zero; ``tissue``: share of
its pixels that show tissue; ``pen``: share of its pixels that show ink of a marker pen; ``sharpness``: 1 for a typical sharp
tile, less with every blur (`spam.tiles.measure_quality` defines all of them).
"""

TileFlag = Literal["unreadable", "blank", "pen", "blurred"]

# Set by measurement on real tiles, see docs/experiments.md ("Quality of tiles").
_BLANK_BELOW = 0.05  # share of tissue
_PEN_ABOVE = 0.25  # share of ink; dense haematoxylin passes for ink in up to 0.18 of a tile
_BLURRED_BELOW = (
    0.4  # sharpness; sharp tiles of tissue have 0.45 and more, tiles blurred by 3 px at most 0.31
)


def flag_column(flag: TileFlag) -> str:
    """Name the column of a flag in a table of spots, e.g. ``tile_blank``."""
    return f"tile_{flag}"


def tile_flags(measures: Any) -> dict[TileFlag, Any]:
    """Flag tiles by their measures.

    Parameters
    ----------
    measures
        Quality array, (n_tiles, 4), see `MEASURES`.

    Returns
    -------
    dict
        One array of booleans, (n_tiles,), per flag. An unreadable tile has no other flag; a blank tile is not called
        blurred.
    """
    readable, tissue, pen, sharpness = (measures[:, i] for i in range(len(MEASURES)))
    is_read = readable > 0
    is_blank = is_read & (tissue < _BLANK_BELOW)
    flags = (
        ~is_read,
        is_blank,
        is_read & (pen > _PEN_ABOVE),
        is_read & ~is_blank & (sharpness < _BLURRED_BELOW),
    )
    return dict(zip(get_args(TileFlag), flags, strict=True))
