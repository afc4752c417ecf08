"""Ground truth of a stored section beside what was predicted for it: the model, and every baseline."""

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix

from spam.graphs import ensure_spatial_graph
from spam.models import build_distribution, count_interval
from spam.prediction import PredictedSection, Predictor
from spam.store import StoredSection
from spam.typing import Array, Float64, Num

from .board import score_section
from .board_report import BoardReport
from .predicted import PredictedExpression, SectionTruth

__all__ = ["MODEL", "score_predicted"]

MODEL = "SPAM"


def score_predicted(
    section: StoredSection, predictor: Predictor, predicted: PredictedSection
) -> BoardReport | None:
    """Score the model and its baselines against the section's counts.

    Spots that nothing was predicted for are left out, as if they had not been measured.

    Returns
    -------
    The boards, or None where the section has no counts of any modelled gene.
    """
    if section.genes is None:
        return None
    is_scored = predicted.is_predicted
    predicted = predicted.without_unpredicted()
    counts = section.counts()[is_scored]
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    order = {str(gene): i for i, gene in enumerate(section.genes)}
    measured = [gene for gene in predicted.genes if gene in order]
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
    return score_section(truth, [model, *baselines], predictor.meta.gene_sets)


def _with_likelihood(
    predictor: Predictor, predicted: PredictedSection, truth: SectionTruth, genes: Array
) -> PredictedExpression:
    """Add held-out likelihood and interval of the raw counts, at each spot's own measured depth."""
    likelihood = predictor.meta.settings["likelihood"]
    mu = predicted.mu * (truth.totals / predicted.depth)[:, None]
    theta = None if likelihood == "poisson" else predicted.theta
    pi = predicted.pi if likelihood == "zinb" else None
    lower, upper = count_interval(likelihood, mu, theta, pi, predicted.coverage)
    return PredictedExpression(
        name=MODEL,
        expression=predicted.expression,
        genes=genes,
        is_reference=False,
        nll=_nll(likelihood, mu, theta, pi, truth, genes),
        lower=lower,
        upper=upper,
    )


def _nll(
    likelihood: Any, mu: Array, theta: Array | None, pi: Array | None, truth: SectionTruth, genes: Array
) -> Float64[Array, " n_genes"]:
    """Negative log-likelihood per gene, a mean over spots with counts; NaN for genes that were not measured."""
    position = {str(gene): i for i, gene in enumerate(genes)}
    columns = [position[str(gene)] for gene in truth.genes]
    rows = truth.totals > 0

    def log(values: Num[Array, "..."]) -> torch.Tensor:
        return torch.from_numpy(np.log(np.asarray(values, dtype=np.float64)))

    # float32 rounds a pi beyond logit 17 to 1, whose logit is infinite: the largest value below 1 stands in for it.
    bounds = (np.finfo(np.float32).tiny, 1.0 - np.finfo(np.float32).epsneg)
    chosen_pi = None if pi is None else np.clip(pi[rows][:, columns].astype(np.float64), *bounds)
    distribution = build_distribution(
        likelihood,
        log_mu=log(mu[rows][:, columns]),
        log_theta=None if theta is None else log(theta[columns]),
        zi_logits=None if chosen_pi is None else log(chosen_pi) - log(1.0 - chosen_pi),
    )
    counts = torch.from_numpy(csr_matrix(truth.counts)[rows].toarray())
    nll = np.full(len(genes), np.nan)
    nll[columns] = -distribution.log_prob(counts).mean(0).numpy()
    return nll
