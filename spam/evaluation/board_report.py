"""The scores of all predictors on one section, as records, as a table of genes and as Markdown."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from .intervals import Interval

__all__ = ["SCORE_HEADINGS", "BoardReport", "SetScore", "Verdict"]

SCORE_HEADINGS = {
    "pearson": "Pearson ↑",
    "spearman": "Spearman ↑",
    "r2": "R² ↑",
    "mse": "MSE ↓",
    "mae": "MAE ↓",
    "ssim": "SSIM ↑",
    "auc": "AUC ↑",
    "moran_correlation": "Moran r ↑",
    "nll": "NLL ↓",
    "coverage": "coverage",
}
"""Heading of each score; an arrow says which way is better."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SetScore:
    """One predictor on one gene set.

    Attributes
    ----------
    predictor, is_reference, gene_set
        Who is scored (a baseline or not), and on which genes.
    scale
        Scale of the prediction that was scored.
    n_genes, n_missing
        Genes of the set, and how many of them the section or the predictor does not have.
    means
        Mean of each score over the genes where it is defined; NaN where it is so for none.
    n_undefined
        For each score: of how many genes it is not defined (they are in no mean).
    """

    predictor: str
    is_reference: bool
    gene_set: str
    scale: Literal["log1p(CP10k)", "log1p(raw)"]
    n_genes: int
    n_missing: int
    means: Mapping[str, float]
    n_undefined: Mapping[str, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a model predicts a section better than its rival.

    Attributes
    ----------
    model, rival
        Names of the two predictors.
    gene_set
        Genes that are compared.
    difference
        Pearson of the model minus that of the rival, over the genes where both are defined.
    """

    model: str
    rival: str
    gene_set: str
    difference: Interval

    @property
    def is_better(self) -> bool:
        """True if the whole interval of the difference lies above 0."""
        return self.difference.lower > 0

    def sentence(self) -> str:
        """Say it in one line, with what the interval does not cover."""
        d = self.difference
        if not d.n_units:
            return (
                f"{self.model} and {self.rival} share no gene of {self.gene_set} with a Pearson correlation"
            )
        verb = "beats" if self.is_better else "does not beat"
        interval = (
            f"{d.level:.0%} bootstrap over {d.n_units} genes: {d.lower:+.3f} to {d.upper:+.3f}"
            if d.n_units > 1
            else "one gene, so no interval"
        )
        return (
            f"{self.model} {verb} the {self.rival} on {self.gene_set}: Pearson {d.mean:+.3f} ({interval}; "
            "one section, so this says nothing about other sections or donors)"
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoardReport:
    """Both boards of one section.

    Attributes
    ----------
    n_spots
        Spots with counts, which the honest board scores.
    honest
        Scores of log1p(CP10k), per gene set and predictor.
    hest
        Pearson on log1p(raw counts), as the HEST benchmark has it; depth leaks in, so it says less.
    verdicts
        One per model; none if the rival was not among the predictions.
    genes
        Scores per gene, see `gene_table`.
    panel_share
        How many times as much of the section's counts as of the training sections' the modelled genes make up, where it
        is so much that a panel must have been measured; else None.
    """

    n_spots: int
    honest: Sequence[SetScore]
    hest: Sequence[SetScore]
    verdicts: Sequence[Verdict]
    genes: pd.DataFrame
    panel_share: float | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Return all but the genes as JSON-ready types; NaN becomes None."""
        return {
            "n_spots": self.n_spots,
            "panel_share": self.panel_share,
            "honest": [_plain(dataclasses.asdict(score)) for score in self.honest],
            "hest": [_plain(dataclasses.asdict(score)) for score in self.hest],
            "verdicts": [
                {
                    "model": verdict.model,
                    "rival": verdict.rival,
                    "gene_set": verdict.gene_set,
                    "is_better": verdict.is_better,
                    "difference": verdict.difference.to_mapping(),
                    "sentence": verdict.sentence(),
                }
                for verdict in self.verdicts
            ],
        }

    def gene_table(self) -> pd.DataFrame:
        """Return one row per scored gene, in the order of the section.

        Columns: ``mean_counts`` and ``detected_share`` (over the spots of the section), ``gene_sets`` (joined
        by ``;``), ``morans_i`` of the truth, then ``PREDICTOR.SCORE`` for each predictor and score.
        """
        return self.genes.copy()

    def markdown(self) -> str:
        """Write the boards as Markdown tables, with the verdicts below."""
        parts = [
            f"Honest board: log1p(CP10k), {self.n_spots} spots, mean over genes.",
            _table(self.honest),
        ]
        if self.panel_share is not None:
            parts.insert(
                0,
                f"WARNING: the modelled genes make up {self.panel_share:.1f} times as much of this section's counts as of "
                "the training sections', as if a panel was measured: library sizes are sums over what was measured, so "
                "scores that depend on the level (R², MSE, MAE, NLL, coverage) say little.",
            )
        if self.hest:
            parts += ["HEST board: log1p(raw counts); depth leaks in, so it says less.", _table(self.hest)]
        parts += [verdict.sentence() + "." for verdict in self.verdicts] or ["No verdict: nobody to compare."]
        return "\n\n".join(parts) + "\n"


def _table(scores: Sequence[SetScore]) -> str:
    """Lay out scores as a Markdown table; only columns that somebody has."""
    columns = [name for name in SCORE_HEADINGS if any(name in score.means for score in scores)]
    head = ["genes", "predictor", "n", "undefined", *(SCORE_HEADINGS[name] for name in columns)]
    lines = [head, ["---", "---", *["--:"] * (len(head) - 2)]]
    for score in scores:
        means = [score.means.get(name, math.nan) for name in columns]
        # Adding 0 turns the -0.0 of a rounded score into 0.
        shown = ["–" if math.isnan(mean) else f"{round(mean, 3) + 0.0:.3f}" for mean in means]
        n_scored = score.n_genes - score.n_missing
        n_undefined = score.n_undefined["pearson"]
        lines.append([score.gene_set, score.predictor, str(n_scored), str(n_undefined), *shown])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(value: Any) -> Any:
    """Replace NaN by None, everywhere in a nested mapping."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
