"""The CSV with one row per tile: its column names, its ids, and the exact join with the spots of an h5ad."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spam.errors import SectionError
from spam.schemas.embed_config import InputConfig
from spam.typing import Array, Bool, Float64, Int64, Shaped

from .h5ad import require_unique
from .lab_section import JoinReport, quoted

# Names met in practice; the first one present is used.
ID_COLUMNS = ("spot_id", "cell_id", "barcode", "obs_name", "id")
SLIDE_COLUMN = "source_image"
TILE_COLUMNS = ("patch_path", "image_path", "path", "filepath", "file", "patch_filename")
BOX_COLUMNS = ("x0_he_px", "y0_he_px", "x1_he_px", "y1_he_px")

_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs"}
_INTEGER = re.compile(r"-?[0-9]+").fullmatch
_TRUE = frozenset({"true", "1", "1.0"})
_FALSE = frozenset({"false", "0", "0.0"})


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
        return np.array(self.frame[column], dtype=np.str_)

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
        values = self.frame["inside_he"].str.strip().str.lower()
        unclear = ~values.isin(_TRUE | _FALSE)
        if unclear.any():
            found = quoted(self.frame["inside_he"][unclear].unique())
            message = f"{self.path}: column 'inside_he' must be true/false or 1/0; {unclear.sum()} rows have {found}."
            raise SectionError(message)
        return np.array(values.isin(_TRUE), dtype=np.bool_)

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


def first_column(columns: Sequence[str], accepted: Sequence[str]) -> str | None:
    """Return the first accepted name that is among the columns."""
    return next((name for name in accepted if name in columns), None)


def read_csv_text(path: Path) -> Any:
    """Read a CSV as a pandas frame of strings; missing cells are empty.

    Raises
    ------
    SectionError
        If the file is not comma-separated UTF-8, has rows longer than its header, or has no rows.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig").fillna("")
    except (OSError, ValueError) as error:  # pandas' parser errors and decoding errors are ValueErrors
        message = f"Cannot read {path} as a CSV: {str(error).strip()}. It must be comma-separated UTF-8 with a header."
        raise SectionError(message) from error
    header = str(frame.columns[0])
    separator = next((words for sign, words in _OTHER_SEPARATORS.items() if sign in header), None)
    for is_wrong, fault in (
        (separator and len(frame.columns) == 1, f"the header is separated by {separator}, expected commas"),
        # pandas takes surplus cells as row names.
        (not isinstance(frame.index, pd.RangeIndex), "rows have more cells than the header"),
        (frame.empty, "the table has a header but no rows"),
    ):
        if is_wrong:
            message = f"{path}: {fault}."
            raise SectionError(message)
    return frame


def read_table(path: Path) -> Table:
    """Read a tile table and find its id and image columns.

    Raises
    ------
    SectionError
        If the file is not a CSV, has no rows, or has no id or image column.
    """
    frame = read_csv_text(path)
    columns, image_columns = list(frame.columns), (SLIDE_COLUMN, *TILE_COLUMNS)
    id_column, image_column = first_column(columns, ID_COLUMNS), first_column(columns, image_columns)
    if id_column is None or image_column is None:
        known = {"ids": () if id_column else ID_COLUMNS, "images": () if image_column else image_columns}
        faults = [f"{what} ({', '.join(names)})" for what, names in known.items() if names]
        message = f"{path} has no column of {' or of '.join(faults)}, only {', '.join(map(repr, columns))}."
        raise SectionError(message)
    return Table(path=path, frame=frame, id_column=id_column, image_column=image_column)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Spots that are in both files, in the order of the h5ad (without an h5ad: of the table).

    Attributes
    ----------
    ids
        Their ids (``<U``).
    table_rows, h5ad_rows
        Their rows in the table and in the h5ad; `h5ad_rows` is None without an h5ad.
    report
        What matched and what did not.
    """

    ids: Shaped[Array, " n_spots"]
    table_rows: Int64[Array, " n_spots"]
    h5ad_rows: Int64[Array, " n_spots"] | None
    report: JoinReport


def join_rows(
    table: Table,
    h5ad_ids: Shaped[Array, " n_h5ad"] | None,
    *,
    section: str,
    config: InputConfig,
) -> Join:
    """Join the rows of one section with the spots of its h5ad by exact id.

    Rows outside the H&E image have no tile and are dropped first. Without an h5ad every row is a spot.

    Raises
    ------
    SectionError
        If ids are empty, repeated, or match nowhere, or (without ``--allow-missing-tiles``) if a spot has no row. Names
        the first ids and, if visible, the likely cause with the option that fixes it.
    """
    rows = np.flatnonzero(table.inside()).astype(np.int64)
    if not len(rows):
        message = f"{table.path}: all {len(table)} rows of section {section!r} have inside_he false."
        raise SectionError(message)
    table_ids = requested_ids(table.text(table.id_column)[rows], config)
    several = "" if "section" in table else " If it holds several sections, add a column 'section'."
    where = f"{table.path}, column {table.id_column!r}"
    require_unique(table_ids, where=where, advice=f"Keep one row per spot.{several}")
    report = JoinReport(n_matched=len(rows), n_outside=len(table) - len(rows))
    if h5ad_ids is None:
        return Join(ids=table_ids, table_rows=rows, h5ad_rows=None, report=report)

    require_unique(h5ad_ids, where=f"{config.h5ad}, obs_names")
    positions = pd.Index(table_ids).get_indexer(pd.Index(h5ad_ids))
    is_matched = positions >= 0
    table_only = np.delete(table_ids, positions[is_matched]).tolist()
    h5ad_only = h5ad_ids[~is_matched].tolist()
    cause = likely_cause(table_ids.tolist(), set(h5ad_ids.tolist()), section, config) if h5ad_only else None
    if h5ad_only and not (is_matched.any() and config.allow_missing_tiles):
        advice = cause or "Check --csv, --h5ad and --section"
        advice += ", or leave these spots out with --allow-missing-tiles" if is_matched.any() else ""
        outside = f", {report.n_outside} rows have inside_he false" if report.n_outside else ""
        message = (
            f"{len(h5ad_only)} of the {len(h5ad_ids)} spots of {config.h5ad} (section {section!r}) have no tile in "
            f"{where}: {quoted(h5ad_only)}. {len(table_only)} rows match no spot ({quoted(table_only)}){outside}. {advice}."
        )
        raise SectionError(message)
    return Join(
        ids=h5ad_ids[is_matched],
        table_rows=rows[positions[is_matched]],
        h5ad_rows=np.flatnonzero(is_matched).astype(np.int64),
        report=dataclasses.replace(
            report,
            n_matched=int(is_matched.sum()),
            table_only=tuple(table_only),
            h5ad_only=tuple(h5ad_only),
            notes=(cause,) if cause else (),
        ),
    )


def requested_ids(ids: Shaped[Array, " n_rows"], config: InputConfig) -> Shaped[Array, " n_rows"]:
    """Change the table's ids as requested: strip ``--id-strip-suffix``, then add ``--id-offset``.

    Raises
    ------
    SectionError
        If an offset is requested and an id is not an integer.
    """
    changed = [str(name).removesuffix(config.id_strip_suffix or "") for name in ids]
    if config.id_offset:
        wrong = [name for name in changed if not _INTEGER(name)]
        if wrong:
            found = f"{len(wrong)} ids of the table are not: {quoted(wrong)}"
            message = f"--id-offset {config.id_offset} needs integer ids, but {found}. See --id-strip-suffix."
            raise SectionError(message)
        changed = [str(int(name) + config.id_offset) for name in changed]
    return np.array(changed, dtype=np.str_)


def likely_cause(names: Sequence[str], spots: set[str], section: str, config: InputConfig) -> str | None:
    """Name the simple change of the table's ids that would match most spots; None if no change matches more than now.

    Changes tried: the suffixes ``.0`` and ``-1`` on either side, integer ids off by one, and the section name as a
    prefix on either side. Nothing is changed.
    """
    n_best, best = len(spots.intersection(names)), None
    for changed, advice in _changes(names, section, config):
        n_hits = len(spots.intersection(changed))
        if n_hits > n_best:
            n_best, best = n_hits, f"{advice}: then {n_hits} of {len(spots)} spots would match"
    return best


def _changes(ids: Sequence[str], section: str, config: InputConfig) -> Iterator[tuple[list[str], str]]:
    for suffix in (".0", "-1"):
        option = f"--id-strip-suffix={suffix}{config.id_strip_suffix or ''}"
        yield [name.removesuffix(suffix) for name in ids], f"The table's ids end in {suffix!r}, use {option}"
        yield [name + suffix for name in ids], f"The h5ad's ids end in {suffix!r}, add it to the table's ids"
    if all(map(_INTEGER, ids)):
        for step in (1, -1):
            option = f"--id-offset={config.id_offset + step}"
            yield [str(int(name) + step) for name in ids], f"The table's ids are off by one, use {option}"
    for prefix in (f"{section}_", f"{section}-"):
        bare, longer = [name.removeprefix(prefix) for name in ids], [prefix + name for name in ids]
        yield bare, f"The table's ids begin with {prefix!r}, remove it from the table's ids"
        yield longer, f"The h5ad's ids begin with {prefix!r}, add it to the table's ids"


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")
