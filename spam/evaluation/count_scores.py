"""Held-out likelihood and interval of raw counts that a predictor states a distribution of."""

import numpy as np
import torch
from scipy.sparse import csr_matrix

from spam.models import Likelihood, count_interval, count_log_prob
from spam.typing import Array, Float64, Num, Shaped

from .predicted import SectionTruth

__all__ = ["score_counts"]


def score_counts(
    truth: SectionTruth,
    genes: Shaped[Array, " n_genes"],
    likelihood: Likelihood,
    *,
    rate: Num[Array, "n_spots n_genes"],
    theta: Num[Array, " n_genes"] | None,
    pi: Num[Array, "n_spots n_genes"] | None,
    levels: tuple[float, float] = (0.05, 0.95),
) -> tuple[Float64[Array, " n_genes"], Float64[Array, "n_spots n_genes"], Float64[Array, "n_spots n_genes"]]:
    """Set a predicted distribution, at each spot's own measured depth, beside the counts.

    Parameters
    ----------
    truth
        What was measured.
    genes
        Names of the predicted genes; all of the truth's are among them.
    likelihood, theta, pi
        Family and its parameters, see `count_interval`.
    rate
        Mean per 10k counts before zero inflation.
    levels
        Quantiles between which the interval lies, one below and one above 0.5.

    Returns
    -------
    Negative log-likelihood per gene in nats, a mean over spots with counts, NaN for genes that were not measured; lower
    and upper end of the interval of raw counts.
    """
    mu = rate * (truth.totals / 1e4)[:, None]
    # The interval of a coverage is equal-tailed; two of them give two tails that differ.
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
    """Negative log-likelihood per gene, a mean over spots with counts; NaN for genes that were not measured."""
    position = {str(gene): i for i, gene in enumerate(genes)}
    columns = [position[str(gene)] for gene in truth.genes]
    rows = truth.totals > 0

    def log(values: Num[Array, "..."]) -> torch.Tensor:
        return torch.from_numpy(np.log(np.asarray(values, dtype=np.float64)))

    # float32 rounds a pi beyond logit 17 to 1, whose logit is infinite: the largest value below 1 stands in for it.
    bounds = (np.finfo(np.float32).tiny, 1.0 - np.finfo(np.float32).epsneg)
    chosen_pi = None if pi is None else np.clip(pi[rows][:, columns].astype(np.float64), *bounds)
    counts = torch.from_numpy(csr_matrix(truth.counts)[rows].toarray())
    log_prob = count_log_prob(
        counts,
        log_mu=log(mu[rows][:, columns]),
        log_theta=None if theta is None else log(theta[columns]),
        zi_logits=None if chosen_pi is None else log(chosen_pi) - log(1.0 - chosen_pi),
    )
    nll = np.full(len(genes), np.nan)
    nll[columns] = -log_prob.mean(0).numpy()
    return nll
