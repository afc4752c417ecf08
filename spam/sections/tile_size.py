"""The side of the tiles in slide pixels, as the table states it."""

import numpy as np

from spam.errors import SectionError

from .coordinates import BOX_COLUMNS
from .table import Table

__all__ = ["stated_tile_px"]


def stated_tile_px(table: Table) -> tuple[int | None, tuple[str, ...]]:
    """Return the one tile side that ``patch_size_px`` or the boxes state, and a note if they state several.

    Boxes are rounded to whole pixels; a table that states nothing gives (None, ()).

    Raises
    ------
    SectionError
        If ``patch_size_px`` holds something else than positive numbers.
    """
    if "patch_size_px" in table:
        sides = table.numbers(["patch_size_px"])
        if not (np.isfinite(sides) & (sides > 0)).all():
            message = (
                f"{table.path}: column 'patch_size_px' must hold positive numbers in every row; correct it, "
                "or remove the column"
            )
            raise SectionError(message)
    elif all(column in table for column in BOX_COLUMNS):
        corners = table.numbers(BOX_COLUMNS)
        sides = corners[:, 2:] - corners[:, :2]
        if not np.isfinite(sides).all():
            return None, ()
    else:
        return None, ()
    different = np.unique(np.rint(sides))
    if len(different) > 1:
        return None, (
            f"the table states tiles of {different[0]:g} to {different[-1]:g} px; no one size was taken",
        )
    return int(different[0]), ()
