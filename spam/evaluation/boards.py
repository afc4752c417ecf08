"""Score a model and its baselines side by side on one section: the honest board and the HEST board."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from spam.models import Likelihood, count_interval, count_log_prob
from spam.models.expression import CountMatrix, log1p_cp10k, morans_i
from spam.reports.score_tables import (
    HEADLINE_SET,
    HEST_SET,
    NO_LEVEL,
    RIVAL,
    board_table,
    markdown_table,
    short_rows,
)
from spam.training.genes import GeneChoice
from spam.typing import Array, Float, Float64, Int64, Num, Shaped

from . import metrics
from .metrics import Interval, bootstrap_mean

UnitKind = Literal["donors", "sections", "blocks", "genes"]

SCOPES: dict[UnitKind, str] = {
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
        Unique names (n_genes,), all of them among the predicted genes.
    totals
        Library size of each spot (n_spots,) over all genes of the section.
    weights
        Spatial graph (n_spots, n_spots) for Moran's I.
    """

    counts: CountMatrix
    genes: Shaped[Array, " _"]
    totals: Num[Array, " _"]
    weights: sparse.csr_matrix | sparse.csr_array


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CountPrediction:
    """A distribution of raw counts; it is scored at the measured depth of each spot.

    Attributes
    ----------
    likelihood
        Family.
    rate
        Mean per 10k counts before zero inflation, (n_spots, n_genes).
    theta
        Inverse dispersion (n_genes,); not used by a Poisson.
    pi
        Probability of an excess zero (n_spots, n_genes); used by a ZINB only.
    lower, upper
        Predictive interval of the raw counts as quantile levels that are calibrated on the method's own training folds,
        e.g. ``(0.04, 0.97)`` for 90 %.
    """

    likelihood: Likelihood
    rate: Float[Array, "n_spots n_genes"]
    theta: Float[Array, " n_genes"] | None = None
    pi: Float[Array, "n_spots n_genes"] | None = None
    lower: float = 0.05
    upper: float = 0.95


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MethodPrediction:
    """Prediction of one section.

    Attributes
    ----------
    expression
        Predicted log1p(CP10k), (n_spots, n_genes). Offset and scale of a gene do not affect correlations, but errors.
    counts
        Distribution of the raw counts, or None.
    raw_scale
        Prediction of log1p(raw counts) of the genes of ``hest-50``, in their order, by a variant fitted to that target, or
        None. Then the HEST board scores `expression`, which ignores depth and so is at a disadvantage.
    """

    expression: Float[Array, "n_spots n_genes"]
    counts: CountPrediction | None = None
    raw_scale: Float[Array, "n_spots n_hest"] | None = None


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
        scope = _FEW_DONORS if self.unit == "donors" and d.n_units < _FEW else SCOPES[self.unit]
        return f"{self.method} {verb} {self.other} on {what}: {d.mean:+.3f} ({interval}{scope})"

    def to_mapping(self) -> dict[str, Any]:
        """Return the values with the sentence."""
        return {**dataclasses.asdict(self), "is_better": self.is_better, "sentence": self.sentence()}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoardReport:
    """Both boards of one section.

    Attributes
    ----------
    n_spots
        Spots with counts, which the honest board scores.
    scores
        Scores of each method on each gene set, see `score_set`; the set ``hest-50`` is the HEST board.
    verdict
        The model compared with the tuned ridge, gene by gene; None without both.
    genes
        One row per scored gene, in the order of the section. Columns: ``mean_counts`` and ``detected_share`` (over the spots
        of the section), ``gene_sets`` (joined by ``;``), ``morans_i`` of the truth, then ``METHOD.SCORE`` for each method and
        score.
    panel_share
        Fraction of the section's counts in the modelled genes relative to the training sections, if it is so large that the
        section must be a panel; else None.
    no_verdict
        Why there is no verdict.
    n_drawn_from
        Spots of which `n_spots` were drawn at random, if not all are scored.
    """

    n_spots: int
    scores: pd.DataFrame
    verdict: PairedDifference | None
    genes: pd.DataFrame
    panel_share: float | None = None
    no_verdict: str = "no model and rival to compare"
    n_drawn_from: int | None = None

    def without_verdict(self, reason: str) -> "BoardReport":
        """Withhold a verdict that would mislead."""
        return dataclasses.replace(self, verdict=None, no_verdict=reason)

    def to_mapping(self) -> dict[str, Any]:
        """Return everything except the genes as JSON-ready types; NaN becomes None."""
        values = {name: getattr(self, name) for name in ("n_spots", "n_drawn_from", "panel_share", "scores")}
        verdict = None if self.verdict is None else self.verdict.to_mapping()
        no_verdict = self.no_verdict if verdict is None else None
        mapping: dict[str, Any] = json_ready({**values, "verdict": verdict, "no_verdict": no_verdict})
        return mapping

    def headline(self, method: str, score: str) -> float:
        """Return a score of a method on the headline genes; NaN if it has none."""
        s = self.scores
        rows = s[(s["method"] == method) & (s["gene_set"] == HEADLINE_SET) & (s["score"] == score)]
        return float(rows["value"].iloc[0]) if len(rows) else math.nan

    @property
    def n_headline(self) -> int:
        """Number of headline genes that were measured and scored."""
        n_genes = self.scores.loc[self.scores["gene_set"] == HEADLINE_SET, "n_genes"]
        return int(n_genes.max()) if len(n_genes) else 0

    def short_table(self, model: str) -> str:
        """Write the model, the tuned ridge and the best other method as a Markdown table; all scores are in `markdown`."""
        return markdown_table(*short_rows(self.scores, model))

    def verdict_sentence(self) -> str:
        """Compare the model with the tuned ridge, or say why that would mislead."""
        return f"No verdict: {self.no_verdict}." if self.verdict is None else f"{self.verdict.sentence()}."

    def comparison(self) -> str:
        """Shorten `verdict_sentence` for a reader who does not know the gene sets."""
        if self.verdict is None or self.verdict.difference.n_units < 2:
            return self.verdict_sentence()
        d = self.verdict.difference
        verb = "is better than" if self.verdict.is_better else "is not better than"
        interval = f"95% interval {d.lower:+.3f} to {d.upper:+.3f}"
        return (
            f"{self.verdict.method} {verb} the {self.verdict.other} (difference {d.mean:+.3f}, {interval})."
        )

    def warnings(self) -> list[str]:
        """Say that a sample is scored, and warn of a section that was measured with a panel of genes."""
        lines = []
        if self.n_drawn_from is not None:
            lines.append(
                f"{self.n_spots} spots, drawn at random from {self.n_drawn_from}, are scored; Moran's I is that of this sample"
            )
        if self.panel_share is None:
            return lines
        return [
            *lines,
            f"WARNING: the modelled genes have {self.panel_share:.1f} times their share of the training counts, as in a "
            "panel. Scores that depend on the level (R², MSE, MAE, NLL, coverage) are not meaningful.",
        ]

    def markdown(self) -> str:
        """Write the boards as Markdown tables, followed by the verdict."""
        is_hest = self.scores["gene_set"] == HEST_SET
        parts = [
            *self.warnings(),
            f"Honest board: log1p(CP10k), {self.n_spots} spots, mean over genes. {NO_LEVEL}",
            board_table(self.scores[~is_hest]),
            "HEST board: log1p(raw counts); includes depth.",
            board_table(self.scores[is_hest]),
            self.verdict_sentence(),
        ]
        return "\n\n".join(parts) + "\n"


def score_section(
    truth: SectionTruth, predictions: Mapping[str, MethodPrediction], genes: GeneChoice, *, model: str
) -> BoardReport:
    """Score every method on every gene set of a section.

    Honest board: log1p(CP10k), each score per gene over the spots with counts, averaged over the genes of a set. HEST board:
    see `score_hest`. The verdict compares the model with ``tuned ridge`` on ``HVG-50``, gene by gene.

    Parameters
    ----------
    truth
        Measurements.
    predictions
        Model and baselines by name, for the spots of `truth`.
    genes
        Predicted genes and the gene sets, chosen on training sections.
    model
        Name of the model.
    """
    tables = {name: score_genes(truth, p, genes) for name, p in predictions.items()}
    hest = {name: score_hest([truth], [p], genes) for name, p in predictions.items()}
    scores = [
        score_set(table, gene_set, members, method=name)
        for gene_set, members in genes.sets.items()
        for name, table in (hest if gene_set == HEST_SET else tables).items()
    ]
    verdict = None
    if RIVAL in tables:
        difference = tables[model]["pearson"] - tables[RIVAL]["pearson"]
        values = difference[difference.index.isin(genes.sets[HEADLINE_SET])].to_numpy()
        verdict = PairedDifference(
            method=model,
            other=RIVAL,
            gene_set=HEADLINE_SET,
            score="pearson",
            difference=bootstrap_mean(values),
            unit="genes",
        )
    return BoardReport(
        n_spots=int((truth.totals > 0).sum()),
        scores=pd.concat(scores, ignore_index=True),
        verdict=verdict,
        genes=_join(truth, tables, genes.sets),
    )


def score_genes(truth: SectionTruth, prediction: MethodPrediction, genes: GeneChoice) -> pd.DataFrame:
    """Compute all scores of the honest board, one row per measured gene, over the spots with counts.

    Moran's I of the truth (``true_morans_i``) and of the prediction are columns, too.
    """
    rows = np.flatnonzero(truth.totals > 0)  # without counts the expression of a spot is unknown, not zero
    columns = pd.Index(genes.genes).get_indexer(truth.genes)
    counts, totals, weights = truth.counts[rows], truth.totals[rows], truth.weights[rows][:, rows]
    expression, predicted = log1p_cp10k(counts, totals), prediction.expression[rows][:, columns]
    scores = {name: getattr(metrics, name)(expression, predicted) for name in _PER_GENE}
    scores |= {"morans_i": morans_i(predicted, weights), "true_morans_i": morans_i(expression, weights)}
    if prediction.counts is not None:
        dense = counts if isinstance(counts, np.ndarray) else counts.toarray()
        scores |= _score_counts(dense, totals, prediction.counts, rows, columns)
    return pd.DataFrame(scores, index=pd.Index(truth.genes, name="gene"))


def _score_counts(
    counts: Num[Array, "n m"],
    totals: Num[Array, " n"],
    predicted: CountPrediction,
    rows: Int64[Array, " n"],
    columns: Int64[Array, " m"],
) -> dict[str, Float64[Array, " m"]]:
    """Mean negative log-likelihood of each gene's counts in nats, and the share of counts within the interval.

    `rows` and `columns` of the prediction are those of `counts`; `totals` are the measured library sizes.
    """
    likelihood, theta, pi = predicted.likelihood, None, None
    mu = predicted.rate[rows][:, columns] * (totals / 1e4)[:, None]
    if predicted.theta is not None and likelihood != "poisson":
        theta = predicted.theta[columns]
    if predicted.pi is not None and likelihood == "zinb":
        pi = predicted.pi[rows][:, columns]
    # `count_interval` is equal-tailed; the lower end of one and the upper end of another give unequal tails.
    lower = count_interval(likelihood, mu, theta, pi, 1 - 2 * predicted.lower)[0]
    upper = count_interval(likelihood, mu, theta, pi, 2 * predicted.upper - 1)[1]

    def log(values: Num[Array, "..."]) -> torch.Tensor:
        return torch.from_numpy(np.log(np.asarray(values, dtype=np.float64)))

    # float32 rounds a pi beyond logit 17 to 1, whose logit is infinite: use the largest value below 1.
    bounds = (np.finfo(np.float32).tiny, 1.0 - np.finfo(np.float32).epsneg)
    excess = None if pi is None else np.clip(pi.astype(np.float64), *bounds)
    log_prob = count_log_prob(
        torch.from_numpy(counts),
        log_mu=log(mu),
        log_theta=None if theta is None else log(theta),
        zi_logits=None if excess is None else log(excess) - log(1.0 - excess),
    )
    return {"nll": -log_prob.mean(0).numpy(), "coverage": metrics.coverage(counts, lower, upper)}


def score_hest(
    truths: Sequence[SectionTruth], predictions: Sequence[MethodPrediction], genes: GeneChoice
) -> pd.DataFrame:
    """Correlate with log1p of the raw counts over the pooled spots of some sections: the HEST board.

    One row per gene of ``hest-50`` that all sections have measured.
    """
    members = genes.sets[HEST_SET]
    shared = [gene for gene in members if all(gene in truth.genes for truth in truths)]
    counts = [truth.counts[:, pd.Index(truth.genes).get_indexer(shared)] for truth in truths]
    raw = [p.raw_scale for p in predictions if p.raw_scale is not None]
    is_raw = len(raw) == len(predictions)
    predicted = np.concatenate(raw if is_raw else [p.expression for p in predictions])
    columns = pd.Index(members if is_raw else genes.genes).get_indexer(shared)
    target = np.log1p(np.concatenate([c if isinstance(c, np.ndarray) else c.toarray() for c in counts]))
    return pd.DataFrame({"pearson": metrics.pearson(target, predicted[:, columns])}, index=shared)


def score_set(table: pd.DataFrame, gene_set: str, members: Sequence[str], *, method: str) -> pd.DataFrame:
    """Average the scores of genes over a gene set: one row per score.

    Columns: ``method``, ``gene_set``, ``score``; ``value``, the mean over the genes with a defined score (NaN if none has
    one); ``n_genes`` and ``n_missing``, scored genes and those that the section lacks; ``n_undefined``, genes without this
    score, which are excluded from its mean. The score ``moran_correlation`` is Pearson's over the genes' Moran's I.
    """
    own = table[table.index.isin(members)]
    each = own[[name for name in own if "morans_i" not in name]]
    scores = dict(zip(each, zip(each.mean(), each.isna().sum(), strict=True), strict=True))
    if "morans_i" in own:
        maps = (own[name].to_numpy() for name in ("true_morans_i", "morans_i"))
        scores["moran_correlation"] = metrics.correlate_genes(*maps), 0
    rows = pd.DataFrame.from_dict(scores, orient="index", columns=["value", "n_undefined"])
    rows = rows.rename_axis("score").reset_index()
    sizes = {"n_genes": len(own), "n_missing": len(members) - len(own)}
    return rows.assign(method=method, gene_set=gene_set, **sizes)


def json_ready(value: Any) -> Any:
    """Convert records, tables, mappings, sequences and NumPy scalars to JSON types, recursively; NaN becomes None."""
    if isinstance(value, pd.DataFrame):
        value = value.to_dict("records")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _join(
    truth: SectionTruth, tables: Mapping[str, pd.DataFrame], gene_sets: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Put the scores of all methods side by side, one row per gene."""
    genes = pd.Index(truth.genes, name="gene")
    facts = {
        "mean_counts": np.asarray(truth.counts.mean(axis=0)).ravel(),
        "detected_share": np.asarray((truth.counts > 0).mean(axis=0)).ravel(),
        "gene_sets": [";".join(name for name, members in gene_sets.items() if g in members) for g in genes],
        "morans_i": next(iter(tables.values()))["true_morans_i"],
    }
    parts = [table.drop(columns="true_morans_i").add_prefix(f"{name}.") for name, table in tables.items()]
    return pd.concat([pd.DataFrame(facts, index=genes), *parts], axis=1)
