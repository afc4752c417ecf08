"""Score a prediction against the counts in the store: the model and every baseline, and the likelihood of raw counts."""

import dataclasses

import numpy as np
from scipy.sparse import csr_matrix

from spam.graphs import ensure_spatial_graph
from spam.prediction import Context, PredictedSection, Predictor
from spam.prediction.panel import Bank
from spam.reports.score_tables import DEPTH_NULL, HEADLINE_SET
from spam.store import StoredSection
from spam.training.genes import GeneChoice
from spam.training.groups import at_most
from spam.typing import Array

from .boards import BoardReport, CountPrediction, MethodPrediction, SectionTruth, score_section

MODEL = "SPAM"
_MOST_SCORED = 50_000
# A section counts as a panel from this factor on; whole transcriptomes of other patients reach .8 and 1.3 (her2st A and C).
_PANEL = 2.0


def score_predicted(
    section: StoredSection, predictor: Predictor, predicted: PredictedSection, context: Context | None = None
) -> BoardReport | None:
    """Score the model and its baselines against the section's counts.

    Excludes spots without a prediction, and the spots (or genes) given as `context` (`Context.is_scored_spot`). Of more than
    50 000 spots a random sample is scored.

    Returns
    -------
    The boards, or None if the section has no counts of any modelled gene, or none left to score.
    """
    if section.genes is None:
        return None
    is_scored, scored_genes = predicted.is_predicted, set(predicted.genes)
    if context is not None:
        is_scored = is_scored & context.is_scored_spot
        scored_genes = set(np.asarray(predicted.genes)[context.is_scored_gene].tolist())
    n_scorable = int(is_scored.sum())
    if n_scorable > _MOST_SCORED:
        chosen = at_most(np.flatnonzero(is_scored), _MOST_SCORED)
        is_scored = np.isin(np.arange(len(is_scored)), chosen)
    predicted = predicted.of_spots(is_scored)
    counts = section.counts()[is_scored]
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    column = {str(gene): i for i, gene in enumerate(section.genes)}
    measured = [gene for gene in predicted.genes if gene in column and gene in scored_genes]
    if not measured or not totals.any():
        return None
    graph = ensure_spatial_graph(section, k=int(predictor.meta.config["k"]), is_among=is_scored)
    truth = SectionTruth(
        counts=counts[:, [column[gene] for gene in measured]],
        genes=np.asarray(measured),
        totals=totals,
        weights=graph.connectivities,
    )
    distribution = CountPrediction(
        likelihood=predictor.meta.settings["likelihood"],
        rate=predicted.mu * (1e4 / predicted.depth),
        theta=predicted.theta,
        pi=predicted.pi,
        lower=(1 - predicted.level) / 2,
        upper=(1 + predicted.level) / 2,
    )
    predictions = {MODEL: MethodPrediction(expression=predicted.expression, counts=distribution)}
    for name, expression in predicted.baselines.items():
        raw = predicted.raw_scale_baselines.get(name, (None, None))[1]
        predictions[name] = MethodPrediction(expression=expression, raw_scale=raw)
    depth = np.broadcast_to(np.log1p(totals)[:, None], predicted.expression.shape)
    predictions[DEPTH_NULL] = MethodPrediction(expression=depth)
    genes = GeneChoice(genes=tuple(predicted.genes), sets=dict(predictor.meta.gene_sets))
    board = score_section(truth, predictions, genes, model=MODEL)
    board = dataclasses.replace(board, panel_share=_panel_share(predictor, predicted, counts, section.genes))
    if n_scorable > _MOST_SCORED:
        board = dataclasses.replace(board, n_drawn_from=n_scorable)
    reason = _why_no_verdict(predicted, board)
    return board.without_verdict(reason) if reason else board


def _why_no_verdict(predicted: PredictedSection, board: BoardReport) -> str | None:
    """Say why a comparison with the tuned ridge would mislead; None if it would not."""
    headline = board.scores[board.scores["gene_set"] == HEADLINE_SET].iloc[0]
    n_genes, n_missing = int(headline["n_genes"]), int(headline["n_missing"])
    unlike = int(predicted.is_out_of_distribution.sum())
    trained_as = predicted.training_section
    name = "" if trained_as in (None, predicted.section) else f" under the name {trained_as!r}"
    reasons = {
        f"the checkpoint was trained on this section{name}": trained_as is not None,
        f"{unlike} of {len(predicted.ids)} scored spots look unlike the training sections": predicted.is_mostly_unlike,
        f"only {n_genes} of the {n_genes + n_missing} genes of {HEADLINE_SET} are scored": n_missing
        > n_genes,
        "the section was measured with a panel of genes": board.panel_share is not None,
        "SPAM has used the counts of --context-h5ad, the tuned ridge has not": predicted.context is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _panel_share(
    predictor: Predictor, predicted: PredictedSection, counts: csr_matrix, genes: Array
) -> float | None:
    """Compute `BoardReport.panel_share`."""
    n_spots = counts.shape[0]
    whole = Context.gather(counts, genes, np.arange(n_spots), n_spots=n_spots, modelled=predictor.meta.genes)
    if not whole.is_given_spot.any():
        return None
    share = whole.library(
        Bank.without(predictor.tensors, predictor.bank_section(predicted.training_section))
    )[1]
    return share if share is not None and share >= _PANEL else None
