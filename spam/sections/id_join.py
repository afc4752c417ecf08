"""The exact join of a tile table with the spots of an h5ad by id, and the likely cause if ids do not match."""

import dataclasses
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from spam.errors import SectionError, counted, shortened
from spam.schemas.embed_config import InputConfig
from spam.typing import Array, Bool, Int64, Shaped

from .h5ad import H5ad, require_readable
from .lab_section import JoinReport, quoted, require_unique
from .tile_table import ID_COLUMNS, Table, truth

_INTEGER = re.compile(r"-?[0-9]+").fullmatch
_N_TRIED = 64  # ids that are looked at to find what they have more than those of the other side


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


def choose_ids(table: Table, h5ad: H5ad | None, config: InputConfig) -> tuple[Table, list[str]]:
    """Choose the column of ids that matches most spots of the h5ad, the first of several; notes if it is not the usual one."""
    columns = [name for name in (*ID_COLUMNS, "") if name in table]
    if h5ad is None or len(columns) < 2:
        return table, []
    spots = set(requested_ids(h5ad.ids, config, of_h5ad=True).tolist())

    def n_hits(column: str) -> int:
        ids = table.text(column)
        is_offset = config.id_offset and not all(
            map(_INTEGER, (x.removesuffix(config.id_strip_suffix or "") for x in ids))
        )
        return -1 if is_offset else len(spots.intersection(requested_ids(ids, config).tolist()))

    best = max(columns, key=n_hits)
    if best == table.id_column or n_hits(best) <= n_hits(table.id_column):
        return table, []
    note = f"the ids are those of column {best!r}, which match the h5ad, not {table.id_column!r}"
    return dataclasses.replace(table, id_column=best), [note]


def join_rows(table: Table, h5ad: H5ad | None, *, section: str, config: InputConfig) -> Join:
    """Join the rows of one section with the spots of its h5ad by exact id.

    Rows outside the H&E image have no tile and are dropped first; spots outside the tissue (``in_tissue`` 0 on either side)
    are left out. Without an h5ad every row is a spot.

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
    where = f"{table.path}, column {table.id_column!r}"
    stated = table.text("in_tissue")[rows] if "in_tissue" in table else np.full(len(rows), "")
    off_tissue, notes = _off_tissue(stated, f"column 'in_tissue' of {table.path.name}")
    table_ids = requested_ids(table.text(table.id_column)[rows], config)
    several = "" if "section" in table else " If it holds several sections, add a column 'section'."
    require_unique(table_ids, where=where, advice=f"Keep one row per spot.{several}")
    n_outside = len(table) - len(rows)
    if h5ad is None:
        kept = ~off_tissue
        report = JoinReport(
            n_matched=int(kept.sum()), n_outside=n_outside, n_off_tissue=int(off_tissue.sum()), notes=notes
        )
        _require_tissue(kept, section)
        return Join(ids=table_ids[kept], table_rows=rows[kept], h5ad_rows=None, report=report)

    require_unique(h5ad.ids, where=f"{h5ad.path}, obs_names")
    h5ad_ids = requested_ids(h5ad.ids, config, of_h5ad=True)
    require_unique(h5ad_ids, where=f"{h5ad.path}, obs_names without {config.h5ad_id_strip_suffix!r}")
    require_readable(h5ad, ["in_tissue"])
    stated = h5ad.obs.get("in_tissue", np.full(len(h5ad.ids), ""))
    is_off, h5ad_notes = _off_tissue(stated, f"obs['in_tissue'] of {h5ad.path.name}")
    positions = pd.Index(table_ids).get_indexer(pd.Index(h5ad_ids))
    is_row = positions >= 0
    is_off |= is_row & off_tissue[positions]
    _require_tissue(~is_off, section)
    is_matched = is_row & ~is_off
    table_only = np.delete(table_ids, np.union1d(positions[is_row], np.flatnonzero(off_tissue))).tolist()
    h5ad_only = h5ad.ids[~is_row & ~is_off].tolist()
    n_spots = int((~is_off).sum())
    cause = likely_cause(table_ids.tolist(), h5ad_ids.tolist(), config) if h5ad_only else None
    if h5ad_only and cause is None and not is_matched.any():
        cause = _other_column(table.where(rows), table_ids, h5ad, h5ad_ids)
    if h5ad_only and not (is_matched.any() and config.allow_missing_tiles):
        advice = cause or "Check --csv, --h5ad and --section"
        # Else the ids are of different kinds, and those that match do so by chance.
        is_mostly = cause is None and 2 * len(h5ad_only) <= n_spots
        advice += ", or leave these spots out with --allow-missing-tiles" if is_mostly else ""
        outside = f", {counted(n_outside, 'row', 'have')} inside_he false" if n_outside else ""
        others = counted(len(table_only), "row", "match")
        message = (
            f"{len(h5ad_only)} of the {n_spots} spots of {h5ad.path} (section {section!r}) have no tile in "
            f"{where}: {quoted(h5ad_only)}. {others} no spot ({quoted(table_only)}){outside}. {advice}."
        )
        raise SectionError(message)
    return Join(
        ids=h5ad.ids[is_matched],
        table_rows=rows[positions[is_matched]],
        h5ad_rows=np.flatnonzero(is_matched).astype(np.int64),
        report=JoinReport(
            n_matched=int(is_matched.sum()),
            table_only=tuple(table_only),
            h5ad_only=tuple(h5ad_only),
            n_outside=n_outside,
            n_off_tissue=int(is_off.sum()),
            notes=(*notes, *h5ad_notes, *((cause,) if cause else ())),
        ),
    )


def _off_tissue(values: Shaped[Array, " n"], where: str) -> tuple[Bool[Array, " n"], tuple[str, ...]]:
    """Tell which spots are outside the tissue by a column ``in_tissue``; spots without a 0 or 1 are inside, with a note."""
    is_true, is_false = truth(values)
    is_stated = ~np.isin(values.astype(np.str_), ("", "nan"))
    is_known = is_true | is_false
    if is_known.all() or not is_stated.any():
        return is_false, ()
    odd = quoted(np.unique(values[is_stated & ~is_known]))
    if not is_known.any():
        return is_false, (f"{where} was not used: it has {odd}, expected 0 or 1",)
    found = f"no 0 or 1 but {odd}" if odd else "no value"
    return is_false, (
        f"{where} has {found} for {int((~is_known).sum())} of {len(values)} spots: they were kept",
    )


def _require_tissue(is_kept: Bool[Array, " n"], section: str) -> None:
    if not is_kept.any():
        message = f"All {len(is_kept)} spots of section {section!r} have in_tissue 0. Correct the column, or remove it."
        raise SectionError(message)


def requested_ids(
    ids: Shaped[Array, " n_rows"], config: InputConfig, *, of_h5ad: bool = False
) -> Shaped[Array, " n_rows"]:
    """Change ids as requested: strip a suffix, then (the table's alone) add ``--id-offset``.

    Raises
    ------
    SectionError
        If an offset is requested and an id is not an integer.
    """
    suffix = config.h5ad_id_strip_suffix if of_h5ad else config.id_strip_suffix
    changed = [str(name).removesuffix(suffix or "") for name in ids]
    if config.id_offset and not of_h5ad:
        wrong = [name for name in changed if not _INTEGER(name)]
        if wrong:
            found = f"{len(wrong)} ids of the table are not: {quoted(wrong)}"
            message = f"--id-offset {config.id_offset} needs integer ids, but {found}. See --id-strip-suffix."
            raise SectionError(message)
        changed = [str(int(name) + config.id_offset) for name in changed]
    return np.array(changed, dtype=np.str_)


def likely_cause(names: Sequence[str], spots: Sequence[str], config: InputConfig) -> str | None:
    """Name the simple change of the ids that would match most spots; None if no change matches more than now.

    Changes tried: a prefix or suffix that one side has and the other has not, upper and lower case, and integer ids off by
    one. Nothing is changed. A change by which fewer than half of the spots would match is chance, and not advised.
    """
    known = set(spots)
    n_best, best = max(len(known.intersection(names)), _half(len(names), len(spots))), None
    for changed, of_h5ad, advice in _changes(names, spots, config):
        n_hits = len(set(of_h5ad).intersection(changed))
        if n_hits > n_best:
            n_best, best = n_hits, f"{advice}: then {n_hits} of {len(spots)} spots would match"
    return best


def _half(n_names: int, n_spots: int) -> int:
    """Return the most matches that may be chance: less than half of the shorter list."""
    return (min(n_names, n_spots) - 1) // 2


def _other_column(
    table: Table, ids: Shaped[Array, " n_rows"], h5ad: H5ad, spots: Shaped[Array, " n_spots"]
) -> str | None:
    """Name the column of the table, or of obs, in which the ids of the other file are; None if there is none."""
    places = [
        (
            table.text(name),
            spots,
            f"Column {shortened(name)} of {table.path.name} has the h5ad's ids, name it 'spot_id'",
        )
        for name in table.frame.columns
    ]
    places += [
        (
            x.astype(np.str_),
            ids,
            f"obs[{shortened(name)}] of the h5ad has the table's ids, write it into adata.obs_names",
        )
        for name, x in h5ad.obs.items()
        if x.dtype.kind in "Uiu"
    ]
    for values, others, advice in places:
        n_hits = len({*values.tolist()} & {*others.tolist()})
        if n_hits > _half(len(values), len(others)):
            return f"{advice}: then {n_hits} of {len(spots)} spots would match"
    return None


def _changes(
    ids: Sequence[str], spots: Sequence[str], config: InputConfig
) -> Iterator[tuple[Sequence[str], Sequence[str], str]]:
    """List changed ids of the table, changed ids of the h5ad, and the advice."""
    sides = (
        ("table", ids, spots, "--id-strip-suffix", config.id_strip_suffix),
        ("h5ad", spots, ids, "--h5ad-id-strip-suffix", config.h5ad_id_strip_suffix),
    )
    for side, longer, shorter, option, stripped in sides:
        other = "h5ad" if side == "table" else "table"
        suffix, prefix = _surplus(longer, shorter, at_end=True), _surplus(longer, shorter, at_end=False)
        if suffix:
            bare = [name.removesuffix(suffix) for name in longer]
            advice = (
                f"The {side}'s ids end in {suffix!r}, use {option}={shlex.quote(suffix + (stripped or ''))}"
            )
            yield (bare, spots, advice) if side == "table" else (ids, bare, advice)
        if prefix:
            bare = [name.removeprefix(prefix) for name in longer]
            advice = f"The {side}'s ids begin with {prefix!r}, add it to the {other}'s ids or remove it"
            yield (bare, spots, advice) if side == "table" else (ids, bare, advice)
    yield (
        list(map(str.lower, ids)),
        list(map(str.lower, spots)),
        "The ids differ in upper and lower case, write both alike",
    )
    integers, n_odd = list(filter(_INTEGER, ids)), sum(not _INTEGER(name) for name in ids)
    but = f" once the {n_odd} ids that are no integers are removed" if n_odd else ""
    for step in (1, -1):
        option = f"--id-offset={config.id_offset + step}"
        yield (
            [str(int(x) + step) for x in integers],
            spots,
            f"The table's ids are off by one, use {option}{but}",
        )


def _surplus(longer: Sequence[str], shorter: Sequence[str], *, at_end: bool) -> str:
    """Return what most of the first names of one side have more than a name of the other, at their end or beginning."""
    known = set(shorter)
    found: Counter[str] = Counter()
    for name in longer[:_N_TRIED]:
        cuts = range(len(name) - 1, 0, -1) if at_end else range(1, len(name))
        cut = next((i for i in cuts if (name[:i] if at_end else name[i:]) in known), None)
        if cut is not None:
            found[name[cut:] if at_end else name[:cut]] += 1
    return found.most_common(1)[0][0] if found else ""
