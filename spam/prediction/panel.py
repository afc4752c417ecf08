"""From a panel of measured genes to the other genes, as the reference bank shows that they go together."""

import dataclasses

import numpy as np

from spam.errors import ConfigError
from spam.models.linear import choose_alpha, fit_ridge
from spam.models.rate_path import ALPHAS, choose_penalty, per_10k
from spam.typing import Array, Float, Float64, Int64, Num

__all__ = ["Bank", "PanelPrediction", "normalised_panel", "predict_from_panel"]

_PENALTIES = (1.0, 3.0, *ALPHAS)
_N_RUNS = 5  # a lone section of the bank is cut into as many runs of its spots


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bank:
    """Reference spots of other sections than the target.

    Attributes
    ----------
    inputs
        Image inputs, (m, q).
    expression
        Measured log1p(CP10k), with the mean over the training sections in place of each section's own, (m, n_genes).
    group
        Section of each spot; runs of spots where there is one section only.
    gene_mean
        The mean over the training sections, (n_genes,).
    per_10k
        Mean counts per 10k of each gene over the spots; over all training spots if the checkpoint has no bank.
    """

    inputs: Float[Array, "m q"]
    expression: Float64[Array, "m n_genes"]
    group: Int64[Array, " m"]
    gene_mean: Float64[Array, " n_genes"]
    per_10k: Float64[Array, " n_genes"]

    @classmethod
    def without(cls, tensors: dict[str, Array], own: int) -> "Bank":
        """Take from the tensors of a checkpoint what is not of section number `own`."""
        mean = tensors["path.gene_mean"].astype(np.float64)
        if "bank.section" not in tensors:
            nothing = np.zeros((0, len(mean)))
            none = np.zeros(0, dtype=np.int64)
            level = tensors["cohort.per_10k"]
            return cls(inputs=nothing, expression=nothing, group=none, gene_mean=mean, per_10k=level)
        rows = np.flatnonzero(tensors["bank.section"] != own)
        group = tensors["bank.section"][rows].astype(np.int64)
        if len(np.unique(group)) == 1:
            group = np.arange(len(rows)) * _N_RUNS // len(rows)
        expression = tensors["bank.expression"][rows].astype(np.float64) + mean
        return cls(
            inputs=tensors["bank.inputs"][rows],
            expression=expression,
            group=group,
            gene_mean=mean,
            per_10k=per_10k(expression).mean(axis=0) if len(rows) else np.full(len(mean), np.nan),
        )

    def panel_sum(self, genes: Int64[Array, " p"]) -> float:
        """Sum the counts per 10k of these genes, mean over spots; NaN without spots."""
        return float(self.per_10k[genes].sum())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PanelPrediction:
    """What a measured panel says of the genes that were not measured.

    Attributes
    ----------
    expression
        Log1p(CP10k), from the panel and from what was predicted without it, (n, n_others).
    from_panel
        Log1p(CP10k) from the panel alone, (n, n_others).
    weights
        Weight of the pattern that was predicted without the panel, and of the pattern that the panel gives.
    """

    expression: Float64[Array, "n n_others"]
    from_panel: Float64[Array, "n n_others"]
    weights: tuple[float, float]


def normalised_panel(counts: Num[Array, "n p"], panel_sum: float) -> Float64[Array, "n p"]:
    """Log1p of counts per 10k, where the library size is not known: the panel makes up `panel_sum` in each spot.

    What a spot's panel makes up of its library cannot be known from the panel; its mean over the bank stands in for it.
    The bank is normalised in the same way, so that what is learned there holds here.
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
) -> PanelPrediction:
    """Predict the genes that were not measured from those that were, and from what images said of them.

    Two predictors of a gene's pattern (its expression relative to the section's mean) are added up: what was predicted
    without the panel, and a ridge on the panel, fitted on the bank. The two weights, the same for all genes, are least
    squares on bank spots that neither has seen: a ridge on image inputs stands in for the network, which has seen them
    all. Since the network is better than that ridge, its weight is on the low side. Stacking: Wolpert, Neural Networks
    5:241 (1992), doi 10.1016/S0893-6080(05)80023-1.

    Parameters
    ----------
    panel
        Measured log1p(CP10k) of the panel, spots of one section.
    predicted
        Log1p(CP10k) of the other genes without the panel; it gives their levels, too.
    bank
        Spots of other sections.
    genes
        Panel as columns of the bank.
    is_normalised
        Whether `panel` comes from `normalised_panel`; False where library sizes were known.

    Raises
    ------
    ConfigError
        If the bank holds no spots of other sections.
    """
    if len(np.unique(bank.group)) < 2:
        message = (
            "A panel of genes (--context-h5ad) predicts other genes from measured spots of other sections, and the "
            f"checkpoint holds {len(bank.group)} of these. Train with `spam finetune --with-bank` on other sections, or give "
            "all modelled genes of the measured spots"
        )
        raise ConfigError(message)
    is_other = ~np.isin(np.arange(bank.expression.shape[1]), genes)
    known = bank.expression[:, genes]
    if is_normalised:
        known = normalised_panel(per_10k(known), bank.panel_sum(genes))
    x = _centred(known, bank.group)
    y = _centred(bank.expression[:, is_other], bank.group)
    alpha = choose_alpha(x, y, bank.group, _PENALTIES, score=_negative_error)
    by_panel, by_image = np.empty_like(y), np.empty_like(y)
    for g in np.unique(bank.group):
        rows = bank.group == g
        by_panel[rows] = fit_ridge(x[~rows], y[~rows], alpha=alpha).predict(x[rows])
        penalty = choose_penalty(bank.inputs[~rows], y[~rows], bank.group[~rows])
        by_image[rows] = fit_ridge(bank.inputs[~rows], y[~rows], alpha=penalty).predict(bank.inputs[rows])
    both = np.stack([_centred(by_image, bank.group).ravel(), by_panel.ravel()], axis=1)
    weights = np.linalg.lstsq(both, y.ravel(), rcond=None)[0]
    pattern = fit_ridge(x, y, alpha=alpha).predict(panel - panel.mean(axis=0))
    level = predicted.mean(axis=0, dtype=np.float64)
    return PanelPrediction(
        expression=level + weights[0] * (predicted - level) + weights[1] * pattern,
        from_panel=bank.gene_mean[is_other] + pattern,
        weights=(float(weights[0]), float(weights[1])),
    )


def _centred(values: Float64[Array, "n g"], group: Int64[Array, " n"]) -> Float64[Array, "n g"]:
    """Subtract the mean of each group."""
    centred = values.copy()
    for g in np.unique(group):
        centred[group == g] -= values[group == g].mean(axis=0)
    return centred


def _negative_error(predicted: Array, truth: Array) -> Array:
    """Squared error relative to the variance, with its sign changed: amplitudes matter, as they are added to others.

    NaN for a gene that does not vary.
    """
    variance = (truth**2).mean(axis=0)
    error: Array = ((predicted - truth) ** 2).mean(axis=0)
    relative: Array = np.divide(error, variance, out=np.full_like(error, np.nan), where=variance > 0)
    return -relative
