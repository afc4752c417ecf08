"""From a measured gene panel to the other genes, by their correlations in the reference bank of training spots."""

import dataclasses

import numpy as np

from spam.errors import ConfigError
from spam.models.linear import choose_alpha, fit_ridge
from spam.models.rate_path import ALPHAS, choose_penalty, group_means, per_10k
from spam.typing import Array, Float, Float64, Int64, Num

_PENALTIES = (1.0, 3.0, *ALPHAS)
_N_RUNS = 5  # a single section of the bank is cut into as many runs of spots


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bank:
    """Reference spots of other sections than the target; empty if the checkpoint was trained without ``--with-bank``.

    Attributes
    ----------
    inputs
        Image inputs, (m, q).
    expression
        Measured log1p(CP10k), with the section mean replaced by the mean over the training sections, (m, n_genes).
    group
        Section of each spot; runs of spots if there is only one section.
    gene_mean
        Mean over the training sections, (n_genes,).
    per_10k
        Mean counts per 10k over these spots, or over all training spots if the checkpoint has no bank, (n_genes,).
    """

    inputs: Float[Array, "m q"]
    expression: Float64[Array, "m n_genes"]
    group: Int64[Array, " m"]
    gene_mean: Float64[Array, " n_genes"]
    per_10k: Float64[Array, " n_genes"]

    @classmethod
    def without(cls, tensors: dict[str, Array], own: int) -> "Bank":
        """Take the spots of a checkpoint's bank that are not of section number `own`."""
        mean = tensors["path.gene_mean"].astype(np.float64)
        if "bank.section" not in tensors:
            nothing, group = np.zeros((0, len(mean))), np.zeros(0, dtype=np.int64)
            level = tensors["cohort.per_10k"]
            return cls(inputs=nothing, expression=nothing, group=group, gene_mean=mean, per_10k=level)
        rows = np.flatnonzero(tensors["bank.section"] != own)
        group = tensors["bank.section"][rows].astype(np.int64)
        if len(np.unique(group)) == 1:
            group = np.arange(len(rows)) * _N_RUNS // len(rows)
        inputs = tensors["bank.inputs"][rows]
        expression = tensors["bank.expression"][rows].astype(np.float64) + mean
        level = per_10k(expression).mean(axis=0) if len(rows) else np.full(len(mean), np.nan)
        return cls(inputs=inputs, expression=expression, group=group, gene_mean=mean, per_10k=level)

    def panel_sum(self, genes: Int64[Array, " p"]) -> float:
        """Mean counts per 10k of these genes together; NaN if the bank holds the target section alone."""
        return float(self.per_10k[genes].sum())

    def check(self) -> None:
        """Refuse a gene panel as context if the bank is empty.

        Raises
        ------
        ConfigError
            With the command that trains a checkpoint with a bank.
        """
        if not len(self.group):
            message = (
                "A gene panel as context (--context-h5ad) needs training spots of other sections, and the checkpoint holds "
                "none. Train on other sections with `spam finetune --with-bank`, or give all genes of the measured spots."
            )
            raise ConfigError(message)


def normalised_panel(counts: Num[Array, "n p"], panel_sum: float) -> Float64[Array, "n p"]:
    """Log1p of counts per 10k for unknown library sizes, assuming that the panel sums to `panel_sum` in each spot.

    The panel's share of a spot's library cannot be known from the panel; its mean over the bank stands in. The bank is
    normalised in the same way, so the regression fitted there applies.
    """
    totals = counts.sum(axis=1, keepdims=True)
    log: Array = np.log1p(counts * (panel_sum / np.where(totals > 0, totals, 1.0)))
    return log


def predict_from_panel(
    panel: Float[Array, "n p"],
    predicted: Float[Array, "n n_others"],
    bank: Bank,
    genes: Int64[Array, " p"],
    *,
    is_normalised: bool,
) -> tuple[Float64[Array, "n n_others"], Float64[Array, "n n_others"], tuple[float, float]]:
    """Predict the unmeasured genes from the measured ones and from the image prediction.

    The pattern of a gene (expression minus section mean) is a weighted sum of two predictors: the image prediction, and a
    ridge on the panel fitted on the bank. The two weights, shared by all genes, are least squares on bank spots left out
    of both fits; there a ridge on image inputs stands in for the network, which was trained on all of them. As the
    network is better than that ridge, its weight is conservative. Stacking: Wolpert, Neural Networks 5:241 (1992), doi
    10.1016/S0893-6080(05)80023-1.

    Parameters
    ----------
    panel
        Measured log1p(CP10k) of the panel, spots of one section.
    predicted
        Image prediction of the other genes, log1p(CP10k); it also gives their mean.
    bank
        Spots of other sections.
    genes
        Panel as columns of the bank.
    is_normalised
        True if `panel` comes from `normalised_panel`, False if library sizes are known.

    Returns
    -------
    Log1p(CP10k) of the other genes from both predictors, and from the panel alone, and the weights of image prediction and
    panel.

    Raises
    ------
    ConfigError
        If the bank is empty.
    """
    bank.check()
    is_other = ~np.isin(np.arange(bank.expression.shape[1]), genes)
    known = bank.expression[:, genes]
    if is_normalised:
        known = normalised_panel(per_10k(known), bank.panel_sum(genes))
    x, y = _centred(known, bank.group), _centred(bank.expression[:, is_other], bank.group)
    alpha = choose_alpha(x, y, bank.group, _PENALTIES, score=_negative_relative_error)
    by_panel, by_image = np.empty_like(y), np.empty_like(y)
    for group in np.unique(bank.group):
        out = bank.group == group
        by_panel[out] = fit_ridge(x[~out], y[~out], alpha=alpha).predict(x[out])
        penalty = choose_penalty(bank.inputs[~out], y[~out], bank.group[~out])
        by_image[out] = fit_ridge(bank.inputs[~out], y[~out], alpha=penalty).predict(bank.inputs[out])
    both = np.stack([_centred(by_image, bank.group).ravel(), by_panel.ravel()], axis=1)
    weights = np.linalg.lstsq(both, y.ravel(), rcond=None)[0]
    pattern = fit_ridge(x, y, alpha=alpha).predict(panel - panel.mean(axis=0))
    level = predicted.mean(axis=0, dtype=np.float64)
    expression = level + weights[0] * (predicted - level) + weights[1] * pattern
    return expression, bank.gene_mean[is_other] + pattern, (float(weights[0]), float(weights[1]))


def _centred(values: Float64[Array, "n g"], group: Int64[Array, " n"]) -> Float64[Array, "n g"]:
    """Subtract the mean of each group."""
    centred: Array = values - group_means(values, group)[np.unique(group, return_inverse=True)[1]]
    return centred


def _negative_relative_error(predicted: Array, truth: Array) -> Array:
    """Negative squared error relative to the variance of each gene; NaN for a constant gene. Amplitude matters here."""
    variance = (truth**2).mean(axis=0)
    error: Array = ((predicted - truth) ** 2).mean(axis=0)
    relative: Array = np.divide(error, variance, out=np.full_like(error, np.nan), where=variance > 0)
    return -relative
