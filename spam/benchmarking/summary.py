"""From cells to a table: means over sections and donors, their spread, and paired differences."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from spam.evaluation import HEADLINE_SET, RIVAL, Interval, bootstrap_mean

from .cells import Cell
from .folds import Fold
from .scoring import ALL_GENES

__all__ = [
    "COMPARED",
    "PairedDifference",
    "ScoreSummary",
    "UnitKind",
    "compare",
    "score_table",
    "summarise",
    "unit_kind",
]

UnitKind = Literal["donors", "sections", "blocks"]

COMPARED = ((HEADLINE_SET, "pearson"), ("HVG-250", "pearson"), (ALL_GENES, "nll"))
"""Gene set and score of each paired comparison; the first one decides the verdict."""

_FEW = 6  # of fewer units, all may be better by chance more than once in twenty (both sides)
_UNKNOWN = ""  # no donor has this name
_LOWER_IS_BETTER = ("nll", "mse", "mae")
_LEVELS: dict[UnitKind, list[str]] = {
    "blocks": ["donor", "section", "part"],
    "sections": ["donor", "section"],
    "donors": ["donor"],
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSummary:
    """One score of one method on one gene set.

    Attributes
    ----------
    method, is_reference, gene_set, score
        What is summarised.
    interval
        Mean over units, and its bootstrap interval over them.
    sd_units, sd_seeds
        Standard deviation over units, and over seeds of the mean over units; NaN with fewer than two.
    n_seeds
        Seeds that were run.
    n_genes, n_undefined
        Genes of the set that were scored, and those without this score, as means over test sections.
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """How much better one method is than another on the same test sections, seeds averaged.

    Attributes
    ----------
    method, other, gene_set, score
        What is compared.
    difference
        Score of `method` minus that of `other`.
    unit
        What the interval is drawn over.
    """

    method: str
    other: str
    gene_set: str
    score: str
    difference: Interval
    unit: UnitKind

    @property
    def is_better(self) -> bool:
        """True if the whole interval lies on the side where `method` is better; without an interval never."""
        return self.difference.upper < 0 if self.score in _LOWER_IS_BETTER else self.difference.lower > 0

    def sentence(self) -> str:
        """Say it in one line, with what the interval does not cover."""
        d = self.difference
        what = f"{self.gene_set} {self.score}"
        if not d.n_units:
            return f"{self.method} and {self.other} have no test section with a {what} in common"
        one = self.unit.removesuffix("s")
        reach = {
            "donors": "; so few donors say little about others" if d.n_units < _FEW else "",
            "sections": "; not over donors, so this says nothing about other donors",
            "blocks": "; one section, so this says nothing about other sections or donors",
        }[self.unit]
        if d.n_units > 1:
            interval = (
                f"{d.level:.0%} bootstrap over {d.n_units} {self.unit}: {d.lower:+.3f} to {d.upper:+.3f}"
            )
            verb = "beats" if self.is_better else "does not beat"
        else:
            interval, verb = f"one {one}, so no interval", "cannot be told to beat"
        return f"{self.method} {verb} {self.other} on {what}: {d.mean:+.3f} ({interval}{reach})"


def score_table(
    cells: Sequence[Cell], folds: Sequence[Fold], donors: Mapping[str, str | None]
) -> pd.DataFrame:
    """Lay all scores out as a long table: one row per method, seed, test section, gene set and score.

    The HEST board pools the test sections of a fold, so each fold is one row there: of its first test section.

    Parameters
    ----------
    donors
        Donor of each section; sections of unknown donor may be of one, and then no interval is drawn over donors.
    """
    blocks = {fold.name: fold.block is not None for fold in folds}
    rows: list[dict[str, Any]] = []
    for cell in cells:
        if cell.hest is None:
            continue
        first = next(iter(cell.sections))
        scored = [(section, score) for section, scores in cell.sections.items() for score in scores]
        for section, score in [*scored, (first, cell.hest)]:
            rows += [
                {
                    "method": cell.method,
                    "is_reference": cell.is_reference,
                    "seed": cell.seed,
                    "fold": cell.fold,
                    "donor": donors[section] or _UNKNOWN,
                    "section": section,
                    "part": cell.fold if blocks[cell.fold] else section,
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
    """Choose what intervals are drawn over: donors if there are several; sections, if these are; or blocks of the section."""
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
                interval=bootstrap_mean(units.to_numpy(), seed=seed),
                sd_units=_sd(units.to_numpy()),
                sd_seeds=_sd(np.asarray(by_seed)),
                n_seeds=len(by_seed),
                n_genes=float(rows["n_genes"].mean()),
                n_undefined=float(rows["n_undefined"].mean()),
            )
        )
    return summaries


def compare(table: pd.DataFrame, unit: UnitKind, *, seed: int = 0) -> list[PairedDifference]:
    """Compare each method that is no baseline with every other one; the tuned ridge comes first.

    Only test sections that both have a score for are compared.
    """
    is_reference = dict(zip(table["method"], table["is_reference"], strict=True))
    others = sorted(is_reference, key=lambda name: name != RIVAL)  # sorted() keeps the order of the rest
    differences = []
    for gene_set, score in COMPARED:
        chosen = table[(table["gene_set"] == gene_set) & (table["score"] == score)]
        parts = {
            str(method): rows.groupby(_LEVELS["blocks"])["value"].mean()
            for method, rows in chosen.groupby("method")
        }
        pairs = [
            (method, other)
            for method in is_reference
            if not is_reference[method] and method in parts
            for other in others
            if other != method and other in parts
        ]
        for method, other in pairs:
            paired = (parts[method] - parts[other]).rename("value").reset_index()
            units = _unit_values(paired, unit)
            differences.append(
                PairedDifference(
                    method=method,
                    other=other,
                    gene_set=gene_set,
                    score=score,
                    difference=bootstrap_mean(units.to_numpy(), seed=seed),
                    unit=unit,
                )
            )
    return differences


def _unit_values(rows: pd.DataFrame, unit: UnitKind) -> "pd.Series[float]":
    """Average over seeds, then blocks, then sections, up to the unit: each weighs the same within the one above."""
    values = rows.groupby(_LEVELS["blocks"])["value"].mean()
    for level in ("sections", "donors"):
        if unit == "blocks" or (unit, level) == ("sections", "donors"):
            break
        values = values.groupby(level=_LEVELS[level]).mean()
    return values


def _sd(values: np.ndarray) -> float:
    """Sample standard deviation of the defined values; NaN with fewer than two."""
    defined = values[np.isfinite(values)]
    return float(defined.std(ddof=1)) if len(defined) > 1 else math.nan
