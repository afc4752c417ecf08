"""Score a model and its baselines side by side on one section: the honest board and the HEST board."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from spam.errors import SectionError
from spam.models.expression import log1p_cp10k, morans_i
from spam.typing import Array, Int64, Shaped

from . import metrics
from .board_report import BoardReport, SetScore, Verdict
from .intervals import bootstrap_mean
from .predicted import PredictedExpression, SectionTruth

__all__ = ["HEADLINE_SET", "HEST_SET", "RIVAL", "score_section"]

HEADLINE_SET = "HVG-50"
HEST_SET = "hest-50"
RIVAL = "tuned ridge"

_PER_GENE = {
    "pearson": metrics.pearson,
    "spearman": metrics.spearman,
    "r2": metrics.r2,
    "mse": metrics.mse,
    "mae": metrics.mae,
    "ssim": metrics.ssim,
    "auc": metrics.auc,
}


def score_section(
    truth: SectionTruth,
    predictions: Sequence[PredictedExpression],
    gene_sets: Mapping[str, Sequence[str]],
    *,
    seed: int = 0,
) -> BoardReport:
    """Score every predictor on every gene set of a section.

    Honest board: log1p(CP10k), each score per gene over the spots of this section that have counts, then averaged over the
    genes of a set where it is defined; the others are counted. HEST board, for the set named ``hest-50`` if
    there is one: Pearson on log1p(raw counts). The verdict compares each model with the predictor named
    ``tuned ridge`` on ``HVG-50``, gene by gene. Spots of all predictions are in the order of the truth.

    Parameters
    ----------
    truth
        What was measured.
    predictions
        The models and the baselines; names all different.
    gene_sets
        Names of the genes of each set, chosen on training sections.
    seed
        Seed of the verdict's bootstrap.

    Raises
    ------
    SectionError
        If there is no prediction, two have the same name, or one has another number of spots than the section
        or no gene in common with it.
    """
    _check(truth, predictions)
    tables = {predicted.name: _score_genes(truth, predicted) for predicted in predictions}
    honest = [
        _score_set(truth, predicted, tables[predicted.name], name, members)
        for name, members in gene_sets.items()
        if name != HEST_SET
        for predicted in predictions
    ]
    hest_genes = gene_sets.get(HEST_SET, ())
    return BoardReport(
        n_spots=int((truth.totals > 0).sum()),
        honest=tuple(honest),
        hest=tuple(_score_hest(truth, p, hest_genes) for p in predictions if len(hest_genes)),
        verdicts=_judge(predictions, tables, gene_sets.get(HEADLINE_SET, ()), seed=seed),
        genes=_join(truth, tables, gene_sets),
    )


def _check(truth: SectionTruth, predictions: Sequence[PredictedExpression]) -> None:
    """Raise one error that lists everything that keeps the predictions from being scored."""
    n_spots, known = len(truth.totals), set(truth.genes)
    names = [predicted.name for predicted in predictions]
    faults = [] if predictions else ["there is none"]
    faults += [
        f"{name!r} is given more than once" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    for predicted in predictions:
        if len(predicted.expression) != n_spots:
            faults.append(f"{predicted.name!r} has {len(predicted.expression)} spots, the section {n_spots}")
        if known.isdisjoint(predicted.genes):
            faults.append(
                f"{predicted.name!r} predicts {len(predicted.genes)} genes that the section does not have "
                f"(such as {', '.join(map(repr, map(str, predicted.genes[:3])))}; the section has "
                f"{', '.join(map(repr, map(str, truth.genes[:3])))})"
            )
    if faults:
        message = (
            f"the predictions cannot be scored: {'; '.join(faults)}; predict every spot of the section once, "
            "and name genes alike (symbols or Ensembl ids) in training and test sections"
        )
        raise SectionError(message)


def _shared(
    truth: SectionTruth, genes: Shaped[Array, " n_genes"]
) -> tuple[Int64[Array, " n_shared"], Int64[Array, " n_shared"]]:
    """Find the genes that both have: columns of the truth (ascending) and those of the prediction."""
    position = pd.Index(genes).get_indexer(truth.genes)
    columns = np.flatnonzero(position >= 0)
    return columns, position[columns].astype(np.int64)


def _score_genes(truth: SectionTruth, predicted: PredictedExpression) -> pd.DataFrame:
    """Compute all scores of one predictor, one row per gene that it shares with the section."""
    columns, kept = _shared(truth, predicted.genes)
    # A spot without any count has no expression: it is unknown, not zero.
    rows = np.flatnonzero(truth.totals > 0)
    counts = truth.counts[rows][:, columns]
    expression, prediction = log1p_cp10k(counts, truth.totals[rows]), predicted.expression[rows][:, kept]
    scores = {name: score(expression, prediction) for name, score in _PER_GENE.items()}
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
    truth: SectionTruth,
    predicted: PredictedExpression,
    table: pd.DataFrame,
    gene_set: str,
    members: Sequence[str],
) -> SetScore:
    """Average the scores of one predictor over one gene set."""
    table = table[table.index.isin(members)]
    scores = table.drop(columns=["morans_i", "true_morans_i"], errors="ignore")
    means = {str(name): float(scores[name].mean()) for name in scores}
    if truth.weights is not None:
        means["moran_correlation"] = metrics.correlate_genes(
            table["true_morans_i"].to_numpy(), table["morans_i"].to_numpy()
        )
    return SetScore(
        predictor=predicted.name,
        is_reference=predicted.is_reference,
        gene_set=gene_set,
        scale="log1p(CP10k)",
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
    columns, kept = _shared(truth, genes)
    is_member = np.isin(truth.genes[columns].astype(str), np.asarray(members, dtype=str))
    counts = truth.counts[:, columns[is_member]]
    dense = counts if isinstance(counts, np.ndarray) else counts.toarray()
    r = pd.Series(metrics.pearson(np.log1p(dense), prediction[:, kept[is_member]]))
    return SetScore(
        predictor=predicted.name,
        is_reference=predicted.is_reference,
        gene_set=HEST_SET,
        scale="log1p(CP10k)" if predicted.raw_scale is None else "log1p(raw)",
        n_genes=len(members),
        n_missing=len(members) - len(r),
        means={"pearson": float(r.mean())},
        n_undefined={"pearson": int(r.isna().sum())},
    )


def _judge(
    predictions: Sequence[PredictedExpression],
    tables: Mapping[str, pd.DataFrame],
    members: Sequence[str],
    *,
    seed: int,
) -> tuple[Verdict, ...]:
    """Compare each model with the rival on the headline genes; nothing without either."""
    if RIVAL not in tables or not len(members):
        return ()
    rival = tables[RIVAL]["pearson"]
    verdicts = []
    for predicted in predictions:
        if predicted.is_reference:
            continue
        difference = tables[predicted.name]["pearson"] - rival  # by gene name; NaN where one has it not
        values = difference[difference.index.isin(members)].to_numpy()
        interval = bootstrap_mean(values, seed=seed)
        verdicts.append(
            Verdict(model=predicted.name, rival=RIVAL, gene_set=HEADLINE_SET, difference=interval)
        )
    return tuple(verdicts)


def _join(
    truth: SectionTruth, tables: Mapping[str, pd.DataFrame], gene_sets: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Put the scores of all predictors side by side, one row per gene, in the order of the section."""
    is_scored = np.isin(
        truth.genes.astype(str), np.concatenate([t.index.astype(str) for t in tables.values()])
    )
    columns = np.flatnonzero(is_scored)
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
        rows = np.flatnonzero(truth.totals > 0)
        moran = morans_i(log1p_cp10k(counts[rows], truth.totals[rows]), truth.weights[rows][:, rows])
        parts.append(pd.DataFrame({"morans_i": moran}, index=genes))
    for name, table in tables.items():
        own = table.drop(columns="true_morans_i", errors="ignore").reindex(genes)
        parts.append(own.add_prefix(f"{name}."))
    return pd.concat(parts, axis=1)
