"""Ground truth of a stored section beside what was predicted for it: the model, and every baseline."""

import dataclasses

import numpy as np
from scipy.sparse import csr_matrix

from spam.graphs import ensure_spatial_graph
from spam.prediction import Context, PredictedSection, Predictor
from spam.prediction.panel import Bank
from spam.store import StoredSection
from spam.typing import Array, Shaped

from .board import score_section
from .board_report import BoardReport
from .count_scores import score_counts
from .predicted import PredictedExpression, SectionTruth

__all__ = ["MODEL", "score_predicted"]

MODEL = "SPAM"
# From this factor on, a section is taken for one of a panel: another patient's tissue comes to .8 and 1.3 (her2st A and C).
_PANEL = 2.0


def score_predicted(
    section: StoredSection,
    predictor: Predictor,
    predicted: PredictedSection,
    context: Context | None = None,
) -> BoardReport | None:
    """Score the model and its baselines against the section's counts.

    Spots that nothing was predicted for are left out, as if they had not been measured; so are the spots, or else the
    genes, that `context` has given (`Context.is_scored_spot`).

    Returns
    -------
    The boards, or None where the section has no counts of any modelled gene, or none that is left to score.
    """
    if section.genes is None:
        return None
    is_scored, scored_genes = predicted.is_predicted, set(predicted.genes)
    if context is not None:
        is_scored = is_scored & context.is_scored_spot
        scored_genes = set(np.asarray(predicted.genes)[context.is_scored_gene].tolist())
    predicted = predicted.of_spots(is_scored)
    counts = section.counts()[is_scored]
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    order = {str(gene): i for i, gene in enumerate(section.genes)}
    measured = [gene for gene in predicted.genes if gene in order and gene in scored_genes]
    if not measured or not totals.any():
        return None
    truth = SectionTruth(
        counts=counts[:, [order[gene] for gene in measured]],
        genes=np.asarray(measured),
        totals=totals,
        weights=ensure_spatial_graph(
            section, k=int(predictor.meta.config["k"]), is_among=is_scored
        ).connectivities,
    )
    genes = np.asarray(predicted.genes)
    model = _with_likelihood(predictor, predicted, truth, genes)
    baselines = []
    for name, expression in predicted.baselines.items():
        raw_genes, raw = predicted.raw_scale_baselines.get(name, (None, None))
        baselines.append(
            PredictedExpression(
                name=name,
                expression=expression,
                genes=genes,
                is_reference=True,
                raw_scale=raw,
                raw_genes=None if raw_genes is None else np.asarray(raw_genes),
            )
        )
    depth = np.broadcast_to(np.log1p(totals)[:, None], predicted.expression.shape)
    baselines.append(PredictedExpression(name="depth null", expression=depth, genes=genes, is_reference=True))
    board = score_section(truth, [model, *baselines], predictor.meta.gene_sets)
    return dataclasses.replace(
        board, panel_share=_panel_share(predictor, section.meta.name, counts, section.genes)
    )


def _panel_share(
    predictor: Predictor, name: str, counts: csr_matrix, genes: Shaped[Array, " n_genes"]
) -> float | None:
    """Compute `BoardReport.panel_share`."""
    n_spots = counts.shape[0]
    whole = Context.gather(counts, genes, np.arange(n_spots), n_spots=n_spots, modelled=predictor.meta.genes)
    if not whole.is_given_spot.any():
        return None
    share = whole.library(Bank.without(predictor.tensors, predictor.bank_section(name)))[1]
    return share if share is not None and share >= _PANEL else None


def _with_likelihood(
    predictor: Predictor, predicted: PredictedSection, truth: SectionTruth, genes: Array
) -> PredictedExpression:
    """Add held-out likelihood and interval of the raw counts, at each spot's own measured depth."""
    likelihood = predictor.meta.settings["likelihood"]
    level = predictor.interval_level(predicted.coverage)
    nll, lower, upper = score_counts(
        truth,
        genes,
        likelihood,
        rate=predicted.mu * (1e4 / predicted.depth),
        theta=None if likelihood == "poisson" else predicted.theta,
        pi=predicted.pi if likelihood == "zinb" else None,
        levels=((1 - level) / 2, (1 + level) / 2),
    )
    return PredictedExpression(
        name=MODEL,
        expression=predicted.expression,
        genes=genes,
        is_reference=False,
        nll=nll,
        lower=lower,
        upper=upper,
    )
