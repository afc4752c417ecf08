"""Score a prediction against the counts in the store: the model and every baseline, and the likelihood of raw counts."""

import dataclasses

import numpy as np
import torch
from scipy.sparse import csr_matrix

from spam.graphs import ensure_spatial_graph
from spam.models import Likelihood, count_interval, count_log_prob
from spam.prediction import Context, PredictedSection, Predictor
from spam.prediction.panel import Bank
from spam.store import StoredSection
from spam.typing import Array, Float64, Num, Shaped

from .boards import BoardReport, PredictedExpression, SectionTruth, score_section

MODEL = "SPAM"
DEPTH_NULL = "depth null"
# A section counts as a panel from this factor on; whole transcriptomes of other patients reach .8 and 1.3 (her2st A and C).
_PANEL = 2.0


def score_predicted(
    section: StoredSection,
    predictor: Predictor,
    predicted: PredictedSection,
    context: Context | None = None,
) -> BoardReport | None:
    """Score the model and its baselines against the section's counts.

    Excludes spots without a prediction, and the spots (or genes) given as `context` (`Context.is_scored_spot`).

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
    genes = np.asarray(predicted.genes)
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
    baselines.append(PredictedExpression(name=DEPTH_NULL, expression=depth, genes=genes, is_reference=True))
    model = _model_prediction(predictor, predicted, truth, genes)
    board = score_section(truth, [model, *baselines], predictor.meta.gene_sets)
    return dataclasses.replace(board, panel_share=_panel_share(predictor, section, counts))


def score_counts(
    truth: SectionTruth,
    genes: Shaped[Array, " n_genes"],
    likelihood: Likelihood,
    *,
    rate: Num[Array, "n_spots n_genes"],
    theta: Num[Array, " n_genes"] | None,
    pi: Num[Array, "n_spots n_genes"] | None,
    levels: tuple[float, float],
) -> tuple[Float64[Array, " n_genes"], Float64[Array, "n_spots n_genes"], Float64[Array, "n_spots n_genes"]]:
    """Evaluate a predicted count distribution at the measured depth of each spot.

    Parameters
    ----------
    truth
        Measurements.
    genes
        Names of the predicted genes; includes all of the truth's.
    likelihood, theta, pi
        Family and its parameters, see `count_interval`.
    rate
        Mean per 10k counts before zero inflation.
    levels
        Quantiles of the interval's ends, one below and one above 0.5.

    Returns
    -------
    Negative log-likelihood per gene in nats, mean over spots with counts, NaN for genes that were not measured; lower and
    upper end of the interval of raw counts.
    """
    mu = rate * (truth.totals / 1e4)[:, None]
    # `count_interval` is equal-tailed; the lower end of one and the upper end of another give unequal tails.
    lower = count_interval(likelihood, mu, theta, pi, 1 - 2 * levels[0])[0]
    upper = count_interval(likelihood, mu, theta, pi, 2 * levels[1] - 1)[1]
    return _nll(truth, genes, likelihood, mu, theta, pi), lower, upper


def _nll(
    truth: SectionTruth,
    genes: Shaped[Array, " n_genes"],
    likelihood: Likelihood,
    mu: Num[Array, "n_spots n_genes"],
    theta: Num[Array, " n_genes"] | None,
    pi: Num[Array, "n_spots n_genes"] | None,
) -> Float64[Array, " n_genes"]:
    position = {str(gene): i for i, gene in enumerate(genes)}
    columns = [position[str(gene)] for gene in truth.genes]
    rows = truth.totals > 0

    def log(values: Num[Array, "..."]) -> torch.Tensor:
        return torch.from_numpy(np.log(np.asarray(values, dtype=np.float64)))

    # float32 rounds a pi beyond logit 17 to 1, whose logit is infinite: use the largest value below 1.
    bounds = (np.finfo(np.float32).tiny, 1.0 - np.finfo(np.float32).epsneg)
    chosen_pi = None if pi is None else np.clip(pi[rows][:, columns].astype(np.float64), *bounds)
    nll = np.full(len(genes), np.nan)
    counts = torch.from_numpy(csr_matrix(truth.counts)[rows].toarray())
    log_prob = count_log_prob(
        counts,
        log_mu=log(mu[rows][:, columns]),
        log_theta=None if theta is None else log(theta[columns]),
        zi_logits=None if chosen_pi is None else log(chosen_pi) - log(1.0 - chosen_pi),
    )
    nll[columns] = -log_prob.mean(0).numpy()
    return nll


def _model_prediction(
    predictor: Predictor, predicted: PredictedSection, truth: SectionTruth, genes: Array
) -> PredictedExpression:
    """Collect the model's expression with likelihood and interval of the raw counts."""
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


def _panel_share(predictor: Predictor, section: StoredSection, counts: csr_matrix) -> float | None:
    """Compute `BoardReport.panel_share`."""
    assert section.genes is not None  # checked by the caller
    n_spots = counts.shape[0]
    whole = Context.gather(
        counts, section.genes, np.arange(n_spots), n_spots=n_spots, modelled=predictor.meta.genes
    )
    if not whole.is_given_spot.any():
        return None
    share = whole.library(Bank.without(predictor.tensors, predictor.bank_section(section.meta.name)))[1]
    return share if share is not None and share >= _PANEL else None
