"""The CSV with one row per tile: reading, column names, text and numbers."""

import bz2
import dataclasses
import gzip
import lzma
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spam.errors import SectionError, counted, shortened
from spam.typing import Array, Bool, Float64, Shaped

from .file_kinds import kind_of_file
from .lab_section import quoted, text_array

# Names met in practice; the first one present is used.
ID_COLUMNS = ("spot_id", "cell_id", "barcode", "obs_name", "id")
SLIDE_COLUMN = "source_image"
TILE_COLUMNS = ("patch_path", "image_path", "path", "filepath", "file", "patch_filename")
BOX_COLUMNS = ("x0_he_px", "y0_he_px", "x1_he_px", "y1_he_px")

_OTHER_SEPARATORS = {b";": "semicolons", b"\t": "tabs"}
_MOST_HEADER_BYTES, _MOST_COLUMNS = 2**20, 20_000
_READ_ERRORS = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)  # pandas' errors are ValueErrors
_TRUE = ("true", "1", "1.0")
_FALSE = ("false", "0", "0.0")
# pandas unpacks these itself
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of a tile table; every cell stays text, so that the id "1.0" stays "1.0".

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
        return text_array(self.frame[column], where=f"{self.path}, column {column!r}")

    def numbers(self, columns: Sequence[str]) -> Float64[Array, "n_rows n_columns"]:
        """Return columns as numbers; a cell that is not a number becomes NaN."""
        values = [[_number(cell) for cell in self.frame[column]] for column in columns]
        return np.array(values, dtype=np.float64).reshape(len(columns), len(self)).T

    def named_values(self, column: str) -> tuple[str, ...]:
        """Return the distinct non-empty values of a column in order of appearance; none if it is missing."""
        return tuple(str(value) for value in self.frame[column].unique() if value) if column in self else ()

    def where(self, rows: Shaped[Array, " n"]) -> "Table":
        """Return the rows of a mask, or at positions and in their order."""
        return dataclasses.replace(self, frame=self.frame.iloc[rows])

    def inside(self) -> Bool[Array, " n_rows"]:
        """Return which rows lie inside the H&E image (column ``inside_he``; default: all).

        Raises
        ------
        SectionError
            On a value that is neither true nor false.
        """
        if "inside_he" not in self:
            return np.ones(len(self), dtype=np.bool_)
        is_true, is_false = truth(self.text("inside_he"))
        unclear = ~(is_true | is_false)
        if unclear.any():
            rows, found = (
                counted(int(unclear.sum()), "row", "have"),
                self.frame["inside_he"][unclear].unique(),
            )
            message = f"{self.path}: column 'inside_he' must be true/false or 1/0; {rows} {quoted(found)}."
            raise SectionError(message)
        return is_true

    def stated_tile_px(self) -> tuple[int | None, tuple[str, ...]]:
        """Return the tile side that ``patch_size_px`` or the boxes state, and a note if they state several.

        Boxes are rounded to whole pixels. A table that states nothing gives (None, ()).

        Raises
        ------
        SectionError
            If ``patch_size_px`` is not a positive number in every row.
        """
        if "patch_size_px" in self:
            sides = self.numbers(["patch_size_px"])
            if not (np.isfinite(sides) & (sides > 0)).all():
                message = f"{self.path}: column 'patch_size_px' must be a positive number in every row."
                raise SectionError(message)
        elif all(column in self for column in BOX_COLUMNS):
            corners = self.numbers(BOX_COLUMNS)
            sides = corners[:, 2:] - corners[:, :2]
        else:
            return None, ()
        found = np.unique(np.rint(sides[np.isfinite(sides)]))
        if len(found) > 1:
            return None, (f"the table states tiles of {found[0]:g} to {found[-1]:g} px; none is used",)
        if not len(found):
            return None, ()
        return int(found[0]), ()


def truth(values: Shaped[Array, " n"]) -> tuple[Bool[Array, " n"], Bool[Array, " n"]]:
    """Tell which values mean true, and which mean false."""
    words = np.char.lower(np.char.strip(values.astype(np.str_)))
    return np.isin(words, _TRUE), np.isin(words, _FALSE)


def first_column(columns: Sequence[str], accepted: Sequence[str]) -> str | None:
    """Return the first accepted name that is among the columns."""
    return next((name for name in accepted if name in columns), None)


def read_csv_text(path: Path) -> Any:
    """Read a CSV as a pandas frame of strings; missing cells are empty.

    Raises
    ------
    SectionError
        If the file is not comma-separated UTF-8, has rows longer than its header, no rows, or a column twice.
    """
    kind = kind_of_file(path) if path.suffix not in _OPENERS else None
    if kind is not None:
        message = f"{path} is not a CSV table but {kind}."
        raise SectionError(message)
    try:
        with _OPENERS.get(path.suffix, Path.open)(path, "rb") as file:
            start = file.readline(_MOST_HEADER_BYTES)
        separator = next((words for sign, words in _OTHER_SEPARATORS.items() if sign in start), None)
        n_columns = start.count(b",") + 1
        is_wide = len(start) == _MOST_HEADER_BYTES or n_columns > _MOST_COLUMNS
        for is_wrong, fault in (
            (separator and n_columns == 1, f"the header is separated by {separator}, expected commas"),
            (
                is_wide,
                f"its first line is no header of a few names: {shortened(start.decode(errors='replace'))}",
            ),
        ):
            if is_wrong:
                message = f"{path}: {fault}."
                raise SectionError(message)
        # The header is read as a row, because pandas renames columns that occur twice.
        rows = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except _READ_ERRORS as error:
        if isinstance(error, SectionError):
            raise
        message = f"Cannot read {path} as a CSV: {str(error).strip()[:200]}. It must be comma-separated UTF-8 with a header."
        raise SectionError(message) from error
    names, frame = pd.Index(rows.iloc[0].fillna("")), rows.iloc[1:].fillna("").reset_index(drop=True)
    numbers = [name for name in names if np.isfinite(_number(name))]
    twice = names[names.duplicated() & (names != "")].unique()
    for is_wrong, fault in (
        (numbers, f"it has no header, its first row is {quoted(names)}{_of_space_ranger(list(names))}"),
        (len(twice), f"{len(twice)} columns occur more than once: {quoted(twice)}; keep one of each"),
        (frame.empty, "the table has a header but no rows"),
    ):
        if is_wrong:
            message = f"{path}: {fault}."
            raise SectionError(message)
    frame.columns = names
    # a header without a name: row names, or nothing
    return frame.loc[:, (names != "") | (np.arange(len(names)) == 0)]


def _of_space_ranger(names: Sequence[str]) -> str:
    """Say how to read the positions of Space Ranger, whose first version writes no header."""
    is_headerless = len(names) == 6 and all(np.isfinite(_number(name)) for name in names[1:])
    if is_headerless or "pxl_row_in_fullres" in names:
        return ". These are Space Ranger's positions of spots. Give its folder: spam import FOLDER"
    return ""


def read_table(path: Path) -> Table:
    """Read a tile table and find its id and image columns.

    Raises
    ------
    SectionError
        If the file is not a CSV, has no rows, or has no id or image column.
    """
    frame = read_csv_text(path)
    columns, image_columns = list(frame.columns), (SLIDE_COLUMN, *TILE_COLUMNS)
    id_column, image_column = first_column(columns, (*ID_COLUMNS, "")), first_column(columns, image_columns)
    if id_column is None or image_column is None:
        known = {"ids": () if id_column else ID_COLUMNS, "images": () if image_column else image_columns}
        faults = [f"{what} ({', '.join(names)})" for what, names in known.items() if names]
        found = f"only {quoted(columns)}{_of_space_ranger(columns)}"
        message = f"{path} has no column of {' or of '.join(faults)}, {found}."
        raise SectionError(message)
    return Table(path=path, frame=frame, id_column=id_column, image_column=image_column)


def _number(cell: str) -> float:
    try:
        return float("nan") if "_" in cell else float(cell)  # Python reads 1_80 as 180
    except ValueError:
        return float("nan")
