"""The CSV with one row per tile, read as text: "1.0" stays "1.0" until somebody asks for a number."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spam.errors import SectionError
from spam.typing import Array, Bool, Float64, Int, Shaped

from .wording import quoted

__all__ = [
    "ID_COLUMNS",
    "SLIDE_COLUMN",
    "TILE_COLUMNS",
    "Table",
    "first_column",
    "read_csv_text",
    "read_table",
]

# Names met in the wild; of several the first of the list is taken.
ID_COLUMNS = ("spot_id", "cell_id", "barcode", "obs_name", "id")
SLIDE_COLUMN = "source_image"
TILE_COLUMNS = ("patch_path", "image_path", "path", "filepath", "file", "patch_filename")

# What other programs export; never a part of a column's name.
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs"}

_TRUE = frozenset({"true", "1", "1.0"})
_FALSE = frozenset({"false", "0", "0.0"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of a tile table, every cell as text.

    Attributes
    ----------
    path
        The file, for messages.
    frame
        A pandas frame of strings; a missing cell is the empty string.
    id_column, image_column
        Columns that hold the ids and the image files.
    """

    path: Path
    frame: Any
    id_column: str
    image_column: str

    def __len__(self) -> int:
        return len(self.frame)

    def __contains__(self, column: str) -> bool:
        return column in self.frame.columns

    def text(self, column: str) -> Shaped[Array, " n_rows"]:
        """Return a column as a text array (``<U``)."""
        return np.array(self.frame[column], dtype=np.str_)

    def numbers(self, columns: Sequence[str]) -> Float64[Array, "n_rows n_columns"]:
        """Return columns as numbers; a cell that holds none is NaN."""
        values = [[_number(cell) for cell in self.frame[column]] for column in columns]
        return np.array(values, dtype=np.float64).reshape(len(columns), len(self)).T

    def named_values(self, column: str) -> tuple[str, ...]:
        """Return the different values of a column in order of appearance, empty cells left out.

        A column that is not there has none.
        """
        if column not in self:
            return ()
        return tuple(str(value) for value in self.frame[column].unique() if value)

    def where(self, rows: Bool[Array, " n_rows"] | Int[Array, " n_kept"]) -> "Table":
        """Return the rows of a mask, or at positions and in their order."""
        picked = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return dataclasses.replace(self, frame=self.frame.iloc[picked])

    def inside(self) -> Bool[Array, " n_rows"]:
        """Say which rows lie inside the H&E image: all, unless a column ``inside_he`` says otherwise.

        Raises
        ------
        SectionError
            On a value of ``inside_he`` that is neither true nor false.
        """
        if "inside_he" not in self:
            return np.ones(len(self), dtype=np.bool_)
        values = self.frame["inside_he"].str.strip().str.lower()
        unclear = ~values.isin(_TRUE | _FALSE)
        if unclear.any():
            found = quoted(list(self.frame["inside_he"][unclear].unique()))
            message = (
                f"{self.path}: column 'inside_he' must hold true/false or 1/0, but {int(unclear.sum())} rows "
                f"hold {found}; write one of these, or remove the column to keep every row"
            )
            raise SectionError(message)
        return np.array(values.isin(_TRUE), dtype=np.bool_)


def first_column(columns: Sequence[str], accepted: Sequence[str]) -> str | None:
    """Return the first of the accepted names that is among the columns."""
    return next((name for name in accepted if name in columns), None)


def read_csv_text(path: Path) -> Any:
    """Read a CSV as a pandas frame of strings, missing cells empty; an empty file is an error.

    Raises
    ------
    SectionError
        If the file cannot be read as comma-separated UTF-8, is separated by semicolons or tabs, has
        rows longer than its header, or has no rows.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig").fillna("")
    except (OSError, ValueError) as error:  # pandas' parser errors and decoding errors are ValueErrors
        reason = str(error).strip()
        message = (
            f"{path} cannot be read as a CSV: {reason}; it must be comma-separated UTF-8 text with a header"
        )
        raise SectionError(message) from error
    header = str(frame.columns[0])
    separator = next((name for name in _OTHER_SEPARATORS if name in header), None)
    if separator is not None and len(frame.columns) == 1:
        message = (
            f"{path}: the cells of its header are separated by {_OTHER_SEPARATORS[separator]}, expected commas "
            f"({header!r}); save it again as comma-separated CSV, with points in decimal numbers"
        )
        raise SectionError(message)
    # pandas takes surplus cells for row names and shifts the rest.
    if not isinstance(frame.index, pd.RangeIndex):
        message = (
            f"{path}: its rows have more cells than its header has columns ({quoted(list(frame.columns))}); "
            "add the missing column names"
        )
        raise SectionError(message)
    if frame.empty:
        message = f"{path} has a header but no rows; add them below it"
        raise SectionError(message)
    return frame


def read_table(path: Path) -> Table:
    """Read a tile table and find its id and image columns.

    Raises
    ------
    SectionError
        If the file is no CSV, has no rows, or lacks an id or an image column.
    """
    frame = read_csv_text(path)
    columns = list(frame.columns)
    id_column = first_column(columns, ID_COLUMNS)
    image_column = first_column(columns, (SLIDE_COLUMN, *TILE_COLUMNS))
    faults = []
    if id_column is None:
        faults.append(f"no column with ids (one of {', '.join(ID_COLUMNS)})")
    if image_column is None:
        faults.append(
            f"no column with image files ({SLIDE_COLUMN} for slides or tile files, or one of "
            f"{', '.join(TILE_COLUMNS)} for tile files)"
        )
    if id_column is None or image_column is None:
        found = ", ".join(repr(column) for column in columns)
        message = (
            f"{path} has {' and '.join(faults)}; its columns are {found}: rename the ones that are meant"
        )
        raise SectionError(message)
    return Table(path=path, frame=frame, id_column=id_column, image_column=image_column)


def _number(cell: str) -> float:
    """Read a number exactly as Python does; NaN for any other text."""
    try:
        return float(cell)
    except ValueError:
        return float("nan")
