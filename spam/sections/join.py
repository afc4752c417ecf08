"""The exact join of the table's rows with the spots of the h5ad."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from spam.errors import SectionError
from spam.schemas.embed_config import InputConfig
from spam.typing import Array, Int64, Shaped

from .ids import likely_cause, refuse_duplicates, requested_ids
from .join_report import JoinReport
from .table import Table
from .wording import first_few, quoted

__all__ = ["Join", "join_rows"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Spots that are in both files, in the order of the result.

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
    n_other_sections: int,
    config: InputConfig,
) -> Join:
    """Join the rows of one section with the spots of its h5ad by exact id, in the order of the h5ad.

    Rows outside the H&E image are no tiles and are left out first. Without an h5ad every row is a spot, in
    the order of the table.

    Raises
    ------
    SectionError
        If ids are empty, occur twice on one side, or match nowhere, or (without ``--allow-missing-tiles``) if
        a spot has no row. Names the first ids and, where one is visible, the likely cause and the option that
        mends it.
    """
    rows = np.flatnonzero(table.inside()).astype(np.int64)
    n_outside = len(table) - len(rows)
    if not len(rows):
        message = (
            f"{table.path}: all {n_outside} rows of section {section!r} have inside_he false, so there is no "
            "tile to read; choose another section with --section, or correct the column"
        )
        raise SectionError(message)
    table_ids = requested_ids(table.text(table.id_column)[rows], config)
    several = "" if "section" in table else ", or add a column 'section' if the table holds several sections"
    where = f"{table.path}, column {table.id_column!r}"
    refuse_duplicates(table_ids, where=where, advice=f"keep one row per spot{several}")
    if h5ad_ids is None:
        report = _report(
            len(rows), (), (), n_other_sections=n_other_sections, n_outside=n_outside, cause=None
        )
        return Join(ids=table_ids, table_rows=rows, h5ad_rows=None, report=report)

    refuse_duplicates(h5ad_ids, where=f"{config.h5ad}, obs_names", advice="give every spot an id of its own")
    positions = pd.Index(table_ids).get_indexer(pd.Index(h5ad_ids))
    is_matched = positions >= 0
    table_only = [str(name) for name in np.delete(table_ids, positions[is_matched])]
    h5ad_only = [str(name) for name in h5ad_ids[~is_matched]]
    cause = likely_cause(table_ids, h5ad_ids, section=section, config=config) if h5ad_only else None
    spots = f"{len(h5ad_ids)} spots of {config.h5ad} (section {section!r})"
    if not is_matched.any():
        message = (
            f"none of the {spots} is in {where}: the h5ad has {quoted(h5ad_only)}, the table has "
            f"{quoted(table_only)}; "
            + (cause or "give the table that belongs to this h5ad, or choose the section with --section")
        )
        raise SectionError(message)
    if h5ad_only and not config.allow_missing_tiles:
        left_over = f"{len(table_only)} rows match no spot" + (
            f" ({quoted(table_only)})" if table_only else ""
        )
        outside = f", {n_outside} rows have inside_he false" if n_outside else ""
        message = (
            f"{len(h5ad_only)} of the {spots} have no tile in {where}: {quoted(h5ad_only)}; "
            f"{left_over}{outside}; {cause + '; otherwise ' if cause else ''}complete the table, or leave "
            "these spots out with --allow-missing-tiles"
        )
        raise SectionError(message)
    report = _report(
        int(is_matched.sum()),
        table_only,
        h5ad_only,
        n_other_sections=n_other_sections,
        n_outside=n_outside,
        cause=cause,
    )
    return Join(
        ids=h5ad_ids[is_matched],
        table_rows=rows[positions[is_matched]],
        h5ad_rows=np.flatnonzero(is_matched).astype(np.int64),
        report=report,
    )


def _report(
    n_matched: int,
    table_only: Sequence[str],
    h5ad_only: Sequence[str],
    *,
    n_other_sections: int,
    n_outside: int,
    cause: str | None,
) -> JoinReport:
    return JoinReport(
        n_matched=n_matched,
        n_table_only=len(table_only),
        n_h5ad_only=len(h5ad_only),
        n_other_sections=n_other_sections,
        n_outside=n_outside,
        table_only_examples=first_few(table_only),
        h5ad_only_examples=first_few(h5ad_only),
        notes=(cause,) if cause else (),
    )
