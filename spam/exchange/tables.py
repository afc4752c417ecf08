"""The CSV beside an array of features: one row per row of the array, with ids, centres, or both."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spam.errors import SectionError
from spam.sections.coordinates import BOX_COLUMNS, CENTRE_COLUMNS, UM_COLUMNS
from spam.sections.lab_section import quoted
from spam.sections.tile_table import ID_COLUMNS, first_column, read_csv_text
from spam.typing import Array

from .records import Places

__all__ = ["read_table_places"]

_PIXEL_COLUMNS = tuple(names for names in CENTRE_COLUMNS if names != UM_COLUMNS)


def read_table_places(path: Path) -> Places:
    """Read ids and centres by the column names that tile tables have (`spam.sections.tile_table`).

    A box (``x0_he_px`` …) gives its middle. A cell that is no number is NaN, which the checks refuse.

    Raises
    ------
    SectionError
        If the file is no CSV, or has neither ids nor centres in pixels.
    """
    frame = read_csv_text(path)
    columns = list(frame.columns)
    id_column = first_column(columns, ID_COLUMNS)
    found = next((names for names in _PIXEL_COLUMNS if all(name in columns for name in names)), None)
    if id_column is None and found is None:
        accepted = "; ".join(", ".join(names) for names in _PIXEL_COLUMNS)
        message = (
            f"{path} says neither by id nor by place what its rows are: expected a column of ids (one of "
            f"{', '.join(ID_COLUMNS)}) or centres in full-resolution pixels ({accepted}); its columns are "
            f"{quoted(columns)}: rename the ones that are meant"
        )
        raise SectionError(message)
    ids = None if id_column is None else np.array(frame[id_column], dtype=np.str_)
    return Places(name=path.name, xy=None if found is None else _centres(frame, found), ids=ids)


def _centres(frame: Any, names: tuple[str, ...]) -> Array:
    numbers = np.stack([pd.to_numeric(frame[name], errors="coerce") for name in names], axis=1)
    values = numbers.astype(np.float64)
    return (values[:, :2] + values[:, 2:]) / 2 if names == BOX_COLUMNS else values
