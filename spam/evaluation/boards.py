"""Score a model and its baselines side by side on one section: the honest board and the HEST board."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from spam.errors import SectionError
from spam.models.expression import CountMatrix, log1p_cp10k, morans_i
from spam.typing import Array, Num, Shaped

from . import metrics
from .metrics import Interval, bootstrap_mean

HEADLINE_SET = "HVG-50"
HEST_SET = "hest-50"
RIVAL = "tuned ridge"
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

UnitKind = Literal["donors", "sections", "blocks", "genes"]

_SCOPES: dict[UnitKind, str] = {
    "donors": "",
    "sections": "; not over donors: no evidence for other donors",
    "blocks": "; one section: no evidence for other sections or donors",
    "genes": "; one section: no evidence for other sections or donors",
}
_FEW = 6  # with fewer units, all may be better by chance with a probability above .05 (two-sided)
_FEW_DONORS = "; too few donors to generalise"
_LOWER_IS_BETTER = ("nll", "mse", "mae")
_PER_GENE = ("pearson", "spearman", "r2", "mse", "mae", "ssim", "auc")  # functions of `metrics`


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SectionTruth:
    """Measurements of one section.

    Attributes
    ----------
    counts
        Raw counts (n_spots, n_genes).
    genes
        Unique names (n_genes,).
    totals
        Library size of each spot (n_spots,) over all genes of the section.
    weights
        Spatial graph (n_spots, n_spots) for Moran's I, or None to skip it.
    """

    counts: CountMatrix
    genes: Shaped[Array, " _"]
    totals: Num[Array, " _"]
    weights: sparse.csr_matrix | sparse.csr_array | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictedExpression:
    """Output of one predictor for the spots of a section.

    Attributes
    ----------
    name
        Name of the predictor in the tables.
    expression
        Predicted log1p(CP10k), (n_spots, n_genes).
    genes
        Unique names (n_genes,); genes that the section has not measured are not scored.
    is_reference
        True for a baseline; False for a model, which gets a verdict.
    nll
        Negative log-likelihood of the true counts in nats, mean over spots (n_genes,), or None.
    lower, upper
        Predictive interval of the raw counts, (n_spots, n_genes), or None.
    raw_scale, raw_genes
        Prediction of log1p(raw counts) by a variant trained on that target, for the HEST board, and its genes (default:
        `genes`). Otherwise the HEST board scores `expression`, which ignores depth and so is at a disadvantage.
    """

    name: str
    expression: Num[Array, "_ _"]
    genes: Shaped[Array, " _"]
    is_reference: bool
    nll: Num[Array, " _"] | None = None
    lower: Num[Array, "_ _"] | None = None
    upper: Num[Array, "_ _"] | None = None
    raw_scale: Num[Array, "_ _"] | None = None
    raw_genes: Shaped[Array, " _"] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SetScore:
    """Scores of one predictor on one gene set.

    Attributes
    ----------
    predictor, is_reference, gene_set
        Predictor, whether it is a baseline, and the scored genes.
    n_genes, n_missing
        Genes of the set, and how many of them the section or the predictor lacks.
    means
        Mean of each score over the genes with a defined score; NaN if none has one.
    n_undefined
        Genes without each score; they are excluded from its mean.
    """

    predictor: str
    is_reference: bool
    gene_set: str
    n_genes: int
    n_missing: int
    means: Mapping[str, float]
    n_undefined: Mapping[str, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """Score of `method` minus that of `other` on the same data, with an interval over `unit`."""

    method: str
    other: str
    gene_set: str
    score: str
    difference: Interval
    unit: UnitKind

    @property
    def is_better(self) -> bool:
        """True if the whole interval lies on the better side; False without an interval."""
        return self.difference.upper < 0 if self.score in _LOWER_IS_BETTER else self.difference.lower > 0

    def sentence(self) -> str:
        """Summarise in one line, with the scope of the interval."""
        d, what = self.difference, f"{self.gene_set} {self.score}"
        if not d.n_units:
            return f"{self.method} and {self.other} have no {what} in common"
        if d.n_units > 1:
            verb = "beats" if self.is_better else "does not beat"
            interval = f"95% bootstrap over {d.n_units} {self.unit}: {d.lower:+.3f} to {d.upper:+.3f}"
        else:
            verb, interval = "cannot be compared with", f"one {self.unit.removesuffix('s')}, so no interval"
        scope = _FEW_DONORS if self.unit == "donors" and d.n_units < _FEW else _SCOPES[self.unit]
        return f"{self.method} {verb} {self.other} on {what}: {d.mean:+.3f} ({interval}{scope})"


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
        Pearson on log1p(raw counts), as in the HEST benchmark; depth contributes to it.
    verdicts
        One per model; empty if the rival is not among the predictions.
    genes
        Scores per gene, see `gene_table`.
    panel_share
        Fraction of the section's counts in the modelled genes relative to the training sections, if it is so large that the
        section must be a panel; else None.
    """

    n_spots: int
    honest: Sequence[SetScore]
    hest: Sequence[SetScore]
    verdicts: Sequence[PairedDifference]
    genes: pd.DataFrame
    panel_share: float | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Return everything except the genes as JSON-ready types; NaN becomes None."""
        values: dict[str, Any] = json_ready(
            {
                "n_spots": self.n_spots,
                "panel_share": self.panel_share,
                "honest": self.honest,
                "hest": self.hest,
                "verdicts": [
                    {**dataclasses.asdict(v), "is_better": v.is_better, "sentence": v.sentence()}
                    for v in self.verdicts
                ],
            }
        )
        return values

    def gene_table(self) -> pd.DataFrame:
        """Return one row per scored gene, in the order of the section.

        Columns: ``mean_counts`` and ``detected_share`` (over the spots of the section), ``gene_sets`` (joined by ``;``),
        ``morans_i`` of the truth, then ``PREDICTOR.SCORE`` for each predictor and score.
        """
        return self.genes.copy()

    def markdown(self) -> str:
        """Write the boards as Markdown tables, followed by the verdicts."""
        parts = []
        if self.panel_share is not None:
            parts.append(
                f"WARNING: the modelled genes make up {self.panel_share:.1f} times as much of this section's counts as of "
                "the training sections', as in a panel. Library sizes are then too small, and scores that depend on the "
                "level (R², MSE, MAE, NLL, coverage) are not meaningful."
            )
        parts += [
            f"Honest board: log1p(CP10k), {self.n_spots} spots, mean over genes.",
            _board_table(self.honest),
        ]
        if self.hest:
            parts += ["HEST board: log1p(raw counts); includes depth.", _board_table(self.hest)]
        parts += [verdict.sentence() + "." for verdict in self.verdicts] or [
            "No verdict: no model and rival to compare."
        ]
        return "\n\n".join(parts) + "\n"


def score_section(
    truth: SectionTruth,
    predictions: Sequence[PredictedExpression],
    gene_sets: Mapping[str, Sequence[str]],
    *,
    seed: int = 0,
) -> BoardReport:
    """Score every predictor on every gene set of a section.

    Honest board: log1p(CP10k), each score per gene over the spots with counts, averaged over the genes of a set. HEST board,
    for the gene set ``hest-50`` if given: Pearson on log1p(raw counts). The verdict compares each model with the predictor
    named ``tuned ridge`` on ``HVG-50``, gene by gene. The spots of all predictions are in the order of the truth.

    Parameters
    ----------
    truth
        Measurements.
    predictions
        Models and baselines, with unique names.
    gene_sets
        Names of the genes of each set, chosen on training sections.
    seed
        Seed of the bootstrap.

    Raises
    ------
    SectionError
        If a prediction has another shape than (spots of the section, its genes), values that are not finite, or no gene of
        the section.
    """
    _check(truth, predictions)
    tables = {predicted.name: _score_genes(truth, predicted) for predicted in predictions}
    return BoardReport(
        n_spots=int((truth.totals > 0).sum()),
        honest=[
            _score_set(predicted, tables[predicted.name], name, members)
            for name, members in gene_sets.items()
            if name != HEST_SET
            for predicted in predictions
        ],
        hest=[_score_hest(truth, p, gene_sets[HEST_SET]) for p in predictions]
        if HEST_SET in gene_sets
        else [],
        verdicts=_judge(predictions, tables, gene_sets.get(HEADLINE_SET, ()), seed=seed),
        genes=_join(truth, tables, gene_sets),
    )


def json_ready(value: Any) -> Any:
    """Convert records, mappings, sequences and NumPy scalars to JSON types, recursively; NaN and infinity become None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shown(value: float, sign: str = "", *, digits: int = 3) -> str:
    """Format a score, with a dash for NaN; adding 0 turns a rounded -0.0 into 0."""
    return "–" if math.isnan(value) else f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table with the first column left-aligned."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '¦') for cell in line)} |" for line in lines)


def _check(truth: SectionTruth, predictions: Sequence[PredictedExpression]) -> None:
    """Raise one error that lists every prediction that cannot be scored."""
    faults = []
    for p in predictions:
        raw_genes = p.genes if p.raw_genes is None else p.raw_genes
        for what, values, n_genes in (
            ("expression", p.expression, len(p.genes)),
            ("raw_scale", p.raw_scale, len(raw_genes)),
        ):
            if values is None:
                continue
            shape = (len(truth.totals), n_genes)
            if values.shape != shape:
                faults.append(f"{what} of {p.name!r} has shape {values.shape}, expected {shape}")
            elif n_bad := int((~np.isfinite(values)).sum()):
                faults.append(
                    f"{what} of {p.name!r} has {n_bad} of {values.size} values that are NaN or infinite"
                )
        if set(truth.genes).isdisjoint(p.genes):
            faults.append(
                f"{p.name!r} predicts genes such as {p.genes[0]!s}, the section has genes such as {truth.genes[0]!s}: use "
                "the same gene names (symbols or Ensembl ids) in training and test sections"
            )
    if faults:
        message = f"Predictions cannot be scored: {'; '.join(faults)}."
        raise SectionError(message)


def _columns_of(genes: Shaped[Array, " n"], wanted: Shaped[Array, " m"]) -> tuple[Array, Array]:
    """Positions in `wanted` that occur in `genes` (ascending), and their positions in `genes`."""
    position = pd.Index(genes).get_indexer(wanted)
    found = np.flatnonzero(position >= 0)
    return found, position[found]


def _score_genes(truth: SectionTruth, predicted: PredictedExpression) -> pd.DataFrame:
    """Compute all scores of one predictor, one row per gene shared with the section."""
    columns, kept = _columns_of(predicted.genes, truth.genes)
    rows = np.flatnonzero(truth.totals > 0)  # without counts the expression of a spot is unknown, not zero
    counts = truth.counts[rows][:, columns]
    expression, prediction = log1p_cp10k(counts, truth.totals[rows]), predicted.expression[rows][:, kept]
    scores = {name: getattr(metrics, name)(expression, prediction) for name in _PER_GENE}
    if truth.weights is not None:
        weights = truth.weights[rows][:, rows]
        scores["morans_i"] = morans_i(prediction, weights)
        scores["true_morans_i"] = morans_i(expression, weights)
    if predicted.nll is not None:
        scores["nll"] = predicted.nll[kept]
    if predicted.lower is not None and predicted.upper is not None:
        lower, upper = predicted.lower[rows][:, kept], predicted.upper[rows][:, kept]
        scores["coverage"] = metrics.coverage(counts, lower, upper)
    return pd.DataFrame(scores, index=pd.Index(truth.genes[columns], name="gene"))


def _score_set(
    predicted: PredictedExpression, table: pd.DataFrame, gene_set: str, members: Sequence[str]
) -> SetScore:
    """Average the scores of one predictor over one gene set."""
    table = table[table.index.isin(members)]
    scores = table.drop(columns=["morans_i", "true_morans_i"], errors="ignore")
    means = {str(name): float(scores[name].mean()) for name in scores}
    if "morans_i" in table:
        means["moran_correlation"] = metrics.correlate_genes(
            table["true_morans_i"].to_numpy(), table["morans_i"].to_numpy()
        )
    return SetScore(
        predictor=predicted.name,
        is_reference=predicted.is_reference,
        gene_set=gene_set,
        n_genes=len(members),
        n_missing=len(members) - len(table),
        means=means,
        n_undefined={str(name): int(scores[name].isna().sum()) for name in scores},
    )


def _score_hest(truth: SectionTruth, predicted: PredictedExpression, members: Sequence[str]) -> SetScore:
    """Correlate with log1p of the raw counts, on the genes of the HEST board."""
    prediction, genes = predicted.expression, predicted.genes
    if predicted.raw_scale is not None:
        prediction = predicted.raw_scale
        genes = predicted.genes if predicted.raw_genes is None else predicted.raw_genes
    columns, kept = _columns_of(genes, truth.genes)
    is_member = np.isin(truth.genes[columns].astype(str), np.asarray(members, dtype=str))
    counts = truth.counts[:, columns[is_member]]
    dense = counts if isinstance(counts, np.ndarray) else counts.toarray()
    table = pd.DataFrame(
        {"pearson": metrics.pearson(np.log1p(dense), prediction[:, kept[is_member]])},
        index=truth.genes[columns[is_member]],
    )
    return _score_set(predicted, table, HEST_SET, members)


def _judge(
    predictions: Sequence[PredictedExpression],
    tables: Mapping[str, pd.DataFrame],
    members: Sequence[str],
    *,
    seed: int,
) -> list[PairedDifference]:
    """Compare each model with the rival on the headline genes; empty without rival or genes."""
    if RIVAL not in tables or not len(members):
        return []
    verdicts = []
    for predicted in predictions:
        if not predicted.is_reference:
            difference = tables[predicted.name]["pearson"] - tables[RIVAL]["pearson"]  # aligned by gene
            values = difference[difference.index.isin(members)].to_numpy()
            verdicts.append(
                PairedDifference(
                    method=predicted.name,
                    other=RIVAL,
                    gene_set=HEADLINE_SET,
                    score="pearson",
                    difference=bootstrap_mean(values, seed=seed),
                    unit="genes",
                )
            )
    return verdicts


def _join(
    truth: SectionTruth, tables: Mapping[str, pd.DataFrame], gene_sets: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Put the scores of all predictors side by side, one row per gene, in the order of the section."""
    scored = set().union(*(table.index for table in tables.values()))
    columns = np.flatnonzero([gene in scored for gene in truth.genes])
    counts = truth.counts[:, columns]
    genes = pd.Index(truth.genes[columns], name="gene")
    sets = {name: set(members) for name, members in gene_sets.items()}
    facts = {
        "mean_counts": np.asarray(counts.mean(axis=0)).ravel(),
        "detected_share": np.asarray((counts > 0).mean(axis=0)).ravel(),
        "gene_sets": [";".join(name for name, members in sets.items() if gene in members) for gene in genes],
    }
    parts = [pd.DataFrame(facts, index=genes)]
    if truth.weights is not None:
        morans = pd.concat([table["true_morans_i"] for table in tables.values()])
        parts.append(morans[~morans.index.duplicated()].reindex(genes).to_frame("morans_i"))
    parts += [
        table.drop(columns="true_morans_i", errors="ignore").reindex(genes).add_prefix(f"{name}.")
        for name, table in tables.items()
    ]
    return pd.concat(parts, axis=1)


def _board_table(scores: Sequence[SetScore]) -> str:
    """Lay out scores as a Markdown table, with the columns that at least one predictor has."""
    columns = [name for name in SCORE_HEADINGS if any(name in score.means for score in scores)]
    head = ["genes", "predictor", "n", "undefined", *(SCORE_HEADINGS[name] for name in columns)]
    rows = [
        [
            score.gene_set,
            score.predictor,
            str(score.n_genes - score.n_missing),
            str(score.n_undefined["pearson"]),
            *(shown(score.means.get(name, math.nan)) for name in columns),
        ]
        for score in scores
    ]
    return markdown_table(head, rows)
