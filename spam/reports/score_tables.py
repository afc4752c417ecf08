"""Scores of methods as tables of text, in the terminal, in Markdown and in reports."""

import math
from collections.abc import Sequence

import pandas as pd

HEADLINE_SET = "HVG-50"
HEST_SET = "hest-50"
RIVAL = "tuned ridge"
DEPTH_NULL = "depth null"
"""A baseline that is the measured library size: what a score owes to depth alone."""
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
"""Heading of each score; the arrow shows the better direction."""

NO_LEVEL = "Depth null and HEST ridge predict no level: compare their correlations, not R², MSE, MAE, SSIM."
"""What the boards say of these two baselines."""

_WITHOUT_LEVEL = (DEPTH_NULL, "HEST ridge")
_SHORT = ["pearson", "r2", "coverage"]

Rows = tuple[list[str], list[list[str]]]
"""Head and rows of a table of text."""


def shown(value: float, sign: str = "", *, digits: int = 3) -> str:
    """Format a score, with a dash for NaN; adding 0 turns a rounded -0.0 into 0."""
    return "–" if math.isnan(value) else f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table with the first column left-aligned."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '¦') for cell in line)} |" for line in lines)


def board_rows(scores: pd.DataFrame, value: str = "value") -> Rows:
    """Lay out scores (column `value`) with the columns that at least one method has.

    The column of undefined genes counts those without a Pearson correlation.
    """
    columns = [name for name in SCORE_HEADINGS if name in set(scores["score"])]
    rows = []
    for (gene_set, method), own in scores.groupby(["gene_set", "method"], sort=False):
        means = own.set_index("score")
        sizes = [f"{means.loc['pearson', name]:g}" for name in ("n_genes", "n_undefined")]
        rows.append([gene_set, method, *sizes, *map(shown, means[value].reindex(columns))])
    return ["genes", "method", "n", "undefined", *(SCORE_HEADINGS[s] for s in columns)], rows


def board_table(scores: pd.DataFrame, value: str = "value") -> str:
    """Write `board_rows` as a Markdown table."""
    return markdown_table(*board_rows(scores, value))


def short_rows(scores: pd.DataFrame, model: str, value: str = "value") -> Rows:
    """Lay out the scores of a model, the tuned ridge and the best other method on the headline genes.

    The depth null, which is no prediction, is left out; `scores` are as in `score_set`, with the score in column `value`.
    """
    own = scores[scores["gene_set"] == HEADLINE_SET]
    table = own.pivot_table(value, "method", "score", sort=False, dropna=False).reindex(columns=_SHORT)
    others = table["pearson"].drop([model, RIVAL, DEPTH_NULL], errors="ignore").sort_values(ascending=False)
    names = [name for name in dict.fromkeys((model, RIVAL, *others.index[:1])) if name in table.index]
    table.loc[table.index.isin(_WITHOUT_LEVEL), "r2"] = math.nan
    head = [f"{HEADLINE_SET}, mean over genes", *(SCORE_HEADINGS[score] for score in _SHORT)]
    return head, [[name, *map(shown, table.loc[name])] for name in names]
