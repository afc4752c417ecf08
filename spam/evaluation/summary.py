"""Summarise runs: means over sections and donors, their spread, and paired differences."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .boards import HEADLINE_SET, RIVAL, PairedDifference, UnitKind
from .folds import Fold
from .metrics import Interval, bootstrap_mean
from .runs import ALL_GENES, RunResult

COMPARED = ((HEADLINE_SET, "pearson"), ("HVG-250", "pearson"), (ALL_GENES, "nll"))
"""Gene set and score of each paired comparison; the first decides the verdict."""

_UNKNOWN = ""  # not a valid donor name
_LEVELS = ["donor", "section", "part"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSummary:
    """One score of one method on one gene set.

    Attributes
    ----------
    method, is_reference, gene_set, score
        What is summarised.
    interval
        Mean over units with its bootstrap interval.
    sd_units, sd_seeds
        Standard deviation over units, and over seeds of the mean over units; NaN with fewer than two.
    n_seeds
        Number of seeds.
    n_genes, n_undefined
        Scored genes of the set, and those without this score, as means over test sections.
    """

    method: str
    is_reference: bool
    gene_set: str
    score: str
    interval: Interval
    sd_units: float
    sd_seeds: float
    n_seeds: int
    n_genes: float
    n_undefined: float


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
    blocks = {fold.name: fold.block is not None for fold in folds}
    rows: list[dict[str, Any]] = []
    for result in results:
        if result.scores is None:
            continue
        first = next(iter(result.scores.sections))
        scored = [(section, score) for section, each in result.scores.sections.items() for score in each]
        for section, score in [*scored, (first, result.scores.hest)]:
            rows += [
                {
                    "method": result.method,
                    "is_reference": result.is_reference,
                    "seed": result.seed,
                    "fold": result.fold,
                    "donor": donors[section] or _UNKNOWN,
                    "section": section,
                    "part": result.fold if blocks[result.fold] else section,
                    "gene_set": score.gene_set,
                    "score": name,
                    "value": value,
                    "n_genes": score.n_genes - score.n_missing,
                    "n_undefined": score.n_undefined.get(name, 0),
                }
                for name, value in score.means.items()
            ]
    return pd.DataFrame(rows)


def unit_kind(table: pd.DataFrame) -> UnitKind:
    """Choose the unit of the intervals: donors if several are known, else sections if several, else blocks."""
    donors = set(table["donor"])
    if len(donors) > 1 and _UNKNOWN not in donors:
        return "donors"
    return "sections" if table["section"].nunique() > 1 else "blocks"


def summarise(table: pd.DataFrame, unit: UnitKind, *, seed: int = 0) -> list[ScoreSummary]:
    """Average each score over seeds, then blocks, sections and donors, in the order of the methods in `table`."""
    summaries = []
    for (method, gene_set, score), rows in table.groupby(["method", "gene_set", "score"], sort=False):
        units = _unit_values(rows, unit)
        by_seed = [float(_unit_values(of_seed, unit).mean()) for _, of_seed in rows.groupby("seed")]
        summaries.append(
            ScoreSummary(
                method=str(method),
                is_reference=bool(rows["is_reference"].iloc[0]),
                gene_set=str(gene_set),
                score=str(score),
                interval=bootstrap_mean(units, seed=seed),
                sd_units=_sd(units),
                sd_seeds=_sd(np.asarray(by_seed)),
                n_seeds=len(by_seed),
                n_genes=float(rows["n_genes"].mean()),
                n_undefined=float(rows["n_undefined"].mean()),
            )
        )
    return summaries


def compare(table: pd.DataFrame, unit: UnitKind, *, seed: int = 0) -> list[PairedDifference]:
    """Compare each method that is not a baseline with every other one, the tuned ridge first.

    Uses the test sections with a score of both.
    """
    is_reference = dict(zip(table["method"], table["is_reference"], strict=True))
    others = sorted(is_reference, key=lambda name: name != RIVAL)  # stable: keeps the order of the rest
    differences = []
    for gene_set, score in COMPARED:
        chosen = table[(table["gene_set"] == gene_set) & (table["score"] == score)]
        parts = {str(m): rows.groupby(_LEVELS)["value"].mean() for m, rows in chosen.groupby("method")}
        for method in is_reference:
            for other in others:
                if is_reference[method] or other == method or not {method, other} <= parts.keys():
                    continue
                paired = (parts[method] - parts[other]).rename("value").reset_index()
                interval = bootstrap_mean(_unit_values(paired, unit), seed=seed)
                differences.append(
                    PairedDifference(
                        method=method,
                        other=other,
                        gene_set=gene_set,
                        score=score,
                        difference=interval,
                        unit=unit,
                    )
                )
    return differences


def _unit_values(rows: pd.DataFrame, unit: UnitKind) -> np.ndarray:
    """Average over seeds, then blocks, then sections, up to the unit, with equal weights at each level."""
    values = rows.groupby(_LEVELS)["value"].mean()
    for n_levels, level in ((2, "sections"), (1, "donors")):
        if unit == "blocks" or (unit, level) == ("sections", "donors"):
            break
        values = values.groupby(level=_LEVELS[:n_levels]).mean()
    return values.to_numpy(dtype=np.float64)


def _sd(values: np.ndarray) -> float:
    """Sample standard deviation of the defined values; NaN with fewer than two."""
    defined = values[np.isfinite(values)]
    return float(defined.std(ddof=1)) if len(defined) > 1 else math.nan
