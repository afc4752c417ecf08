"""Summarise runs: means over sections and donors, their spread, and paired differences."""

import dataclasses
from collections.abc import Mapping, Sequence

import pandas as pd

from spam.reports.score_tables import HEADLINE_SET, RIVAL

from .boards import PairedDifference, UnitKind
from .fold_plan import Fold
from .metrics import bootstrap_mean
from .runs import ALL_GENES, RunResult

COMPARED = ((HEADLINE_SET, "pearson"), ("HVG-250", "pearson"), (ALL_GENES, "nll"))
"""Gene set and score of each paired comparison; the first decides the verdict."""

_UNKNOWN = ""  # not a valid donor name
_KEYS = ["method", "gene_set", "score"]
_LEVELS = ["donor", "section", "part"]


def score_table(
    results: Sequence[RunResult], folds: Sequence[Fold], donors: Mapping[str, str | None]
) -> pd.DataFrame:
    """Lay all scores out as a long table: one row per method, seed, test section, gene set and score.

    The HEST board pools the test sections of a fold, so a fold is one row there, under its first test section.

    Parameters
    ----------
    donors
        Donor of each section; sections of unknown donor may share one, and then there is no interval over donors.
    """
    is_block = {fold.name: fold.block is not None for fold in folds}
    tables = [
        r.scores.sets.assign(
            is_reference=r.is_reference,
            seed=r.seed,
            fold=r.fold,
            part=r.fold if is_block[r.fold] else r.scores.sets["section"],
        )
        for r in results
        if r.scores is not None
    ]
    table = pd.concat(tables, ignore_index=True)
    return table.assign(donor=[donors[section] or _UNKNOWN for section in table["section"]])


def unit_kind(table: pd.DataFrame, *, is_across_donors: bool = True) -> UnitKind:
    """Choose the unit of the intervals: donors if several are known, else sections if several, else blocks.

    Test sections of a donor that was also trained on (not `is_across_donors`) say nothing about other donors.
    """
    donors = set(table["donor"])
    if len(donors) > 1 and _UNKNOWN not in donors and is_across_donors:
        return "donors"
    return "sections" if table["section"].nunique() > 1 else "blocks"


def summarise(table: pd.DataFrame, unit: UnitKind) -> pd.DataFrame:
    """Average each score over seeds, then blocks, sections and donors: one row per method, gene set and score.

    Columns: ``mean``, ``lower``, ``upper`` and ``n_units`` of the bootstrap interval over units; ``sd_units`` and
    ``sd_seeds``, standard deviations over units, and over seeds of the mean over units (NaN with fewer than two);
    ``n_seeds``; ``n_genes`` and ``n_undefined``, scored genes and those without this score, as means over test sections;
    ``is_reference``.
    """
    units = _unit_values(table, unit, _KEYS)
    by_seed = _unit_values(table, unit, [*_KEYS, "seed"]).groupby(level=[*_KEYS, "seed"]).mean()
    rows = table.groupby(_KEYS, sort=False).agg(
        is_reference=("is_reference", "first"),
        n_seeds=("seed", "nunique"),
        n_genes=("n_genes", "mean"),
        n_undefined=("n_undefined", "mean"),
    )
    intervals = {key: bootstrap_mean(own.to_numpy()) for key, own in units.groupby(level=_KEYS)}
    index = pd.MultiIndex.from_tuples(intervals, names=_KEYS)
    return (
        rows.join(pd.DataFrame(map(dataclasses.asdict, intervals.values()), index=index))
        .assign(sd_units=units.groupby(level=_KEYS).std(), sd_seeds=by_seed.groupby(level=_KEYS).std())
        .reset_index()
    )


def compare(table: pd.DataFrame, unit: UnitKind) -> list[PairedDifference]:
    """Compare each method that is not a baseline with every other one, the tuned ridge first.

    Uses the test sections with a score of both.
    """
    is_reference = dict(zip(table["method"], table["is_reference"], strict=True))
    others = sorted(is_reference, key=lambda name: name != RIVAL)  # stable: keeps the order of the rest
    pairs = [(a, b) for a in is_reference for b in others if a != b and not is_reference[a]]
    differences = []
    for gene_set, score in COMPARED:
        chosen = table[(table["gene_set"] == gene_set) & (table["score"] == score)]
        parts = {str(m): rows.groupby(_LEVELS)["value"].mean() for m, rows in chosen.groupby("method")}
        for method, other in pairs:
            if not {method, other} <= parts.keys():
                continue
            paired = (parts[method] - parts[other]).rename("value").reset_index()
            interval = bootstrap_mean(_unit_values(paired, unit).to_numpy())
            named = {"method": method, "other": other, "gene_set": gene_set, "score": score}
            differences.append(PairedDifference(**named, difference=interval, unit=unit))
    return differences


def _unit_values(rows: pd.DataFrame, unit: UnitKind, keys: Sequence[str] = ()) -> "pd.Series[float]":
    """Average over seeds, then blocks, then sections, up to the unit, with equal weights at each level, for each of the keys."""
    values = rows.groupby([*keys, *_LEVELS])["value"].mean()
    for n_levels, level in ((2, "sections"), (1, "donors")):
        if unit == "blocks" or (unit, level) == ("sections", "donors"):
            break
        values = values.groupby(level=[*keys, *_LEVELS[:n_levels]]).mean()
    return values.astype(float)
